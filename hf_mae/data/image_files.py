# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The files of folders of images: which are images, and what else lies there."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from ..file_names import printable
from ..models.picture_files import extra_that_reads, readable_endings


IMAGE_EXTENSIONS = frozenset(readable_endings())
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # as datasets' imagefolder


@dataclass
class Contents:
    """What lies in a folder and those below it, but for what is hidden.

    Attributes:
        images: Their files, in the order of their names.
        metadata: Tables that say something of the images.
        others: All other files.
    """

    images: list[str] = field(default_factory=list)
    metadata: list[Path] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def read_contents(folder: Path, by_class: bool = False) -> Contents:
    """Lists what lies in a folder.

    datasets' own loader takes minutes for a million files, makes a split of a class called "test"
    and numbers the images in the disk's order.

    Args:
        folder: The folder.
        by_class: Whether its folders are classes: two that link to one place both have its images,
            which else come once.
    """
    contents = Contents()
    for file in sorted(find_files(folder, by_class)):
        name = os.path.basename(file)
        if is_image(name):
            contents.images.append(file)
        elif name in METADATA:
            contents.metadata.append(Path(file))
        else:
            contents.others.append(file)
    return contents


def is_image(file: str) -> bool:
    """Whether a file is an image by its ending."""
    return os.path.splitext(file)[1].lower() in IMAGE_EXTENSIONS


def find_files(folder: Path, by_class: bool) -> Iterator[str]:
    """Yields the files below a folder: nothing hidden, and no link in a circle.

    Raises:
        ValueError: a folder can't be read.
    """
    visited: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True, onerror=refuse_folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if by_class and Path(root).parent == folder:
            visited = {os.path.realpath(folder)}
        if os.path.realpath(root) in visited:
            folders.clear()
            continue
        visited.add(os.path.realpath(root))
        for name in names:
            if not name.startswith("."):
                yield os.path.join(root, name)


def refuse_folder(error: OSError) -> NoReturn:
    """Says of a folder that it can't be read, and what to do."""
    raise ValueError(
        f"{printable(error.filename)} can't be read ({error.strerror}); give yourself the right to "
        "read it, or take it out"
    ) from error


def describe_files(files: Sequence[str]) -> str:
    """Counts files by their endings: `3 files left out: 2 .heic, 1 .txt`."""
    if not files:
        return ""
    names = [os.path.basename(file) for file in files]
    visible = [name for name in names if not name.startswith(".")]
    endings = Counter(printable(os.path.splitext(name)[1].lower()) for name in visible)
    ranked = sorted(endings.items(), key=lambda pair: (-pair[1], pair[0]))
    counts = [f"{count:,} {ending or 'without an ending'}" for ending, count in ranked[:8]]
    more = f" and {len(ranked) - 8} more endings" if len(ranked) > 8 else ""
    noun = "file" if len(visible) == 1 else "files"
    extras = sorted(filter(None, {extra_that_reads(ending) for ending in endings}))
    hint = f'; pip install "hf-mae[{",".join(extras)}]" to read them' if extras else ""
    return f"{len(visible):,} {noun} left out: {', '.join(counts)}{more}{hint}"
