# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""One value range for a whole data set: which of its images' values are black and white.

A single image doesn't tell: a dark scan of 16 bits looks like one of 12. So a sample of the images
is looked at once, before training, and what was found or given goes into the image processor, and
with it into the model's folder.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from datasets import Dataset, IterableDataset
from PIL import Image

from ..errors import DECODE_ERRORS
from ..models.picture_files import Range
from ..models.picture_size import MAX_IMAGE_PIXELS
from ..models.pictures import check_8_bits, check_values, picture_values, share_beyond
from .decoding import open_value
from .samples import array_dtype


SAMPLE_SIZE = 64
_PERCENTILES = (0.1, 99.9)
_VALUES_OF_AN_IMAGE = 20_000  # that percentiles are taken of
_DEPTHS = (8, 10, 12, 14, 16)
_LEAST_SHARE = 1 / 16  # of its range that a sample must use: what is darker is of another one


@dataclass(frozen=True)
class SampledValues:
    """What a sample of a data set's images holds.

    Attributes:
        kinds: Type of the values → images that have it; "uint8" for all of 8 bits.
        values: Some of their values; of images of 8 bits only if they were asked for.
        low, high: The least and the greatest of all.
        own_ranges: What the files themselves call black and white; None among them of those that
            don't say.
        made_up: What is said of channels that aren't in the files.
    """

    kinds: Counter[str]
    values: np.ndarray
    low: float
    high: float
    own_ranges: frozenset[Range | None]
    made_up: str = ""

    @property
    def has_8_bits(self) -> bool:
        """Whether all are pictures as usual, of 8 bits."""
        return set(self.kinds) == {"uint8"} and self.own_ranges <= {None, (0, 255)}

    def __str__(self) -> str:
        number = sum(self.kinds.values())
        types = " and ".join(sorted(self.kinds))
        return f"{types} from {self.low:,.6g} to {self.high:,.6g} in a sample of {number} images"


def fit_value_range(
    processor: Any,
    images: Dataset | IterableDataset,
    num_channels: int,
    wanted: Sequence[float] | Literal["auto"] | None = None,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
) -> str:
    """Gives an image processor the value range of a data set.

    That is what is wanted; or the processor's own, as it came with a model; or, of images that are
    deeper than 8 bits, what a sample of them tells: what all files say themselves, the bits that
    whole numbers take (8, 10, 12, 14 or 16), or 0 to 1 of fractions.

    Args:
        processor: Its `value_range` is set, to None of images of 8 bits.
        images: With a column `image`.
        num_channels: Of the model.
        wanted: (black, white); or "auto" for the percentiles 0.1 and 99.9 of the sample.
        max_image_pixels: As for `ImageSamples`.

    Returns:
        A line that says how deep the images are, and what is black and white.

    Raises:
        ValueError: the sample doesn't tell; the message says what it holds.

    Example:

    >>> from hf_mae import MAEConfig, MAEImageProcessor, load_image_dataset
    >>> processor = MAEImageProcessor.from_model_config(MAEConfig.from_size("tiny"))
    >>> fit_value_range(processor, load_image_dataset("digits")["train"], num_channels=3)
    '8 bits, 0 is black and 255 white (a sample of 64 images)'
    """
    inherited = processor.value_range
    needs_all = wanted == "auto" or (wanted or inherited) is not None
    found = _look(images, num_channels, processor.bands, needs_all, max_image_pixels)
    if wanted == "auto":
        return _set(processor, found, _percentiles(found), "value_range auto, by percentiles")
    if wanted is not None:
        return _set(processor, found, wanted, "value_range")
    if inherited is not None:
        _check_use(found, inherited, "the model was trained on")
        return _set(processor, found, inherited, "the model's own")
    if found.has_8_bits:
        number = sum(found.kinds.values())
        return f"8 bits, 0 is black and 255 white (a sample of {number} images){found.made_up}"
    if None not in found.own_ranges and len(found.own_ranges) > 1:
        return f"{found}; black and white are what each file says"
    return _set(processor, found, _told(found), "told by the sample; --value_range says another")


def check_value_range(
    processor: Any,
    images: Dataset | IterableDataset,
    num_channels: int,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
) -> None:
    """Raises ValueError if held-out images don't have the values of the training's."""
    value_range = processor.value_range
    needs_all = value_range is not None
    found = _look(images, num_channels, processor.bands, needs_all, max_image_pixels)
    if value_range is None and not found.has_8_bits and None in found.own_ranges:
        raise ValueError(
            f"the held-out images hold {found}, and those to train on have 8 bits; bring them to "
            "one depth"
        )
    if value_range is not None:
        if "uint8" in found.kinds:
            check_8_bits(value_range)
        _check_use(found, value_range, "black and white of the training images are")


