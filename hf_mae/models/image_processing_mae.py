# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Image → `pixel_values`, and back: the paper's evaluation transform for any number of channels."""

# transformers' back ends list every option, and ours hand on those that they don't look at
# pyright: reportIncompatibleMethodOverride=false

import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

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
)
from transformers.processing_utils import ImagesKwargs
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.utils.import_utils import is_torchvision_available

from .configuration_mae import MAEConfig
from .pictures import Values, find_channels, open_picture, to_8_bits, to_pixels


_Backend = TorchvisionBackend if TYPE_CHECKING else object  # what _MAEDefaults is mixed into
Processor = TypeVar("Processor", bound="_MAEDefaults")
Pixels = Any  # an array in PIL's back end, a tensor in torchvision's
Size = Any  # transformers' SizeDict; which of its fields are None depends on the processor


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
    """Makes `pixel_values` of images, on any device.

    Args:
        images: (B, C, H, W), uint8, or float32 on the same scale from 0 to 255.
        image_mean, image_std: One number a channel, of pixels from 0 to 1.

    Returns:
        (B, C, H, W), float32, of mean 0 and deviation 1 a channel as far as the pixels are so.
    """
    mean = _channel_values(tuple(image_mean), images.device)
    std = _channel_values(tuple(image_std), images.device)
    return (images - mean) / std


