# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Training in less memory: norms and activations are computed again in the backward pass instead of
kept."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def recomputed(function, *inputs):
    """function(*inputs), of which the backward pass keeps the inputs alone.

    It stops computing as soon as it has what it needs: of a norm or activation and the product that
    follows, the first only.
    """
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def norm_and_map(norm, *linears):
    """A function of tokens: LayerNorm and linear layers side by side, as one product.

    Its weights are those of now: a module may have others when it is recomputed
    (torch.func.functional_call).
    """
    scale, shift, eps = norm.weight, norm.bias, norm.eps
    weights, biases = [linear.weight for linear in linears], [linear.bias for linear in linears]

    def run(tokens):
        return F.linear(
            F.layer_norm(tokens, scale.shape, scale, shift, eps), _joined(weights), _joined(biases)
        )

    return run


def _joined(parts):
    return torch.cat(parts) if len(parts) > 1 and parts[0] is not None else parts[0]


def _trains_plainly(*modules):
    """Whether a backward pass is to come, and modules are their weights and biases alone.

    Adapters, quantisation and hooks (pruning) may compute or draw more.
    """
    return modules[0].training and torch.is_grad_enabled() and all(map(_is_plain, modules))


def _is_plain(module):
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    own = vars(module)
    return (
        type(module) in (nn.Linear, nn.LayerNorm)
        and "forward" not in own
        and not any(own[name] for name in hooks)
    )
