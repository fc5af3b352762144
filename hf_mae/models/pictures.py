# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Whatever may hold a picture (file, address, PIL's image, array) → its pixels (H, W, C).

Its values, which may be of any depth, become pixels from 0 to 255 by one value range.
"""

import base64
import binascii
import os
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import numpy as np
from PIL import Image
from transformers.image_utils import ChannelDimension, infer_channel_dimension_format
from transformers.utils import logging

from ..errors import DECODE_ERRORS, own_words
from .orientation import upright
from .picture_files import (
    Range,
    Raster,
    check_whole,
    has_deep_band,
    raster_of_band,
    read_picture,
)


logger = logging.get_logger(__name__)
Picture = Image.Image | Raster | np.ndarray  # what a picture may be; an array may lie either way
HTTP = ("http://", "https://")
_PIL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue, as PIL has it


def open_picture(source: str | bytes | os.PathLike) -> Picture:
    """Opens a picture, with all that the file holds.

    Args:
        source: Path, http(s) address, base64 text (or such a `data:` address), or a file's bytes.

    Raises:
        ValueError: it is none of these, or no picture that can be read.

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
        return read_picture(data)
    except DECODE_ERRORS as error:
        raise ValueError(
            f"{_shortened(name)} is no picture that can be read: {own_words(error)}"
        ) from error


def _read(name: str) -> bytes:
    if name.startswith(HTTP):
        return read_http(name)
    if os.path.isfile(name):
        return Path(name).read_bytes()
    if os.path.isdir(name):
        raise ValueError(f"{name} is a folder; name the pictures in it")
    try:
        return base64.b64decode(
            name.removeprefix("data:image/").split("base64,")[-1], validate=True
        )
    except (binascii.Error, ValueError) as error:
        raise ValueError(
            f"{_shortened(name)} is no file, no http address and no picture in base64"
        ) from error


def read_http(address: str) -> bytes:
    """Reads what lies at an http(s) address.

    Raises:
        ValueError: the server has no such file, or sends less than it says.
        OSError: there is no such server, or it doesn't answer.
    """
    spelt = quote(address, safe="!#$%&'()*+,/:;=?@[]~")  # as browsers do with spaces and umlauts
    request = Request(spelt, headers={"User-Agent": "hf_mae"})  # many refuse Python's own name
    try:
        with urlopen(request, timeout=60) as answer:
            return answer.read()
    except HTTPError as error:
        raise ValueError(f"{address} answers {error.code}, {error.reason}") from error
    except HTTPException as error:
        raise ValueError(f"{address} can't be read: {error!r}") from error


def _shortened(name: str) -> str:
    return name if len(name) <= 200 else f"{name[:40]}…"


class Values(NamedTuple):
    """How what is in a file becomes pixels.

    Attributes:
        bands: Numbers of the bands that are taken, from 1, in this order; None for all.
        value_range: The values of black and white, for all images; None for what the file itself
            says, or its type.
    """

    bands: Sequence[int] | None = None
    value_range: Sequence[float] | None = None


_AS_THEY_ARE = Values()


def values_of(processor: Any) -> Values:
    """Reads out of any image processor how pictures become pixels."""
    return Values(getattr(processor, "bands", None), getattr(processor, "value_range", None))


def to_pixels(
    picture: Picture,
    num_channels: int | None = None,
    values: Values = _AS_THEY_ARE,
    data_format: str | None = None,
) -> np.ndarray:
    """Makes a picture of any kind the pixels that a model is fed: (H, W, C), from 0 to 255.

    They are uint8 of what has 8 bits, and float32 of what is deeper or has a value range, with what
    lies between two of the 256 levels. What lies outside the value range is clipped.

    Args:
        picture: What `open_picture` returns, or an array (H, W), (H, W, C) or (C, H, W).
        num_channels: As for `picture_values`.
        values: Which bands are taken, and the values of black and white. Without these, black and
            white are what the file says, and else 0 and 1 for fractions, 65535 for 16 bits without
            a sign, 255 for all other whole numbers.
        data_format: "channels_first" or "channels_last", of an array; by default found.

    Raises:
        ValueError: it can't be an image, or one of other channels; or its values don't tell which
            are black and white.

    Example:

    >>> to_pixels(np.full((30, 40, 3), 0.3), num_channels=1)[0, 0]
    array([76.5], dtype=float32)
    """
    raster = _own_values(picture, num_channels, values.bands, data_format)
    array = raster.values
    if values.value_range is not None and array.dtype == np.uint8 and raster.value_range is None:
        check_8_bits(values.value_range)
    pixels = scale_values(array, values.value_range or raster.value_range)
    if raster.missing is not None:
        pixels[raster.missing] = 0
    if values.value_range is not None:
        _report_clipped(array, values.value_range)
    return _with_channels(pixels, num_channels)