def _set(processor: Any, found: SampledValues, value_range: Sequence[float], why: str) -> str:
    if "uint8" in found.kinds:
        check_8_bits(value_range)
    low, high = map(float, value_range)
    processor.value_range = [low, high]
    line = f"{found}; {low:,.6g} is black and {high:,.6g} white ({why})"
    outside = share_beyond(found.values, value_range)
    if outside:
        line += f", {outside:.2%} lie beyond and are clipped"
    return line + found.made_up


# what the sample tells ---------------------------------------------------------------------------


def _told(found: SampledValues) -> Range:
    """The range of deep images; ValueError if they don't tell."""
    if len(found.own_ranges) == 1 and None not in found.own_ranges:
        return next(iter(found.own_ranges))  # pyright: ignore[reportReturnType] # not None
    reason = "which doesn't tell what is black and white"
    if "uint8" in found.kinds and len(found.kinds) > 1:
        counts = ", ".join(f"{kind}: {count}" for kind, count in sorted(found.kinds.items()))
        raise ValueError(f"the images hold {found} ({counts}); bring them to one depth")
    elif found.low >= 0:
        is_whole = not np.mod(found.values, 1).any()
        if is_whole and found.high > 1:
            for bits in _DEPTHS:
                if 2**bits * _LEAST_SHARE <= found.high < 2**bits:
                    return 0, 2**bits - 1
        elif _LEAST_SHARE <= found.high <= 1:
            return 0, 1
    raise ValueError(
        f"the images hold {found}, {reason}; give --value_range LOW HIGH for all, as 0 4095 for "
        "scans of 12 bits, -1000 1000 for CT or 0 1 for reflectances, or --value_range auto"
    )


def _percentiles(found: SampledValues) -> Range:
    if len({np.dtype(kind).kind == "f" for kind in found.kinds}) > 1:
        raise ValueError(
            f"the images hold {found}, fractions and whole numbers, which have no range in common"
        )
    low, high = np.percentile(found.values, _PERCENTILES)
    low, high = float(f"{low:.6g}"), float(f"{high:.6g}")
    if not low < high:
        raise ValueError(f"the images hold {found}; --value_range auto finds no range in that")
    return low, high


def _check_use(found: SampledValues, value_range: Sequence[float], whose: str) -> None:
    """Refuses a range of which images use next to nothing, or beyond which most of them lie."""
    low, high = value_range
    used = np.ptp(found.values.clip(low, high))
    if used < (high - low) * _LEAST_SHARE or share_beyond(found.values, value_range) > 0.5:
        raise ValueError(
            f"{whose} values from {low:g} to {high:g}, and the images hold {found}; give "
            "--value_range LOW HIGH, what is black and white in these"
        )


# the sample --------------------------------------------------------------------------------------


def _look(
    images: Dataset | IterableDataset,
    num_channels: int,
    bands: Sequence[int] | None,
    needs_all: bool,
    max_image_pixels: int,
) -> SampledValues:
    """Looks at a sample; at the values of images of 8 bits only if these are needed.

    Raises:
        ValueError: none of it can be read.
    """
    kinds: Counter[str] = Counter()
    parts: list[np.ndarray] = []
    extremes: list[float] = []
    own_ranges, reason, opaque = set(), "there is none", 0
    for number, value in enumerate(_sample(images)):
        try:
            picture, _ = open_value(value, max_image_pixels)
            if isinstance(picture, Image.Image):
                opaque += num_channels == 4 and not picture.has_transparency_data
                if not needs_all:
                    kinds["uint8"] += 1
                    extremes += [0, 255]
                    own_ranges.add((0, 255))
                    continue
            array, own_range = picture_values(picture, num_channels, bands)
            check_values(array)
        except DECODE_ERRORS as error:
            reason = str(error)
            continue  # training lists it
        kinds["uint8" if array.dtype == bool else str(array.dtype)] += 1
        own_ranges.add(own_range)
        extremes += [float(array.min()), float(array.max())]
        rng = np.random.default_rng(number)
        parts.append(rng.choice(array.ravel(), min(array.size, _VALUES_OF_AN_IMAGE), replace=False))
    if not kinds:
        raise ValueError(f"none of a sample of the images can be read: {reason}")
    values = np.concatenate(parts) if parts else np.zeros(0)
    made_up = f"; {opaque} of them have 3 channels, the fourth is made up: 255" if opaque else ""
    low, high = min(extremes), max(extremes)
    return SampledValues(kinds, values, low, high, frozenset(own_ranges), made_up)


def _sample(images: Dataset | IterableDataset) -> Iterator[Any]:
    """Yields what is in the column `image` of some rows: of a stream the first."""
    dtype = array_dtype(images)
    if isinstance(images, Dataset):
        count = min(SAMPLE_SIZE, len(images))
        numbers = np.linspace(0, len(images) - 1, count).round().astype(int)
        rows: Any = (images[int(number)] for number in numbers)
    else:
        rows = itertools.islice(images, SAMPLE_SIZE)
    for row in rows:
        value = row["image"]
        yield value if isinstance(value, dict) else np.asarray(value, dtype)
