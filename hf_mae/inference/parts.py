# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Answers for many images, kept in parts: stopped and gone on with, by any number of processes.

Part 7 holds the answers for images 7 * rows to 8 * rows, whichever process made it and whenever;
read one after another the parts are in the order of the images, and only one is in memory.
"""

import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from filelock import FileLock
from tqdm import tqdm
from transformers.utils import logging

from ..data.samples import ImageSamples
from ..errors import Stopped
from ..file_names import printable
from ..whole_files import take_lock, unfinished
from .images import ImageBatch, read_batches


_ABOUT = "about.json"
_LOCK = ".lock"

logger = logging.get_logger(__name__)


class Parts:
    """A folder of parts.

    Args:
        folder: Where they are kept, until all is done.
        count: Images.
        rows: Images a part.
        about: What the answers depend on, as JSON has it: whose they are.

    Example:

    >>> parts = Parts("answers.parts", count=10, rows=4, about={"model": "runs/demo"})
    >>> [list(parts.span(part)) for part in range(len(parts))]
    [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    """

    def __init__(self, folder: str | os.PathLike, count: int, rows: int, about: Mapping[str, Any]):
        self.folder = Path(folder)
        self.count = count
        self.rows = rows
        self._held: FileLock | None = None
        self.about = json.loads(json.dumps({**about, "images": count, "rows": rows}))

    def __len__(self) -> int:
        return -(-self.count // self.rows)

    def span(self, part: int) -> range:
        """The numbers of the images of a part."""
        return range(part * self.rows, min((part + 1) * self.rows, self.count))

    def open(self) -> None:
        """Makes the folder, or says how much is there already.

        Raises:
            ValueError: it holds parts of other answers, or another run writes there.
        """
        file = self.folder / _ABOUT
        self.folder.mkdir(parents=True, exist_ok=True)
        names = os.listdir(self.folder)
        if file.exists():
            self._lock()
            if not any(name.endswith(".parquet") for name in names):  # nothing is lost
                self._write_about()
                return
            self._check(file)
            logger.warning(f"going on after {self.num_done():,} of {self.count:,} images")
            return
        others = [name for name in names if not name.startswith(("about.", _LOCK))]
        if others:  # it would be removed in the end
            raise ValueError(
                f"{printable(self.folder)} is there already and holds no parts of answers but "
                f"{printable(min(others))}; take it away, or name another output"
            )
        self._lock()
        self._write_about()

    def _write_about(self) -> None:
        with unfinished(self.folder / _ABOUT) as whole:
            whole.write_text(json.dumps(self.about, indent=2), encoding="utf-8")

    def _lock(self) -> None:
        """Keeps others away until this process ends, however it does."""
        self.release()
        self._held = take_lock(self.folder / _LOCK, printable(self.folder), "output")

    def release(self) -> None:
        """Lets others go on with the parts."""
        if self._held is not None:
            self._held.release()

    def _check(self, file: Path) -> None:
        """Raises ValueError unless parts that are there are of these answers."""
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{printable(file)} is damaged; remove its folder") from error
        if kept == self.about:
            return
        fields = sorted({*kept, *self.about})
        others = ", ".join(name for name in fields if kept.get(name) != self.about.get(name))
        raise ValueError(
            f"{printable(self.folder)} holds parts of answers with other {others}; remove it to "
            "begin anew, or name another output"
        )

    def num_done(self) -> int:
        """Counts the images whose part is there."""
        return sum(len(self.span(part)) for part in range(len(self)) if self.has(part))

    def has(self, part: int) -> bool:
        """Whether a part is done."""
        return self._file(part).exists()

    def write(self, part: int, table: pa.Table) -> None:
        """Writes a part, which is there when it is whole."""
        with unfinished(self._file(part)) as whole:
            pq.write_table(table, whole)

    def tables(self) -> Iterator[pa.Table]:
        """Reads all parts in order.

        Raises:
            ValueError: one is missing, as where processes on several machines write to disks of
                their own, or damaged.
        """
        for part in range(len(self)):
            file = self._file(part)
            try:
                yield pq.read_table(file)
            except (OSError, pa.ArrowInvalid) as error:
                raise ValueError(
                    f"{printable(file)} is missing or damaged ({error}); remove it, if it is "
                    "there, and run the same command again, on one disk for all processes"
                ) from error

    def remove(self) -> None:
        """Removes the folder, once all is written elsewhere."""
        self.release()
        shutil.rmtree(self.folder)

    def _file(self, part: int) -> Path:
        return self.folder / f"{part:06d}.parquet"


def compute_parts(
    parts: Parts,
    samples: ImageSamples,
    answer: Callable[[ImageBatch], pa.Table],
    batch_size: int,
    num_workers: int,
    state: PartialState,
) -> None:
    """Computes the parts that aren't there yet; every process calls it, and does its own.

    Args:
        parts: Where they are kept.
        samples: The images, with a transform that gives `pixel_values`.
        answer: Makes the rows for a batch, one an image.
        batch_size: Images that are answered for at once.
        num_workers: Processes that read ahead, for each process.
        state: Says which process this is, of how many.

    Raises:
        Stopped: by the user, and how much is kept.
    """
    try:
        _compute_parts(parts, samples, answer, batch_size, num_workers, state)
    except KeyboardInterrupt as error:
        parts.release()
        raise Stopped(
            f"stopped; answers for {parts.num_done():,} of {parts.count:,} images are kept in "
            f"{printable(parts.folder)}, and the same command goes on"
        ) from error
    except Exception:
        parts.release()
        raise


def _compute_parts(
    parts: Parts,
    samples: ImageSamples,
    answer: Callable[[ImageBatch], pa.Table],
    batch_size: int,
    num_workers: int,
    state: PartialState,
) -> None:
    with state.main_process_first():
        if state.is_main_process:
            parts.open()
    own = range(state.process_index, len(parts), state.num_processes)
    own = [part for part in own if not parts.has(part)]
    batches = []
    for part in own:
        span = list(parts.span(part))
        batches += [span[first : first + batch_size] for first in range(0, len(span), batch_size)]
    read = read_batches(samples, batches, num_workers, state.device)
    with progress_bar(sum(map(len, batches)), state) as bar:
        for part in own:
            tables, missing = [], len(parts.span(part))
            while missing:
                batch = next(read)
                tables.append(answer(batch))
                missing -= len(batch.indices)
                bar.update(len(batch.indices))
            parts.write(part, pa.concat_tables(tables))
    state.wait_for_everyone()


def progress_bar(total: int, state: PartialState) -> tqdm:
    """A bar of the main process' images, on stderr, of what takes more than a few seconds.

    Where that is no terminal it is a line a minute.
    """
    several = state.num_processes > 1
    return tqdm(
        total=total,
        unit=" images",
        desc=f"1 of {state.num_processes} processes" if several else None,
        disable=not state.is_main_process,
        delay=3,
        mininterval=0.1 if sys.stderr.isatty() else 60,
    )


def default_workers(num_images: int, batch_size: int, state: PartialState) -> int:
    """Says how many processes are to read ahead for each process, where the user doesn't.

    They take half of the cores, at most 16 each; of a single batch there is nothing to read ahead.

    Args:
        num_images: Of all processes.
        batch_size: Images that are answered for at once.
        state: Says how many processes there are.
    """
    if num_images <= batch_size * state.num_processes:
        return 0
    cores = (os.cpu_count() or 1) // state.num_processes
    return min(16, max(1, cores // 2))


@torch.no_grad()
def weights_digest(model: torch.nn.Module) -> str:
    """A short name of a model's weights: parts of another model are other answers."""
    digest = 0
    for name, tensor in model.state_dict().items():
        digest = zlib.crc32(name.encode(), digest)
        values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest = zlib.crc32(values.numpy(), digest)
    return f"{digest:08x}"
