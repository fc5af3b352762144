# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Progressive resolution: small images first, the model's own size last."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ..models.configuration_mae import MAEConfig


class SizedTransform(Protocol):
    """A transform that can be had for another size of image."""

    def at_size(self, pixels: int) -> Callable[..., Any]:
        """Copies the transform for images of `pixels` by `pixels`."""
        ...


class ResolutionSchedule:
    """Which transform an epoch has.

    Args:
        starts: First epoch (0 and more) → transform.

    Example:

    >>> ResolutionSchedule({0: "small", 60: "large"}).transform_at(59.5)
    'small'
    """

    def __init__(self, starts: Mapping[float, Any]):
        self.starts = dict(sorted(starts.items()))

    def transform_at(self, epoch: float) -> Any:
        """Finds the transform of an epoch."""
        return [transform for start, transform in self.starts.items() if start <= epoch][-1]


def parse_resolution_schedule(text: str | None) -> dict[float, int]:
    """Reads a schedule as it is written in recipes.

    Args:
        text: Shares of the run, each with pixels of a side; None or "" for no schedule.

    Returns:
        Share of the run → pixels of a side, from the first to the last; empty without a schedule.

    Raises:
        ValueError: it can't be read, doesn't start at 0 or doesn't go up.

    Example:

    >>> parse_resolution_schedule("0:128,0.6:160,0.85:224")
    {0.0: 128, 0.6: 160, 0.85: 224}
    """
    if not text:
        return {}
    pairs = re.findall(r"(\d+(?:\.\d+)?):(\d+)", text)
    understood = ",".join(f"{share}:{size}" for share, size in pairs)
    shares = [float(share) for share, _ in pairs]
    readable = bool(pairs) and understood == text.replace(" ", "")
    goes_up = shares == sorted(set(shares))
    if not readable or not goes_up or shares[0] != 0 or shares[-1] >= 1:
        raise ValueError(
            f"resolution_schedule is {text!r}; it must be shares of the run that start at 0, go up "
            "and are less than 1, each with pixels, as 0:128,0.6:160,0.85:224"
        )
    return {share: int(size) for share, (_, size) in zip(shares, pairs)}


def schedule_resolutions(
    transform: SizedTransform, resolutions: Mapping[float, int], config: MAEConfig, epochs: float
) -> ResolutionSchedule:
    """Schedules a transform at several sizes, each from the next whole epoch.

    Args:
        transform: What the schedule's transforms are copies of.
        resolutions: Share of the run → pixels of a side, from `parse_resolution_schedule`.
        config: The model's configuration; its image size has to be the last.
        epochs: Epochs of the run.

    Raises:
        ValueError: a size is impossible for the model, the last is not the model's, or the run is
            too short for all.
    """
    sizes = list(resolutions.values())
    if (sizes[-1], sizes[-1]) != config.image_hw:
        raise ValueError(
            f"resolution_schedule ends with {sizes[-1]} pixels and the model's image_size is "
            f"{config.image_size}; they must be the same, a square"
        )
    transforms = [transform.at_size(size) for size in sizes]
    return ResolutionSchedule(dict(zip(_starting_epochs(resolutions, epochs), transforms)))


def _starting_epochs(shares: Mapping[float, int], epochs: float) -> list[int]:
    """The first epoch of each share; ValueError if some would have none."""
    # rounded first, for 0.55 * 100 is more than 55
    starts = [math.ceil(round(share * epochs, 6)) for share in shares]
    if starts != sorted(set(starts)) or starts[-1] >= epochs:
        raise ValueError(
            f"resolution_schedule changes sizes at whole epochs and the run has {epochs:.4g}: they "
            f"would start at epochs {', '.join(map(str, starts))}, so that some are never trained "
            "at; train longer or take fewer sizes"
        )
    return starts
