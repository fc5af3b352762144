# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Training in less memory: norms and activations are computed again instead of kept.

A block calls its modules in the ordinary way. Where a backward pass is to come and `can_stand_in`
says that nobody could tell, it takes `norm_and_project` and `activate_and_project` instead: the
same mathematics, of which the backward pass computes the cheap half, never a product, again.

So it is on the CPU. A GPU is so fast that it would wait for the host, which has to start all that
is computed again: there, and where a model is compiled, everything is kept as autograd keeps it,
and `gradient_checkpointing` saves memory.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.modules.module as torch_module
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F
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
        type(weight) in (Tensor, nn.Parameter, FakeTensor)
        and weight.is_floating_point()
        and not weight.is_meta
    )


Gradients = Callable[[Tensor], Sequence[Tensor | None]]


class Norm(NamedTuple):
    """layer_norm of tokens, by a scale and a shift that may be None.

    `again` computes it once more, with what makes gradients of the inputs of a gradient of its own.
    """

    shape: tuple[int, ...]
    eps: float

    def __call__(self, tokens: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        return F.layer_norm(tokens, self.shape, scale, shift, self.eps)

    def again(
        self, tokens: Tensor, scale: Tensor | None, shift: Tensor | None
    ) -> tuple[Tensor, Gradients]:
        features, mean, rstd = torch.native_layer_norm(tokens, self.shape, scale, shift, self.eps)

        def gradients(gradient: Tensor) -> tuple[Tensor | None, ...]:
            given = [True, scale is not None, shift is not None]
            return torch.ops.aten.native_layer_norm_backward(
                gradient.to(features.dtype), tokens, self.shape, mean, rstd, scale, shift, given
            )

        return features, gradients


class Activation(NamedTuple):
    """An activation of tokens, which is computed again under the autocast that there was."""

    function: nn.Module
    autocast: tuple[str, torch.dtype, bool]

    def __call__(self, tokens: Tensor) -> Tensor:
        return self.function(tokens)

    def again(self, tokens: Tensor) -> tuple[Tensor, Gradients]:
        if getattr(self.function, "act", None) is F.gelu:  # in half the time of what follows
            return F.gelu(tokens), lambda gradient: [torch.ops.aten.gelu_backward(gradient, tokens)]
        twice = torch.is_grad_enabled()  # the backward pass is to be differentiated itself
        inputs = tokens if twice else tokens.detach().requires_grad_()
        with torch.enable_grad(), torch.autocast(*self.autocast):
            features = self.function(inputs)

        def gradients(gradient: Tensor) -> tuple[Tensor, ...]:
            gradient = gradient.to(features.dtype)
            return torch.autograd.grad(features, inputs, gradient, create_graph=twice)

        return features, gradients


_keeps = False


@contextlib.contextmanager
def everything_kept() -> Iterator[None]:
    """Keeps everything on a CPU too, as a GPU does, for as long as the block runs."""
    global _keeps
    before, _keeps = _keeps, True
    try:
        yield
    finally:
        _keeps = before


def recomputed(
    cheap: Norm | Activation,
    inputs: Sequence[Any],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
) -> Tensor:
    """Computes linear layers of cheap(*inputs), side by side, as one product.

    On the CPU the backward pass keeps the inputs, the weights and the biases alone, and computes
    what is cheap again.

    Args:
        cheap: What comes before the product.
        inputs: Tokens (B, N, D), and what else it takes.
        weights: (D', D) of each linear layer.
        biases: (D',) of each, or None.

    Returns:
        (B, N, the sum of D').
    """
    if _keeps or torch.compiler.is_compiling() or weights[0].device.type != "cpu":
        return project(cheap(*inputs), weights, biases)
    return _Recomputed.apply(cheap, len(inputs), *inputs, *weights, *biases)


def project(features: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor:
    """Applies linear layers side by side, as `recomputed` does."""
    return F.linear(features, _join(weights), _join_biases(biases, weights))


def _join(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([*parts]) if len(parts) > 1 else parts[0]


def _join_biases(biases: Sequence[Tensor | None], weights: Sequence[Tensor]) -> Tensor | None:
    """The biases side by side; zeros for a layer that has none beside others that do."""
    if all(bias is None for bias in biases):
        return None
    pairs = zip(biases, weights)
    whole = [weight.new_zeros(len(weight)) if bias is None else bias for bias, weight in pairs]
    return _join(whole)


class _Recomputed(torch.autograd.Function):
    """What `recomputed` does; torch's own checkpoint keeps the host busy for much longer."""

    @staticmethod
    def forward(ctx: Any, cheap: Norm | Activation, num_inputs: int, *tensors: Any) -> Tensor:
        ctx.cheap, ctx.num_inputs = cheap, num_inputs
        ctx.save_for_backward(*tensors)
        inputs, weights, biases = _take_apart(tensors, num_inputs)
        return project(cheap(*inputs), weights, biases)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (gradient,) = gradients  # (B, N, the sum of D')
        inputs, weights, biases = _take_apart(ctx.saved_tensors, ctx.num_inputs)
        features, gradients_of = ctx.cheap.again(*inputs)  # (B, N, D)
        of_inputs: Sequence[Tensor | None] = [None] * len(inputs)
        if any(map(_is_wanted, inputs)):
            of_inputs = gradients_of(gradient @ _join(weights).to(gradient.dtype))
        rows, widths = gradient.flatten(0, -2), [len(weight) for weight in weights]
        of_weights: Sequence[Tensor | None] = [None] * len(weights)
        if any(map(_is_wanted, weights)):
            columns = features.to(gradient.dtype).flatten(0, -2)
            of_weights = (rows.t() @ columns).split(widths)
        of_biases: Sequence[Tensor | None] = [None] * len(biases)
        if any(map(_is_wanted, biases)):
            parts = zip(biases, rows.sum(dim=0).split(widths))
            of_biases = [None if bias is None else part for bias, part in parts]
        return (None, None, *of_inputs, *of_weights, *of_biases)


def _take_apart(tensors: Sequence[Any], num_inputs: int) -> tuple[Any, Any, Any]:
    """Inputs, weights and biases."""
    end = (num_inputs + len(tensors)) // 2
    return tensors[:num_inputs], tensors[num_inputs:end], tensors[end:]


def _is_wanted(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad


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
    weights = [linear.weight for linear in linears]
    biases = [linear.bias for linear in linears]
    cheap, inputs = Norm(norm.normalized_shape, norm.eps), (tokens, norm.weight, norm.bias)
    product = recomputed(cheap, inputs, weights, biases)
    return product.split([len(weight) for weight in weights], dim=-1)


def activate_and_project(activation: nn.Module, linear: nn.Linear, hidden_states: Tensor) -> Tensor:
    """Computes `linear(activation(hidden_states))`.

    Args:
        activation, linear: Modules for which `can_stand_in` holds.
        hidden_states: (B, N, D).
    """
    kind = hidden_states.device.type
    autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
    cheap = Activation(activation, autocast)
    return recomputed(cheap, [hidden_states], [linear.weight], [linear.bias])
