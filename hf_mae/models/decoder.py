# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The decoder: from the tokens of visible patches to the pixels of the removed ones.

Letters in the shape comments are those of modeling_mae.py.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_mae import MAEConfig
from .functional import gather_tokens, resize_position_table, sincos_position_table
from .layers import MAELayer


class MAEDecoder(nn.Module):
    """Predicts pixels of the removed patches from the encoder's tokens (B, 1 + V, D).

    The tokens stay in shuffled order (class token, visible, removed), for attention doesn't care;
    in training the last block therefore answers for the last M of them.
    """

    decoder_pos_embed: Tensor

    def __init__(self, config: MAEConfig, memory_size: int | None = None):
        super().__init__()
        self.grid_size = config.grid_size
        self.initializer_range = config.initializer_range
        width, heads = config.decoder_hidden_size, config.decoder_num_attention_heads
        if memory_size is None:
            self.decoder_embed = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        table = torch.zeros(1, 1 + config.num_patches, width)  # of the default type
        table.copy_(sincos_position_table(config.grid_size, width))
        self.register_buffer("decoder_pos_embed", table)
        self.decoder_layers = nn.ModuleList(
            MAELayer(
                config, width, heads, config.decoder_intermediate_size, memory_size=memory_size
            )
            for _ in range(config.decoder_num_hidden_layers)
        )
        self.decoder_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.decoder_pred = nn.Linear(width, math.prod(config.patch_hw) * config.num_channels)

    def init_weights(self) -> None:
        """Draws the mask token; positions become the sin-cos table."""
        init.normal_(self.mask_token, std=self.initializer_range)
        table = self.decoder_pos_embed
        init.copy_(table, sincos_position_table(self.grid_size, table.shape[-1]))

    def resize_positions(self, grid_size: tuple[int, int]) -> None:
        """Resizes the position table, in place, to a grid of other patches (down, across)."""
        table = self.decoder_pos_embed
        self.decoder_pos_embed = resize_position_table(table, self.grid_size, grid_size)
        self.grid_size = grid_size

    def choose(self, ids_removed: Tensor, num_patches: int) -> Tensor:
        """Chooses which removed patches (B, M), of N, a training step predicts: all of them."""
        return ids_removed

    def forward(
        self,
        layer_outputs: Sequence[Tensor],
        ids_shuffle: Tensor,
        grid_size: tuple[int, int],
        ids_asked: Tensor | None = None,
    ) -> Tensor:
        """Decodes.

        Args:
            layer_outputs: (B, 1 + V, D), the encoder's tokens, which are the last.
            ids_shuffle: (B, N), patch numbers, the visible ones first.
            grid_size: Patches (down, across) of these images.
            ids_asked: (B, M), the removed ones, which `ids_shuffle` ends with, to predict these
                alone; by default all are.

        Returns:
            (B, M or N, p * q * C), in the order of the numbers.
        """
        tokens = self.decoder_embed(layer_outputs[-1])  # (B, 1 + V, D)
        batch_size, num_tokens, _ = tokens.shape
        num_removed = ids_shuffle.shape[1] + 1 - num_tokens
        removed = self.mask_token.to(tokens.dtype).expand(batch_size, num_removed, -1)
        hidden_states = torch.cat([tokens, removed], dim=1)  # (B, 1 + N, D)
        hidden_states = hidden_states + self._shuffle_positions(ids_shuffle, grid_size)
        for layer in self.decoder_layers[:-1]:
            hidden_states = layer(hidden_states)
        num_queries = None if ids_asked is None else num_removed
        hidden_states = self.decoder_layers[-1](hidden_states, num_queries)
        if ids_asked is None:
            hidden_states = hidden_states[:, 1:]
        return self.decoder_pred(self.decoder_norm(hidden_states))

    def _shuffle_positions(self, ids_shuffle: Tensor, grid_size: tuple[int, int]) -> Tensor:
        positions = resize_position_table(self.decoder_pos_embed, self.grid_size, grid_size)
        positions = positions.expand(ids_shuffle.shape[0], -1, -1)  # (B, 1 + N, D)
        return torch.cat([positions[:, :1], gather_tokens(positions[:, 1:], ids_shuffle)], dim=1)
