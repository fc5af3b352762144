# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Panels that show what a model makes of masked images, and curves of its training."""

import numpy as np
from matplotlib.figure import Figure

from ..models.functional import patchify, unpatchify


_GREY = 128


def reconstruction_panel(model, processor, pixel_values, noise=None):
    """A row an image: original, masked, reconstructed.

    Args:
        model: `MAEForPreTraining`.
        processor: Its image processor.
        pixel_values: (B, C, H, W), normalised, on the model's device.
        noise: (B, N), decides the masks.

    Returns:
        `matplotlib.figure.Figure`. Images that aren't grey or RGB are shown as the mean of their
        channels.
    """
    result = model.reconstruct(pixel_values, noise=noise)
    originals = processor.post_process_reconstruction(pixel_values)
    filled = processor.post_process_reconstruction(result.images)
    removed = _pixel_mask(result.mask, model.config.patch_hw, pixel_values)
    masked = np.where(removed, _GREY, originals).astype(np.uint8)

    figure = Figure(figsize=(5.4, 1.75 * len(originals) + 0.6), layout="constrained")
    axes = figure.subplots(len(originals), 3, squeeze=False)
    for row, images in zip(axes, zip(originals, masked, filled)):
        for axis, image in zip(row, images):
            axis.imshow(_displayable(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axis.set_axis_off()
    for axis, title in zip(axes[0], ("original", "masked", "reconstructed")):
        axis.set_title(title)
    if result.borrows_patch_statistics:
        figure.supxlabel(
            "norm_pix_loss: the brightness and contrast of each patch are the original's",
            fontsize=8,
        )
    return figure


def training_curves(log_history):
    """Losses over the epochs, and accuracies if there are any.

    Args:
        log_history: The Trainer's.

    Returns:
        `matplotlib.figure.Figure`
    """
    panels = {
        "loss": {"loss": "training", "eval_loss": "held out"},
        "accuracy": {
            "eval_top1_accuracy": "top-1, held out",
            "eval_knn_accuracy": "k-NN of the features",
        },
    }
    logged = {key for entry in log_history for key in entry}
    panels = {
        title: {k: name for k, name in keys.items() if k in logged}
        for title, keys in panels.items()
    }
    panels = {title: keys for title, keys in panels.items() if keys}
    figure = Figure(figsize=(4.2 * max(1, len(panels)), 3), layout="constrained")
    for axis, (title, keys) in zip(
        figure.subplots(1, max(1, len(panels)), squeeze=False)[0], panels.items()
    ):
        for key, name in keys.items():
            points = [(entry["epoch"], entry[key]) for entry in log_history if key in entry]
            axis.plot(*zip(*points), label=name, marker="." if len(points) < 30 else None)
        axis.set_xlabel("epoch")
        axis.set_ylabel(title)
        axis.legend(frameon=False)
    return figure


def _pixel_mask(mask, patch_hw, pixel_values):
    """mask (B, N) → (B, H, W, 1) booleans."""
    patches = patchify(pixel_values[:, :1], patch_hw)
    pixels = unpatchify(mask.unsqueeze(-1).expand_as(patches), patch_hw, pixel_values.shape[2:])
    return pixels.bool().permute(0, 2, 3, 1).cpu().numpy()


def _displayable(image):
    return image if image.shape[-1] == 3 else image.mean(axis=-1)
