import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from helpers import TINY

from hf_mae import MAEConfig
from hf_mae.data.feature_samples import FeatureSamples
from hf_mae.data.samples import (
    BatchShape,
    EpochSampler,
    ImageSamples,
    Samples,
    collate,
)
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


# classes of equal weight -------------------------------------------------------------------------


class Labelled(Samples):
    """Images that are known by their labels alone."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def all_labels(self):
        return self.labels


def balanced_epoch(samples, epoch, **shape):
    sampler = samples.sampler(BatchShape(**{**SHAPE, **shape}, balanced=True))
    sampler.epoch = epoch
    return list(sampler)


SHAPE = {"batch_size": 10, "accumulation": 1, "num_processes": 1, "num_workers": 0, "seed": 0}


def test_balanced_sampling_shows_each_class_equally_often():
    labels = torch.tensor([4] * 3 + [0] * 57 + [2] * 43)
    samples = Labelled(labels)
    seen = set()
    for epoch in range(12):
        numbers = balanced_epoch(samples, epoch)
        assert len(numbers) == 100
        images = torch.tensor(numbers) % len(samples)
        counts = labels[images].bincount()[[0, 2, 4]]
        assert sorted(counts.tolist()) == [33, 33, 34]
        rare, common = images.bincount(minlength=103)[:3], images.bincount(minlength=103)[3:60]
        assert rare.max() - rare.min() <= 1
        assert common.max() == 1  # nobody twice while others wait
        assert len(set(numbers)) == 100  # what comes again is another sample
        assert not seen & set(numbers)  # also of other epochs
        seen |= set(numbers)
    assert {number % 103 for number in seen} == set(range(103))


def test_balanced_order_follows_from_seed_and_epoch():
    samples = Labelled(torch.tensor([0] * 70 + [1] * 50))
    first = balanced_epoch(samples, 3)
    assert first == balanced_epoch(samples, 3)
    assert first != balanced_epoch(samples, 4)
    assert first != balanced_epoch(samples, 3, seed=1)
    assert first == balanced_epoch(samples, 3, batch_size=5, num_processes=2, num_workers=3)
    assert first == balanced_epoch(samples, 3, batch_size=5, accumulation=2)


def test_an_image_that_comes_again_is_another_sample(digits, config):
    """Of the same image, as deterministic as the first."""
    samples = ImageSamples(digits["train"], PretrainingTransform(config), 1, seed=0)
    labels = torch.tensor([0] * 10 + [1] * (len(samples) - 10))
    numbers = balanced_epoch(Labelled(labels), 2)
    twice = [number for number in numbers if number % len(samples) == numbers[0] % len(samples)]
    rare = [number for number in numbers if number % len(samples) == 3]
    assert len(rare) > 2
    assert twice
    first, again, *_ = (samples[number] for number in rare)
    assert first["index"] == again["index"] == 3
    assert not torch.equal(first["noise"], again["noise"])
    assert torch.equal(first["noise"], samples[rare[0]]["noise"])


def test_what_cannot_be_balanced():
    for labels in (torch.ones(50, 2), torch.rand(50), None):
        samples = Labelled(labels)
        samples.labels = torch.ones(50) if labels is None else labels
        if labels is None:
            samples.all_labels = lambda: None
        with pytest.raises(ValueError, match="class_sampling needs labels of one class an image"):
            balanced_epoch(samples, 0)
    samples = Labelled(torch.zeros(50, dtype=torch.long))
    samples.crops_per_image = 2
    with pytest.raises(ValueError, match="crops_per_image is 2"):
        balanced_epoch(samples, 0)
