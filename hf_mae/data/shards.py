# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Shards in tar files, as webdataset has them: the files of a sample lie side by side in one.

datasets' own loader takes the first samples' fields for those of all: a PNG among JPEG files comes
as None; and a file that was cut off ends there.
"""

import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import fsspec
from datasets import Dataset, Features, IterableDataset, Value
from datasets import Image as ImageFeature
from datasets.exceptions import DatasetGenerationError
from transformers.utils import logging

from ..errors import BadImageError
from ..file_names import printable


logger = logging.get_logger(__name__)
_BLOCK = 512  # of tar's
_MANY_BLOCKS = 2**20
_SAMPLES_TO_LOOK_AT = 50
_PACKED = {
    b"\x1f\x8b": ("compressed by gzip", "gzip -dc old.tar > new.tar"),
    b"BZh": ("compressed by bzip2", "bzip2 -dc old.tar > new.tar"),
    b"\xfd7zXZ\0": ("compressed by xz", "xz -dc old.tar > new.tar"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "zstd -dc old.tar > new.tar"),
    b"PK\x03\x04": ("a zip file", "unzip"),
}
_WHOLE = re.compile(r"-?(?:0|[1-9]\d{0,17})")
_TEXTS = ("cls", "txt", "text")
_MAPPINGS = ("json", "jsn")

Shard = tuple[str, str]  # path or address, and what changes where it does


@dataclass(frozen=True)
class Fields:
    """What to take of a sample's files.

    Attributes:
        extensions: Endings that images have, with a dot.
        image: Of the images that a sample has, the ending of those that are meant: `jpg` or
            `left.png`; by default a sample has one.
        labels: Whether to take labels and texts as well.
    """

    extensions: tuple[str, ...]
    image: str | None = None
    labels: bool = True

    @property
    def column(self) -> str:
        """The column of the images."""
        return self.image or "image"


def load_shards(
    files: Mapping[str, Sequence[str | Path]], fields: Fields, streaming: bool = False
) -> dict[str, Dataset | IterableDataset]:
    """Loads or opens shards.

    Args:
        files: Split → its .tar files, or their addresses.
        fields: What to take.
        streaming: Whether to open them only.

    Returns:
        Split → data set with a column of images, whichever of the endings they have; `cls` and
        `txt`; and what is in `json`.

    Raises:
        ValueError: a shard is cut off, or a sample has several images, or none has any.
    """
    splits = {}
    for split, own in files.items():
        splits[split] = _load_split([_describe_shard(file) for file in own], fields, streaming)
    return splits


def _load_split(shards: list[Shard], fields: Fields, streaming: bool) -> Dataset | IterableDataset:
    try:
        first = list(itertools.islice(read_samples(shards[:1], fields), _SAMPLES_TO_LOOK_AT))
    except BadImageError as error:
        raise ValueError(str(error)) from error
    features = _find_features(first, fields, shards[0])
    given = {"shards": shards, "fields": fields, "features": features}
    if streaming:
        return IterableDataset.from_generator(_read_rows, features=features, gen_kwargs=given)
    try:
        loaded = Dataset.from_generator(_read_rows, features=features, gen_kwargs=given)
    except DatasetGenerationError as error:
        raise ValueError(str(error.__cause__ or error)) from error
    return _with_numbers(cast(Dataset, loaded))


def _with_numbers(dataset: Dataset) -> Dataset:
    """Makes numbers of labels that are whole numbers in all samples; 007 is a name."""
    for name, feature in dataset.features.items():
        if name.rsplit(".", 1)[-1].lower() in _TEXTS and feature == Value("string"):
            texts = [text for text in dataset.unique(name) if text is not None]
            if texts and all(_WHOLE.fullmatch(text) for text in texts):
                dataset = dataset.cast_column(name, Value("int64"))
    return dataset


def _describe_shard(file: str | Path) -> Shard:
    """Looks at the end of a shard, whether it is whole."""
    path = str(file)
    if "://" in path:
        return path, ""
    size = os.path.getsize(path)
    with open(path, "rb") as data:
        data.seek(max(0, size - 2 * _BLOCK))
        ended = not data.read().strip(b"\0")
    if not ended or size < 2 * _BLOCK:  # some tars end with the last file
        try:
            for _ in _read_members(path, with_data=False):
                pass
        except BadImageError as error:
            raise ValueError(str(error)) from error
    return os.path.abspath(path), f"{os.stat(path).st_mtime_ns}-{size}"


def _find_features(samples: Sequence[dict], fields: Fields, shard: Shard) -> Features:
    """The columns of all shards, by the first one's first samples."""
    features = Features({fields.column: ImageFeature(decode=False)})
    if not any(sample[fields.column] for sample in samples):
        endings = ", ".join(fields.extensions) if fields.image is None else f".{fields.image}"
        raise ValueError(
            f"none of the first {len(samples)} samples of {printable(shard[0])} has an image "
            f"({endings})"
        )
    others = [{**sample, fields.column: None} for sample in samples]
    try:
        found = Dataset.from_list(others).features
    except (TypeError, ValueError) as error:  # Arrow's are
        raise ValueError(
            f"the samples of {printable(shard[0])} have values of several kinds in one field of "
            f"their json: {error}"
        ) from error
    for name, feature in found.items():
        if name != fields.column and getattr(feature, "dtype", "") != "null":
            features[name] = feature
    return features


