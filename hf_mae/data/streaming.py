# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Images that don't fit on the disk: shards read in turn, each by one worker of one process, and a
place for every draw.

Each worker of each process has a stream of its own: pass after pass over the data, in each of which
all shards are dealt
out anew to the streams. A pass of a stream is as long as its shards are; where one ends, the next
begins, in the middle of a batch if need be. So nobody waits for the others, no row is left out, and
what a batch holds follows from its number, the seed, and the numbers of processes and workers: a
run that is resumed goes there.
"""

import itertools
from dataclasses import dataclass
from functools import partial

import datasets
import numpy as np
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from torch.utils.data import Sampler

from ..errors import BadImageError
from .samples import MAX_REPLACEMENTS, ImageSamples
from .sources import choose_splits, image_column_of


HELD_OUT_ROWS = 1000
_MAX_EMPTY_PASSES = 1000
_ROWS_AT_ONCE = 32
_TRIES_AT_HAND = 10
_SHARD = 10**8  # a sample's number is shard * _SHARD + row


def load_image_stream(
    dataset_name, dataset_config=None, train_split=None, validation_split=None, image_column=None
):
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
    splits = datasets.load_dataset(dataset_name, dataset_config, streaming=True)
    train_split, chosen = choose_splits(splits, train_split, validation_split)
    info = (chosen["train"].info.splits or {}).get(train_split)
    validation = None
    if "validation" in chosen:
        rows = list(_images(chosen["validation"], image_column).take(HELD_OUT_ROWS))
        validation = Dataset.from_list(
            rows, features=Features({"image": ImageFeature(decode=False)})
        )
    return _images(chosen["train"], image_column), validation, info and (info.num_examples or None)


def _images(stream, column):
    """One column, `image`, of undecoded files."""
    if stream.features is None:
        stream = stream._resolve_features()
    column = image_column_of(stream.features, column)
    # cast first: on the way to another name they would be decoded
    stream = stream.select_columns([column]).cast_column(column, ImageFeature(decode=False))
    return stream if column == "image" else stream.rename_column(column, "image")


@dataclass(frozen=True)
class StreamPlan:
    """Which batch is whose.

    Attributes:
        batch_size: Samples of a process' batch.
        epoch_batches: Batches an epoch, over all processes.
        num_processes, num_workers: Of the run; 0 workers are one stream.
    """

    batch_size: int
    epoch_batches: int
    num_processes: int
    num_workers: int

    @property
    def num_streams(self):
        return self.num_processes * max(1, self.num_workers)

    def epoch(self, slot):
        """The epoch that a slot is of."""
        return slot // self.batch_size // self.epoch_batches

    def locate(self, slot):
        """(stream, rows before) of a batch that starts at a slot: slots number the samples of a
        run, epoch by epoch."""
        batch = slot // self.batch_size % self.epoch_batches
        number, process = divmod(batch, self.num_processes)  # of the process' batches in this epoch
        workers = max(1, self.num_workers)
        turn, worker = divmod(number, workers)
        own = self.epoch_batches // self.num_processes
        before = self.epoch(slot) * len(range(worker, own, workers)) + turn
        return process * workers + worker, before * self.batch_size


class ImageStream(ImageSamples):
    """The draws of a stream: `stream[slot]`, slots in order; `ImageSamples` says what a sample is.

    A sample's `index` is shard * 10^8 + row. Shards of which all rows were read are listed in
    `read_shards`, (shard, rows).

    Args:
        dataset: `datasets.IterableDataset` with a column `image`.
        transform, num_channels, seed, on_bad_image, crops_per_image: As for `ImageSamples`.
        epoch_samples: Samples that count as an epoch: the rows of the data set, if known.
        shuffle_buffer: Rows that a worker reads at a time and hands out in an order drawn by (seed,
            pass, stream).
    """

    def __init__(self, dataset, *args, epoch_samples, shuffle_buffer, **kwargs):
        super().__init__(dataset, *args, **kwargs)
        self.epoch_samples = epoch_samples
        self.shuffle_buffer = shuffle_buffer
        self.plan = None  # set by the trainer, which knows the batches
        self.shard_rows = {}  # of shards that were read before the run was resumed
        self._reader = None

    def __len__(self):
        return self.epoch_samples

    def __getitems__(self, slots):
        """The samples of a batch of consecutive slots."""
        stream, position = self.plan.locate(slots[0])
        place = stream, position // self.crops_per_image
        if self._reader is None or self._reader.place != place:
            self._reader = _Reader(self, *place)
        make = partial(
            self.make_samples, crops=range(self.crops_per_image), epoch=self.plan.epoch(slots[0])
        )
        samples = []
        for number, shard, row, value in itertools.islice(
            self._reader, len(slots) // self.crops_per_image
        ):
            another = partial(self._reader.another, number)
            samples += self.replacing_bad_images(
                _number(shard, row), value, [number, shard, row], make, another
            )
        samples[0]["read_shards"] = self._reader.take_notes()
        return [{"read_shards": [], **sample} for sample in samples]


def _number(shard, row):
    return shard * _SHARD + row


class _Reader:
    """Rows of one stream in order, from a position on: (pass, shard, row, what the row holds).

    Attributes:
        place: (stream, position) of the next row.
    """

    def __init__(self, images, stream, position):
        self.place = stream, position
        self._images, self._stream, self._notes = images, stream, []
        self._rows_of = dict(images.shard_rows)
        self._buffer = []
        self._drawn = self._draw(position)

    def __iter__(self):
        return self

    def __next__(self):
        self.place = self._stream, self.place[1] + 1
        return next(self._drawn)

    def take_notes(self):
        """(shard, rows) of those that were read to their end since the last time."""
        notes, self._notes = self._notes, []
        return notes

    def another(self, number, attempt, rng):
        """(number, what it holds) of a row at hand or, if those are no good, of one from the start
        of the pass."""
        if attempt < _TRIES_AT_HAND:
            shard, row, value = self._buffer[int(rng.integers(len(self._buffer)))]
        else:
            first = list(itertools.islice(self._rows(number, 0), MAX_REPLACEMENTS))
            shard, row, value = first[(attempt - _TRIES_AT_HAND) % len(first)]
        return _number(shard, row), value

    def _draw(self, skip):
        size, seed = self._images.shuffle_buffer, self._images.seed
        empty = 0
        for number in itertools.count():
            length = self._length(number)
            if length is None or skip < length:
                block = skip // size
                rows = self._rows(number, block * size)
                while held := list(itertools.islice(rows, size)):
                    self._buffer = held
                    order = np.random.default_rng([seed, number, self._stream, block]).permutation(
                        len(held)
                    )
                    yield from ((number, *held[i]) for i in order[max(0, skip - block * size) :])
                    block += 1
                length = self._length(number)
            skip = max(0, skip - length)
            empty = 0 if length else empty + 1
            if empty == _MAX_EMPTY_PASSES:
                raise BadImageError(
                    f"there are too few images for {self._images.plan.num_streams} workers; take fewer"
                )

    def _shares(self, number):
        """This stream's shards in a pass: (shard, first row, step); few shards are shared by
        several streams."""
        shards, streams = self._images.dataset.num_shards, self._images.plan.num_streams
        order = np.random.default_rng([self._images.seed, number]).permutation(shards).tolist()
        if shards >= streams:
            return [(shard, 0, 1) for shard in order[self._stream :: streams]]
        place = self._stream % shards
        return [(order[place], self._stream // shards, len(range(place, streams, shards)))]

    def _length(self, number):
        """Rows of this stream in a pass, None if one of its shards was never read to its end."""
        shares = self._shares(number)
        if any(shard not in self._rows_of for shard, _, _ in shares):
            return None
        return sum(len(range(first, self._rows_of[shard], step)) for shard, first, step in shares)

    def _rows(self, number, skip):
        """(shard, row, what it holds) of a pass, without the first `skip`."""
        for shard, first, step in self._shares(number):
            known = self._rows_of.get(shard)
            if known is not None and len(range(first, known, step)) <= skip:
                skip -= len(range(first, known, step))
                continue
            count = 0
            for count, image in enumerate(self._shard(shard), start=1):
                row = count - 1
                if row < first or (row - first) % step:
                    continue
                if skip:
                    skip -= 1
                else:
                    yield shard, row, {"image": image}
            if known is None:
                self._rows_of[shard] = count
                self._notes.append((shard, count))

    def _shard(self, shard):
        """What is in the column `image` of a shard."""
        stream = self._images.dataset.shard(self._images.dataset.num_shards, shard)
        # by `iter`, for in a worker's process a plain loop would take a part of the shards only
        return itertools.chain.from_iterable(batch["image"] for batch in stream.iter(_ROWS_AT_ONCE))


class StreamSampler(Sampler):
    """The slots of one epoch, in order.

    Args:
        num_slots: Samples an epoch (whole batches).
    """

    def __init__(self, num_slots):
        self.num_slots = num_slots
        self.epoch = 0

    def __len__(self):
        return self.num_slots

    def __iter__(self):
        yield from range(self.epoch * self.num_slots, (self.epoch + 1) * self.num_slots)
