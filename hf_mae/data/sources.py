# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Where images come from: folders, the Hub, files; undecoded, with labels if asked for."""

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import (
    Array2D,
    Array3D,
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    LargeList,
    List,
)
from datasets import Image as ImageFeature
from PIL import Image
from transformers.utils import logging

from ..file_names import find_file, printable
from ..models.near_names import did_you_mean
from .class_names import composed
from .data_files import can_be_read, load_from_hub, load_local, load_saved
from .folders import load_image_folder
from .labels import find_label_columns, take_labels, the_only_column, unify_labels
from .splits import choose_splits, first_held_out, hold_out, only_split, pick_split
from .tables import plain_feature


_MARKS = ("dataset_dict.json", "state.json")  # of what save_to_disk has saved
_ROWS_TO_CHECK = 20  # whether their files are there
_IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp")
# of paths, where no column is called so
_PATH_COLUMNS = (
    *("file_name", "filename", "file", "path", "filepath", "file_path"),
    *("image_path", "img_path", "image_file", "image_name"),
)

logger = logging.get_logger(__name__)


@contextlib.contextmanager
def _nothing_written_beside_the_input() -> Iterator[None]:
    """Has datasets write what it keeps of indices and casts to its own place."""
    was_enabled = datasets.is_caching_enabled()
    datasets.disable_caching()
    try:
        yield
    finally:
        if was_enabled:
            datasets.enable_caching()


@_nothing_written_beside_the_input()
def load_image_dataset(
    dataset_name: str | None = None,
    dataset_config: str | None = None,
    train_dir: str | os.PathLike | None = None,
    validation_dir: str | os.PathLike | None = None,
    train_split: str | None = None,
    validation_split: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    train_val_split: float = 0.05,
    seed: int = 42,
    labels: bool = False,
) -> DatasetDict:
    """Loads images, undecoded, for training and validation.

    Args:
        dataset_name: A Hub id, a local folder or file (saved by datasets, parquet, …), or
            `"digits"` (embedded).
        dataset_config: Configuration of the data set, if it has several.
        train_dir, validation_dir: Image folders, with or without classes, nested or not; instead of
            `dataset_name`, or `validation_dir` beside it.
        train_split, validation_split: Split names; by default `train` and the first of validation,
            val, valid, test.
        image_column: Column of the images; by default the only one that has images.
        label_column: Column of the labels, by default the only one that has classes: of one class
            an image, a number or a name; of lists of these, for several labels an image; or of
            floats, to predict. Or several columns of 0 and 1, one a label.
        train_val_split: Share of the training images to hold out if there is no validation split; 0
            for none. With `labels` every class of at least two images is in both parts, even if
            that takes more than the share; else they are chosen at random.
        seed: Decides which are held out.
        labels: Whether to load labels. Of image folders, the first folder on the way to an image is
            its class.

    Returns:
        `datasets.DatasetDict` with `train` and, if any, `validation`; columns `image` and, with
        `labels`, `label` (a `ClassLabel`, a `List(ClassLabel)` or a float32, the same in both).

    Raises:
        ValueError: something isn't there; the message lists what is.

    Example:

    >>> load_image_dataset("digits").num_rows
    {'train': 1707, 'validation': 90}
    """
    if not 0 <= train_val_split < 1:
        raise ValueError(f"train_val_split is {train_val_split}; it must be in [0, 1)")
    if train_dir is not None and dataset_name is not None:
        raise ValueError("give either dataset_name or train_dir, not both")
    if train_dir is not None:
        splits = load_image_folder(train_dir, "train_dir", labels, _listed(label_column))
    elif dataset_name is not None:
        splits = _load_named(dataset_name, dataset_config, labels, image_column, label_column)
    else:
        raise ValueError("give either dataset_name or train_dir")

    search = validation_dir is None
    _, chosen = choose_splits(splits, train_split, validation_split, search)
    if labels and validation_split is None and "validation" in chosen:
        chosen = _without_unlabelled(chosen, label_column)
    for name, split in chosen.items():
        chosen[name] = _standard_columns(split, image_column, label_column, labels)
    if validation_dir is not None:
        chosen["validation"] = _load_held_out_folder(validation_dir, labels, label_column)
    if labels:
        chosen = unify_labels(chosen)
    if "validation" in chosen:
        return DatasetDict({**chosen})
    return hold_out(chosen["train"], train_val_split, seed)


