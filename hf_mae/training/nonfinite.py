# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Keeps losses that are not finite away from the weights."""

from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from ..errors import NonFiniteLossError
from .arguments import ImageTrainingArguments


class _Verdict(NamedTuple):
    """What is known of an update once its numbers have reached the host.

    Attributes:
        flags: (2,), whether the update's loss is not finite on some process, and is on this one.
        done: CUDA event of when `flags` are there; None where the host has them at once.
        step: Number of the update.
        indices: Its samples.
    """

    flags: torch.Tensor
    done: Any
    step: int
    indices: list[torch.Tensor]


class NonFiniteGuard:
    """Looks at the loss of each update, on all processes, before the optimizer makes it.

    A fused optimizer is told on the device to leave the weights as they are, and the host, which
    would else have to wait for the device every update, hears of it one update later. Other
    optimizers wait.

    Args:
        args: `ImageTrainingArguments`.
        accelerator: `accelerate.Accelerator`.

    Attributes:
        skipped: Updates that were dropped, with `args.nonfinite == "skip"`.
    """

    def __init__(self, args: ImageTrainingArguments, accelerator: Accelerator):
        self.args, self.accelerator = args, accelerator
        self.skipped = 0
        self._finite = torch.ones((), dtype=torch.bool, device=args.device)
        self._last_finite_loss = torch.zeros((), device=args.device)
        self._indices: list[torch.Tensor] = []
        self._pending: _Verdict | None = None

    def record_loss(self, loss: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Notes the loss of a forward pass of the update, and its samples.

        Args:
            loss: Scalar.
            indices: (B,).

        Returns:
            What to log: in the log's mean the last finite loss stands in for one that isn't.
        """
        self._indices.append(indices)
        finite = torch.isfinite(loss)
        self._finite &= finite
        self._last_finite_loss = torch.where(finite, loss, self._last_finite_loss)
        return self._last_finite_loss

    def before_update(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Looks at an update before the optimizer makes it.

        Args:
            step: Number of the update.
            model: What is trained.
            optimizer: torch's, or accelerate's around it.

        Raises:
            NonFiniteLossError: the loss of the update before (with an optimizer that isn't fused,
                of this one) is not finite and the run is to stop at such.
        """
        self.wait_for_verdict()  # the update before; what this one says is under way on the device
        optimizer = getattr(optimizer, "optimizer", optimizer)
        not_finite: Any = self.accelerator.reduce((~self._finite).float(), reduction="sum")
        bad = not_finite.clamp(max=1)  # on any process
        on_gpu = self.args.device.type == "cuda"
        flags = torch.stack([bad, self._finite.float()]).to("cpu", non_blocking=on_gpu)
        done = torch.cuda.current_stream().record_event() if on_gpu else None
        self._pending = _Verdict(flags, done, step, self._indices)
        self._finite, self._indices = torch.ones_like(self._finite), []
        if self.accelerator.scaler is not None:  # of fp16, which drops the update by itself
            return
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            # what the scaler would tell it
            optimizer.found_inf = bad  # pyright: ignore[reportAttributeAccessIssue]
        elif self.wait_for_verdict():
            # the optimizer passes over parameters without gradients
            model.zero_grad(set_to_none=True)

    def wait_for_verdict(self) -> bool:
        """Waits for the verdict on the last update.

        Returns:
            Whether its loss was not finite.

        Raises:
            NonFiniteLossError: so it was, and the run is to stop at such.
        """
        verdict, self._pending = self._pending, None
        if verdict is None:
            return False
        if verdict.done is not None:
            verdict.done.synchronize()
        bad, finite_here = verdict.flags.tolist()
        if not bad:
            return False
        if self.args.nonfinite == "raise":
            where = "on another process"
            if not finite_here:
                where = f"(training samples {_first_numbers(verdict.indices)})"
            raise NonFiniteLossError(
                f"the loss of step {verdict.step} is not finite {where}; the weights are as they "
                "were after the step before. Lower the learning rate, train in bf16 or fp32 "
                "instead of fp16, look at the images, or drop such updates by --nonfinite skip"
            )
        self.skipped += 1
        return True


def _first_numbers(indices: list[torch.Tensor]) -> str:
    numbers = torch.cat(indices).tolist()
    more = ", …" if len(numbers) > 64 else ""
    return ", ".join(map(str, numbers[:64])) + more
