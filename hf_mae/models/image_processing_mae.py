# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Image → `pixel_values`, and back: the paper's evaluation transform for any number of channels."""

# transformers' back ends list every option, and ours hand on those that they don't look at
# pyright: reportIncompatibleMethodOverride=false

import base64
import binascii
import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_utils import (
    ChannelDimension,
    PILImageResampling,
    SizeDict,
    infer_channel_dimension_format,
)
from transformers.utils import logging
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.utils.import_utils import is_torchvision_available

from ..errors import DECODE_ERRORS
from .configuration_mae import MAEConfig


logger = logging.get_logger(__name__)
_Backend = TorchvisionBackend if TYPE_CHECKING else object  # what _MAEDefaults is mixed into
Processor = TypeVar("Processor", bound="_MAEDefaults")
Pixels = Any  # an array in PIL's back end, a tensor in torchvision's
Size = Any  # transformers' SizeDict; which of its fields are None depends on the processor

_PIL_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PIL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


# pictures ----------------------------------------------------------------------------------------


def open_picture(source: str | bytes | os.PathLike) -> Image.Image:
    """Opens a picture.

    Args:
        source: Path, http(s) address, base64 text (or such a `data:` address), or a file's bytes.

    Raises:
        ValueError: it is none of these, or no picture that PIL reads.

    Example:

    >>> open_picture("samples/bird.jpg").size  # doctest: +SKIP
    (640, 427)
    """
    if isinstance(source, bytes):
        name, data = f"the file of {len(source)} bytes", source
    else:
        name = os.fspath(source)
        data = _read(name)
    try:
        return Image.open(io.BytesIO(data))
    except DECODE_ERRORS as error:
        raise ValueError(f"{_shortened(name)} is no picture that PIL reads: {error}") from error


def _read(name: str) -> bytes:
    if name.startswith(("http://", "https://")):
        request = Request(name, headers={"User-Agent": "hf_mae"})  # many refuse Python's own name
        try:
            with urlopen(request, timeout=60) as answer:
                return answer.read()
        except HTTPError as error:
            raise ValueError(f"{name} answers {error.code}, {error.reason}") from error
    if len(name) < 4096 and Path(name).is_file():
        return Path(name).read_bytes()
    try:
        return base64.b64decode(
            name.removeprefix("data:image/").split("base64,")[-1], validate=True
        )
    except (binascii.Error, ValueError) as error:
        raise ValueError(
            f"{_shortened(name)} is no file, no http address and no picture in base64"
        ) from error


def _shortened(name: str) -> str:
    return name if len(name) <= 200 else f"{name[:40]}…"


def image_to_array(image: Image.Image, num_channels: int | None = None) -> np.ndarray:
    """Makes a PIL image an array, upright and in the wanted channels: (H, W, C) uint8.

    The EXIF orientation is applied. Everything else is what `Image.convert` does (transparency is
    dropped, CMYK and palettes become RGB), but for deeper than 8-bit grey, which PIL clips: it is
    scaled as `array_to_pixels` says.

    Args:
        image: In any mode.
        num_channels: 1, 3 or 4; by default as many as it has.

    Raises:
        ValueError: PIL has no mode with so many channels; give arrays instead.

    Example:

    >>> from PIL import Image
    >>> image_to_array(Image.new("CMYK", (40, 30)), num_channels=3).shape
    (30, 40, 3)
    """
    if num_channels is None:
        num_channels = _own_channels(image)
    if num_channels not in _PIL_MODES:
        raise ValueError(
            f"a picture can't become {num_channels} channels; give (height, width, {num_channels}) "
            "arrays"
        )
    image.load()
    turn = _PIL_TRANSPOSES.get(exif_orientation(image))
    image = image if turn is None else image.transpose(turn)
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_8_bits(np.asarray(image)))
    array = np.array(image.convert(_PIL_MODES[num_channels]))
    return array.reshape(*array.shape[:2], num_channels)


