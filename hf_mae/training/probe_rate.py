# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The learning rate of a linear probe on cached features, chosen by trying: it costs seconds."""

import math
from collections.abc import Sequence

import torch
from timm.optim.lars import Lars

from ..data.feature_samples import FeatureSamples
from ..models.modeling_classification import MAEForImageClassification
from ..models.problem_types import SINGLE_LABEL
from .optimization import lars_groups, scaled_learning_rate, warmup_cosine


# learning rates of 256 images, a third of a power of ten apart around the paper's 0.1
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_MOST_UPDATES = 500  # of a try
_HELD_OUT = 5  # every so manieth image
_WARMUP = 0.1  # of a try


def choose_rate(
    model: MAEForImageClassification,
    samples: FeatureSamples,
    batch_size: int,
    num_updates: int,
    seed: int,
) -> tuple[float, dict[float, float]]:
    """Tries learning rates on four fifths of the training features, and measures on the rest.

    The model is left as it is. All processes that have the same features choose the same.

    Args:
        model: Whose head is trained, from its present weights.
        samples: The training features.
        batch_size: Images of an update.
        num_updates: Updates of the run; a try has at most 500.
        seed: Decides which features are held out, and their order.

    Returns:
        The best of `RATES`, and what each reached: the accuracy, or of what aren't classes minus
        the loss.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(samples), generator=generator)
    held_out = order[::_HELD_OUT]
    kept = torch.ones(len(samples), dtype=torch.bool)
    kept[held_out] = False
    train = order[kept[order]]
    batch_size = min(batch_size, len(train))
    updates = min(num_updates, _MOST_UPDATES)
    batches = _draw_batches(train, batch_size, updates, generator)
    before = {}
    for name, tensor in model.state_dict().items():
        if not name.startswith("vit."):
            before[name] = tensor.clone()
    reached = {}
    for rate in RATES:
        _train(model, samples, batches, scaled_learning_rate(rate, batch_size))
        reached[rate] = _measure(model, samples, held_out)
        model.load_state_dict(before, strict=False)
    best = max(reached.values())
    return min(rate for rate, value in reached.items() if value == best), reached


def _draw_batches(
    train: torch.Tensor, batch_size: int, updates: int, generator: torch.Generator
) -> list[torch.Tensor]:
    """Draws the images of each update, pass by pass in new orders."""
    orders, per_pass = [], len(train) // batch_size
    for _ in range(-(-updates // per_pass)):
        order = torch.randperm(len(train), generator=generator)[: per_pass * batch_size]
        orders.append(train[order])
    return list(torch.cat(orders).split(batch_size))[:updates]


def _train(
    model: MAEForImageClassification,
    samples: FeatureSamples,
    batches: Sequence[torch.Tensor],
    peak: float,
) -> None:
    model.train()
    device = model.classifier.weight.device
    # timm's annotation takes a momentum for a whole number
    optimizer = Lars(lars_groups(model, 0.0), peak, 0.9)  # pyright: ignore[reportArgumentType]
    for step, numbers in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = peak * warmup_cosine(step, 1, len(batches), _WARMUP * len(batches))
        features, labels = samples.features[numbers].to(device), samples.labels[numbers].to(device)
        loss = model(features=features, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def _measure(
    model: MAEForImageClassification, samples: FeatureSamples, numbers: torch.Tensor
) -> float:
    model.eval()
    device = model.classifier.weight.device
    features, labels = samples.features[numbers].to(device), samples.labels[numbers].to(device)
    output = model(features=features, labels=labels)
    if not math.isfinite(output.loss.item()):
        return -math.inf
    if model.problem_type == SINGLE_LABEL:
        return (output.logits.argmax(dim=1) == labels).double().mean().item()
    return -output.loss.item()
