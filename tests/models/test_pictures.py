"""Values of every depth become pixels from 0 to 255 by one range, and none is lost."""

import numpy as np
import pytest
from helpers import decode
from PIL import Image

from hf_mae.errors import ImageDecodeError
from hf_mae.models.picture_files import Raster
from hf_mae.models.pictures import Values, picture_values, scale_values, to_pixels


RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)


def test_damaged_exif_doesn_t_matter(photos):
    class Damaged(Image.Image):
        def getexif(self):
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "as in ImageNet's n04532106_1553")

    image = Damaged()
    image.__setstate__(photos[0].__getstate__())
    assert np.array_equal(to_pixels(image, 3), np.asarray(photos[0]))


@pytest.mark.parametrize(
    ("values", "white"),
    [
        ((RAMP * 65535).astype(np.uint16), 65535),
        ((RAMP * 255).astype(np.int32), 255),
        ((RAMP * 255).astype(np.uint32), 255),
        ((RAMP * 255).round(), 255),
        (RAMP.astype(np.float32), 1),
        (RAMP.astype(np.float16), 1),
        (RAMP, 1),
        (RAMP > 0.5, 1),
        ((RAMP * 255).astype(np.uint8), 255),
    ],
)
def test_the_type_tells_the_range(values, white):
    pixels = to_pixels(values)
    assert pixels.shape == (64, 64, 1)
    assert pixels.dtype == (np.uint8 if white == 255 or values.dtype == bool else np.float32)
    expected = values.astype(float) * 255 / white
    np.testing.assert_allclose(pixels[..., 0], expected, rtol=0, atol=1e-4)
    assert len(np.unique(pixels)) == len(np.unique(values))


@pytest.mark.parametrize(
    "values",
    [
        (RAMP * 4095).astype(np.uint16),  # of 12 bits, or a dark picture of 16
        (RAMP * 2000 - 1000).astype(np.int16),
        (RAMP * 65535).astype(np.int32),
        RAMP * 1.05,
        RAMP * 1.001 - 0.001,
        RAMP * 200,
        RAMP.astype(np.float32) * 255,
    ],
)
def test_what_a_type_does_not_tell_is_refused(values):
    with pytest.raises(ValueError, match="don't tell what is black and white; say it by value_r"):
        to_pixels(values)
    with pytest.raises(ValueError, match=f"of {values.dtype} from {values.min():g} to"):
        to_pixels(values)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_one_range_for_all(dtype, channels):
    """Whatever an image's own greatest value, and whatever its type."""
    values = (RAMP * 4095).astype(dtype)
    for top in (1.0, 0.4):
        given = (values * top).astype(dtype)
        pixels = to_pixels(given, channels, Values(value_range=(0, 4095)))
        assert pixels.dtype == np.float32
        np.testing.assert_allclose(pixels[..., channels - 1], given / 4095 * 255, atol=1e-3)
        assert len(np.unique(pixels)) == len(np.unique(given))  # every grey level is there
    clipped = to_pixels((values - 100).astype(np.float32), 1, Values(value_range=(0, 2000)))
    assert (clipped.min(), clipped.max()) == (0, 255)


def test_a_file_s_own_range_yields_to_the_data_set_s():
    raster = Raster(np.array([[[0], [1000], [4000]]], np.int16), value_range=(0, 2000))
    assert to_pixels(raster)[0, :, 0].tolist() == [0, 127.5, 255]
    assert to_pixels(raster, values=Values(value_range=(0, 4000)))[0, :, 0].tolist() == [
        *(0, 63.75, 255)
    ]


