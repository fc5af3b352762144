# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Whatever may hold a picture (file, address, PIL's image, array) → its pixels (H, W, C), uint8."""

import base64
import binascii
import contextlib
import io
import os
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
from PIL import Image
from transformers.image_utils import ChannelDimension, infer_channel_dimension_format
from transformers.utils import logging

from ..errors import DECODE_ERRORS


logger = logging.get_logger(__name__)
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
    if (data_format or find_channels(array, num_channels)) == ChannelDimension.FIRST:
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


def find_channels(array: Any, num_channels: int | None) -> ChannelDimension:
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
    white = white_of(values)
    if values.dtype == np.uint8:
        return values
    return (values.astype(np.float64) * (255 / white)).clip(0, 255).round().astype(np.uint8)


def white_of(values: np.ndarray) -> int:
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
