# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What a model costs to run, counted while it runs."""

import math

import torch
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def multiply_adds(model):
    """Multiply-adds of the forward pass of one image, as mmpretrain counts them.

    Matrix products count one a multiply-add, layer norms five a value; the rest is left out. Works on the meta device, where
    nothing is computed.

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

    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.native_layer_norm: layer_norm})
    with counter:
        model.eval()(torch.empty(1, config.num_channels, *config.image_hw, device=model.device))
    model.train(training)
    return counter.get_total_flops() // 2
