# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Files that are there once they are whole, in folders that one run at a time writes."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from .file_names import printable


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Another name for a file, until all is in it.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "answers.json")
    >>> with unfinished(path) as other:
    ...     _ = other.write_text("{}")
    ...     path.exists()
    False
    >>> path.exists()
    True
    """
    other = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        yield other
        os.replace(other, path)
    finally:
        other.unlink(missing_ok=True)


def check_folder(folder: Path) -> None:
    """Makes a folder, if it isn't there, and tries whether a file can be written in it.

    Raises:
        ValueError: none can.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(
            f"nothing can be written in {printable(folder)} ({error.strerror})"
        ) from error


def take_lock(file: Path, folder: str, other: str) -> FileLock:
    """Keeps other runs away from a folder until the lock is released, or this process ends.

    Args:
        file: The lock's.
        folder: What is locked, and
        other: what the user may name instead, both for the error.

    Raises:
        ValueError: another run has it.
    """
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"{folder} is being written by another run; wait for it, or name another {other}"
        ) from error
    return lock
