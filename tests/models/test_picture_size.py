"""Pictures larger than allowed: their memory stays bounded, and the error names the limit."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from helpers import ROOT, dicom, encoded
from PIL import Image

from hf_mae.data.decoding import open_image, whole_pixels
from hf_mae.errors import ImageDecodeError
from hf_mae.models.picture_files import read_picture
from hf_mae.models.pictures import picture_values


SIZE = (400, 300)


def scene(mode="RGB"):
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    pixels = np.stack([rows % 256, columns % 256, (rows + columns) % 256], -1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def tiff(array):
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array)
    return buffer.getvalue()


TOO_LARGE = {
    "png": lambda: encoded(scene(), "png"),
    "png of 16 bits": lambda: encoded(Image.fromarray(np.zeros((300, 400), np.uint16)), "png"),
    "webp": lambda: encoded(scene(), "webp"),
    "tiff": lambda: encoded(scene(), "tiff"),
    "gif": lambda: encoded(scene("L"), "gif"),
    "progressive jpeg": lambda: encoded(scene(), "jpeg", progressive=True),
    "npy": lambda: npy(np.zeros((400, 300), np.float32)),
    "npy of bands": lambda: npy(np.zeros((40, 100, 100), np.uint8)),
    "pages of tiff": lambda: tiff(np.zeros((40, 100, 100), np.uint16)),
    "dicom": lambda: dicom(np.zeros((300, 400), np.uint16)),
    "frames of dicom": lambda: dicom(np.zeros((40, 100, 100), np.uint16)),
}


@pytest.mark.parametrize("kind", TOO_LARGE)
def test_what_is_too_large_is_refused_by_the_name_of_the_limit(kind):
    if "dicom" in kind:
        pytest.importorskip("pydicom")
    data = TOO_LARGE[kind]()
    read_picture(data, 120_000)
    with pytest.raises(ImageDecodeError, match="max_image_pixels is 50,000; raise that, or make"):
        open_image({"bytes": data, "path": None}, 1, max_pixels=50_000)


@pytest.mark.parametrize(("limit", "scale"), [(120_000, 1), (119_999, 2), (20_000, 4), (2_000, 8)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_comes_at_the_largest_scale_that_is_allowed(mode, limit, scale):
    data = encoded(scene(mode), "jpeg", quality=95)
    pixels = whole_pixels(open_image({"bytes": data, "path": None}, 3, max_pixels=limit))
    assert pixels.shape == (-(-300 // scale), -(-400 // scale), 3)
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    expected = np.asarray(whole.resize(pixels.shape[1::-1], Image.Resampling.BOX), np.float32)
    assert np.abs(pixels - expected).mean() < 8
    with pytest.raises(ImageDecodeError, match="max_image_pixels is 1,000"):
        open_image({"bytes": data, "path": None}, 3, max_pixels=1_000)


def test_a_turned_jpeg_is_upright_at_reduced_scale():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(scene(), "jpeg", exif=exif)
    values, _ = picture_values(read_picture(data, 100_000), 3)
    assert values.shape == (200, 150, 3)


def png_header(width, height):
    """A PNG of a few hundred bytes that says that it is so large."""

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def npy_header(shape):
    buffer = io.BytesIO()
    fields = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def jpeg_header(side):
    data = bytearray(encoded(Image.new("RGB", (64, 64)), "jpeg"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", side, side)
    return bytes(data)


PEAK = """
import resource, sys, warnings
warnings.simplefilter("error")
from hf_mae.data.decoding import open_image, whole_pixels
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try: print(whole_pixels(open_image({"bytes": None, "path": sys.argv[1]}, 3)).shape)
except RuntimeError as error: print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize(
    ("name", "data", "most"),
    [
        ("lies.png", png_header(65500, 65500), 30),
        ("lies.npy", npy_header((65500, 65500)), 30),
        ("lies.jpg", jpeg_header(65500), 700),
        ("large.jpg", None, 900),
        ("large.png", None, 30),
        ("large.webp", None, 60),
    ],
)
def test_the_memory_of_a_bomb_is_bounded(name, data, most, tmp_path):
    """169 megapixels take 2.3 GiB as a PNG file, if they are decoded."""
    file = tmp_path / name
    if data is None:
        Image.new("RGB", (13000, 13000), (200, 30, 40)).save(file)
    else:
        file.write_bytes(data)
    command = [sys.executable, "-c", PEAK, str(file)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    *said, peak = ran.stdout.splitlines()
    assert float(peak) < most, ran.stdout
    if name == "large.jpg":
        assert said == ["(6500, 6500, 3)"]
    elif name != "lies.jpg":
        assert "max_image_pixels is 100,000,000" in said[0]


def test_the_limit_may_be_higher_than_pils_own():
    """PIL would warn of half as many, and refuse more than it calls a bomb."""
    pil = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = 1000
    try:
        for fmt in ("png", "jpeg"):
            found = open_image({"bytes": encoded(scene(), fmt), "path": None}, 3)
            assert whole_pixels(found).shape == (300, 400, 3)
        assert Image.MAX_IMAGE_PIXELS == 1000
    finally:
        Image.MAX_IMAGE_PIXELS = pil
