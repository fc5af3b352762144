# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Which files are a data set: of what lies in a folder here, or in a repository on the Hub."""

import contextlib
import glob
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import datasets
from datasets import Dataset, DatasetDict, IterableDataset
from datasets import config as datasets_config
from datasets.exceptions import DatasetNotFoundError
from datasets.packaged_modules.webdataset.webdataset import WebDataset
from huggingface_hub import DatasetCard, constants
from transformers.utils import logging

from ..file_names import printable
from ..models.network import why_no_hub
from .damaged_files import naming_files
from .folders import load_image_folder
from .image_files import IMAGE_EXTENSIONS, describe_files, find_files, read_contents
from .row_names import remember_files
from .shards import Fields, load_shards
from .split_names import find_split_column, split_by_column, split_files
from .tables import TABLE_EXTENSIONS, load_tables, names_files


logger = logging.get_logger(__name__)
_SHARDS = (".tar",)
_TABLES_TO_LOOK_AT = 5
_SHARDS_OF_IMAGES = 64  # of a stream of files
_OF_DATASETS = ("dataset_info.json", "dataset_infos.json", "config.json")  # not rows


def can_be_read(file: Path) -> bool:
    """Whether it is a file that is a data set by itself: a table or a shard."""
    return file.is_file() and file.suffix.lower() in (*TABLE_EXTENSIONS, *_SHARDS)


def load_local(
    path: Path,
    config: str | None = None,
    labels: bool = False,
    image_column: str | None = None,
    label_columns: Sequence[str] = (),
    streaming: bool = False,
    whole: bool = False,
) -> dict[str, Any]:
    """Loads a data set from a file or folder here that wasn't saved by `save_to_disk`.

    Args:
        path: A table (.parquet, .arrow, .csv, .tsv, .json, .jsonl), a .tar shard, or a folder of
            these or of images.
        config: Configuration that the folder's README.md describes.
        labels: Whether labels are needed.
        image_column: Column of the images, of shards their ending, if it was named.
        label_columns: Columns of the labels, if they were named.
        streaming: Whether to open tables and shards only.
        whole: Whether to load all splits and columns, of a folder of images as
            `load_image_folder` does, of a stream with labels and texts.

    Returns:
        Split → data set.

    Raises:
        ValueError: there is nothing that can be read, or it isn't clear what is a split.
    """
    if path.is_file():
        loaded = _load_files({"train": [path]}, image_column, streaming, whole)
        return _split_rows(loaded, path, label_columns)
    if config is not None or _describes_itself(path):
        return _load_as_described(path, config, image_column, streaming, whole)
    contents = read_contents(path)
    files = [Path(file) for file in contents.others if os.path.basename(file) not in _OF_DATASETS]
    data_files = _find_data_files(files, image_column, bool(contents.images))
    if data_files:
        rest = [str(file) for file in files if file not in data_files]
        rest += [*map(str, contents.metadata)]
        inside = bool(contents.images) and _are_inside(data_files)
        _say_left_out(path, rest, contents.images if inside else [])
        loaded = _load_files(split_files(path, data_files), image_column, streaming, whole)
        return _split_rows(loaded, path, label_columns)
    if contents.images:
        splits = load_image_folder(path, "dataset_name", labels, label_columns, whole)
        return {split: _as_stream(own) for split, own in splits.items()} if streaming else splits
    loaded = _load_as_described(path, config, image_column, streaming, whole)
    if len(loaded) > 1:
        logger.warning(f"datasets found the splits of {printable(path)}: {', '.join(loaded)}")
    return loaded


def _split_rows(loaded: dict[str, Any], path: Path, label_columns: Sequence[str]) -> dict[str, Any]:
    """Sorts the rows of files that are of no split by a column that names one."""
    if list(loaded) != ["train"]:
        return loaded
    table = loaded["train"]
    if isinstance(table, Dataset):
        return split_by_column(table, printable(path), label_columns)
    column = find_split_column(list(table.features or {}))
    if column is not None:
        logger.warning(
            f"{printable(path)}: the column {column!r} makes no splits of a stream: all rows are "
            "read; put those of each split into files of their own"
        )
    return loaded


def _as_stream(dataset: Dataset) -> IterableDataset:
    return dataset.to_iterable_dataset(num_shards=min(_SHARDS_OF_IMAGES, len(dataset)))


def _find_data_files(files: Sequence[Path], image_column: str | None, images: bool) -> list[Path]:
    """Finds the shards or tables of a folder; beside images, text only if it names their files."""
    for extensions in (_SHARDS, (".parquet",), (".arrow",)):
        found = [file for file in files if file.suffix.lower() in extensions]
        if found:
            return found
    for extension in (".csv", ".tsv", ".jsonl", ".json"):
        found = [file for file in files if file.suffix.lower() == extension]
        if images:
            found = [file for file in found if names_files(file)]
        if found:
            return found
    return []


def _are_inside(data_files: Sequence[Path]) -> bool:
    """Whether images come in the files themselves, not beside them."""
    kind = data_files[0].suffix.lower()
    return kind in _SHARDS or not any(map(names_files, data_files[:_TABLES_TO_LOOK_AT]))


