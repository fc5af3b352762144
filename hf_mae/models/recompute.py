# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Training in less memory: norms and activations are computed again instead of kept.

A block calls its modules in the ordinary way. Where a backward pass is to come and `can_stand_in`
says that nobody could tell, it takes `norm_and_project` and `activate_and_project` instead: the
same mathematics, of which the backward pass computes the cheap half, never a product, again.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.modules.module as torch_module
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers.activations import ACT2CLS


Kind = TypeVar("Kind", bound=nn.Module)

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_WITH_WEIGHTS = ("prelu", "xielu")  # activations that are more than a function of their input


def _find_forwards() -> dict[type, Callable[..., object]]:
    kinds = [nn.Conv2d, nn.LayerNorm, nn.Linear]
    for name, entry in ACT2CLS.items():
        if name not in _WITH_WEIGHTS:
            kinds.append(entry[0] if isinstance(entry, tuple) else entry)
    return {kind: kind.forward for kind in kinds}


# class → its forward, of what may be stood in for
_FORWARDS = _find_forwards()


def register(kind: type[Kind]) -> type[Kind]:
    """Decorates a class of ours whose forward may be stood in for."""
    _FORWARDS[kind] = kind.forward
    return kind


def can_stand_in(*modules: nn.Module) -> bool:
    """Whether a training step may compute again what these modules give, and leave them uncalled.

    So it is where a backward pass is to come and all of them `are_plain`. Transforms of torch.func
    end before their backward pass, and so refuse what is computed again.
    """
    return (
        modules[0].training
        and torch.is_grad_enabled()
        and not _transforms_are_active()
        and are_plain(*modules)
    )


def _transforms_are_active() -> bool:
    return peek_interpreter_stack() is not None


def are_plain(*modules: nn.Module) -> bool:
    """Whether modules, and all within them, are what their class says, their weights and no more.

    Calling such a module can be left out. Not plain are subclasses and modules in another's place
    (adapters, parametrizations), a forward that was replaced (offloading), hooks on the module or
    on all modules (captured outputs, pruning), and weights that are more than a tensor of floats
    (quantised, sharded, on meta).
    """
    return not _has_global_hooks() and all(map(_is_plain, modules))


def _has_global_hooks() -> bool:
    return bool(
        torch_module._global_forward_pre_hooks
        or torch_module._global_forward_hooks
        or torch_module._global_backward_pre_hooks
        or torch_module._global_backward_hooks
    )


def _is_plain(module: nn.Module) -> bool:
    kind, own = type(module), vars(module)
    return (
        _FORWARDS.get(kind) is kind.forward
        and "forward" not in own
        and not own.get("inplace", False)  # an activation, run twice, would change its input twice
        and not any(own[name] for name in _HOOKS)
        and all(map(_is_plain_weight, own["_parameters"].values()))
        and all(map(_is_plain, own["_modules"].values()))
    )


def _is_plain_weight(weight: Tensor | None) -> bool:
    if weight is None:
        return True
    return (
        type(weight) in (Tensor, nn.Parameter) and weight.is_floating_point() and not weight.is_meta
    )


def recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Computes function(*inputs), of which the backward pass keeps the inputs alone.

    It stops computing as soon as it has what it needs: of a norm or activation and the product that
    follows, the first only.
    """
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def norm_and_project(
    norm: nn.LayerNorm, linears: Sequence[nn.Linear], tokens: Tensor
) -> tuple[Tensor, ...]:
    """Computes `linear(norm(tokens))` for each of the linear layers, all as one product.

    Args:
        norm, linears: Modules for which `can_stand_in` holds.
        tokens: (B, N, D).

    Returns:
        One (B, N, D') for each linear layer.
    """
    # the weights of now: a module may have others when this is computed again
    # (torch.func.functional_call)
    shape, scale, shift, eps = norm.normalized_shape, norm.weight, norm.bias, norm.eps
    weights = [linear.weight for linear in linears]
    biases = [linear.bias for linear in linears]

    def run(tokens: Tensor) -> Tensor:
        normed = F.layer_norm(tokens, shape, scale, shift, eps)
        return F.linear(normed, _join_weights(weights), _join_biases(biases, weights))

    widths = [weight.shape[0] for weight in weights]
    return recomputed(run, tokens).split(widths, dim=-1)


def _join_weights(weights: Sequence[Tensor]) -> Tensor:
    return torch.cat([*weights]) if len(weights) > 1 else weights[0]


def _join_biases(biases: Sequence[Tensor | None], weights: Sequence[Tensor]) -> Tensor | None:
    """The biases side by side; zeros for a layer that has none beside others that do."""
    if all(bias is None for bias in biases):
        return None
    pairs = zip(biases, weights)
    whole = [weight.new_zeros(len(weight)) if bias is None else bias for bias, weight in pairs]
    return _join_weights(whole)


def activate_and_project(activation: nn.Module, linear: nn.Linear, hidden_states: Tensor) -> Tensor:
    """Computes `linear(activation(hidden_states))`.

    Args:
        activation, linear: Modules for which `can_stand_in` holds.
        hidden_states: (B, N, D).
    """
    weight, bias = linear.weight, linear.bias  # those of now, as above

    def run(hidden_states: Tensor) -> Tensor:
        return F.linear(activation(hidden_states), weight, bias)

    return recomputed(run, hidden_states)
