# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""timm's augmentation under our seeds: RandAugment, random erasing, mixup and CutMix."""

import contextlib
import random
import re

import numpy as np
import torch
from PIL import Image
from timm.data import Mixup
from timm.data.auto_augment import posterize, rand_augment_transform
from timm.data.mixup import mixup_target


def erase(pixel_values, erased):
    """Puts noise over boxes of images (B, C, H, W), in place; `erased` has (top, left, noise) or None for each."""
    for image, box in zip(pixel_values, erased):
        if box is not None:
            top, left, noise = box
            image[:, top : top + noise.shape[1], left : left + noise.shape[2]] = noise


def _rand_augment(policy, image_hw, mean):
    if not re.fullmatch(r"rand(-(m\d+|n\d+|p[\d.]+|mstd[\d.]+|mmax\d+|inc[01]|t\w+))+", policy):
        raise ValueError(
            f"auto_augment is {policy!r}; it must be a policy of timm's RandAugment (rand-m9-…) or 'none'"
        )
    if len(mean) not in (1, 3):
        raise ValueError(
            f"auto_augment works on 1 or 3 channels and the model has {len(mean)}; pass --auto_augment none"
        )
    fill = tuple(min(255, round(255 * value)) for value in mean)
    augment = rand_augment_transform(
        policy,
        {
            "translate_const": int(min(image_hw) * 0.45),
            "img_mean": fill if len(fill) == 3 else fill[0],
            "interpolation": Image.Resampling.BICUBIC,
        },
    )
    for op in augment.ops:
        if op.name.startswith("Posterize"):
            op.aug_fn = _posterize
    return augment


def _posterize(image, bits, **kwargs):
    # RandAugment's increasing magnitudes go down to 0 bits, which is a black picture; Pillow 13 refuses to make that
    return posterize(image, bits, **kwargs) if bits > 0 else Image.new(image.mode, image.size)


@contextlib.contextmanager
def global_generators(rng):
    """Makes the generators of random, numpy and torch (CPU) follow from `rng`, and leaves them as they were.

    For libraries that draw from those.
    """
    seed = int(rng.integers(2**32))
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


class PairMixing:
    """Mixup and CutMix with label smoothing (MAE paper, Table 9), by timm, of samples 0 and 1, 2 and 3, … of a batch.

    The authors draw one mixing a batch; here each pair has its own, drawn from its first sample's `mix_seed`. An image is
    mixed as often and as much, and what becomes of it doesn't depend on how samples are spread over batches, processes and
    accumulation steps.

    Args:
        num_labels: Classes.
        mixup, cutmix: Alpha of the Beta distribution of their shares; 0 for none. With both, each half of the time.
        label_smoothing: Share of a label that is spread over all classes.

    Example:

    >>> mix = PairMixing(num_labels=10, mixup=0.8, cutmix=1.0, label_smoothing=0.1)
    >>> pixel_values, targets = mix(torch.rand(4, 3, 32, 32), torch.tensor([3, 1, 4, 1]), mix_seed=[9, 2, 6, 5])
    >>> targets.shape, targets.sum(dim=1).round(decimals=3)
    (torch.Size([4, 10]), tensor([1., 1., 1., 1.]))
    """

    def __init__(self, num_labels, mixup, cutmix, label_smoothing):
        self.num_labels = num_labels
        self.label_smoothing = label_smoothing
        mixes = mixup > 0 or cutmix > 0
        self.mix = (
            Mixup(mixup, cutmix, label_smoothing=label_smoothing, num_classes=num_labels)
            if mixes
            else None
        )

    def __call__(self, pixel_values, labels, mix_seed):
        """pixel_values (B, C, H, W), labels (B,), B seeds → mixed pixel_values, targets (B, num_labels)."""
        if self.mix is None:
            return pixel_values, mixup_target(
                labels, self.num_labels, smoothing=self.label_smoothing
            )
        if len(labels) % 2:
            raise ValueError(f"mixup and cutmix mix pairs: a batch of {len(labels)} is odd")
        mixed = []
        for pair, seed in zip(range(0, len(labels), 2), mix_seed[::2]):
            with global_generators(np.random.default_rng(seed)):
                mixed.append(
                    self.mix(pixel_values[pair : pair + 2].clone(), labels[pair : pair + 2])
                )
        images, targets = zip(*mixed)
        return torch.cat(images), torch.cat(targets)
