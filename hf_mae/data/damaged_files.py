# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Which of a data set's files is damaged, and errors that say it: the libraries' own name none."""

import contextlib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetGenerationError

from ..file_names import printable


# what readers raise on files that are cut off, damaged or no longer there
FILE_ERRORS = (
    *(DatasetGenerationError, OSError, ValueError, LookupError, TypeError, AttributeError),
    *(pa.ArrowException, zipfile.BadZipFile, EOFError),
)
ADVICE = "copy it anew, or take it out"


def find_damaged(files: Sequence[Path]) -> Path | None:
    """Finds the first of parquet, Arrow and zip files that can't be read to its end, or None."""
    for file in files:
        try:
            _read_through(file)
        except FILE_ERRORS:
            return file
    return None


@contextlib.contextmanager
def naming_files(folder: Path) -> Iterator[None]:
    """Has errors of reading what lies in a folder name it, and the file that is damaged.

    Raises:
        ValueError: a file can't be read.
    """
    try:
        yield
    except FILE_ERRORS as error:
        cause = own_cause(error)
        damaged = find_damaged(sorted(path for path in folder.rglob("*") if path.is_file()))
        if damaged is not None:
            raise ValueError(f"{printable(damaged)} can't be read: {cause}; {ADVICE}") from error
        if isinstance(error, ValueError | OSError) and printable(folder) in cause:
            raise ValueError(cause) from error
        raise ValueError(f"{printable(folder)} can't be read: {cause}") from error


def own_cause(error: BaseException) -> str:
    """What an error of datasets says, or what has caused it, in one line."""
    cause = error.__cause__ if isinstance(error, DatasetGenerationError) else None
    text = " ".join(str(cause or error).split())
    return text or type(cause or error).__name__


def _read_through(file: Path) -> None:
    kind = file.suffix.lower()
    if kind == ".parquet":
        for _ in pq.ParquetFile(file).iter_batches():
            pass
    elif kind == ".arrow":
        with pa.memory_map(str(file)) as source:
            try:
                reader = pa.ipc.open_stream(source)
            except pa.ArrowInvalid:
                source.seek(0)
                whole = pa.ipc.open_file(source)
                for number in range(whole.num_record_batches):
                    whole.get_batch(number)
                return
            for _ in reader:
                pass
    elif kind == ".zip":
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(damaged)
