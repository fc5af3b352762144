# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What the models return. Letters in the shapes are those of modeling_mae.py."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class MAEModelOutput(ModelOutput):
    """What `MAEModel` returns.

    Attributes:
        last_hidden_state: (B, 1 + V, D) after the final norm, the class token first. Unmasked (V =
            N) or with `bool_masked_pos` the patches are in natural order; with noise in the noise's
            order, smallest first.
        pooler_output: (B, D), the mean of the patch tokens or the class token, by `config.pooling`.
        mask: (B, N), 1 for removed patches; None if nothing was masked.
        ids_restore: (B, N), where each patch stands in shuffled order (visible first); None if
            nothing was masked.
        ids_shuffle: (B, N), its inverse: the patches' numbers in that order, so that the first V
            say which patches the features are of; None if nothing was masked.
        hidden_states, attentions: on request.
    """

    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    mask: torch.FloatTensor | None = None
    ids_restore: torch.LongTensor | None = None
    ids_shuffle: torch.LongTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class MAEForPreTrainingOutput(ModelOutput):
    """What `MAEForPreTraining` returns.

    Attributes:
        loss: Scalar, mean squared error over the removed patches.
        logits: (B, N, p * q * C), predicted patches in natural order (None in training unless asked
            for).
        mask: (B, N), 1 for removed patches.
        ids_restore: (B, N), where each patch stands in shuffled order (visible first).
        hidden_states, attentions: the encoder's, on request.
        losses: (B,), the loss of each image, where `logits` and a loss are computed.
        target: (B, N, p * q * C), what `logits` should be; with `losses`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    mask: torch.FloatTensor | None = None
    ids_restore: torch.LongTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    losses: torch.FloatTensor | None = None
    target: torch.FloatTensor | None = None


@dataclass
class MAEReconstruction(ModelOutput):
    """What `MAEForPreTraining.reconstruct` returns, in the scale of its `pixel_values`.

    Attributes:
        images: (B, C, H, W), visible patches as given and removed ones as predicted.
        predicted: (B, C, H, W), every patch as predicted.
        mask: (B, N), 1 for removed patches.
        borrows_patch_statistics: True for a model with `norm_pix_loss`: it predicts the structure
            of a patch, and its brightness and contrast were taken from the original.
    """

    images: torch.FloatTensor | None = None
    predicted: torch.FloatTensor | None = None
    mask: torch.FloatTensor | None = None
    borrows_patch_statistics: bool | None = None
