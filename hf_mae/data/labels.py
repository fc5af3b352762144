# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Classes of images: where they are found, and how those of a model and of a data set match."""

import os
from collections import Counter

import torch
from datasets import ClassLabel
from timm.data import ImageNetInfo


_LABEL_COLUMNS = ("label", "labels", "cls", "class", "target")


def _folder_labels(folder, files, flag):
    """Class numbers of files, and the `ClassLabel` feature."""
    ways = [os.path.relpath(file, folder).split(os.sep) for file in files]
    loose = [way[0] for way in ways if len(way) == 1]
    if loose:
        raise ValueError(
            f"{flag} {folder} holds {len(loose)} images that lie in no class, as {loose[0]}; each class needs a folder of "
            f"its own. In it there is {_listing(folder)}"
        )
    feature = ClassLabel(names=sorted({way[0] for way in ways}))
    return [feature.str2int(way[0]) for way in ways], feature


def _listing(folder):
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    return (
        ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        or "nothing"
    )


def _label_column(features, column):
    if column is None:
        found = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
        found = found or [name for name in features if name.lower() in _LABEL_COLUMNS]
        if len(found) != 1:
            what = (
                "no column has labels"
                if not found
                else f"several columns have labels ({', '.join(found)})"
            )
            raise ValueError(
                f"{what}; name one by label_column: the data set has {', '.join(features)}"
            )
        column = found[0]
    elif column not in features:
        raise ValueError(f"label_column is {column!r}; the data set has {', '.join(features)}")
    dtype = getattr(features[column], "dtype", "")
    if not dtype.startswith(("int", "uint", "string", "large_string")):
        raise ValueError(
            f"label_column {column!r} holds {features[column]}; it must be one class an image, a whole number or a name"
        )
    return column


def _same_classes(splits):
    """Labels of every split as the classes of the first, a `ClassLabel`."""
    first = next(iter(splits.values()))
    feature = first.features["label"]
    if not isinstance(feature, ClassLabel):
        classes = {value for value in first.unique("label") if value is not None}
        feature = ClassLabel(names=[str(name) for name in sorted(classes)])
    return {name: _as_classes(split, feature, name) for name, split in splits.items()}


def _as_classes(split, feature, name):
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
            f"the {name} split has {len(unknown)} classes that training hasn't, as {unknown[0]!r}; it has "
            f"{', '.join(feature.names[:10])}{', …' * (len(feature.names) > 10)}"
        )
    numbers = [feature.str2int(value) for value in values]
    return split.remove_columns("label").add_column("label", numbers, feature=feature)


def readable_names(names):
    """Class names for people: ImageNet's where all are WordNet numbers (n01440764, …), else as they are.

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


def own_labels(batch):
    """The labels (B,) of a batch, -100 for images that can't be decoded and that others stand in for."""
    replaced = {index for index, _, _ in batch["bad_images"]}
    kept = torch.tensor(
        [index not in replaced for index in batch["index"].tolist()], device=batch["labels"].device
    )
    return torch.where(kept, batch["labels"], -100)


def match_classes(names, id2label):
    """For each class of a data set the number that a model has for it: by name, for their orders may differ.

    Args:
        names: Class names of the data set, in its order.
        id2label: Number → name, of the model.

    Returns:
        numbers: One a name.

    Raises:
        ValueError: the model doesn't know a class.

    Example:

    >>> match_classes(["cat", "dog"], {0: "dog", 1: "cat", 2: "cow"})
    [1, 0]
    """
    labels = [id2label[number] for number in sorted(id2label)]
    if len(names) == len(labels) and all(
        label == f"LABEL_{number}" for number, label in enumerate(labels)
    ):
        return list(range(len(names)))  # the model was given no names
    count = Counter(labels)
    label2id = {label: number for number, label in enumerate(labels) if count[label] == 1}
    for spelling in (list(names), readable_names(names)):
        numbers = [label2id.get(name) for name in spelling]
        missing = [i for i, number in enumerate(numbers) if number is None]
        # a few of ImageNet's thousand names are spelt in several ways; its order is the same everywhere
        if (
            len(names) == len(labels) == 1000
            and len(missing) < 100
            and not set(missing) & set(numbers)
        ):
            numbers = [i if number is None else number for i, number in enumerate(numbers)]
        if None not in numbers:
            return numbers
    unknown = [name for name in names if name not in label2id]
    raise ValueError(
        f"the model doesn't know {len(unknown)} of the data set's {len(names)} classes, as {unknown[0]!r}; "
        f"it knows {', '.join(labels[:10])}{', …' * (len(labels) > 10)}"
    )
