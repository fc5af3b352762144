# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The modules that a Masked Autoencoder's encoder and decoder are made of.

Letters in the shape comments are those of modeling_mae.py, and d is the width of a head.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_mae import MAEConfig
from .functional import (
    drop_path,
    gather_tokens,
    resize_position_table,
    sincos_position_table,
)
from .recompute import activate_and_project, are_plain, can_stand_in, norm_and_project, register


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None = None,
    scaling: float = 1.0,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out, for models that must return their weights.

    Args:
        query, key, value: (B, heads, N, d); of queries there may be fewer.

    Returns:
        (B, N, heads, d), and the weights (B, heads, N, N).
    """
    scores = query @ key.transpose(-1, -2) * scaling
    weights = torch.softmax(scores.float(), dim=-1).to(query.dtype)
    weights = F.dropout(weights, dropout, training=module.training)
    return (weights @ value).transpose(1, 2), weights


@register
class MAEAttention(nn.Module):
    """Multi-head attention, of tokens among themselves or to a memory of another width.

    With `num_queries` only the last so many tokens ask, and all are asked.
    """

    def __init__(
        self,
        config: MAEConfig,
        hidden_size: int,
        num_attention_heads: int,
        memory_size: int | None = None,
    ):
        super().__init__()
        asked_size = hidden_size if memory_size is None else memory_size
        self.config = config
        self.is_causal = False
        self.head_dim = hidden_size // num_attention_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(asked_size, hidden_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(asked_size, hidden_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(hidden_size, hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        num_queries: int | None = None,
        memory: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        asking = hidden_states if num_queries is None else hidden_states[:, -num_queries:]
        asked = hidden_states if memory is None else memory
        query, key = self.q_proj(asking), self.k_proj(asked)
        return self.mix(query, key, self.v_proj(asked), **kwargs)

    def mix(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Mixes values by what queries (B, Q, D) find in keys (B, N, D): (B, Q, D), weights."""
        implementation = self.config._attn_implementation
        if output_attentions or implementation is None:  # no other computes the weights
            implementation = "eager"
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention)
        mixed, weights = attend(
            self,
            self._split_heads(query),
            self._split_heads(key),
            self._split_heads(value),
            None,
            dropout=self.config.attention_probs_dropout_prob if self.training else 0.0,
            scaling=self.head_dim**-0.5,
            **kwargs,
        )  # (B, Q, heads, d)
        return self.o_proj(mixed.flatten(2)), weights

    def _split_heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, heads, N, d)


