# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Image files → pixels, which are PIL's whoever decodes, or the values of deeper files.

nvImageCodec decodes the crop of a common JPEG, and what `models/picture_files.py` names the rest.
"""

import contextlib
import functools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
from PIL import Image

from ..errors import DECODE_ERRORS, NETWORK_ERRORS, ImageDecodeError, own_words
from ..file_names import find_file
from ..models.orientation import ARRAY_TURNS, exif_orientation
from ..models.picture_files import Raster, read_picture
from ..models.picture_size import MAX_IMAGE_PIXELS, find_scan, is_reduced, open_by_pil
from ..models.pictures import HTTP, Picture, Values, picture_values, read_http, to_pixels
from .nvimagecodec import Box, host_decoder


# an image with a side so long is decoded at reduced scale where its crop will be shrunk to half or
# less
_LARGE = 3000
_BASELINE = (0xC0, 0xC1)
# in the scan of a baseline file there is none but the end
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


@contextlib.contextmanager
def _as_decode_error() -> Iterator[None]:
    try:
        yield
    except DECODE_ERRORS as error:
        message = f"{type(error).__name__}: {own_words(error)}"
        raise ImageDecodeError(message) from error


class Jpeg:
    """A JPEG file in grey or RGB that decodes what is asked for.

    Whichever back end decodes, the pixels are PIL's, and so is the verdict on damaged files: what
    nvImageCodec might take for better or worse than PIL does (any file with something unexpected in
    its scan) PIL decodes.

    Args:
        data: The file.
        num_channels: C, what it is decoded to.
        frame: What its header says.
        orientation: As EXIF has it.

    Attributes:
        data: The file.
        shape: (H, W, C), upright.
    """

    def __init__(self, data: bytes, num_channels: int, frame: "_Frame", orientation: int = 1):
        self.data = data
        self._num_channels = num_channels
        self._frame = frame
        self._upright = ARRAY_TURNS.get(orientation, ARRAY_TURNS[1])
        width, height = frame.width, frame.height
        _, _, transpose = self._upright
        if transpose:
            width, height = height, width
        self.shape = (height, width, num_channels)

    @property
    def is_large(self) -> bool:
        """Whether crops of it may come at reduced scale."""
        return max(self.shape) >= _LARGE

    def can_be_left(self, box: Box) -> bool:
        """Whether a box can be left to other decoders: of C channels, and a file like most."""
        as_it_is = self._num_channels == (1 if self.is_grey else 3)
        return as_it_is and not self.is_large and self._is_common(box)

    def _is_common(self, box: Box) -> bool:
        return min(box[2:]) >= 4 and self._is_whole_baseline  # chroma of thin ones is another

    @property
    def is_grey(self) -> bool:
        """Whether the file has one channel, and not three."""
        return self._frame.is_grey

    @property
    def turns(self) -> tuple[tuple[int, ...], bool]:
        """Axes of stored pixels (H, W, …) to flip, and whether to swap them then."""
        flip_rows, flip_columns, transpose = self._upright
        flips = enumerate((flip_rows, flip_columns))
        return tuple(axis for axis, flip in flips if flip), transpose

    def stored_box(self, box: Box) -> Box:
        """Where a box (upright) lies in the pixels as the file has them."""
        top, left, height, width = box
        flip_rows, flip_columns, transpose = self._upright
        if transpose:
            top, left, height, width = left, top, width, height
        if flip_rows:
            top = self._frame.height - top - height
        if flip_columns:
            left = self._frame.width - left - width
        return top, left, height, width

    def crop(self, box: Box, target: tuple[int, int] | None = None) -> np.ndarray:
        """Decodes a box, as `crop_pixels` says."""
        top, left, height, width = box
        with _as_decode_error():
            if target is not None and self.is_large:
                scale = _reduction(box, target)
                if scale > 1:
                    return self._decode_reduced(box, scale, target)
            if "whole" not in self.__dict__:
                pixels = self._decode_region(box)
                if pixels is not None:
                    return pixels
        return self.whole[top : top + height, left : left + width]

    @functools.cached_property
    def whole(self) -> np.ndarray:
        """All pixels (H, W, C)."""
        height, width, _ = self.shape
        with _as_decode_error():
            pixels = self._decode_region((0, 0, height, width))
            if pixels is None:
                picture = open_by_pil(self.data, sys.maxsize)
                pixels = to_pixels(picture, self._num_channels)
            return pixels

    @functools.cached_property
    def _is_whole_baseline(self) -> bool:
        """Whether it has a single scan without a marker in it that ends with the file's end."""
        scan = self._frame.scan or find_scan(self.data)
        if scan is None:
            return False
        end = _MARKER.search(self.data, scan)
        return end is not None and end[0] == b"\xff\xd9"

    def _decode_reduced(self, box: Box, scale: int, target: tuple[int, int]) -> np.ndarray:
        """A box resized to `target`, decoded at a fraction of the scale, as libjpeg does faster."""
        file = open_by_pil(self.data, sys.maxsize)
        file.draft(file.mode, (file.width // scale, file.height // scale))
        picture = _as_picture(to_pixels(file, self._num_channels))
        # PIL resizes boxes that end within a pixel
        top, left, height, width = (side / scale for side in box)
        edges = (left, top, min(left + width, picture.width), min(top + height, picture.height))
        resized = picture.resize((target[1], target[0]), Image.Resampling.BICUBIC, box=edges)
        return np.array(resized).reshape(*target, self._num_channels)

    def _decode_region(self, box: Box) -> np.ndarray | None:
        """A box by nvImageCodec, or None where PIL has to decode."""
        decoder = host_decoder(os.getpid())
        if decoder is None or not self._is_common(box):
            return None
        stored = self.stored_box(box)
        pixels = decoder(self.data, stored, self.is_grey)
        if pixels is None or pixels.shape[:2] != stored[2:]:
            return None
        axes, transpose = self.turns
        pixels = np.flip(pixels, axes)
        if transpose:
            pixels = pixels.swapaxes(0, 1)
        if pixels.shape[2] != self._num_channels:
            pixels = to_pixels(_as_picture(pixels), self._num_channels)
        return np.ascontiguousarray(pixels)


DecodedImage = np.ndarray | Jpeg  # (H, W, C), upright; uint8, or float32 of deeper ones


def open_image(
    value: Any,
    num_channels: int,
    values: Values | None = None,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> DecodedImage:
    """Opens what an image column holds.

    Args:
        value: {"bytes": …, "path": …} of a file in any format that is read, or an array (H, W, C)
            or (C, H, W).
        num_channels: C.
        values: Which bands are taken, and the values of black and white. Without it deep images
            come as the file has them.
        max_pixels: A picture that has more is decoded at reduced scale, if it is a JPEG file that
            has no more then, and else is an error.

    Returns:
        An array (H, W, C), upright, or a `Jpeg`, which decodes what is asked for. With `values` it
        holds pixels from 0 to 255: uint8, or float32 of what is deeper.

    Raises:
        ImageDecodeError: it is damaged, too large, or no image of so many channels; or its values
            don't tell which are black and white.

    Example:

    >>> open_image(np.zeros((40, 30, 3), int), num_channels=3).shape
    (40, 30, 3)
    """
    with _as_decode_error():
        as_it_is = values in (None, Values())
        if as_it_is and isinstance(value, dict):
            data = _read_file(value)
            frame = _plain_frame(data, max_pixels)
            if frame is not None:
                return Jpeg(data, num_channels, frame)
            value = {**value, "bytes": data}
        picture, data = open_value(value, max_pixels)
        if as_it_is and isinstance(picture, Image.Image) and _is_whole_jpeg(picture):
            frame = _Frame(picture.width, picture.height, picture.mode == "L")
            return Jpeg(data, num_channels, frame, exif_orientation(picture))
        if values is None:
            array, _ = picture_values(picture, num_channels)
            return array
        return to_pixels(picture, num_channels, values)


def _is_whole_jpeg(picture: Image.Image) -> bool:
    is_jpeg = picture.format in ("JPEG", "MPO") and picture.mode in ("RGB", "L")
    return is_jpeg and not is_reduced(picture)


def open_value(value: Any, max_pixels: int = MAX_IMAGE_PIXELS) -> tuple[Picture, bytes]:
    """Opens what an image column holds, with all that is in it.

    Args:
        value: As for `open_image`.
        max_pixels: As for `open_image`.

    Returns:
        What `models.pictures` takes for a picture, not decoded yet, and the file, if it is one.

    Raises:
        One of `errors.DECODE_ERRORS`: it is damaged, or no picture.
    """
    if not isinstance(value, dict):
        return Raster(np.asarray(value), is_array=True), b""
    data = _read_file(value)
    return read_picture(data, max_pixels), data


def _read_file(value: dict[str, Any]) -> bytes:
    data = value.get("bytes")
    return _read(value.get("path")) if data is None else data


def crop_pixels(image: DecodedImage, box: Box, target: tuple[int, int] | None = None) -> np.ndarray:
    """Cuts a box out of what `open_image` returned.

    Args:
        image: Array (H, W, C), or `Jpeg`.
        box: (top, left, height, width), upright.
        target: (height, width) that the crop will be resized to: of a large photograph it may come
            as such.

    Returns:
        (h, w, C).

    Raises:
        ImageDecodeError: the file is damaged.
    """
    if isinstance(image, Jpeg):
        return image.crop(box, target)
    top, left, height, width = box
    return image[top : top + height, left : left + width]


def whole_pixels(image: DecodedImage) -> np.ndarray:
    """All of it, (H, W, C); `ImageDecodeError` if the file is damaged."""
    return image.whole if isinstance(image, Jpeg) else image


def _read(path: str | None) -> bytes:
    """Reads a file, or an address of fsspec's, as streams have them (hf://…, zip://…::…)."""
    if path is None:
        raise ValueError("neither bytes nor a path")
    if "://" not in str(path):
        return Path(find_file(str(path))).read_bytes()
    if path.startswith(HTTP):
        return read_http(path)
    import datasets  # noqa: F401  (brings gzip:// and others to fsspec, and takes long to import)

    try:
        with fsspec.open(path, "rb") as file:
            return file.read()  # pyright: ignore[reportAttributeAccessIssue] (a list of files)
    except (ImportError, *NETWORK_ERRORS) as error:
        raise ValueError(f"{path} can't be read: {error}") from error


def _as_picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)


def _reduction(box: Box, target: tuple[int, int]) -> int:
    """The largest of libjpeg's scales that keeps a box at least as large as its target."""
    _, _, height, width = box
    ratio = min(height / target[0], width / target[1])
    return next((scale for scale in (8, 4, 2) if ratio >= scale), 1)


class _Frame(NamedTuple):
    """What a JPEG file's header says, and where the scan of a plain one starts."""

    width: int
    height: int
    is_grey: bool
    scan: int | None = None


def _plain_frame(data: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> _Frame | None:
    """Reads the header of a baseline JPEG that has nothing but the picture in it, or None.

    That is quicker than PIL; what has anything else, or is damaged there, is for PIL to judge.
    """
    if data[:4] != b"\xff\xd8\xff\xe0" or data[6:11] != b"JFIF\0":
        return None
    position, frame = 2, None
    while data[position : position + 1] == b"\xff" and position + 4 <= len(data):
        marker, length = (
            data[position + 1],
            int.from_bytes(data[position + 2 : position + 4], "big"),
        )
        body = data[position + 4 : position + 2 + length]
        if marker == 0xDA:  # the scan
            return frame and frame._replace(scan=position + 2 + length)
        if marker in _BASELINE and frame is None and body[:1] == b"\x08":
            frame = _frame_of(body, max_pixels)
            if frame is None:
                return None
        elif marker == 0xDB:
            tables = body[::65]  # how deep each is, and its number
            if len(body) % 65 or any(table >> 4 for table in tables):
                return None
        elif not (marker in (0xC4, 0xDD, 0xFE) or (position == 2 and length >= 16)):
            return None
        position += 2 + length
    return None


def _frame_of(body: bytes, max_pixels: int) -> _Frame | None:
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    bands = body[5] if len(body) > 5 else 0
    is_known = bands in (1, 3) and len(body) == 6 + 3 * bands
    if not is_known or not 0 < height * width <= max_pixels:
        return None
    return _Frame(width, height, bands == 1)