@_nothing_written_beside_the_input()
def load_evaluation_dataset(
    dataset_name: str | None = None,
    dataset_config: str | None = None,
    validation_dir: str | os.PathLike | None = None,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
) -> tuple[Dataset, str | None]:
    """Loads one split with labels.

    Args:
        dataset_name, dataset_config, validation_dir, image_column, label_column: As for
            `load_image_dataset`.
        split: Name of the split; by default the first of validation, val, valid, test, or the only
            one there is.

    Returns:
        `datasets.Dataset` with columns `image` and `label` (as of `load_image_dataset`), and the
        split's name, None of a folder.

    Raises:
        ValueError: something isn't there; the message lists what is.
    """
    if validation_dir is not None:
        if dataset_name is not None:
            raise ValueError("give either dataset_name or validation_dir, not both")
        of_dataset = {
            "dataset_config": dataset_config,
            "split": split,
            "image_column": image_column,
        }
        for name, value in of_dataset.items():
            if value is not None:
                raise ValueError(
                    f"{name} is for dataset_name; it says nothing about validation_dir"
                )
        held_out = _load_held_out_folder(validation_dir, True, label_column)
        return unify_labels({"validation": held_out})["validation"], None
    if dataset_name is None:
        raise ValueError("give either dataset_name or validation_dir")

    splits = _load_named(dataset_name, dataset_config, True, image_column, label_column)
    if split is None:
        split = first_held_out(splits) or only_split(splits)
    dataset = pick_split(splits, split, "split")
    dataset = _standard_columns(dataset, image_column, label_column, labels=True)
    return unify_labels({split: dataset})[split], split


@_nothing_written_beside_the_input()
def load_split(
    dataset_name: str | None = None,
    dataset_config: str | None = None,
    train_dir: str | os.PathLike | None = None,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
) -> Dataset:
    """Loads one split, with labels if it has them; that it has none is said.

    Args:
        dataset_name, dataset_config, train_dir, image_column, label_column: As for
            `load_image_dataset`. A `label_column` that is named must be there.
        split: Name of the split; by default the only one.

    Returns:
        `datasets.Dataset` with the column `image` and, if there are labels, `label` (as of
        `load_image_dataset`).

    Raises:
        ValueError: something isn't there; the message lists what is.

    Example:

    >>> load_split("digits").column_names
    ['image', 'label']
    """
    if (dataset_name is None) == (train_dir is None):
        raise ValueError("give either dataset_name or train_dir")

    def load(labels: bool) -> Dataset:
        if train_dir is not None:
            splits = load_image_folder(train_dir, "train_dir", labels, _listed(label_column))
        else:
            splits = _load_named(
                str(dataset_name), dataset_config, labels, image_column, label_column
            )
        name = only_split(splits) if split is None else split
        dataset = pick_split(splits, name, "split")
        dataset = _standard_columns(dataset, image_column, label_column, labels)
        return unify_labels({name: dataset})[name] if labels else dataset

    try:
        return load(labels=True)
    except ValueError as error:
        if label_column is not None:
            raise
        dataset = load(labels=False)
        logger.warning(f"there are no labels: {error}")
        return dataset


