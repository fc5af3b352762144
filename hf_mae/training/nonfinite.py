# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Keeps losses that are not finite away from the weights."""

import torch

from ..errors import NonFiniteLossError


class NonFiniteGuard:
    """Looks at the loss of each update, on all processes, before the optimizer makes it.

    A fused optimizer is told on the device to leave the weights as they are, and the host, which
    would else have to wait for the device every update, hears of it one update later. Other
    optimizers wait.

    Args:
        args: `ImageTrainingArguments`.
        accelerator: `accelerate.Accelerator`.
    """

    def __init__(self, args, accelerator):
        self.args, self.accelerator = args, accelerator
        self.skipped = 0  # updates, with --nonfinite skip
        self._finite = torch.ones((), dtype=torch.bool, device=args.device)
        self._last_finite_loss = torch.zeros((), device=args.device)
        self._indices = []
        self._pending = None

    def record_loss(self, loss, indices):
        """Notes the loss of a forward pass of the update and its samples; returns what to log.

        In the log's mean the last finite loss stands in for one that isn't.
        """
        self._indices.append(indices)
        finite = torch.isfinite(loss)
        self._finite &= finite
        self._last_finite_loss = torch.where(finite, loss, self._last_finite_loss)
        return self._last_finite_loss

    def before_update(self, step, model, optimizer):
        """To be called before the optimizer's step; `optimizer` may be accelerate's.

        Raises:
            NonFiniteLossError: the loss of the update before (with an optimizer that isn't fused,
                of this one) is not finite and the run is to stop at such.
        """
        self.wait_for_verdict()  # the update before; what this one says is under way on the device
        optimizer = getattr(optimizer, "optimizer", optimizer)
        bad = self.accelerator.reduce((~self._finite).float(), reduction="sum").clamp(max=1)
        on_gpu = self.args.device.type == "cuda"
        verdict = torch.stack([bad, self._finite.float()]).to("cpu", non_blocking=on_gpu)
        done = torch.cuda.current_stream().record_event() if on_gpu else None
        self._pending = verdict, done, step, self._indices
        self._finite, self._indices = torch.ones_like(self._finite), []
        if self.accelerator.scaler is not None:  # of fp16, which drops the update by itself
            return
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = bad  # what the scaler would tell it
        elif self.wait_for_verdict():
            model.zero_grad(
                set_to_none=True
            )  # the optimizer passes over parameters without gradients

    def wait_for_verdict(self):
        """Waits for the verdict on the last update; true if its loss was not finite.

        Raises:
            NonFiniteLossError: so it was, and the run is to stop at such.
        """
        if self._pending is None:
            return False
        (verdict, done, step, indices), self._pending = self._pending, None
        if done is not None:
            done.synchronize()
        bad, finite_here = verdict.tolist()
        if not bad:
            return False
        if self.args.nonfinite == "raise":
            samples = torch.cat(indices).tolist()
            shown = ", ".join(map(str, samples[:64])) + (", …" if len(samples) > 64 else "")
            raise NonFiniteLossError(
                f"the loss of step {step} is not finite "
                + ("on another process" if finite_here else f"(training samples {shown})")
                + "; the weights are as they were after the step before. Lower the "
                "learning rate, train in bf16 or fp32 "
                "instead of fp16, look at the images, or drop such updates by --nonfinite skip"
            )
        self.skipped += 1
        return True
