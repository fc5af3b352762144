# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Pictures of features: what patches have in common, how images lie, who is near to whom."""

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from datasets import ClassLabel, List, Value
from transformers.utils import logging

from .feature_files import normalized
from .features import FeatureExtractor, label_name, read_rows
from .images import image_name, read_batches
from .parts import Parts


if TYPE_CHECKING:  # takes seconds to import
    from matplotlib.figure import Figure


MAP_IMAGES = 3000  # t-SNE takes about 20 s for so many
PATCH_IMAGES = 8
PLACE_IMAGES = 32  # whose mean at each place is taken out of the patches
QUERIES, NEIGHBOURS = 6, 7
_SEED = 0
_MOST_CLASSES = 20  # that have a colour of their own
_SHOWN = "\0"  # before a legend's names: those that start with _ are left out
_RIGHT, _WRONG, _GREY = "#1a9850", "#d73027", "#bbbbbb"

logger = logging.get_logger(__name__)


class Tile(NamedTuple):
    """A picture in a panel.

    Attributes:
        image: (H, W, 3) uint8.
        title: What it is.
        colour: Of its frame, or None for no frame.
    """

    image: np.ndarray
    title: str
    colour: str | None = None


def plain_text() -> AbstractContextManager[None]:
    """While it lasts, a $ in a name is a $ in figures, and no formula."""
    import matplotlib

    return matplotlib.rc_context({"text.parse_math": False})


def draw_features(parts: Parts, extractor: FeatureExtractor, folder: Path) -> None:
    """Draws what features show into a folder.

    - `patches.png`: images, and beside each the first three principal components of the patch
      features of all of these as red, green and blue. Much of a patch's features is where it lies:
      of eight images or more their mean at each place is taken out first;
    - `map.png`: the images in two dimensions, by t-SNE of the features at length 1, coloured by
      class; of more than `MAP_IMAGES` images so many, evenly spaced;
    - `neighbours.png`: images, and those of all whose features are nearest by cosine.

    Args:
        parts: The features; of all patches their mean is taken, but for `patches.png`.
        extractor: What computed them.
        folder: Where they go; it need not be there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with plain_text():
        for name, figure in _draw(parts, extractor).items():
            figure.savefig(folder / name, dpi=110)


def _draw(parts: Parts, extractor: FeatureExtractor) -> dict[str, "Figure"]:
    sample, vectors = _take_sample(parts)
    labels = _Labels(extractor.samples.dataset)
    chosen = _choose(sample, labels)
    others = sample[_evenly_spaced(len(sample), PLACE_IMAGES)]
    figures = {"patches.png": _draw_patches(extractor, labels, sample[chosen], others)}
    if len(sample) < 5 or not np.ptp(vectors, axis=0).any():
        logger.warning("map.png isn't drawn: it needs at least five images that differ")
    else:
        classes = values = None
        if labels.are_classes:
            classes = [label_name(int(label), labels.feature) for label in labels.numbers(sample)]
        elif isinstance(labels.feature, Value):
            values = labels.numbers(sample)
        elif labels.feature is not None:
            logger.warning("map.png has no colours: of several labels an image none is its own")
        figures["map.png"] = feature_map(vectors, parts.count, classes, values)
    queries = chosen[:QUERIES]
    found = nearest(parts, vectors[queries], NEIGHBOURS + 1)
    figures["neighbours.png"] = _draw_neighbours(extractor, labels, sample[queries], *found)
    return figures


# what is drawn -----------------------------------------------------------------------------------


class _Labels:
    """What the images of a data set are, in words and in numbers."""

    def __init__(self, dataset: Any):
        self.dataset = dataset
        self.feature = dataset.features.get("label")

    @property
    def are_classes(self) -> bool:
        return isinstance(self.feature, ClassLabel)

    def numbers(self, indices: np.ndarray) -> np.ndarray:
        """Class numbers, or the values of a regression."""
        return np.array(self.dataset.select_columns("label").select(indices)["label"][:])

    def title(self, index: int) -> str:
        """What an image is: its class, classes or value; without labels its name."""
        row = self.dataset[int(index)]
        if isinstance(self.feature, ClassLabel):
            return label_name(row["label"], self.feature)
        if isinstance(self.feature, List):
            return ", ".join(label_name(row["label"], self.feature)) or "no label"
        if self.feature is not None:
            return f"{row['label']:.4g}"
        return os.path.basename(image_name(int(index), row["image"]))


def _take_sample(parts: Parts) -> tuple[np.ndarray, np.ndarray]:
    """Evenly spaced images, without those that couldn't be read: numbers (n,), features (n, D)."""
    wanted = _evenly_spaced(parts.count, MAP_IMAGES)
    indices, vectors = [], []
    for rows in read_rows(parts):
        keep = np.isin(rows.indices, wanted)
        indices.append(rows.indices[keep])
        vectors.append(rows.vectors()[keep])
    return np.concatenate(indices), np.concatenate(vectors)