@functools.lru_cache
def _channel_values(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers from 0 to 1 as pixels (C, 1, 1); the host waits for a GPU once, not every batch."""
    with torch.inference_mode(False):  # for calls that aren't
        return torch.tensor(values, device=device).view(-1, 1, 1) * 255


class MAEImageProcessorKwargs(ImagesKwargs, total=False):
    """What a call of the image processor may be given, beside what transformers' own take.

    Attributes:
        value_range: The values of black and white; None for what the file says, or its type.
        bands: Numbers of the bands that are taken, from 1, in this order; None for all.
    """

    value_range: Sequence[int | float] | None  # checked: an int is no float here
    bands: Sequence[int] | None


class _MAEDefaults(_Backend):
    """What both back ends share: the defaults, and how whatever is given becomes an array."""

    valid_kwargs = MAEImageProcessorKwargs
    value_range: Sequence[float] | None = None
    bands: Sequence[int] | None = None
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
        value_range = options.get("value_range")
        if value_range is not None and not (
            len(value_range) == 2 and value_range[0] < value_range[1]
        ):
            raise ValueError(
                f"value_range is {value_range}; it must be the values of black and white, the "
                "lower first"
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
        """Makes whatever is given an array (C, H, W) of pixels from 0 to 255.

        It has `len(image_mean)` channels; with `do_convert_rgb` 3, and those that it has if that is
        false. Where nothing is rescaled, those of deep images are fractions from 0 to 1.
        """
        means = options.get("image_mean")
        num_channels = len(means) if isinstance(means, Sequence) else 3
        wanted = {None: num_channels, True: 3, False: None}[do_convert_rgb]
        values = Values(options.pop("bands", None), options.pop("value_range", None))
        if isinstance(image, (str, bytes, os.PathLike)):
            image = open_picture(image)
        of_8_bits = is_fraction = False
        if isinstance(image, Tensor):
            of_8_bits = image.dtype == torch.bfloat16
            options["device"] = options.get("device") or image.device
            image = image.detach().cpu()
            image = image.float().numpy() if of_8_bits else image.numpy()
        if isinstance(image, np.ndarray) and image.dtype.kind == "f" and image.size:
            is_fraction = image.max() <= 1
        pixels = to_pixels(image, wanted, values, input_data_format)
        if of_8_bits:
            pixels = to_8_bits(pixels)
        is_normalised = options.get("do_normalize") and isinstance(means, Sequence)
        if is_normalised and pixels.shape[2] != num_channels:
            raise ValueError(
                f"the image has {pixels.shape[2]} channels and image_mean {num_channels}; give "
                "image_mean and image_std one value a channel"
            )
        is_fraction = is_fraction or pixels.dtype == np.float32
        if is_fraction and options.get("do_rescale") is False:
            pixels = pixels / np.float32(255)
        return super().process_image(
            pixels, do_convert_rgb=False, input_data_format=ChannelDimension.LAST, **options
        )

    def _preprocess(self, images: list[Pixels], **options: Any) -> BatchFeature:
        if options["do_resize"]:
            images = [self._resize_clipped(image, options) for image in images]
            options["do_resize"] = False
        return super()._preprocess(images, **options)

    def _resize_clipped(self, image: Pixels, options: dict[str, Any]) -> Pixels:
        """Resizes; fractions of 255 as the whole numbers that they are, all others up to 1."""
        size, resample = options["size"], options["resample"]
        is_deep = not str(image.dtype).endswith("uint8")
        is_fraction = is_deep and not options["do_rescale"] and image.max() <= 1
        if is_fraction:
            levels = (image * 255).round()
            if abs(image * 255 - levels).max() < 0.001:
                is_tensor = isinstance(image, Tensor)
                image = levels.to(torch.uint8) if is_tensor else levels.astype(np.uint8)
                return self._resize_clipped(image, options) / np.float32(255)
        if options["do_center_crop"]:
            resized = self.resize_for_crop(image, size, options["crop_size"], resample)
        else:
            resized = self.resize(image, size, resample=resample)
        return resized.clip(0, 1) if is_fraction else resized

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
        if image.dtype == np.uint8 and len(image) in (1, 3):
            return super().resize(image, size, **kwargs)
        # channel by channel: PIL has no such mode, or takes the fourth for transparency
        if image.dtype == np.uint8:
            return np.concatenate([self.resize(channel[None], size, **kwargs) for channel in image])
        (height, width) = super().resize(image[:1].astype(np.uint8), size, **kwargs).shape[1:]
        resample = kwargs["resample"]
        resized = []
        for channel in image:
            picture = Image.fromarray(channel).resize((width, height), resample)
            resized.append(np.asarray(picture))
        return np.stack(resized).clip(0, 255)

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

        Takes paths, addresses, bytes, PIL images of any mode, arrays and tensors, and lists of
        them, and makes `len(image_mean)` channels of them. `value_range` has the values of black
        and white, for images of every depth; without it those are what a file says, or 0 and 1 for
        fractions, 65535 for 16 bits, and 255 for other whole numbers. What is deeper than 8 bits
        stays so. `bands` chooses and orders bands, numbered from 1. What a call is given acts as if
        the constructor had been.

        Example:

        >>> from PIL import Image
        >>> from hf_mae import MAEImageProcessor
        >>> MAEImageProcessor()(Image.new("L", (640, 480)), return_tensors="pt").pixel_values.shape
        torch.Size([1, 3, 224, 224])
        """

        def process_image(self, image: Any, **options: Any) -> Pixels:
            means, data_format = options.get("image_mean"), options.get("input_data_format")
            is_plain = options.get("bands") is None and options.get("value_range") is None
            is_pixels = isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3
            if is_plain and is_pixels:
                num_channels = len(means) if isinstance(means, Sequence) else 3
                data_format = data_format or find_channels(image, num_channels)
                axis = 0 if data_format == ChannelDimension.FIRST else -1
                if image.shape[axis] == num_channels and not options.get("do_convert_rgb"):
                    # as it is, on its device
                    options |= {"input_data_format": data_format, "do_convert_rgb": False}
                    return TorchvisionBackend.process_image(self, image, **options)
            return super().process_image(image, **options)

        def resize(self, image: Pixels, size: Size, **kwargs: Any) -> Pixels:
            resized = super().resize(image, size, **kwargs)
            return resized.clip(0, 255) if resized.is_floating_point() else resized

else:
    MAEImageProcessor = MAEImageProcessorPil  # pyright: ignore[reportAssignmentType] # by machine

__all__ = ["MAEImageProcessor", "MAEImageProcessorPil"]
