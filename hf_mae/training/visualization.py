# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Curves of a training."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure


# title of a panel → key in the log → name of its curve
_CURVES = {
    "loss": {"loss": "training", "eval_loss": "held out"},
    "accuracy": {
        "eval_top1_accuracy": "top-1, held out",
        "eval_knn_accuracy": "k-NN of the features",
    },
    "RankMe": {"eval_rank_me": "of held-out features"},
}
# title of a panel → key in the log → name of a line that doesn't move
_BASELINES = {
    "loss": {
        "eval_loss_best_constant": "best constant patch",
        "eval_loss_visible_mean": "mean of the visible patches",
    },
}
# the authors' ViT-Base with norm_pix_loss on ImageNet-1k: mean training loss of an epoch, from 0
REFERENCE_LOSSES = {0: 0.950, 1: 0.782, 2: 0.757, 3: 0.727, 4: 0.703, 13: 0.559}


def training_curves(
    log_history: Sequence[dict[str, Any]],
    chance: float | None = None,
    reference: dict[int, float] | None = None,
) -> Figure:
    """Draws losses over the epochs, and accuracies and RankMe if there are any.

    Args:
        log_history: The Trainer's.
        chance: Share of the commonest class among the held-out images, if they have classes.
        reference: Epoch → mean training loss of another run, to compare with.
    """
    logged = set().union(*log_history)
    panels = [title for title, curves in _CURVES.items() if logged & curves.keys()]
    width = max(1, len(panels))
    figure = Figure(figsize=(4.2 * width, 3), layout="constrained")
    axes = figure.subplots(1, width, squeeze=False)[0]
    for axis, title in zip(axes, panels):
        for key, name in _CURVES[title].items():
            _draw_curve(axis, log_history, key, name)
        for number, (key, name) in enumerate(_BASELINES.get(title, {}).items()):
            if key in logged:
                _draw_level(axis, _last(log_history, key), name, f"C{number + 2}")
        if title == "accuracy" and chance is not None:
            _draw_level(axis, chance, "chance", "grey")
        if title == "loss" and reference:
            epochs = [epoch + 0.5 for epoch in reference]  # a mean over the epoch
            label = "authors' code, training"
            axis.plot(epochs, list(reference.values()), "k+", label=label)
        axis.set_xlabel("epoch")
        axis.set_ylabel(title)
        if title == "RankMe":
            axis.set_ylim(0, 1.2 * axis.get_ylim()[1])  # what is a hundredth isn't to look steep
        axis.legend(framealpha=0.9, edgecolor="none", fontsize=8)  # it may lie on a dashed line
    return figure


def _draw_curve(axis: Any, log_history: Sequence[dict[str, Any]], key: str, name: str) -> None:
    entries = [entry for entry in log_history if key in entry]
    if entries:
        epochs = [entry["epoch"] for entry in entries]
        values = [entry[key] for entry in entries]
        axis.plot(epochs, values, label=name, marker="." if len(entries) < 30 else None)


def _draw_level(axis: Any, value: float, name: str, color: str) -> None:
    axis.axhline(value, label=name, color=color, linestyle="--", linewidth=1)


def _last(log_history: Sequence[dict[str, Any]], key: str) -> float:
    values = [entry[key] for entry in log_history if key in entry]
    return values[-1]
