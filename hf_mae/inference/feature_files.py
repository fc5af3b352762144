# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Features into files: a table, an array, an index to search in; read part by part.

Each file is there when it is whole: until then it has another name.
"""

import csv
import json
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Features

from ..file_names import printable
from ..whole_files import unfinished
from .features import read_rows
from .parts import Parts


ENDINGS = (".parquet", ".npy")


def check_output(path: Path) -> None:
    """Raises ValueError unless features can be written to a file of this name."""
    if path.suffix not in ENDINGS:
        raise ValueError(f"output {printable(path)} must end in {' or '.join(ENDINGS)}")
    if path.is_dir():
        raise ValueError(f"output {printable(path)} is a folder; name a file")


def write_features(parts: Parts, columns: Features, path: Path) -> int:
    """Writes features in the order of the images, without those that couldn't be read.

    Args:
        parts: All of them.
        columns: What they hold.
        path: `.parquet`: a table of these columns, which `datasets.load_dataset("parquet",
            data_files=…)` reads with the names of the classes. `.npy`: an array (images, D) or
            (images, N, D), and beside it a `.csv` of the same name with `row`, `name` and, if there
            are labels, `label`: names of classes, of several labels as a JSON list.

    Returns:
        How many there are.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write = _write_parquet if path.suffix == ".parquet" else _write_npy
    return write(parts, columns, path)


def _write_parquet(parts: Parts, columns: Features, path: Path) -> int:
    count = 0
    schema = columns.arrow_schema
    texts: Any = [field.name for field in schema if field.name != "features"]
    with (
        unfinished(path) as whole,
        pq.ParquetWriter(whole, schema, use_dictionary=texts) as writer,
    ):
        for rows in read_rows(parts):
            writer.write_table(rows.table.cast(schema))
            count += len(rows.indices)
    return count


def _write_npy(parts: Parts, columns: Features, path: Path) -> int:
    table = path.with_suffix(".csv")
    with (
        unfinished(table) as whole_table,
        unfinished(path) as whole,
        whole.open("wb") as array_file,
        whole_table.open("w", encoding="utf-8", newline="") as table_file,
    ):
        return _write_rows(parts, columns, array_file, table_file)


def _write_rows(parts: Parts, columns: Features, array_file: IO[bytes], table_file: IO[str]) -> int:
    label = "label_name" if "label_name" in columns else "label"
    names = ["name", label] if label in columns else ["name"]
    table = csv.writer(table_file)
    table.writerow(["row", "name", "label"][: len(names) + 1])
    count, shape = 0, _shape_of(columns["features"])
    _write_header(array_file, (0, *shape))
    for rows in read_rows(parts):
        array_file.write(np.ascontiguousarray(rows.features, "<f4").data)
        for row in rows.table.select(names).to_pylist():
            table.writerow([count, *map(_as_cell, row.values())])
            count += 1
    array_file.seek(0)
    _write_header(array_file, (count, *shape))  # of the same length: numpy leaves room for it
    return count


def _as_cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    fields = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, fields)


def _shape_of(column: Any) -> tuple[int, ...]:
    shape = []
    while hasattr(column, "feature"):
        shape.append(column.length)
        column = column.feature
    return tuple(shape)


# to search in ------------------------------------------------------------------------------------


def load_faiss() -> Any:
    """Imports FAISS.

    Raises:
        ValueError: it isn't installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ValueError(
            "an index needs faiss, which isn't installed: pip install 'hf-mae[search]'"
        ) from error
    return faiss


def write_index(parts: Parts, width: int, path: Path) -> None:
    """Writes an index of FAISS in which the nearest by cosine are found, exactly.

    It holds the features at length 1, in memory while it is written, and finds by inner product:
    queries must have length 1 too. Its rows are those of the table or array.

    Args:
        parts: Of features that are one vector an image.
        width: Of a vector.
        path: The file.
    """
    faiss = load_faiss()
    index = faiss.IndexFlatIP(width)
    for rows in read_rows(parts):
        index.add(normalized(rows.features))
    path.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(path) as whole:
        faiss.write_index(index, str(whole))


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Brings vectors (n, D) to length 1; one of zeros stays what it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12)
