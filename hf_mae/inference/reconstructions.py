# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What a model makes of images of which it sees a part: masks to choose from, and pictures.

Letters in the shape comments are those of modeling_mae.py.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from ..errors import DECODE_ERRORS, own_words
from ..models.configuration_mae import MASK_STRATEGIES, MAEConfig
from ..models.functional import patchify, unpatchify
from ..models.image_processing_mae import MAEImageProcessor
from ..models.masking import MaskStrategy, random_masking
from ..models.modeling_mae import MAEForPreTraining
from ..models.pictures import open_picture, to_pixels


if TYPE_CHECKING:  # takes seconds to import
    from matplotlib.figure import Figure


BORROWED = "norm_pix_loss: the brightness and contrast of each patch are the original's"
_GREY = 128
_WHITE_FROM = 128
_TILE = 1.8  # inches

Source = Any  # of an image: path, address, bytes, PIL image, array


def plot_reconstructions(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    images: Source | Sequence[Source],
    mask: Source | None = None,
    mask_ratio: float | None = None,
    seeds: Sequence[int] = (0,),
) -> "Figure":
    """Hides a part of each image, and draws what a model makes of the rest.

    A row is an image: as it is, and then for each seed masked, reconstructed (all patches as the
    model draws them) and pasted (the visible patches as they are, its drawing in the holes).

    Args:
        model: `MAEForPreTraining`, with a decoder; it is left in the mode and on the device that it
            is.
        processor: Its image processor.
        images: One or several: paths, addresses, PIL images, arrays.
        mask: `"random"`; `"block"`, squares of patches; or a picture, as a path, PIL image or
            array, whose white parts are hidden, in all images the same. By default as in the
            model's pre-training.
        mask_ratio: Share of patches to hide; by default the model's own.
        seeds: Of the masks that are drawn. A picture has one alone.

    Raises:
        ValueError: the model has no decoder, or the mask hides nothing, everything, or can't be
            read; or an image can't.

    Example:

    >>> from hf_mae import MAEConfig
    >>> config = MAEConfig.from_size("tiny", image_size=32, patch_size=4)
    >>> model, processor = MAEForPreTraining(config), MAEImageProcessor.from_model_config(config)
    >>> photo = np.zeros((40, 60, 3), np.uint8)
    >>> figure = plot_reconstructions(model, processor, photo, mask="block", seeds=[0, 1])
    >>> [axis.get_title() for axis in figure.axes][:4]
    ['original', 'masked, seed 0', 'reconstructed', 'pasted']
    """
    pretrained = check_decoder(model)
    pixel_values = processor(cast(Any, images), return_tensors="pt").pixel_values.to(
        pretrained.device
    )
    ours = cast(MAEImageProcessor, processor)
    return draw_reconstructions(pretrained, ours, pixel_values, mask, mask_ratio, seeds)


def draw_reconstructions(
    model: MAEForPreTraining,
    processor: MAEImageProcessor,
    pixel_values: Tensor,
    mask: Source | None = None,
    mask_ratio: float | None = None,
    seeds: Sequence[int] = (0,),
) -> "Figure":
    """Draws what `plot_reconstructions` does, of pixel values (B, C, H, W) on the model's device.

    Raises:
        ValueError: as there, of the mask.
    """
    if not seeds:
        raise ValueError("seeds is empty; give one seed or more")
    is_drawn = mask is None or (isinstance(mask, str) and mask in MASK_STRATEGIES)
    if not is_drawn and (len(seeds) > 1 or mask_ratio is not None):
        raise ValueError("mask is a picture; mask_ratio and several seeds can't be given beside it")
    titles, masks = [], []
    for seed in seeds:
        if is_drawn:
            masks.append(draw_masks(model, len(pixel_values), mask, mask_ratio, seed))
        else:
            own = read_mask(mask, model.config.grid_size)
            masks.append(own.flatten().expand(len(pixel_values), -1))
        titles.append("masked" if len(seeds) == 1 else f"masked, seed {seed}")
    was_training = model.training
    model.eval()
    try:
        return _draw(model, processor, pixel_values, masks, titles)
    finally:
        model.train(was_training)


def reconstruction_panel(
    model: MAEForPreTraining,
    processor: MAEImageProcessor,
    pixel_values: Tensor,
    noise: Tensor | None = None,
) -> "Figure":
    """Draws a row an image: original, masked, reconstructed, pasted, as `plot_reconstructions`.

    Args:
        model: `MAEForPreTraining`.
        processor: Its image processor.
        pixel_values: (B, C, H, W), normalised, on the model's device.
        noise: (B, N), decides the masks; by default drawn as in the model's pre-training.

    Returns:
        `matplotlib.figure.Figure`. Images that aren't grey or RGB are shown as the mean of their
        channels.
    """
    if noise is None:
        seed = int(torch.randint(2**63 - 1, ()))
        noise = _strategy(model.config).draw(len(pixel_values), model.config.grid_size, seed)
    removed = random_masking(noise, model.config.mask_ratio).mask.bool()
    return _draw(model, processor, pixel_values, [removed], ["masked"])


def check_decoder(model: Any) -> MAEForPreTraining:
    """Returns the model if it can fill in what it doesn't see.

    Raises:
        ValueError: it can't.
    """
    if isinstance(model, MAEForPreTraining):
        return model
    raise ValueError(
        f"a {type(model).__name__} has no decoder, and can't fill in patches; load a pre-training "
        "model as MAEForPreTraining"
    )


# masks -------------------------------------------------------------------------------------------