def array_to_pixels(
    array: np.ndarray, num_channels: int | None = None, data_format: str | None = None
) -> np.ndarray:
    """Makes an array of whatever type what the picture of it would become: (H, W, C) uint8.

    White is 1 where values are fractions, 255 where they are larger or whole numbers, and 65535 in
    unsigned 16 bits and where whole numbers exceed 255. Fractions that are a little outside, as
    reflectances may be, are clipped.

    Args:
        array: (H, W), (H, W, C) or (C, H, W).
        num_channels: What 1, 3 and 4 channels become, as `Image.convert` does it; by default they
            are left as they are.
        data_format: "channels_first" or "channels_last"; by default found.

    Raises:
        ValueError: it can't be an image, or one of other channels or values.

    Example:

    >>> array_to_pixels(np.full((30, 40, 3), 0.5), num_channels=1)[0, 0]
    array([128], dtype=uint8)
    """
    if array.ndim == 2:
        array, data_format = array[..., None], ChannelDimension.LAST
    if (data_format or _find_channels(array, num_channels)) == ChannelDimension.FIRST:
        array = np.moveaxis(array, 0, -1)
    pixels = _to_8_bits(array)
    own_channels = pixels.shape[2]
    if num_channels in (None, own_channels):
        return pixels
    if own_channels not in _PIL_MODES:
        raise ValueError(
            f"an image of {own_channels} channels can't become one of {num_channels}; choose "
            f"{num_channels} of them"
        )
    picture = Image.fromarray(pixels.squeeze(2) if own_channels == 1 else pixels)
    return image_to_array(picture, num_channels)


def exif_orientation(image: Image.Image) -> int:
    """Reads an image's orientation: 1 to 8; 1, which is upright, where damaged data don't say.

    PIL's own `exif_transpose` fails on more of them.
    """
    with contextlib.suppress(*DECODE_ERRORS, AttributeError):
        return image.getexif().get(0x0112, 1)
    return 1


def _own_channels(image: Image.Image) -> int:
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA"):
        return 4
    return 1 if len(image.getbands()) == 1 and image.mode != "P" else 3


def _find_channels(array: Any, num_channels: int | None) -> ChannelDimension:
    """Finds where an array or tensor (…3 sides) has its channels; the wanted number goes first."""
    if array.ndim == 3:
        own: tuple[Any, ...] = (num_channels,)
        for numbers in (own, tuple(_PIL_MODES)):
            if array.shape[0] in numbers or array.shape[2] in numbers:
                return infer_channel_dimension_format(array, num_channels=numbers)
    wanted = "channels" if num_channels is None else num_channels
    raise ValueError(
        f"an array of shape {tuple(array.shape)} is no image; give (height, width, {wanted}) or "
        f"({wanted}, height, width), and for channels other than 1, 3 and 4 input_data_format"
    )


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    white = _white(values)
    if values.dtype == np.uint8:
        return values
    return (values.astype(np.float64) * (255 / white)).clip(0, 255).round().astype(np.uint8)


def _white(values: np.ndarray) -> int:
    """Finds which value stands for white; raises ValueError if the values can't be an image's."""
    if values.size == 0:
        raise ValueError(f"an array of shape {values.shape} is no image; it has no pixels")
    if values.dtype == np.uint8:
        return 255
    if values.dtype == bool:
        return 1
    if not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
        raise ValueError(f"an array of {values.dtype} is no image; give numbers")
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("the image holds values that are not finite")
    if np.issubdtype(values.dtype, np.integer):
        is_deep = values.dtype.kind == "u" and values.dtype.itemsize == 2
        white = 65535 if is_deep or high > 255 else 255
        fits = low >= 0 and high <= white
        if fits and white == 65535 and high < 4096:
            logger.warning_once(
                "images of 16 bits use less than a sixteenth of their value range and come out "
                "dark, for 65535 is white; scale values of 12 bits by 16"
            )
    else:
        # the darkest reflectances are a little below 0, the brightest above 1
        white = 1 if high <= 2 else 255
        fits = low >= -0.1 * white and high <= max(2, 1.1 * white)
        if fits and not (low >= 0 and high <= white):
            logger.warning_once("images with fractions below black or above white are clipped")
    if not fits:
        raise ValueError(
            f"the image holds values from {low:g} to {high:g}; give fractions from 0 to 1, or "
            "numbers from 0 to 255 or, of 16 bits, to 65535"
        )
    return white


