# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The mathematics of a Masked Autoencoder as pure tensor functions.

Letters in the shape comments: B images, C channels, H x W pixels, p x q pixels a patch, N patches,
V visible and M masked
patches (N = V + M), D width.
"""

import torch
from torch.nn import functional as F


# added to a patch's variance by norm_pix_loss, as in the authors' code
NORM_PIX_EPS = 1e-6


def patchify(pixel_values, patch_size):
    """Cuts images into patches, row by row.

    Args:
        pixel_values: (B, C, H, W).
        patch_size: (p, q); H must be a multiple of p and W of q.

    Returns:
        (B, N, p * q * C), the values of a patch ordered by row, column, channel.

    Example:

    >>> patchify(torch.zeros(2, 3, 32, 64), (8, 8)).shape
    torch.Size([2, 32, 192])
    """
    return _patch_grid(pixel_values, patch_size).flatten(3).flatten(1, 2)


def take_patches(pixel_values, patch_size, ids):
    """Some of the patches: `gather_tokens(patchify(pixel_values, patch_size), ids)`, copied once
    and no others.

    Args:
        pixel_values, patch_size: As for `patchify`.
        ids: (B, K), numbers of patches.

    Returns:
        (B, K, p * q * C).
    """
    grid = _patch_grid(pixel_values, patch_size)
    images = torch.arange(len(ids), device=ids.device).unsqueeze(1)  # (B, 1)
    return grid[images, ids // grid.shape[2], ids % grid.shape[2]].flatten(2)


def _patch_grid(pixel_values, patch_size):
    """A view (B, H/p, W/q, p, q, C) of images."""
    (height, width), (p, q) = pixel_values.shape[2:], patch_size
    if height % p or width % q:
        raise ValueError(
            f"pixel_values are {height} x {width} pixels; they must be a multiple of the patch, "
            f"{p} x {q}"
        )
    return pixel_values.unflatten(3, (-1, q)).unflatten(2, (-1, p)).permute(0, 2, 4, 3, 5, 1)


def unpatchify(patches, patch_size, image_size):
    """Puts patches back together: the inverse of `patchify`.

    Args:
        patches: (B, N, p * q * C).
        patch_size: (p, q).
        image_size: (H, W) in pixels.

    Returns:
        (B, C, H, W).
    """
    (p, q), (height, width) = patch_size, image_size
    rows, columns = height // p, width // q
    if patches.shape[1] != rows * columns:
        raise ValueError(
            f"{patches.shape[1]} patches don't make {height} x {width} pixels: that is {rows} x "
            f"{columns}"
        )
    pixels = patches.reshape(len(patches), rows, columns, p, q, -1)
    pixels = pixels.permute(0, 5, 1, 3, 2, 4)  # (B, C, H/p, p, W/q, q)
    return pixels.reshape(len(patches), -1, height, width)


def gather_tokens(tokens, ids):
    """tokens (B, N, D), ids (B, K) → (B, K, D): each image's own choice of tokens."""
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def sincos_position_table(grid_size, width):
    """Fixed 2-D sine-cosine positions behind an all-zero row for the class token.

    A patch's vector is [sin(x w) | cos(x w) | sin(y w) | cos(y w)], x its column and y its row, w =
    10000^(-i / (D/4)). (The column comes first: so do the published weights have it.)

    Args:
        grid_size: Patches (down, across).
        width: D, a multiple of 4.

    Returns:
        (1, 1 + N, D), float32.

    Example:

    >>> sincos_position_table((14, 14), 768).shape
    torch.Size([1, 197, 768])
    """
    rows, columns = (torch.arange(n, dtype=torch.float64, device="cpu") for n in grid_size)
    steps = torch.arange(width // 4, dtype=torch.float64, device="cpu") / (width // 4)
    frequencies = 10000.0**-steps  # (D/4,)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in (x, y)]  # 2 x (N, D/4)
    table = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    return F.pad(table, (0, 0, 1, 0)).unsqueeze(0).float()


def resize_position_table(table, old_grid, new_grid):
    """Bicubic resize of a position table to another grid, in two dimensions; the class row stays.

    Args:
        table: (1, 1 + N, D).
        old_grid, new_grid: Patches (down, across).

    Returns:
        (1, 1 + N', D), of the table's dtype.
    """
    if tuple(old_grid) == tuple(new_grid):
        return table
    width = table.shape[-1]
    patches = table[:, 1:].reshape(1, *old_grid, width).permute(0, 3, 1, 2)  # (1, D, rows, columns)
    patches = F.interpolate(
        patches.float(), size=tuple(new_grid), mode="bicubic", align_corners=False
    )
    patches = patches.permute(0, 2, 3, 1).reshape(1, -1, width)
    return torch.cat([table[:, :1], patches.to(table.dtype)], dim=1)


def drop_path(branch, rate, noise):
    """Stochastic depth (arXiv 1603.09382): a residual branch is left out for some samples, and
    scaled up for the others.

    Args:
        branch: (B, N, D).
        rate: Share of samples to leave it out for, in [0, 1).
        noise: (B,), uniform in [0, 1): below `rate` it is left out.
    """
    kept = (noise >= rate) / (1 - rate)
    return branch * kept.to(branch.dtype).view(-1, 1, 1)


def patch_statistics(patches):
    """Mean and standard deviation of every patch (…, 1): what norm_pix_loss normalises by
    (unbiased, as the authors')."""
    mean = patches.mean(dim=-1, keepdim=True)
    variance = patches.var(dim=-1, keepdim=True)
    return mean, (variance + NORM_PIX_EPS).sqrt()


def pixel_target(patches, norm_pix_loss):
    """What the decoder should predict for patches (…, p * q * C): their pixels, normalised a patch
    if asked for.

    (MAE paper, Section 3, "Reconstruction target".)
    """
    patches = patches.float()
    if not norm_pix_loss:
        return patches
    # (patches - mean) / std of patch_statistics, in one pass: layer_norm's variance is the biased
    # one, (n - 1) / n as large
    size = patches.shape[-1]
    biased = (size - 1) / size
    return F.layer_norm(
        patches, (size,), patches.new_full((size,), biased**0.5), eps=NORM_PIX_EPS * biased
    )


def patch_losses(pred, target):
    """Mean squared error of every patch: (…, p * q * C) twice → (…)."""
    return (pred.float() - target.float()).square().mean(dim=-1)


def masked_losses(pred, target, mask):
    """Mean squared error over the removed patches of each image (MAE paper, Section 3).

    Args:
        pred, target: (B, N, p * q * C).
        mask: (B, N), 1 for removed patches; at least one in every image.

    Returns:
        (B,); where all images mask equally many patches, its mean is the loss.
    """
    return (patch_losses(pred, target) * mask).sum(dim=1) / mask.sum(dim=1)


def baseline_losses(target, mask):
    """What two predictors without a network lose on the removed patches of each image.

    Args:
        target: (B, N, p * q * C), as from `pixel_target`.
        mask: (B, N), 1 for removed patches; in every image at least one of each kind.

    Returns:
        visible_mean (B,): predicts the mean of the visible patches everywhere; best_constant (B,):
        predicts the one patch that is best for this image, the mean of the removed ones, which it
        can't know.
    """
    losses = []
    for known in (1 - mask, mask):
        weights = known.unsqueeze(-1) / known.sum(dim=1)[:, None, None]  # (B, N, 1)
        guess = (target * weights).sum(dim=1, keepdim=True)  # (B, 1, p * q * C)
        losses.append(masked_losses(guess, target, mask))
    return tuple(losses)
