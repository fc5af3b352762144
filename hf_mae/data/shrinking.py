# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""A picture's file → a smaller one: 8 bits as JPEG, deeper values whole, small files as they are.

What comes out is read to the same pixels as the original, resized as the image processor resizes:
bicubic, antialiased, every band by itself.
"""

import importlib
import io
import os
import re
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..errors import DECODE_ERRORS, ImageDecodeError
from ..models.orientation import upright
from ..models.picture_files import (
    Raster,
    check_whole,
    has_deep_band,
    raster_of_band,
    state_range,
)
from ..models.picture_size import MAX_IMAGE_PIXELS
from ..models.pictures import channels_last, check_values
from .decoding import open_value


_DRAWINGS = ("1", "P", "PA")  # modes of few colours, whose edges JPEG would blur
# how files start, and what their names end in
_ENDINGS = {
    **{b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"},
    **{b"II": ".tif", b"MM": ".tif", b"\x93NUMPY": ".npy", b"\0\0\0\x0cjP": ".jp2"},
}
_ADDRESS = re.compile(
    r"<_io\.BytesIO object at \w+>"
)  # PIL's word for a file; never twice the same
_LONGEST_JPEG = 65500  # pixels of a side
_IHDR_END = 33  # of a PNG: its mark and first chunk


class ShrunkImage(NamedTuple):
    """A file of a prepared set.

    Attributes:
        data: The file.
        ending: What its name ends in, with a dot.
        source_bytes: Of the original file or array.
        is_resized: Whether the picture is smaller than it was.
    """

    data: bytes
    ending: str
    source_bytes: int
    is_resized: bool


def shrink_image(
    value: Any, shortest_edge: int, quality: int, max_image_pixels: int = MAX_IMAGE_PIXELS
) -> ShrunkImage:
    """Makes a file of a picture whose shortest edge is at most so long.

    Files that are small enough stay as they are, byte for byte; arrays become PNG or, of other
    numbers than 8 bits, .npy files. Resized pictures of 8 bits become JPEG; drawings (palettes, two
    colours) and those with transparency PNG, upright and without what else was in the file. What is
    deeper becomes PNG of 16 bits or TIFF, which say the value range that the original says; arrays
    and .npy files become .npy files.

    Args:
        value: What an image column holds: {"bytes": …, "path": …}, or an array.
        shortest_edge: Pixels.
        quality: Of JPEG, 1 to 100.
        max_image_pixels: Larger images are decoded at reduced scale, if they can be, or not at all.

    Raises:
        ImageDecodeError: it can't be read.

    Example:

    >>> shrunk = shrink_image(np.zeros((300, 400, 3), np.uint8), shortest_edge=30, quality=90)
    >>> Image.open(io.BytesIO(shrunk.data)).size
    (40, 30)
    """
    try:
        picture, data = open_value(value, max_image_pixels)
        if isinstance(picture, Image.Image) and not has_deep_band(picture):
            return _shrink_picture(picture, data, value, shortest_edge, quality)
        if isinstance(picture, Image.Image):
            picture = raster_of_band(picture)
        assert isinstance(picture, Raster)
        return _shrink_raster(picture, data, value, shortest_edge, quality)
    except DECODE_ERRORS as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        raise ImageDecodeError(_ADDRESS.sub("", message).rstrip()) from error


def _smaller(height: int, width: int, shortest_edge: int) -> tuple[int, int]:
    """(height, width) with the shortest edge so long, as torchvision's Resize has it."""
    if height <= width:
        return shortest_edge, shortest_edge * width // height
    return shortest_edge * height // width, shortest_edge


def _ending(data: bytes, value: Any) -> str:
    for start, ending in _ENDINGS.items():
        if data.startswith(start):
            return ending
    own = os.path.splitext(value.get("path") or "")[1].lower()
    return own or ".dcm"  # what else is read has no such start


# 8 bits ------------------------------------------------------------------------------------------


def _shrink_picture(
    picture: Image.Image, data: bytes, value: Any, shortest_edge: int, quality: int
) -> ShrunkImage:
    check_whole(picture)
    picture.load()
    if min(picture.size) <= shortest_edge:
        return ShrunkImage(data, _ending(data, value), len(data), False)
    is_drawing = picture.mode in _DRAWINGS
    whole = upright(picture).convert(_own_mode(picture))
    height, width = _smaller(whole.height, whole.width, shortest_edge)
    bands = []
    for band in whole.split():  # PIL would weigh colours by their transparency
        bands.append(band.resize((width, height), Image.Resampling.BICUBIC))
    shrunk = Image.merge(whole.mode, bands)
    if is_drawing or whole.mode in ("LA", "RGBA"):
        return ShrunkImage(_saved(shrunk, "png"), ".png", len(data), True)
    return ShrunkImage(*_encode_plain(shrunk, quality), len(data), True)


def _encode_plain(picture: Image.Image, quality: int) -> tuple[bytes, str]:
    """Writes grey or colours as JPEG, or as PNG where a side is longer than JPEG can say."""
    if max(picture.size) > _LONGEST_JPEG:
        return _saved(picture, "png"), ".png"
    return _saved(picture, "jpeg", quality=quality), ".jpg"


def _own_mode(picture: Image.Image) -> str:
    """The mode that holds all that any model may be fed of a picture."""
    is_grey = picture.mode in ("1", "L", "LA", "La")
    if picture.has_transparency_data:
        return "LA" if is_grey else "RGBA"
    return "L" if is_grey else "RGB"


def _saved(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=file_format, **options)
    return buffer.getvalue()


# deeper values, and arrays -----------------------------------------------------------------------