# normalisation -----------------------------------------------------------------------------------


def channel_statistics(num_channels: int) -> tuple[list[float], list[float]]:
    """Gives mean and standard deviation a channel, of pixels from 0 to 1.

    They are ImageNet's; their average where channels aren't red, green and blue.
    """
    if num_channels == 3:
        return list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)
    mean, std = float(np.mean(IMAGENET_DEFAULT_MEAN)), float(np.mean(IMAGENET_DEFAULT_STD))
    return [mean] * num_channels, [std] * num_channels


def normalize_images(
    images: Tensor, image_mean: Sequence[float], image_std: Sequence[float]
) -> Tensor:
    """Makes `pixel_values` of uint8 images, on any device.

    Args:
        images: (B, C, H, W), uint8.
        image_mean, image_std: One number a channel, of pixels from 0 to 1.

    Returns:
        (B, C, H, W), float32, of mean 0 and deviation 1 a channel as far as the pixels are so.
    """
    mean = torch.tensor(image_mean, device=images.device).view(-1, 1, 1) * 255
    std = torch.tensor(image_std, device=images.device).view(-1, 1, 1) * 255
    return (images - mean) / std


# the processor -----------------------------------------------------------------------------------


class _MAEDefaults(_Backend):
    """What both back ends share: the defaults, and how whatever is given becomes an array."""

    resample = PILImageResampling.BICUBIC
    size = {"shortest_edge": 256}
    crop_size = {"height": 224, "width": 224}
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD

    @classmethod
    def from_model_config(cls: type[Processor], config: MAEConfig) -> Processor:
        """Makes the processor for a model.

        It has the model's channels and its image size as crop, and 256/224 of that as the shortest
        edge.
        """
        height, width = config.image_hw
        mean, std = channel_statistics(config.num_channels)
        return cls(
            size={"shortest_edge": round(max(height, width) * 256 / 224)},
            crop_size={"height": height, "width": width},
            image_mean=mean,
            image_std=std,
        )

    def fitted_to(self: Processor, config: MAEConfig) -> Processor:
        """Copies the processor for a model's image size.

        The crop is that size, and what is resized to before follows in the same ratio.

        Raises:
            ValueError: it makes other channels than the model takes, or images of any size.
        """
        means = _as_list(self.image_mean, config.num_channels)
        deviations = _as_list(self.image_std, config.num_channels)
        for name, values in (("image_mean", means), ("image_std", deviations)):
            if len(values) != config.num_channels:
                raise ValueError(
                    f"{name} of the image processor has {len(values)} channels, and the model "
                    f"takes {config.num_channels}; mend preprocessor_config.json"
                )
        height, width = config.image_hw
        size = _given_sides(self.size)
        made = _given_sides(self.crop_size if self.do_center_crop else self.size)
        if not (made.get("height") and made.get("width")):
            raise ValueError(
                "the image processor makes images of any size, and the model takes one; set "
                "do_center_crop and crop_size in preprocessor_config.json"
            )
        ratios = {"height": height / made["height"], "width": width / made["width"]}
        for side, pixels in size.items():
            ratio = max(height, width) / max(made["height"], made["width"])
            size[side] = round(pixels * ratios.get(side, ratio))
        options = {**self.to_dict(), "size": size, "image_mean": means, "image_std": deviations}
        if self.do_center_crop:
            options["crop_size"] = {"height": height, "width": width}
        return type(self)(**options)

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        """Lists the images of whatever nesting, unopened."""
        if isinstance(images, (list, tuple)):
            flat = []
            for item in images:
                flat.extend(self._prepare_images_structure(item, expected_ndims))
            return flat
        if isinstance(images, (np.ndarray, Tensor)) and images.ndim > expected_ndims:
            return self._prepare_images_structure(list(images), expected_ndims)
        if not isinstance(images, (str, bytes, os.PathLike, Image.Image, np.ndarray, Tensor)):
            raise ValueError(
                f"a {type(images).__name__} is no image; give a path, an address, bytes, a PIL "
                "image, an array or a tensor, or a list of such"
            )
        return [images]

    def _validate_preprocess_kwargs(self, **options: Any) -> None:
        super()._validate_preprocess_kwargs(**options)
        mean, std = options["image_mean"], options["image_std"]
        lengths = {len(values) for values in (mean, std) if isinstance(values, Sequence)}
        if options["do_normalize"] and len(lengths) > 1:
            raise ValueError(
                f"image_mean has {len(mean)} values and image_std {len(std)}; give both, one a "
                "channel"
            )
        crop: Size = options["crop_size"]
        if options["do_center_crop"] and not (crop.height and crop.width):
            raise ValueError(f"crop_size is {dict(crop)}; it must have height and width")

    def process_image(
        self,
        image: Any,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        **options: Any,
    ) -> Pixels:
        """Makes whatever is given an array (C, H, W), with the pixels of the PIL picture.

        It has `len(image_mean)` channels; with `do_convert_rgb` 3, and those that it has if that is
        false. What comes in as fractions is uint8 too, but where nothing is rescaled.
        """
        means = options.get("image_mean")
        num_channels = len(means) if isinstance(means, Sequence) else 3
        wanted = {None: num_channels, True: 3, False: None}[do_convert_rgb]
        is_fraction = False
        if isinstance(image, (str, bytes, os.PathLike)):
            image = open_picture(image)
        if isinstance(image, Image.Image):
            pixels = image_to_array(image, wanted)
        else:
            if isinstance(image, Tensor):
                options["device"] = options.get("device") or image.device
                image = image.detach().cpu()
                image = image.float().numpy() if image.is_floating_point() else image.numpy()
            is_fraction = np.issubdtype(image.dtype, np.floating) and _white(image) == 1
            pixels = array_to_pixels(image, wanted, input_data_format)
        is_normalised = options.get("do_normalize") and isinstance(means, Sequence)
        if is_normalised and pixels.shape[2] != num_channels:
            raise ValueError(
                f"the image has {pixels.shape[2]} channels and image_mean {num_channels}; give "
                "image_mean and image_std one value a channel"
            )
        if is_fraction and options.get("do_rescale") is False:
            pixels = pixels / np.float32(255)
        return super().process_image(
            pixels, do_convert_rgb=False, input_data_format=ChannelDimension.LAST, **options
        )

    def _preprocess(self, images: list[Pixels], **options: Any) -> BatchFeature:
        if options["do_resize"] and options["do_center_crop"]:
            names = ("size", "crop_size", "resample")
            sizes = {name: options[name] for name in names}
            images = [self.resize_for_crop(image, **sizes) for image in images]
            options["do_resize"] = False
        return super()._preprocess(images, **options)

    def resize_for_crop(self, image: Pixels, size: Size, crop_size: Size, resample: Any) -> Pixels:
        """Resizes (…, H, W), of which a center crop is to be taken, by the shortest edge.

        For a rectangular crop it resizes until the image covers that by as much. Of an image that
        is far longer than the crop only the middle is resized, as the rest would take gigabytes.

        Args:
            image: Array or tensor, as the back end has it.
            size, crop_size: transformers' `SizeDict`s.
            resample: PIL's number of the filter.
        """
        if not size.shortest_edge or size.longest_edge:
            return self.resize(image, size, resample=resample)
        height, width = image.shape[-2:]
        margin = size.shortest_edge / max(crop_size.height, crop_size.width)
        scale = margin * max(crop_size.height / height, crop_size.width / width)
        rows = min(height, 1 + int(16 * crop_size.height / scale))
        columns = min(width, 1 + int(16 * crop_size.width / scale))
        top, left = (height - rows) // 2, (width - columns) // 2
        image = image[..., top : top + rows, left : left + columns]
        if crop_size.height != crop_size.width:
            size = SizeDict(
                height=max(1, round(rows * scale)), width=max(1, round(columns * scale))
            )
        return self.resize(image, size, resample=resample)

    def post_process_reconstruction(self, images: Tensor) -> np.ndarray:
        """Undoes the normalisation.

        Args:
            images: (B, C, H, W), as in `MAEReconstruction`.

        Returns:
            (B, H, W, C) uint8 array; values outside the picture's range are clipped.
        """
        mean = torch.tensor(self.image_mean, dtype=torch.float32).view(-1, 1, 1)
        std = torch.tensor(self.image_std, dtype=torch.float32).view(-1, 1, 1)
        pixels = (images.detach().float().cpu() * std + mean) * 255
        return pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _given_sides(size: Any) -> dict[str, int]:
    return {side: pixels for side, pixels in dict(size or {}).items() if pixels}


