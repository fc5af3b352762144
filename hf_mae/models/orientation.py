# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Which way up a picture is, as cameras note it in EXIF, and how it is turned."""

import contextlib

import numpy as np
from PIL import Image

from ..errors import DECODE_ERRORS


_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# (flip rows, flip columns, transpose): what turns the stored pixels of each orientation upright
ARRAY_TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (True, True, False),
    4: (True, False, False),
    5: (False, False, True),
    6: (True, False, True),
    7: (True, True, True),
    8: (False, True, True),
}


def exif_orientation(picture: Image.Image) -> int:
    """Reads a picture's orientation: 1 to 8; 1, which is upright, where damaged data don't say.

    PIL's own `exif_transpose` fails on more of them.
    """
    with contextlib.suppress(*DECODE_ERRORS, AttributeError):
        return picture.getexif().get(0x0112, 1)
    return 1


def upright(picture: Image.Image) -> Image.Image:
    """Decodes a picture and turns it by its orientation."""
    picture.load()
    turn = _TRANSPOSES.get(exif_orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def upright_values(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turns values (H, W, C) of an orientation."""
    flip_rows, flip_columns, transpose = ARRAY_TURNS.get(orientation, ARRAY_TURNS[1])
    if flip_rows:
        values = values[::-1]
    if flip_columns:
        values = values[:, ::-1]
    return values.swapaxes(0, 1) if transpose else values
