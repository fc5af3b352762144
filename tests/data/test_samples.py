import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from helpers import TINY

from hf_mae import MAEConfig
from hf_mae.data.samples import BatchShape, EpochSampler, FeatureSamples, ImageSamples, collate
from hf_mae.data.sources import load_image_dataset
from hf_mae.data.streaming import ImageStream
from hf_mae.data.transforms import PretrainingTransform
from hf_mae.errors import BadImageError


@pytest.fixture
def config():
    return MAEConfig(**TINY)


# samples -----------------------------------------------------------------------------------------


def test_samples_follow_from_seed_epoch_and_index(config, photo_folder):
    dataset = load_image_dataset(train_dir=photo_folder, train_val_split=0)["train"]

    def sample(number, seed=0):
        return ImageSamples(dataset, PretrainingTransform(config), 3, seed)[number]

    first, again, next_epoch, other_seed = sample(7), sample(7), sample(67), sample(7, seed=1)
    for key in ("images", "noise"):
        assert torch.equal(first[key], again[key])
        assert not torch.equal(first[key], next_epoch[key])
        assert not torch.equal(first[key], other_seed[key])
    assert first["index"] == next_epoch["index"] == 7
    torch.manual_seed(0)
    np.random.seed(0)
    assert torch.equal(sample(7)["noise"], first["noise"])


def test_sampler():
    sampler = EpochSampler(length=10, seed=3, num_samples=8)
    orders = []
    for epoch in range(3):
        sampler.epoch = epoch
        numbers = list(sampler)
        assert len(numbers) == len(sampler) == len(set(numbers)) == 8
        assert all(epoch * 10 <= number < epoch * 10 + 10 for number in numbers)
        orders.append([number % 10 for number in numbers])
        assert list(sampler) == numbers
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("crops", [2, 3])
def test_sampler_of_several_crops(crops):
    """An epoch is as many samples as before; so many epochs take every image once."""
    sampler, taken = EpochSampler(12, 3, num_samples=12, crops_per_image=crops), []
    for epoch in range(2 * crops):
        sampler.epoch = epoch
        numbers = list(sampler)
        assert len(numbers) == len(sampler) == 12
        groups = [numbers[i : i + crops] for i in range(0, 12, crops)]
        assert all(
            group == list(range(group[0], group[0] + crops)) and group[0] % crops == 0
            for group in groups
        )
        epochs, images = zip(*(divmod(group[0] // crops, 12) for group in groups))
        assert set(epochs) == {epoch}
        taken += images
    assert sorted(taken[:12]) == sorted(taken[12:]) == list(range(12))
    assert taken[:12] != taken[12:]


@pytest.mark.parametrize(
    ("samples", "accumulation", "workers", "images", "stream"),
    [(100, 1, 0, 6, 6), (100, 1, 4, 6, 4), (100, 2, 4, 3, 2), (100, 3, 3, 2, 2), (95, 1, 5, 5, 5)],
)
def test_updates_of_an_epoch(samples, accumulation, workers, images, stream):
    """Of a stream every worker has as many batches."""
    shape = BatchShape(8, accumulation, num_processes=2, num_workers=workers, seed=0)
    plain = FeatureSamples(torch.zeros(samples, 1), torch.zeros(samples))
    assert plain.updates_per_epoch(shape) == images
    assert len(plain.sampler(shape)) == images * accumulation * 16
    streamed = ImageStream(None, None, 3, 0, epoch_samples=samples, shuffle_buffer=4)
    assert streamed.updates_per_epoch(shape) == stream
    assert len(streamed.sampler(shape)) == stream * accumulation * 16
    assert stream * accumulation % max(1, workers) == 0


# bad images --------------------------------------------------------------------------------------


@pytest.fixture
def half_bad(photo_folder, tmp_path):
    for i, path in enumerate(sorted(photo_folder.rglob("*.jpg"), key=lambda path: path.name)[:20]):
        data = path.read_bytes()
        (tmp_path / path.name).write_bytes(data[: len(data) // 3] if i % 2 else data)
    return load_image_dataset(train_dir=tmp_path, train_val_split=0)["train"]


def test_bad_images_are_replaced_and_named(config, half_bad):
    samples = ImageSamples(half_bad, PretrainingTransform(config), 3, seed=0)
    batch = collate([samples[i] for i in range(20)])
    again = collate([samples[i] for i in range(20)])
    assert torch.equal(batch["images"], again["images"])
    assert batch["bad_images"] == again["bad_images"]
    bad = {path.rsplit("/", 1)[-1] for _, path, _ in batch["bad_images"]}
    assert bad == {
        row["image"]["path"].rsplit("/", 1)[-1] for i, row in enumerate(half_bad) if i % 2
    }
    assert {index for index, _, _ in batch["bad_images"]} == set(range(1, 20, 2))
    assert batch["index"].tolist() == list(range(20))
    # other epochs replace by other images
    epochs = [samples[20 * epoch + 1]["images"] for epoch in range(6)]
    assert len({image.numpy().tobytes() for image in epochs}) == 6


def test_replacements_follow_from_seed_epoch_index_and_attempt(config, half_bad):
    samples = ImageSamples(half_bad, PretrainingTransform(config), 3, seed=3)
    for epoch, index in ((0, 1), (0, 5), (4, 7)):
        expected = [index]
        while expected[-1] % 2:  # a bad one
            rng = np.random.default_rng([3, epoch, index, len(expected) - 1])
            expected.append(int(rng.integers(20)))
        sample = samples[20 * epoch + index]
        assert [number for number, _, _ in sample["bad_images"]] == expected[:-1]
        replacement = half_bad[expected[-1]]
        made = samples.make_samples(replacement, [3, epoch, index], crops=[0], epoch=epoch)
        assert torch.equal(sample["images"], made[0]["images"])


def test_bad_images_can_raise(config, half_bad):
    samples = ImageSamples(half_bad, PretrainingTransform(config), 3, seed=0, on_bad_image="raise")
    samples[0]
    with pytest.raises(BadImageError, match=r"image 1 \(.*\.jpg\) can't be decoded"):
        samples[1]
    with pytest.raises(ValueError, match="on_bad_image is 'ignore'; it must be 'skip' or 'raise'"):
        ImageSamples(half_bad, PretrainingTransform(config), 3, seed=0, on_bad_image="ignore")


def test_nothing_but_bad_images_ends(config):
    features = Features({"image": ImageFeature(decode=False)})
    dataset = Dataset.from_dict(
        {"image": [{"bytes": b"no image", "path": None}] * 5}, features=features
    )
    with pytest.raises(BadImageError, match="100 images in a row"):
        ImageSamples(dataset, PretrainingTransform(config), 3, seed=0)[0]


def test_errors_cross_process_borders(config, half_bad):
    samples = ImageSamples(half_bad, PretrainingTransform(config), 3, seed=0, on_bad_image="raise")
    loader = torch.utils.data.DataLoader(samples, batch_size=4, collate_fn=collate, num_workers=1)
    with pytest.raises(BadImageError, match="image 1 .*can't be decoded"):
        list(loader)
