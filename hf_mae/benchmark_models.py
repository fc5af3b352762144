# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""How fast a model trains and classifies, of what the machine can multiply, and in how much memory, beside the peers."""

import contextlib

import torch
from torch.utils.flop_counter import FlopCounterMode

from .benchmark_peers import CLASSIFIERS, PRETRAINING
from .optimization import parameter_groups


class TrainingStep:
    """Forward, backward and AdamW of one batch, as the Trainer does them.

    Args:
        name: A key of `PRETRAINING`.
        config: `MAEConfig`.
        batch: Images.
        device: `torch.device`.
        bf16: Whether to compute in bfloat16, by autocast.
        compiled: Whether to compile the forward and backward pass.
    """

    def __init__(self, name, config, batch, device, bf16=False, compiled=False):
        torch.manual_seed(0)
        model, self.loss = PRETRAINING[name](config)
        self.model = model.to(device).train()
        self.optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-4, betas=(0.9, 0.95), fused=True)
        self.pixel_values = torch.randn(batch, config.num_channels, *config.image_hw, device=device)
        self.autocast = torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
        if compiled:
            self.loss = torch.compile(self.loss)

    def __call__(self, *_):
        self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        _wait(self.pixel_values.device)

    def backward(self):
        with self.autocast:
            loss = self.loss(self.model, self.pixel_values)
        loss.backward()

    @property
    def num_parameters(self):
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


class Inference:
    """Logits of one batch, nothing else; arguments as `TrainingStep`, names of `CLASSIFIERS`."""

    def __init__(self, name, config, batch, device, bf16=False, compiled=False):
        torch.manual_seed(0)
        model, self.logits = CLASSIFIERS[name](config)
        self.model = model.to(device).eval()
        self.pixel_values = torch.randn(batch, config.num_channels, *config.image_hw, device=device)
        self.autocast = torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
        if compiled:
            self.logits = torch.compile(self.logits)

    @torch.inference_mode()
    def __call__(self, *_):
        with self.autocast:
            self.logits(self.model, self.pixel_values)
        _wait(self.pixel_values.device)


def _wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def step_flops(name, config, batch):
    """Floating-point operations of the matrix products of a forward and backward pass, counted on the meta device."""
    step = TrainingStep(name, config, batch, torch.device("meta"))
    with FlopCounterMode(display=False) as counter:
        step.backward()
    return counter.get_total_flops()
