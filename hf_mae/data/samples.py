# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Samples for training and evaluation: each a function of (seed, epoch, index) alone.

The sampler hands out sample numbers, `epoch * len(samples) + index`. What a sample looks like
(crop, flip, augmentation, mask noise) follows from its number, whichever process or worker makes it
and whenever.
"""

import abc
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, get_worker_info

from ..errors import BadImageError, ImageDecodeError
from ..free_memory import return_free_memory
from ..models.picture_size import MAX_IMAGE_PIXELS
from ..models.pictures import Values
from ..output_folder import STREAM_FILE
from .decoding import DecodedImage, Jpeg, open_image, whole_pixels
from .resolution import ResolutionSchedule
from .transforms import Sample


if TYPE_CHECKING:  # takes long to import, which a script that names a picture needn't
    import datasets


MAX_REPLACEMENTS = 100
_EPOCHS = 2**20  # more than any run has
_ROWS = 8  # that are fetched at once; few, as their bytes may be large photographs

Batch = dict[str, Any]
Transform = Callable[[DecodedImage, np.random.Generator], Sample]


@dataclass(frozen=True)
class BatchShape:
    """How a run cuts its samples into batches: all that an order may depend on.

    Attributes:
        batch_size: Samples in a batch of one process.
        accumulation: Batches of a process in an update.
        num_processes: Processes that train together.
        num_workers: Worker processes that load for each of them; 0 if it loads by itself.
        seed: Seed of the run.
        balanced: Whether every class comes equally often.

    Example:

    >>> BatchShape(64, accumulation=2, num_processes=4, num_workers=8, seed=0).total_batch_size
    512
    """

    batch_size: int
    accumulation: int
    num_processes: int
    num_workers: int
    seed: int
    balanced: bool = False

    @property
    def total_batch_size(self) -> int:
        """Samples in an update."""
        return self.batch_size * self.accumulation * self.num_processes


class EpochSampler(Sampler[int]):
    """The sample numbers of one epoch, in an order that follows from (seed, epoch).

    The crops of an image lie side by side. With R crops an image, an epoch is still about as many
    samples as there are images: it takes each Rth part of them, and R epochs take all.

    Args:
        length: Images in the data set.
        seed: Decides the order.
        num_samples: Samples in an epoch (whole batches).
        crops_per_image: R.

    Attributes:
        epoch: The epoch to go through next; settable.
    """

    def __init__(self, length: int, seed: int, num_samples: int, crops_per_image: int = 1):
        self.length = length
        self.seed = seed
        self.num_samples = num_samples
        self.crops_per_image = crops_per_image
        self.epoch = 0

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        crops = self.crops_per_image
        whole, part = divmod(self.epoch, crops)
        order = np.random.default_rng([self.seed, whole]).permutation(self.length)
        num_images = self.num_samples // crops
        images = order[part * num_images : (part + 1) * num_images]
        first = (self.epoch * self.length + images) * crops
        yield from (first[:, None] + np.arange(crops)).ravel().tolist()


class BalancedSampler(Sampler[int]):
    """The sample numbers of one epoch, in which every class comes equally often.

    Each class that has images gets the same number of places, to within one. It fills them with its
    images in an order that follows from (seed, epoch), over and over again where they are few; of
    many it leaves some out, others in each epoch. What an image becomes when it comes again in an
    epoch is another sample: its number is that of an epoch which no run reaches.

    Args:
        classes: (N,) the class number of each image.
        seed: Decides the order.
        num_samples: Samples in an epoch (whole batches).

    Attributes:
        epoch: The epoch to go through next; settable.

    Example:

    >>> sampler = BalancedSampler(torch.tensor([0, 0, 0, 0, 0, 1]), seed=0, num_samples=6)
    >>> sorted(number % 6 for number in sampler)[-3:]
    [5, 5, 5]
    """

    def __init__(self, classes: torch.Tensor, seed: int, num_samples: int):
        counts = np.bincount(classes.numpy())
        by_class = np.argsort(classes.numpy(), kind="stable")
        self.images = np.split(by_class, counts.cumsum()[:-1])  # of each class
        self.images = [images for images in self.images if len(images)]
        self.length = len(classes)
        self.seed = seed
        self.num_samples = num_samples
        self.epoch = 0

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        places, more = divmod(self.num_samples, len(self.images))
        gets_more = rng.permutation(len(self.images)) < more
        numbers = []
        for images, one_more in zip(self.images, gets_more):
            place = np.arange(places + one_more)
            repeat, which = np.divmod(place, len(images))
            epoch = self.epoch + repeat * _EPOCHS
            numbers.append(epoch * self.length + rng.permutation(images)[which])
        yield from rng.permutation(np.concatenate(numbers)).tolist()


class Samples(Dataset, abc.ABC):
    """What a trainer asks of a data set: its order, and what a resumed run has to know of it.

    This base class is a data set of `len(samples)` images that can be had in any order, and that
    has nothing to remember. A subclass with `__len__` and `__getitems__` can be trained on.

    Attributes:
        crops_per_image: Samples that are made of an image when it is decoded.
    """

    crops_per_image = 1

    @abc.abstractmethod
    def __len__(self) -> int:
        """Images in an epoch."""

    def updates_per_epoch(self, shape: BatchShape) -> int:
        """Counts the updates of an epoch, which are whole total batches.

        Raises:
            ValueError: there is no whole batch.
        """
        updates = len(self) // shape.total_batch_size
        if updates == 0:
            raise ValueError(too_few_images(len(self), shape))
        return updates

    def sampler(self, shape: BatchShape) -> Sampler[int]:
        """Makes the sampler of a run, whose attribute `epoch` says which epoch comes next.

        Raises:
            ValueError: there is no whole batch; or classes are to be balanced, and there isn't one
                an image, or several samples are made of it.
        """
        num_samples = self.updates_per_epoch(shape) * shape.total_batch_size
        if shape.balanced:
            return BalancedSampler(self._classes(), shape.seed, num_samples)
        return EpochSampler(len(self), shape.seed, num_samples, self.crops_per_image)

    def all_labels(self) -> torch.Tensor | None:
        """Reads the labels of all images, as `stack_labels` does; None if there are none."""
        return None

    def describe_data(self) -> str:
        """Names the images, so that a run that is resumed with others is told."""
        return f"{len(self):,} images"

    def _classes(self) -> torch.Tensor:
        """The class number (N,) of each image, for classes to be balanced."""
        labels = self.all_labels()
        if labels is None or labels.ndim == 2 or labels.is_floating_point():
            raise ValueError("class_sampling needs labels of one class an image")
        if self.crops_per_image > 1:
            raise ValueError(
                f"class_sampling needs one sample an image; crops_per_image is "
                f"{self.crops_per_image}"
            )
        return labels

    def record(self, batch: Batch) -> None:
        """Takes out of a training batch what the data set wants to remember."""

    def save_state(self, folder: Path, shape: BatchShape) -> None:
        """Writes into a checkpoint what a resumed run has to know; every process calls it."""

    def load_state(self, folder: Path, shape: BatchShape) -> None:
        """Reads a checkpoint's state before the run is resumed.

        Raises:
            ValueError: the run that is to be resumed read other images, or the same ones otherwise.
        """
        if (folder / STREAM_FILE).is_file():
            raise ValueError(
                f"{folder} is of a run with --streaming; it can't be resumed otherwise"
            )


def too_few_images(count: int, shape: BatchShape) -> str:
    """Says that so many images make no whole batch."""
    return (
        f"there are {count:,} training images and the total batch is {shape.total_batch_size:,}; "
        "take a smaller per_device_train_batch_size or gradient_accumulation_steps"
    )


class ImageSamples(Samples):
    """The samples of a data set of images.

    Crop `crop` of image `index` in an epoch is
    `samples[(epoch * len(samples) + index) * crops_per_image + crop]`: what the transform returns,
    with `labels` (what `label_tensor` makes of the image's, if it has any), `index` (of the image)
    and `bad_images`, a list of (index, path, error).

    Args:
        dataset: `datasets.Dataset` with a column `image` and perhaps `label`, as
            `load_image_dataset` returns them; or rows of images.
        transform: (image, rng) → dict of tensors; the image is what `open_image` returns, by the
            transform's `values`, if it has such.
        num_channels: Channels to decode to.
        seed: With the epoch, the index and the crop, of all randomness.
        on_bad_image: `"skip"` replaces an image that can't be decoded by another one, chosen by
            (seed, epoch, index), and reports it in the sample; `"raise"` raises `BadImageError`.
        crops_per_image: Samples that are made of an image when it is decoded.
        max_image_pixels: Larger images are decoded at reduced scale, if they can be, or not at all.

    Attributes:
        schedule: `ResolutionSchedule` that says which transform an epoch has, or None for the same
            throughout.

    Raises:
        ValueError: `on_bad_image` is neither.

    Example:

    >>> from hf_mae import MAEConfig
    >>> from hf_mae.data.sources import load_image_dataset
    >>> from hf_mae.data.transforms import PretrainingTransform
    >>> config = MAEConfig.from_size("tiny", image_size=32, patch_size=4)
    >>> images = load_image_dataset("digits")["train"]
    >>> samples = ImageSamples(images, PretrainingTransform(config), num_channels=3, seed=0)
    >>> samples[5]["images"].shape, samples[5]["noise"].shape
    (torch.Size([3, 32, 32]), torch.Size([64]))
    """

    def __init__(
        self,
        dataset: "datasets.Dataset | datasets.IterableDataset | list[dict[str, Any]]",
        transform: Transform,
        num_channels: int,
        seed: int,
        on_bad_image: str = "skip",
        crops_per_image: int = 1,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ):
        if on_bad_image not in ("skip", "raise"):
            raise ValueError(f"on_bad_image is {on_bad_image!r}; it must be 'skip' or 'raise'")
        self.dataset: Any = dataset  # of a stream, an IterableDataset
        self.transform = transform
        self.num_channels = num_channels
        self.seed = seed
        self.on_bad_image = on_bad_image
        self.crops_per_image = crops_per_image
        self.max_image_pixels = max_image_pixels
        self.schedule: ResolutionSchedule | None = None
        self.values: Values = getattr(transform, "values", Values())
        self._dtype = array_dtype(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def all_labels(self) -> torch.Tensor | None:
        """Reads the labels of all images, as `stack_labels` does; None if there are none."""
        if "label" not in (self.dataset.features or {}):
            return None
        from .labels import stack_labels

        return stack_labels(self.dataset)

    def describe_data(self) -> str:
        """Names the images by their number and digest."""
        import datasets

        if not isinstance(self.dataset, datasets.Dataset):
            return super().describe_data()
        from .digests import images_digest

        return f"{super().describe_data()} of digest {images_digest(self.dataset)}"

    def __getitem__(self, number: int) -> Sample:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Sample]:
        """Makes the samples of a batch; crops of one image side by side come of one decode."""
        images = list(self._group_crops(numbers))
        samples = []
        for first in range(0, len(images), _ROWS):
            part = images[first : first + _ROWS]
            rows = self._rows([index for _, index, _ in part])
            for (epoch, index, crops), row in zip(part, rows):
                candidates = self._candidates(epoch, index, row)
                seed = [self.seed, epoch, index]
                samples += self.first_decodable(candidates, seed, crops, epoch)
        return samples

    def _rows(self, indices: list[int]) -> list[dict]:
        if isinstance(self.dataset, list):
            return [self.dataset[index] for index in indices]
        return self.dataset.__getitems__(indices)

    def _group_crops(self, numbers: Sequence[int]) -> Iterator[tuple[int, int, list[int]]]:
        """Yields (epoch, index, crops) of each image that the sample numbers are of."""
        groups = itertools.groupby(numbers, key=lambda number: number // self.crops_per_image)
        for image, group in groups:
            epoch, index = divmod(image, len(self))
            yield epoch, index, [number % self.crops_per_image for number in group]

    def _candidates(self, epoch: int, index: int, row: dict) -> Iterator[tuple[int, dict]]:
        """Yields (index, row) of an image, and then of those that may stand in for it."""
        yield index, row
        for attempt in itertools.count():
            rng = np.random.default_rng([self.seed, epoch, index, attempt])
            other = int(rng.integers(len(self)))
            yield other, self.dataset[other]

    def first_decodable(
        self,
        candidates: Iterable[tuple[int, dict]],
        seed: list[int],
        crops: Iterable[int],
        epoch: int,
    ) -> list[Sample]:
        """Makes the samples of the first candidate that can be decoded.

        Args:
            candidates: (number, row) of the image that is wanted, and of those that may stand in
                for it; 100 are tried.
            seed: Numbers that decide all that is random; the same whoever stands in.
            crops: Which crops to make.
            epoch: Decides the transform, where it changes.

        Returns:
            A sample a crop, with the number of the image that was wanted as `index`, and those that
            can't be decoded in the first's `bad_images`.

        Raises:
            BadImageError: nothing can be decoded, or a bad image is to stop the run.
        """
        tried: list[tuple[int, str, str]] = []
        for number, row in itertools.islice(candidates, MAX_REPLACEMENTS):
            try:
                samples = self.make_samples(row, seed, crops, epoch)
            except ImageDecodeError as error:
                path = self.name_row(number, row)
                if self.on_bad_image == "raise":
                    message = f"image {number} ({path}) can't be decoded: {error}"
                    raise BadImageError(message) from error
                tried.append((number, path, str(error)))
                continue
            index = tried[0][0] if tried else number
            samples = [{**sample, "index": index, "bad_images": []} for sample in samples]
            samples[0]["bad_images"] = tried
            return samples
        number, path, reason = tried[-1]
        raise BadImageError(
            f"{len(tried)} images in a row can't be decoded; the last one is {number} ({path}): "
            f"{reason}"
        )

    def name_row(self, number: int, row: dict) -> str:
        """Names an image to people: its file, or its table and row."""
        from .row_names import name_row

        return name_row(self.dataset, number, row["image"])

    def open(self, row: dict) -> DecodedImage:
        """Opens a row's image; ImageDecodeError if it can't be decoded."""
        value = row["image"]
        if not isinstance(value, dict):  # an array, which comes as lists
            value = np.asarray(value, self._dtype)
        return open_image(value, self.num_channels, self.values, self.max_image_pixels)

    def make_samples(
        self, row: dict, seed: list[int], crops: Iterable[int], epoch: int
    ) -> list[Sample]:
        """Decodes a row once and transforms it once a crop.

        Raises:
            ImageDecodeError: it can't be decoded.
        """
        image = self.open(row)
        reducible = isinstance(image, Jpeg) and image.is_large
        if self.crops_per_image > 1 and not reducible:
            image = whole_pixels(image)  # decoded once
        transform = self.transform
        if self.schedule is not None:
            transform = self.schedule.transform_at(epoch)
        labels = {}
        if "label" in row:
            from .labels import label_tensor

            labels["labels"] = label_tensor(row["label"], self.dataset.features["label"])
        samples = []
        for crop in crops:
            # the first crop is that of one crop an image
            crop_seed = [*seed, 0, crop] if crop > 0 else seed
            sample = transform(image, np.random.default_rng(crop_seed))
            samples.append({**sample, **labels})
        return samples


def array_dtype(dataset: Any) -> str | None:
    """Finds the type of the numbers in a column of arrays, which says how deep they are."""
    feature: Any = (getattr(dataset, "features", None) or {}).get("image")
    while hasattr(feature, "feature"):  # lists of lists
        feature = feature.feature
    if feature is None:
        return None
    import datasets

    return None if isinstance(feature, datasets.Image) else feature.dtype


def collate(samples: list[Sample] | Batch) -> Batch:
    """Turns samples into a batch.

    Args:
        samples: Those of `ImageSamples`, or the batch that `FeatureSamples` have made already.

    Returns:
        Tensors stacked, all else in lists, and so images of which one isn't decoded yet; `index` is
        a tensor (B,), and `bad_images` and `read_shards` are one list each.
    """
    if isinstance(samples, dict):
        return samples
    batch: Batch = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        if name == "index":
            batch[name] = torch.tensor(values)
        elif name in ("bad_images", "read_shards"):
            batch[name] = list(itertools.chain.from_iterable(values))
        elif all(isinstance(value, torch.Tensor) for value in values):
            batch[name] = _stack(values)
        else:
            batch[name] = values
    if get_worker_info() is not None:
        return_free_memory()  # of the images, whole, that the samples were cut out of
    return batch


def _stack(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Stacks tensors; images whose channels lie together, as decoded, stay so.

    The copy then is a plain one.
    """
    if tensors[0].ndim == 3 and tensors[0].stride(0) == 1:
        return torch.stack([tensor.permute(1, 2, 0) for tensor in tensors]).permute(0, 3, 1, 2)
    return torch.stack(tensors)
