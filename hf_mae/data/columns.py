# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The columns of several splits in one form; and a digest of what is in them."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import pyarrow
import pyarrow.compute
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value
from transformers.utils import logging

from ..file_names import find_file
from .class_names import first_names
from .tables import plain_feature


logger = logging.get_logger(__name__)
_ROWS_AT_ONCE = 1000
_MEDIA = tuple(
    getattr(datasets, name)
    for name in ("Image", "Audio", "Video", "Pdf", "Nifti")
    if hasattr(datasets, name)
)

Split = Dataset | IterableDataset


def unify_columns(splits: Mapping[str, Split]) -> tuple[dict[str, Split], Features]:
    """Gives all splits the same columns, in the same form; a split that lacks one has none in it.

    Args:
        splits: Name → data set with a column `image`.

    Returns:
        The splits with their columns in one form, each but for those that it lacks; and the
        features of all. Columns of other media than the images are left out, and said.

    Raises:
        ValueError: a column is of different kinds.

    Example:

    >>> digits = datasets.Dataset.from_dict({"image": ["1.png"], "writer": [7]})
    >>> list(unify_columns({"train": digits})[1])
    ['image', 'writer']
    """
    features: dict[str, Any] = {"image": datasets.Image()}
    left_out: dict[str, None] = {}
    for split in splits.values():
        for name, feature in (split.features or {}).items():
            if name != "image" and isinstance(feature, _MEDIA):
                left_out[name] = None
            elif name != "image" and name not in features:
                own = [each.features for each in splits.values()]
                kinds = [plain_feature(each[name]) for each in own if each and name in each]
                features[name] = _common_feature(name, kinds)
    if left_out:
        logger.warning(
            f"the columns {', '.join(left_out)} are left out: they hold files; a set has one "
            "column of images"
        )
    unified = {}
    for split_name, split in splits.items():
        columns = [name for name in features if name in (split.features or {})]
        split = split.select_columns(columns)
        for name in columns[1:]:
            split = _cast(split, name, features[name])
        unified[split_name] = split
    return unified, Features(features)


def _common_feature(name: str, kinds: Sequence[Any]) -> Any:
    """The feature that holds a column of all splits."""
    first = kinds[0]
    if all(kind == first for kind in kinds):
        return first
    if all(isinstance(kind, ClassLabel) for kind in kinds):
        return _common_classes(name, kinds)
    dtypes = [getattr(kind, "dtype", "") for kind in kinds]
    if all(isinstance(kind, Value) for kind in kinds):
        if all(dtype.startswith(("int", "uint")) for dtype in dtypes):
            return Value("int64")
        if all(dtype.startswith(("int", "uint", "float")) for dtype in dtypes):
            return Value("float64")
        return Value("string")
    raise ValueError(
        f"the column {name!r} is {first} in one split and {kinds[-1]} in another; bring it to one "
        "kind, or prepare them by themselves"
    )


def _common_classes(name: str, kinds: Sequence[ClassLabel]) -> ClassLabel:
    names = list(kinds[0].names)
    for kind in kinds[1:]:
        names += [own for own in kind.names if own not in names]
    more = names[len(kinds[0].names) :]
    if more:
        logger.warning(
            f"{len(more)} classes of the column {name!r} aren't in the first split: "
            f"{first_names(more)}"
        )
    return ClassLabel(names=names)


def _cast(split: Split, name: str, feature: Any) -> Split:
    own = (split.features or {})[name]
    if own == feature:
        return split
    if not isinstance(own, ClassLabel):
        return split.cast_column(name, feature)
    if isinstance(split, IterableDataset):
        raise ValueError(
            f"the column {name!r} has other classes in another split, which can't be brought to "
            "one numbering in a stream; prepare it without streaming"
        )
    numbers: list[Any] = []
    for number in split[name][:]:
        if number is not None and number >= 0:  # -1 stands for none
            number = feature.str2int(own.int2str(number))
        numbers.append(number)
    order = split.column_names
    split = split.remove_columns(name).add_column(name, numbers, feature=feature)
    return split.select_columns(order)


def digest(split: Dataset) -> str:
    """A digest of a split: of all columns but the images, and of their names, sizes and times."""
    found = hashlib.sha256()
    is_file = isinstance(split.features["image"], datasets.Image)
    tables: Any = split.with_format("arrow").iter(_ROWS_AT_ONCE)
    for table in tables:
        if is_file:
            found.update(json.dumps(_describe_files(table["image"])).encode())
        rows = table.drop_columns("image").to_pylist()
        found.update(json.dumps(rows, default=str).encode("utf-8", "backslashreplace"))
    return found.hexdigest()


def _describe_files(column: pyarrow.ChunkedArray) -> list[Any]:
    """(path, bytes, time) of each file; of those that aren't here what is known."""
    compute: Any = pyarrow.compute  # which makes its functions when it is imported
    paths = compute.struct_field(column, "path").to_pylist()
    sizes = compute.binary_length(compute.struct_field(column, "bytes")).to_pylist()
    described = []
    for path, size in zip(paths, sizes):
        changed = None
        if size is None and path and os.path.exists(file := find_file(path)):
            state = os.stat(file)
            size, changed = state.st_size, state.st_mtime_ns
        described.append((path, size, changed))
    return described