def share_beyond(values: np.ndarray, value_range: Sequence[float]) -> float:
    """Computes the share of values that lie outside a range."""
    low, high = value_range
    return float(np.mean((values < low) | (values > high)))


def _report_clipped(array: np.ndarray, value_range: Sequence[float]) -> None:
    share = share_beyond(array, value_range)
    if share > 0.5:
        low, high = value_range
        logger.warning_once(
            f"{share:.0%} of an image's values lie beyond the value range from {low:,g} to "
            f"{high:,g} and are clipped"
        )


def picture_values(
    picture: Picture, num_channels: int | None = None, bands: Sequence[int] | None = None
) -> tuple[np.ndarray, Range | None]:
    """Makes a picture of any kind an array of its values, upright and in the wanted channels.

    What 8 bits become in other channels is what `Image.convert` does: transparency is dropped,
    CMYK and palettes become RGB. So it is with deeper values: grey is copied, and of colours the
    luminance is taken.

    Args:
        picture: What `open_picture` returns, or an array (H, W), (H, W, C) or (C, H, W).
        num_channels: What 1, 3 and 4 channels become; by default as many as it has.
        bands: Numbers of the bands that are taken, from 1; by default all.

    Returns:
        (H, W, C) of its own type, and the values of black and white, if the file says which.

    Raises:
        ValueError: it can't be an image, or one of other channels.
    """
    raster = _own_values(picture, num_channels, bands)
    return _with_channels(raster.values, num_channels), raster.value_range


def _own_values(
    picture: Picture,
    num_channels: int | None,
    bands: Sequence[int] | None,
    data_format: str | None = None,
) -> Raster:
    """The bands of a picture that are taken; what is missing has the least of its values."""
    if isinstance(picture, Image.Image) and has_deep_band(picture):
        picture = raster_of_band(picture)
    if isinstance(picture, Image.Image):
        raster = Raster(_values_of_image(picture, num_channels, bands), is_colour=True)
    elif isinstance(picture, Raster):
        raster = picture
    else:
        raster = Raster(picture, is_colour=True, is_array=True, has_alpha=True)
    if raster.is_array:
        array = channels_last(raster.values, num_channels, bands, data_format)
        is_colour = raster.is_colour or array.shape[2] == 3
        raster = raster._replace(values=array, is_colour=is_colour)
    if bands is not None:
        raster = _take_bands(raster, bands)
    elif num_channels in (1, 3) and not isinstance(picture, Image.Image):
        raster = _take_colours(raster, num_channels)
    if raster.missing is None:
        return raster
    there = raster.values[~raster.missing]
    least = there.min() if there.size else 0
    return raster._replace(values=np.where(raster.missing, least, raster.values))


def _take_colours(raster: Raster, num_channels: int) -> Raster:
    """Leaves transparency out; ValueError if bands that aren't colours would have to be mixed."""
    own = raster.values.shape[2]
    colours = own - 1 if raster.has_alpha and own in (2, 4) else own
    if colours not in (1, num_channels) and not (raster.is_colour and colours == 3):
        raise ValueError(
            f"an image of {own} bands can't become one of {num_channels}; choose {num_channels} of "
            "them by bands"
        )
    missing = None if raster.missing is None else raster.missing[..., :colours]
    return raster._replace(values=raster.values[..., :colours], missing=missing)


def _values_of_image(
    picture: Image.Image, num_channels: int | None, bands: Sequence[int] | None
) -> np.ndarray:
    check_whole(picture)
    if picture.mode in ("LA", "La") and (bands is not None or num_channels == 2):
        return np.array(upright(picture).convert("LA"))
    if bands is not None or num_channels is None:
        num_channels = _own_channels(picture)
    if num_channels not in _PIL_MODES:
        raise ValueError(
            f"a picture of mode {picture.mode} can't become {num_channels} channels; give files or "
            "arrays that have so many"
        )
    array = np.array(upright(picture).convert(_PIL_MODES[num_channels]))
    return array.reshape(*array.shape[:2], num_channels)


def channels_last(
    array: np.ndarray,
    num_channels: int | None,
    bands: Sequence[int] | None,
    data_format: str | None = None,
) -> np.ndarray:
    """Brings an array (H, W), (H, W, C) or (C, H, W) into the form (H, W, C).

    Args:
        array: Of any numbers.
        num_channels: C, if it is known.
        bands: If they are chosen, C may be any number; else it is 1, 3, 4 or `num_channels`.
        data_format: "channels_first" or "channels_last"; by default found.

    Raises:
        ValueError: it can't be an image.
    """
    if array.ndim == 2:
        return array[..., None]
    if data_format is None and bands is not None and array.ndim == 3:
        # pictures are square, or have more rows and columns than bands
        first, second, third = array.shape
        is_first = second == third if (first == second) != (second == third) else first < third
        data_format = ChannelDimension.FIRST if is_first else ChannelDimension.LAST
    if (data_format or find_channels(array, num_channels)) == ChannelDimension.FIRST:
        return np.moveaxis(array, 0, -1)
    return array


