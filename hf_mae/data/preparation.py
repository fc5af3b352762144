# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""A data set of any kind → shards of small images, made once so that training reads them fast.

Rows are read here, and their images shrunk by worker processes; shards are written here, in the
rows' order. So the result is the same whatever the number of workers. A run that was killed goes on
behind the last shard that is finished.
"""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetInfo, Features
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData
from tqdm import tqdm

from ..file_names import printable
from ..models.picture_size import MAX_IMAGE_PIXELS, check_limit
from ..output_folder import BAD_IMAGES_FILE, CARD_FILE
from ..whole_numbers import MOST_WORKERS
from .columns import Split, digest, unify_columns
from .data_files import digest_files
from .folders import describe_left_out
from .prepared_folder import FINISHED, SplitSummary, Target, alone, begin, write_json, writing
from .prepared_shards import SHARDS
from .shrinking_workers import Workers, read_rows
from .sources import load_every_split
from .streaming import open_every_split


_PATTERN_MARKS = "*?[]"  # in names of folders, for datasets


@dataclass(frozen=True)
class Preparation:
    """A prepared set.

    Attributes:
        output_dir: Its folder.
        splits: Name → what became of it.
        features: Of its columns.
        left_out: What is said of files that weren't read.
        was_finished: Whether an earlier run had made it.
    """

    output_dir: Path
    splits: dict[str, SplitSummary]
    features: Features
    left_out: list[str]
    was_finished: bool


def prepare_dataset(
    output_dir: str | os.PathLike,
    dataset_name: str | None = None,
    dataset_config: str | None = None,
    train_dir: str | os.PathLike | None = None,
    validation_dir: str | os.PathLike | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    streaming: bool = False,
    shortest_edge: int = 512,
    file_format: str = "parquet",
    quality: int = 90,
    images_per_shard: int = 1000,
    num_proc: int = 1,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
) -> Preparation:
    """Writes a data set of any kind as shards of images whose shortest edge is at most so long.

    All splits, labels and other columns stay, and the images' names, from the folder given.
    `shrink_image` says what becomes of the images; those that can't be read are left out and listed
    in bad_images.tsv. Where it stopped, the same call goes on.

    Args:
        output_dir: A new folder, or the one of the run that stopped.
        dataset_name, dataset_config, train_dir, validation_dir, image_column, label_column: As for
            `load_every_split`.
        streaming: Whether to read tables and tar shards, here or on the Hub, as they are needed.
        shortest_edge: Pixels; smaller images aren't enlarged.
        file_format: "parquet" or "webdataset".
        quality: Of JPEG, 1 to 100. Files at 90 are two thirds of those at 95.
        images_per_shard: Rows of the source that become a shard.
        num_proc: Worker processes; the result is the same for any number.
        max_image_pixels: Larger images are decoded at reduced scale, if they can be, or not at all.

    Raises:
        ValueError: something isn't there or can't be read, or the folder holds something else.

    Example:

    >>> import tempfile
    >>> prepared = prepare_dataset(tempfile.mkdtemp(), "digits", shortest_edge=16)
    >>> prepared.splits["train"].images
    1797
    """
    options: dict[str, Any] = {
        **{"streaming": streaming, "shortest_edge": shortest_edge, "quality": quality},
        **{"file_format": file_format, "images_per_shard": images_per_shard},
    }
    _check_options({**options, "num_proc": num_proc})
    check_limit(max_image_pixels)
    if max_image_pixels != MAX_IMAGE_PIXELS:
        options["max_image_pixels"] = max_image_pixels
    source: dict[str, Any] = {
        "dataset_name": dataset_name,
        "dataset_config": dataset_config,
        "train_dir": train_dir,
        "validation_dir": validation_dir,
        "image_column": image_column,
        "label_column": label_column,
    }
    output = Path(output_dir).expanduser()
    roots = _find_roots(source)
    _check_place(output, source)
    found = _open(source, streaming)
    left_out = list(filter(None, map(describe_left_out, found.values())))
    splits, features = unify_columns(found)
    facts: dict[str, Any] = {"source": {}, **options, "splits": {}}
    for name, value in source.items():
        facts["source"][name] = _absolute(value)
    for name, split in splits.items():
        facts["splits"][name] = _describe(split)
        if streaming:
            facts["splits"][name]["files"] = digest_files(str(dataset_name), dataset_config)
    with alone(output):
        finished = begin(output, facts)
        if finished is not None:
            return Preparation(output, finished, features, left_out, was_finished=True)
        with writing(output):
            (output / "data").mkdir(exist_ok=True)
        shrinking = {"shortest_edge": shortest_edge, "quality": quality}
        shrinking["max_image_pixels"] = max_image_pixels
        with Workers(num_proc, **shrinking) as workers, _progress_bar(splits) as bar:
            summaries = {}
            for name, split in splits.items():
                own_root = "validation_dir" if name == "validation" else ""
                root = roots.get(own_root, roots.get("data"))
                target = Target(output, name, file_format, features, images_per_shard)
                summaries[name] = _write_split(split, root, target, workers, bar)
        _finish(output, facts, features, summaries)
    return Preparation(output, summaries, features, left_out, was_finished=False)


def _check_options(options: Mapping[str, Any]) -> None:
    for name in ("shortest_edge", "images_per_shard", "num_proc"):
        if options[name] < 1:
            raise ValueError(f"{name} is {options[name]}; it must be at least 1")
    if options["num_proc"] > MOST_WORKERS:
        raise ValueError(f"num_proc is {options['num_proc']}; it must be at most {MOST_WORKERS:,}")
    if not 1 <= options["quality"] <= 100:
        raise ValueError(f"quality is {options['quality']}; it must be from 1 to 100")
    if options["file_format"] not in SHARDS:
        raise ValueError(
            f"file_format is {options['file_format']!r}; it must be one of {', '.join(SHARDS)}"
        )


# where from and where to -------------------------------------------------------------------------


def _open(source: Mapping[str, Any], streaming: bool) -> dict[str, Any]:
    if not streaming:
        return load_every_split(**source)
    for name in ("train_dir", "validation_dir", "label_column"):
        if source[name] is not None:
            raise ValueError(f"{name} can't be taken from a stream; leave streaming away")
    names = ("dataset_name", "dataset_config", "image_column")
    return open_every_split(**{name: source[name] for name in names})


def _absolute(value: Any) -> Any:
    """The value, as JSON has it; of what is here the whole path."""
    if isinstance(value, (str, os.PathLike)) and os.path.exists(os.path.expanduser(value)):
        return printable(os.path.abspath(os.path.expanduser(value)))
    if isinstance(value, os.PathLike):
        return printable(value)
    return value if value is None or isinstance(value, str) else list(value)


def _describe(split: Split) -> dict[str, Any]:
    if isinstance(split, Dataset):
        return {"rows": len(split), "digest": digest(split)}
    return {"columns": list(split.features or {})}


def _find_roots(source: Mapping[str, Any]) -> dict[str, Path]:
    """Finds the folders that names start from: of the data, and of `validation_dir`."""
    roots = {}
    data = source["train_dir"] or source["dataset_name"]
    if data is not None and os.path.exists(os.path.expanduser(data)):
        path = Path(os.path.abspath(os.path.expanduser(data)))
        roots["data"] = path if path.is_dir() else path.parent
    if source["validation_dir"] is not None:
        roots["validation_dir"] = Path(
            os.path.abspath(os.path.expanduser(source["validation_dir"]))
        )
    return roots


def _check_place(output: Path, source: Mapping[str, Any]) -> None:
    """Refuses an output folder among what is read, or one that can't be loaded."""
    place = output.resolve()
    for name in ("train_dir", "validation_dir", "dataset_name"):
        if source[name] is None:
            continue
        folder = Path(source[name]).expanduser()
        if folder.is_dir() and folder.resolve() in (place, *place.parents):
            raise ValueError(
                f"output_dir {printable(output)} lies in {name} {printable(folder)}, which is "
                "read; name a folder beside it"
            )
    if set(_PATTERN_MARKS) & set(str(place)):
        raise ValueError(
            f"output_dir {printable(output)}: datasets takes brackets, * and ? in its name for a "
            "pattern; name another"
        )
    if output.exists() and not output.is_dir():
        raise ValueError(f"output_dir {printable(output)} is a file; name a folder")


