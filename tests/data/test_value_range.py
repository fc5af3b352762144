"""What a sample of a data set tells of its values, and what it doesn't."""

import numpy as np
import pytest
import tifffile
from helpers import TINY
from PIL import Image
from transformers import BitImageProcessor

from hf_mae import (
    CenterCropTransform,
    ImageSamples,
    MAEConfig,
    MAEImageProcessor,
    PretrainingTransform,
    load_image_dataset,
    load_processor,
)
from hf_mae.data.transforms import LinearProbeTransform, ProcessorTransform
from hf_mae.data.value_range import check_value_range, fit_value_range


RAMP = np.linspace(0, 1, 40 * 36).reshape(40, 36)
CONFIG = MAEConfig(**{**TINY, "num_channels": 1})


def images(folder, arrays):
    """A data set of TIFF files."""
    folder.mkdir()
    for number, array in enumerate(arrays):
        options = {"photometric": "minisblack"}
        if array.ndim == 3:
            options["planarconfig"] = "contig"
        tifffile.imwrite(folder / f"{number:03}.tif", array, **options)
    return load_image_dataset(train_dir=folder, train_val_split=0)["train"]


def fitted(folder, arrays, wanted=None, own=None, bands=None, num_channels=1):
    processor = MAEImageProcessor.from_model_config(CONFIG)
    processor.value_range, processor.bands = own, bands
    line = fit_value_range(processor, images(folder, arrays), num_channels, wanted)
    return processor.value_range, line


@pytest.mark.parametrize(
    ("dtype", "top", "white"),
    [
        (np.uint8, 255, None),
        (np.uint8, 9, None),
        (bool, 1, None),
        (np.uint16, 200, 255),
        (np.uint16, 1000, 1023),
        (np.uint16, 3900, 4095),
        (np.uint16, 9000, 16383),
        (np.uint16, 65535, 65535),
        (np.int16, 3900, 4095),
        (np.int32, 255, 255),
        (np.float32, 1, 1),
        (np.float64, 0.4, 1),
    ],
)
def test_what_a_sample_tells(dtype, top, white, tmp_path):
    """The darkest image of a set is no reason to take it for another depth."""
    arrays = [(RAMP * top * share).astype(dtype) for share in (1, 0.05, 0.01, 0)]
    found, line = fitted(tmp_path / "a", arrays)
    assert found == (None if white is None else [0, white])
    if white is None:
        assert line == "8 bits, 0 is black and 255 white (a sample of 4 images)"
    else:
        assert f"0 is black and {white:,} white (told by the sample" in line
        assert line.startswith(np.dtype(dtype).name)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ([(RAMP * 2000 - 1000).astype(np.int16)], "int16 from -1,000 to 1,000 in a sample of 1"),
        ([RAMP * 1.05, RAMP], "float64 from 0 to 1.05"),
        ([(RAMP - 0.01).astype(np.float32)], "float32 from -0.01 to 0.99"),
        ([RAMP * 255.5], "float64 from 0 to 255.5"),
        ([(RAMP * 9).astype(np.uint16)], "uint16 from 0 to 9"),
        ([(RAMP * 70_000).astype(np.int32)], "int32 from 0 to 70,000"),
        ([RAMP * 0.01], "float64 from 0 to 0.01"),
    ],
)
def test_what_a_sample_does_not_tell(arrays, said, tmp_path):
    with pytest.raises(ValueError, match="give --value_range LOW HIGH for all") as caught:
        fitted(tmp_path / "a", arrays)
    assert said in str(caught.value)


def test_a_set_of_two_depths_is_refused(tmp_path):
    arrays = [(RAMP * 255).astype(np.uint8), (RAMP * 4095).astype(np.uint16)]
    with pytest.raises(ValueError, match=r"uint16: 1, uint8: 1\); bring them to one depth"):
        fitted(tmp_path / "a", arrays)
    with pytest.raises(ValueError, match="fractions and whole numbers, which have no range in com"):
        fitted(tmp_path / "b", [arrays[1], RAMP], wanted="auto")


