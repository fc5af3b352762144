import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image
from scipy import stats

from hf_mae import MAEConfig
from hf_mae.data import ImageDraws
from hf_mae.image_datasets import load_image_dataset
from hf_mae.transforms import HeldOutTransform, PretrainingTransform, random_crop_box


@pytest.fixture
def config():
    return MAEConfig(**TINY)


def test_crop_boxes_are_torchvisions_distribution():
    from torchvision.transforms import RandomResizedCrop

    rng, image = np.random.default_rng(0), torch.zeros(3, 300, 400)
    ours = np.array([random_crop_box(300, 400, rng) for _ in range(4000)], dtype=float)
    torch.manual_seed(0)
    theirs = np.array([RandomResizedCrop.get_params(image, (0.2, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)], dtype=float)
    for column in range(4):
        # two samples of one distribution differ so much once in a million times
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-6
    areas, aspects = ours[:, 2] * ours[:, 3] / 120000, ours[:, 3] / ours[:, 2]
    assert areas.min() > 0.19
    assert areas.max() <= 1
    assert aspects.min() > 0.74
    assert aspects.max() < 1.35


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (500, 1), (3, 2), (2000, 10)])
def test_crop_boxes_of_odd_images(height, width):
    rng = np.random.default_rng(0)
    for _ in range(50):
        top, left, h, w = random_crop_box(height, width, rng)
        assert 0 <= top <= top + h <= height
        assert 0 <= left <= left + w <= width
        assert h > 0
        assert w > 0


def test_training_crop_is_torchvisions_resize(config, photos):
    """The crop of a draw, cut and resized by PIL, bicubic and antialiased."""
    array = np.array(photos[0])
    transform, flips = PretrainingTransform(config), 0
    for i in range(40):
        sample = transform(array, np.random.default_rng(i))
        rng = np.random.default_rng(i)
        top, left, height, width = random_crop_box(*array.shape[:2], rng)
        expected = photos[0].crop((left, top, left + width, top + height)).resize((32, 32), Image.Resampling.BICUBIC)
        expected = np.asarray(expected).astype(int)
        if rng.random() < 0.5:
            expected, flips = expected[:, ::-1], flips + 1
        assert np.abs(sample["pixel_values"].permute(1, 2, 0).numpy() - expected).max() <= 1
    assert 8 < flips < 32


def test_held_out_transform_is_the_processor(config, photo_folder):
    from hf_mae import MAEImageProcessor

    dataset = load_image_dataset(train_dir=photo_folder, train_val_split=0)["train"]
    draws = ImageDraws(dataset, HeldOutTransform(config), 3, seed=0)
    processor = MAEImageProcessor.from_model_config(config)
    for i in range(10):
        image = Image.open(dataset[i]["image"]["path"])
        expected = processor(image, return_tensors="pt", do_rescale=False, do_normalize=False).pixel_values[0]
        assert torch.equal(draws[i]["pixel_values"], expected)