def _shrink_raster(
    raster: Raster, data: bytes, value: Any, shortest_edge: int, quality: int
) -> ShrunkImage:
    source_bytes = len(data) or raster.values.nbytes
    array = raster.values
    if raster.is_array:  # of any number of bands
        if array.ndim not in (2, 3):
            raise ValueError(f"an array of shape {array.shape} is no image")
        array = channels_last(array, None, bands=[1])  # (H, W, C)
    filled = _fill_missing(array, raster.missing)
    check_values(filled)
    plain = _plain_picture(raster, array)
    if min(array.shape[:2]) <= shortest_edge:
        if data:
            return ShrunkImage(data, _ending(data, value), source_bytes, False)
        if plain is not None:
            return ShrunkImage(_saved(plain, "png"), ".png", source_bytes, False)
        return ShrunkImage(_npy(raster.values), ".npy", source_bytes, False)
    size = _smaller(array.shape[0], array.shape[1], shortest_edge)
    if plain is not None:
        shrunk = plain.resize((size[1], size[0]), Image.Resampling.BICUBIC)
        if array.dtype == bool:
            return ShrunkImage(_saved(shrunk, "png"), ".png", source_bytes, True)
        return ShrunkImage(*_encode_plain(shrunk, quality), source_bytes, True)
    values = _resize_values(filled, size)
    if raster.is_array:
        if raster.values.ndim == 2:
            values = values[..., 0]
        elif array.shape != raster.values.shape or array.strides != raster.values.strides:
            values = np.moveaxis(values, -1, 0)  # its channels were first
        return ShrunkImage(_npy(values), ".npy", source_bytes, True)
    if raster.missing is not None:
        gaps = _resize_values(raster.missing.astype(np.float32), size) > 0.5
        values = np.where(gaps, np.float32(np.nan), values.astype(np.float32))
    return ShrunkImage(*_encode_deep(raster._replace(values=values)), source_bytes, True)


def _fill_missing(values: np.ndarray, missing: np.ndarray | None) -> np.ndarray:
    """Puts the least of the values where there are none."""
    if missing is None:
        return values
    there = values[~missing]
    return np.where(missing, there.min() if there.size else values.dtype.type(0), values)


def _plain_picture(raster: Raster, array: np.ndarray) -> Image.Image | None:
    """PIL's image of grey or RGB of 8 bits, which is read to the same pixels, or None."""
    is_usual = raster.missing is None and raster.value_range in (None, (0, 255))
    is_colour = array.shape[2] == 3 and (raster.is_colour or raster.is_array)
    if array.dtype not in (np.uint8, bool) or not is_usual:
        return None
    if array.shape[2] != 1 and not is_colour:
        return None
    levels = array * np.uint8(255) if array.dtype == bool else array
    return Image.fromarray(
        np.ascontiguousarray(levels.squeeze(2) if levels.shape[2] == 1 else levels)
    )


def _resize_values(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes (H, W, C), band by band; whole numbers stay such, and none is beyond the extremes."""
    height, width = size
    bands = []
    for number in range(values.shape[2]):
        band = values[..., number]
        if band.dtype != np.uint8:
            band = band.astype(np.float32)
        picture = Image.fromarray(np.ascontiguousarray(band))
        bands.append(np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC)))
    resized = np.stack(bands, axis=-1)
    if values.dtype == np.uint8:
        return resized
    if not np.mod(values, 1).any():
        resized = resized.round()
    return resized.clip(values.min(), values.max()).astype(values.dtype)


def _encode_deep(raster: Raster) -> tuple[bytes, str]:
    """Writes values (H, W, C) as PNG of 16 bits where that holds them all, else as TIFF."""
    values, stated = raster.values, raster.value_range
    is_whole = values.dtype.kind in "ui" and values.min() >= 0 and values.max() < 2**16
    channels = values.shape[2]
    is_colour = raster.is_colour and raster.has_alpha == (channels in (2, 4))
    if channels != 1 and not (is_colour and channels <= 4):
        return _tiff(raster), ".tif"
    if values.dtype == np.uint16 or (is_whole and stated is not None):
        return _deep_png(values.astype(np.uint16), stated), ".png"
    return _tiff(raster), ".tif"


def _deep_png(values: np.ndarray, value_range: Any) -> bytes:
    if values.shape[2] == 1:
        data = _saved(Image.fromarray(values[..., 0]), "png")
    else:
        data = bytes(_scientific("imagecodecs").png_encode(np.ascontiguousarray(values)))
    if value_range is None:
        return data
    text = b"tEXtDescription\0" + state_range(value_range).encode("ascii")
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    return data[:_IHDR_END] + chunk + data[_IHDR_END:]


def _tiff(raster: Raster) -> bytes:
    values, channels = raster.values, raster.values.shape[2]
    is_rgb = raster.is_colour and channels >= 3
    extra = ["unspecified" for _ in range(channels - (3 if is_rgb else 1))]
    if raster.has_alpha and extra:
        extra[-1] = "unassalpha"
    options: dict[str, Any] = {"compression": "zlib", "software": False, "metadata": None}
    if raster.value_range is not None:
        options["description"] = state_range(raster.value_range)
    if raster.missing is not None:
        options["extratags"] = [(42113, "s", 0, "nan", True)]  # what stands for no data
    if channels > 1:
        options |= {"planarconfig": "contig", "extrasamples": extra}
    buffer = io.BytesIO()
    _scientific("tifffile").imwrite(
        buffer,
        values[..., 0] if channels == 1 else values,
        photometric="rgb" if is_rgb else "minisblack",
        **options,
    )
    return buffer.getvalue()


def _scientific(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"images of such bands or values are written by {module}: pip install "
            f'"hf-mae[scientific]" ({error})'
        ) from error


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values), allow_pickle=False)
    return buffer.getvalue()
