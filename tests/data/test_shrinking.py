"""Smaller files are read to the pixels of the originals, resized as training resizes."""

import io

import numpy as np
import pytest
import tifffile
from helpers import dicom, encoded
from PIL import Image
from transformers.image_utils import SizeDict

from hf_mae.data.decoding import open_image, open_value
from hf_mae.data.shrinking import shrink_image
from hf_mae.errors import ImageDecodeError
from hf_mae.models.image_processing_mae import MAEImageProcessorPil
from hf_mae.models.picture_files import Raster
from hf_mae.models.pictures import Values, picture_values


def waves(height, width, channels, low=0.0, high=255.0):
    """Smooth values that differ in every row, column and channel."""
    rows, columns, bands = np.ogrid[:height, :width, :channels]
    wave = np.sin(rows / 23 + bands) * np.cos(columns / 31 + 2 * bands)
    return low + (wave + 1) / 2 * (high - low)


def photo(mode="RGB", height=300, width=400):
    return Image.fromarray(waves(height, width, 3).astype(np.uint8)).convert(mode)


def file(data, path=None):
    return {"bytes": data, "path": path}


def shrunk_like(value, num_channels, values=None, edge=60):
    """(pixels of the shrunk file, those of the original resized by the image processor)."""
    shrunk = shrink_image(value, edge, quality=95)
    assert shrunk.is_resized
    small = open_value(file(shrunk.data))[0]
    assert min(picture_values(small, num_channels, values and values.bands)[0].shape[:2]) == edge
    values = values or Values()
    found = _pixels(file(shrunk.data), num_channels, values)
    whole = _pixels(value, num_channels, values)
    size = {"height": found.shape[0], "width": found.shape[1]}
    processor = MAEImageProcessorPil(do_normalize=False, do_rescale=False, do_center_crop=False)
    resized = processor.resize(np.moveaxis(whole, -1, 0), SizeDict(**size), resample=3)
    return shrunk, found, np.moveaxis(resized, 0, -1)


def _pixels(value, num_channels, values):
    image = open_image(value, num_channels, values)
    return np.asarray(image if isinstance(image, np.ndarray) else image.whole)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "YCbCr"])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_photographs_become_jpeg(mode, num_channels):
    value = file(encoded(photo(mode), "jpeg", quality=95))
    shrunk, found, expected = shrunk_like(value, num_channels)
    assert shrunk.ending == ".jpg"
    assert Image.open(io.BytesIO(shrunk.data)).size == (80, 60)
    assert np.abs(found.astype(int) - expected).mean() < 8  # JPEG's; of a turned one it is 60
    assert shrunk.source_bytes == len(value["bytes"])


