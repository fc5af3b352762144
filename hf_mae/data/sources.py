# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Where images come from: folders, the Hub, files; undecoded, in one column, with labels if asked
for."""

import io
import os
from pathlib import Path

import datasets
import numpy as np
from datasets import Array3D, ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from PIL import Image

from .labels import _folder_labels, _label_column, _listing, _same_classes


_VALIDATION_SPLITS = ("validation", "val", "valid", "test")
_IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp")
_EXTENSIONS = {
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
    *(".jp2", ".j2k", ".pbm", ".pgm", ".ppm", ".pnm", ".tga"),
}


def load_image_dataset(
    dataset_name=None,
    dataset_config=None,
    train_dir=None,
    validation_dir=None,
    train_split=None,
    validation_split=None,
    image_column=None,
    label_column=None,
    train_val_split=0.05,
    seed=42,
    labels=False,
):
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
        label_column: Column of the labels; by default the only one that has classes.
        train_val_split: Share of the training images to hold out if there is no validation split; 0
            for none.
        seed: Decides which are held out.
        labels: Whether to load labels. Of image folders, the first folder on the way to an image is
            its class.

    Returns:
        `datasets.DatasetDict` with `train` and, if any, `validation`; columns `image` and, with
        `labels`, `label` (a `ClassLabel`, the same in both).

    Raises:
        ValueError: something isn't there; the message lists what is.

    Example:

    >>> load_image_dataset("digits").num_rows
    {'train': 1707, 'validation': 90}
    """
    if (dataset_name is None) == (train_dir is None):
        raise ValueError(
            "give either dataset_name or train_dir" + (", not both" if train_dir else "")
        )
    if not 0 <= train_val_split < 1:
        raise ValueError(f"train_val_split is {train_val_split}; it must be in [0, 1)")
    if train_dir is not None:
        splits = DatasetDict(train=_load_folder(train_dir, "train_dir", labels))
    else:
        splits = _load_named(dataset_name, dataset_config)
    _, chosen = choose_splits(splits, train_split, validation_split, search=validation_dir is None)
    chosen = {
        name: _standard_columns(split, image_column, label_column, labels)
        for name, split in chosen.items()
    }
    if validation_dir is not None:
        chosen["validation"] = _load_folder(validation_dir, "validation_dir", labels)
    if labels:
        chosen = _same_classes(chosen)
    return (
        DatasetDict(chosen)
        if len(chosen) == 2
        else _hold_out(chosen["train"], train_val_split, seed)
    )


def load_evaluation_dataset(
    dataset_name=None,
    dataset_config=None,
    validation_dir=None,
    split=None,
    image_column=None,
    label_column=None,
):
    """Loads one split with labels: `split`, or the first of validation, val, valid, test, or the
    only one there is.

    Args:
        dataset_name, dataset_config, validation_dir, image_column, label_column: As for
            `load_image_dataset`.

    Returns:
        `datasets.Dataset` with columns `image` and `label` (a `ClassLabel`), and the split's name,
        None of a folder.

    Raises:
        ValueError: something isn't there; the message lists what is.
    """
    if (dataset_name is None) == (validation_dir is None):
        raise ValueError(
            "give either dataset_name or validation_dir" + (", not both" if validation_dir else "")
        )
    if validation_dir is not None:
        of_dataset = {
            "dataset_config": dataset_config,
            "split": split,
            "image_column": image_column,
        }
        given = [
            name
            for name, value in {**of_dataset, "label_column": label_column}.items()
            if value is not None
        ]
        if given:
            raise ValueError(
                f"{given[0]} is for dataset_name; it says nothing about validation_dir"
            )
        return _load_folder(validation_dir, "validation_dir", labels=True), None
    splits = _load_named(dataset_name, dataset_config)
    if split is None:
        held_out = [name for name in _VALIDATION_SPLITS if name in splits]
        if not held_out and len(splits) > 1:
            raise ValueError(f"the data set has {', '.join(splits)}; name one by split")
        split = held_out[0] if held_out else next(iter(splits))
    dataset = _standard_columns(
        _pick(splits, split, "split"), image_column, label_column, labels=True
    )
    return _same_classes({split: dataset})[split], split


def _hold_out(train, share, seed):
    if share == 0:
        return DatasetDict(train=train)
    if len(train) < 2:
        raise ValueError(
            f"there is {len(train)} training image: none to hold out by train_val_split={share}"
        )
    halves = train.train_test_split(test_size=max(1, round(share * len(train))), seed=seed)
    return DatasetDict(train=halves["train"], validation=halves["test"])


