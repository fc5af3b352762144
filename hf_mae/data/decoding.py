# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Image files → pixels: nvImageCodec for the crop of a common JPEG, PIL for everything else, to the
same pixels."""

import contextlib
import functools
import io
import os
import re
import threading
from pathlib import Path

import fsspec
import numpy as np
from PIL import Image

from ..errors import DECODE_ERRORS, ImageDecodeError
from ..models.image_processing_mae import exif_orientation, image_to_array


# an image with a side so long is decoded at reduced scale where its crop will be shrunk to half or
# less
_LARGE = 3000
# (flip rows, flip columns, transpose): what turns the stored pixels of each EXIF orientation
# upright
_ARRAY_TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (True, True, False),
    4: (True, False, False),
    5: (False, False, True),
    6: (True, False, True),
    7: (True, True, True),
    8: (False, True, True),
}
_BASELINE = (0xC0, 0xC1)
_START_OF_FRAME = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_MARKER = re.compile(
    rb"\xff[\x01-\xcf\xd8-\xfe]"
)  # in the scan of a baseline file there is none but the end


@contextlib.contextmanager
def _as_decode_error():
    try:
        yield
    except DECODE_ERRORS as error:
        raise ImageDecodeError(" ".join(f"{type(error).__name__}: {error}".split())) from error


def open_image(value, num_channels):
    """What an image column holds → an array (H, W, C) of uint8, upright, or a `Jpeg`, which decodes
    what is asked for.

    Args:
        value: {"bytes": …, "path": …} of a file in any format that PIL reads, or an array (H, W, C)
            of uint8.
        num_channels: C.

    Raises:
        ImageDecodeError: it is damaged, or no image of so many channels.
    """
    with _as_decode_error():
        if not isinstance(value, dict):
            return _checked_array(np.asarray(value), num_channels)
        data, path = value.get("bytes"), value.get("path")
        if data is None and path is None:
            raise ValueError("neither bytes nor a path")
        data = _read(path) if data is None else data
        picture = Image.open(io.BytesIO(data))
        if picture.format in ("JPEG", "MPO") and picture.mode in ("RGB", "L"):
            return Jpeg(data, picture, num_channels)
        return image_to_array(picture, num_channels)


def _read(path):
    """A file's bytes; a path may also be an address of fsspec's, as streams have them (hf://…,
    zip://…::…)."""
    if "://" not in str(path):
        return Path(path).read_bytes()
    with fsspec.open(path, "rb") as file:
        return file.read()


def _checked_array(array, num_channels):
    whole = (
        np.issubdtype(array.dtype, np.integer)
        and array.size
        and array.min() >= 0
        and array.max() <= 255
    )
    if array.ndim != 3 or array.shape[2] != num_channels or not whole:
        raise ValueError(
            f"array of shape {array.shape} and {array.dtype}; expected (height, width, "
            f"{num_channels}), whole numbers "
            "from 0 to 255"
        )
    return array.astype(np.uint8)


def crop_pixels(image, box, target=None):
    """The pixels (h, w, C) of a box of what `open_image` returned.

    Args:
        image: Array (H, W, C), or `Jpeg`.
        box: (top, left, height, width), upright.
        target: (height, width) that the crop will be resized to: of a large photograph it may come
            as such.
    """
    if isinstance(image, Jpeg):
        return image.crop(box, target)
    top, left, height, width = box
    return image[top : top + height, left : left + width]


def whole_pixels(image):
    """All of it, (H, W, C)."""
    return image.whole if isinstance(image, Jpeg) else image


class Jpeg:
    """A JPEG file in grey or RGB that decodes what is asked for.

    Whichever back end decodes, the pixels are PIL's, and so is the verdict on damaged files: what
    nvImageCodec might take for better or worse than PIL does (any file with something unexpected in
    its scan) PIL decodes.
    """

    def __init__(self, data, picture, num_channels):
        self._data, self._picture, self._num_channels = data, picture, num_channels
        self._upright = _ARRAY_TURNS.get(exif_orientation(picture), _ARRAY_TURNS[1])
        width, height = picture.size
        self.shape = ((width, height) if self._upright[2] else (height, width)) + (num_channels,)

    @property
    def is_large(self):
        """Whether crops of it may come at reduced scale."""
        return max(self.shape) >= _LARGE

    def crop(self, box, target=None):
        """As `crop_pixels`."""
        scale = self._reduction(box, target) if target and self.is_large else 1
        with _as_decode_error():
            if scale > 1:
                return self._reduced(box, scale, target)
            if "whole" not in self.__dict__ and (pixels := self._region(box)) is not None:
                return pixels
        top, left, height, width = box
        return self.whole[top : top + height, left : left + width]

    @functools.cached_property
    def whole(self):
        """All pixels (H, W, C)."""
        with _as_decode_error():
            pixels = self._region((0, 0, *self.shape[:2]))
            return image_to_array(self._picture, self._num_channels) if pixels is None else pixels

    @staticmethod
    def _reduction(box, target):
        ratio = min(box[2] / target[0], box[3] / target[1])
        return next((scale for scale in (8, 4, 2) if ratio >= scale), 1)

    def _reduced(self, box, scale, target):
        """A box resized to `target`, decoded at a half, a quarter or an eighth of the scale, as
        libjpeg does it faster."""
        picture = Image.open(io.BytesIO(self._data))
        picture.draft(picture.mode, (picture.width // scale, picture.height // scale))
        pixels = image_to_array(picture, self._num_channels)
        picture = _as_picture(pixels)
        top, left, height, width = (
            side / scale for side in box
        )  # PIL resizes boxes that end within a pixel
        edges = (left, top, min(left + width, picture.width), min(top + height, picture.height))
        resized = picture.resize(target[::-1], Image.Resampling.BICUBIC, box=edges)
        return np.array(resized).reshape(*target, self._num_channels)

    def _region(self, box):
        """A box by nvImageCodec, or None where PIL has to decode."""
        decoder = _decoder(os.getpid())
        thin = min(box[2:]) < 4  # its chroma is interpolated otherwise
        if decoder is None or thin or not _is_whole_baseline(self._data):
            return None
        (top, left, height, width), (flip_rows, flip_columns, transpose) = box, self._upright
        stored_width, stored_height = self._picture.size
        if transpose:
            top, left, height, width = left, top, width, height
        top = stored_height - top - height if flip_rows else top
        left = stored_width - left - width if flip_columns else left
        pixels = decoder(self._data, (top, left, height, width), grey=self._picture.mode == "L")
        if pixels is None or pixels.shape[:2] != (height, width):
            return None
        pixels = pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
        pixels = pixels.swapaxes(0, 1) if transpose else pixels
        if pixels.shape[2] != self._num_channels:
            pixels = image_to_array(_as_picture(pixels), self._num_channels)
        return np.ascontiguousarray(pixels)


def _as_picture(pixels):
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)


def _is_whole_baseline(data):
    """Whether a JPEG is a baseline one and whole: a single scan without a marker in it that ends
    with the file's end."""
    position, frame = 2, None
    while data[position : position + 1] == b"\xff" and position + 4 <= len(data):
        marker = data[position + 1]
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDA:  # the scan
            end = _MARKER.search(data, position)
            return frame in _BASELINE and end is not None and end[0] == b"\xff\xd9"
        frame = marker if marker in _START_OF_FRAME else frame
    return False


@functools.lru_cache(maxsize=1)
def _decoder(process):
    """(data, box, grey) → pixels or None, by nvImageCodec on this thread's core; None if it isn't
    installed.

    Args:
        process: Its number: a decoder has threads, which don't survive a fork.
    """
    codec = _nvimgcodec()
    if codec is None:
        return None
    decoder = codec.Decoder(
        device_id=codec.NVIMGCODEC_DEVICE_CPU_ONLY,
        max_num_cpu_threads=1,
        backends=[codec.Backend(codec.BackendKind.CPU_ONLY)],
        options=":fancy_upsampling=1 :fast_idct=0",  # as PIL has it
    )
    lock = (
        threading.Lock()
    )  # neither the decoder nor the redirection is for several threads at once
    spaces = {True: codec.ColorSpec.GRAY, False: codec.ColorSpec.SRGB}
    params = {
        grey: codec.DecodeParams(apply_exif_orientation=False, color_spec=space)
        for grey, space in spaces.items()
    }

    def decode(data, box, grey):
        top, left, height, width = box
        try:
            stream = codec.CodeStream(data)
            stream = stream.get_sub_code_stream(
                region=codec.Region(top, left, top + height, left + width)
            )
            with lock, _silent_stderr():  # libjpeg complains of bad files there
                image = decoder.decode(stream, params=params[grey])
        except RuntimeError:  # no JPEG to it
            return None
        return None if image is None else np.asarray(image.cpu())

    return decode


@functools.lru_cache
def _nvimgcodec():
    """The module, or None; without what it and its plug-ins write to the terminal, past Python."""
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")  # read when it is imported
    with contextlib.suppress(ImportError), _silent_stderr():
        from nvidia import nvimgcodec

        return nvimgcodec
    return None


@contextlib.contextmanager
def _silent_stderr():
    """Nothing that is written past Python reaches the terminal."""
    try:
        kept = os.dup(2)
    except OSError:  # closed, as daemons have it
        yield
        return
    os.dup2(_nowhere(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@functools.lru_cache
def _nowhere():
    return os.open(os.devnull, os.O_WRONLY)
