# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Image → `pixel_values`, and back: the paper's evaluation transform for any number of channels."""

# transformers' back ends list every option, and ours hand on those that they don't look at
# pyright: reportIncompatibleMethodOverride=false

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_utils import (
    ChannelDimension,
    PILImageResampling,
    SizeDict,
    infer_channel_dimension_format,
)
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.utils.import_utils import is_torchvision_available

from ..errors import DECODE_ERRORS
from .configuration_mae import MAEConfig


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


def image_to_array(image: Image.Image, num_channels: int) -> np.ndarray:
    """Makes a PIL image an array, upright and in the wanted channels: (H, W, C) uint8.

    The EXIF orientation is applied. Everything else is what `Image.convert` does (transparency is
    dropped, CMYK and palettes become RGB), but for deeper than 8-bit grey, which PIL clips: whole
    numbers are taken as 16 bits and scaled, floats as 0 to 1 if they lie there and as 0 to 255
    otherwise.

    Raises:
        ValueError: PIL has no mode with so many channels; give arrays instead.

    Example:

    >>> from PIL import Image
    >>> image_to_array(Image.new("CMYK", (40, 30)), num_channels=3).shape
    (30, 40, 3)
    """
    if num_channels not in _PIL_MODES:
        raise ValueError(
            f"a picture can't become {num_channels} channels; give (height, width, {num_channels}) "
            "arrays"
        )
    image.load()
    turn = _PIL_TRANSPOSES.get(exif_orientation(image))
    image = image if turn is None else image.transpose(turn)
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_deep_to_8_bits(np.asarray(image)))
    array = np.array(image.convert(_PIL_MODES[num_channels]))
    return array.reshape(*array.shape[:2], num_channels)


def exif_orientation(image: Image.Image) -> int:
    """Reads an image's orientation: 1 to 8; 1, which is upright, where damaged data don't say.

    PIL's own `exif_transpose` fails on more of them.
    """
    with contextlib.suppress(*DECODE_ERRORS, AttributeError):
        return image.getexif().get(0x0112, 1)
    return 1


def _deep_to_8_bits(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError("the image holds values that are not finite")
    if np.issubdtype(values.dtype, np.integer):
        values = values * (255 / 65535)
    elif values.min() >= 0 and values.max() <= 1:
        values = values * 255
    return values.clip(0, 255).round().astype(np.uint8)


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
    """What both back ends share: the defaults, and how a picture becomes an array."""

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

    def process_image(
        self,
        image: Pixels,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs: Any,
    ) -> Pixels:
        """Makes a picture, PIL's or an array, an array (C, H, W) of `len(image_mean)` channels."""
        num_channels = len(self.image_mean)
        if isinstance(image, Image.Image):
            image, input_data_format = image_to_array(image, num_channels), ChannelDimension.LAST
        elif image.ndim == 2:
            image, input_data_format = image[None], ChannelDimension.FIRST
        elif input_data_format is None:
            input_data_format = infer_channel_dimension_format(
                image, num_channels=(1, 3, 4, num_channels)
            )
        kwargs["do_convert_rgb"] = num_channels == 3 and image.shape[_axis(input_data_format)] != 3
        return super().process_image(image, input_data_format=input_data_format, **kwargs)

    def resize(self, image: Pixels, size: Size, **kwargs: Any) -> Pixels:
        """Resizes (…, H, W) by the shortest edge.

        For a rectangular crop it resizes until the image covers that by as much. Of an image that
        is far longer than the crop only the middle is resized, as the rest would take gigabytes.
        """
        if not self.do_center_crop or not size.shortest_edge or size.longest_edge:
            return super().resize(image, size, **kwargs)
        height, width = image.shape[-2:]
        crop: Size = SizeDict(**dict(self.crop_size))
        margin = size.shortest_edge / max(crop.height, crop.width)
        scale = margin * max(crop.height / height, crop.width / width)
        rows = min(height, 1 + int(16 * crop.height / scale))
        columns = min(width, 1 + int(16 * crop.width / scale))
        top, left = (height - rows) // 2, (width - columns) // 2
        image = image[..., top : top + rows, left : left + columns]
        if crop.height != crop.width:
            size = SizeDict(
                height=max(1, round(rows * scale)), width=max(1, round(columns * scale))
            )
        return super().resize(image, size, **kwargs)

    def center_crop(self, image: Pixels, size: Size, **kwargs: Any) -> Pixels:
        """Crops (…, H, W) about the center, on torchvision's pixel.

        That is round(), where transformers' back ends floor.
        """
        height, width = image.shape[-2:]
        if height < size.height or width < size.width:
            return super().center_crop(image, size, **kwargs)
        top, left = round((height - size.height) / 2), round((width - size.width) / 2)
        return image[..., top : top + size.height, left : left + size.width]

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


def _axis(data_format: str | ChannelDimension) -> int:
    return -1 if data_format == ChannelDimension.LAST else 0


class MAEImageProcessorPil(_MAEDefaults, PilBackend):
    """The image processor on PIL and NumPy; `MAEImageProcessor` documents it."""

    def resize(self, image: Pixels, size: Size, **kwargs: Any) -> Pixels:
        if len(image) == 1 or len(image) in _PIL_MODES:
            return super().resize(image, size, **kwargs)
        # PIL has no such mode: channel by channel
        return np.concatenate([self.resize(channel[None], size, **kwargs) for channel in image])


if is_torchvision_available():

    class MAEImageProcessor(_MAEDefaults, TorchvisionBackend):
        r"""Image processor: the MAE paper's evaluation transform.

        Shortest edge to 256 (bicubic, antialiased), center crop of 224, ImageNet's mean and
        standard deviation: the same as torchvision's Resize, CenterCrop, ToTensor and Normalize.
        Takes PIL images of any mode, and arrays or tensors of `len(image_mean)` channels.

        Example:

        >>> from PIL import Image
        >>> from hf_mae import MAEImageProcessor
        >>> MAEImageProcessor()(Image.new("L", (640, 480)), return_tensors="pt").pixel_values.shape
        torch.Size([1, 3, 224, 224])
        """

else:
    MAEImageProcessor = MAEImageProcessorPil  # pyright: ignore[reportAssignmentType] # by machine

__all__ = ["MAEImageProcessor", "MAEImageProcessorPil"]
