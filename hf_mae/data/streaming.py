# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Images that don't fit on the disk: shards read in turn, each by one worker of one process.

Each worker of each process has a stream of its own: pass after pass over the data, in each of which
all shards are dealt out anew to the streams. A pass of a stream is as long as its shards are; where
one ends, the next begins, in the middle of a batch if need be. So nobody waits for the others, no
row is left out, and what a batch holds follows from its number, the seed, and the numbers of
processes and workers: a run that is resumed goes there.
"""

import itertools
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset, Features, IterableDataset
from datasets import Image as ImageFeature
from torch.utils.data import Sampler
from transformers.utils import logging

from ..errors import BadImageError
from ..models.picture_size import MAX_IMAGE_PIXELS
from ..output_folder import STREAM_FILE
from .damaged_files import ADVICE, FILE_ERRORS, own_cause
from .data_files import can_be_read, load_from_hub, load_local
from .digests import shards_digest
from .row_names import name_shard
from .samples import (
    MAX_REPLACEMENTS,
    Batch,
    BatchShape,
    ImageSamples,
    Sample,
    Transform,
    too_few_images,
)
from .sources import find_image_column, holds_arrays
from .splits import choose_splits


logger = logging.get_logger(__name__)
HELD_OUT_ROWS = 1000
_MAX_EMPTY_PASSES = 1000
_ROWS_AT_ONCE = 32
_TRIES_AT_HAND = 10
_SHARD = 10**8  # a sample's number is shard * _SHARD + row


def load_image_stream(
    dataset_name: str,
    dataset_config: str | None = None,
    train_split: str | None = None,
    validation_split: str | None = None,
    image_column: str | None = None,
) -> tuple[IterableDataset, Dataset | None, int | None]:
    """Opens a data set without fetching it.

    Args:
        dataset_name: A Hub id, or a folder of parquet or webdataset (.tar) shards.
        dataset_config, train_split, validation_split, image_column: As for `load_image_dataset`.

    Returns:
        train: `datasets.IterableDataset` with a column `image`, undecoded.
        validation: `datasets.Dataset` of the first 1,000 rows of the validation split, in memory;
            None if there is none.
        rows: Of the training split, if its publisher says so; else None.

    Raises:
        ValueError: a split or column isn't there; the message lists what is.
    """
    path = Path(dataset_name).expanduser()
    if path.is_dir() or can_be_read(path):
        splits = load_local(path, dataset_config, image_column=image_column, streaming=True)
    else:
        splits = load_from_hub(dataset_name, dataset_config, image_column, streaming=True)
    train_split, chosen = choose_splits(splits, train_split, validation_split)
    validation = None
    if "validation" in chosen:
        held_out = _undecoded_images(chosen["validation"], image_column)
        rows = list(held_out.take(HELD_OUT_ROWS))
        validation = Dataset.from_list(rows, features=held_out.features)
    published = (chosen["train"].info.splits or {}).get(train_split)
    num_rows = published.num_examples if published else None
    return _undecoded_images(chosen["train"], image_column), validation, num_rows or None


def open_every_split(
    dataset_name: str | None, dataset_config: str | None = None, image_column: str | None = None
) -> dict[str, IterableDataset]:
    """Opens all splits of a data set without fetching them, with all columns.

    Args:
        dataset_name, dataset_config, image_column: As for `load_image_stream`.

    Returns:
        Split → data set with images in the column `image`, undecoded, or arrays.

    Raises:
        ValueError: there is none that can be streamed.
    """
    if dataset_name is None or dataset_name == "digits":
        raise ValueError(
            f"dataset_name {dataset_name} can't be streamed; a Hub id or a folder of shards can"
        )
    options: dict[str, Any] = {"image_column": image_column, "streaming": True, "whole": True}
    path = Path(dataset_name).expanduser()
    if path.is_dir() or can_be_read(path):
        splits = load_local(path, dataset_config, **options)
    else:
        splits = load_from_hub(dataset_name, dataset_config, **options)
    whole = {}
    for name, stream in splits.items():
        stream = stream if stream.features is not None else stream._resolve_features()
        column = find_image_column(stream.features, image_column)
        if not holds_arrays(stream.features[column]):
            stream = stream.cast_column(column, ImageFeature(decode=False))
        if column != "image" and "image" in stream.features:
            raise ValueError(
                f"image_column {column!r} is to be called 'image', and there is another column of "
                "that name; prepare it without streaming"
            )
        whole[name] = stream if column == "image" else stream.rename_column(column, "image")
    return whole


def _undecoded_images(stream: IterableDataset, column: str | None) -> IterableDataset:
    """One column, `image`, of undecoded files, or of arrays."""
    if stream.features is None:
        stream = stream._resolve_features()
    column = find_image_column(stream.features or Features(), column)
    # cast first: on the way to another name they would be decoded
    is_array = holds_arrays((stream.features or {})[column])
    stream = stream.select_columns([column])
    if not is_array:
        stream = stream.cast_column(column, ImageFeature(decode=False))
    return stream if column == "image" else stream.rename_column(column, "image")


@dataclass(frozen=True)
class StreamPlan:
    """Which batch is whose.

    Attributes:
        batch_size: Samples in a batch of one process.
        epoch_batches: Batches in an epoch, over all processes.
        num_processes: Processes that train together.
        num_workers: Worker processes of each; without any, a process is one stream.
    """

    batch_size: int
    epoch_batches: int
    num_processes: int
    num_workers: int

    @property
    def num_streams(self) -> int:
        """Streams over all processes."""
        return self.num_processes * max(1, self.num_workers)

    def epoch(self, slot: int) -> int:
        """Finds the epoch of a slot."""
        return slot // self.batch_size // self.epoch_batches

    def locate(self, slot: int) -> tuple[int, int]:
        """Finds the stream that reads a batch.

        Args:
            slot: The batch's first. Slots number the samples of a run, epoch by epoch.

        Returns:
            (stream, samples that it has made before).
        """
        batch = slot // self.batch_size % self.epoch_batches
        number, process = divmod(batch, self.num_processes)  # of the process' batches in this epoch
        workers = max(1, self.num_workers)
        turn, worker = divmod(number, workers)
        own = self.epoch_batches // self.num_processes
        before = self.epoch(slot) * len(range(worker, own, workers)) + turn
        return process * workers + worker, before * self.batch_size


class StreamSampler(Sampler[int]):
    """The slots of one epoch, in order.

    Args:
        num_slots: Samples in an epoch (whole batches).

    Attributes:
        epoch: The epoch to go through next; settable.
    """

    def __init__(self, num_slots: int):
        self.num_slots = num_slots
        self.epoch = 0

    def __len__(self) -> int:
        return self.num_slots

    def __iter__(self) -> Iterator[int]:
        yield from range(self.epoch * self.num_slots, (self.epoch + 1) * self.num_slots)


class ImageStream(ImageSamples):
    """The samples of a stream: `stream[slot]`, slots in order; `ImageSamples` says what one is.

    A sample's `index` is shard * 10^8 + row. Shards of which all rows were read are listed in
    `read_shards`, (shard, rows).

    Args:
        dataset: `datasets.IterableDataset` with a column `image`.
        transform, num_channels, seed, on_bad_image, crops_per_image, max_image_pixels: As for
            `ImageSamples`.
        epoch_samples: Samples that count as an epoch: the rows of the data set, if known.
        shuffle_buffer: Rows that a worker reads at a time and hands out in an order chosen by
            (seed, pass, stream).

    Attributes:
        plan: `StreamPlan` of the run that the last sampler was made for; before, one of a single
            process.
        shard_rows: Shard → its rows, of the shards that are known to their end.
    """

    def __init__(
        self,
        dataset: IterableDataset,
        transform: Transform,
        num_channels: int,
        seed: int,
        on_bad_image: str = "skip",
        crops_per_image: int = 1,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
        *,
        epoch_samples: int,
        shuffle_buffer: int,
    ):
        of_samples = (num_channels, seed, on_bad_image, crops_per_image, max_image_pixels)
        super().__init__(dataset, transform, *of_samples)
        self.epoch_samples = epoch_samples
        self.shuffle_buffer = shuffle_buffer
        self.plan = StreamPlan(1, epoch_samples, num_processes=1, num_workers=0)
        self.shard_rows: dict[int, int] = {}
        self._reader: _Reader | None = None

    def __len__(self) -> int:
        return self.epoch_samples

    def name_row(self, number: int, row: dict) -> str:
        """Names an image to people: its shard's file, and its own name there or its row."""
        shard, place = divmod(number, _SHARD)
        image = row["image"]
        path = image.get("path") if isinstance(image, dict) else None
        if path and os.path.isabs(path):
            return path
        return f"{name_shard(self.dataset, shard)} {path or f'row {place}'}"

    def __getitems__(self, slots: Sequence[int]) -> list[Sample]:
        """Makes the samples of a batch of consecutive slots."""
        stream, position = self.plan.locate(slots[0])
        place = stream, position // self.crops_per_image
        if self._reader is None or self._reader.place != place:
            self._reader = _Reader(self, *place)
        epoch = self.plan.epoch(slots[0])
        samples = []
        for row in itertools.islice(self._reader, len(slots) // self.crops_per_image):
            candidates = self._reader.candidates(row)
            seed = [self.seed, *row.place]
            crops = range(self.crops_per_image)
            samples += self.first_decodable(candidates, seed, crops, epoch)
        for sample in samples:
            sample["read_shards"] = []
        samples[0]["read_shards"] = self._reader.take_notes()
        return samples

    def describe_data(self) -> str:
        """Names the images by their shards."""
        return f"{self.dataset.num_shards} shards of digest {shards_digest(self.dataset)}"

    # what a trainer asks for ---------------------------------------------------------------------

    def updates_per_epoch(self, shape: BatchShape) -> int:
        """Counts the updates of an epoch: whole total batches, and as many batches a worker.

        Raises:
            ValueError: there are none.
        """
        workers = max(1, shape.num_workers)
        multiple = workers // math.gcd(workers, shape.accumulation)
        whole = len(self) // shape.total_batch_size
        updates = whole // multiple * multiple
        if updates == 0:
            message = too_few_images(len(self), shape)
            if multiple > 1:
                message += (
                    f", or fewer workers: their number has to divide an epoch's {whole} batches"
                )
            raise ValueError(message)
        return updates

    def sampler(self, shape: BatchShape) -> StreamSampler:
        """Makes the sampler of a run, and plans which batch is whose."""
        self.plan = self._plan(shape)
        return StreamSampler(self.plan.epoch_batches * self.plan.batch_size)

    def record(self, batch: Batch) -> None:
        """Takes `read_shards` out of a batch: how long the shards are that were read."""
        self.shard_rows.update(batch.pop("read_shards"))

    def save_state(self, folder: Path, shape: BatchShape) -> None:
        """Writes what is known of the shards into a checkpoint; every process calls it."""
        rows = dict(gather_object(list(self.shard_rows.items())))
        if not PartialState().is_main_process:
            return
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"facts": self._facts(shape), "shard_rows": rows})
        (folder / STREAM_FILE).write_text(text, encoding="utf-8")

    def load_state(self, folder: Path, shape: BatchShape) -> None:
        """Takes from a checkpoint what is known of the shards.

        Raises:
            ValueError: the run that is to be resumed read other images, or the same ones otherwise.
        """
        path = folder / STREAM_FILE
        if not path.is_file():
            raise ValueError(
                f"{folder} is of a run without --streaming; it can't be resumed otherwise"
            )
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            then = dict(state["facts"])
            rows = {int(shard): int(count) for shard, count in state["shard_rows"].items()}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged; resume an earlier checkpoint") from error
        changed = []
        for name, value in self._facts(shape).items():
            if value != then.get(name):
                changed.append(f"{name} is {value}, and was {then.get(name)}")
        if changed:
            raise ValueError(f"a stream can't be resumed so: {', '.join(changed)}")
        self.shard_rows = rows

    def _plan(self, shape: BatchShape) -> StreamPlan:
        batches = self.updates_per_epoch(shape) * shape.accumulation * shape.num_processes
        return StreamPlan(shape.batch_size, batches, shape.num_processes, shape.num_workers)

    def _facts(self, shape: BatchShape) -> dict[str, int]:
        """What decides which rows a batch of the stream has."""
        return {
            **asdict(self._plan(shape)),
            "seed": self.seed,
            "shuffle_buffer": self.shuffle_buffer,
            "crops_per_image": self.crops_per_image,
            "num_shards": self.dataset.num_shards,
        }


