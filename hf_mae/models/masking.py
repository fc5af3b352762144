# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Which patches the encoder sees: masks, and the noise that decides them.

Everywhere a mask has 1 for a patch that is removed and 0 for a visible one. Letters in the shape
comments are those of modeling_mae.py.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .configuration_mae import MAEConfig


class Mask(NamedTuple):
    """Which patches of a batch are visible, as an order that puts those first.

    Attributes:
        ids_shuffle: (B, N), patch numbers, the V visible ones first.
        ids_restore: (B, N), its inverse: where each patch stands in that order.
        mask: (B, N) float32, 1 for removed patches and 0 for visible ones.
        num_visible: V, the same for every image.

    Example:

    >>> mask = given_masking(torch.tensor([[0, 1, 1, 0]]))
    >>> mask.ids_visible.tolist(), mask.ids_removed.tolist(), mask.num_visible
    ([[0, 3]], [[1, 2]], 2)
    """

    ids_shuffle: Tensor
    ids_restore: Tensor
    mask: Tensor
    num_visible: int

    @property
    def ids_visible(self) -> Tensor:
        """(B, V), numbers of the visible patches."""
        return self.ids_shuffle[:, : self.num_visible]

    @property
    def ids_removed(self) -> Tensor:
        """(B, M), numbers of the removed patches."""
        return self.ids_shuffle[:, self.num_visible :]


def choose_mask(
    config: MAEConfig,
    grid_size: tuple[int, int],
    batch_size: int,
    device: torch.device,
    noise: Tensor | None = None,
    mask_ratio: float | None = None,
    bool_masked_pos: Tensor | None = None,
) -> Mask | None:
    """The mask that a model is asked for, or None if nothing is to be removed.

    Args:
        config: Says how many patches are removed if noise is given alone, and how masks are drawn
            if it isn't.
        grid_size: Patches down and across.
        batch_size: B.
        device: Where noise is drawn, if none is given.
        noise, mask_ratio, bool_masked_pos: As for `MAEModel`.

    Raises:
        ValueError: a shape is wrong, the mask is given twice, or it is impossible.
    """
    shape = (batch_size, math.prod(grid_size))  # (B, N)
    for name, given in (("noise", noise), ("bool_masked_pos", bool_masked_pos)):
        if given is not None and given.shape != shape:
            raise ValueError(
                f"{name} has shape {tuple(given.shape)}; expected (batch, patches) {shape}"
            )
    if mask_ratio is not None and not 0 <= mask_ratio < 1:
        raise ValueError(f"mask_ratio is {mask_ratio}; it must be in [0, 1)")
    if bool_masked_pos is not None:
        if noise is not None or mask_ratio is not None:
            raise ValueError(
                "bool_masked_pos is the mask; noise and mask_ratio can't be given beside it"
            )
        return given_masking(bool_masked_pos)
    if noise is None and mask_ratio is None:
        return None
    if noise is None:
        strategy = MaskStrategy.of(config)
        places = torch.rand((batch_size, strategy.num_places(grid_size)), device=device)
        noise = strategy.arrange(places, grid_size)
    return random_masking(noise, config.mask_ratio if mask_ratio is None else mask_ratio)