def test_held_out_images_of_another_depth_are_refused(tmp_path):
    eight, twelve = (RAMP * 255).astype(np.uint8), (RAMP * 4095).astype(np.uint16)
    processor = MAEImageProcessor.from_model_config(CONFIG)
    check_value_range(processor, images(tmp_path / "a", [eight]), 1)
    with pytest.raises(ValueError, match="those to train on have 8 bits; bring them to one depth"):
        check_value_range(processor, images(tmp_path / "b", [twelve]), 1)
    processor.value_range = [0, 4095]
    check_value_range(processor, images(tmp_path / "c", [twelve]), 1)
    with pytest.raises(ValueError, match="the image has 8 bits"):
        check_value_range(processor, images(tmp_path / "d", [eight]), 1)
    with pytest.raises(ValueError, match="of the training images are values from 0 to 4095, and"):
        check_value_range(processor, images(tmp_path / "e", [twelve * 15]), 1)


def test_a_fourth_channel_that_is_made_up_is_said(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    Image.new("RGBA", (20, 20)).save(tmp_path / "b.png")
    dataset = load_image_dataset(train_dir=tmp_path, train_val_split=0)["train"]
    processor = MAEImageProcessor.from_model_config(CONFIG)
    line = fit_value_range(processor, dataset, num_channels=4)
    assert line.endswith("; 1 of them have 3 channels, the fourth is made up: 255")
    assert "made up" not in fit_value_range(processor, dataset, num_channels=3)


def test_an_explicit_range_is_taken_to_the_digit(tmp_path):
    arrays = [(RAMP * 2 + 1234567).astype(np.float64)]
    assert fitted(tmp_path / "a", arrays, wanted=[1234567, 1234569])[0] == [1234567, 1234569]


def test_what_is_wanted(tmp_path):
    arrays = [(RAMP * 2000 - 1000).astype(np.int16), (RAMP * 200).astype(np.int16)]
    found, line = fitted(tmp_path / "a", arrays, wanted=[-500, 500])
    assert found == [-500, 500]
    assert "int16 from -1,000 to 1,000 in a sample of 2 images; -500 is black and 500 white" in line
    assert "25.00% lie beyond and are clipped" in line or "24.9" in line
    found, line = fitted(tmp_path / "b", arrays, wanted="auto")
    assert found[0] == pytest.approx(-998, abs=5)
    assert found[1] == pytest.approx(998, abs=5)
    assert "by percentiles" in line
    eight = [(RAMP * 90 + 20).astype(np.uint8)]
    assert fitted(tmp_path / "c", eight, wanted="auto")[0] == pytest.approx([20, 109], abs=1)
    assert fitted(tmp_path / "d", eight, wanted=[0, 100])[0] == [0, 100]
    with pytest.raises(ValueError, match="has 8 bits, and black and white are 0 and 4,095"):
        fitted(tmp_path / "e", eight, wanted=[0, 4095])
    with pytest.raises(ValueError, match="auto finds no range"):
        fitted(tmp_path / "f", [np.full((40, 36), 7, np.uint16)], wanted="auto")


def test_a_model_s_own_range(tmp_path):
    twelve = [(RAMP * 3000).astype(np.uint16)]
    assert fitted(tmp_path / "a", twelve, own=[0, 4095])[0] == [0, 4095]
    assert fitted(tmp_path / "b", twelve, own=[0, 4095], wanted=[0, 3000])[0] == [0, 3000]
    with pytest.raises(ValueError, match="model was trained on values from 0 to 65535, and the im"):
        fitted(tmp_path / "c", twelve, own=[0, 65535])
    with pytest.raises(ValueError, match="trained on values from 0 to 4095"):  # most lie beyond
        fitted(tmp_path / "f", [(RAMP * 60000).astype(np.uint16)], own=[0, 4095])
    with pytest.raises(ValueError, match="trained on values from -1000 to 1000"):
        fitted(tmp_path / "d", [(RAMP * 70 + 1000).astype(np.uint16)], own=[-1000, 1000])
    with pytest.raises(ValueError, match="has 8 bits"):
        fitted(tmp_path / "e", [(RAMP * 255).astype(np.uint8)], own=[0, 400])


def test_damaged_images_are_passed_over(tmp_path):
    folder = tmp_path / "a"
    fitted(folder, [(RAMP * 3000).astype(np.uint16)] * 3)
    (folder / "000.tif").write_bytes(b"II*\0" + bytes(40))
    dataset = load_image_dataset(train_dir=folder, train_val_split=0)["train"]
    processor = MAEImageProcessor.from_model_config(CONFIG)
    assert "a sample of 2 images; 0 is black and 4,095" in fit_value_range(processor, dataset, 1)
    for path in folder.iterdir():
        path.write_bytes(b"II*\0" + bytes(40))
    with pytest.raises(ValueError, match="none of a sample of the images can be read: "):
        fit_value_range(processor, dataset, 1)


def test_only_the_bands_that_are_taken_count(tmp_path):
    array = np.dstack([RAMP * 9000, RAMP * 300, RAMP * 900]).astype(np.uint16)
    assert fitted(tmp_path / "a", [array], bands=[3, 2], num_channels=2)[0] == [0, 1023]


@pytest.mark.parametrize("transform", [PretrainingTransform, LinearProbeTransform])
def test_samples_keep_all_levels(transform, tmp_path):
    """As float32, by the range of the transform's processor."""
    arrays = [(RAMP * 4095).astype(np.uint16), (RAMP * 400).astype(np.uint16)]
    dataset = images(tmp_path / "a", arrays)
    processor = MAEImageProcessor.from_model_config(CONFIG)
    processor.value_range, processor.do_resize = [0, 4095], False
    samples = ImageSamples(dataset, transform(CONFIG, processor), 1, seed=0)
    pixels = samples[0]["images"]
    assert pixels.dtype.is_floating_point
    assert len(np.unique(pixels.numpy().round(3))) > 300  # of 1,024
    assert samples[1]["images"].max() < 26


def test_every_way_to_pixel_values_is_one(tmp_path):
    """The training's, the evaluation's, and the processor's of a path, bytes, or an array."""
    arrays = [(RAMP * 4095 * share).astype(np.uint16) for share in (1, 0.3)]
    dataset = images(tmp_path / "a", arrays)
    processor = MAEImageProcessor.from_model_config(CONFIG)
    processor.value_range = [100, 3000]
    centre = ImageSamples(dataset, CenterCropTransform(CONFIG, processor), 1, seed=0)
    whole = ImageSamples(dataset, ProcessorTransform(processor), 1, seed=0)
    for number, array in enumerate(arrays):
        path = tmp_path / "a" / f"{number:03}.tif"
        expected = processor(path, return_tensors="pt").pixel_values[0]
        for given in (path.read_bytes(), array, array.astype(np.float32), array.astype(np.int64)):
            found = processor(given, return_tensors="pt").pixel_values[0]
            np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(whole[number]["pixel_values"], expected, atol=1e-5)
        pixels = centre[number]["images"] / 255
        normalised = (pixels - processor.image_mean[0]) / processor.image_std[0]
        np.testing.assert_allclose(normalised, expected, atol=1e-5)
    reference = ((RAMP * 4095).astype(np.uint16) - 100.0) / 2900
    assert expected.max() < reference.max()


def test_pictures_of_8_bits_are_of_another_scale():
    """As transformers' pipeline() opens a deep file: cut to 8 bits before the processor sees it."""
    processor = MAEImageProcessor.from_model_config(CONFIG)
    processor.value_range = [0, 4095]
    picture = Image.fromarray((RAMP * 255).astype(np.uint8))
    with pytest.raises(ValueError, match="image has 8 bits, and black and white are 0 and 4,095"):
        processor(picture)
    assert processor(picture, value_range=[0, 255]) is not None


def test_a_native_processor_s_range_is_ours_again(tmp_path):
    """Of an exported folder, which training goes on from."""
    BitImageProcessor(value_range=[0, 4095], bands=[3, 2, 1]).save_pretrained(tmp_path)
    processor = load_processor(tmp_path, MAEConfig(**TINY))
    assert type(processor) is MAEImageProcessor
    assert (processor.value_range, processor.bands) == ([0, 4095], [3, 2, 1])