def _take_bands(raster: Raster, bands: Sequence[int]) -> Raster:
    own = raster.values.shape[2]
    if min(bands) < 1 or max(bands) > own:
        raise ValueError(
            f"bands is {', '.join(map(str, bands))}, and the image has {own}, numbered from 1"
        )
    places = [band - 1 for band in bands]
    missing = None if raster.missing is None else raster.missing[..., places]
    return raster._replace(values=raster.values[..., places], missing=missing)


def _with_channels(array: np.ndarray, num_channels: int | None) -> np.ndarray:
    own = array.shape[2]
    if num_channels in (None, own):
        return array
    if own not in _PIL_MODES or num_channels not in _PIL_MODES:
        raise ValueError(
            f"an image of {own} channels can't become one of {num_channels}; choose "
            f"{num_channels} of them by bands"
        )
    if array.dtype == np.uint8:
        picture = Image.fromarray(array.squeeze(2) if own == 1 else array)
        return np.array(picture.convert(_PIL_MODES[num_channels])).reshape(*array.shape[:2], -1)
    if num_channels == 4:
        raise ValueError(
            f"an image of {own} channels of {array.dtype} has no transparency to be the fourth; "
            "choose 4 bands"
        )
    colours = array[..., :3]
    if num_channels == 1:
        return colours @ _LUMINANCE[:, None]
    return np.repeat(colours, 3, axis=2) if own == 1 else colours


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
        f"({wanted}, height, width), and for channels other than 1, 3 and 4 bands or "
        "input_data_format"
    )


# from values to pixels ---------------------------------------------------------------------------


def scale_values(array: np.ndarray, value_range: Sequence[float] | None = None) -> np.ndarray:
    """Makes values pixels: black 0, white 255, as `to_pixels` says.

    Args:
        array: Of any numbers.
        value_range: (black, white); by default those of its type.

    Raises:
        ValueError: these can't be an image's values, or don't tell which is white.
    """
    check_values(array)
    if value_range is None:
        if array.dtype == np.uint8:
            return array
        if array.dtype == bool:
            return array.astype(np.uint8) * np.uint8(255)
        pixels = _stretch(array, range_of_type(array))
        levels = pixels.round()
        rounding = 0.07 if array.dtype == np.float16 else 0.001
        is_whole = np.abs(pixels - levels).max() < rounding  # 8 bits in a deeper type
        return levels.astype(np.uint8) if is_whole else pixels
    return _stretch(array, value_range)


def _stretch(array: np.ndarray, value_range: Sequence[float]) -> np.ndarray:
    low, high = value_range
    exact = np.float32 if array.dtype.itemsize <= 2 or array.dtype == np.float32 else np.float64
    pixels = (array.astype(exact) - exact(low)) * exact(255 / (high - low))
    return pixels.clip(0, 255).astype(np.float32, copy=False)


def check_8_bits(value_range: Sequence[float]) -> None:
    """Raises ValueError if a value range isn't one of images of 8 bits."""
    low, high = value_range
    if low < 0 or high > 255:
        raise ValueError(
            f"the image has 8 bits, and black and white are {low:,g} and {high:,g}; give the file "
            "that has these values, or value_range 0 255 for a picture that was made of it"
        )


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Rounds pixels from 0 to 255 to uint8."""
    return pixels if pixels.dtype == np.uint8 else pixels.round().astype(np.uint8)


def range_of_type(array: np.ndarray) -> Range:
    """Finds the values of black and white by an image's type.

    Raises:
        ValueError: these aren't what an image of its type has.
    """
    if array.dtype == bool:
        return 0, 1
    low, high = float(array.min()), float(array.max())
    if array.dtype == np.uint16 and (high >= 4096 or high == 0):
        return 0, 65535
    if array.dtype != np.uint16 and low >= 0:
        if high <= 255 and not np.mod(array, 1).any() and (high > 1 or array.dtype.kind != "f"):
            return 0, 255
        if high <= 1:
            return 0, 1
    raise ValueError(
        f"the image holds values of {array.dtype} from {low:g} to {high:g}, which don't tell what "
        "is black and white; say it by value_range, as 0 4095 for scans of 12 bits, -1000 1000 "
        "for CT or 0 1 for reflectances"
    )


def check_values(array: np.ndarray) -> None:
    """Raises ValueError if an array's values can't be an image's."""
    if array.size == 0:
        raise ValueError(f"an array of shape {array.shape} is no image; it has no pixels")
    if array.dtype == np.uint8:
        return
    is_number = np.issubdtype(array.dtype, np.number) or array.dtype == bool
    if not is_number or np.iscomplexobj(array):
        raise ValueError(f"an array of {array.dtype} is no image; give numbers")
    if not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise ValueError("the image holds values that are not finite")
