# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Rows of a data set → rows with small images, by several processes, in the rows' order."""

import itertools
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset

from ..errors import ImageDecodeError
from ..file_names import find_file, printable
from .columns import Split
from .samples import array_dtype
from .shrinking import ShrunkImage, shrink_image


_ROWS = 4  # that travel together; few, as they may hold large photographs
_CHUNKS_AHEAD = 4  # of each worker


class Row(NamedTuple):
    """A row of a data set.

    Attributes:
        columns: Its other columns.
        name: Of its image, or None.
        value: What the column `image` holds; or, once it is shrunk, the file or the reason why
            there is none.
    """

    columns: dict[str, Any]
    name: str | None
    value: Any


def read_rows(split: Split, start: int, root: Path | None) -> Iterator[Row]:
    """Yields the rows of a split.

    Args:
        split: Data set with a column `image`, undecoded, or of arrays.
        start: Rows to pass over.
        root: The folder that names of files here start from.
    """
    dtype = array_dtype(split)
    for columns in _plain_rows(split, start):
        value, name = columns.pop("image"), None
        if value is None:
            value = {"bytes": None, "path": None}
        if not isinstance(value, dict):
            value = np.asarray(value, dtype)
        elif value.get("path"):
            name = _name(str(value["path"]), root, is_here=value.get("bytes") is None)
        if root is not None:
            columns = _without_root(columns, printable(root) + os.sep)
        yield Row(columns, name, value)


def _plain_rows(split: Split, start: int) -> Iterator[dict[str, Any]]:
    if not isinstance(split, Dataset):
        yield from map(dict, split.skip(start))
        return
    for first in range(start, len(split), _ROWS):
        batch = split[first : first + _ROWS]
        for values in zip(*batch.values()):
            yield dict(zip(batch, values))


def _without_root(columns: dict[str, Any], root: str) -> dict[str, Any]:
    """Has paths of files here, as file_name of metadata is one, start from the folder given."""
    plain = {}
    for name, value in columns.items():
        is_here = isinstance(value, str) and value.startswith(root)
        plain[name] = value.removeprefix(root) if is_here else value
    return plain


def _name(path: str, root: Path | None, is_here: bool) -> str:
    """The name of an image: of a file here the way from the folder given."""
    if is_here and root is not None and "://" not in path:
        path = os.path.relpath(find_file(path), root)
    return printable(path)


class Workers:
    """Processes that shrink images; a context manager.

    Args:
        num_proc: How many; with one, this process does it.
        options: shortest_edge, quality and max_image_pixels, as for `shrink_image`.
    """

    def __init__(self, num_proc: int, **options: int):
        self._work = partial(_shrink_values, **options)
        self._ahead = num_proc * _CHUNKS_AHEAD
        self._pool = ProcessPoolExecutor(num_proc, initializer=_set_up) if num_proc > 1 else None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def shrink(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Yields the rows in their order, each with a `ShrunkImage` or an error's message.

        Raises:
            ValueError: a process was killed.
        """
        waiting: deque[tuple[list[Row], Any]] = deque()
        while chunk := list(itertools.islice(rows, _ROWS)):
            waiting.append((chunk, self._submit([row.value for row in chunk])))
            if self._pool is None or len(waiting) > self._ahead:
                yield from _take(waiting)
        while waiting:
            yield from _take(waiting)

    def _submit(self, values: list[Any]) -> Any:
        if self._pool is None:
            return self._work(values)
        try:
            return self._pool.submit(self._work, values)
        except BrokenProcessPool as error:
            raise _killed() from error


def _take(waiting: deque[tuple[list[Row], Any]]) -> Iterator[Row]:
    chunk, result = waiting.popleft()
    try:
        images = result.result() if isinstance(result, Future) else result
    except BrokenProcessPool as error:
        raise _killed() from error
    for row, image in zip(chunk, images):
        yield row._replace(value=image)


def _killed() -> ValueError:
    return ValueError(
        "a worker process was killed, as the system does where memory runs out; give a smaller "
        "num_proc: what is finished stays, and the same command goes on behind it"
    )


def _shrink_values(values: list[Any], **options: int) -> list[ShrunkImage | str]:
    shrunk: list[ShrunkImage | str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's, about files that it reads all the same
        for value in values:
            try:
                shrunk.append(shrink_image(value, **options))
            except ImageDecodeError as error:
                shrunk.append(str(error))
    return shrunk


def _set_up() -> None:
    """Has a worker leave Ctrl-C to its parent, and end with it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