# one split ---------------------------------------------------------------------------------------


def _write_split(
    split: Split, root: Path | None, target: Target, workers: Workers, bar: tqdm
) -> SplitSummary:
    notes = target.read_notes()
    start = sum(note.rows for note in notes)
    bar.update(start)
    samples = enumerate(workers.shrink(read_rows(split, start, root)), start)
    while not notes or notes[-1].rows == target.images_per_shard:  # else it is at its end
        own = itertools.islice(samples, target.images_per_shard)
        notes.append(_write_shard(own, len(notes), target, bar))
    whole = SplitSummary()
    for note in notes:
        whole.include(note)
    return whole


def _write_shard(samples: Iterator[Any], number: int, target: Target, bar: tqdm) -> SplitSummary:
    """Writes a shard, if there are images for it, and then what became of them."""
    summary, writer = SplitSummary(), None
    for row_number, (row, name, image) in samples:
        summary.add(row_number, name, image)
        bar.update(1)
        if isinstance(image, str):
            continue
        with writing(target.output):
            if writer is None:
                writer = SHARDS[target.file_format](target.partial(number), target.features)
            writer.add(row, name, row_number, image)
    with writing(target.output):
        if writer is not None:
            writer.close()
            shard = target.shard(number)
            os.replace(target.partial(number), shard)
            summary.shards.append((shard.name, shard.stat().st_size))
        write_json(target.note(number), asdict(summary))
    return summary


