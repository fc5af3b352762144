# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Tables of images in files here: parquet, Arrow, CSV and JSON; the images in them or beside them.

datasets reads them. It takes names for patterns, so that it is given lists of files; and a path in
a table starts from the folder that the table lies in.
"""

import contextlib
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset, LargeList, List, Value
from datasets.data_files import DataFilesList

from ..file_names import find_file, printable
from .damaged_files import FILE_ERRORS, find_damaged
from .row_names import remember_files


_READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".parquet": ("parquet", {}),
    ".arrow": ("arrow", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
}
TABLE_EXTENSIONS = tuple(_READERS)
# types that Arrow has beside these; images and labels are few enough for short offsets
_PLAIN = {
    **{"large_binary": "binary", "binary_view": "binary"},
    **{"large_string": "string", "string_view": "string"},
}
_ROWS_AT_ONCE = 100  # of a table with other types: what they hold must fit short offsets
_ROWS_OF_TEXT = 10_000  # of CSV, at once
_MISSING = ("", "nan", "NaN", "NAN", "NA", "N/A", "n/a", "null", "NULL", "None")
# what a cell of CSV may be; else it is text, as 007 is
_CELL = re.compile(
    r" *(?P<whole>-?(?:0|[1-9]\d{0,17})) *"
    r"| *(?P<number>[-+]?(?:(?:0|[1-9]\d*)\.\d*|\.\d+)(?:[eE][-+]?\d+)?"
    r"|-?(?:0|[1-9]\d*)[eE][-+]?\d+|[-+]?inf) *"
    r"|(?P<truth>True|TRUE|true|False|FALSE|false)"
    rf"|(?P<missing>{'|'.join(_MISSING)})"
)
_ROWS_TO_LOOK_AT = 20
_LONGEST_PATH = 4096

Table = Dataset | IterableDataset


class _NoRowsError(ValueError):
    """A table has no rows."""


def load_table(file: Path) -> Dataset:
    """Loads one table.

    Raises:
        ValueError: it can't be read.
    """
    dataset = load_tables({"train": [file]})["train"]
    assert isinstance(dataset, Dataset)
    return dataset


def load_tables(files: Mapping[str, Sequence[Path]], streaming: bool = False) -> dict[str, Table]:
    """Loads tables.

    Args:
        files: Split → its tables, all of one kind.
        streaming: Whether to open them only.

    Returns:
        Split → data set, with plain strings and bytes; paths that start from a table are whole.

    Raises:
        ValueError: one can't be read.
    """
    return {split: _load_split(own, streaming) for split, own in files.items()}


def _load_split(files: Sequence[Path], streaming: bool) -> Table:
    by_folder: dict[Path, list[Path]] = {}
    for file in files:
        by_folder.setdefault(Path(os.path.abspath(file)).parent, []).append(file)
    reader, _ = _READERS[files[0].suffix.lower()]
    others = [file for file in files if _READERS[file.suffix.lower()][0] != reader]
    if others:
        raise ValueError(
            f"{printable(files[0])} and {printable(others[0])} are tables of different kinds; name "
            "one file"
        )
    kinds: dict[str, set[str]] = {}
    if reader == "csv":
        for own in by_folder.values():
            _add_kinds(kinds, own)
    parts = []
    for folder, own in by_folder.items():
        parts.append(_complete_paths(_read(own, kinds, streaming), folder))
    try:
        whole = parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)
    except ValueError as error:
        cause = " ".join(str(error).split())
        raise ValueError(
            f"{printable(files[0])} and tables in other folders have columns of different kinds; "
            f"name one of the files ({cause})"
        ) from error
    if isinstance(whole, Dataset):
        read_in_order = itertools.chain.from_iterable(by_folder.values())
        remember_files(whole, _count_rows(list(read_in_order), len(whole)))
    return whole


def _count_rows(files: Sequence[Path], rows: int) -> dict[str, int]:
    """File → its rows; of several that don't say, the first stands for all."""
    if len(files) == 1:
        return {printable(files[0]): rows}
    if files[0].suffix.lower() == ".parquet":
        return {printable(file): pq.read_metadata(file).num_rows for file in files}
    return {f"{printable(files[0])} and {len(files) - 1} more,": rows}


def _read(files: Sequence[Path], kinds: Mapping[str, set[str]], streaming: bool) -> Table:
    features = _open(files, streaming=True).features or {}
    options = _type_columns(list(features), kinds) if kinds else {}
    plain = {name: plain_feature(feature) for name, feature in features.items()}
    if not kinds and plain != features:
        options["features"] = datasets.Features(plain)
        if files[0].suffix.lower() == ".parquet":
            options["batch_size"] = _ROWS_AT_ONCE
    return _open(files, streaming, **options)


def _open(files: Sequence[Path], streaming: bool, **options: Any) -> Table:
    reader, own = _READERS[files[0].suffix.lower()]
    data_files: Any = {"train": as_data_files(files)}
    with _named(files):
        try:
            table = datasets.load_dataset(
                reader, data_files=data_files, split="train", streaming=streaming, **own, **options
            )
            if not isinstance(table, IterableDataset) or table.features is not None:
                return table
            return table._resolve_features()  # what the first rows have
        except StopIteration:
            raise _NoRowsError("there are no rows in it") from None


@contextlib.contextmanager
def _named(files: Sequence[Path]) -> Iterator[None]:
    """Has errors of datasets name the file."""
    try:
        yield
    except FILE_ERRORS as error:
        cause = " ".join(str(error.__cause__ or error).split())
        where = printable(files[0])
        if len(files) > 1:
            damaged = find_damaged(files)
            where = f"{where} or one of {len(files) - 1} more" if damaged is None else damaged
        kind = _NoRowsError if isinstance(error, _NoRowsError) else ValueError
        raise kind(f"{printable(where)} can't be read: {cause}") from error


