# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Labels of images: where they are found, one numbering of them, and those of a batch.

A column `label` is a `ClassLabel` of one class an image, a `List(ClassLabel)` of several labels an
image, or a float: the three problem types of `models/problem_types.py`.
"""

import itertools
import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, LargeList, List, Value
from transformers.utils import logging

from ..models.near_names import did_you_mean
from ..models.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from .class_names import composed, first_names, merge_forms


logger = logging.get_logger(__name__)
_LABEL_COLUMNS = ("label", "labels", "cls", "class", "target")
_CLASS_DTYPES = ("int", "uint", "bool", "string", "large_string")


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
        tables = [path.name for path in sorted(folder.glob("metadata.*"))]
        hint = f"; with its {tables[0]} it is a data set: name it by dataset_name" if tables else ""
        raise ValueError(
            f"{flag} {folder} holds {len(loose)} images that lie in no class, as {loose[0]}; each "
            f"class needs a folder of its own. In it there is {list_entries(folder)}{hint}"
        )
    folders = sorted({way[0] for way in ways})
    classes = sorted(merge_forms(folders, f"folders of {flag} {folder}"))
    numbers = {name: classes.index(composed(name)) for name in folders}
    return [numbers[way[0]] for way in ways], ClassLabel(names=classes)


def list_entries(folder: Path) -> str:
    """Lists the first ten entries of a folder, for messages."""
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    if not names:
        return "nothing"
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


def find_label_columns(features: Features, columns: Sequence[str] | None) -> list[str]:
    """Finds the columns of the labels: those that are named, or the only one that has classes.

    Raises:
        ValueError: there is none, or there are several that nobody named, or one holds something
            else.
    """
    if columns is None:
        found = [name for name, feature in features.items() if _holds_classes(feature)]
        if not found:
            found = [name for name in features if name.lower() in _LABEL_COLUMNS]
        columns = [the_only_column(found, "labels", "label_column", features)]
    forms = {composed(name): name for name in features}
    columns = [forms.get(composed(column), column) for column in columns]
    for column in columns:
        if column not in features:
            raise ValueError(
                f"label_column is {column!r}; the data set has {', '.join(features)}"
                f"{did_you_mean(column, features)}"
            )
        if columns.count(column) > 1:
            raise ValueError(f"label_column names {column!r} twice")
    if len(columns) == 1 and find_label_problem(features[columns[0]]) is None:
        raise ValueError(
            f"label_column {columns[0]!r} holds {features[columns[0]]}; it must be one class an "
            "image, a whole number or a name; a list of these; or a float to predict. Several "
            "columns of 0 and 1 are several labels an image"
        )
    return columns


def _holds_classes(feature: Any) -> bool:
    if isinstance(feature, (List, LargeList)):
        feature = feature.feature
    return isinstance(feature, ClassLabel)


def find_label_problem(feature: Any) -> str | None:
    """Finds the problem type of a column of labels by its feature; None if it can't be one."""
    dtype = getattr(feature, "dtype", "")
    if isinstance(feature, (List, LargeList)):
        inner = getattr(feature.feature, "dtype", "")
        return MULTI_LABEL if inner.startswith((*_CLASS_DTYPES, "float")) else None
    if dtype.startswith("float"):
        return REGRESSION
    return SINGLE_LABEL if dtype.startswith(_CLASS_DTYPES) else None


def describe_label_column(feature: Any) -> str:
    """Says in a few words what a column holds.

    Example:

    >>> describe_label_column(ClassLabel(names=["cat", "dog"]))
    '2 classes: cat, dog'
    """
    if isinstance(feature, ClassLabel):
        return f"{len(feature.names):,} classes: {first_names(feature.names)}"
    if isinstance(feature, (List, LargeList)):
        inner = feature.feature
        if isinstance(inner, ClassLabel):
            return f"lists of {len(inner.names):,} labels: {first_names(inner.names)}"
        return f"lists of {getattr(inner, 'dtype', 'values')}"
    return str(getattr(feature, "dtype", type(feature).__name__))


def take_labels(dataset: Dataset, columns: Sequence[str]) -> Dataset:
    """Makes the column `label` of the columns that hold the labels.

    Args:
        dataset: With these columns.
        columns: One, which is renamed, or several of 0 and 1, one a label.

    Raises:
        ValueError: one of several columns holds something else.
    """
    if len(columns) == 1:
        return dataset.rename_columns({column: "label" for column in columns if column != "label"})
    switches = np.stack([_read_switches(dataset, column) for column in columns], axis=1)  # (N, K)
    numbers = [np.flatnonzero(row).tolist() for row in switches]
    feature = List(ClassLabel(names=list(columns)))
    return dataset.remove_columns(list(columns)).add_column("label", numbers, feature=feature)


