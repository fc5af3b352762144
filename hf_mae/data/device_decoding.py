# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Crops that workers draw and a GPU decodes, for machines whose cores are fewer than it needs.

What is drawn is the same as ever, and so are the pixels of all files that a worker decodes itself.
Those of a GPU differ from PIL's by a few of 255.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.image_utils import SizeDict

from ..errors import BadImageError, ImageDecodeError
from ..models.image_processing_mae import MAEImageProcessor
from .decoding import Jpeg
from .nvimagecodec import Box, device_decoder


_AT_ONCE = 32  # files, of which each may have 27 MB when it is decoded


@dataclass(frozen=True)
class UndecodedCrop:
    """A crop of a file that isn't decoded yet.

    Attributes:
        image: The file.
        box: The crop, upright, which `can_be_left`.
        size: (h, w) that it is resized to.
        flip: Whether left and right change places then.
    """

    image: Jpeg
    box: Box
    size: tuple[int, int]
    flip: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        return (self.image.shape[2], *self.size)


def decode_crops(
    crops: Sequence[Tensor | UndecodedCrop], processor: MAEImageProcessor, device: torch.device
) -> Tensor:
    """Decodes, cuts out, resizes and flips, all on a device.

    Args:
        crops: Of a batch; tensors (C, h, w) are finished.
        processor: The model's image processor, which resizes.
        device: Where to.

    Returns:
        (B, C, h, w); uint8, or float32 if one of the finished ones is.

    Raises:
        BadImageError: a file is damaged.
    """
    undecoded = [crop for crop in crops if isinstance(crop, UndecodedCrop)]
    decoded = (
        pixels
        for first in range(0, len(undecoded), _AT_ONCE)
        for pixels in _decode(undecoded[first : first + _AT_ONCE], device)
    )
    finished = []
    for crop in crops:
        if isinstance(crop, UndecodedCrop):
            size = SizeDict(height=crop.size[0], width=crop.size[1])
            pixels = next(decoded).permute(2, 0, 1)  # (C, H, W)
            pixels = processor.resize(pixels, size, resample=processor.resample)
            finished.append(pixels.flip(-1) if crop.flip else pixels)
        else:
            finished.append(crop.to(device))
    return torch.stack(finished)  # of bytes and floats it makes floats


def _decode(crops: Sequence[UndecodedCrop], device: torch.device) -> Iterator[Tensor]:
    """The pixels (h, w, C) of each, upright; what the device can't decode PIL does."""
    files = [(crop.image.data, crop.image.stored_box(crop.box)) for crop in crops]
    found = device_decoder(device)(files, crops[0].image.is_grey)
    for crop, (_, stored), pixels in zip(crops, files, found):
        if pixels is None or pixels.shape[:2] != stored[2:]:
            yield _decode_by_host(crop).to(device)
            continue
        axes, transpose = crop.image.turns
        pixels = pixels.flip(axes)
        yield pixels.transpose(0, 1) if transpose else pixels


def _decode_by_host(crop: UndecodedCrop) -> Tensor:
    try:
        return torch.from_numpy(crop.image.crop(crop.box))
    except ImageDecodeError as error:
        raise BadImageError(
            f"an image can't be decoded: {error}; go on by --decode_device cpu --allow_changed "
            "decode_device, which names it and takes another in its place"
        ) from error