def _choose(sample: np.ndarray, labels: "_Labels") -> np.ndarray:
    """Places in the sample of the images to be shown."""
    if labels.are_classes:
        return first_of_each_class(labels.numbers(sample), PATCH_IMAGES)
    return _evenly_spaced(len(sample), PATCH_IMAGES)


def _evenly_spaced(length: int, count: int) -> np.ndarray:
    return np.linspace(0, length - 1, min(length, count)).round().astype(int)


def first_of_each_class(classes: np.ndarray, count: int) -> np.ndarray:
    """Chooses a few images: the first of each class, then the second of each, and so on.

    Args:
        classes: (n,) class numbers.
        count: How many, at most.

    Returns:
        Their places.

    Example:

    >>> first_of_each_class(np.array([0, 0, 0, 1, 1, 2]), 4).tolist()
    [0, 3, 5, 1]
    """
    order = np.argsort(classes, kind="stable")
    _, first, sizes = np.unique(classes[order], return_index=True, return_counts=True)
    rank = np.empty(len(classes), int)  # of each among those of its class
    rank[order] = np.arange(len(classes)) - np.repeat(first, sizes)
    return np.lexsort((classes, rank))[:count]


def nearest(parts: Parts, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the images whose features are nearest by cosine.

    Args:
        parts: Features of all images.
        queries: (Q, D).
        count: How many to find, at most.

    Returns:
        Cosines and numbers of images, both (Q, count), the nearest first.
    """
    queries = normalized(queries)
    cosines = np.empty((len(queries), 0), np.float32)
    numbers = np.empty((len(queries), 0), int)
    for rows in read_rows(parts):
        theirs = queries @ normalized(rows.vectors()).T  # (Q, n)
        cosines = np.concatenate([cosines, theirs], axis=1)
        others = np.broadcast_to(rows.indices, theirs.shape)
        numbers = np.concatenate([numbers, others], axis=1)
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        cosines = np.take_along_axis(cosines, best, axis=1)
        numbers = np.take_along_axis(numbers, best, axis=1)
    return cosines, numbers


def _read(extractor: FeatureExtractor, indices: np.ndarray) -> torch.Tensor:
    """Pixel values (B, C, H, W) of images that have been read before."""
    (batch,) = read_batches(extractor.samples, [[int(index) for index in indices]])
    assert batch.pixel_values is not None
    return batch.pixel_values


def to_pictures(processor: Any, pixel_values: torch.Tensor) -> np.ndarray:
    """Undoes an image processor's normalisation: (B, H, W, 3) uint8, grey if there aren't three
    channels."""
    pixels = pixel_values.float().cpu()
    if getattr(processor, "do_normalize", False):
        mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
        pixels = pixels * std.view(-1, 1, 1) + mean.view(-1, 1, 1)
    if pixels.shape[1] != 3:
        pixels = pixels.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    pixels = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).numpy()


def _draw_patches(
    extractor: FeatureExtractor, labels: _Labels, indices: np.ndarray, others: np.ndarray
) -> "Figure":
    pixel_values = _read(extractor, indices)
    patches = _encode_patches(extractor, pixel_values)
    title = "image, and its patches' first three principal components as red, green, blue"
    if len(others) >= PATCH_IMAGES:
        patches -= _encode_patches(extractor, _read(extractor, others)).mean(axis=0)
        title += f"\n(the mean of {len(others)} images at each place is taken out first)"
    maps = components_as_colours(patches).reshape(len(indices), *extractor.grid, 3)
    images = to_pictures(extractor.processor, pixel_values)
    height, width = images.shape[1:3]
    across = _enlarged(np.arange(width), extractor.grid[1], width)
    down = _enlarged(np.arange(height), extractor.grid[0], height)
    gap = np.full((height, max(1, width // 24), 3), 255, np.uint8)
    tiles = []
    for index, image, its_map in zip(indices, images, maps):
        pair = np.concatenate([image, gap, its_map[down][:, across]], axis=1)
        tiles.append(Tile(pair, labels.title(index)))
    return tile_panel([tiles[first : first + 4] for first in range(0, len(tiles), 4)], title)


def _encode_patches(extractor: FeatureExtractor, pixel_values: torch.Tensor) -> np.ndarray:
    return extractor.encode(pixel_values)[:, 1:].cpu().numpy()  # (B, N, D)


def _enlarged(pixels: np.ndarray, patches: int, size: int) -> np.ndarray:
    """Which patch each pixel of a side lies in."""
    return pixels * patches // size


def components_as_colours(patches: np.ndarray) -> np.ndarray:
    """Turns the first three principal components of patch features into red, green and blue.

    Args:
        patches: (B, N, D) features; the components are those of all images together.

    Returns:
        (B, N, 3) uint8: each component from its percentile 1 (0) to 99 (255).

    Example:

    >>> components_as_colours(np.random.default_rng(0).normal(size=(2, 16, 8))).shape
    (2, 16, 3)
    """
    rows = patches.reshape(-1, patches.shape[-1]).astype(np.float64)
    rows = rows - rows.mean(axis=0)
    _, _, directions = np.linalg.svd(rows, full_matrices=False)
    directions = directions[:3]
    # either sign is right: the largest share is to be positive, wherever this is computed
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    values = np.zeros((len(rows), 3))
    values[:, : len(directions)] = rows @ (directions * np.sign(largest)).T
    low, high = np.percentile(values, [1, 99], axis=0)
    scaled = (values - low) / np.maximum(high - low, 1e-12)
    return (scaled.clip(0, 1) * 255).round().astype(np.uint8).reshape(*patches.shape[:2], 3)


def feature_map(
    vectors: np.ndarray,
    total: int,
    classes: Sequence[str] | None = None,
    values: np.ndarray | None = None,
) -> "Figure":
    """Draws images as points in two dimensions, by t-SNE of their features at length 1.

    Args:
        vectors: (n, D), n at least five.
        total: Of how many images these are.
        classes: Names of their classes; the twenty commonest have a colour each.
        values: (n,), or numbers, to colour them by.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=_SEED)
    points = tsne.fit_transform(normalized(vectors))  # (n, 2)
    figure = Figure(figsize=(7.2, 5.6), layout="constrained")
    axis = figure.subplots()
    size = float(np.clip(20_000 / len(points), 6, 40))
    if classes is None:
        colour = "#3b6ea5" if values is None else values
        dots = axis.scatter(*points.T, s=size, c=colour, linewidths=0)
        if values is not None:
            figure.colorbar(dots, label="label", shrink=0.8)
    else:
        names = np.array(classes)
        common = [name for name, _ in Counter(classes).most_common(_MOST_CLASSES)]
        palette = colormaps["tab10" if len(common) <= 10 else "tab20"]
        others = ~np.isin(names, common)
        if others.any():
            count = len(set(names[others]))
            rest = f"{count} more class{'es' if count > 1 else ''}"
            axis.scatter(*points[others].T, s=size, c=_GREY, linewidths=0, label=_SHOWN + rest)
        for number, name in enumerate(sorted(common)):
            own = points[names == name]
            axis.scatter(*own.T, s=size, color=palette(number), linewidths=0, label=_SHOWN + name)
        scale = (30 / size) ** 0.5
        handles, names_shown = axis.get_legend_handles_labels()
        legend = figure.legend(
            handles, names_shown, loc="outside right upper", frameon=False, markerscale=scale
        )
        for text in legend.get_texts():
            text.set_text(text.get_text().removeprefix(_SHOWN))
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_color(_GREY)
    part = "" if len(points) == total else f" of {total:,}"
    axis.set_title(f"t-SNE of the features of {len(points):,}{part} images", fontsize=11)
    return figure


