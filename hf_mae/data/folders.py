# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Folders of images: the splits, the labels, and what is left out."""

import itertools
import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetInfo, Features, Value, concatenate_datasets
from datasets import Image as ImageFeature
from transformers.utils import logging

from ..file_names import printable
from .class_names import composed
from .image_files import (
    METADATA,
    describe_files,
    find_files,
    is_image,
    read_contents,
    refuse_folder,
)
from .labels import find_label_columns, label_files, list_entries
from .split_names import (
    find_split_column,
    pair_splits,
    say_splits,
    split_by_column,
    split_in_name,
    split_of_folder,
)
from .tables import load_table


_BUILDER = "folder of images"  # whose description says what is left out
logger = logging.get_logger(__name__)


def load_image_folder(
    folder: str | os.PathLike,
    flag: str,
    labels: bool,
    label_columns: Sequence[str] = (),
    whole: bool = False,
) -> dict[str, Dataset]:
    """Loads the images of a folder.

    Args:
        folder: With images in it or in folders below; with a folder for each class, or with
            metadata files (`file_name` and other columns); or with folders that are splits.
        flag: Where it was named, for messages.
        labels: Whether to load labels.
        label_columns: Columns of metadata that are to be the labels.
        whole: Whether to load all that there is: every split and column, and labels where there
            are any.

    Returns:
        Split → data set with columns `image` and, with `labels`, `label` or those of the metadata;
        without splits, only `train`.

    Raises:
        ValueError: there are no images, or no labels, or it isn't clear what is a split.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        parent = folder.parent
        there = list_entries(parent) if parent.is_dir() else "nothing: it doesn't exist either"
        raise ValueError(f"{flag} {folder} is not a folder; in {parent} there is {there}")
    parts = _find_splits(folder, flag)
    if not parts:
        part = _load_part(folder, [], flag, labels, label_columns, whole)
        return split_by_column(part, f"{flag} {printable(folder)}", label_columns)
    say_splits(folder, {split: [part] for split, part in parts.items()})
    beside = _find_beside(parts.values())
    above = [file for file in beside if file.name in METADATA]
    splits = {}
    for split, part in parts.items():
        is_bare = labels and "train" in splits and not (above or _has_labels(part))
        if is_bare and not whole:
            logger.warning(f"{flag} {printable(part)} is left aside, for its images have no labels")
            continue
        splits[split] = _load_part(part, beside, flag, labels, label_columns, whole)
        beside = above  # all else is counted once
    return splits


def _find_beside(parts: Collection[Path]) -> list[Path]:
    """Finds the files that lie beside the folders of splits."""
    files = []
    for entry in sorted(next(iter(parts)).parent.iterdir()):
        if entry in parts or entry.name.startswith("."):
            continue
        below = find_files(entry, by_class=False) if entry.is_dir() else [entry]
        files += [Path(file) for file in below]
    return files


def describe_left_out(dataset: Any) -> str | None:
    """Says which files of a folder of images weren't read, if there were any."""
    info = getattr(dataset, "info", None)
    if info is None or info.builder_name != _BUILDER:
        return None
    return info.description or None


# splits ------------------------------------------------------------------------------------------


def _find_splits(folder: Path, flag: str) -> dict[str, Path]:
    """Finds the folders that are splits, if there are any: train/ and test/, and nothing else.

    Raises:
        ValueError: it isn't clear.
    """
    folders, loose = _list_folders(folder)
    alike = pair_splits([entry.name for entry in folders])
    parts: dict[str, list[Path]] = {}
    for entry in folders:
        split = split_of_folder(entry.name) or alike.get(entry.name)
        if split and _holds_images(entry):
            parts.setdefault(split, []).append(entry)
    whole = [entry for own in parts.values() for entry in own]
    unnamed = (entry for entry in folders if entry not in whole and _holds_images(entry))
    others = list(itertools.islice(unnamed, 2))  # there may be thousands
    if not parts and len(others) == 1 and not loose:  # as images/train, images/val
        return _find_splits(others[0], flag) if others[0].resolve() != folder.resolve() else {}
    has_classes = loose or bool(others)
    if not parts or (has_classes and not ("train" in parts and len(parts) > 1)):
        if not loose:
            _say_near_splits(folder, folders)
        return {}  # as a class of trains among other vehicles, or a test beside a control
    doubled = [own for own in parts.values() if len(own) > 1]
    if doubled or has_classes:
        names = ", ".join(f"{printable(entry.name)}/" for entry in whole)
        beside = f"{printable(others[0].name)}/" if others else "images that lie in no folder"
        problem = f"beside {beside}" if has_classes else "several of them of one split"
        raise ValueError(
            f"{flag} {printable(folder)} holds {names}, which are splits by their names, "
            f"{problem}; name the folder to train on by train_dir and the one to hold out by "
            "validation_dir, or rename those that are classes"
        )
    order = [split for split in ("train", "validation", "test") if split in parts]
    return {split: parts[split][0] for split in order}