def _read_switches(dataset: Dataset, column: str) -> list[bool]:
    values = dataset[column][:]
    others = [value for value in values if value not in (0, 1)]
    if others:
        raise ValueError(
            f"label_column {column!r} holds {others[0]!r} ({len(others):,} of {len(values):,} "
            "values aren't 0 or 1); of several columns each says by 0 or 1 whether an image has it"
        )
    return [bool(value) for value in values]


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


def unify_labels(splits: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """Brings the labels of every split into one form, numbered as the first split's classes.

    Args:
        splits: Name → data set with a column `label`: classes, whole numbers or names; lists of
            these, or lists of 0 and 1, one for each label; or floats.

    Returns:
        Name → data set whose `label` is a `ClassLabel`, a `List(ClassLabel)` or a float32, the same
        in all.

    Raises:
        ValueError: an image has no label, or a class that the first split doesn't have; or the
            splits are of different kinds.
    """
    first_name, first = next(iter(splits.items()))
    problem_type = find_label_problem(first.features["label"])
    for name, split in splits.items():
        own = find_label_problem(split.features["label"])
        if own == REGRESSION:
            _check_values(split, name)
        if own != problem_type:
            raise ValueError(
                f"the labels of the {name} split are {split.features['label']}, and those of the "
                f"{first_name} split {first.features['label']}; they must be of one kind"
            )
    if problem_type == REGRESSION:
        value = Value("float32")
        return {name: split.cast_column("label", value) for name, split in splits.items()}
    if problem_type == MULTI_LABEL:
        return _unify_lists(splits)
    feature = first.features["label"]
    if isinstance(feature, ClassLabel):
        names = feature.names
    else:
        classes = {value for value in first.unique("label") if value is not None}
        names = [str(value) for value in sorted(classes)]
    feature = _class_feature(names, first_name)
    return {name: _renumber(split, feature, name) for name, split in splits.items()}


def _class_feature(names: Sequence[str], split: str) -> ClassLabel:
    return ClassLabel(names=merge_forms(names, f"classes of the {split} split"))


def _renumber(split: Dataset, feature: ClassLabel, name: str) -> Dataset:
    own, values = split.features["label"], split["label"][:]
    counts = {"null": values.count(None), "-1": values.count(-1)}
    if any(counts.values()):
        found = " and ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
        raise ValueError(
            f"the {name} split has images without a label ({found}, of {len(values):,}; -1 stands "
            "for none); name another split, take them out, or write a name where -1 is a class"
        )
    if isinstance(own, ClassLabel):
        if own.names == feature.names:
            return split
        values = own.int2str(values)
    values = [composed(str(value)) for value in values]
    _check_known(values, feature, name)
    return _with_labels(split, [feature.str2int(value) for value in values], feature)


def _check_known(values: Collection[str], feature: ClassLabel, name: str) -> None:
    unknown = sorted(set(values) - set(feature.names))
    if unknown:
        raise ValueError(
            f"the {name} split has {len(unknown)} classes that training hasn't, as {unknown[0]!r}; "
            f"it has {first_names(feature.names)}"
        )


def _with_labels(split: Dataset, labels: list, feature: Any) -> Dataset:
    return split.remove_columns("label").add_column("label", labels, feature=feature)


def _check_values(split: Dataset, name: str) -> None:
    values = split["label"][:]
    missing = [value for value in values if value is None or not math.isfinite(value)]
    if not missing:
        return
    raise ValueError(
        f"{len(missing):,} of the {len(split):,} images of the {name} split have no label, or no "
        f"value to predict ({missing[0]}); fill it in, or take them out"
    )


# several labels an image -------------------------------------------------------------------------


def _unify_lists(splits: Mapping[str, Dataset]) -> dict[str, Dataset]:
    first_name, first = next(iter(splits.items()))
    lists = {name: _read_lists(split, name) for name, split in splits.items()}
    if _are_switches(lists[first_name]):
        width = len(lists[first_name][0])
        logger.warning(
            f"the labels are lists of {width} times 0 or 1, taken for {width} labels that an image "
            "has or hasn't, called 0, 1, …"
        )
        names = [str(number) for number in range(width)]
        lists = {name: _switched_on(values, width, name) for name, values in lists.items()}
    else:
        names = _class_names(first.features["label"].feature, lists[first_name], first_name)
    feature = _class_feature(names, first_name)
    unified = {}
    for name, split in splits.items():
        named = [list(map(composed, map(str, row))) for row in lists[name]]
        _check_known(set(itertools.chain.from_iterable(named)), feature, name)
        numbers = [feature.str2int(row) if row else [] for row in named]
        unified[name] = _with_labels(split, numbers, List(feature))
    return unified


def _read_lists(split: Dataset, name: str) -> list[list]:
    """Reads what each image has: class names, whole numbers, or 0 and 1."""
    inner, lists = split.features["label"].feature, split["label"][:]
    missing = sum(row is None or None in row or -1 in row for row in lists)
    if missing:
        raise ValueError(
            f"{missing:,} of the {len(lists):,} images of the {name} split have no labels, or one "
            "that is -1 or null; an image without any has an empty list"
        )
    if isinstance(inner, ClassLabel):
        return [list(map(inner.int2str, row)) for row in lists]
    return lists


def _are_switches(lists: Sequence[Sequence]) -> bool:
    """Whether each list says of each label whether an image has it, and none names the labels.

    Numbers of labels, all of them 0 and 1 and always equally many, would tell no image from others.
    """
    lengths = {len(row) for row in lists}
    values = set(itertools.chain.from_iterable(lists))
    return len(lengths) == 1 and max(lengths) > 1 and values <= {0, 1}


def _switched_on(lists: Sequence[Sequence], width: int, name: str) -> list[list[int]]:
    for row in lists:
        if len(row) != width or not set(row) <= {0, 1}:
            raise ValueError(
                f"the {name} split has the labels {row}; they must be {width} times 0 or 1, as in "
                "training"
            )
    return [np.flatnonzero(row).tolist() for row in lists]


def _class_names(inner: Any, lists: Sequence[Sequence], name: str) -> list[str]:
    """The names of all labels, in the order of their numbers."""
    if isinstance(inner, ClassLabel):
        return inner.names
    if inner.dtype.startswith(("float", "bool")):
        raise ValueError(
            f"the labels of the {name} split are lists of {inner.dtype}; these must be 0 and 1, "
            "one for each label and equally many for every image"
        )
    classes = set(itertools.chain.from_iterable(lists))
    if not classes:
        raise ValueError(f"no image of the {name} split has a label")
    return [str(value) for value in sorted(classes)]


# of samples and batches --------------------------------------------------------------------------


def stack_labels(dataset: Dataset) -> torch.Tensor:
    """Reads the labels of all images.

    Returns:
        (N,) class numbers; of several labels an image (N, K), whether it has each; or (N,) floats.
    """
    rows, feature = dataset["label"][:], dataset.features["label"]
    if not isinstance(feature, List):
        return torch.tensor(rows)
    labels = torch.zeros(len(rows), len(feature.feature.names), dtype=torch.bool)
    images = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(row) for row in rows]))
    numbers = torch.tensor(list(itertools.chain.from_iterable(rows)), dtype=torch.long)
    labels[images, numbers] = True
    return labels


