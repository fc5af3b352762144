# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Draws of images for training and evaluation, every random choice a function of (seed, epoch,
sample index).

The sampler hands out draw numbers, `epoch * len(dataset) + index`; what a draw looks like (crop,
flip, augmentation, mask noise) follows from its number alone, whichever process or worker makes it
and whenever.
"""

import itertools
from functools import partial

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from ..errors import BadImageError, ImageDecodeError
from .decoding import Jpeg, open_image, whole_pixels
from .resolution import TransformSchedule


MAX_REPLACEMENTS = 100
_ROWS = 8  # that are fetched at once; few, as their bytes may be large photographs


class ImageSamples(Dataset):
    """The draws of an image data set: `draws[(epoch * len(draws) + index) * crops_per_image +
    crop]`.

    Args:
        dataset: `datasets.Dataset` with a column `image` and perhaps `label`, as
            `load_image_dataset` returns them.
        transform: (image, rng) → dict of tensors; the image is what `open_image` returns. Or a
            `TransformSchedule` of such.
        num_channels: Channels to decode to.
        seed: With the epoch, the index and the crop, of all randomness.
        on_bad_image: `"skip"` replaces an image that can't be decoded by another one, drawn by
            (seed, epoch, index), and reports it in the sample; `"raise"` raises `BadImageError`.
        crops_per_image: Samples that are made of an image when it is decoded.

    A sample is what the transform returns, with `labels` (the image's class, if there are labels),
    `index` (of the image) and `bad_images`, a list of (index, path, error).
    """

    def __init__(
        self, dataset, transform, num_channels, seed, on_bad_image="skip", crops_per_image=1
    ):
        if on_bad_image not in ("skip", "raise"):
            raise ValueError(f"on_bad_image is {on_bad_image!r}; it must be 'skip' or 'raise'")
        self.dataset = dataset
        self.transform = transform
        self.num_channels = num_channels
        self.seed = seed
        self.on_bad_image = on_bad_image
        self.crops_per_image = crops_per_image

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, draw):
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws):
        """The samples of a batch; crops of one image that lie side by side come of one decode."""
        groups = itertools.groupby(draws, key=lambda number: number // self.crops_per_image)
        groups = [
            (draw, [number % self.crops_per_image for number in group]) for draw, group in groups
        ]
        samples = []
        for first in range(0, len(groups), _ROWS):
            part = [
                (*divmod(draw, len(self)), crops) for draw, crops in groups[first : first + _ROWS]
            ]
            rows = self.dataset.__getitems__([index for _, index, _ in part])
            for (epoch, index, crops), row in zip(part, rows):
                make = partial(self.make_samples, crops=crops, epoch=epoch)
                samples += self.replacing_bad_images(
                    index, row, [epoch, index], make, self._another
                )
        return samples

    def _another(self, attempt, rng):
        index = int(rng.integers(len(self)))
        return index, self.dataset[index]

    def replacing_bad_images(self, index, row, seed, make, another):
        """The samples of a row, or of one that stands in for it.

        Args:
            index: Number of the image.
            row: What the data set has there.
            seed: Numbers that with the run's seed decide all that is random.
            make: (row, seed) → samples, or `ImageDecodeError`.
            another: (attempt, rng) → (number, row) to try instead.

        Raises:
            BadImageError: nothing can be decoded, or a bad image is to stop the run.
        """
        bad_images, number, seed = [], index, [self.seed, *seed]
        for attempt in range(MAX_REPLACEMENTS):
            try:
                samples = make(row, seed)
            except ImageDecodeError as error:
                path = (isinstance(row["image"], dict) and row["image"].get("path")) or "-"
                if self.on_bad_image == "raise":
                    raise BadImageError(
                        f"image {number} ({path}) can't be decoded: {error}"
                    ) from error
                bad_images.append((number, path, str(error)))
                number, row = another(attempt, np.random.default_rng([*seed, attempt]))
                continue
            return [
                {**s, "index": index, "bad_images": bad_images if i == 0 else []}
                for i, s in enumerate(samples)
            ]
        number, path, error = bad_images[-1]
        raise BadImageError(
            f"{MAX_REPLACEMENTS} images in a row can't be decoded; the last one is {number} "
            f"({path}): {error}"
        )

    def make_samples(self, row, seed, crops, epoch):
        """What the transform makes of a row in an epoch, once a crop; the image is decoded once.

        Raises:
            ImageDecodeError: it can't be.
        """
        image = open_image(row["image"], self.num_channels)
        if self.crops_per_image > 1 and not (isinstance(image, Jpeg) and image.is_large):
            image = whole_pixels(image)  # decoded once
        transform = (
            self.transform.at(epoch)
            if isinstance(self.transform, TransformSchedule)
            else self.transform
        )
        samples = [
            transform(image, np.random.default_rng(seed + [0, crop] * (crop > 0))) for crop in crops
        ]
        return (
            [{**sample, "labels": torch.tensor(row["label"])} for sample in samples]
            if "label" in row
            else samples
        )


class EpochSampler(Sampler):
    """Draw numbers of one epoch, in an order that follows from (seed, epoch); the crops of an image
    side by side.

    With R crops an image, an epoch is still about as many samples as there are images: it takes
    each Rth part of them, and R
    epochs take all.

    Args:
        length: Images in the data set.
        seed: Of the order.
        num_samples: How many of them an epoch takes (whole batches).
        crops_per_image: R.
    """

    def __init__(self, length, seed, num_samples, crops_per_image=1):
        self.length = length
        self.seed = seed
        self.num_samples = num_samples
        self.crops_per_image = crops_per_image
        self.epoch = 0

    def __len__(self):
        return self.num_samples

    def __iter__(self):
        crops, (whole, part) = self.crops_per_image, divmod(self.epoch, self.crops_per_image)
        order = np.random.default_rng([self.seed, whole]).permutation(self.length)
        images = self.num_samples // crops
        first = (self.epoch * self.length + order[part * images : (part + 1) * images]) * crops
        yield from (first[:, None] + np.arange(crops)).ravel().tolist()


class FeatureSamples(Dataset):
    """Features (N, D) that were computed once, and labels (N,), drawn as `ImageSamples` are."""

    crops_per_image = 1

    def __init__(self, features, labels):
        self.features = features
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, draw):
        return self.__getitems__([draw])

    def __getitems__(self, draws):
        """A whole batch at once, which `collate` leaves as it is: a sample is too small to be
        handled alone."""
        index = torch.tensor(draws) % len(self)
        return {
            "features": self.features[index],
            "labels": self.labels[index],
            "index": index,
            "bad_images": [],
        }


def collate(samples):
    """Samples → a batch: tensors stacked, numbers listed, `index` (B,), `bad_images` and
    `read_shards` in one list each."""
    if isinstance(samples, dict):
        return samples
    batch = {name: [sample[name] for sample in samples] for name in samples[0]}
    batch = {name: _stack(v) if isinstance(v[0], torch.Tensor) else v for name, v in batch.items()}
    batch["index"] = torch.tensor(batch["index"])
    for name in ("bad_images", "read_shards"):
        if name in batch:
            batch[name] = [note for notes in batch[name] for note in notes]
    return batch


def _stack(tensors):
    """torch.stack; images whose channels lie together, as decoded, stay so: a copy then is a plain
    one."""
    if tensors[0].ndim == 3 and tensors[0].stride(0) == 1:
        return torch.stack([tensor.permute(1, 2, 0) for tensor in tensors]).permute(0, 3, 1, 2)
    return torch.stack(tensors)