@_nothing_written_beside_the_input()
def load_every_split(
    dataset_name: str | None = None,
    dataset_config: str | None = None,
    train_dir: str | os.PathLike | None = None,
    validation_dir: str | os.PathLike | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
) -> dict[str, Dataset]:
    """Loads all that a source has: every split under its own name, every column, labels or not.

    Args:
        dataset_name, dataset_config, train_dir, validation_dir, image_column: As for
            `load_image_dataset`; `validation_dir` may also stand alone.
        label_column: Columns of the labels, which are found later where none is named; of several
            columns of 0 and 1 is made one, and it is called `label`.

    Returns:
        Split → data set. Images are in the column `image`, undecoded, or as arrays. Of image
        folders `label` is the first folder on the way to an image, where all lie in one.

    Raises:
        ValueError: something isn't there; the message lists what is.

    Example:

    >>> load_every_split("digits")["train"].column_names
    ['image', 'label']
    """
    if dataset_name is not None and train_dir is not None:
        raise ValueError("give either dataset_name or train_dir, not both")
    label_columns = _listed(label_column)
    splits = {}
    if dataset_name is not None:
        splits = _load_named(
            dataset_name, dataset_config, True, image_column, label_column, whole=True
        )
    elif train_dir is not None:
        splits = load_image_folder(train_dir, "train_dir", True, label_columns, whole=True)
    elif validation_dir is None:
        raise ValueError("give dataset_name, train_dir or validation_dir")
    if validation_dir is not None:
        held_out = first_held_out(splits)
        if held_out is not None:
            raise ValueError(
                f"the data set has the split {held_out!r} to hold out; leave validation_dir away, "
                "or prepare it by itself"
            )
        own = load_image_folder(validation_dir, "validation_dir", True, label_columns, whole=True)
        splits["validation"] = own[first_held_out(own) or only_split(own)]
    if label_columns:
        find_label_columns(next(iter(splits.values())).features, label_columns)  # or refuses them
    return {
        name: _whole_columns(split, image_column, label_columns) for name, split in splits.items()
    }


def _whole_columns(
    dataset: Dataset, image_column: str | None, label_columns: Sequence[str]
) -> Dataset:
    """Undecoded files, or arrays, in a column `image`, the labels that are named in `label`."""
    image = find_image_column(dataset.features, image_column)
    dataset = _call(dataset, image, "image")
    forms = {composed(name): name for name in dataset.features}
    if any(composed(name) in forms for name in label_columns):  # a split may be unlabelled
        columns = find_label_columns(dataset.features, label_columns)
        if len(columns) == 1:
            dataset = _call(dataset, columns[0], "label")
        else:
            dataset = take_labels(dataset, columns)
    return _undecoded(dataset, image)


def _call(dataset: Dataset, column: str, name: str) -> Dataset:
    """Renames a column; one that has the name already is left out, and that is said."""
    if column == name:
        return dataset
    if name in dataset.features:
        logger.warning(f"the column {name!r} is left out, for {column!r} takes its name")
        dataset = dataset.remove_columns(name)
    return dataset.rename_column(column, name)


# from folders, files and the Hub -----------------------------------------------------------------


def _without_unlabelled(
    chosen: dict[str, Dataset], label_column: str | Sequence[str] | None
) -> dict[str, Dataset]:
    """Leaves a held-out split aside that nobody named, if it lacks the columns of the labels.

    Or if none of its images has a label, as prepared sets have it.
    """
    columns = find_label_columns(chosen["train"].features, _listed(label_column) or None)
    held_out = chosen["validation"]
    for column in columns:
        if column not in held_out.features:
            reason = f"it has no column {column!r}"
        elif held_out.data.column(column).null_count == len(held_out.data):
            reason = f"its column {column!r} is empty"
        else:
            continue
        logger.warning(f"the split to hold out is left aside, for {reason}")
        return {"train": chosen["train"]}
    return chosen


def _listed(label_column: str | Sequence[str] | None) -> Sequence[str]:
    if label_column is None:
        return []
    return [label_column] if isinstance(label_column, str) else label_column


def _load_held_out_folder(
    folder: str | os.PathLike, labels: bool, label_column: str | Sequence[str] | None
) -> Dataset:
    """Loads a folder of held-out images: of several splits the one that usually is."""
    splits = load_image_folder(folder, "validation_dir", labels, _listed(label_column))
    held_out = splits[first_held_out(splits) or only_split(splits)]
    by_folder = set(held_out.features) == {"image", "label"}
    return _standard_columns(held_out, None, None if by_folder else label_column, labels)


def _load_named(
    name: str,
    config: str | None,
    labels: bool,
    image_column: str | None,
    label_column: str | Sequence[str] | None,
    whole: bool = False,
) -> dict[str, Dataset]:
    if name == "digits":
        return {"train": _load_digits()}
    path = Path(name).expanduser()
    if any(os.path.exists(path / mark) for mark in _MARKS):
        loaded = load_saved(path)
    elif path.is_dir() or can_be_read(path):
        label_columns = _listed(label_column)
        loaded = load_local(path, config, labels, image_column, label_columns, whole=whole)
    else:
        loaded = load_from_hub(name, config, image_column)
    if isinstance(loaded, Dataset):
        return {"train": loaded}
    return {str(split): dataset for split, dataset in loaded.items()}


