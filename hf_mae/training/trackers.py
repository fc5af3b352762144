# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Pictures for what a run logs to: TensorBoard, Weights & Biases, Trackio."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from transformers import TrainerCallback
from transformers.integrations.integration_utils import (
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
)


def log_picture(
    callbacks: Iterable[TrainerCallback], name: str, figure: Figure, file: Path, step: int
) -> None:
    """Shows a picture beside the curves, in all that can.

    Args:
        callbacks: The trainer's.
        name: Of the picture.
        figure: It, for TensorBoard.
        file: The same as it was saved, for the others.
        step: Updates so far.
    """
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            callback.tb_writer.add_figure(name, figure, step)
        elif isinstance(callback, WandbCallback | TrackioCallback) and callback._initialized:
            is_wandb = isinstance(callback, WandbCallback)
            library: Any = callback._wandb if is_wandb else callback._trackio
            picture = library.Image(str(file))
            library.log({name: picture, "train/global_step": step})
