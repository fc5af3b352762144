# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Images to answer for, in order: found by what a user names, read batch by batch."""

import codecs
import glob
import os
import stat
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch.utils.data import DataLoader, get_worker_info
from transformers.utils import logging

from ..data.image_files import describe_files, read_contents
from ..data.samples import ImageSamples
from ..errors import DECODE_ERRORS
from ..file_names import find_file, printable
from ..free_memory import return_free_memory
from ..models.picture_files import read_picture


if TYPE_CHECKING:  # takes long to import
    from datasets import Dataset

STDIN = "-"
_ROWS = 10_000  # that are looked at at once

logger = logging.get_logger(__name__)


def find_images(inputs: Sequence[str | os.PathLike]) -> list[dict[str, Any]]:
    """Finds the images that a user names.

    Args:
        inputs: Of each: a file; a folder, for all images in it and below, by name; a pattern with
            `*`, `?` or `[…]` (`**` for folders at any depth); an address (`https://…`); or `-`, for
            standard input: an image, or names of all these, one a line.

    Returns:
        Rows with `image`, undecoded, in the order of the inputs. What is no file here is among them
        all the same: the error comes when it is read.

    Raises:
        ValueError: a folder holds no images, or can't be read.

    Example:

    >>> find_images(["bird.jpg", "https://example.com/cat.jpg"])[0]
    {'image': {'bytes': None, 'path': 'bird.jpg'}}
    """
    files: list[dict[str, Any]] = []
    for given in inputs:
        if str(given) == STDIN:
            files += _read_stdin()
        else:
            files += map(_as_file, _find(os.fspath(given)))
    return [{"image": file} for file in files]


def find_images_once(
    inputs: Sequence[str | os.PathLike], state: PartialState
) -> list[dict[str, Any]]:
    """Finds images as `find_images` does, in the main process, which tells the others.

    So all have the same, whatever comes and goes in a folder, and standard input is read once.
    """
    found: list[Any] = [None]
    if state.is_main_process:
        try:
            found = [find_images(inputs)]
        except ValueError as error:
            found = [error]
    broadcast_object_list(found)
    if isinstance(found[0], ValueError):
        raise found[0]
    return found[0]


def as_dataset(rows: list[dict[str, Any]]) -> "Dataset":
    """Makes a data set of what `find_images` found."""
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature(decode=False)})
    return Dataset.from_dict({"image": [row["image"] for row in rows]}, features=features)


def images_digest(dataset: "Dataset") -> str:
    """A short name of images and labels, for parts of others are other answers.

    It goes by names, sizes and times of files, or sizes in the data set; what is read is but an
    image from standard input.
    """
    plain = dataset.flatten()
    names = [name for name in ("image.path", "image.bytes", "label") if name in plain.column_names]
    digest = 0
    for rows in plain.select_columns(names).with_format("arrow").iter(_ROWS):
        table = cast(pa.Table, rows)
        for name, column in zip(names, table.columns):
            values: Any = column.to_pylist() if name != "image.bytes" else _lengths(column)
            if name == "image.path":
                values = list(map(_file_state, values))
            digest = zlib.crc32(repr(values).encode(), digest)
        if "image.bytes" in names:
            typed_in = table.filter(pc.field("image.path") == STDIN)["image.bytes"]
            digest = zlib.crc32(repr(typed_in.to_pylist()).encode(), digest)
    return f"{digest:08x}"


def _lengths(column: Any) -> list[int | None]:
    lengths: Any = pc.binary_length(column)  # pyright: ignore[reportAttributeAccessIssue]
    return lengths.to_pylist()


def _file_state(path: str | None) -> tuple[str | int | None, ...]:
    """A path and, if a file is there, its size and when it was changed."""
    try:
        state = os.stat(find_file(path or ""))
    except (OSError, ValueError):  # an address, or in an archive
        return (path,)
    if not stat.S_ISREG(state.st_mode):  # a pipe changes when it is read
        return (path,)
    return path, state.st_size, state.st_mtime_ns


def _as_file(name: str) -> dict[str, Any]:
    return {"bytes": None, "path": printable(name)}


def _find(name: str) -> list[str]:
    if "://" in name or os.path.isfile(name):
        return [name]
    if os.path.isdir(name):
        return _find_in_folder(name)
    matches = sorted(glob.glob(os.path.expanduser(name), recursive=True))
    folders = {match for match in matches if os.path.isdir(match)}
    if "**" in name and len(folders) < len(matches):  # what is in these matches by itself
        matches = [match for match in matches if match not in folders]
    found = []
    for match in matches:
        found += _find_in_folder(match) if match in folders else [match]
    return found or [name]


