# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The cross-attention decoder: removed patches ask the visible ones, and nothing else.

CrossMAE (Fu et al., "Rethinking Patch Dependence for Masked Autoencoders", arXiv 2401.14391). As no
removed patch looks at another, each can be predicted without the rest: in training a share of them
is enough. Letters in the shape comments are those of modeling_mae.py, with Q for the patches that
are asked for and W for the decoder's width.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_mae import MAEConfig
from .decoder import MAEDecoder
from .functional import gather_tokens, resize_position_table


class LayerMixing(nn.Module):
    """What each block of the decoder asks: a learned sum of what the encoder's layers gave.

    (CrossMAE's weighted feature maps.) The sums are of the embeddings and of all layers; the last
    is taken after the encoder's final norm, which so is trained, too.
    """

    def __init__(self, config: MAEConfig):
        super().__init__()
        blocks, maps = config.decoder_num_hidden_layers, 1 + config.num_hidden_layers
        self.layer_weights = nn.Parameter(torch.zeros(blocks, maps))
        self.norms = nn.ModuleList(
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) for _ in range(blocks)
        )

    def init_weights(self) -> None:
        """Draws the weights so that a sum is as large as what it is made of (the paper's code)."""
        init.normal_(self.layer_weights, std=self.layer_weights.shape[1] ** -0.5)

    def forward(self, layer_outputs: Sequence[Tensor]) -> list[Tensor]:
        """Mixes 1 + layers tensors (B, 1 + V, D) into one (B, 1 + V, D) for each block."""
        stacked = torch.stack([*layer_outputs])  # (1 + layers, B, 1 + V, D)
        weights = self.layer_weights.to(stacked.dtype)
        sums = (weights @ stacked.flatten(1)).unflatten(1, stacked.shape[1:])
        return [norm(mixed) for norm, mixed in zip(self.norms, sums)]


class MAECrossDecoder(MAEDecoder):
    """Predicts pixels of patches from the encoder's tokens (B, 1 + V, D), each by itself."""

    def __init__(self, config: MAEConfig):
        super().__init__(config, memory_size=config.hidden_size)
        self.prediction_ratio = cast(float, config.prediction_ratio)
        self.layer_mixing = LayerMixing(config) if config.decoder_layer_mixing else None

    def choose(self, ids_removed: Tensor, num_patches: int) -> Tensor:
        """Chooses which removed patches (B, M), of N, a training step predicts: (B, Q).

        They are `config.prediction_ratio` of all patches, or all that are removed where these are
        fewer, and stand evenly in the order of the noise: at random where that is random, spread
        over the blocks where it has blocks, and the same wherever the noise is the same.
        """
        num_removed = ids_removed.shape[1]
        asked = min(max(1, round(self.prediction_ratio * num_patches)), num_removed)
        places = torch.arange(asked, device=ids_removed.device) * num_removed // asked
        return ids_removed[:, places]

    def forward(
        self,
        layer_outputs: Sequence[Tensor],
        ids_shuffle: Tensor,
        grid_size: tuple[int, int],
        ids_asked: Tensor | None = None,
    ) -> Tensor:
        """Decodes.

        Args:
            layer_outputs: (B, 1 + V, D) each: the encoder's tokens, last; before them, where layers
                are mixed, the embeddings and what its other layers gave.
            ids_shuffle: (B, N), patch numbers, the visible ones first.
            grid_size: Patches (down, across) of these images.
            ids_asked: (B, Q), the patches to predict; by default all of `ids_shuffle`, the visible
                ones too.

        Returns:
            (B, Q or N, p * q * C), in the order of the numbers.
        """
        ids_asked = ids_shuffle if ids_asked is None else ids_asked
        positions = resize_position_table(self.decoder_pos_embed, self.grid_size, grid_size)
        positions = positions[:, 1:].expand(ids_asked.shape[0], -1, -1)  # (B, N, W)
        hidden_states = self.mask_token + gather_tokens(positions, ids_asked)  # (B, Q, W)
        memories = [layer_outputs[-1]] * len(self.decoder_layers)
        if self.layer_mixing is not None:
            memories = self.layer_mixing(layer_outputs)
        for layer, memory in zip(self.decoder_layers, memories):
            hidden_states = layer(hidden_states, memory=memory)
        return self.decoder_pred(self.decoder_norm(hidden_states))
