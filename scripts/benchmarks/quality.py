# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What recipes make of the same time: held-out loss and k-NN accuracy over the cost of the run."""

import argparse
import json
import math
import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure


Run = dict[str, float]  # what `read_run` returns
_TITLES = {"loss": "held-out loss", "knn_accuracy": "k-NN accuracy of the features"}
_COSTS = {"seconds": ("minutes", 60), "training_flops": ("TFLOP", 1e12)}  # title, unit


def read_run(folder: str | os.PathLike[str], classifiers: Sequence[str] = ()) -> Run:
    """Reads cost and quality of a run, evaluated at its end and not before.

    Args:
        folder: Output folder of `scripts/run_mae.py`.
        classifiers: What output folders of classifiers trained from it have behind its name.

    Returns:
        dict: `seconds` of training, `samples`, `training_flops`, `loss` (held out),
            `knn_accuracy` if it was measured, and the top-1 accuracy of each classifier.

    Raises:
        ValueError: it isn't the folder of a finished run, or its time has evaluations in it or
            isn't that of the whole.
    """
    history = _read_history(folder)
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
    for name in classifiers:
        classifier = f"{Path(folder)}-{name}"
        entries = reversed(_read_history(classifier))
        last = next((entry for entry in entries if "eval_top1_accuracy" in entry), None)
        if last is None:
            raise ValueError(f"{classifier} has no accuracy; evaluate at its end")
        if name in found:
            raise ValueError(f"--classifiers {name} is what a run has by itself; name it otherwise")
        found[name] = last["eval_top1_accuracy"]
    return found


def _read_history(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    path = Path(folder, "trainer_state.json")
    if not path.is_file():
        raise ValueError(
            f"{folder} has no trainer_state.json; give the output folder of a finished run"
        )
    return json.loads(path.read_text(encoding="utf-8"))["log_history"]


def quality_plot(
    recipes: Mapping[str, Sequence[Run]], classifiers: Sequence[str] = (), cost: str = "seconds"
) -> Figure:
    """Plots what was measured of all runs over what they cost, seeds about a line of their means.

    Args:
        recipes: Name → runs, as from `read_run`.
        classifiers: As for `read_run`.
        cost: `"seconds"` or `"training_flops"`.
    """
    titles = {**_TITLES, **{name: f"top-1 accuracy, {name}" for name in classifiers}}
    measured = set(titles)
    for runs in recipes.values():
        measured = measured.intersection(*runs)
    keys = [key for key in titles if key in measured]
    columns = min(2, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure = Figure(figsize=(4.5 * columns, 3.5 * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, place) for place in range(1, len(keys) + 1)]
    title, unit = _COSTS[cost]
    for axis, key in zip(axes, keys):
        for name, runs in recipes.items():
            seeds = group_seeds(runs)
            costs = [_mean(group, cost) / unit for group in seeds]
            means = [_mean(group, key) for group in seeds]
            (line,) = axis.plot(costs, means, marker="o", label=name)
            if len(seeds) < len(runs):
                for place, group in zip(costs, seeds):
                    values = [run[key] for run in group]
                    style = {"color": line.get_color(), "alpha": 0.5}
                    axis.plot([place] * len(group), values, ".", **style)
        axis.set(xlabel=f"{title} of training", ylabel=titles[key], xlim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].legend()
    return figure


def group_seeds(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs of as many samples, which are one run with several seeds; the shortest first."""
    ordered = sorted(runs, key=itemgetter("samples"))
    return [list(group) for _, group in groupby(ordered, key=itemgetter("samples"))]


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
        if name in recipes:
            raise ValueError(f"{name} is named twice; put its runs together: {name}=RUN,RUN")
        runs = [read_run(folder, args.classifiers) for folder in folders.split(",")]
        recipes[name] = sorted(runs, key=itemgetter("seconds"))
    titles = ["recipe", "minutes", "samples", "TFLOP", "held-out loss", "k-NN", *args.classifiers]
    print(f"| {' | '.join(titles)} |")
    print("|---" * len(titles) + "|")
    for name, runs in recipes.items():
        for seeds in group_seeds(runs):
            print(_table_row(name, seeds, args.classifiers))
    if args.plot:
        quality_plot(recipes, args.classifiers, args.cost).savefig(args.plot, dpi=120)
        print(f"plot in {args.plot}")
    return recipes


def _table_row(name: str, seeds: Sequence[Run], classifiers: Sequence[str]) -> str:
    samples = int(seeds[0]["samples"])
    cells = [name, f"{_mean(seeds, 'seconds') / 60:.1f}", f"{samples:,}"]
    cells.append(f"{_mean(seeds, 'training_flops') / 1e12:,.1f}")
    cells.append(_mean_and_range(seeds, "loss", ".4f"))
    cells += [_mean_and_range(seeds, key, ".1%") for key in ("knn_accuracy", *classifiers)]
    return f"| {' | '.join(cells)} |"


def _mean(seeds: Sequence[Run], key: str) -> float:
    return mean(run[key] for run in seeds)


def _mean_and_range(seeds: Sequence[Run], key: str, form: str) -> str:
    """A figure of a run; of several seeds their mean, with the least and the greatest."""
    values = [run[key] for run in seeds if key in run]
    if len(values) < len(seeds):
        return "-"
    if len(values) == 1:
        return f"{values[0]:{form}}"
    return f"{mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"
