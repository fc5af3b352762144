# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""How large a picture is, looked at before its pixels are decoded, and how large one may be.

A file of a few kilobytes can hold a picture that fills the memory. What is larger than allowed is
refused or, of JPEG files that libjpeg can decode row by row, read at a fraction of its scale.
"""

import contextlib
import io
import math
import threading
from collections.abc import Iterator, Sequence

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile


MAX_IMAGE_PIXELS = 100_000_000
_BANDS = 4  # that a pixel has at most where a picture's pixels are counted; more count as further
_BASELINE = (0xC0, 0xC1)
_START_OF_FRAME = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_lock = threading.Lock()
_depth, _limit_of_pil = 0, None


def check_limit(max_image_pixels: int) -> None:
    """Raises ValueError if no picture can be so small."""
    if max_image_pixels < 1:
        raise ValueError(f"max_image_pixels is {max_image_pixels}; it must be at least 1")


def check_size(max_pixels: int, height: int, width: int, num_bands: int = 1) -> None:
    """Refuses a picture that is too large to be decoded.

    Args:
        max_pixels: As many are allowed.
        height, width: Of the picture.
        num_bands: Values of a pixel, over all frames and pages; more than 4 count as further
            pixels.

    Raises:
        ValueError: it is too large; the message names `max_image_pixels`.

    Example:

    >>> check_size(100, 20, 10)
    Traceback (most recent call last):
    ValueError: it has 20 x 10 pixels, and max_image_pixels is 100; raise that, or make it smaller
    """
    if height * width * max(1, math.ceil(num_bands / _BANDS)) <= max_pixels:
        return
    bands = f" of {num_bands:,} values" if num_bands > _BANDS else ""
    raise ValueError(
        f"it has {height:,} x {width:,} pixels{bands}, and max_image_pixels is {max_pixels:,}; "
        "raise that, or make it smaller"
    )


def check_shape(max_pixels: int, shape: Sequence[int]) -> None:
    """Refuses an array that is too large, as `check_size` does; its bands are its shortest side."""
    if len(shape) < 2:
        return
    *bands, height, width = sorted(shape)
    check_size(max_pixels, height, width, math.prod(bands))


def open_by_pil(data: bytes, max_pixels: int) -> Image.Image:
    """Has PIL read the header of a file, and looks how large the picture is.

    Args:
        data: The file.
        max_pixels: As many will be decoded at most: a JPEG file that has more is opened at a half,
            a quarter or an eighth of its scale, if it then has no more, and says that size.

    Raises:
        ValueError: it has more.
        One of `errors.DECODE_ERRORS`: it is damaged, or no picture that PIL knows.
    """
    with _without_limit_of_pil():
        picture = Image.open(io.BytesIO(data))
    width, height = picture.size
    if width * height > max_pixels and isinstance(picture, JpegImageFile):
        _reduce(picture, data, max_pixels)
    if width * height > max_pixels and not is_reduced(picture):
        check_size(max_pixels, height, width)
    return picture


def is_reduced(picture: Image.Image) -> bool:
    """Whether a picture is decoded at a fraction of its scale."""
    return bool(getattr(picture, "decoderconfig", ()))


def _reduce(picture: JpegImageFile, data: bytes, max_pixels: int) -> None:
    """Has a JPEG file decoded at reduced scale, if it has few enough pixels then.

    Of progressive files, and others of several scans, libjpeg holds all coefficients whatever the
    scale, which are as large as the picture.
    """
    width, height = picture.size
    if find_scan(data) is None:
        return
    for scale in (2, 4, 8):
        if math.ceil(width / scale) * math.ceil(height / scale) <= max_pixels:
            picture.draft(picture.mode, (width // scale, height // scale))
            return


def find_scan(data: bytes) -> int | None:
    """Finds where the scan of a JPEG file starts, if it is a baseline one with a single scan."""
    position, frame, bands = 2, None, 0
    while data[position : position + 1] == b"\xff" and position + 10 <= len(data):
        marker, body = data[position + 1], position + 4
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDA:  # the scan
            return position if frame in _BASELINE and data[body] == bands else None
        if marker in _START_OF_FRAME:
            frame, bands = marker, data[body + 5]
    return None


@contextlib.contextmanager
def _without_limit_of_pil() -> Iterator[None]:
    """Has PIL, which warns of large pictures and refuses larger ones, leave that to us."""
    global _depth, _limit_of_pil
    with _lock:  # of several threads the first takes the limit away, and the last puts it back
        if _depth == 0:
            _limit_of_pil, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                Image.MAX_IMAGE_PIXELS = _limit_of_pil
