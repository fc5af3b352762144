# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What a run ran on: hardware and versions of packages."""

import importlib.metadata
import platform

import torch


PACKAGES = ("hf-mae", "torch", "torchvision", "transformers", "accelerate", "datasets")


def version(package):
    """The version of an installed package, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def package_versions():
    """Versions of what a model is trained with, in a line."""
    return ", ".join(
        [f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in PACKAGES)]
    )


def hardware(device, num_processes):
    """The devices in words."""
    if device.type == "cuda":
        return f"{num_processes} x {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return (
        f"{num_processes} process{'es' * (num_processes > 1)} of {threads} CPU "
        f"thread{'s' * (threads > 1)}"
    )
