# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""How much memory a training step takes, foretold without running it.

The step is gone through once on tensors that have a shape and no content, and what they would take
is added up as they come and go: weights, gradients, the optimizer's moments and what the forward
pass keeps for the backward one. Left out are what a driver and its libraries take for themselves,
and what a kernel takes while it runs; `needed_on_gpu` adds an allowance for these.
"""

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .configuration_mae import MAEConfig
from .modeling_classification import MAEForImageClassification
from .modeling_mae import MAEForPreTraining
from .recompute import everything_kept


_MOMENTS = 2  # AdamW's, of each weight
_BLOCK = 512  # bytes, of which torch gives out whole ones
_GPU_BASE = 2**30  # bytes of the driver, its context and the libraries' work space
_GPU_SHARE = 0.05  # of what is foretold, for blocks that don't fit into the gaps, and error


class _Counted(TorchDispatchMode):
    """Adds up the storages that operators give out, for as long as anybody holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = -(-storage.nbytes() // _BLOCK) * _BLOCK
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, size).atexit = False

    def _release(self, size: int) -> None:
        self.now -= size


def training_memory(
    model_class: type[MAEForPreTraining] | type[MAEForImageClassification],
    config: MAEConfig,
    batch_size: int,
    bf16: bool = False,
    on_cpu: bool = False,
    prepare: Callable[[Any], object] | None = None,
) -> int:
    """Foretells the most bytes that tensors take at a time in training, of one process.

    Args:
        model_class: `MAEForPreTraining` or `MAEForImageClassification`.
        config: `MAEConfig`.
        batch_size: Images of a forward pass.
        bf16: Whether it computes in half precision, by autocast.
        on_cpu: Whether norms and activations are computed again instead of kept, as on a CPU.
        prepare: What is done with the model before it trains, as freezing a part of it.

    Example:

    >>> from hf_mae import MAEConfig, MAEForPreTraining
    >>> peak = training_memory(MAEForPreTraining, MAEConfig(), batch_size=256, bf16=True)
    >>> f"{peak / 2**30:.0f} GiB"
    '13 GiB'
    """
    with torch.device("meta"):
        model: Any = model_class(config.changed())
    if isinstance(model, MAEForImageClassification):  # labels without content don't say it
        own: Any = model.config
        own.problem_type = model.problem_type
    if prepare is not None:
        prepare(model)
    with (
        FakeTensorMode(allow_non_fake_inputs=True),  # the weights on meta
        _Counted() as counted,
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
        contextlib.nullcontext() if on_cpu else everything_kept(),
    ):
        model = model.to_empty(device="cpu").train()
        num_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        moments = torch.empty(_MOMENTS, num_trained)
        inputs = {"pixel_values": torch.empty(batch_size, config.num_channels, *config.image_hw)}
        if not isinstance(model, MAEForPreTraining):
            num_labels: Any = config.num_labels
            inputs["labels"] = torch.empty(batch_size, num_labels)
        model(**inputs).loss.backward()
        del moments
    return counted.peak


def needed_on_gpu(tensors: int) -> int:
    """Adds to the bytes of tensors what a GPU's driver and libraries take: 1 GiB, and 5 %."""
    return round(tensors * (1 + _GPU_SHARE)) + _GPU_BASE


def largest_batch(memory_of: Callable[[int], int], batch_size: int, limit: int) -> int:
    """Finds a batch that takes at most `limit` bytes; 0 if two images take more.

    What a batch takes grows evenly, or faster from some size on: what the line between two sizes
    says is at least what one in between takes.

    Args:
        memory_of: Batch size → bytes.
        batch_size: One that is as large as the answer may be.
        limit: Bytes.

    Example:

    >>> largest_batch(lambda batch: 100 + 7 * batch, batch_size=64, limit=200)
    14
    """
    least, most = memory_of(2), memory_of(batch_size)  # a batch norm takes no single image
    if least > limit:
        return 0
    if most <= limit:
        return batch_size
    return 2 + int((batch_size - 2) * (limit - least) / (most - least))
