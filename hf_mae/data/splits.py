# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Which images are trained on and which are held out: splits of a data set, or a share of one.

What is held out by share has, as far as can be, every class in both parts: scikit-learn's
stratified splits refuse a class of one image, and datasets' want at least as many images held out
as there are classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import datasets
import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers.utils import logging

from ..models.near_names import did_you_mean
from ..models.problem_types import REGRESSION, SINGLE_LABEL
from .class_names import first_names
from .labels import count_labels, describe_labels, stack_labels


VALIDATION_SPLITS = ("validation", "val", "valid", "test")

logger = logging.get_logger(__name__)

Split = TypeVar("Split", Dataset, datasets.IterableDataset)


# of a data set -----------------------------------------------------------------------------------


def choose_splits(
    splits: Mapping[str, Split],
    train_split: str | None,
    validation_split: str | None,
    search: bool = True,
) -> tuple[str, dict[str, Split]]:
    """Chooses what to train on and what to hold out of a data set's splits.

    Args:
        splits: Name → split.
        train_split: Name; by default `train`, or the only one.
        validation_split: Name; by default the first of validation, val, valid, test.
        search: Whether to look for that.

    Returns:
        Name of the training split, and {"train": split, "validation": split, if any}.

    Raises:
        ValueError: there is no such split; the message lists those that are.
    """
    if train_split is None:
        train_split = next(iter(splits)) if len(splits) == 1 else "train"
        if train_split not in splits:
            raise ValueError(
                f"the data set has {', '.join(splits)}, and nothing called train; name the split "
                "to train on by train_split"
            )
    if validation_split is None and search:
        others = [name for name in splits if name != train_split]
        validation_split = first_held_out(others)
    chosen = {"train": pick_split(splits, train_split, "train_split")}
    if validation_split is not None:
        chosen["validation"] = pick_split(splits, validation_split, "validation_split")
    return train_split, chosen


def first_held_out(names: Iterable[str]) -> str | None:
    """Finds the first of the names that held-out images usually have."""
    there = set(names)
    return next((name for name in VALIDATION_SPLITS if name in there), None)


def only_split(splits: Mapping[str, Dataset]) -> str:
    """Gives the name of the only split.

    Raises:
        ValueError: there are several.
    """
    if len(splits) > 1:
        raise ValueError(f"the data set has {', '.join(splits)}; name one by split")
    return next(iter(splits))


def pick_split(splits: Mapping[str, Split], name: str, flag: str) -> Split:
    """Picks a split by its name.

    Raises:
        ValueError: there is none; the message names the flag, and lists those that are.
    """
    if name not in splits:
        raise ValueError(
            f"{flag} is {name!r}; the data set has {', '.join(splits)}{did_you_mean(name, splits)}"
        )
    return splits[name]


# a share of one ----------------------------------------------------------------------------------


def hold_out(train: Dataset, share: float, seed: int) -> DatasetDict:
    """Holds out a share of the training images, chosen by the seed.

    Where there is a column `label` of classes, or of lists of labels, each that at least two images
    have is in both parts, even if more than the share has to be held out for it; one that a single
    image has stays in training. What the parts can't have so is said. Of all else images are
    chosen at random.

    Args:
        train: Images, with or without `label`.
        share: Of them, in [0, 1); 0 for none.
        seed: The same seed and images give the same parts.

    Returns:
        `train` and, unless the share is 0, `validation`, both in random order.

    Raises:
        ValueError: there are fewer than two images.
    """
    if share == 0:
        return DatasetDict({"train": train})
    if len(train) < 2:
        raise ValueError(
            f"there is {len(train)} training image: none to hold out by train_val_split={share}"
        )
    total = max(1, round(share * len(train)))
    order = np.random.default_rng(seed).permutation(len(train))
    feature = train.features.get("label")
    problem_type, names = describe_labels(feature) if feature is not None else (REGRESSION, [])
    if problem_type == REGRESSION:
        held_out = np.isin(np.arange(len(train)), order[:total])
    else:
        labels = stack_labels(train)
        counts = count_labels(labels, len(names))
        if problem_type == SINGLE_LABEL:
            held_out = _hold_out_classes(labels.tolist(), counts.numpy(), total, order)
        else:
            lists = [sorted(set(row)) for row in train["label"][:]]
            held_out = _hold_out_lists(lists, counts.numpy(), total, order)
        counts_held_out = count_labels(labels[torch.from_numpy(held_out)], len(names))
        _report(counts.numpy(), counts_held_out.numpy(), names, int(held_out.sum()), total)
    held_out = held_out[order]
    return DatasetDict(
        {"train": train.select(order[~held_out]), "validation": train.select(order[held_out])}
    )


