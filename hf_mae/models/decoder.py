# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The decoder: from the tokens of visible patches to the pixels of the removed ones."""

import math

import torch
from torch import nn

from .functional import gather_tokens, resize_position_table
from .layers import MAELayer


class MAEDecoder(nn.Module):
    """Predicts pixels of the removed patches from the encoder's tokens (B, 1 + V, D).

    The tokens stay in shuffled order (class token, visible, masked), for attention doesn't care;
    with `masked_only` the last block therefore answers for the last M of them.
    """

    def __init__(self, config):
        super().__init__()
        width, heads = config.decoder_hidden_size, config.decoder_num_attention_heads
        self.decoder_embed = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("decoder_pos_embed", torch.zeros(1, 1 + config.num_patches, width))
        self.decoder_layers = nn.ModuleList(
            MAELayer(config, width, heads, config.decoder_intermediate_size)
            for _ in range(config.decoder_num_hidden_layers)
        )
        self.decoder_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.decoder_pred = nn.Linear(width, math.prod(config.patch_hw) * config.num_channels)
        self.grid_size = config.grid_size

    def forward(self, latent, ids_shuffle, grid_size, masked_only):
        positions = resize_position_table(self.decoder_pos_embed, self.grid_size, grid_size)
        patch_positions = gather_tokens(
            positions[:, 1:].expand(len(latent), -1, -1), ids_shuffle
        )  # (B, N, D)
        tokens = self.decoder_embed(latent)  # (B, 1 + V, D)
        num_masked = ids_shuffle.shape[1] + 1 - tokens.shape[1]
        masked = self.mask_token.to(tokens.dtype).expand(len(tokens), num_masked, -1)
        hidden_states = torch.cat([tokens, masked], dim=1)  # (B, 1 + N, D)
        hidden_states = hidden_states + torch.cat(
            [positions[:, :1].expand(len(tokens), -1, -1), patch_positions], dim=1
        )
        for layer in self.decoder_layers[:-1]:
            hidden_states = layer(hidden_states)
        hidden_states = self.decoder_layers[-1](hidden_states, num_masked if masked_only else None)
        if not masked_only:
            hidden_states = hidden_states[:, 1:]
        return self.decoder_pred(
            self.decoder_norm(hidden_states)
        )  # (B, M or N, p * q * C), shuffled order
