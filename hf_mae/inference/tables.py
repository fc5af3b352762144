# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Tables as files that others open, written row by row: CSV, parquet or JSON, by the ending."""

import codecs
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ..file_names import printable
from ..whole_files import unfinished


def check_table_file(file: Path) -> None:
    """Raises ValueError unless a table can be written under this name."""
    if file.suffix.lower() not in _WRITERS:
        raise ValueError(
            f"output is {printable(file)}; its ending says what is written and must be "
            f"{', '.join(_WRITERS)}"
        )
    if file.is_dir():
        raise ValueError(f"output {printable(file)} is a folder; name a file")


def write_table(read: Callable[[], Iterable[pa.Table]], schema: pa.Schema, file: Path) -> None:
    """Writes a table, which is there under its name once it is whole.

    Args:
        read: Gives the parts of the table, in order; of CSV it is called twice.
        schema: Of all parts.
        file: .csv: in UTF-8, with a byte order mark if something isn't ASCII, for Excel knows it by
            that; an empty cell is null. .parquet. .json: a list of objects, one a line.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(file) as whole:
        _WRITERS[file.suffix.lower()](read, schema, whole)


def _write_csv(read: Callable[[], Iterable[pa.Table]], schema: pa.Schema, file: Path) -> None:
    with file.open("wb") as out:
        if not _is_ascii(read(), schema):
            out.write(codecs.BOM_UTF8)
        with pyarrow.csv.CSVWriter(out, schema) as writer:
            for table in read():
                writer.write_table(table)


def _is_ascii(tables: Iterable[pa.Table], schema: pa.Schema) -> bool:
    texts = [name for name in schema.names if schema.field(name).type == pa.string()]
    if not all(name.isascii() for name in schema.names):
        return False
    for table in tables:
        for name in texts:
            values = table[name].drop_null().to_pylist()
            if not "".join(values).isascii():
                return False
    return True


def _write_parquet(read: Callable[[], Iterable[pa.Table]], schema: pa.Schema, file: Path) -> None:
    with pq.ParquetWriter(file, schema) as writer:
        for table in read():
            writer.write_table(table)


def _write_json(read: Callable[[], Iterable[pa.Table]], schema: pa.Schema, file: Path) -> None:
    with file.open("w", encoding="utf-8") as out:
        before = "[\n"
        for table in read():
            for row in table.to_pylist():
                out.write(before + json.dumps(row, ensure_ascii=False))
                before = ",\n"
        out.write("\n]\n")


_WRITERS = {".csv": _write_csv, ".parquet": _write_parquet, ".json": _write_json}