def test_pixels_are_pils(tmp_path):
    drawing = photo().quantize(16)
    shrunk = shrink_image(file(encoded(drawing)), 60, quality=90)
    expected = drawing.convert("RGB").resize((80, 60), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(shrunk.data))), np.asarray(expected))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_gone(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    value = file(encoded(photo(), "jpeg", quality=95, exif=exif))
    shrunk, found, expected = shrunk_like(value, 3)
    assert found.shape == ((80, 60, 3) if orientation > 4 else (60, 80, 3))
    assert np.abs(found.astype(int) - expected).mean() < 8
    assert not Image.open(io.BytesIO(shrunk.data)).getexif()


@pytest.mark.parametrize("kind", ["palette", "transparent palette", "RGBA", "LA", "1", "grey tRNS"])
@pytest.mark.parametrize("num_channels", [1, 3, 4])
def test_drawings_and_transparency_become_png(kind, num_channels):
    alpha = Image.fromarray(waves(300, 400, 2)[..., 1].astype(np.uint8))
    options, picture = {}, photo()
    if "palette" in kind:
        picture = picture.quantize(16)
        options = {"transparency": 3} if "transparent" in kind else {}
    elif kind == "grey tRNS":
        picture, options = picture.convert("L"), {"transparency": 100}
    elif kind == "1":
        picture = picture.convert("1")
    else:
        picture = picture.convert(kind)
        picture.putalpha(alpha)
    shrunk, found, expected = shrunk_like(file(encoded(picture, **options)), num_channels)
    assert shrunk.ending == ".png"
    # luminance is rounded before the resize or behind it
    assert np.abs(found.astype(int) - expected).max() <= (2 if num_channels == 1 else 0)


def test_small_files_stay_as_they_are():
    exif = Image.Exif()
    exif[0x0112] = 6
    dicom_like = io.BytesIO()
    np.save(dicom_like, waves(50, 70, 5).astype(np.float32))
    cases = {
        ".jpg": encoded(photo(height=60, width=90), "jpeg", exif=exif),
        ".png": encoded(Image.fromarray(waves(40, 90, 1)[..., 0].astype(np.uint16) * 200)),
        ".webp": encoded(photo(height=60, width=90), "webp"),
        ".npy": dicom_like.getvalue(),
    }
    for ending, data in cases.items():
        shrunk = shrink_image(file(data, "wrong.ending"), 60, quality=1)
        assert (shrunk.data, shrunk.ending, shrunk.is_resized) == (data, ending, False)


def tiff(values, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return file(buffer.getvalue())


DEEP = {
    "PNG of 16 bits": lambda: file(
        encoded(Image.fromarray(waves(300, 400, 1, 0, 65535)[..., 0].astype(np.uint16)))
    ),
    "TIFF of 16 bits in colour": lambda: tiff(
        waves(300, 400, 3, 0, 65535).astype(np.uint16), photometric="rgb"
    ),
    "TIFF of fractions": lambda: tiff(waves(300, 400, 1, 0, 1)[..., 0].astype(np.float32)),
    "TIFF of 5 bands": lambda: tiff(
        waves(300, 400, 5, 0, 60000).astype(np.uint16),
        photometric="minisblack",
        planarconfig="contig",
    ),
    "array of fractions": lambda: waves(300, 400, 3, 0, 1).astype(np.float16),
    "array, channels first": lambda: np.moveaxis(waves(300, 400, 3, 0, 1), -1, 0),
    "long numbers": lambda: waves(300, 400, 3).astype(np.int64),
}


@pytest.mark.parametrize("kind", DEEP)
def test_deeper_values_stay(kind):
    value = DEEP[kind]()
    bands = [5, 1, 2] if "5 bands" in kind else None
    shrunk, found, expected = shrunk_like(value, 3, Values(bands=bands))
    assert shrunk.ending == {"PNG": ".png", "TIF": ".tif"}.get(kind[:3], ".npy") or "colour" in kind
    assert found.dtype == expected.dtype
    assert np.abs(found.astype(float) - expected).max() <= (1 if "long" in kind else 0.13)
    assert picture_values(open_value(file(shrunk.data))[0], 3, bands)[0].dtype == (
        picture_values(open_value(value)[0], 3, bands)[0].dtype
    )


@pytest.mark.parametrize("kind", ["12 bits", "window", "CT", "inverted", "padding"])
def test_dicom_keeps_its_values_and_range(kind):
    fields = {
        "12 bits": {},
        "window": {"WindowCenter": 2000, "WindowWidth": 1000},
        "CT": {"RescaleSlope": 1, "RescaleIntercept": -1024},
        "inverted": {"kind": "MONOCHROME1"},
        "padding": {"PixelPaddingValue": 0},
    }[kind]
    stored = waves(300, 400, 1, 100, 4000)[..., 0].round()
    if kind == "padding":
        stored[:, :150] = 0
    value = file(dicom(stored.astype(np.uint16), 12, **fields))
    values = Values(value_range=(-1000, 1000)) if kind == "CT" else Values()
    shrunk, found, expected = shrunk_like(value, 3, values)
    difference = np.abs(found - expected)
    if kind == "padding":  # a border of a pixel is resized otherwise
        assert not found[:, :28].any()
        difference = difference[:, [*range(28), *range(33, 80)]]
    if kind in ("window", "CT"):  # what lies beyond is clipped before the resize or behind it
        assert difference.mean() < 1
    else:
        assert difference.max() <= 0.1
    original, small = open_value(value)[0], open_value(file(shrunk.data))[0]
    assert isinstance(small, Raster)
    assert small.value_range == original.value_range
    assert not np.mod(picture_values(small)[0], 1).any()  # whole numbers stay such


def test_8_bit_files_of_their_own_range_keep_it():
    stored = waves(300, 400, 1)[..., 0].astype(np.uint8)
    value = file(dicom(stored, 8, WindowCenter=100, WindowWidth=100))
    _, found, expected = shrunk_like(value, 1)
    assert np.abs(found - expected).mean() < 2
    assert found.max() - found.min() > 250


def test_arrays_of_8_bits_become_pictures():
    small = shrink_image(waves(40, 50, 3).astype(np.uint8), 60, quality=90)
    assert (small.ending, small.is_resized) == (".png", False)
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(small.data))), waves(40, 50, 3).astype(np.uint8)
    )
    large = shrink_image(np.moveaxis(waves(300, 400, 3), -1, 0).astype(np.uint8), 60, quality=90)
    assert Image.open(io.BytesIO(large.data)).size == (80, 60)


def test_whole_numbers_stay_within_the_extremes():
    """Bicubic filters overshoot; a value beyond 4095 would look like one of 14 bits."""
    steps = np.zeros((300, 400), np.uint16)
    steps[:, 200:] = 4095
    shrunk = shrink_image(file(encoded(Image.fromarray(steps))), 61, quality=90)
    values, _ = picture_values(open_value(file(shrunk.data))[0], 1)
    assert (values.min(), values.max()) == (0, 4095)


def test_long_pictures_keep_their_shape():
    shrunk = shrink_image(file(encoded(photo(height=300, width=1000), "jpeg")), 64, quality=90)
    assert Image.open(io.BytesIO(shrunk.data)).size == (213, 64)


def test_what_cant_be_read():
    cut = encoded(photo(), "jpeg")[:3000]
    nothing = np.full((300, 400, 3), np.nan)
    for value in (file(b"abc"), file(cut), file(None), nothing, np.zeros(7), file(None, "no.png")):
        with pytest.raises(ImageDecodeError) as caught:
            shrink_image(value, 60, quality=90)
        assert "\n" not in str(caught.value)
    messages = []
    for _ in range(2):
        with pytest.raises(ImageDecodeError, match="cannot identify image file$") as caught:
            shrink_image(file(b"abc"), 60, quality=90)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]  # no address in memory
