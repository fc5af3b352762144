# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What a run ran on: hardware and versions of packages."""

import importlib.metadata
import platform

import torch


PACKAGES = ("hf-mae", "torch", "torchvision", "transformers", "accelerate", "datasets")


def version(package: str) -> str:
    """The version of an installed package, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def package_versions() -> str:
    """The versions of what a model is trained with, in a line."""
    python = f"Python {platform.python_version()}"
    packages = [f"{package} {version(package)}" for package in PACKAGES]
    return ", ".join([python, *packages])


def hardware(device: torch.device, num_processes: int) -> str:
    """The devices of a run in words.

    Example:

    >>> hardware(torch.device("cpu"), 2).startswith("2 processes of ")
    True
    """
    if device.type == "cuda":
        return f"{num_processes} x {torch.cuda.get_device_name(device)}"
    num_threads = torch.get_num_threads()
    processes = "1 process" if num_processes == 1 else f"{num_processes} processes"
    threads = "1 CPU thread" if num_threads == 1 else f"{num_threads} CPU threads"
    return f"{processes} of {threads}"
