# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What a row of a data set is called where people read it: its file, or its table and row."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from datasets import Dataset, IterableDataset

from ..file_names import printable


_ROWS = "num_rows"


def remember_files(dataset: Dataset, rows: Mapping[str, int]) -> None:
    """Notes in a data set which files its rows come from, in order, and how many of each."""
    dataset.info.download_checksums = {name: {_ROWS: count} for name, count in rows.items()}


def name_row(dataset: Any, index: int, image: Any) -> str:
    """Names a row of a data set: by its image's path, or as `train.parquet row 17`, from 0.

    Args:
        dataset: `datasets.Dataset`; where it is a part of a table, the rows are the table's.
        index: Number of the row.
        image: What it has in the column `image`.

    Example:

    >>> name_row(Dataset.from_dict({"image": [b""]}), 0, {"bytes": b"", "path": None})
    'row 0'
    """
    path = image.get("path") if isinstance(image, dict) else None
    if path:
        return path
    noted = getattr(getattr(dataset, "info", None), "download_checksums", None) or {}
    rows = {name: about[_ROWS] for name, about in noted.items() if _ROWS in (about or {})}
    if not rows or not isinstance(dataset, Dataset) or sum(rows.values()) != len(dataset.data):
        return f"row {index}"
    order = dataset._indices
    row = index if order is None else order.column(0)[index].as_py()
    for name, count in rows.items():
        if row < count:
            return f"{name} row {row}"
        row -= count
    return f"row {index}"


def name_shard(stream: IterableDataset, shard: int) -> str:
    """Names a shard of a stream by its file or, where the stream doesn't say, by its number."""
    files = shard_files(stream)
    return printable(files[shard]) if len(files) == stream.num_shards else f"shard {shard}"


def shard_files(stream: IterableDataset) -> list[str]:
    """The files that a stream reads, in order; empty where it doesn't say."""
    return list(_find_files(stream._ex_iterable))


def _find_files(source: Any) -> Iterator[str]:
    """Finds the files as datasets keeps them, below what is done to the rows."""
    inner = getattr(source, "ex_iterable", None)
    for part in getattr(source, "ex_iterables", [inner] if inner else []):
        yield from _find_files(part)
    for values in (getattr(source, "kwargs", None) or {}).values():
        files = []
        for value in values if isinstance(values, list) else []:
            file = value[0] if isinstance(value, tuple) else value
            if isinstance(file, str | os.PathLike):
                files.append(os.fspath(file))
        if files:  # of some kinds the same files follow under another name
            yield from files
            return
