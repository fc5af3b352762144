# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Keeps losses and gradients that are not finite away from the weights."""

from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from ..errors import NonFiniteLossError
from .arguments import ImageTrainingArguments


_REMEDY = "Lower the learning rate, train in bf16 or fp32 instead of fp16, or look at the images"


class _Verdict(NamedTuple):
    """What is known of an update once its numbers have reached the host.

    Attributes:
        flags: (4,), whether the update's loss is not finite on some process, whether it is not
            finite on this one, whether its gradient isn't, and whether some process is to stop.
        done: CUDA event of when `flags` are there; None where the host has them at once.
        step: Number of the update.
        indices: Its samples.
    """

    flags: torch.Tensor
    done: Any
    step: int
    indices: list[torch.Tensor]


class NonFiniteGuard:
    """Looks at loss and gradient of each update, on all processes, before the optimizer makes it.

    A fused optimizer is told on the device to leave the weights as they are, and the host, which
    would else have to wait for the device every update, hears of it one update later. Other
    optimizers wait. On the same way goes whether a process was asked to stop, so that all stop
    after the same update.

    In fp16 the scaler looks at gradients: it drops an update and lowers its scale, which is no
    fault and isn't counted.

    Args:
        args: `ImageTrainingArguments`.
        accelerator: `accelerate.Accelerator`.

    Attributes:
        skipped: Updates that were dropped, with `args.nonfinite == "skip"`.
        is_stopping: Whether the run is to stop at the end of this update.
    """

    def __init__(self, args: ImageTrainingArguments, accelerator: Accelerator):
        self.args, self.accelerator = args, accelerator
        self.skipped, self._in_a_row = 0, 0
        self.is_stopping = False
        self._finite = torch.ones((), dtype=torch.bool, device=args.device)
        self._gradient_norm = torch.zeros((), device=args.device)
        self._last_finite_loss = torch.zeros((), device=args.device)
        self._indices: list[torch.Tensor] = []
        self._pending: _Verdict | None = None
        self._model: nn.Module | None = None

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

    def record_gradient_norm(self, norm: torch.Tensor | float | None) -> None:
        """Notes the norm of the update's gradient, over all processes and before clipping.

        DeepSpeed doesn't tell it, and looks at gradients by itself.
        """
        if norm is None:
            return
        whole: Any = getattr(norm, "full_tensor", lambda: norm)()  # of gradients that are sharded
        self._gradient_norm = torch.as_tensor(whole, device=self.args.device).float()

    def before_update(
        self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, asked_to_stop: bool
    ) -> None:
        """Looks at an update before the optimizer makes it.

        Args:
            step: Number of the update.
            model: What is trained.
            optimizer: torch's, or accelerate's around it.
            asked_to_stop: Whether this process was.

        Raises:
            NonFiniteLossError: the loss or gradient of the update before (with an optimizer that
                isn't fused, of this one) is not finite, and the run is to stop at such or has
                dropped `args.max_skipped` in a row.
        """
        self.wait_for_verdict()  # the update before; what this one says is under way on the device
        optimizer = getattr(optimizer, "optimizer", optimizer)
        on_gpu, self._model = self.args.device.type == "cuda", model
        stop = torch.full_like(self._gradient_norm, float(asked_to_stop))
        bad_here = (~self._finite).float()
        on_any: Any = self.accelerator.reduce(torch.stack([bad_here, stop]), reduction="sum")
        bad_loss, stop = on_any.clamp(max=1)
        bad_gradient = (~torch.isfinite(self._gradient_norm)).float()
        if self.accelerator.scaler is not None:
            bad_gradient = torch.zeros_like(bad_gradient)
        flags = torch.stack([bad_loss, bad_here, bad_gradient, stop])
        flags = flags.to("cpu", non_blocking=on_gpu)
        done = torch.cuda.current_stream().record_event() if on_gpu else None
        self._pending = _Verdict(flags, done, step, self._indices)
        self._finite, self._indices = torch.ones_like(self._finite), []
        if self.accelerator.scaler is not None:  # of fp16, which drops the update by itself
            return
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            # what the scaler would tell it
            optimizer.found_inf = torch.maximum(bad_loss, bad_gradient)  # pyright: ignore[reportAttributeAccessIssue]
        elif self.wait_for_verdict():
            # the optimizer passes over parameters without gradients
            model.zero_grad(set_to_none=True)

    def wait_for_verdict(self) -> bool:
        """Waits for the verdict on the last update.

        Returns:
            Whether its loss or gradient was not finite.

        Raises:
            NonFiniteLossError: so it was, and the run is to stop.
        """
        verdict, self._pending = self._pending, None
        if verdict is None:
            return False
        if verdict.done is not None:
            verdict.done.synchronize()
        bad_loss, bad_here, bad_gradient, stop = verdict.flags.tolist()
        self.is_stopping |= bool(stop)
        if not (bad_loss or bad_gradient):
            self._in_a_row = 0
            return False
        what = f"the loss of step {verdict.step} is finite and its gradient is not"
        if bad_loss:
            where = "on another process"
            if bad_here:
                where = f"(training samples {_first_numbers(verdict.indices)})"
            what = f"the loss of step {verdict.step} is not finite {where}"
        if self.args.nonfinite == "raise":
            raise NonFiniteLossError(
                f"{what}; {self._state_of_weights()}. {_REMEDY}, or drop such updates by "
                "--nonfinite skip"
            )
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= self.args.max_skipped:
            raise NonFiniteLossError(
                f"{what}, and {self._in_a_row} updates in a row were dropped for that "
                f"(max_skipped); {self._state_of_weights()}. {_REMEDY}"
            )
        return True

    def _state_of_weights(self) -> str:
        names = nonfinite_weights(self._model) if self._model is not None else []
        if names:
            return f"the weights were not finite before it ({names[0]}): start from others"
        return "the weights are as they were after the step before"


def nonfinite_weights(model: nn.Module) -> list[str]:
    """Names the parameters and buffers whose values are not all finite; of shards, those here."""
    names, finite = [], []
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        values: Any = tensor.detach()
        values = values.to_local() if hasattr(values, "to_local") else values
        if values.is_floating_point():
            names.append(name)
            finite.append(torch.isfinite(values).all())
    if not finite:
        return []
    verdicts = torch.stack(finite).tolist()
    return [name for name, is_finite in zip(names, verdicts) if not is_finite]


def _first_numbers(indices: list[torch.Tensor]) -> str:
    numbers = torch.cat(indices).tolist()
    more = ", …" if len(numbers) > 64 else ""
    return ", ".join(map(str, numbers[:64])) + more
