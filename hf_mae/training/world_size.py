# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""How many processes train, beside how many were asked for: a launcher may start one, silently."""

import os
from collections.abc import Mapping

import psutil


# variables by which launchers tell their processes how many there are
_COUNTS = (
    *("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"),
    "SLURM_STEP_NUM_TASKS",
)
_HOW = (
    "start them by torchrun --nproc_per_node N, or by accelerate launch --multi_gpu "
    "--num_processes N, on CPUs too (with --use_cpu)"
)


def check_world_size(world_size: int, environment: Mapping[str, str] = os.environ) -> None:
    """Refuses to train in fewer processes than were asked for.

    `accelerate launch --cpu --num_processes 2` starts a single one; what `srun` starts, or a
    cluster that sets WORLD_SIZE alone, are single ones that know nothing of each other, and write
    into one folder.

    Args:
        world_size: Processes that train together.
        environment: Variables that launchers have set.

    Raises:
        ValueError: more were asked for; the message says by what, and how they are started.

    Example:

    >>> check_world_size(2, {"WORLD_SIZE": "2"})
    """
    for name in _COUNTS:
        count = environment.get(name, "")
        if count.isdecimal() and int(count) > world_size:
            raise ValueError(
                f"{count} processes were asked for ({name}), and {_number(world_size)} together; "
                f"{_HOW}"
            )
    # accelerate sets a place to meet for several processes only, and they have numbers
    is_simple = "ACCELERATE_MIXED_PRECISION" in environment and "RANK" not in environment
    if is_simple and world_size == 1 and _is_set_by_launcher("MASTER_PORT", environment):
        raise ValueError(
            "accelerate launch was asked for several processes (--num_processes), and has started "
            f"one, as it does with --cpu or without a GPU; {_HOW}"
        )


def _is_set_by_launcher(name: str, environment: Mapping[str, str]) -> bool:
    """Whether a variable is the launcher's own, not one that it was started with itself."""
    if name not in environment:
        return False
    try:
        return name not in psutil.Process(os.getppid()).environ()
    except psutil.Error:  # of another user, or gone
        return True


def _number(world_size: int) -> str:
    return "one trains" if world_size == 1 else f"{world_size} train"
