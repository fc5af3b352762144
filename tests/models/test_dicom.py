"""DICOM: values after rescaling, windows, padding and frames, against what was written."""

import io

import numpy as np
import pydicom
import pytest
from helpers import dicom

from hf_mae.models.picture_files import Raster, read_picture
from hf_mae.models.pictures import Values, picture_values, to_pixels


RNG = np.random.default_rng(0)


def values_of(data, num_channels=None):
    return picture_values(read_picture(data), num_channels)[0]


def test_ct_in_hounsfield_units():
    stored = RNG.integers(0, 4096, (40, 33)).astype(np.int16)
    data = dicom(stored, 12, RescaleSlope=2, RescaleIntercept=-1024)
    raster = read_picture(data)
    assert isinstance(raster, Raster)
    assert np.array_equal(raster.values[..., 0], stored * 2.0 - 1024)
    assert raster.value_range is None  # whatever bits there are, they aren't a range of HU
    windowed = dicom(
        stored, 12, RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=[40, 300], WindowWidth=400
    )
    assert read_picture(windowed).value_range == (40 - 0.5 - 199.5, 40 - 0.5 + 199.5)
    lung = to_pixels(read_picture(windowed), values=Values(value_range=(-1000, 200)))
    expected = ((stored * 2.0 - 1024 + 1000) * (255 / 1200)).clip(0, 255)
    np.testing.assert_allclose(lung[..., 0], expected, atol=1e-3)
    signed = dicom((stored - 2048).astype(np.int16), 12, signed=True)
    assert read_picture(signed).value_range == (-2048, 2047)


def test_white_may_be_the_lowest():
    """A MONOCHROME1 file is the other's negative, window and all."""
    stored = RNG.integers(0, 4096, (40, 33)).astype(np.uint16)
    window = {"WindowCenter": 1000, "WindowWidth": 1500, "VOILUTFunction": "LINEAR_EXACT"}
    plain = to_pixels(read_picture(dicom(stored, 12, **window)))
    inverse = to_pixels(read_picture(dicom(stored, 12, kind="MONOCHROME1", **window)))
    np.testing.assert_allclose(inverse, 255 - plain, atol=1e-3)
    assert len(np.unique(plain)) > 300


def test_colours_and_kinds_of_dicom():
    colours = RNG.integers(0, 256, (40, 33, 3)).astype(np.uint8)
    assert np.array_equal(values_of(dicom(colours, 8, kind="RGB"), 3), colours)
    with pytest.raises(ValueError, match="DICOM file of kind PALETTE COLOR"):
        read_picture(dicom(colours[..., 0].copy(), 8, kind="PALETTE COLOR"))


def test_files_of_different_slopes_have_no_range_of_their_own():
    """As PET has it: black and white by each file's slope would make all alike."""
    stored = np.full((40, 33), 1000, np.uint16)
    for slope in (1, 3):
        raster = read_picture(dicom(stored, RescaleSlope=slope, RescaleIntercept=0))
        assert raster.value_range is None
        assert (raster.values == 1000 * slope).all()


def group(**fields):
    item = pydicom.Dataset()
    for name, value in fields.items():
        setattr(item, name, value)
    return pydicom.Sequence([item])


def test_frames_and_their_groups():
    """Enhanced files keep slope, intercept and window in functional groups."""
    stored = RNG.integers(0, 2000, (3, 40, 33)).astype(np.uint16)
    rescaling = group(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")
    window = group(WindowCenter=40, WindowWidth=400)
    shared = group(PixelValueTransformationSequence=rescaling, FrameVOILUTSequence=window)
    raster = read_picture(dicom(stored, 12, SharedFunctionalGroupsSequence=shared))
    assert np.array_equal(raster.values, np.moveaxis(stored, 0, -1) - 1024.0)
    assert raster.value_range == (-160, 239)
    first, second = (
        group(RescaleSlope=1, RescaleIntercept=0),
        group(RescaleSlope=2, RescaleIntercept=0),
    )
    frames = [
        group(PixelValueTransformationSequence=first)[0],
        group(PixelValueTransformationSequence=second)[0],
    ]
    for item in (first[0], second[0]):
        item.RescaleType = "US"
    with pytest.raises(ValueError, match="frames differ in PixelValueTransformationSequence"):
        read_picture(dicom(stored, 12, PerFrameFunctionalGroupsSequence=pydicom.Sequence(frames)))


def test_padding_is_black():
    stored = RNG.integers(100, 3000, (40, 33)).astype(np.int16)
    stored[:5], stored[5] = -2000, -1990
    fields = {"RescaleSlope": 1, "RescaleIntercept": -24, "PixelPaddingValue": -2000}
    for limit, rows in ((None, 5), (-1990, 6)):
        if limit:
            fields["PixelPaddingRangeLimit"] = limit
        raster = read_picture(dicom(stored, signed=True, **fields))
        pixels = to_pixels(raster, values=Values(value_range=(-2100, 3000)))[..., 0]
        assert (pixels[:rows] == 0).all()
        assert (pixels[rows:] > 0).all()


def test_files_without_a_picture_are_refused():
    whole = dicom(RNG.integers(0, 4096, (40, 33)).astype(np.uint16), 12)
    for name in ("PhotometricInterpretation", "SamplesPerPixel", "BitsStored", "Rows", "PixelData"):
        slide = pydicom.dcmread(io.BytesIO(whole))
        delattr(slide, name)
        buffer = io.BytesIO()
        slide.save_as(buffer)
        with pytest.raises(ValueError, match="DICOM file without a readable picture"):
            read_picture(buffer.getvalue())


def test_without_the_preamble():
    stored = RNG.integers(0, 4096, (40, 33)).astype(np.uint16)
    for start in (128 + 4, 0):
        bare = dicom(stored, 12)[start:]
        assert np.array_equal(values_of(bare)[..., 0], stored)
