# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What recipes make of the same time: held-out loss and k-NN accuracy over the cost of the run."""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


Run = dict[str, float]  # what `read_run` returns
_TITLES = {"loss": "held-out loss", "knn_accuracy": "k-NN accuracy of the features"}


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Reads cost and quality of a run, evaluated at its end and not before.

    Args:
        folder: Output folder of `scripts/run_mae.py`.

    Returns:
        dict: `seconds` of training, `samples`, `training_flops`, `loss` (held out), and
            `knn_accuracy` if it was measured.

    Raises:
        ValueError: it isn't the folder of a finished run, or its time has evaluations in it or
            isn't that of the whole.
    """
    path = Path(folder, "trainer_state.json")
    if not path.is_file():
        raise ValueError(
            f"{folder} has no trainer_state.json; give the output folder of a finished run"
        )
    history: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["log_history"]
    whole = next((entry for entry in history if "train_runtime" in entry), None)
    evaluations = [entry for entry in history if "eval_loss" in entry]
    if whole is None or len(evaluations) != 1 or evaluations[0]["step"] != whole["step"]:
        raise ValueError(
            f"{folder}: expected one evaluation, at the end of the run; train with --eval_strategy "
            "no"
        )
    if "resumed_from_step" in whole:
        raise ValueError(
            f"{folder}: the run was resumed, so its time isn't that of the whole; train it in one "
            "go"
        )
    logged = next((entry for entry in history if "samples" in entry), None)
    if logged is None:
        raise ValueError(
            f"{folder}: the run has logged nothing; train with --logging_steps smaller than its "
            f"{whole['step']}"
        )
    found = {
        "seconds": whole["train_runtime"],
        "samples": whole["step"] * logged["samples"] // logged["step"],
        "training_flops": whole["total_flos"],
        "loss": evaluations[0]["eval_loss"],
    }
    if "eval_knn_accuracy" in evaluations[0]:
        found["knn_accuracy"] = evaluations[0]["eval_knn_accuracy"]
    return found


def quality_plot(recipes: Mapping[str, Sequence[Run]]) -> Figure:
    """Plots held-out loss and k-NN accuracy over the time of training.

    Args:
        recipes: Name → runs, as from `read_run`. What a run doesn't have isn't plotted.
    """
    measured = set(_TITLES)
    for runs in recipes.values():
        measured = measured.intersection(*runs)
    keys = [key for key in _TITLES if key in measured]
    figure = Figure(figsize=(4.5 * len(keys), 3.5), layout="constrained")
    axes = figure.subplots(1, len(keys), squeeze=False)[0]
    for axis, key in zip(axes, keys):
        for name, runs in recipes.items():
            minutes = [run["seconds"] / 60 for run in runs]
            axis.plot(minutes, [run[key] for run in runs], marker="o", label=name)
        axis.set(xlabel="minutes of training", ylabel=_TITLES[key], xlim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].legend()
    return figure


def quality_benchmark(args: argparse.Namespace) -> dict[str, list[Run]]:
    """Reads runs, prints a table and plots.

    Args:
        args: Of `scripts/benchmark.py quality`.

    Returns:
        Name → runs.
    """
    recipes: dict[str, list[Run]] = {}
    for argument in args.runs:
        name, _, folders = argument.rpartition("=")
        if not name:
            raise ValueError(
                f"{argument!r} must be NAME=RUN[,RUN…], a name and the output folders of runs"
            )
        runs = [read_run(folder) for folder in folders.split(",")]
        recipes[name] = sorted(runs, key=lambda run: run["seconds"])
    print("| recipe | minutes | samples | TFLOP | held-out loss | k-NN |")
    print("|---|---|---|---|---|---|")
    for name, runs in recipes.items():
        for run in runs:
            print(_table_row(name, run))
    if args.plot:
        quality_plot(recipes).savefig(args.plot, dpi=120)
        print(f"plot in {args.plot}")
    return recipes


def _table_row(name: str, run: Run) -> str:
    accuracy = f"{run['knn_accuracy']:.1%}" if "knn_accuracy" in run else "-"
    return (
        f"| {name} | {run['seconds'] / 60:.1f} | {run['samples']:,} | "
        f"{run['training_flops'] / 1e12:,.1f} | {run['loss']:.4f} | {accuracy} |"
    )
