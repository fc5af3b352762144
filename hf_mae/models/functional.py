# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The mathematics of a Masked Autoencoder as pure tensor functions.

Letters in the shape comments are those of modeling_mae.py.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


# added to a patch's variance by norm_pix_loss, as in the authors' code
NORM_PIX_EPS = 1e-6


def patchify(pixel_values: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """Cuts images into patches, row by row.

    Args:
        pixel_values: (B, C, H, W).
        patch_size: (p, q).

    Returns:
        (B, N, p * q * C), the values of a patch ordered by row, column, channel.

    Raises:
        ValueError: H is no multiple of p, or W of q.

    Example:

    >>> patchify(torch.zeros(2, 3, 32, 64), (8, 8)).shape
    torch.Size([2, 32, 192])
    """
    return _patch_grid(pixel_values, patch_size).flatten(3).flatten(1, 2)


def take_patches(pixel_values: Tensor, patch_size: tuple[int, int], ids: Tensor) -> Tensor:
    """Cuts some of the patches out of images.

    That is `gather_tokens(patchify(pixel_values, patch_size), ids)`, with these patches copied once
    and no others.

    Args:
        pixel_values, patch_size: As for `patchify`.
        ids: (B, K), numbers of patches.

    Returns:
        (B, K, p * q * C).
    """
    grid = _patch_grid(pixel_values, patch_size)
    images = torch.arange(ids.shape[0], device=ids.device).unsqueeze(1)  # (B, 1)
    return grid[images, ids // grid.shape[2], ids % grid.shape[2]].flatten(2)


def _patch_grid(pixel_values: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """Views images as (B, H/p, W/q, p, q, C)."""
    (height, width), (p, q) = pixel_values.shape[2:], patch_size
    if height % p or width % q:
        raise ValueError(
            f"pixel_values are {height} x {width} pixels; they must be a multiple of the patch, "
            f"{p} x {q}"
        )
    return pixel_values.unflatten(3, (-1, q)).unflatten(2, (-1, p)).permute(0, 2, 4, 3, 5, 1)


def unpatchify(patches: Tensor, patch_size: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """Puts patches back together: the inverse of `patchify`.

    Args:
        patches: (B, N, p * q * C).
        patch_size: (p, q).
        image_size: (H, W) in pixels.

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: so many patches don't make such an image.
    """
    (p, q), (height, width) = patch_size, image_size
    rows, columns = height // p, width // q
    if patches.shape[1] != rows * columns:
        raise ValueError(
            f"{patches.shape[1]} patches don't make {height} x {width} pixels: that is {rows} x "
            f"{columns}"
        )
    pixels = patches.reshape(patches.shape[0], rows, columns, p, q, -1)
    pixels = pixels.permute(0, 5, 1, 3, 2, 4)  # (B, C, H/p, p, W/q, q)
    return pixels.reshape(patches.shape[0], -1, height, width)


def gather_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """Takes each image's own choice of tokens: (B, N, D), ids (B, K) → (B, K, D)."""
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def sincos_position_table(grid_size: tuple[int, int], width: int) -> Tensor:
    """Makes fixed 2-D sine-cosine positions, behind an all-zero row for the class token.

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
    x, y = (axis.reshape(-1, 1) * frequencies for axis in (x, y))  # (N, D/4)
    table = torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)
    return F.pad(table, (0, 0, 1, 0)).unsqueeze(0).float()


def resize_position_table(
    table: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]
) -> Tensor:
    """Resizes a position table to another grid, bicubic in two dimensions; the class row stays.

    Args:
        table: (1, 1 + N, D).
        old_grid, new_grid: Patches (down, across).

    Returns:
        (1, 1 + N', D), of the table's dtype; the table itself if the grids are the same.
    """
    # a program that is exported for any size has no number there, and resizes in every case
    known = all(isinstance(number, int) for number in new_grid)
    if known and tuple(old_grid) == tuple(new_grid):
        return table
    width = table.shape[-1]
    patches = table[:, 1:].reshape(1, *old_grid, width).permute(0, 3, 1, 2)  # (1, D, rows, columns)
    patches = F.interpolate(
        patches.float(), size=tuple(new_grid), mode="bicubic", align_corners=False
    )
    patches = patches.permute(0, 2, 3, 1).reshape(1, -1, width)
    return torch.cat([table[:, :1], patches.to(table.dtype)], dim=1)


def drop_path(branch: Tensor, rate: float, noise: Tensor) -> Tensor:
    """Leaves a residual branch out for some samples, and scales it up for the others.

    (Stochastic depth, arXiv 1603.09382.)

    Args:
        branch: (B, N, D).
        rate: Share of samples to leave it out for, in [0, 1).
        noise: (B,), uniform in [0, 1): below `rate` it is left out.
    """
    kept = (noise >= rate) / (1 - rate)
    return branch * kept.to(branch.dtype).view(-1, 1, 1)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Computes what norm_pix_loss normalises by: mean and deviation of every patch, (…, 1) each.

    The deviation is the unbiased one, as in the authors' code.
    """
    mean = patches.mean(dim=-1, keepdim=True)
    variance = patches.var(dim=-1, keepdim=True)
    return mean, (variance + NORM_PIX_EPS).sqrt()


def pixel_target(patches: Tensor, norm_pix_loss: bool) -> Tensor:
    """Computes what the decoder should predict for patches (…, p * q * C).

    That is their pixels, each patch normalised if asked for (MAE paper, Section 3, "Reconstruction
    target").
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


def patch_losses(pred: Tensor, target: Tensor) -> Tensor:
    """Computes the mean squared error of every patch: (…, p * q * C) twice → (…)."""
    return (pred.float() - target.float()).square().mean(dim=-1)


def masked_losses(pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Computes the mean squared error over the removed patches of each image.

    (MAE paper, Section 3.)

    Args:
        pred, target: (B, N, p * q * C).
        mask: (B, N), 1 for removed patches; at least one in every image.

    Returns:
        (B,); where all images mask equally many patches, its mean is the loss.
    """
    return (patch_losses(pred, target) * mask).sum(dim=1) / mask.sum(dim=1)


def baseline_losses(target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Computes what two predictors without a network lose on the removed patches of each image.

    Args:
        target: (B, N, p * q * C), in natural order, as `MAEForPreTraining` returns it.
        mask: (B, N), 1 for removed patches; in every image at least one of each kind.

    Returns:
        visible_mean (B,): predicts the mean of the visible patches everywhere; best_constant (B,):
        predicts the one patch that is best for this image, the mean of the removed ones, which it
        can't know.
    """
    visible_mean = masked_losses(_mean_patch(target, 1 - mask), target, mask)
    best_constant = masked_losses(_mean_patch(target, mask), target, mask)
    return visible_mean, best_constant


def _mean_patch(patches: Tensor, chosen: Tensor) -> Tensor:
    """The mean (B, 1, p * q * C) of those patches for which `chosen` (B, N) is 1."""
    weights = chosen / chosen.sum(dim=1, keepdim=True)  # (B, N)
    return (patches * weights.unsqueeze(-1)).sum(dim=1, keepdim=True)
