# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Where images come from: folders, the Hub, files; undecoded, with labels if asked for."""

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Array3D, ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from datasets.exceptions import DatasetNotFoundError
from PIL import Image

from .labels import (
    find_label_columns,
    label_files,
    list_entries,
    take_labels,
    the_only_column,
    unify_labels,
)
from .splits import (
    VALIDATION_SPLITS,
    choose_splits,
    first_held_out,
    hold_out,
    only_split,
    pick_split,
)


_IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp")
_EXTENSIONS = {
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
    *(".jp2", ".j2k", ".pbm", ".pgm", ".ppm", ".pnm", ".tga"),
}


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
        splits = {"train": _load_folder(train_dir, "train_dir", labels)}
    elif dataset_name is not None:
        splits = _load_named(dataset_name, dataset_config)
    else:
        raise ValueError("give either dataset_name or train_dir")

    search = validation_dir is None
    _, chosen = choose_splits(splits, train_split, validation_split, search)
    for name, split in chosen.items():
        chosen[name] = _standard_columns(split, image_column, label_column, labels)
    if validation_dir is not None:
        chosen["validation"] = _load_folder(validation_dir, "validation_dir", labels)
    if labels:
        chosen = unify_labels(chosen)
    if "validation" in chosen:
        return DatasetDict({**chosen})
    return hold_out(chosen["train"], train_val_split, seed)


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
            "label_column": label_column,
        }
        for name, value in of_dataset.items():
            if value is not None:
                raise ValueError(
                    f"{name} is for dataset_name; it says nothing about validation_dir"
                )
        return _load_folder(validation_dir, "validation_dir", labels=True), None
    if dataset_name is None:
        raise ValueError("give either dataset_name or validation_dir")

    splits = _load_named(dataset_name, dataset_config)
    if split is None:
        split = first_held_out(splits) or only_split(splits)
    dataset = pick_split(splits, split, "split")
    dataset = _standard_columns(dataset, image_column, label_column, labels=True)
    return unify_labels({split: dataset})[split], split


# from folders, files and the Hub -----------------------------------------------------------------


def _load_folder(folder: str | os.PathLike, flag: str, labels: bool) -> Dataset:
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        parent = folder.parent
        there = list_entries(parent) if parent.is_dir() else "nothing: it doesn't exist either"
        raise ValueError(f"{flag} {folder} is not a folder; in {parent} there is {there}")
    if (folder / "train").is_dir() and any((folder / name).is_dir() for name in VALIDATION_SPLITS):
        raise ValueError(
            f"{flag} {folder} holds whole splits: {list_entries(folder)}; name the one you mean"
        )
    files = sorted(_find_images(folder))
    if not files:
        raise ValueError(f"{flag} {folder} holds no images; in it there is {list_entries(folder)}")
    columns: dict[str, list] = {"image": files}
    features = Features({"image": ImageFeature(decode=False)})
    if labels:
        columns["label"], features["label"] = label_files(folder, files, flag)
    return Dataset.from_dict(columns, features=features)


def _find_images(folder: Path) -> Iterator[str]:
    """Yields the image files below a folder: nothing hidden, and no link in a circle.

    datasets' own loader takes minutes for a million files, makes a split of a class called "test"
    and numbers the images in the disk's order.
    """
    visited = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if os.path.realpath(root) in visited:
            folders.clear()
            continue
        visited.add(os.path.realpath(root))
        for name in names:
            extension = os.path.splitext(name)[1].lower()
            if extension in _EXTENSIONS and not name.startswith("."):
                yield os.path.join(root, name)


def _load_named(name: str, config: str | None) -> dict[str, Dataset]:
    if name == "digits":
        return {"train": _load_digits()}
    path = Path(name).expanduser()
    if path.is_dir():
        saved = (path / "dataset_dict.json").exists() or (path / "state.json").exists()
        if saved:  # by save_to_disk
            loaded = datasets.load_from_disk(path)
        else:
            loaded = datasets.load_dataset(str(path), config)
    elif path.suffix == ".parquet" and path.is_file():
        loaded = datasets.load_dataset("parquet", data_files=str(path))
    else:
        loaded = _load_from_hub(name, config)
    if isinstance(loaded, Dataset):
        return {"train": loaded}
    return {str(split): dataset for split, dataset in loaded.items()}


def _load_from_hub(name: str, config: str | None) -> Any:
    missing = (DatasetNotFoundError, FileNotFoundError, ConnectionError)
    try:
        return datasets.load_dataset(name, config)
    except missing as error:
        raise ValueError(
            f"dataset_name {name!r} is not a folder or parquet file here, nor 'digits', and the "
            f"Hub says: {error}"
        ) from error


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
        named = [label_column] if isinstance(label_column, str) else label_column
        label_columns = find_label_columns(dataset.features, named)
    dataset = dataset.select_columns([image, *label_columns])
    if image != "image":
        dataset = dataset.rename_column(image, "image")
    if labels:
        dataset = take_labels(dataset, label_columns)
    if not isinstance(dataset.features["image"], Array3D):
        dataset = dataset.cast_column("image", ImageFeature(decode=False))
    return dataset


def find_image_column(features: Features, column: str | None) -> str:
    """Finds the column of the images: the one that is named, or the only one that has images.

    Raises:
        ValueError: there is none, or there are several, or it holds something else.
    """
    kinds = (ImageFeature, Array3D)
    if column is None:
        found = [name for name, feature in features.items() if isinstance(feature, kinds)]
        if not found:
            found = [name for name in features if name.lower() in _IMAGE_COLUMNS]
        column = the_only_column(found, "images", "image_column", features)
    elif column not in features:
        raise ValueError(f"image_column is {column!r}; the data set has {', '.join(features)}")
    feature = features[column]
    is_file = isinstance(feature, dict) and ("bytes" in feature or "path" in feature)
    is_plain = getattr(feature, "dtype", "") in ("binary", "string")
    if not (isinstance(feature, kinds) or is_file or is_plain):
        raise ValueError(
            f"image_column {column!r} holds no images but {feature}; the data set has "
            f"{', '.join(features)}"
        )
    return column