def test_large_offsets_keep_their_digits():
    values = 1e9 + RAMP
    pixels = scale_values(values, (1e9, 1e9 + 1))
    np.testing.assert_allclose(pixels, RAMP * 255, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_channels(dtype):
    rng = np.random.default_rng(0)
    top = np.iinfo(dtype).max
    values = rng.integers(0, top + 1, (8, 9, 4)).astype(dtype)
    scale = 255 / top
    assert np.allclose(to_pixels(values, 3), values[..., :3] * scale)  # transparency is dropped
    assert np.allclose(to_pixels(values[..., 0], 3), values[..., [0, 0, 0]] * scale)
    grey = values[..., :3] @ [0.299, 0.587, 0.114]
    assert np.abs(to_pixels(values[..., :3], 1)[..., 0] - grey * scale).max() <= 1
    with pytest.raises(ValueError, match="an image of 7 bands can't become one of 3; choose 3"):
        to_pixels(np.zeros((8, 9, 7), dtype), 3, data_format="channels_last")
    with pytest.raises(ValueError, match="can't become (one of )?12"):
        to_pixels(Image.new("RGB", (4, 4)), 12)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_bands(dtype):
    values = np.random.default_rng(0).integers(0, 200, (8, 9, 6)).astype(dtype)
    for given in (values, np.moveaxis(values, 2, 0), Raster(values)):
        found, _ = picture_values(given, 3, bands=(4, 3, 1))
        assert np.array_equal(found, values[..., [3, 2, 0]])
        one, _ = picture_values(given, 3, bands=(5,))
        assert np.array_equal(one, values[..., [4, 4, 4]])
        with pytest.raises(ValueError, match="bands is 3, 7, and the image has 6, numbered from 1"):
            picture_values(given, 2, bands=(3, 7))
        with pytest.raises(ValueError, match="bands is 0, and"):
            picture_values(given, 1, bands=(0,))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_bands_of_pictures(mode, photos):
    picture = photos[0].convert(mode)
    colours = np.asarray(picture.convert("RGB"))
    found, _ = picture_values(picture, 3, bands=(3, 2, 1))
    assert np.array_equal(found, colours[..., ::-1])
    green, _ = picture_values(picture, 1, bands=(2,))
    assert np.array_equal(green[..., 0], colours[..., 1])


def test_grey_and_transparency_are_two_bands(photos):
    both = np.array(photos[0].convert("LA"))
    both[..., 1] = 200
    picture = Image.fromarray(both)
    assert np.array_equal(picture_values(picture, 2)[0], both)
    assert np.array_equal(picture_values(picture, 2, bands=(2, 1))[0], both[..., ::-1])
    assert (picture_values(picture, 3, bands=(2,))[0] == 200).all()
    assert np.array_equal(picture_values(picture, 1)[0], both[..., :1])


def test_bands_that_are_no_colours_are_not_mixed():
    """Four bands are no colours with transparency, and three pages no red, green and blue."""
    for bands, wanted in ((4, 3), (4, 1), (3, 1), (2, 1), (5, 3)):
        for dtype in (np.uint8, np.uint16):
            with pytest.raises(ValueError, match=f"{bands} bands can't become one of {wanted}; ch"):
                to_pixels(Raster(np.zeros((8, 9, bands), dtype)), wanted)
    assert to_pixels(Raster(np.zeros((8, 9, 1), np.uint16)), 3).shape == (8, 9, 3)
    colours = Raster(np.full((8, 9, 3), 20000, np.uint16), is_colour=True)
    assert to_pixels(colours, 1)[0, 0, 0] == pytest.approx(20000 / 257, abs=0.1)


def test_values_that_are_missing_are_black():
    values = np.full((8, 9, 1), 500, np.int16)
    values[:4] = -9999
    values[4] = 1000
    raster = Raster(values, missing=values == -9999)
    array, _ = picture_values(raster)
    assert (array.min(), array.max()) == (500, 1000)  # as a sample of the data set sees it
    pixels = to_pixels(raster, 3, Values(value_range=(0, 1000)))
    assert np.allclose(pixels[:4], 0)
    assert np.allclose(pixels[4], 255)
    assert np.allclose(pixels[5:], 127.5)


def test_arrays_are_pictures_of_any_kind():
    rng = np.random.default_rng(0)
    fractions = rng.random((8, 8, 3))
    assert np.abs(decode(fractions, 3) - fractions * 255).max() <= 0.5
    colours = rng.integers(0, 256, (8, 8, 4), dtype=np.uint8)
    assert np.array_equal(to_pixels(colours, 3), colours[..., :3])  # transparency is dropped
    assert np.array_equal(decode(colours[..., 0], 3), colours[..., [0, 0, 0]])
    with pytest.raises(ImageDecodeError, match="4 bands can't become one of 3"):  # of a data set
        decode(colours, 3)


@pytest.mark.parametrize("shape", [(9, 9, 103), (103, 9, 9), (8, 8, 12), (12, 8, 8), (40, 33, 5)])
def test_which_side_has_the_bands(shape):
    """Patches of many bands have fewer rows than bands."""
    values = np.arange(np.prod(shape)).reshape(shape)
    expected = values[..., [0, 2]] if shape[0] != 103 and shape[0] != 12 else values[[0, 2]]
    found, _ = picture_values(values, 2, bands=(1, 3))
    last = expected if expected.shape[-1] == 2 else np.moveaxis(expected, 0, -1)
    assert np.array_equal(found, last)