def _say_near_splits(folder: Path, folders: Sequence[Path]) -> None:
    """Says it if all folders have a split in their names, and are taken for classes."""
    splits = [split_in_name(entry.name) for entry in folders]
    if "train" not in splits or None in splits or len(set(splits)) == 1:
        return
    names = ", ".join(f"{printable(entry.name)}/" for entry in folders[:5])
    logger.warning(
        f"{printable(folder)}: the folders {names} are taken together, as classes; if they are "
        "splits, name one by train_dir and the one to hold out by validation_dir"
    )


def _list_folders(folder: Path) -> tuple[list[Path], bool]:
    """Lists the folders in a folder, and says whether images lie beside them."""
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        refuse_folder(error)
    folders, loose = [], False
    for entry in entries:
        if entry.is_dir():
            folders.append(folder / entry.name)
        elif is_image(entry.name):
            loose = True
    return sorted(folders), loose


def _holds_images(folder: Path) -> bool:
    return any(map(is_image, find_files(folder, by_class=False)))


def _has_labels(part: Path) -> bool:
    """Whether a part has metadata, or a folder with images."""
    if any((part / name).is_file() for name in METADATA):
        return True
    return any(entry.is_dir() and _holds_images(entry) for entry in part.iterdir())


# one split ---------------------------------------------------------------------------------------


def _load_part(
    part: Path,
    beside: Sequence[Path],
    flag: str,
    labels: bool,
    label_columns: Sequence[str],
    whole: bool,
) -> Dataset:
    """Loads the folder of a split, with what is said of it in files beside."""
    contents = read_contents(part, by_class=labels)
    metadata = [*contents.metadata, *(file for file in beside if file.name in METADATA)]
    left_out = contents.others + [str(file) for file in beside if file not in metadata]
    if not labels and not _names_splits(metadata):
        left_out += map(str, metadata)
        metadata = []
    note = describe_files(left_out)
    if not contents.images:
        raise ValueError(
            f"{flag} {printable(part)} holds no images; in it there is {list_entries(part)}"
            + (f" ({note})" if note else "")
        )
    if metadata:
        known = _read_metadata(metadata)
        by_folder = labels and not _says_labels(known, part, contents.images, label_columns)
        if by_folder and not whole:
            logger.warning(
                f"{metadata[0].name} has no column of labels by its name "
                f"({', '.join(known.table.column_names)}); the classes are the folders of {flag} "
                f"{printable(part)}"
            )
        if whole or not by_folder or find_split_column(known.table.column_names):
            return _with_metadata(part, contents.images, known, by_folder, flag, note)
    columns: dict[str, list] = {"image": [printable(file) for file in contents.images]}
    features = Features({"image": ImageFeature(decode=False)})
    is_loose = any(os.path.dirname(image) == str(part) for image in contents.images)
    if labels and not (whole and is_loose):
        columns["label"], features["label"] = _label_by_folder(part, contents.images, flag)
        note = _add_empty_folders(note, part, features["label"].names)
    return Dataset.from_dict(columns, info=_info(features, note))


def _info(features: Features, note: str) -> DatasetInfo:
    return DatasetInfo(features=features, description=note, builder_name=_BUILDER)


def _add_empty_folders(note: str, part: Path, classes: Sequence[str]) -> str:
    """Adds to a note the folders that would be classes if there were images in them."""
    folders, _ = _list_folders(part)
    names = [composed(printable(folder.name)) for folder in folders]
    empty = [f"{name}/" for name in names if name not in classes]
    if not empty:
        return note
    more = ", …" if len(empty) > 5 else ""
    return "; ".join(filter(None, [note, f"no image in {', '.join(empty[:5])}{more}"]))


def _label_by_folder(part: Path, images: Sequence[str], flag: str) -> tuple[list[int], ClassLabel]:
    ways = [Path(os.path.relpath(image, part)).parts for image in images]
    splits = Counter(split_in_name(name) for way in ways for name in way[1:-1])
    if splits["train"] and splits["train"] < splits.total() - splits[None]:
        held_out = splits["validation"] + splits["test"]
        logger.warning(
            f"{held_out:,} of the {len(images):,} images of {flag} {printable(part)} lie in a "
            "folder within their class that is called as held-out images are; they are taken with "
            "all others"
        )
    numbers, feature = label_files(part, images, flag)
    return numbers, ClassLabel(names=[printable(name) for name in feature.names])


