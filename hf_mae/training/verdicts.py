# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Whether a run has learned anything, in a sentence for people who can't tell from its figures."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..models.problem_types import MULTI_LABEL, REGRESSION
from .metrics import largest_share
from .progress import say_loss


# shares of the best constant's loss
_LEARNED = 0.9
_DIVERGED = 2.0  # if it was less than half of that, too
_ABSURD = 100.0  # a loss, for pixels are normalised: no picture is ten deviations off
_NO_BETTER = 0.99  # of the loss before the first update
_BY_CHANCE = 0.5  # AUROC
_LEARN_FASTER = "train for more epochs, or raise --base_learning_rate threefold"


def judge_pretraining(
    loss: float, best_constant: float, log_history: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Judges a held-out loss by that of the best constant patch of each image.

    Args:
        loss: At the end.
        best_constant: The loss of that patch.
        log_history: The Trainer's. Where it has the held-out loss before the first update
            (`eval_on_start`), it is judged by that as well.

    Example:

    >>> judge_pretraining(0.3754, 2.2623)
    "learned: the held-out loss is 0.17 of the best constant's"
    >>> judge_pretraining(0.34, 2.0, [{"step": 0, "eval_loss": 0.9}]).partition(", ")[2]
    'and was 0.45 before the first update'
    """
    share = loss / best_constant
    found = f"the held-out loss is {say_loss(share, 2)} of the best constant's"
    at_start, lowest = _course(log_history)
    if at_start is not None:
        found += f", and was {say_loss(at_start / best_constant, 2)} before the first update"
    has_risen = lowest is None or loss > 2 * lowest
    if not math.isfinite(share) or loss > _ABSURD or (share > _DIVERGED and has_risen):
        return f"diverged: {found}; lower --base_learning_rate to a third, or warm up longer"
    if share >= 1:
        colour = "images filled with one colour would be nearer"
        return f"nothing learned: {found}, so that {colour}; {_LEARN_FASTER}"
    if at_start is not None and loss > _NO_BETTER * at_start:
        return f"nothing new learned: {found}; {_LEARN_FASTER}"
    if share > _LEARNED:
        brightness = "which little more than brightness explains"
        return f"hardly anything learned: {found}, {brightness}; {_LEARN_FASTER}"
    return f"learned: {found}"


def _course(log_history: Sequence[Mapping[str, Any]]) -> tuple[float | None, float | None]:
    """The held-out loss before the first update, and the lowest loss of all; None without."""
    at_start, losses = None, []
    for entry in log_history:
        losses += [entry[name] for name in ("loss", "eval_loss") if name in entry]
        if entry.get("step") == 0 and "eval_loss" in entry:
            at_start = entry["eval_loss"]
    return at_start, min(losses, default=None)


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