def count_labels(labels: torch.Tensor, num_labels: int) -> torch.Tensor:
    """Counts the images (K,) of each class, or that have each label.

    Args:
        labels: (N,) class numbers, or (N, K); those of images that `has_label` says have none
            don't count.
        num_labels: K.

    Example:

    >>> count_labels(torch.tensor([0, 2, 2]), num_labels=3)
    tensor([1, 0, 2])
    """
    labels = labels[has_label(labels)]
    if labels.ndim == 2:
        return labels.long().sum(dim=0)
    return labels.bincount(minlength=num_labels)


def describe_labels(feature: Any) -> tuple[str, list[str]]:
    """Says of a column `label` its problem type and the names of its classes.

    Those of a regression, whose column's name is gone, are `["value"]`.
    """
    if isinstance(feature, List):
        return MULTI_LABEL, feature.feature.names
    if isinstance(feature, ClassLabel):
        return SINGLE_LABEL, feature.names
    return REGRESSION, ["value"]


def label_tensor(label: Any, feature: Any) -> torch.Tensor:
    """Makes what the model takes of one image's label.

    That is a class number (), of several labels an image (K,) with 1 for those that it has, or a
    float ().

    Example:

    >>> label_tensor([0, 2], List(ClassLabel(names=["cat", "dog", "hen"])))
    tensor([1., 0., 1.])
    """
    if not (isinstance(feature, List) and isinstance(feature.feature, ClassLabel)):
        return torch.tensor(label)
    targets = torch.zeros(len(feature.feature.names))
    targets[torch.tensor(label, dtype=torch.long)] = 1.0
    return targets


def own_labels(batch: Mapping[str, Any]) -> torch.Tensor | None:
    """The labels (B,) or (B, K) of a batch, or None if it has none.

    Those of images that others stand in for are -100, or where labels are floats NaN.
    """
    labels = batch.get("labels")
    if labels is None:
        return None
    kept = own_images(batch).to(labels.device)
    if labels.ndim == 2:
        kept = kept.unsqueeze(1)  # (B, 1)
    nothing = torch.nan if labels.is_floating_point() else -100
    return torch.where(kept, labels, nothing)


def own_images(batch: Mapping[str, Any]) -> torch.Tensor:
    """Whether (B,) the images of a batch are their own, or others stand in for them."""
    replaced = {index for index, _, _ in batch["bad_images"]}
    return torch.tensor([index not in replaced for index in batch["index"].tolist()])


def has_label(labels: torch.Tensor) -> torch.Tensor:
    """Whether (B,) those that `own_labels` returned are labels."""
    known = ~labels.isnan() if labels.is_floating_point() else labels != -100
    return known.all(dim=1) if known.ndim == 2 else known