def draw_masks(
    model: MAEForPreTraining, count: int, kind: str | None, mask_ratio: float | None, seed: int
) -> Tensor:
    """Draws masks for so many images: booleans (B, N), true for patches that are hidden.

    Args:
        model: For its patch grid and its own mask ratio.
        count: B.
        kind: `"random"` or `"block"`, of as many patches; None for the model's own.
        mask_ratio: Share of patches to hide; None for the model's own.
        seed: Decides the masks.

    Raises:
        ValueError: no patch would stay visible.
    """
    config = model.config
    noise = _strategy(config, kind).draw(count, config.grid_size, seed)
    ratio = config.mask_ratio if mask_ratio is None else mask_ratio
    return random_masking(noise, ratio).mask.bool()


def _strategy(config: MAEConfig, kind: str | None = None) -> MaskStrategy:
    if kind in (None, config.mask_strategy):
        return MaskStrategy.of(config)
    return MaskStrategy(kind)


def read_mask(picture: Source, grid_size: tuple[int, int]) -> Tensor:
    """Reads which patches are hidden out of a picture: those that are more white than black.

    Args:
        picture: Path, PIL image or array; it is stretched to the patch grid.
        grid_size: Patches down and across.

    Returns:
        Booleans of the grid, true for patches that are hidden.

    Raises:
        ValueError: it can't be read, or hides nothing or everything.

    Example:

    >>> drawn = np.zeros((60, 60), np.uint8)
    >>> drawn[:30, :30] = 255
    >>> read_mask(drawn, (4, 4)).int().tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    """
    try:
        is_name = isinstance(picture, (str, os.PathLike))
        opened = open_picture(picture) if is_name else picture
        pixels = to_pixels(_without_transparency(opened), 1)[:, :, 0]
    except DECODE_ERRORS as error:
        raise ValueError(f"the mask can't be read: {own_words(error)}") from error
    rows, columns = grid_size
    grid = Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BOX)
    hidden = torch.from_numpy(np.array(grid) >= _WHITE_FROM)
    if hidden.all() or not hidden.any():
        found = "everything" if hidden.all() else "nothing"
        raise ValueError(
            f"the mask hides {found}: of the {rows} x {columns} patches those that are more white "
            "than black are hidden; there must be some of both"
        )
    return hidden


def _without_transparency(picture: Any) -> Any:
    """Puts a picture on black: what is left transparent is not hidden."""
    if isinstance(picture, Image.Image) and picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture)
    return picture


# pictures ----------------------------------------------------------------------------------------


class Reconstructions(NamedTuple):
    """Pictures of a batch, all (B, H, W, C) uint8.

    Attributes:
        masked: The images, grey where they are hidden.
        reconstructed: As the model draws them, visible patches too.
        pasted: The visible patches as they are, the model's in the holes.
    """

    masked: np.ndarray
    reconstructed: np.ndarray
    pasted: np.ndarray


def reconstruct_images(
    model: MAEForPreTraining,
    processor: MAEImageProcessor,
    pixel_values: Tensor,
    removed: Tensor,
) -> Reconstructions:
    """Fills in what is hidden.

    Args:
        model: In evaluation mode.
        processor: Its image processor.
        pixel_values: (B, C, H, W), normalised, on the model's device.
        removed: (B, N), true for patches that are hidden, equally many in every image.
    """
    removed = removed.to(pixel_values.device)
    result = model.reconstruct(pixel_values, bool_masked_pos=removed)
    originals = processor.post_process_reconstruction(pixel_values)
    hidden = _removed_pixels(removed, model.config.patch_hw, pixel_values)
    return Reconstructions(
        masked=np.where(hidden, _GREY, originals).astype(np.uint8),
        reconstructed=processor.post_process_reconstruction(cast(Tensor, result.predicted)),
        pasted=processor.post_process_reconstruction(cast(Tensor, result.images)),
    )


def displayable(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) as it is; of other channels their mean, (H, W)."""
    return image if image.shape[-1] == 3 else image.mean(axis=-1).round().astype(np.uint8)


def _draw(
    model: MAEForPreTraining,
    processor: MAEImageProcessor,
    pixel_values: Tensor,
    masks: list[Tensor],
    titles: list[str],
) -> "Figure":
    """Draws a row an image, three pictures a mask; `titles` are those of the masked ones."""
    from matplotlib.figure import Figure

    names, columns = ["original"], [processor.post_process_reconstruction(pixel_values)]
    for removed, title in zip(masks, titles):
        names += [title, "reconstructed", "pasted"]
        columns += reconstruct_images(model, processor, pixel_values, removed)
    height, width = pixel_values.shape[2:]
    size = (_TILE * len(names), _TILE * height / width * len(pixel_values) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(pixel_values), len(names), squeeze=False)
    for row, images in zip(axes, zip(*columns)):
        for axis, image in zip(row, images):
            axis.imshow(displayable(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axis.set_axis_off()
    for axis, name in zip(axes[0], names):
        axis.set_title(name)
    if model.config.norm_pix_loss:
        figure.supxlabel(BORROWED, fontsize=8)
    return figure


def _removed_pixels(removed: Tensor, patch_hw: tuple[int, int], pixel_values: Tensor) -> np.ndarray:
    """Turns a mask (B, N) into booleans (B, H, W, 1)."""
    patches = patchify(pixel_values[:, :1], patch_hw)
    height, width = pixel_values.shape[2:]
    pixels = unpatchify(removed.unsqueeze(-1).expand_as(patches), patch_hw, (height, width))
    return pixels.permute(0, 2, 3, 1).cpu().numpy()
