# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Which image size a state dict is for: the position table has as many rows as patches."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..models.functional import sincos_position_table


Shapes = Mapping[str, tuple[int, ...]]
_NEAR = 1 / 3  # of a sin-cos table's length: how far fine-tuning may have moved it


def find_image_size(tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> int | list[int]:
    """The image size whose grid the position table is of.

    It is the one that is `known` (what to say if it doesn't fit → the size, or None); else that of
    the only grid whose sin-cos table this is, or was before it was trained on.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    name = "vit.embeddings.position_embeddings"
    num_patches = tensor_shape(shapes, name, 3)[1] - 1  # of (1, 1 + N, D)
    patch = shapes["vit.embeddings.patch_embeddings.projection.weight"][2:]
    ((unfit, size),) = known.items()
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
        rows, columns = height // patch[0], width // patch[1]
        if rows * columns != num_patches:
            raise ValueError(
                f"{unfit}image_size is {height} x {width}, which is {rows} x {columns} patches of "
                f"{patch[0]} x {patch[1]} pixels, and the position table has {num_patches}"
            )
        return one_or_two([height, width])
    grids = _grids(num_patches)
    fitting = [grid for grid in grids if _is_near_sincos(tensors[name], grid)]
    if len(fitting) == 1:
        ((rows, columns),) = fitting
        return one_or_two([rows * patch[0], columns * patch[1]])
    sizes = [f"{rows * patch[0]} {columns * patch[1]}" for rows, columns in grids]
    raise ValueError(
        f"the position table has {num_patches} patches, and no tensor tells how they lie; give "
        f"--image_size (height and width), one of {', '.join(sizes)}"
    )


def _grids(num_patches: int) -> list[tuple[int, int]]:
    """All (rows, columns) of so many patches, the squarest first."""
    grids = []
    for rows in range(1, num_patches + 1):
        if num_patches % rows == 0:
            grids.append((rows, num_patches // rows))
    return sorted(grids, key=lambda grid: abs(grid[0] - grid[1]))


def _is_near_sincos(table: Tensor, grid: tuple[int, int]) -> bool:
    """Whether a table is the sin-cos one of a grid, as far as fine-tuning may have moved it.

    Tables of two grids are further from each other than a third of their length.
    """
    if table.shape[-1] % 4:
        return False
    expected = sincos_position_table(grid, table.shape[-1])[:, 1:]
    return bool((table[:, 1:].float() - expected).norm() < _NEAR * expected.norm())


def tensor_shape(shapes: Shapes, key: str, rank: int) -> tuple[int, ...]:
    """Reads the shape of a tensor that must be there, of so many dimensions."""
    if key not in shapes:
        raise ValueError(f"a tensor is missing, in our names {key}")
    if len(shapes[key]) != rank or 0 in shapes[key]:
        raise ValueError(
            f"a tensor, in our names {key}, is {shapes[key]}; it must have {rank} dimensions"
        )
    return shapes[key]


def one_or_two(sides: Sequence[int]) -> int | list[int]:
    """One number for equal sides, as the configuration has them."""
    return sides[0] if sides[0] == sides[-1] else list(sides)