def _find_in_folder(folder: str) -> list[str]:
    contents = read_contents(Path(folder))
    others = contents.others + [str(file) for file in contents.metadata]
    left_out = describe_files(others)
    if not contents.images:
        note = f" ({left_out})" if left_out else ""
        raise ValueError(f"the folder {printable(folder)} holds no images{note}")
    if left_out:
        logger.warning(f"{printable(folder)}: {left_out}")
    return contents.images


def _read_stdin() -> list[dict[str, Any]]:
    """An image, or the images that lines name."""
    data = sys.stdin.buffer.read()
    if not data.strip():
        raise ValueError("standard input (-) is empty; it takes an image, or names, one a line")
    if _is_image(data):
        return [{"bytes": data, "path": STDIN}]
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell writes it
        data = data.decode("utf-16").encode()
    data = data.removeprefix(codecs.BOM_UTF8)
    lines = data.split(b"\0") if b"\0" in data else data.splitlines()  # of find -print0, or lines
    names = [os.fsdecode(line) for line in lines if line.strip()]
    if not _is_text(data) and not any(map(os.path.exists, names)):
        return [{"bytes": data, "path": STDIN}]  # a damaged one
    files = []
    for name in names:
        files += map(_as_file, _find(name))
    return files


def _is_image(data: bytes) -> bool:
    try:
        read_picture(data)
    except DECODE_ERRORS:
        return False
    return True


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@dataclass(frozen=True)
class ImageBatch:
    """Images that lie side by side in a data set, those that can't be read among them.

    Attributes:
        indices: Their numbers in the data set.
        names: What they are called there: a path, or `row 7`.
        errors: Of each, why it can't be read, or None.
        labels: Of each, what the data set has in `label`, or None.
        pixel_values: (B, C, H, W) of those that can be read; None if none can.
    """

    indices: list[int]
    names: list[str]
    errors: list[str | None]
    labels: list[Any]
    pixel_values: torch.Tensor | None

    @property
    def readable(self) -> list[int]:
        """Places in the batch of the images that `pixel_values` has."""
        return [place for place, error in enumerate(self.errors) if error is None]

    def pin_memory(self) -> "ImageBatch":
        """Moves the pixels where a GPU takes them from faster; data loaders call it."""
        if self.pixel_values is None:
            return self
        return replace(self, pixel_values=self.pixel_values.pin_memory())


def image_name(index: int, value: Any) -> str:
    """What an image is called: its path, or the number of its row."""
    path = value.get("path") if isinstance(value, dict) else None
    return path or f"row {index}"


def read_batches(
    samples: ImageSamples,
    batches: Iterable[list[int]],
    num_workers: int = 0,
    device: torch.device | None = None,
) -> Iterator[ImageBatch]:
    """Reads images of a data set, batch by batch.

    Args:
        samples: The data set, with a transform that gives `pixel_values`.
        batches: Numbers of images, of each batch.
        num_workers: Processes that read ahead; 0 to read in this one.
        device: Where the batches will go.
    """
    loader = DataLoader(
        _Reader(samples),
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=_as_batch,
        pin_memory=device is not None and device.type == "cuda",
    )
    yield from loader


class _Reader(torch.utils.data.Dataset):
    """Each image as its sample, or with the error."""

    def __init__(self, samples: ImageSamples):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.samples.dataset[index]
        name = image_name(index, row["image"])
        found = {"index": index, "name": name, "error": None, "label": row.get("label")}
        try:
            (sample,) = self.samples.make_samples(row, [self.samples.seed, 0, index], [0], 0)
        except DECODE_ERRORS as error:  # also of the image processor
            return {**found, "error": " ".join(str(error).split())}
        return {**found, "pixel_values": sample["pixel_values"]}


def _as_batch(images: list[dict[str, Any]]) -> ImageBatch:
    batch = ImageBatch([], [], [], [], None)
    readable = []
    for image in images:
        batch.indices.append(image["index"])
        batch.names.append(image["name"])
        batch.errors.append(image["error"])
        batch.labels.append(image["label"])
        if image["error"] is None:
            readable.append(image["pixel_values"])
    if readable:
        batch = replace(batch, pixel_values=torch.stack(readable))
    if get_worker_info() is not None:
        return_free_memory()  # of the images that the pixel values were made of
    return batch