def _load_digits() -> Dataset:
    """scikit-learn's 1,797 scanned digits (8 x 8, 16 greys) as 32-pixel PNG files."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    files = []
    for scan in digits.images:
        pixels = (scan * (255 / 16)).round().astype(np.uint8)
        image = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        image.save(buffer, format="png")
        files.append({"bytes": buffer.getvalue(), "path": None})
    names = [str(name) for name in digits.target_names]
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=names)})
    return Dataset.from_dict({"image": files, "label": digits.target.tolist()}, features=features)


# columns -----------------------------------------------------------------------------------------


def _standard_columns(
    dataset: Dataset,
    image_column: str | None,
    label_column: str | Sequence[str] | None,
    labels: bool,
) -> Dataset:
    """Undecoded files (or arrays) in a column `image` and, if asked for, labels in `label`."""
    image = find_image_column(dataset.features, image_column)
    label_columns = []
    if labels:
        label_columns = find_label_columns(dataset.features, _listed(label_column) or None)
    dataset = dataset.select_columns([image, *label_columns])
    if image != "image":
        dataset = dataset.rename_column(image, "image")
    if labels:
        dataset = take_labels(dataset, label_columns)
    return _undecoded(dataset, image)


def _undecoded(dataset: Dataset, column: str) -> Dataset:
    """Undecoded files in the column `image`, which was `column`; arrays stay as they are."""
    feature = dataset.features["image"]
    if holds_arrays(feature):
        return dataset
    if plain_feature(feature) != feature:
        dataset = dataset.cast_column("image", plain_feature(feature))
    dataset = dataset.cast_column("image", ImageFeature(decode=False))
    _check_paths(dataset, column)
    return dataset


def _check_paths(dataset: Dataset, column: str) -> None:
    """Refuses a column of names of which none is a file: they start from elsewhere."""
    paths = []
    for image in dataset[:_ROWS_TO_CHECK]["image"]:
        if image is None:
            continue
        if image.get("bytes") is None and image.get("path"):
            paths.append(image["path"])
    if not paths or any("://" in path or os.path.exists(find_file(path)) for path in paths):
        return
    raise ValueError(
        f"image_column {column!r} holds {printable(paths[0])!r} and other names of which none is a "
        "file; a name starts from the folder of the table that it stands in, or from /"
    )


def find_image_column(features: Features, column: str | None) -> str:
    """Finds the column of the images: the one that is named, or the only one that has images.

    Raises:
        ValueError: there is none, or there are several, or it holds something else.
    """
    kinds = (ImageFeature, Array2D, Array3D)
    if column is None:
        found = [name for name, feature in features.items() if isinstance(feature, kinds)]
        if not found:
            found = [name for name in features if name.lower() in _IMAGE_COLUMNS]
        if not found:
            found = [name for name in features if name.lower() in _PATH_COLUMNS]
        if not found:  # lists of lists of two numbers might be boxes or outlines
            found = [name for name, feature in features.items() if _depth(feature) == 3]
        column = the_only_column(found, "images", "image_column", features)
    elif column not in features:
        raise ValueError(
            f"image_column is {column!r}; the data set has {', '.join(features)}"
            f"{did_you_mean(column, features)}"
        )
    feature = features[column]
    is_file = isinstance(feature, dict) and ("bytes" in feature or "path" in feature)
    is_plain = getattr(plain_feature(feature), "dtype", "") in ("binary", "string")
    if not (isinstance(feature, kinds) or holds_arrays(feature) or is_file or is_plain):
        raise ValueError(
            f"image_column {column!r} holds no images but {feature}; the data set has "
            f"{', '.join(features)}"
        )
    return column


def holds_arrays(feature: Any) -> bool:
    """Whether a column holds arrays of two or three sides, as such or as lists of lists."""
    return isinstance(feature, (Array2D, Array3D)) or _depth(feature) in (2, 3)


def _depth(feature: Any) -> int:
    """Of lists in lists of numbers how many there are, one in the other; else 0."""
    depth = 0
    while isinstance(feature, (List, LargeList)):
        feature, depth = feature.feature, depth + 1
    return depth if getattr(feature, "dtype", "").startswith(("int", "uint", "float")) else 0
