# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Learning rate and weight decay as the paper has them.

Written here and not taken from the libraries, for these differ where we need them:

- transformers' `cosine_with_min_lr` takes whole warm-up steps: 25 instead of 25.5 is off by 0.02 of
  the peak. Past the end of the run its cosine goes up again, to 0.41 after a third more steps where
  ours stays at 0.1.
- timm's `param_groups_weight_decay` makes a single group where weight decay is 0, the linear
  probe's, and LARS has to tell the matrix from the bias.
- timm's `param_groups_layer_decay` finds the layers of timm's models only: without a method
  `group_matcher`, which transformers' models don't have, 4 of ViT-Base's 200 parameters get the
  authors' learning rate. Its groups come in another order than those of saved optimizer states.
"""

import math
import re
from collections import defaultdict
from typing import Any

from torch import nn

from ..models.modeling_classification import MAEForImageClassification


_MOST_EPOCHS = 1e6


def scaled_learning_rate(base_learning_rate: float, total_batch_size: int) -> float:
    """Applies the linear scaling rule: base * total batch / 256 (MAE paper, Appendix A.1).

    Args:
        base_learning_rate: Learning rate of 256 images.
        total_batch_size: Images an update, over all processes and accumulation steps.

    Example:

    >>> scaled_learning_rate(1.5e-4, 4096)
    0.0024
    """
    return base_learning_rate * total_batch_size / 256


def warmup_epochs(given: str | float | None, usual_share: float, num_epochs: float) -> float:
    """Says how many epochs the warm-up of a run takes.

    Args:
        given: Epochs; a share of the run, as "5%"; "auto" or None for the usual share.
        usual_share: Of the run.
        num_epochs: Epochs of the run.

    Raises:
        ValueError: it is none of these.

    Example:

    >>> warmup_epochs("auto", 0.05, 800), warmup_epochs("10%", 0.05, 20), warmup_epochs(3, 0.05, 20)
    (40.0, 2.0, 3.0)
    """
    text = "auto" if given is None else str(given).strip()
    if text == "auto":
        return usual_share * num_epochs
    try:
        is_share = text.endswith("%")
        number = float(text.removesuffix("%"))
    except ValueError:
        number, is_share = math.nan, False
    if not 0 <= number <= (100 if is_share else _MOST_EPOCHS):  # nan isn't
        raise ValueError(
            f"warmup_epochs is {given!r}; it must be at least 0 and a number of epochs, a share of "
            "the run, as 5%, or auto"
        )
    return number / 100 * num_epochs if is_share else number


def warmup_cosine(
    step: int,
    steps_per_epoch: int,
    num_epochs: float,
    warmup_epochs: float,
    min_ratio: float = 0.0,
) -> float:
    """Gives the learning rate of a step as a share of the peak.

    It goes up linearly from 0 in the warm-up, then half a cosine down to `min_ratio`, and stays
    there (MAE paper, Table 8: 40 epochs of warm-up, cosine decay).

    Args:
        step: Updates done so far.
        steps_per_epoch: Updates an epoch.
        num_epochs: Epochs of the run, may be a fraction.
        warmup_epochs: Epochs of the warm-up, may be a fraction; fewer than `num_epochs`.
        min_ratio: Final learning rate over the peak.

    Example:

    >>> [warmup_cosine(step, steps_per_epoch=1, num_epochs=6, warmup_epochs=2) for step in range(3)]
    [0.0, 0.5, 1.0]
    """
    epoch = step / steps_per_epoch
    if epoch < warmup_epochs:
        return epoch / warmup_epochs
    progress = min(1.0, (epoch - warmup_epochs) / (num_epochs - warmup_epochs))
    return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups trainable parameters for an optimizer by whether they decay.

    Matrices do; biases, norms, tokens and position tables don't.

    Args:
        model: Any of ours.
        weight_decay: 0.05 in the paper (Table 8).

    Returns:
        Two groups, those that decay first: `{"params": [...], "weight_decay": ...}`.
    """
    decay, no_decay = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_table = name.endswith(("_token", "position_embeddings", "decoder_pos_embed"))
        if parameter.ndim < 2 or is_table:
            no_decay.append(parameter)
        else:
            decay.append(parameter)
    return [
        {"params": decay, "weight_decay": weight_decay},
        {"params": no_decay, "weight_decay": 0.0},
    ]


def layer_decay_groups(
    model: MAEForImageClassification, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Splits `parameter_groups` by layer, each with a share of the learning rate.

    The head has the whole learning rate, the last layer `layer_decay` of it, the one below
    `layer_decay ** 2`, and so on down to the embeddings (MAE paper, Table 9).

    Args:
        model: `MAEForImageClassification`, also wrapped by FSDP or `torch.compile`.
        weight_decay: 0.05 in the paper.
        layer_decay: 0.65 for ViT-Base, 0.75 for larger ones (the authors' code).

    Returns:
        Groups `{"params": [...], "weight_decay": ..., "lr_scale": ...}`.
    """
    num_layers = model.config.num_hidden_layers
    depth_of = {}
    for name, parameter in model.named_parameters():
        depth_of[id(parameter)] = _depth_below_head(name, num_layers)
    groups = []
    for group in parameter_groups(model, weight_decay):
        params_at = defaultdict(list)
        for parameter in group["params"]:
            params_at[depth_of[id(parameter)]].append(parameter)
        for depth, params in sorted(params_at.items()):
            groups.append({**group, "params": params, "lr_scale": layer_decay**depth})
    return groups


def _depth_below_head(name: str, num_layers: int) -> int:
    """Gives 0 for the head, 1 for the last layer, `num_layers + 1` for the embeddings."""
    # without what FSDP, torch.compile and activation checkpointing put into names
    name = re.sub(r"(_fsdp_wrapped_module|_orig_mod|_checkpoint_wrapped_module)\.", "", name)
    if name.startswith("vit.embeddings."):
        return num_layers + 1
    layer = re.match(r"vit\.layers\.(\d+)\.", name)
    return num_layers - int(layer[1]) if layer else 0


def lars_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups trainable parameters for timm's `Lars`, as in the authors' code.

    Matrices adapt their learning rate and biases don't.

    Args:
        model: `MAEForImageClassification`.
        weight_decay: Of the matrices; 0 in the paper (Table 10).

    Returns:
        Groups for `timm.optim.Lars`; none is empty.
    """
    matrices, rest = parameter_groups(model, weight_decay)
    matrices["always_adapt"] = True  # else timm adapts only what has weight decay
    return [group for group in (matrices, rest) if group["params"]]
