# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Image → `pixel_values`, and back: the paper's evaluation transform for any number of channels."""

# transformers' back ends list every option, and ours hand on those that they don't look at
# pyright: reportIncompatibleMethodOverride=false

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
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.utils.import_utils import is_torchvision_available

from .configuration_mae import MAEConfig
from .pictures import array_to_pixels, find_channels, image_to_array, open_picture, white_of


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
            is_fraction = np.issubdtype(image.dtype, np.floating) and white_of(image) == 1
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
                data_format = data_format or find_channels(image, num_channels)
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
