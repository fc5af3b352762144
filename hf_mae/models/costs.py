# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What a model costs to run: parameters, multiply-adds, floating-point operations, memory."""

import functools
import json
import math
import resource
import sys
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from .configuration_mae import MAEConfig
from .modeling_classification import MAEForImageClassification
from .modeling_mae import MAEForPreTraining, MAEModel


def count_flops(work):
    """Floating-point operations of the matrix products of a function without arguments, two a
    multiply-add."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def training_flops(model_class, config):
    """Floating-point operations that an image takes in training, forward and backward; nothing is
    computed.

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


@torch.no_grad()
def multiply_adds(model):
    """Multiply-adds of the forward pass of one image, as mmpretrain counts them.

    Matrix products count one a multiply-add, layer norms five a value; the rest is left out. Works
    on the meta device, where nothing is computed.

    Args:
        model: `MAEModel` or `MAEForImageClassification`.

    Example:

    >>> from hf_mae import MAEConfig, MAEModel
    >>> with torch.device("meta"):
    ...     model = MAEModel(MAEConfig())
    >>> f"{multiply_adds(model) / 1e9:.2f} G"
    '17.58 G'
    """
    config, training = model.config, model.training

    def layer_norm(shape, *args, **kwargs):
        return 2 * 5 * math.prod(shape)  # the counter counts a multiply-add as two

    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.native_layer_norm: layer_norm}
    )
    with counter:
        model.eval()(torch.empty(1, config.num_channels, *config.image_hw, device=model.device))
    model.train(training)
    return counter.get_total_flops() // 2


def peak_memory(device):
    """The most memory that was used so far, in bytes: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    text = status.read_text() if status.is_file() else ""
    if "VmHWM:" in text:  # Linux' getrusage counts in what the program that started this one had
        return int(text.split("VmHWM:")[1].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def count(config, architecture):
    """(parameters and positions, those of the encoder, multiply-adds) of a class of ours; nothing
    is computed.

    Multiply-adds are those of a classifier, and of the encoder of anything else.

    Example:

    >>> [f"{figure / 1e6:.2f}" for figure in count(MAEConfig(), "MAEForPreTraining")]
    ['111.91', '85.80', '17581.97']
    """
    return _count(config.to_json_string(), architecture)


@functools.lru_cache
def _count(config, architecture):
    classes = {c.__name__: c for c in (MAEForImageClassification, MAEForPreTraining, MAEModel)}
    with torch.device("meta"):
        model = classes[architecture](MAEConfig(**json.loads(config)))
    encoder = getattr(model, "vit", model)
    counts = [
        sum(
            tensor.numel()
            for name, tensor in part.state_dict().items()
            if not name.startswith("batch_norm.")
        )
        for part in (model, encoder)
    ]
    return *counts, multiply_adds(encoder if architecture == "MAEForPreTraining" else model)


def parameter_counts(model):
    """Parameters and position tables of the encoder and in all."""
    return tuple(
        sum(tensor.numel() for tensor in part.state_dict().values()) for part in (model.vit, model)
    )
