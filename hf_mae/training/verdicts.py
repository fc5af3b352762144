# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Whether a run has learned anything, in a sentence for people who can't tell from its figures."""

import math
from collections.abc import Mapping

import torch

from ..models.problem_types import MULTI_LABEL, REGRESSION
from .metrics import largest_share


# shares of the best constant's loss
_LEARNED = 0.9
_DIVERGED = 2.0
_BY_CHANCE = 0.5  # AUROC


def judge_pretraining(loss: float, best_constant: float) -> str:
    """Judges a held-out loss by that of the best constant patch of each image.

    Example:

    >>> judge_pretraining(0.3754, 2.2623)
    "learned: the held-out loss is 0.17 of the best constant's"
    """
    share = loss / best_constant
    found = f"the held-out loss is {share:.2f} of the best constant's"
    if not math.isfinite(share) or share > _DIVERGED:
        return f"diverged: {found}; lower --base_learning_rate to a third, or warm up longer"
    if share >= 1:
        return (
            f"nothing learned: {found}, so that images filled with one colour would be nearer; "
            "train for more epochs, or raise --base_learning_rate threefold"
        )
    if share > _LEARNED:
        return (
            f"hardly anything learned: {found}, which little more than brightness explains; train "
            "for more epochs, or raise --base_learning_rate threefold"
        )
    return f"learned: {found}"


def judge_classifier(
    problem_type: str, results: Mapping[str, float], labels: torch.Tensor
) -> str | None:
    """Judges a classifier's results by what needs no picture.

    That is the share of the commonest class, an AUROC of 0.5, or the error of the median.

    Args:
        problem_type: One of `models/problem_types.py`.
        results: By their names on cards.
        labels: Of the held-out images, (N,) classes, (N, K) labels, or values.

    Returns:
        A sentence; None without what it needs.

    Example:

    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> judge_classifier("single_label_classification", {"top-1 accuracy": 0.75}, labels)
    'learned: 75.0% are right, and always answering the commonest class gives 50.0%'
    """
    if len(labels) == 0:
        return None
    if problem_type == REGRESSION:
        return _judge_values(results.get("mean absolute error"), labels.double())
    if problem_type == MULTI_LABEL:
        return _judge_areas(results.get("mean AUROC"))
    accuracy = results.get("top-1 accuracy")
    if accuracy is None:
        return None
    chance = largest_share(labels.long())
    found = f"{accuracy:.1%} are right, and always answering the commonest class gives {chance:.1%}"
    if accuracy > chance:
        return f"learned: {found}"
    below = "below chance" if accuracy < chance else "no better than chance"
    return f"{below}: {found}; {_REMEDY}"


_REMEDY = (
    "train for more epochs, try --base_learning_rate ten times as high and a tenth, and look "
    "whether the labels are right"
)


def _judge_areas(area: float | None) -> str | None:
    if area is None:
        return None
    found = f"the mean AUROC is {area:.2f}, and chance gives 0.50"
    return f"learned: {found}" if area > _BY_CHANCE else f"below chance: {found}; {_REMEDY}"


def _judge_values(error: float | None, values: torch.Tensor) -> str | None:
    if error is None:
        return None
    constant = (values - values.median()).abs().mean().item()
    found = f"the mean error is {error:.4g}, and always answering the median gives {constant:.4g}"
    return f"learned: {found}" if error < constant else f"nothing learned: {found}; {_REMEDY}"