def _draw_neighbours(
    extractor: FeatureExtractor,
    labels: _Labels,
    queries: np.ndarray,
    cosines: np.ndarray,
    numbers: np.ndarray,
) -> "Figure":
    rows = []
    for query, its_cosines, its_numbers in zip(queries, cosines, numbers):
        others = its_numbers != query  # an image is its own nearest
        near = its_numbers[others][:NEIGHBOURS]
        images = to_pictures(extractor.processor, _read(extractor, np.array([query, *near])))
        title = labels.title(query)
        row = [Tile(images[0], title)]
        for image, number, cosine in zip(images[1:], near, its_cosines[others]):
            its_title = labels.title(number)
            mark, colour = "", None
            if labels.are_classes:
                mark, colour = ("✓ ", _RIGHT) if its_title == title else ("✗ ", _WRONG)
            row.append(Tile(image, f"{mark}{its_title}\n{cosine:.3f}", colour))
        rows.append(row)
    marks = " (✓ of the same class, ✗ of another)" if labels.are_classes else ""
    return tile_panel(rows, f"an image, and its nearest neighbours by cosine{marks}")


def tile_panel(rows: Sequence[Sequence[Tile]], title: str) -> "Figure":
    """Draws pictures row by row, each with its title above.

    Args:
        rows: Of pictures of one size; a row may be shorter than others.
        title: Of the whole.
    """
    from matplotlib.figure import Figure

    across = max(map(len, rows))
    height, width, _ = rows[0][0].image.shape
    tile_width = 8.4 / max(across, 4)
    lines = max(row[-1].title.count("\n") for row in rows) + 1
    tile_height = tile_width * height / width + 0.17 * lines + 0.06
    head = 0.3 + 0.15 * title.count("\n") + 0.1
    figure = Figure(figsize=(8.4, tile_height * len(rows) + head), layout="constrained")
    axes = figure.subplots(len(rows), across, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for row_of_axes, row in zip(axes, rows):
        for axis, tile in zip(row_of_axes, row):
            axis.imshow(tile.image, interpolation="nearest")
            axis.set_title(_shortened(tile.title), fontsize=8, pad=3)
            if tile.colour is not None:
                axis.spines[:].set(visible=True, color=tile.colour, linewidth=2)
    figure.suptitle(title, fontsize=10)
    return figure


def _shortened(title: str, letters: int = 18) -> str:
    lines = []
    for line in title.split("\n"):
        lines.append(line if len(line) <= letters else f"{line[: letters - 1]}…")
    return "\n".join(lines)
