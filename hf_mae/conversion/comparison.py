# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Whether what was written computes what the model does."""

from collections.abc import Mapping

from torch import Tensor


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """Finds the greatest difference, relative to 1 or the greatest of ours."""
    return ((ours - theirs).abs().max() / ours.abs().max().clamp(min=1)).item()


def check_differences(differences: Mapping[str, float], tolerance: float, written: str) -> None:
    """Checks that none is too great.

    Args:
        differences: Output → its greatest difference.
        tolerance: What it may be.
        written: What was written, for the message.

    Raises:
        ValueError: one is greater, or no number.
    """
    for name, difference in differences.items():
        if not difference <= tolerance:  # nor if it is NaN
            raise ValueError(
                f"{written} gives other {name} than ours: they differ by {difference:.3g}, and may "
                f"by {tolerance:g}; don't use it"
            )