def _progress_bar(splits: Mapping[str, Split]) -> tqdm:
    total = 0
    for split in splits.values():
        known = len(split) if isinstance(split, Dataset) else None
        total = None if total is None or known is None else total + known
    return tqdm(total=total, unit=" images", desc="preparing")


# the end -----------------------------------------------------------------------------------------


def _finish(
    output: Path,
    facts: dict[str, Any],
    features: Features,
    summaries: dict[str, SplitSummary],
) -> None:
    bad = sum(len(summary.bad) for summary in summaries.values())
    if not any(summary.images for summary in summaries.values()):
        if not bad:
            raise ValueError("there are no images")
        _, name, why = next(own.bad[0] for own in summaries.values() if own.bad)
        raise ValueError(f"none of the {bad:,} images can be read, as {name}: {why}")
    with writing(output):
        if bad:
            lines = []
            for split, summary in summaries.items():
                lines += [f"{split}\t{row}\t{name}\t{why}\n" for row, name, why in summary.bad]
            (output / BAD_IMAGES_FILE).write_text("".join(lines), encoding="utf-8")
        _write_card(output, facts, features, summaries)
        counts = {split: asdict(summary) for split, summary in summaries.items()}
        write_json(output / FINISHED, {"facts": facts, "splits": counts})


def _write_card(
    output: Path,
    facts: dict[str, Any],
    features: Features,
    summaries: dict[str, SplitSummary],
) -> None:
    """Writes README.md, by which datasets finds splits and classes."""
    there = {name: summary for name, summary in summaries.items() if summary.images}
    data_files = []
    for name in there:
        data_files.append({"split": name, "path": f"data/{name}-*"})
    about = DatasetCardData()
    MetadataConfigs({"default": {"data_files": data_files}}).to_dataset_card_data(about)
    if facts["file_format"] == "parquet":
        splits = {}
        for name, summary in there.items():
            splits[name] = SplitInfo(name, num_bytes=summary.bytes, num_examples=summary.images)
        info = DatasetInfo(features=features, splits=SplitDict(splits))
        DatasetInfosDict({"default": info}).to_dataset_card_data(about)
    lines = []
    for name, summary in there.items():
        mixture = summary.describe_mixture()
        also = f"; {mixture}" if mixture else ""
        lines.append(f"- {name}: {summary.images:,} images{also}")
    text = (
        f"Images with a shortest edge of at most {facts['shortest_edge']} pixels, JPEG of quality "
        f"{facts['quality']} where they were larger; prepared by hf_mae.\n\n" + "\n".join(lines)
    )
    DatasetCard(f"---\n{about}\n---\n\n{text}\n").save(output / CARD_FILE)
