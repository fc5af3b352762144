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
}


def training_curves(log_history: Sequence[dict[str, Any]]) -> Figure:
    """Draws losses over the epochs, and accuracies if there are any.

    Args:
        log_history: The Trainer's.
    """
    logged = set().union(*log_history)
    panels = [title for title, curves in _CURVES.items() if logged & curves.keys()]
    width = max(1, len(panels))
    figure = Figure(figsize=(4.2 * width, 3), layout="constrained")
    axes = figure.subplots(1, width, squeeze=False)[0]
    for axis, title in zip(axes, panels):
        for key, name in _CURVES[title].items():
            entries = [entry for entry in log_history if key in entry]
            if entries:
                epochs = [entry["epoch"] for entry in entries]
                values = [entry[key] for entry in entries]
                marker = "." if len(entries) < 30 else None
                axis.plot(epochs, values, label=name, marker=marker)
        axis.set_xlabel("epoch")
        axis.set_ylabel(title)
        axis.legend(frameon=False)
    return figure
