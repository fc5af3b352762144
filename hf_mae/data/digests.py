# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""A short name of the images of a data set, by which a later run knows that they are the same."""

import os
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from datasets import Dataset, IterableDataset

from ..file_names import find_file
from .row_names import shard_files


_ROWS = 10_000
_SAMPLED_ROWS = 64  # of arrays, which have no names


def images_digest(dataset: Dataset) -> str:
    """A short name of the images of a data set, and of their labels.

    It goes by the names and sizes of files, or of what the data set holds, in order; the folder
    that all files are in may be another. Of arrays some are read.

    Args:
        dataset: With a column `image`, undecoded, and perhaps `label`.

    Example:

    >>> from hf_mae.data.sources import load_image_dataset
    >>> digits = load_image_dataset("digits")["train"]
    >>> images_digest(digits) == images_digest(digits.select(range(1, len(digits))))
    False
    """
    digest = xxhash.xxh3_64()
    plain = dataset.flatten()
    if "image.path" not in plain.column_names:
        rows = np.linspace(0, len(dataset) - 1, min(_SAMPLED_ROWS, len(dataset)), dtype=int)
        digest.update(repr(dataset.select_columns(["image"])[rows.tolist()]).encode())
    else:
        root = _common_folder(plain)
        for table in _tables(plain, ["image.path", "image.bytes"]):
            lengths: Any = pc.binary_length(table["image.bytes"])  # pyright: ignore[reportAttributeAccessIssue]
            images = zip(table["image.path"].to_pylist(), lengths.to_pylist())
            described = [_name_and_size(path, length, root) for path, length in images]
            digest.update(repr(described).encode())
    if "label" in plain.column_names:
        for table in _tables(plain, ["label"]):
            digest.update(repr(table["label"].to_pylist()).encode())
    return digest.hexdigest()


def shards_digest(stream: IterableDataset) -> str:
    """A short name of the shards of a stream, by their names and sizes in order."""
    files = shard_files(stream)
    root = _shared_folder(files)
    named = [_name_and_size(file, None, root) for file in files]
    return xxhash.xxh3_64_hexdigest(repr([stream.num_shards, named]).encode())


def _tables(plain: Dataset, names: list[str]) -> Iterator[pa.Table]:
    for rows in plain.select_columns(names).with_format("arrow").iter(_ROWS):
        yield cast(pa.Table, rows)


def _common_folder(plain: Dataset) -> str:
    """The folder that all files of a data set are in, or an empty text."""
    ends = []
    for table in _tables(plain, ["image.path"]):
        found = pc.min_max(table["image.path"]).as_py()  # pyright: ignore[reportAttributeAccessIssue]
        ends += [end for end in found.values() if end is not None]
    return _shared_folder(ends)


def _shared_folder(paths: list[str]) -> str:
    prefix = os.path.commonprefix(paths)  # noqa: RUF071 addresses are among them
    return prefix[: prefix.rfind("/") + 1]


def _name_and_size(path: str | None, length: int | None, root: str) -> tuple[str, int | None]:
    """A path below the common folder, and its size: of what is embedded, or of the file there."""
    name = (path or "").removeprefix(root)
    if length is not None or not path:
        return name, length
    try:
        return name, os.stat(find_file(path)).st_size
    except (OSError, ValueError):  # an address, or in an archive
        return name, None
