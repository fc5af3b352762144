# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What a model costs to run: parameters, multiply-adds, floating-point operations, memory.

Nothing is computed where figures are counted: models are on the meta device.
"""

import functools
import json
import math
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .configuration_mae import MAEConfig
from .modeling_base import MAEPreTrainedModel
from .modeling_classification import MAEForImageClassification
from .modeling_mae import MAEForPreTraining, MAEModel


class Costs(NamedTuple):
    """What `count` counts.

    Attributes:
        parameters: Parameters and position tables.
        encoder_parameters: Those of the encoder.
        multiply_adds: Of one image's forward pass.
    """

    parameters: int
    encoder_parameters: int
    multiply_adds: int


def count(config: MAEConfig, architecture: str) -> Costs:
    """Counts parameters and multiply-adds of a class of ours.

    Args:
        config: `MAEConfig`.
        architecture: The class's name. Multiply-adds are those of a classifier, and of the encoder
            of anything else.

    Example:

    >>> [f"{figure / 1e6:.2f}" for figure in count(MAEConfig(), "MAEForPreTraining")]
    ['111.91', '85.80', '17581.97']
    """
    return _count(config.to_json_string(), architecture)


@functools.lru_cache
def _count(config: str, architecture: str) -> Costs:
    classes = {c.__name__: c for c in (MAEForImageClassification, MAEForPreTraining, MAEModel)}
    with torch.device("meta"):
        model = classes[architecture](MAEConfig(**json.loads(config)))
    encoder_parameters, parameters = parameter_counts(model)
    measured = model.vit if isinstance(model, MAEForPreTraining) else model
    return Costs(parameters, encoder_parameters, multiply_adds(measured))


def parameter_counts(model: MAEPreTrainedModel) -> tuple[int, int]:
    """Counts parameters and position tables: those of the encoder, and all."""
    return _count_parameters(getattr(model, "vit", model)), _count_parameters(model)


def _count_parameters(model: nn.Module) -> int:
    total = 0
    for name, tensor in model.state_dict().items():
        if not name.startswith("batch_norm."):  # has statistics, no parameters
            total += tensor.numel()
    return total


def multiply_adds(model: MAEPreTrainedModel) -> int:
    """Counts multiply-adds of the forward pass of one image, as mmpretrain does.

    Matrix products count one a multiply-add, layer norms five a value; the rest is left out.

    Args:
        model: `MAEModel` or `MAEForImageClassification`.

    Example:

    >>> from hf_mae import MAEConfig, MAEModel
    >>> with torch.device("meta"):
    ...     model = MAEModel(MAEConfig())
    >>> f"{multiply_adds(model) / 1e9:.2f} G"
    '17.58 G'
    """

    def count_layer_norm(shape: torch.Size, *args: Any, **kwargs: Any) -> int:
        return 2 * 5 * math.prod(shape)  # operations are two a multiply-add

    config, training = model.config, model.training
    image = torch.empty(1, config.num_channels, *config.image_hw, device=model.device)
    model.eval()
    with torch.no_grad():
        operations = count_flops(
            lambda: model(image), {torch.ops.aten.native_layer_norm: count_layer_norm}
        )
    model.train(training)
    return operations // 2


def training_flops(
    model_class: type[MAEForPreTraining] | type[MAEForImageClassification], config: MAEConfig
) -> int:
    """Counts floating-point operations that an image takes in training, forward and backward.

    Args:
        model_class: `MAEForPreTraining`, or another whose outputs have a `loss`.
        config: `MAEConfig`.

    Example:

    >>> from hf_mae import MAEConfig, MAEForPreTraining
    >>> f"{training_flops(MAEForPreTraining, MAEConfig()) / 1e9:.1f} G"
    '57.1 G'
    """
    with torch.device("meta"):
        model = model_class(config).train()
        images = torch.empty(1, config.num_channels, *config.image_hw)
    return count_flops(lambda: model(images).loss.backward())


def count_flops(
    work: Callable[[], object], others: dict[Any, Callable[..., int]] | None = None
) -> int:
    """Counts floating-point operations of matrix products, two a multiply-add.

    Args:
        work: Function without arguments; it is called once.
        others: Further operators to count → what each takes, by its arguments' shapes.

    Example:

    >>> count_flops(lambda: torch.empty(2, 3) @ torch.empty(3, 5))
    60
    """
    with FlopCounterMode(display=False, custom_mapping=others or {}) as counter:
        work()
    return counter.get_total_flops()


def peak_memory(device: torch.device) -> int:
    """Measures the most memory used so far, in bytes: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    text = status.read_text() if status.is_file() else ""
    if "VmHWM:" in text:  # Linux' getrusage counts in what the program that started this one had
        return int(text.split("VmHWM:")[1].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
