# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Classes of images: where they are found, and how those of a model and of a data set match."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, Dataset, Features
from timm.data.imagenet_info import ImageNetInfo


_LABEL_COLUMNS = ("label", "labels", "cls", "class", "target")


# where labels are --------------------------------------------------------------------------------


def label_files(folder: Path, files: Sequence[str], flag: str) -> tuple[list[int], ClassLabel]:
    """Takes the first folder on the way to a file for its class.

    Args:
        folder: What the ways start from.
        files: Paths below it.
        flag: Where the folder was named, for messages.

    Returns:
        Class number of each file, and the `ClassLabel` feature.

    Raises:
        ValueError: files lie in no folder.
    """
    ways = [os.path.relpath(file, folder).split(os.sep) for file in files]
    loose = [way[0] for way in ways if len(way) == 1]
    if loose:
        raise ValueError(
            f"{flag} {folder} holds {len(loose)} images that lie in no class, as {loose[0]}; each "
            f"class needs a folder of its own. In it there is {list_entries(folder)}"
        )
    classes = sorted({way[0] for way in ways})
    numbers = {name: number for number, name in enumerate(classes)}
    return [numbers[way[0]] for way in ways], ClassLabel(names=classes)


def list_entries(folder: Path) -> str:
    """Lists the first ten entries of a folder, for messages."""
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    if not names:
        return "nothing"
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


def find_label_column(features: Features, column: str | None) -> str:
    """Finds the column of the labels: the one that is named, or the only one that has classes.

    Raises:
        ValueError: there is none, or there are several, or it holds something else.
    """
    if column is None:
        found = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
        if not found:
            found = [name for name in features if name.lower() in _LABEL_COLUMNS]
        column = the_only_column(found, "labels", "label_column", features)
    elif column not in features:
        raise ValueError(f"label_column is {column!r}; the data set has {', '.join(features)}")
    dtype = getattr(features[column], "dtype", "")
    if not dtype.startswith(("int", "uint", "string", "large_string")):
        raise ValueError(
            f"label_column {column!r} holds {features[column]}; it must be one class an image, a "
            "whole number or a name"
        )
    return column


def the_only_column(found: Sequence[str], content: str, flag: str, features: Features) -> str:
    """Takes the column that was found, if it is one.

    Args:
        found: Columns that might be meant.
        content: What they have, for the message.
        flag: What names one.
        features: Of the data set.

    Raises:
        ValueError: there is none, or there are several.
    """
    if len(found) == 1:
        return found[0]
    problem = f"no column has {content}"
    if found:
        problem = f"several columns have {content} ({', '.join(found)})"
    raise ValueError(f"{problem}; name one by {flag}: the data set has {', '.join(features)}")


# one numbering -----------------------------------------------------------------------------------


def unify_classes(splits: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """Numbers the labels of every split as the first split's classes.

    Args:
        splits: Name → data set with a column `label` of classes, whole numbers or names.

    Returns:
        Name → data set whose `label` is a `ClassLabel`, the same in all.

    Raises:
        ValueError: an image has no label, or a class that the first split doesn't have.
    """
    first = next(iter(splits.values()))
    feature = first.features["label"]
    if not isinstance(feature, ClassLabel):
        classes = {value for value in first.unique("label") if value is not None}
        feature = ClassLabel(names=[str(value) for value in sorted(classes)])
    return {name: _renumber(split, feature, name) for name, split in splits.items()}


def _renumber(split: Dataset, feature: ClassLabel, name: str) -> Dataset:
    own, values = split.features["label"], split["label"][:]
    if any(value is None or value == -1 for value in values):
        raise ValueError(
            f"the {name} split has images without a label (-1 or null); name another split"
        )
    if isinstance(own, ClassLabel):
        if own.names == feature.names:
            return split
        values = own.int2str(values)
    values = [str(value) for value in values]
    unknown = sorted(set(values) - set(feature.names))
    if unknown:
        raise ValueError(
            f"the {name} split has {len(unknown)} classes that training hasn't, as {unknown[0]!r}; "
            f"it has {_first_names(feature.names)}"
        )
    numbers = [feature.str2int(value) for value in values]
    return split.remove_columns("label").add_column("label", numbers, feature=feature)


def _first_names(names: Sequence[str]) -> str:
    more = ", …" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


# of a model and of a data set --------------------------------------------------------------------


def readable_names(names: Sequence[str]) -> list[str]:
    """Class names for people: ImageNet's where all are WordNet numbers, else as they are.

    Example:

    >>> readable_names(["n01440764", "n03126707"])
    ['tench, Tinca tinca', 'crane (n03126707)']
    """
    known = ImageNetInfo()
    try:
        readable = [known.label_name_to_description(name) for name in names]
    except KeyError:
        return list(names)
    # two of ImageNet's classes are called crane, and would become one
    count = Counter(known.label_descriptions())
    return [text if count[text] < 2 else f"{text} ({name})" for text, name in zip(readable, names)]


def own_labels(batch: Mapping[str, Any]) -> torch.Tensor:
    """The labels (B,) of a batch, -100 for images that others stand in for."""
    replaced = {index for index, _, _ in batch["bad_images"]}
    kept = [index not in replaced for index in batch["index"].tolist()]
    labels = batch["labels"]
    return torch.where(torch.tensor(kept, device=labels.device), labels, -100)


def match_classes(names: Sequence[str], id2label: Mapping[int, str]) -> list[int]:
    """Finds the number that a model has for each class of a data set, by name.

    Their orders may differ. A model without names is taken to have the data set's order.

    Args:
        names: Class names of the data set, in its order.
        id2label: Number → name, of the model.

    Returns:
        A number a name.

    Raises:
        ValueError: the model doesn't know a class.

    Example:

    >>> match_classes(["cat", "dog"], {0: "dog", 1: "cat", 2: "cow"})
    [1, 0]
    """
    labels = [id2label[number] for number in sorted(id2label)]
    unnamed = [f"LABEL_{number}" for number in range(len(labels))]
    if labels == unnamed and len(names) == len(labels):
        return list(range(len(names)))
    count = Counter(labels)
    label2id = {label: number for number, label in enumerate(labels) if count[label] == 1}
    for spelling in (names, readable_names(names)):
        numbers = [label2id.get(name) for name in spelling]
        if len(names) == len(labels) == 1000:
            numbers = _fill_imagenet_gaps(numbers)
        known = [number for number in numbers if number is not None]
        if len(known) == len(names):
            return known
    unknown = [name for name in names if name not in label2id]
    raise ValueError(
        f"the model doesn't know {len(unknown)} of the data set's {len(names)} classes, as "
        f"{unknown[0]!r}; it knows {_first_names(labels)}"
    )


def _fill_imagenet_gaps(numbers: list[int | None]) -> list[int | None]:
    """Gives classes that have no number their own place, if they are few and it is free.

    A few of ImageNet's thousand names are spelt in several ways; its order is the same everywhere.
    """
    missing = [place for place, number in enumerate(numbers) if number is None]
    if len(missing) >= 100 or set(missing) & set(numbers):
        return numbers
    return [place if number is None else number for place, number in enumerate(numbers)]
