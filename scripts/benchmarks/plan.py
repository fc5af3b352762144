# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""How long a pre-training run will take, from rates that were measured, and what it will wait
for."""

from dataclasses import dataclass

from hf_mae.models.configuration_mae import MAEConfig
from hf_mae.models.costs import training_flops
from hf_mae.models.modeling_mae import MAEForPreTraining

from .timing import workers_needed


IMAGENET_TRAINING_IMAGES = 1_281_167  # training images of ImageNet-1k


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
    def workers_needed(self):
        """Of a GPU, that it doesn't wait."""
        return workers_needed(self.step_rate, self.input_rate)

    @property
    def bottleneck(self):
        return (
            "input"
            if self.workers is not None and self.workers * self.input_rate < self.step_rate
            else "training"
        )

    @property
    def rate(self):
        """Images/s of a GPU."""
        return self.workers * self.input_rate if self.bottleneck == "input" else self.step_rate

    @property
    def hours(self):
        return self.epochs * self.images / (self.gpus * self.rate) / 3600

    @property
    def gpu_hours(self):
        return self.hours * self.gpus

    @property
    def flops(self):
        """Operations a second that a GPU is asked for in matrix products."""
        return self.rate * training_flops(MAEForPreTraining, MAEConfig.from_size(self.size))

    def __str__(self):
        workers = self.workers_needed if self.workers is None else self.workers
        waits = {"training": "input waits for training", "input": "training waits for input"}[
            self.bottleneck
        ]
        return (
            f"ViT-{self.size}, {self.epochs:g} epochs of {self.images:,} images on {self.gpus} "
            f"GPU{'s' * (self.gpus > 1)}\n"
            f"  time        {self.hours:,.1f} hours, {self.gpu_hours:,.0f} GPU-hours, without "
            "evaluation\n"
            f"  training    {self.step_rate:,.0f} images/s a GPU at most\n"
            f"  input       {self.input_rate:,.0f} images/s a worker: {self.workers_needed} a GPU "
            f"needed, {workers} there\n"
            f"  bottleneck  {self.bottleneck} ({waits}): {self.rate:,.0f} images/s a GPU, "
            f"{self.flops / 1e12:,.1f} TFLOP/s "
            "of matrix products"
        )