def _hold_out_classes(
    classes: Sequence[int], counts: np.ndarray, total: int, order: np.ndarray
) -> np.ndarray:
    """Which (N,) images to hold out: of each class the first ones in this order."""
    numbers = share_out(counts, total).tolist()
    held_out = np.zeros(len(classes), bool)
    for image in order.tolist():
        numbers[classes[image]] -= 1
        held_out[image] = numbers[classes[image]] >= 0
    return held_out


def share_out(counts: np.ndarray, total: int) -> np.ndarray:
    """Shares out among classes the images to hold out: as many of each as its part of all.

    What is left over by rounding down goes where the remainders are largest. Each class of at least
    two images gets one at least and leaves one; the sum is the nearest to `total` that this allows.

    Args:
        counts: (K,) images of each class.
        total: Images to hold out.

    Example:

    >>> share_out(np.array([57, 3, 1]), total=6)
    array([5, 1, 0])
    """
    wanted = counts * (total / counts.sum())
    least = np.where(counts > 1, 1, 0)
    most = np.maximum(counts - 1, 0)
    numbers = np.clip(np.floor(wanted).astype(int), least, most)
    total = int(np.clip(total, least.sum(), most.sum()))
    while numbers.sum() < total:
        numbers[np.where(numbers < most, wanted - numbers, -np.inf).argmax()] += 1
    while numbers.sum() > total:
        numbers[np.where(numbers > least, wanted - numbers, np.inf).argmin()] -= 1
    return numbers


def _hold_out_lists(
    lists: Sequence[Sequence[int]], counts: np.ndarray, total: int, order: np.ndarray
) -> np.ndarray:
    """Which (N,) images to hold out, so that each label is in both parts if that can be reached.

    Greedy, the rarest labels first (Sechidis et al., ECML PKDD 2011, in spirit): one image of each,
    then up to its share, then any; of several images the one whose labels still lack the most. No
    image is taken that is the last with one of its labels.
    """
    shares = np.rint(counts * (total / len(lists)))
    taken = np.zeros(len(counts), int)
    held_out = np.zeros(len(lists), bool)
    images_with: list[list[int]] = [[] for _ in counts]
    for image in order.tolist():
        for label in lists[image]:
            images_with[label].append(image)

    def surplus(image: int) -> int:
        return sum(taken[label] >= max(1, shares[label]) for label in lists[image])

    def take(images: list[int], number: float) -> None:
        free = [image for image in images if not held_out[image]]
        for image in sorted(free, key=surplus):
            if number <= 0:
                return
            labels = lists[image]
            if all(taken[label] + 1 < counts[label] for label in labels):
                held_out[image] = True
                taken[labels] += 1
                number -= 1

    rarest_first = np.argsort(counts, kind="stable")
    for label in rarest_first:
        take(images_with[label], 1 - int(taken[label]))
    for label in rarest_first:
        room = total - int(held_out.sum())
        take(images_with[label], min(room, float(shares[label] - taken[label])))
    take(order.tolist(), total - int(held_out.sum()))
    return held_out


def _report(
    counts: np.ndarray, held_out: np.ndarray, names: Sequence[str], number: int, total: int
) -> None:
    """Says which labels are in training alone, and whether more or fewer are held out than asked.

    Args:
        counts: (K,) images of each label.
        held_out: (K,) those of them that are held out.
        names: (K,) of the labels.
        number: Images that are held out.
        total: Those that were asked for.

    Raises:
        ValueError: none is.
    """
    singles = [name for name, count in zip(names, counts) if count == 1]
    if not number:
        raise ValueError(
            f"no image can be held out, as each has a class to itself ({first_names(singles)}); "
            "give a validation_dir or validation_split, or pass --train_val_split 0"
        )
    if singles:
        logger.warning(
            f"{len(singles)} of {len(names)} classes have a single image, which stays in training: "
            f"{first_names(singles)}"
        )
    alone = [name for name, in_all, out in zip(names, counts, held_out) if in_all > 1 and not out]
    if alone:
        logger.warning(
            f"{len(alone)} of {len(names)} labels have no held-out image, as that would take the "
            f"last one of another label from training: {first_names(alone)}"
        )
    if number != total:
        reason = "has one" if number > total else "keeps one to train on"
        logger.warning(
            f"{number:,} images are held out, not the {total:,} of train_val_split, so that every "
            f"class {reason}"
        )
