# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Learning rate and weight decay as the paper has them."""

import math
import re


def scaled_learning_rate(base_learning_rate, total_batch_size):
    """The linear scaling rule: base * total batch / 256 (MAE paper, Appendix A.1).

    Args:
        total_batch_size: Images an update, over all processes and accumulation steps.

    Example:

    >>> scaled_learning_rate(1.5e-4, 4096)
    0.0024
    """
    return base_learning_rate * total_batch_size / 256


def warmup_cosine(step, steps_per_epoch, num_epochs, warmup_epochs, min_ratio=0.0):
    """Learning rate of a step over the peak: linear from 0 in the warm-up, then half a cosine down
    to `min_ratio`.

    (MAE paper, Table 8: 40 epochs of warm-up, cosine decay.)

    Args:
        step: Updates done so far.
        steps_per_epoch: Updates an epoch.
        num_epochs, warmup_epochs: Epochs, may be fractions; the warm-up must be the shorter.
        min_ratio: Final learning rate over the peak.
    """
    epoch = step / steps_per_epoch
    if epoch < warmup_epochs:
        return epoch / warmup_epochs
    progress = min(1.0, (epoch - warmup_epochs) / (num_epochs - warmup_epochs))
    return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(model, weight_decay):
    """Trainable parameters for an optimizer: matrices decay; biases, norms, tokens and position
    tables don't.

    Args:
        model: `torch.nn.Module`.
        weight_decay: 0.05 in the paper (Table 8).

    Returns:
        Two groups, `{"params": [...], "weight_decay": ...}`.
    """
    decay, no_decay = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            table = name.endswith(("_token", "position_embeddings", "decoder_pos_embed"))
            (no_decay if parameter.ndim < 2 or table else decay).append(parameter)
    return [
        {"params": decay, "weight_decay": weight_decay},
        {"params": no_decay, "weight_decay": 0.0},
    ]


def layer_decay_groups(model, weight_decay, layer_decay):
    """The groups of `parameter_groups` split by layer, each with a share of the learning rate (MAE
    paper, Table 9).

    The head has the whole learning rate, the last layer `layer_decay` of it, the one below
    `layer_decay ** 2`, and so on down to the embeddings.

    Args:
        model: `MAEForImageClassification`.
        weight_decay: 0.05 in the paper.
        layer_decay: 0.65 for ViT-Base, 0.75 for larger ones (the authors' code).

    Returns:
        Groups `{"params": [...], "weight_decay": ..., "lr_scale": ...}`.
    """
    num_layers = model.config.num_hidden_layers
    depths = {"vit.embeddings.": num_layers + 1}
    depths |= {f"vit.layers.{i}.": num_layers - i for i in range(num_layers)}
    depth_of = {
        id(parameter): next(
            (depth for prefix, depth in depths.items() if _plain(name).startswith(prefix)), 0
        )
        for name, parameter in model.named_parameters()
    }
    groups = []
    for group in parameter_groups(model, weight_decay):
        for depth in range(num_layers + 2):
            params = [
                parameter for parameter in group["params"] if depth_of[id(parameter)] == depth
            ]
            if params:
                groups.append({**group, "params": params, "lr_scale": layer_decay**depth})
    return groups


def _plain(name):
    """A parameter's name without what FSDP, torch.compile and activation checkpointing put into
    it."""
    return re.sub(r"(_fsdp_wrapped_module|_orig_mod|_checkpoint_wrapped_module)\.", "", name)


def lars_groups(model, weight_decay):
    """Groups for timm's `Lars` in which matrices adapt their learning rate and biases don't, as in
    the authors' code."""
    matrices, rest = parameter_groups(model, weight_decay)
    # timm adapts only what has weight decay, if not told so
    return [group for group in ({**matrices, "always_adapt": True}, rest) if group["params"]]
