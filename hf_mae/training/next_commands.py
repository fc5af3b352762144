# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What can be done with a model that is trained: commands that run as they stand."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

from .data_arguments import DataArguments


_MOST = 3


def after_pretraining(folder: Path, samples: Any, data_args: DataArguments) -> list[str]:
    """Lists commands for a pre-trained model.

    Args:
        folder: Its output folder.
        samples: The held-out images, or None.
        data_args: Where the images come from.
    """
    model = ["--model_name_or_path", str(folder)]
    commands = []
    image = _an_image(samples)
    if image is not None:
        picture = str(folder.with_name(f"{folder.name}-filled-in.png"))
        commands.append(_command("reconstruct.py", *model, "--output", picture, image))
    return [*commands, *_of_any_model(folder, data_args)][:_MOST]


def after_training_a_classifier(folder: Path, samples: Any, data_args: DataArguments) -> list[str]:
    """Lists commands for a classifier; as `after_pretraining`."""
    model = ["--model_name_or_path", str(folder)]
    commands = []
    image = _an_image(samples)
    if image is not None:
        commands.append(_command("predict.py", *model, image))
    evaluated = _evaluated(data_args)
    if evaluated:
        report = str(folder.with_name(f"{folder.name}-report"))
        commands.append(_command("run_eval.py", *model, *evaluated, "--output_dir", report))
    return [*commands, *_of_any_model(folder, data_args)][:_MOST]


def _of_any_model(folder: Path, data_args: DataArguments) -> list[str]:
    model, commands = ["--model_name_or_path", str(folder)], []
    source = _source(data_args)
    if source:
        features = str(folder.with_name(f"{folder.name}-features"))
        picture = ["--output", f"{features}.parquet", "--picture", features]
        commands.append(_command("extract_features.py", *model, *source, *picture))
    exported = str(folder.with_name(f"{folder.name}-exported"))
    commands.append(_command("export.py", *model, "--output_dir", exported))
    name = re.sub(r"[^A-Za-z0-9]+", "-", folder.name).strip("-")  # as the Hub allows it
    dry_run = ["--repo_id", f"YOUR_NAME/{name or 'mae'}", "--dry_run"]
    commands.append(_command("publish.py", *model, *dry_run))
    return commands


def _command(script: str, *words: str) -> str:
    """A command line, with the script where the one that runs lies."""
    path = Path(sys.argv[0]).with_name(script)
    return shlex.join(["python", str(path), *words])


def _an_image(samples: Any) -> str | None:
    """A held-out image that is a file of its own, or None."""
    dataset = getattr(samples, "dataset", None)
    if dataset is None or len(dataset) == 0:
        return None
    image = dataset[0]["image"]
    path = image.get("path") if isinstance(image, dict) else None
    return path if path and Path(path).is_file() else None


def _source(data_args: DataArguments) -> list[str]:
    """The flags by which extract_features.py finds the training images; none of a stream."""
    if getattr(data_args, "streaming", False):
        return []
    flags = ["--split", data_args.train_split or "train"]
    for name in ("train_dir", "dataset_name", "dataset_config", "image_column"):
        value = getattr(data_args, name)
        if value is not None:
            flags += [f"--{name}", str(value)]
    if data_args.label_column:
        flags += ["--label_column", *data_args.label_column]
    return flags


def _evaluated(data_args: DataArguments) -> list[str]:
    """The flags by which run_eval.py finds held-out images that weren't cut off the training's."""
    if data_args.validation_dir is None:
        return []
    flags = ["--validation_dir", str(data_args.validation_dir)]
    if data_args.label_column:
        flags += ["--label_column", *data_args.label_column]
    return flags
