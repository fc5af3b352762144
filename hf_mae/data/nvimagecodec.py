# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""nvImageCodec, if it is installed: boxes of JPEG files, decoded by the CPU or a GPU.

A GPU decodes the whole file, and the box is cut out there: nvImageCodec 0.9 fails at some boxes, or
ends the process (its issue 55).
"""

import contextlib
import functools
import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


_AS_PIL = ":fancy_upsampling=1 :fast_idct=0"

Box = tuple[int, int, int, int]  # top, left, height, width


@functools.lru_cache(maxsize=1)
def host_decoder(process: int) -> Callable[[bytes, Box, bool], np.ndarray | None] | None:
    """nvImageCodec on this thread's core: (data, box, grey) → pixels, or None where it can't.

    None if it isn't installed.

    Args:
        process: Its number: a decoder has threads, which don't survive a fork.
    """
    codec = _nvimgcodec()
    if codec is None:
        return None
    decoder = _cpu_decoder(codec)
    # neither the decoder nor the redirection is for several threads at once
    lock = threading.Lock()
    as_grey, as_rgb = _params(codec, grey=True), _params(codec, grey=False)

    def decode(data: bytes, box: Box, grey: bool) -> np.ndarray | None:
        try:
            stream = _stream(codec, data, box)
            with lock, _silent_stderr():  # libjpeg complains of bad files there
                image = decoder.decode(stream, params=as_grey if grey else as_rgb)
        except RuntimeError:  # no JPEG to it
            return None
        return None if image is None else np.asarray(image.cpu())

    return decode


@functools.lru_cache(maxsize=1)
def device_decoder(
    device: torch.device,
) -> Callable[[Sequence[tuple[bytes, Box]], bool], list[Tensor | None]]:
    """nvImageCodec on a device: (files and boxes, grey) → pixels (h, w, C), None where it can't.

    Raises:
        ValueError: it isn't installed, or doesn't find nvJPEG or the GPU.
    """
    codec = _nvimgcodec()
    if codec is None:
        raise ValueError(_hint("nvImageCodec isn't installed"))
    if device.type == "cpu":
        decoder = _cpu_decoder(codec)
    else:
        kinds = (kind for kind in codec.BackendKind.__members__.values() if kind.name != "CPU_ONLY")
        try:
            with _silent_stderr():
                decoder = codec.Decoder(
                    device_id=device.index or 0,
                    backends=[codec.Backend(kind) for kind in kinds],
                    options=_AS_PIL,
                )
        except RuntimeError as error:
            raise ValueError(f"nvImageCodec can't decode on {device}: {error}") from error

    def decode(files: Sequence[tuple[bytes, Box]], grey: bool) -> list[Tensor | None]:
        with _silent_stderr():
            streams = [codec.CodeStream(data) for data, _ in files]
            images = decoder.decode(streams, params=_params(codec, grey))
        return [
            None if image is None else _cut_out(image, box, device)
            for image, (_, box) in zip(images, files)
        ]

    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "jpeg")
    if decode([(file.getvalue(), (0, 0, 16, 16))], False) == [None]:
        raise ValueError(_hint("nvImageCodec doesn't find nvJPEG"))
    return decode


def _hint(what: str) -> str:
    return f"{what}, which decoding on a GPU needs; install hf_mae[gpu-decoding]"


def _cut_out(image: Any, box: Box, device: torch.device) -> Tensor:
    pixels = np.asarray(image) if device.type == "cpu" else image
    top, left, height, width = box
    # a copy, for whose memory it was may take it back
    return torch.as_tensor(pixels, device=device)[top : top + height, left : left + width].clone()


def _cpu_decoder(codec: Any) -> Any:
    return codec.Decoder(
        device_id=codec.NVIMGCODEC_DEVICE_CPU_ONLY,
        max_num_cpu_threads=1,
        backends=[codec.Backend(codec.BackendKind.CPU_ONLY)],
        options=_AS_PIL,
    )


def _stream(codec: Any, data: bytes, box: Box) -> Any:
    top, left, height, width = box
    region = codec.Region(top, left, top + height, left + width)
    return codec.CodeStream(data).get_sub_code_stream(region=region)


def _params(codec: Any, grey: bool) -> Any:
    color = codec.ColorSpec.GRAY if grey else codec.ColorSpec.SRGB
    return codec.DecodeParams(apply_exif_orientation=False, color_spec=color)


@functools.lru_cache
def _nvimgcodec() -> Any:
    """The module, or None; without what it and its plug-ins write to the terminal, past Python."""
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")  # read when it is imported
    with contextlib.suppress(ImportError), _silent_stderr():
        from nvidia import nvimgcodec

        return nvimgcodec
    return None


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
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
def _nowhere() -> int:
    return os.open(os.devnull, os.O_WRONLY)