@register
class MAEMLP(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, config: MAEConfig, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


class MAELayer(GradientCheckpointingLayer):
    """A pre-norm transformer block, of the encoder and of the decoder.

    `drop_path_noise` (B, 2) decides for which samples the two branches are left out in training; by
    default it is drawn. With `num_queries` it returns the last so many tokens only: the queries,
    the MLP and the residual of the others are not computed, while their keys and values are. A
    block with a `memory_size` asks, in place of its tokens, a `memory` (B, V, memory_size), which
    comes normalised.
    """

    def __init__(
        self,
        config: MAEConfig,
        hidden_size: int,
        num_attention_heads: int,
        intermediate_size: int,
        drop_path_rate: float = 0.0,
        memory_size: int | None = None,
    ):
        super().__init__()
        self.layernorm_before = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.attention = MAEAttention(config, hidden_size, num_attention_heads, memory_size)
        self.layernorm_after = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.mlp = MAEMLP(config, hidden_size, intermediate_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path_rate = drop_path_rate

    def forward(
        self,
        hidden_states: Tensor,
        num_queries: int | None = None,
        drop_path_noise: Tensor | None = None,
        memory: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        if drop_path_noise is None and self.training and self.drop_path_rate:
            batch_size, device = hidden_states.shape[0], hidden_states.device
            drop_path_noise = torch.rand(batch_size, 2, device=device)
        residual = hidden_states if num_queries is None else hidden_states[:, -num_queries:]
        mixed = self._attend(hidden_states, num_queries, memory, **kwargs)
        hidden_states = residual + self._drop_path(self.dropout(mixed), drop_path_noise, 0)
        mapped = self._map(hidden_states)
        return hidden_states + self._drop_path(self.dropout(mapped), drop_path_noise, 1)

    def _attend(
        self, hidden_states: Tensor, num_queries: int | None, memory: Tensor | None, **kwargs: Any
    ) -> Tensor:
        norm, attention = self.layernorm_before, self.attention
        whole = num_queries is None and memory is None and can_stand_in(norm, attention)
        # one product instead of three, and two of six in the backward pass; where the weights are
        # larger than what they are applied to, joining them costs more than that saves
        batch_size, num_tokens, width = hidden_states.shape
        if whole and batch_size * num_tokens >= width:
            projections = (attention.q_proj, attention.k_proj, attention.v_proj)
            query, key, value = norm_and_project(norm, projections, hidden_states)
            return attention.mix(query, key, value, **kwargs)[0]
        return attention(norm(hidden_states), num_queries, memory, **kwargs)[0]

    def _map(self, hidden_states: Tensor) -> Tensor:
        norm, mlp = self.layernorm_after, self.mlp
        if can_stand_in(norm, mlp):
            (hidden,) = norm_and_project(norm, [mlp.fc1], hidden_states)
            return activate_and_project(mlp.activation_fn, mlp.fc2, hidden)
        return mlp(norm(hidden_states))

    def _drop_path(self, branch: Tensor, noise: Tensor | None, which: int) -> Tensor:
        if noise is None or not self.training or not self.drop_path_rate:
            return branch
        return drop_path(branch, self.drop_path_rate, noise[:, which])


class MAEPatchEmbeddings(nn.Module):
    """Projects patches (B, V, p * q * C) to the encoder's width.

    The weight is kept as the convolution of the ViT family and applied as a matrix, to just the
    patches that are there.
    """

    def __init__(self, config: MAEConfig):
        super().__init__()
        self.patch_hw = config.patch_hw
        self.projection = nn.Conv2d(
            config.num_channels, config.hidden_size, config.patch_hw, config.patch_hw
        )

    def forward(self, patches: Tensor) -> Tensor:
        if are_plain(self.projection):
            weight = self.projection.weight.permute(0, 2, 3, 1).flatten(1)  # (D, p * q * C)
            return F.linear(patches, weight, self.projection.bias)
        pixels = patches.unflatten(-1, (*self.patch_hw, -1)).permute(0, 1, 4, 2, 3)
        projected = self.projection(pixels.flatten(0, 1))  # (B * V, C, p, q) → (B * V, D, 1, 1)
        return projected.flatten(1).unflatten(0, patches.shape[:2])


class MAEEmbeddings(nn.Module):
    """Patches (B, V, p * q * C) → tokens (B, 1 + V, D), the class token first."""

    def __init__(self, config: MAEConfig, trainable_positions: bool = False):
        super().__init__()
        self.grid_size = config.grid_size
        self.initializer_range = config.initializer_range
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.patch_embeddings = MAEPatchEmbeddings(config)
        table = torch.zeros(1, 1 + config.num_patches, config.hidden_size)  # of the default type
        table.copy_(sincos_position_table(config.grid_size, config.hidden_size))
        if trainable_positions:
            self.position_embeddings = nn.Parameter(table)
        else:  # a buffer, for from_pretrained makes every parameter trainable
            self.register_buffer("position_embeddings", table)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def init_weights(self) -> None:
        """Draws the class token; positions become the sin-cos table."""
        init.normal_(self.cls_token, std=self.initializer_range)
        table = self.position_embeddings
        init.copy_(table, sincos_position_table(self.grid_size, table.shape[-1]))

    def resize_positions(self, grid_size: tuple[int, int]) -> None:
        """Resizes the position table, in place, to a grid of other patches (down, across)."""
        table = self.position_embeddings
        resized = resize_position_table(table.detach(), self.grid_size, grid_size)
        if isinstance(table, nn.Parameter):
            resized = nn.Parameter(resized, table.requires_grad)
        self.position_embeddings = resized
        self.grid_size = grid_size

    def forward(
        self, patches: Tensor, grid_size: tuple[int, int], ids_visible: Tensor | None = None
    ) -> Tensor:
        """Embeds all patches of a grid in order, or those of `ids_visible` (B, V)."""
        batch_size = patches.shape[0]
        positions = resize_position_table(self.position_embeddings, self.grid_size, grid_size)
        patch_positions = positions[:, 1:].expand(batch_size, -1, -1)  # (B, N, D)
        if ids_visible is not None:
            patch_positions = gather_tokens(patch_positions, ids_visible)  # (B, V, D)
        tokens = self.patch_embeddings(patches.to(self.cls_token.dtype)) + patch_positions
        cls = (self.cls_token + positions[:, :1]).expand(batch_size, -1, -1)
        return self.dropout(torch.cat([cls, tokens], dim=1))
