# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Which patches the encoder sees. Everywhere a mask has 1 for a patch that is removed and 0 for a
visible one."""

import numpy as np
import torch


def random_masking(noise, mask_ratio):
    """Which patches the encoder sees: those with the smallest noise (MAE paper, Section 3, "Simple
    implementation").

    Args:
        noise: (B, N), one number a patch; uniform noise gives uniform random masks.
        mask_ratio: Share of patches to remove; int(N * (1 - mask_ratio)) stay. At 0 the order is
            the natural one.

    Returns:
        ids_shuffle (B, N): patch numbers, the V visible ones first; ids_restore (B, N): its
        inverse; mask (B, N): 0 for visible and 1 for removed patches; V.

    Raises:
        ValueError: no patch would stay visible.
    """
    num_patches = noise.shape[1]
    num_visible = int(num_patches * (1 - mask_ratio))
    if num_visible < 1:
        raise ValueError(
            f"mask_ratio is {mask_ratio}: of {num_patches} patches none would stay visible"
        )
    if num_visible == num_patches:
        noise = torch.arange(num_patches, device=noise.device).expand_as(noise)
    return *_shuffle(noise, num_visible), num_visible


def given_masking(bool_masked_pos):
    """The same as `random_masking` for masks that are given; visible patches keep their natural
    order.

    Args:
        bool_masked_pos: (B, N), true for patches to remove, equally many in every image.

    Raises:
        ValueError: the images have different mask counts, or no patch would stay visible.
    """
    masked = bool_masked_pos.bool()
    counts = masked.sum(dim=1).tolist()
    if len(set(counts)) > 1:
        raise ValueError(
            f"bool_masked_pos masks {counts} patches; every image of a batch must mask equally many"
        )
    num_patches = masked.shape[1]
    if counts and counts[0] == num_patches:
        raise ValueError(
            f"bool_masked_pos masks all {num_patches} patches; at least one must stay visible"
        )
    num_visible = num_patches - counts[0]
    return *_shuffle(masked.long(), num_visible), num_visible


def _shuffle(order, num_visible):
    # stable, so that equal numbers keep the patches' natural order on every device
    ids_shuffle = torch.argsort(order, dim=1, stable=True)
    numbers = torch.arange(ids_shuffle.shape[1], device=order.device).expand_as(ids_shuffle)
    ids_restore = torch.empty_like(ids_shuffle).scatter_(
        1, ids_shuffle, numbers
    )  # the inverse, without a second sort
    mask = (ids_restore >= num_visible).to(torch.float32)
    return ids_shuffle, ids_restore, mask


def mask_noise(num_patches, rng):
    """Uniform noise (N,) that decides a sample's mask."""
    return torch.from_numpy(rng.random(num_patches, dtype=np.float32))