class _Row(NamedTuple):
    """A row where a stream has read it.

    Attributes:
        place: (pass, shard, number in the shard).
        value: What the column `image` holds.
    """

    place: tuple[int, int, int]
    value: Any

    @property
    def candidate(self) -> tuple[int, dict]:
        """(number of the image, the row as a data set has it)."""
        _, shard, row = self.place
        return shard * _SHARD + row, {"image": self.value}


class _Reader:
    """Rows of one stream in order, from a position on.

    Attributes:
        place: (stream, position) of the next row.
    """

    def __init__(self, images: ImageStream, stream: int, position: int):
        self.place = stream, position
        self._images, self._stream = images, stream
        self._notes: list[tuple[int, int]] = []
        self._rows_of = dict(images.shard_rows)
        self._buffer: list[_Row] = []
        self._shuffled = self._shuffle(position)

    def __iter__(self) -> Iterator[_Row]:
        return self

    def __next__(self) -> _Row:
        stream, position = self.place
        self.place = stream, position + 1
        return next(self._shuffled)

    def take_notes(self) -> list[tuple[int, int]]:
        """(shard, rows) of those that were read to their end since the last time."""
        notes, self._notes = self._notes, []
        return notes

    def candidates(self, row: _Row) -> Iterator[tuple[int, dict]]:
        """Yields (number, row) of a row, and then of those that may stand in for it.

        These are rows at hand or, if they are no good, those from the start of the pass.
        """
        yield row.candidate
        for attempt in range(_TRIES_AT_HAND):
            rng = np.random.default_rng([self._images.seed, *row.place, attempt])
            yield self._buffer[int(rng.integers(len(self._buffer)))].candidate
        first = list(itertools.islice(self._read_pass(row.place[0], 0), MAX_REPLACEMENTS))
        for other in itertools.cycle(first):
            yield other.candidate

    def _shuffle(self, skip: int) -> Iterator[_Row]:
        """Yields the rows of pass after pass, without the first `skip`, each block shuffled."""
        size, seed = self._images.shuffle_buffer, self._images.seed
        empty = 0
        for number in itertools.count():
            length = self._length(number)
            if length is None or skip < length:
                block = skip // size
                rows = self._read_pass(number, block * size)
                while held := list(itertools.islice(rows, size)):
                    self._buffer = held
                    rng = np.random.default_rng([seed, number, self._stream, block])
                    order = rng.permutation(len(held))
                    yield from (held[i] for i in order[max(0, skip - block * size) :])
                    block += 1
                length = self._length(number) or 0
            skip = max(0, skip - length)
            empty = 0 if length else empty + 1
            if empty == _MAX_EMPTY_PASSES:
                streams = self._images.plan.num_streams
                raise BadImageError(f"there are too few images for {streams} workers; take fewer")

    def _shares(self, number: int) -> list[tuple[int, int, int]]:
        """This stream's shards in a pass: (shard, first row, step).

        Few shards are shared by several streams.
        """
        shards, streams = self._images.dataset.num_shards, self._images.plan.num_streams
        order = np.random.default_rng([self._images.seed, number]).permutation(shards).tolist()
        if shards >= streams:
            return [(shard, 0, 1) for shard in order[self._stream :: streams]]
        place = self._stream % shards
        return [(order[place], self._stream // shards, len(range(place, streams, shards)))]

    def _length(self, number: int) -> int | None:
        """Rows of this stream in a pass, None if one of its shards was never read to its end."""
        length = 0
        for shard, first, step in self._shares(number):
            if shard not in self._rows_of:
                return None
            length += len(range(first, self._rows_of[shard], step))
        return length

    def _read_pass(self, number: int, skip: int) -> Iterator[_Row]:
        """Yields this stream's rows of a pass, without the first `skip`."""
        for shard, first, step in self._shares(number):
            known = self._rows_of.get(shard)
            if known is not None and len(range(first, known, step)) <= skip:
                skip -= len(range(first, known, step))
                continue
            count = 0
            for count, value in enumerate(self._read_shard(shard), start=1):
                row = count - 1
                if row < first or (row - first) % step:
                    continue
                if skip:
                    skip -= 1
                else:
                    yield _Row((number, shard, row), value)
            if known is None:
                self._rows_of[shard] = count
                self._notes.append((shard, count))

    def _read_shard(self, shard: int) -> Iterator[Any]:
        """Yields what is in the column `image` of a shard."""
        stream = self._images.dataset.shard(self._images.dataset.num_shards, shard)
        name, is_empty = name_shard(self._images.dataset, shard), True
        try:
            # by `iter`, for in a worker's process a plain loop would take a part of the shards only
            for batch in stream.iter(_ROWS_AT_ONCE):
                is_empty = False
                yield from batch["image"]
        except FILE_ERRORS as error:
            cause = own_cause(error)
            raise BadImageError(f"{name} can't be read: {cause}; {ADVICE}") from error
        if is_empty:
            logger.warning_once(f"there are no rows in {name}")