def _as_list(statistic: float | Sequence[float], num_channels: int) -> list[float]:
    return list(statistic) if isinstance(statistic, Sequence) else [statistic] * num_channels


class MAEImageProcessorPil(_MAEDefaults, PilBackend):
    """The image processor on PIL and NumPy; `MAEImageProcessor` documents it."""

    def resize(self, image: Pixels, size: Size, **kwargs: Any) -> Pixels:
        if len(image) in (1, 3):
            return super().resize(image, size, **kwargs)
        # channel by channel: PIL has no such mode, or takes the fourth for transparency
        return np.concatenate([self.resize(channel[None], size, **kwargs) for channel in image])

    def center_crop(self, image: Pixels, size: Size, **kwargs: Any) -> Pixels:
        # transformers' own pads on another side than torchvision's where the margin is odd
        sides = zip((size.height, size.width), image.shape[-2:])
        missing = [max(0, wanted - side) for wanted, side in sides]
        margins = [(pixels // 2, pixels - pixels // 2) for pixels in missing]
        padded: Pixels = np.pad(image, [(0, 0), *margins])
        return super().center_crop(padded, size, **kwargs)


if is_torchvision_available():

    class MAEImageProcessor(_MAEDefaults, TorchvisionBackend):
        r"""Image processor: the MAE paper's evaluation transform.

        Shortest edge to 256 (bicubic, antialiased), center crop of 224, ImageNet's mean and
        standard deviation: what torchvision's Resize, CenterCrop, ToTensor and Normalize do, with
        the crop where transformers' own processors have it (an odd margin is rounded down).

        Takes paths, addresses, bytes, PIL images of any mode, arrays and tensors (uint8, 16 bits,
        or fractions from 0 to 1), and lists of them, and makes `len(image_mean)` channels of them.
        What a call is given acts as if the constructor had been.

        Example:

        >>> from PIL import Image
        >>> from hf_mae import MAEImageProcessor
        >>> MAEImageProcessor()(Image.new("L", (640, 480)), return_tensors="pt").pixel_values.shape
        torch.Size([1, 3, 224, 224])
        """

        def process_image(self, image: Any, **options: Any) -> Pixels:
            means, data_format = options.get("image_mean"), options.get("input_data_format")
            if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3:
                num_channels = len(means) if isinstance(means, Sequence) else 3
                data_format = data_format or _find_channels(image, num_channels)
                axis = 0 if data_format == ChannelDimension.FIRST else -1
                if image.shape[axis] == num_channels and not options.get("do_convert_rgb"):
                    # as it is, on its device
                    options |= {"input_data_format": data_format, "do_convert_rgb": False}
                    return TorchvisionBackend.process_image(self, image, **options)
            return super().process_image(image, **options)

        def resize(self, image: Pixels, size: Size, **kwargs: Any) -> Pixels:
            if not image.is_floating_point():
                return super().resize(image, size, **kwargs)
            # fractions: rounded and clipped on the way as whole numbers are, and as PIL does it
            whole = (image * 255).round().to(torch.uint8)
            return super().resize(whole, size, **kwargs) / 255

else:
    MAEImageProcessor = MAEImageProcessorPil  # pyright: ignore[reportAssignmentType] # by machine

__all__ = ["MAEImageProcessor", "MAEImageProcessorPil"]
