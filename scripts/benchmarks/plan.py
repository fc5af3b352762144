# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""How long a pre-training run takes, from rates that were measured, and what it waits for."""

import argparse
import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from hf_mae.models.configuration_mae import MAEConfig
from hf_mae.models.costs import training_flops
from hf_mae.models.modeling_mae import MAEForPreTraining

from .memory import needed_memory
from .timing import plural, workers_needed


IMAGENET_TRAINING_IMAGES = 1_281_167  # training images of ImageNet-1k
RESULTS = Path(__file__).with_name("results")
_WAITS = {"training": "input waits for training", "input": "training waits for input"}


@dataclass(frozen=True)
class Rate:
    """Images/s of a training step on a GPU, as it was measured.

    Attributes:
        images_per_second, batch, bf16, compiled: Of the step.
        source: The file of results.
    """

    images_per_second: float
    batch: int
    bf16: bool
    compiled: bool
    source: str

    def __str__(self) -> str:
        precision = "bf16" if self.bf16 else "fp32"
        if self.compiled:
            precision += ", compiled (--torch_compile),"
        return (
            f"{self.images_per_second:,.0f} images/s in {precision} at batch {self.batch}, "
            f"measured without input ({self.source})"
        )


def measured_rate(size: str, gpu_name: str, folder: Path = RESULTS) -> Rate:
    """Finds how fast a size trains on a GPU: the fastest batch of our model that was measured.

    Args:
        size: As "base".
        gpu_name: As torch names it.
        folder: With what `scripts/benchmark.py train --output` wrote.

    Raises:
        ValueError: that wasn't measured.
    """
    rates, others = [], set()
    for file in sorted(folder.glob("train-*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        words = shlex.split(found["command"])
        its_size = _value(words, "--size", "base")
        if "gpu" in found:
            others.add(f"{its_size} on {found['gpu']}")
        is_another = _value(words, "--image_size", "224") != "224" or "--config_overrides" in words
        if found.get("gpu") != gpu_name or its_size != size or is_another:
            continue
        for batch, measured in found["results"].items():
            rate = measured["models"]["hf_mae"]["images_per_second"]
            rates.append(Rate(rate, int(batch), "--bf16" in words, "--compile" in words, file.name))
    if not rates:
        raise ValueError(
            f"{size} on {gpu_name} wasn't measured, only {', '.join(sorted(others))}; give a "
            "--step_rate, as scripts/benchmark.py train prints it"
        )
    return max(rates, key=lambda rate: rate.images_per_second)


def _value(words: list[str], flag: str, default: str) -> str:
    return words[words.index(flag) + 1] if flag in words else default


def print_plan(args: argparse.Namespace) -> None:
    """Prints a plan; `args` are those of `scripts/benchmark.py plan`.

    Raises:
        ValueError: the GPU's rate is asked for and wasn't measured.
    """
    fields = {name: value for name, value in vars(args).items() if name != "command"}
    gpu_name = fields.pop("gpu_name")
    if gpu_name is None:
        print(Plan(**fields))
        return
    rate = measured_rate(args.size, gpu_name)
    print(Plan(**{**fields, "step_rate": rate.images_per_second}))
    print(f"  measured    {rate}")
    config = MAEConfig.from_size(args.size, norm_pix_loss=True)
    needed = needed_memory(config, rate.batch, rate.bf16)
    print(f"  memory      {needed / 2**30:.1f} GiB of each GPU at that batch, foretold")


@dataclass(frozen=True)
class Plan:
    """A run, whose GPUs all train and are all fed at the same rate.

    Attributes:
        size: Of the model, as "large".
        epochs, images: Of the run and of an epoch.
        gpus: Processes.
        step_rate: Images/s that a GPU trains on, when it doesn't wait: as `benchmark.py train`
            prints it.
        input_rate: Images/s that a worker process makes: as `benchmark.py input` prints it.
        workers: Of a GPU; by default as many as are needed.

    Example:

    >>> plan = Plan("base", epochs=400, gpus=8, step_rate=1200, input_rate=500)
    >>> round(plan.hours, 1), plan.workers_needed
    (14.8, 3)
    """

    size: str
    epochs: float
    gpus: int
    step_rate: float
    input_rate: float
    workers: int | None = None
    images: int = IMAGENET_TRAINING_IMAGES

    @property
    def workers_needed(self) -> int:
        """Workers of a GPU that never waits."""
        return workers_needed(self.step_rate, self.input_rate)

    @property
    def bottleneck(self) -> str:
        """What a GPU waits for, or `training` if for nothing: `input` or `training`."""
        if self.workers is not None and self.workers * self.input_rate < self.step_rate:
            return "input"
        return "training"

    @property
    def rate(self) -> float:
        """Images/s of a GPU."""
        if self.workers is None:
            return self.step_rate
        return min(self.step_rate, self.workers * self.input_rate)

    @property
    def hours(self) -> float:
        """Hours of training, without evaluation."""
        return self.epochs * self.images / (self.gpus * self.rate) / 3600

    @property
    def gpu_hours(self) -> float:
        """Hours of training, over all GPUs."""
        return self.hours * self.gpus

    @property
    def flops(self) -> float:
        """Operations a second that a GPU is asked for in matrix products."""
        return self.rate * training_flops(MAEForPreTraining, MAEConfig.from_size(self.size))

    def __str__(self) -> str:
        workers = self.workers_needed if self.workers is None else self.workers
        return "\n".join(
            [
                f"ViT-{self.size}, {self.epochs:g} epochs of {self.images:,} images on "
                f"{plural(self.gpus, 'GPU')}",
                f"  time        {self.hours:,.1f} hours, {self.gpu_hours:,.0f} GPU-hours, without "
                "evaluation",
                f"  training    {self.step_rate:,.0f} images/s a GPU at most",
                f"  input       {self.input_rate:,.0f} images/s a worker: {self.workers_needed} a "
                f"GPU needed, {workers} there",
                f"  bottleneck  {self.bottleneck} ({_WAITS[self.bottleneck]}): {self.rate:,.0f} "
                f"images/s a GPU, {self.flops / 1e12:,.1f} TFLOP/s of matrix products",
            ]
        )