def _load_folder(folder, flag, labels):
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        parent = folder.parent
        there = _listing(parent) if parent.is_dir() else "nothing: it doesn't exist either"
        raise ValueError(f"{flag} {folder} is not a folder; in {parent} there is {there}")
    if (folder / "train").is_dir() and any((folder / name).is_dir() for name in _VALIDATION_SPLITS):
        raise ValueError(
            f"{flag} {folder} holds whole splits: {_listing(folder)}; name the one you mean"
        )
    # listed here, as datasets' own loader takes minutes for a million files, makes a split of a
    # class called "test" and numbers the images in the disk's order
    files, visited = [], set()
    for root, folders, names in os.walk(folder, followlinks=True):
        # nothing hidden, and no link in a circle
        folders[:] = [name for name in folders if not name.startswith(".")]
        if os.path.realpath(root) in visited:
            folders.clear()
            continue
        visited.add(os.path.realpath(root))
        files += [
            os.path.join(root, name)
            for name in names
            if os.path.splitext(name)[1].lower() in _EXTENSIONS and not name.startswith(".")
        ]
    if not files:
        raise ValueError(f"{flag} {folder} holds no images; in it there is {_listing(folder)}")
    columns, features = {"image": sorted(files)}, Features({"image": ImageFeature(decode=False)})
    if labels:
        columns["label"], features["label"] = _folder_labels(folder, columns["image"], flag)
    return Dataset.from_dict(columns, features=features)


def _load_named(name, config):
    if name == "digits":
        return DatasetDict(train=_digits())
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / "dataset_dict.json").exists() or (
            path / "state.json"
        ).exists():  # by save_to_disk
            loaded = datasets.load_from_disk(path)
        else:
            loaded = datasets.load_dataset(str(path), config)
    elif path.suffix == ".parquet" and path.is_file():
        loaded = datasets.load_dataset("parquet", data_files=str(path))
    else:
        try:
            loaded = datasets.load_dataset(name, config)
        except (
            datasets.exceptions.DatasetNotFoundError,
            FileNotFoundError,
            ConnectionError,
        ) as error:
            raise ValueError(
                f"dataset_name {name!r} is not a folder or parquet file here, nor 'digits', and "
                f"the Hub says: {error}"
            ) from error
    return loaded if isinstance(loaded, DatasetDict) else DatasetDict(train=loaded)


def _digits():
    """scikit-learn's 1,797 scanned digits (8 x 8, 16 greys) as 32-pixel PNG files."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    files = []
    for scan in digits.images:
        image = Image.fromarray((scan * (255 / 16)).round().astype(np.uint8)).resize(
            (32, 32), Image.Resampling.BICUBIC
        )
        buffer = io.BytesIO()
        image.save(buffer, format="png")
        files.append({"bytes": buffer.getvalue(), "path": None})
    features = Features(
        {
            "image": ImageFeature(),
            "label": ClassLabel(names=[str(name) for name in digits.target_names]),
        }
    )
    return Dataset.from_dict({"image": files, "label": digits.target.tolist()}, features=features)


def choose_splits(splits, train_split, validation_split, search=True):
    """What to train on and what to hold out of a data set's splits.

    Args:
        splits: Name → split.
        train_split, validation_split: Names; by default `train` or the only one, and the first of
            validation, val, valid, test, if it is to be searched for.

    Returns:
        Name of the training split, and {"train": split, "validation": split, if any}.

    Raises:
        ValueError: there is no such split; the message lists those that are.
    """
    if train_split is None:
        train_split = next(iter(splits)) if len(splits) == 1 else "train"
    if validation_split is None and search:
        validation_split = next(
            (name for name in _VALIDATION_SPLITS if name in splits and name != train_split), None
        )
    chosen = {"train": _pick(splits, train_split, "train_split")}
    if validation_split is not None:
        chosen["validation"] = _pick(splits, validation_split, "validation_split")
    return train_split, chosen


def _pick(splits, name, flag):
    if name not in splits:
        raise ValueError(f"{flag} is {name!r}; the data set has {', '.join(splits)}")
    return splits[name]


def _standard_columns(dataset, image_column, label_column, labels):
    """Images, as undecoded files (or arrays), in a column called `image`, and labels, if asked for,
    in `label`."""
    columns = {image_column_of(dataset.features, image_column): "image"}
    if labels:
        columns[_label_column(dataset.features, label_column)] = "label"
    dataset = dataset.select_columns(list(columns))
    dataset = dataset.rename_columns({old: new for old, new in columns.items() if old != new})
    if not isinstance(dataset.features["image"], Array3D):
        dataset = dataset.cast_column("image", ImageFeature(decode=False))
    return dataset


def image_column_of(features, column):
    if column is None:
        found = [
            name
            for name, feature in features.items()
            if isinstance(feature, (ImageFeature, Array3D))
        ]
        found = found or [name for name in features if name.lower() in _IMAGE_COLUMNS]
        if len(found) != 1:
            what = (
                "no column has images"
                if not found
                else f"several columns have images ({', '.join(found)})"
            )
            raise ValueError(
                f"{what}; name one by image_column: the data set has {', '.join(features)}"
            )
        column = found[0]
    elif column not in features:
        raise ValueError(f"image_column is {column!r}; the data set has {', '.join(features)}")
    feature = features[column]
    files = isinstance(feature, dict) and {"bytes", "path"} & set(feature)
    if not (
        isinstance(feature, (ImageFeature, Array3D))
        or files
        or getattr(feature, "dtype", "") in ("binary", "string")
    ):
        raise ValueError(
            f"image_column {column!r} holds no images but {feature}; the data set has {', '.join(features)}"
        )
    return column
