# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Draws of images for training and evaluation, every random choice a function of (seed, epoch, sample index).

The sampler hands out draw numbers, `epoch * len(dataset) + index`; what a draw looks like (crop, flip, augmentation, mask
noise) follows from its number alone, whichever process or worker makes it and whenever.
"""

import io

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler

from .image_processing_mae import DECODE_ERRORS, image_to_array


_MAX_REPLACEMENTS = 100


class BadImageError(RuntimeError):
    """An image can't be decoded, or too many can't."""


def decode(value, num_channels):
    """What an image column holds → (H, W, C) uint8 array, upright.

    Args:
        value: {"bytes": …, "path": …} of a file in any format that PIL reads, or an array (H, W, C) of uint8.
        num_channels: C.

    Raises:
        One of `image_processing_mae.DECODE_ERRORS`.
    """
    if not isinstance(value, dict):
        array = np.asarray(value)
        whole = np.issubdtype(array.dtype, np.integer) and array.size and array.min() >= 0 and array.max() <= 255
        if array.ndim != 3 or array.shape[2] != num_channels or not whole:
            raise ValueError(
                f"array of shape {array.shape} and {array.dtype}; expected (height, width, {num_channels}), whole numbers "
                "from 0 to 255"
            )
        return array.astype(np.uint8)
    if value.get("bytes") is None and value.get("path") is None:
        raise ValueError("neither bytes nor a path")
    with Image.open(io.BytesIO(value["bytes"]) if value.get("bytes") is not None else value["path"]) as image:
        return image_to_array(image, num_channels)


class ImageDraws(Dataset):
    """The draws of an image data set: `draws[epoch * len(draws) + index]`.

    Args:
        dataset: `datasets.Dataset` with a column `image` and perhaps `label`, as `load_image_dataset` returns them.
        transform: (array, rng) → dict of tensors.
        num_channels: Channels to decode to.
        seed: With the epoch and the index, of all randomness.
        on_bad_image: `"skip"` replaces an image that can't be decoded by another one, drawn by (seed, epoch, index), and
            reports it in the sample; `"raise"` raises `BadImageError`.

    A sample is what the transform returns, with `labels` (the image's class, if there are labels), `index` (of the draw) and
    `bad_images`, a list of (index, path, error).
    """

    def __init__(self, dataset, transform, num_channels, seed, on_bad_image="skip"):
        if on_bad_image not in ("skip", "raise"):
            raise ValueError(f"on_bad_image is {on_bad_image!r}; it must be 'skip' or 'raise'")
        self.dataset = dataset
        self.transform = transform
        self.num_channels = num_channels
        self.seed = seed
        self.on_bad_image = on_bad_image

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, draw):
        epoch, index = divmod(draw, len(self.dataset))
        bad_images, candidate = [], index
        for attempt in range(_MAX_REPLACEMENTS):
            row = self.dataset[candidate]
            value = row["image"]
            try:
                array = decode(value, self.num_channels)
            except DECODE_ERRORS as error:
                path = (value.get("path") if isinstance(value, dict) else None) or "-"
                if self.on_bad_image == "raise":
                    raise BadImageError(f"image {candidate} ({path}) can't be decoded: {error}") from error
                bad_images.append((candidate, path, " ".join(f"{type(error).__name__}: {error}".split())))
                candidate = int(np.random.default_rng([self.seed, epoch, index, attempt]).integers(len(self.dataset)))
                continue
            sample = self.transform(array, np.random.default_rng([self.seed, epoch, index]))
            if "label" in row:
                sample["labels"] = torch.tensor(row["label"])
            return {**sample, "index": index, "bad_images": bad_images}
        raise BadImageError(
            f"{_MAX_REPLACEMENTS} images in a row can't be decoded; the last one is {candidate} ({path}): "
            f"{bad_images[-1][2]}"
        )


class DrawSampler(Sampler):
    """Draw numbers of one epoch, `epoch * length + index`, in an order that follows from (seed, epoch).

    Args:
        length: Images in the data set.
        seed: Of the order.
        num_draws: How many of them an epoch takes (whole batches).
    """

    def __init__(self, length, seed, num_draws):
        self.length = length
        self.seed = seed
        self.num_draws = num_draws
        self.epoch = 0

    def __len__(self):
        return self.num_draws

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        yield from (self.epoch * self.length + order[: self.num_draws]).tolist()


class FeatureDraws(Dataset):
    """Features (N, D) that were computed once, and labels (N,), drawn as `ImageDraws` are."""

    def __init__(self, features, labels):
        self.features = features
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, draw):
        return self.__getitems__([draw])

    def __getitems__(self, draws):
        """A whole batch at once, which `collate` leaves as it is: a sample is too small to be handled alone."""
        index = torch.tensor(draws) % len(self)
        return {"features": self.features[index], "labels": self.labels[index], "index": index, "bad_images": []}


def collate(samples):
    """Samples → a batch: tensors stacked, numbers listed, `index` (B,), `bad_images` in one list."""
    if isinstance(samples, dict):
        return samples
    batch = {name: [sample[name] for sample in samples] for name in samples[0]}
    batch = {name: torch.stack(v) if isinstance(v[0], torch.Tensor) else v for name, v in batch.items()}
    batch["index"] = torch.tensor(batch["index"])
    batch["bad_images"] = [bad for sample in samples for bad in sample["bad_images"]]
    return batch


def own_labels(batch):
    """The labels (B,) of a batch, -100 for images that can't be decoded and that others stand in for."""
    replaced = {index for index, _, _ in batch["bad_images"]}
    kept = torch.tensor([index not in replaced for index in batch["index"].tolist()], device=batch["labels"].device)
    return torch.where(kept, batch["labels"], -100)
