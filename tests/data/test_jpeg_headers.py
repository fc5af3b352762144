"""Headers of plain JPEG files are read without PIL, which judges all others."""

import io
import warnings

import numpy as np
import pytest
from helpers import encoded
from PIL import Image

from hf_mae.data.decoding import _plain_frame, open_image, whole_pixels
from hf_mae.errors import DECODE_ERRORS, ImageDecodeError
from hf_mae.models.pictures import to_pixels


def picture(mode="RGB"):
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return small.resize((45, 30), Image.Resampling.BICUBIC).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": "x"}, {"exif": b""}])
def test_pixels_are_pils(mode, options):
    exif = Image.Exif()
    exif[0x0112] = 6
    if "exif" in options:
        options = {"exif": exif}
    data = encoded(picture(mode), "jpeg", **options)
    is_plain = mode != "CMYK" and not options.keys() & {"exif", "progressive"}
    assert (_plain_frame(data) is not None) == is_plain

    found = whole_pixels(open_image({"bytes": data}, 3))
    assert np.array_equal(found, to_pixels(Image.open(io.BytesIO(data)), 3))


def test_no_damaged_header_is_judged_better_than_by_pil():
    data = encoded(picture(), "jpeg")
    refused = 0
    for position in range(2, data.index(b"\xff\xda")):
        for byte in (0, 1, 0x11, 0xFF):
            damaged = data[:position] + bytes([byte]) + data[position + 1 :]
            try:
                with warnings.catch_warnings(action="ignore"):
                    expected = to_pixels(Image.open(io.BytesIO(damaged)), 3)
            except DECODE_ERRORS:
                refused += 1
                with pytest.raises(ImageDecodeError):
                    whole_pixels(open_image({"bytes": damaged}, 3))
                continue
            found = whole_pixels(open_image({"bytes": damaged}, 3))
            assert found.shape == expected.shape
            assert np.array_equal(found, expected), position
    assert refused > 100
