# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Splits by the names of folders and files: what `train`, `Test set` and `val_images` are for."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from datasets import Dataset
from transformers.utils import logging

from ..file_names import printable


logger = logging.get_logger(__name__)
_WORDS = {
    "train": {"train", "training", "trainset", "trainval"},
    "validation": {"val", "valid", "validation", "validate", "validating", "valset", "dev"},
    "test": {
        *("test", "testing", "testset", "tst", "eval", "evaluation", "unseen", "query"),
        *("holdout", "heldout"),
    },
}
# beside which a word still names a whole split
_NEUTRAL = {
    *("set", "split", "part", "shard", "of", "data", "dataset", "folder", "files", "seg"),
    *("image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "samples"),
}
_COLUMNS = ("split", "set", "subset", "partition", "phase")
_SHARD = re.compile(r"(\w+(?:\.\w+)*)-\d{5}-of-\d{5}.*")


def split_of_folder(name: str) -> str | None:
    """Finds which split a folder holds if its name says no more than that.

    Example:

    >>> [split_of_folder(name) for name in ("Test set", "val_images", "train2017", "train station")]
    ['test', 'validation', 'train', None]
    """
    words = set(_split_words(name))
    known = set().union(_NEUTRAL, *_WORDS.values())
    return _split_of(words) if words <= known else None


def split_in_name(name: str) -> str | None:
    """Finds the split that a word of a name is of, whatever else the name says.

    Example:

    >>> [split_in_name(name) for name in ("train station", "X_test", "contest")]
    ['train', 'test', None]
    """
    return _split_of(set(_split_words(name)))


def _split_words(name: str) -> list[str]:
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    parted = re.sub(r"\b(held|hold)[\W_]+out\b", r"\1out", parted.replace("_", " "))
    return [word for word in re.split(r"[\W\d_]+", parted) if word]


def pair_splits(names: Sequence[str]) -> dict[str, str]:
    """Finds names that are alike but for their split: one of a train, and others.

    Beside a plain `train` they need not be alike, if each name has a split in it.

    Args:
        names: Of folders that lie side by side.

    Returns:
        Name → split, of those that are.

    Example:

    >>> pair_splits(["X_train", "X_test", "trained", "contest"])
    {'X_train': 'train', 'X_test': 'test'}
    """
    by_word = {name: split for name in names if (split := split_in_name(name))}
    several = len(by_word) == len(names) and len(set(by_word.values())) > 1
    if several and "train" in map(split_of_folder, names):
        return by_word
    alike: dict[str, dict[str, str]] = {}
    for name in names:
        for split, rest in _readings(name):
            alike.setdefault(rest, {})[name] = split
    found = {}
    for own in alike.values():
        if "train" in own.values() and len(set(own.values())) > 1:
            found |= own
    return found


def _readings(name: str) -> Iterator[tuple[str, str]]:
    """Yields (split, the letters beside its word), longer words last."""
    letters = "".join(word for word in _split_words(name) if word not in _NEUTRAL)
    for split, own in _WORDS.items():
        for word in sorted(own, key=lambda word: (len(word), word)):
            if word in letters:
                yield split, letters.replace(word, "", 1)


def _split_of(words: set[str]) -> str | None:
    """The split that the words name: train of `train_val`, and none of two others."""
    named = [split for split, own in _WORDS.items() if words & own]
    if named == ["train", "validation"]:
        return "train"
    return named[0] if len(named) == 1 else None


def split_files(folder: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Sorts the files of a data set into splits by the names of files and folders.

    Where some files' names say nothing of a split, all are one; what is found is said in a line.

    Args:
        folder: What the ways to the files start from.
        files: Tables or shards below it.

    Returns:
        Split → its files.

    Raises:
        ValueError: some files are whole splits by their names, and others are nothing.
    """
    found = _name_on_the_hub(files)
    if found is None:
        found = [_split_of_file(file.relative_to(folder)) for file in files]
    named = [(file, split) for file, split in zip(files, found) if split]
    if not named:
        return {"train": list(files)}
    if len(named) < len(files):
        return _without_splits(folder, files, named)
    splits: dict[str, list[Path]] = {}
    for file, split in named:
        splits.setdefault(split, []).append(file)
    if list(splits) != ["train"]:
        order = sorted(splits, key=lambda split: (*_WORDS, split).index(split))
        splits = {split: splits[split] for split in order}
        say_splits(folder, splits)
    return splits


def _name_on_the_hub(files: Sequence[Path]) -> list[str | None] | None:
    """The split of each file if all are called as shards on the Hub, whose names may be any."""
    found: list[str | None] = []
    for file in files:
        match = _SHARD.fullmatch(file.name)
        if match is None:
            return None
        found.append(match[1])
    return found


def _split_of_file(way: Path) -> str | None:
    for name in way.parts[:-1]:
        split = split_of_folder(name)
        if split:
            return split
    return split_in_name(way.stem)


def _without_splits(
    folder: Path, files: Sequence[Path], named: Sequence[tuple[Path, str]]
) -> dict[str, list[Path]]:
    file, split = named[0]
    nameless = next(other for other in files if other not in dict(named))
    if any(split_of_folder(other.stem) for other, _ in named):
        raise ValueError(
            f"dataset_name {printable(folder)} holds {printable(file.name)}, which is a split by "
            f"its name, and {printable(nameless.name)}, which is none; name one of the files"
        )
    logger.warning(
        f"the {len(files)} files of {printable(folder)} are taken for one data set: "
        f"{printable(file.name)} might be of a split {split}, but {printable(nameless.name)} is of "
        "none"
    )
    return {"train": list(files)}


def find_split_column(columns: Sequence[str], label_columns: Sequence[str] = ()) -> str | None:
    """Finds the column that says of each row which split it is of, if there is one."""
    found = [name for name in columns if name.strip().lower() in _COLUMNS]
    return next((name for name in found if name not in label_columns), None)


def split_by_column(
    table: Dataset, place: str, label_columns: Sequence[str] = ()
) -> dict[str, Dataset]:
    """Sorts rows into splits where a column names them, and says so.

    Args:
        table: With or without such a column.
        place: Where it comes from, for messages.
        label_columns: Columns that are the labels, even if one is called so.

    Returns:
        Split → its rows; `train` alone if no column tells several apart.

    Raises:
        ValueError: the column names splits in some rows and something else in others.
    """
    column = find_split_column(table.column_names, label_columns)
    if column is None:
        return {"train": table}
    values = ["" if value is None else str(value) for value in table[column][:]]
    split_of = {value: split_of_folder(value) for value in sorted(set(values))}
    others = [value for value, split in split_of.items() if split is None]
    found = [split for split in _WORDS if split in split_of.values()]
    if not found or (len(found) == 1 and not others):
        return {"train": table}
    if others:
        raise ValueError(
            f"{place}: the column {column!r} names {', '.join(found)} in some rows, and "
            f"{others[0]!r} in {values.count(others[0]):,}; write train, validation or test in each"
        )
    splits = {}
    for split in found:
        rows = [row for row, value in enumerate(values) if split_of[value] == split]
        splits[split] = table.select(rows)
        if len(splits) > 1:
            splits[split].info.description = ""  # what it says is said once
    counts = [f"{split} has {len(own):,}" for split, own in splits.items()]
    logger.warning(f"splits by the column {column!r} of {place}: {', '.join(counts)}")
    return splits


def say_splits(folder: Path, splits: Mapping[str, Sequence[Path]]) -> None:
    """Says in one line which splits were taken from names.

    Args:
        folder: Where they lie.
        splits: Split → its files or folders.
    """
    parts = []
    for split, own in splits.items():
        way = printable(own[0].relative_to(folder)) + ("/" if own[0].is_dir() else "")
        more = f" and {len(own) - 1} more" if len(own) > 1 else ""
        parts.append(f"{split} is {way}{more}")
    logger.warning(f"splits by their names in {printable(folder)}: {', '.join(parts)}")