def _say_left_out(folder: Path, files: Sequence[str], images: Sequence[str]) -> None:
    documents = (".md", ".txt", ".gitattributes", ".yaml", "")
    other = [file for file in files if os.path.splitext(file)[1].lower() not in documents]
    if other or images:
        logger.warning(f"{printable(folder)}: {describe_files([*other, *images])}")


def _load_files(
    files: dict[str, list[Path]], image_column: str | None, streaming: bool, whole: bool
) -> dict[str, Any]:
    first = next(iter(files.values()))[0]
    if first.suffix.lower() in _SHARDS:
        return load_shards(files, _fields(image_column, whole or not streaming), streaming)
    return load_tables(files, streaming)


def _describes_itself(folder: Path) -> bool:
    """Whether a README.md says which files are which split."""
    readme = folder / "README.md"
    if not os.path.isfile(readme):
        return False
    data = DatasetCard.load(readme, ignore_metadata_errors=True).data.to_dict()
    return bool(data.get("configs") or data.get("dataset_info"))


def _load_as_described(
    folder: Path, config: str | None, image_column: str | None, streaming: bool, whole: bool
) -> dict[str, Any]:
    """Has datasets find the files, by the folder's README.md or as it does."""
    if glob.has_magic(str(folder.resolve())):
        raise ValueError(
            f"dataset_name {printable(folder)}: datasets takes the brackets, * or ? in its name "
            "for a pattern; rename it, or name a file in it"
        )
    with naming_files(folder):
        return _load_by_datasets(str(folder), config, image_column, streaming, whole)


def load_from_hub(
    name: str,
    config: str | None,
    image_column: str | None,
    streaming: bool = False,
    whole: bool = False,
) -> dict[str, Any]:
    """Loads a data set from the Hub, or from the cache where the Hub doesn't answer.

    Args:
        name: A Hub id.
        config, image_column, streaming, whole: As for `load_local`.

    Raises:
        ValueError: there is none; or the Hub doesn't answer, and the cache doesn't have it.
    """
    reason = why_no_hub()
    missing = (DatasetNotFoundError, FileNotFoundError, ConnectionError)
    try:
        if reason is None:
            return _load_by_datasets(name, config, image_column, streaming, whole)
        with _asking_no_hub():
            loaded = _load_by_datasets(name, config, image_column, streaming, whole)
    except missing as error:
        says = f"the Hub says: {error}"
        if reason is not None:
            says = (
                f"the Hub can't be reached ({reason}), nor does the cache have it; name what is on "
                "this machine, or fill the cache where there is a network and set HF_HUB_OFFLINE=1"
            )
        raise ValueError(
            f"dataset_name {name!r} is not a folder or table here, nor 'digits', and {says}"
        ) from error
    if not constants.HF_HUB_OFFLINE:
        logger.warning(f"the Hub can't be reached ({reason}); {name} is taken from the cache")
    return loaded


@contextlib.contextmanager
def _asking_no_hub() -> Iterator[None]:
    """Has datasets take what its cache has."""
    before = constants.HF_HUB_OFFLINE, datasets_config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets_config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets_config.HF_HUB_OFFLINE = before


def _load_by_datasets(
    name: str,
    config: str | None,
    image_column: str | None,
    streaming: bool = False,
    whole: bool = False,
) -> dict[str, Any]:
    """Has datasets find the files of a data set; tar shards are read as those here.

    Args:
        name: A Hub id or folder.
        config, image_column, streaming, whole: As for `load_local`.
    """
    builder = datasets.load_dataset_builder(name, config)
    data_files = builder.config.data_files
    if isinstance(builder, WebDataset) and isinstance(data_files, dict):
        files = {str(split): list(own) for split, own in data_files.items()}
        return load_shards(files, _fields(image_column, whole or not streaming), streaming)
    loaded = datasets.load_dataset(name, config, streaming=streaming)
    return {str(split): own for split, own in cast(dict, loaded).items()}


def load_saved(path: Path) -> Dataset | DatasetDict:
    """Loads what `save_to_disk` has saved.

    Raises:
        ValueError: it can't be read; the message names the file that is damaged.
    """
    with naming_files(path):
        loaded = datasets.load_from_disk(path)
    splits = loaded if isinstance(loaded, DatasetDict) else {"": loaded}
    for split, dataset in splits.items():
        remember_files(dataset, {printable(path / str(split)): len(dataset.data)})
    return loaded


def digest_files(name: str, config: str | None) -> str:
    """A digest of what a stream reads, without reading it: of names here with sizes and times.

    Of a data set on the Hub they are addresses that hold its commit.

    Args:
        name: A Hub id, or a folder or file here.
        config: Of its configurations.
    """
    found = hashlib.sha256()
    path = Path(name).expanduser()
    if not path.exists():
        data_files = datasets.load_dataset_builder(name, config).config.data_files or {}
        for split, files in dict(data_files).items():
            found.update(json.dumps([str(split), *map(str, files)]).encode())
        return found.hexdigest()
    for file in sorted(find_files(path, by_class=False)) if path.is_dir() else [str(path)]:
        state = os.stat(file)
        about = (printable(os.path.relpath(file, path)), state.st_size, state.st_mtime_ns)
        found.update(json.dumps(about).encode())
    return found.hexdigest()


def _fields(image_column: str | None, labels: bool) -> Fields:
    return Fields(tuple(sorted(IMAGE_EXTENSIONS)), image_column, labels)