def _add_kinds(kinds: dict[str, set[str]], files: Sequence[Path]) -> None:
    """Adds what is in each column of CSV files: whole numbers, numbers, truth, text, …"""
    names = list(_open(files, streaming=True).features or {})
    features = datasets.Features({name: Value("string") for name in names})
    texts = _open(files, streaming=True, features=features, keep_default_na=False)
    assert isinstance(texts, IterableDataset)
    with _named(files):
        for rows in texts.iter(_ROWS_OF_TEXT):
            for name, cells in rows.items():
                kinds.setdefault(name, set()).update(map(_kind_of, set(cells)))


def _kind_of(text: str | None) -> str:
    match = _CELL.fullmatch(text or "")
    return "text" if match is None else str(match.lastgroup)


def _type_columns(columns: Sequence[str], kinds: Mapping[str, set[str]]) -> dict[str, Any]:
    """Options by which datasets reads columns of CSV as what all of each is.

    pandas would make 7 of 007, and a missing value of NA and None, which may be classes.
    """
    features, missing = {}, {}
    for name in columns:
        own = kinds.get(name, set())
        dtype, missing[name] = "string", [""]
        if own in ({"whole"}, {"truth"}):
            dtype = "int64" if own == {"whole"} else "bool"
        elif own & {"whole", "number"} and own <= {"whole", "number", "missing"}:
            dtype, missing[name] = "float64", [*_MISSING]
        features[name] = Value(dtype)
    options = {"keep_default_na": False, "na_values": missing}
    return {**options, "features": datasets.Features(features)}


def as_data_files(files: Sequence[Path]) -> DataFilesList:
    """Makes of files what datasets takes as they are, not for patterns.

    It reads them anew where their time or size has changed.
    """
    states = [file.stat() for file in files]
    origins: list[Any] = [(f"{state.st_mtime_ns}-{state.st_size}",) for state in states]
    return DataFilesList([os.path.abspath(file) for file in files], origins)


def plain_feature(feature: Any) -> Any:
    """The feature with plain strings and bytes in place of Arrow's large ones and views."""
    if isinstance(feature, dict):
        return {name: plain_feature(inner) for name, inner in feature.items()}
    if isinstance(feature, (List, LargeList)):
        return type(feature)(plain_feature(feature.feature))
    if isinstance(feature, Value) and feature.dtype in _PLAIN:
        return Value(_PLAIN[feature.dtype])
    return feature


def names_files(file: Path) -> bool:
    """Whether a table names images, in its first rows: files that are there, or addresses."""
    try:
        table = _load_split([file], streaming=True)
    except _NoRowsError:
        return False
    assert isinstance(table, IterableDataset)
    names = [name for name, feature in (table.features or {}).items() if _may_be_path(feature)]
    for row in _first_rows(table, names):
        values = filter(None, map(_path_of, row.values()))
        if any(os.path.isfile(find_file(value)) or "://" in value for value in values):
            return True
    return False


# paths -------------------------------------------------------------------------------------------


def _complete_paths(table: Table, folder: Path) -> Table:
    """Makes paths whole that start from the folder of the table, in every column that has some."""
    features = table.features or {}
    names = [name for name, feature in features.items() if _may_be_path(feature)]
    if isinstance(table, IterableDataset):
        rows = _first_rows(table, names)
        found = []
        for name in names:
            if _starts_at([row[name] for row in rows], folder):
                found.append(name)
        if not found:
            return table
        table = _undecoded(table)
        assert table.features is not None
        whole = table.map(_join_row, fn_kwargs={"names": found, "folder": folder})
        return whole.cast(table.features)  # which `map` forgets, or else fixes
    for name in names:
        values = table.data.column(name)
        if _starts_at(values.slice(0, _ROWS_TO_LOOK_AT).to_pylist(), folder):
            whole = [_join(folder, value) for value in values.to_pylist()]
            order = table.column_names
            added = table.add_column("whole path", whole, feature=plain_feature(features[name]))
            table = added.remove_columns(name).rename_column("whole path", name)
            table = table.select_columns(order)
    return table


def _first_rows(stream: IterableDataset, columns: list[str]) -> list[dict]:
    return list(_undecoded(stream.select_columns(columns)).take(_ROWS_TO_LOOK_AT))


def _undecoded(stream: IterableDataset) -> IterableDataset:
    for name, feature in (stream.features or {}).items():
        if isinstance(feature, datasets.Image):
            stream = stream.cast_column(name, datasets.Image(decode=False))
    return stream


def _may_be_path(feature: Any) -> bool:
    if isinstance(feature, Value):
        return feature.dtype in ("string", "large_string")
    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "path" in feature)


def _path_of(value: Any) -> str | None:
    """The path in a column's value: a string, or a file of which only the path is there."""
    if isinstance(value, dict):
        return value.get("path") if value.get("bytes") is None else None
    return value


def _starts_at(values: Sequence[Any], folder: Path) -> bool:
    paths = filter(None, map(_path_of, values))
    relative = [path for path in paths if not os.path.isabs(path) and "://" not in path]
    return any((folder / path).is_file() for path in relative if len(path) < _LONGEST_PATH)


def _join(folder: Path, value: Any) -> Any:
    """The whole path; addresses, and what is whole already, stay as they are."""
    path = _path_of(value)
    if not path or "://" in path:
        return value
    whole = printable(folder / path)
    return {**value, "path": whole} if isinstance(value, dict) else whole


def _join_row(row: dict, names: Sequence[str], folder: Path) -> dict:
    return {name: _join(folder, row[name]) for name in names}