def random_masking(noise: Tensor, mask_ratio: float) -> Mask:
    """Removes the patches with the greatest noise.

    (MAE paper, Section 3, "Simple implementation".)

    Args:
        noise: (B, N), one number a patch; uniform noise gives uniform random masks.
        mask_ratio: Share of patches to remove; int(N * (1 - mask_ratio)) stay. At 0 the order is
            the natural one.

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
    return _sort(noise, num_visible)


def given_masking(bool_masked_pos: Tensor) -> Mask:
    """Removes the patches that are given; visible ones keep their natural order.

    Args:
        bool_masked_pos: (B, N), true for patches to remove, equally many in every image.

    Raises:
        ValueError: the images have different mask counts, or no patch would stay visible.
    """
    masked = bool_masked_pos.bool()
    num_patches = masked.shape[1]
    counts = masked.sum(dim=1)  # (B,)
    num_masked = int(counts[0].item()) if masked.shape[0] else 0
    if torch.compiler.is_compiling():  # what follows from numbers is checked when the graph runs
        torch.ops.aten._assert_async.msg(
            (counts == num_masked).all(), "images mask different numbers of patches"
        )
        torch._check(num_masked >= 0)
        torch._check(num_masked < num_patches)
    elif bool((counts != num_masked).any()):
        raise ValueError(
            f"bool_masked_pos masks {counts.tolist()} patches; every image of a batch must mask "
            "equally many"
        )
    elif num_masked == num_patches:
        raise ValueError(
            f"bool_masked_pos masks all {num_patches} patches; at least one must stay visible"
        )
    return _sort(masked.long(), num_patches - num_masked)


def _sort(order: Tensor, num_visible: int) -> Mask:
    """The mask whose visible patches are those with the smallest `order` (B, N)."""
    numbers = torch.arange(order.shape[1], device=order.device).expand(order.shape)
    # stable, so that equal numbers keep the patches' natural order on every device
    if torch.compiler.is_exporting():  # ONNX has no stable sort
        ids_restore = _ranks(order)
        ids_shuffle = _inverse(ids_restore, numbers)
    else:
        ids_shuffle = torch.argsort(order, dim=1, stable=True)
        ids_restore = _inverse(ids_shuffle, numbers)
    mask = (ids_restore >= num_visible).to(torch.float32)
    return Mask(ids_shuffle, ids_restore, mask, num_visible)


def _inverse(ids: Tensor, numbers: Tensor) -> Tensor:
    """The inverse of permutations (B, N), without a second sort."""
    return torch.empty_like(ids).scatter_(1, ids, numbers)


def _ranks(order: Tensor) -> Tensor:
    """Where each of (B, N) stands among the others, by comparing every pair."""
    mine, others = order.unsqueeze(2), order.unsqueeze(1)  # (B, N, 1) and (B, 1, N)
    earlier = torch.ones(order.shape[1], order.shape[1], device=order.device).tril(-1).bool()
    before = (others < mine) | ((others == mine) & earlier)  # (B, N, N)
    return before.sum(dim=2)


# noise -------------------------------------------------------------------------------------------


class MaskStrategy(NamedTuple):
    """How noise is made of uniform numbers, and so which patches are removed together.

    Another strategy is another name in `MASK_STRATEGIES` of the configuration and another branch
    here: the data, the models, the scripts and the benchmarks draw by this class.

    Attributes:
        name: `"random"`, uniform noise; or `"block"`: every place where a block may lie, over the
            border too, has a uniform number, and a patch the greatest of the blocks that cover it.
            So the patches of a block go together, and any mask ratio is met exactly: the last block
            loses what is too much. With a side of 1 it is uniform noise.
        block_size: Side of a block in patches; None for `block_side` of the grid.

    Example:

    >>> noise = MaskStrategy("block").draw(1, (4, 4), seed=2)
    >>> random_masking(noise, mask_ratio=0.5).mask.view(4, 4).int().tolist()
    [[0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1]]
    """

    name: str = "random"
    block_size: int | None = None

    @classmethod
    def of(cls, config: MAEConfig) -> "MaskStrategy":
        """The strategy of a model."""
        return cls(config.mask_strategy, config.mask_block_size)

    def num_places(self, grid_size: tuple[int, int]) -> int:
        """Uniform numbers that an image's noise is made of."""
        return math.prod(self._grid_of_places(grid_size))

    def arrange(self, places: Tensor, grid_size: tuple[int, int]) -> Tensor:
        """Makes noise (B, N) of uniform numbers (B, `num_places`)."""
        if self.name == "random":
            return places
        grid = places.view(-1, 1, *self._grid_of_places(grid_size))
        return F.max_pool2d(grid, self._side(grid_size), stride=1).flatten(1)

    def draw(
        self, batch_size: int, grid_size: tuple[int, int], seed: int | torch.Generator
    ) -> Tensor:
        """Draws noise (B, N), the same on every machine; the seed is as for `seeded_noise`."""
        return self.arrange(seeded_noise(batch_size, self.num_places(grid_size), seed), grid_size)

    def _grid_of_places(self, grid_size: tuple[int, int]) -> tuple[int, int]:
        if self.name == "random":
            return grid_size
        over = self._side(grid_size) - 1
        return grid_size[0] + over, grid_size[1] + over

    def _side(self, grid_size: tuple[int, int]) -> int:
        return self.block_size or block_side(grid_size)


def block_side(grid_size: tuple[int, int]) -> int:
    """The usual side of a block, in patches: a quarter of the grid's shorter side, at least 2.

    On the usual grid of 14 x 14 that is 4, the smallest block of BEiT (Bao et al., 2021) and the
    block of Pixio (facebookresearch, 2025).
    """
    return max(2, round(min(grid_size) / 4))


def mask_noise(config: MAEConfig, rng: np.random.Generator) -> Tensor:
    """Noise (N,) that decides one sample's mask, by the model's strategy."""
    strategy = MaskStrategy.of(config)
    places = rng.random((1, strategy.num_places(config.grid_size)), dtype=np.float32)
    return strategy.arrange(torch.from_numpy(places), config.grid_size)[0]


def seeded_noise(batch_size: int, num_patches: int, seed: int | torch.Generator) -> Tensor:
    """Uniform noise (B, N) that decides a batch's masks, the same on every machine.

    Args:
        batch_size: B.
        num_patches: N.
        seed: Of a generator on the CPU; or such a generator, which may have drawn before.

    Example:

    >>> bool((seeded_noise(2, 196, seed=0) == seeded_noise(2, 196, seed=0)).all())
    True
    """
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    return torch.rand(batch_size, num_patches, generator=generator)
