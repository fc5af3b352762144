# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Pictures of an evaluation: what is confused with what, and the worst mistakes."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font
from PIL import Image
from transformers.utils import logging

from ..data.decoding import whole_pixels
from ..data.samples import ImageSamples
from ..errors import ImageDecodeError
from ..models.pictures import to_8_bits


_CLASSES = 30  # that a matrix shows legibly
_COLUMNS = 5  # of mistakes
_SIDE = 160  # pixels of a mistake's longer side
_LABEL = 24  # letters of a name

logger = logging.get_logger(__name__)


def confusion_picture(matrix: np.ndarray, names: Sequence[str]) -> Figure:
    """Draws how many images of each class (row) got each answer (column).

    Classes that no image has and none is taken for are left out; of more than 30 those are shown
    that are confused most, and the title says so.

    Args:
        matrix: (K, K) counts.
        names: K names.
    """
    occurring = np.flatnonzero(matrix.sum(axis=0) + matrix.sum(axis=1))
    wrong = matrix - np.diag(matrix.diagonal())
    confused = (wrong.sum(axis=0) + wrong.sum(axis=1))[occurring]
    shown = np.sort(occurring[np.argsort(-confused, kind="stable")[:_CLASSES]])
    counts = matrix[np.ix_(shown, shown)]
    images = np.maximum(matrix[shown].sum(axis=1, keepdims=True), 1)  # (S, 1)
    labels = [shorten(name) for number, name in enumerate(names) if number in shown]

    side = 0.42 * len(shown)
    longest = 0.08 * max(map(len, labels))
    figure = Figure(figsize=(max(4.6, side + longest + 1.6), max(3.4, side + longest + 1.2)))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    axis.imshow(counts / images, cmap="Blues", vmin=0, vmax=1)
    text = _text_options(labels)
    axis.set_xticks(range(len(shown)), labels, rotation=90, **text)
    axis.set_yticks(range(len(shown)), labels, **text)
    axis.set_xlabel("answer")
    axis.set_ylabel("class")
    for row, column in zip(*np.nonzero(counts)):
        share = counts[row, column] / images[row, 0]
        colour = "white" if share > 0.5 else "black"
        axis.text(
            column, row, _count(int(counts[row, column])), ha="center", va="center", color=colour,
            fontsize=7,
        )  # fmt: skip
    title = "images of each class, by answer"
    if len(shown) < len(occurring):
        title = f"the {len(shown)} of {len(occurring):,} classes that are confused most"
    figure.suptitle(title, fontsize=10)
    return figure


def mistakes_picture(rows: Sequence[dict[str, Any]], count: int, samples: ImageSamples) -> Figure:
    """Draws the images of mistakes, in the order of mistakes.csv, with what was answered.

    Args:
        rows: Of `mistake_rows`, the first.
        count: How many there are in all.
        samples: The data set whose rows they are.
    """
    columns = min(_COLUMNS, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(max(3.6, 1.9 * columns), 2.35 * lines + 0.5), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    captions = [_caption(row) for row in rows]
    text = _text_options(captions)
    for axis in axes:
        axis.set_axis_off()
    for axis, row, caption in zip(axes, rows, captions):
        picture = _thumbnail(samples, row["place"])
        if picture is None:
            caption = f"{caption}\n(gone)"
        else:
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_title(caption, fontsize=8, **text)
    noun = "mistake" if count == 1 else "mistakes"
    worst = f"the worst {len(rows)} of {count:,} {noun}" if len(rows) < count else f"{count} {noun}"
    figure.suptitle(worst, fontsize=10)
    return figure


def scatter_picture(targets: np.ndarray, values: np.ndarray, name: str) -> Figure:
    """Draws predicted values (N,) over those that they should be, (N,)."""
    figure = Figure(figsize=(4.4, 4.2), layout="constrained")
    axis = figure.subplots()
    ends = [min(targets.min(), values.min()), max(targets.max(), values.max())]
    axis.plot(ends, ends, color="grey", linewidth=1)
    axis.scatter(targets, values, s=9, alpha=0.5, linewidths=0)
    text = _text_options([name])
    axis.set_xlabel(shorten(name, 40), **text)
    axis.set_ylabel("answer")
    axis.set_title(f"{len(targets):,} images; on the line the answer is right", fontsize=9)
    return figure


def save_picture(figure: Figure, file: Path) -> None:
    """Writes a picture; letters that no font has were reported when it was drawn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(file, dpi=100)


def shorten(name: str, length: int = _LABEL) -> str:
    """Writes a name in a line of so many letters, its middle left out.

    Example:

    >>> shorten("a name of which there is no end\\nto be seen", 12)
    'a name…e seen'
    """
    line = " ".join(name.split())
    if len(line) <= length:
        return line
    half = length // 2
    return f"{line[:half]}…{line[-half:]}"


def _count(number: int) -> str:
    return f"{number}" if number < 10_000 else f"{number / 1000:.0f}k"


def _caption(row: dict[str, Any]) -> str:
    if "has_it" in row:
        truth = "has it" if row["has_it"] else "hasn't"
        return f"{shorten(row['label'])}\n{row['score']:.1%}, {truth}"
    if "error" in row:
        return f"{row['answer']:.4g}\nis {row['value']:.4g}"
    return f"{shorten(row['answer'])}, {row['score']:.1%}\nis {shorten(row['class'])}"


def _thumbnail(samples: ImageSamples, place: int) -> np.ndarray | None:
    """(h, w) or (h, w, 3) of 8 bits; None if the image can't be read any more."""
    try:
        pixels = whole_pixels(samples.open(samples.dataset[place]))
    except ImageDecodeError:
        return None
    shown = to_8_bits(pixels if pixels.shape[2] == 3 else pixels.mean(axis=2))
    picture = Image.fromarray(np.ascontiguousarray(shown))
    if max(picture.size) > _SIDE:
        picture.thumbnail((_SIDE, _SIDE))
    return np.array(picture)


def _text_options(texts: Iterable[str]) -> dict[str, Any]:
    """How names of any script are written: as they are, in fonts that have their letters."""
    missing = set("".join(texts)) - {"\n"}
    families = []
    fonts = sorted(fontManager.ttflist, key=lambda font: font.name != "DejaVu Sans")
    for font in fonts:
        if font.name.startswith("Last Resort"):  # which has a box for every letter
            continue
        drawn = {letter for letter in missing if FT2Font(font.fname).get_char_index(ord(letter))}
        if drawn:
            families.append(font.name)
            missing -= drawn
        if not missing:
            break
    if missing:
        logger.warning_once(
            f"no font here has {' '.join(sorted(missing))}: they are boxes in the pictures, and "
            "themselves in the tables"
        )
    return {"fontfamily": families or ["DejaVu Sans"], "parse_math": False}