# metadata ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Metadata:
    """What metadata files say: all rows as one table, and the row of each image."""

    files: Sequence[Path]
    table: Dataset
    rows: dict[str, int]


def _names_splits(files: Sequence[Path]) -> bool:
    try:
        return any(find_split_column(load_table(file).column_names) for file in files)
    except ValueError:
        return False


def _says_labels(
    metadata: _Metadata, part: Path, images: Sequence[str], label_columns: Sequence[str]
) -> bool:
    """Whether labels are to be taken from metadata, as there are no folders that are classes."""
    if label_columns or any(os.path.dirname(image) == str(part) for image in images):
        return True
    try:
        return bool(find_label_columns(metadata.table.features, None))
    except ValueError:
        return False


def _with_metadata(
    part: Path,
    images: Sequence[str],
    metadata: _Metadata,
    by_folder: bool,
    flag: str,
    note: str,
) -> Dataset:
    """Loads the images that metadata files name, with what these say of them."""
    first, rows = metadata.files[0], metadata.rows
    known = [image for image in images if _key(image) in rows]
    if not known:
        raise ValueError(
            f"{flag} {printable(part)}: {first.name} names none of its {len(images):,} images, as "
            f"{printable(os.path.relpath(images[0], first.parent))}; file_name is the way from the "
            "table to the image"
        )
    _check_folders(images, metadata.files)
    notes = [note] if note else []
    if len(known) < len(images):
        unnamed = len(images) - len(known)
        notes.append(f"{unnamed:,} images left out, which {first.name} doesn't name")
    inside = [path for path in rows if path.startswith(_key(part) + os.sep)]
    if len(inside) > len(known):
        lost = len(inside) - len(known)
        notes.append(f"{lost:,} rows of {first.name} left out, whose file isn't an image here")
    table = metadata.table.select([rows[_key(image)] for image in known])
    columns: dict[str, list] = {name: table[name][:] for name in table.column_names}
    features = Features({**table.features, "image": ImageFeature(decode=False)})
    columns["image"] = [printable(image) for image in known]
    if by_folder:
        columns["label"], features["label"] = _label_by_folder(part, known, flag)
    return Dataset.from_dict(columns, info=_info(features, "; ".join(notes)))


def _check_folders(images: Sequence[str], files: Sequence[Path]) -> None:
    """Refuses metadata that lie in some of the folders, where others have none."""
    folders = tuple(_key(file.parent) + os.sep for file in files)
    bare = [image for image in images if not _key(image).startswith(folders)]
    if bare:
        raise ValueError(
            f"{printable(files[0])} is of the images in its own folder, and {len(bare):,} others, "
            f"as {printable(bare[0])}, have no metadata; write one file of all images above their "
            "folders, or take it out"
        )


def _key(file: str | os.PathLike) -> str:
    return printable(os.path.abspath(file))


def _read_metadata(files: Sequence[Path]) -> _Metadata:
    """Reads tables of metadata as one, and finds the row of each file.

    Raises:
        ValueError: one has no names of files, or two rows say different things of an image.
    """
    tables, names = [], []
    for file in files:
        table = load_table(file)
        if "file_name" not in table.column_names:
            raise ValueError(
                f"{printable(file)} needs a column file_name, the way from it to each image; it "
                f"has {', '.join(table.column_names)}"
            )
        names += [_key(file.parent / str(name)) for name in table["file_name"][:]]
        tables.append(table)
    table = concatenate_datasets(_of_one_kind(tables))
    rows: dict[str, int] = {}
    for row, name in enumerate(names):
        first = rows.setdefault(name, row)
        if first == row:
            continue
        one, other = ({**table[number], "file_name": name} for number in (first, row))
        if one != other:
            raise ValueError(
                f"{printable(files[0])} has two rows of one image that differ, {one} and {other}; "
                "leave one of them"
            )
    return _Metadata(files, table, rows)


def _of_one_kind(tables: Sequence[Dataset]) -> list[Dataset]:
    """Makes texts of plain columns whose types differ, as 007 in one file and 8 in another."""
    dtypes: dict[str, set[str]] = {}
    for table in tables:
        for name, feature in table.features.items():
            dtypes.setdefault(name, set()).add(getattr(feature, "dtype", ""))
    mixed = {name for name, own in dtypes.items() if len(own) > 1 and "" not in own}
    cast = []
    for table in tables:
        texts = {name: Value("string") for name in table.column_names if name in mixed}
        cast.append(table.cast(Features({**table.features, **texts})) if texts else table)
    return cast
