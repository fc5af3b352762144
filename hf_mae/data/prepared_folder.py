# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The folder of a prepared set: what is finished in it, and one run at a time that writes it.

Beside each shard that is finished lies a note until all are; in the end one file has them all.
"""

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Features
from transformers.utils import logging

from ..file_names import one_line, printable
from ..whole_files import take_lock
from .prepared_shards import SHARDS
from .shrinking import ShrunkImage


FINISHED = "preparation.json"  # what was prepared, and how
NOTES = ".preparing"  # of a run that isn't finished
_BEGUN = "begun.json"
_LOCK = ".lock"
logger = logging.get_logger(__name__)


@dataclass
class SplitSummary:
    """What became of a split, or of one of its shards.

    Attributes:
        rows: Images of the source.
        images: Those that are there.
        resized: Those that are smaller than they were.
        source_bytes, bytes: Of the image files, before and after.
        special: .npy and TIFF files, which not every program reads.
        endings: Of the names of the image files, in order.
        shards: (name, bytes) of each file.
        bad: (row, name, error) of images that are left out.
    """

    rows: int = 0
    images: int = 0
    resized: int = 0
    source_bytes: int = 0
    bytes: int = 0
    special: int = 0
    endings: list[str] = field(default_factory=list)
    shards: list[tuple[str, int]] = field(default_factory=list)
    bad: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, number: int, name: str | None, image: ShrunkImage | str) -> None:
        """Counts an image, or the reason why it is left out."""
        self.rows += 1
        if isinstance(image, str):
            self.bad.append((number, one_line(name or "-"), one_line(image)))
            return
        self.images += 1
        self.resized += image.is_resized
        self.source_bytes += image.source_bytes
        self.bytes += len(image.data)
        self.special += image.ending in (".npy", ".tif", ".dcm")
        self.endings = sorted({*self.endings, image.ending})

    def describe_mixture(self) -> str | None:
        """Says which kinds of images .tar shards hold, if there are several."""
        is_tar = any(name.endswith(".tar") for name, _ in self.shards)
        if not is_tar or len(self.endings) < 2:
            return None
        return (
            f"{', '.join(self.endings)} files in .tar shards, which datasets' own loader and "
            "webdataset take for columns of their own, empty where an image is of another kind; "
            "hf_mae reads them all as one, and so does everybody with the format parquet"
        )

    def include(self, other: "SplitSummary") -> None:
        """Adds what became of another shard."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        self.endings = sorted(set(self.endings))


@dataclass(frozen=True)
class Target:
    """Where a split is written, and how."""

    output: Path
    split: str
    file_format: str
    features: Features
    images_per_shard: int

    def shard(self, number: int) -> Path:
        """The file of a shard."""
        return self.output / "data" / f"{self._name(number)}{SHARDS[self.file_format].ending}"

    def note(self, number: int) -> Path:
        """The file that says what became of a shard."""
        return self.output / NOTES / f"{self._name(number)}.json"

    def partial(self, number: int) -> Path:
        """The file of a shard that isn't finished."""
        return self.output / NOTES / f"{self._name(number)}.partial"

    def _name(self, number: int) -> str:
        return f"{self.split}-{number:05d}"

    def read_notes(self) -> list[SplitSummary]:
        """Reads what is known of the finished shards, in their order, up to one that is damaged."""
        notes = []
        for number in itertools.count():
            file = self.note(number)
            if not file.is_file():
                return notes
            try:
                note = SplitSummary(**_read_json(file, "rows"))
                _check_shards(self.output, note)
            except _DamagedError as error:
                logger.warning(f"{error}; the shards from this one on are written anew")
                return notes
            notes.append(note)
        raise AssertionError


def begin(output: Path, facts: dict[str, Any]) -> dict[str, SplitSummary] | None:
    """Begins in an output folder, or finds what an earlier run has written into it.

    Args:
        output: The folder, which `alone` keeps.
        facts: What decides what is written, as JSON has it.

    Returns:
        What was made, if that run came to its end.

    Raises:
        ValueError: it was another run, or what it wrote is damaged.
    """
    facts = json.loads(json.dumps(facts))
    for file in (output / FINISHED, output / NOTES / _BEGUN):
        if not file.is_file():
            continue
        try:
            then = _read_json(file, "facts")
            _check_same(output, then["facts"], facts)
            if file.name == _BEGUN:
                return None
            splits = {name: SplitSummary(**own) for name, own in then["splits"].items()}
            for split in splits.values():
                _check_shards(output, split)
        except _DamagedError as error:
            raise ValueError(
                f"{error}; delete output_dir {printable(output)} to prepare it anew, or name "
                "another folder"
            ) from error
        return splits
    with writing(output):
        write_json(output / NOTES / _BEGUN, {"facts": facts})
    return None


def _check_same(output: Path, then: dict[str, Any], now: dict[str, Any]) -> None:
    changed = []
    for name, value in {**now, **now["source"]}.items():
        earlier = then[name] if name in then else then["source"].get(name)
        if value != earlier and name not in ("source", "splits"):
            changed.append(f"{name} is {value}, and was {earlier}")
    if not changed and then["splits"] != now["splits"]:
        changed.append("the images or their labels have changed since")
    if changed:
        raise ValueError(
            f"output_dir {printable(output)} is of another preparation: {'; '.join(changed)}; name "
            "another folder, or delete it"
        )


class _DamagedError(ValueError):
    """A file of an earlier run isn't as that wrote it."""


def _check_shards(output: Path, summary: SplitSummary) -> None:
    for name, size in summary.shards:
        file = output / "data" / name
        if not file.is_file():
            raise _DamagedError(f"{printable(file)} is missing, which was finished")
        found = file.stat().st_size
        if found != size:
            raise _DamagedError(
                f"{printable(file)} has {found:,} bytes, and had {size:,} when it was finished"
            )


def _read_json(file: Path, key: str) -> dict[str, Any]:
    """Reads what `write_json` wrote, with a field that it must have."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        content[key]
    except (ValueError, LookupError, TypeError) as error:
        raise _DamagedError(f"{printable(file)} is damaged") from error
    return content


@contextlib.contextmanager
def alone(output: Path) -> Iterator[None]:
    """Makes an output folder and keeps other runs away; a finished one stays as it is.

    Raises:
        ValueError: another run writes it, or it holds something else.
    """
    finished, notes = output / FINISHED, output / NOTES
    if finished.is_file() and not notes.exists():
        yield
        return
    is_ours = finished.is_file() or notes.is_dir()
    if not is_ours and output.is_dir() and any(output.iterdir()):
        raise ValueError(
            f"output_dir {printable(output)} isn't empty; name a new folder, or that of a "
            "preparation that stopped"
        )
    with writing(output):
        notes.mkdir(parents=True, exist_ok=True)
        lock = take_lock(notes / _LOCK, f"output_dir {printable(output)}", "folder")
    try:
        yield
    finally:
        lock.release()
        if finished.is_file():
            shutil.rmtree(notes, ignore_errors=True)


@contextlib.contextmanager
def writing(output: Path) -> Iterator[None]:
    """Has errors of the system say what could not be written, and that nothing is lost."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"output_dir {printable(output)} can't be written: {error.strerror or error}; what is "
            "finished stays, and the same command goes on behind it"
        ) from error


def write_json(file: Path, content: Any) -> None:
    """Writes a file of JSON, whole or not at all."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, file)