def _read_rows(shards: list[Shard], fields: Fields, features: Features) -> Iterator[dict]:
    """Yields samples with the columns that there are."""
    for sample in read_samples(shards, fields):
        for name, feature in features.items():
            whole = getattr(feature, "dtype", "").startswith("int")
            if whole and not isinstance(sample.get(name, 0), int | None):
                raise BadImageError(
                    f"{name} is {sample[name]!r} in a sample of the shards and a whole number in "
                    "the first ones; it must be of one kind"
                )
        yield {name: sample.get(name) for name in features}


def read_samples(shards: Sequence[Shard], fields: Fields) -> Iterator[dict[str, Any]]:
    """Yields what is in shards, sample by sample.

    Raises:
        BadImageError: a shard is cut off or damaged; a sample has several images, or a link to a
            file that doesn't stand before it.
    """
    for path, _ in shards:
        key, sample = None, {}
        for name, data in _read_members(path):
            match = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]+)", name)
            if match is None:  # hidden, or without an ending
                continue
            if match[1] != key and key is not None:
                yield {fields.column: None, **sample}
            if match[1] != key:
                key, sample = match[1], {}
            try:
                _add_field(sample, fields, match[2], name, data)
            except ValueError as error:
                raise BadImageError(f"{printable(path)}: {name}: {error}") from error
        if key is not None:
            yield {fields.column: None, **sample}


def _add_field(
    sample: dict[str, Any], fields: Fields, ending: str, name: str, data: bytes | None
) -> None:
    """Takes one file of a sample, if it is an image, or a label or text that is wanted."""
    kind = ending.lower().rsplit(".", 1)[-1]
    is_image = f".{kind}" in fields.extensions
    if not is_image and not (fields.labels and kind in (*_TEXTS, *_MAPPINGS)):
        return
    if data is None:
        raise ValueError(
            "it is a link to a file that doesn't stand before it; pack the files themselves "
            "(tar --dereference --hard-dereference)"
        )
    if is_image:
        if fields.image in (None, "image", ending, ending.lower()):
            if fields.column in sample:
                raise ValueError(
                    f"the sample has another image, {sample[fields.column]['path']}; name the "
                    "ending of those that are meant by image_column"
                )
            sample[fields.column] = {"bytes": data, "path": name}
    elif kind in _TEXTS:
        sample[ending] = data.decode("utf-8").strip()
    else:
        content = json.loads(data)
        named = content if isinstance(content, dict) else {ending: content}
        for column, value in named.items():
            if column != fields.column:
                sample[column] = value


def _read_members(path: str, with_data: bool = True) -> Iterator[tuple[str, bytes | None]]:
    """Yields (name, data) of the files in a tar file, and of links to those before them.

    The data of a link to something else is None.

    Raises:
        BadImageError: it is cut off or damaged.
    """
    name, files = "its start", {}
    with fsspec.open(path, "rb") if "://" in path else open(path, "rb") as opened:
        file = cast(IO[bytes], opened)
        _refuse_packed(file, path)
        try:
            with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
                while (member := tar.next()) is not None:
                    name = printable(member.name)
                    tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] (it keeps them)
                    if member.isfile():
                        files[_way(member.name)] = member
                    elif not (member.islnk() or member.issym()):
                        continue
                    if os.path.basename(name).startswith("."):
                        continue
                    target = files.get(_target(member))
                    data = tar.extractfile(target) if target and with_data else None
                    yield name, data.read() if data else None
                whole = _ends_at(file, tar.offset)
                file.seek(0, os.SEEK_END)
                if whole and file.tell() == tar.offset:
                    _say_unmarked(path, name)
        except (tarfile.TarError, EOFError) as error:
            raise BadImageError(_cut_off(path, name)) from error
    if not whole:
        raise BadImageError(_cut_off(path, name))


def _refuse_packed(file: IO[bytes], path: str) -> None:
    start = file.read(_BLOCK)
    file.seek(0)
    for mark, (kind, command) in _PACKED.items():
        if start.startswith(mark):
            raise BadImageError(
                f"{printable(path)} is no plain tar file but {kind}; shards are read where they "
                f"lie, so unpack it first ({command})"
            )


def _target(member: tarfile.TarInfo) -> str:
    """The way to the file that a member is: itself, or what it links to."""
    if member.issym():
        return _way(os.path.join(os.path.dirname(member.name), member.linkname))
    return _way(member.linkname if member.islnk() else member.name)


def _way(name: str) -> str:
    return os.path.normpath(name)


def _ends_at(file: IO[bytes], offset: int) -> bool:
    """Whether a tar file ends there: by nothing but zeros, or with the last of its files."""
    file.seek(0, os.SEEK_END)
    size = file.tell()
    file.seek(offset)
    block = file.read(_BLOCK)
    if not block:
        return offset == size
    while block and not block.strip(b"\0"):  # to the end, for what follows would be lost
        block = file.read(_MANY_BLOCKS)
    return not block


def _say_unmarked(path: str, name: str) -> None:
    logger.warning_once(
        f"{printable(path)} has no mark at its end, as tar files have: it may have been cut off "
        f"after {name}"
    )


def _cut_off(path: str, name: str) -> str:
    return f"{printable(path)} is cut off or damaged after {name}; copy it anew, or take it out"
