# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The modules that a Masked Autoencoder is made of; modeling_mae.py puts them together and gives
them their init.

Letters in the shape comments: B images, C channels, p x q pixels a patch, N patches, V visible and
M masked patches
(N = V + M), D width, d width of a head.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .functional import drop_path, gather_tokens, resize_position_table
from .recompute import _trains_plainly, norm_and_map, recomputed


def eager_attention(
    module, query, key, value, attention_mask=None, scaling=None, dropout=0.0, **kwargs
):
    """Attention written out, for models that must return their weights: (B, heads, N, d) → (B, N,
    heads, d), weights."""
    weights = torch.softmax((query @ key.transpose(-1, -2) * scaling).float(), dim=-1).to(
        query.dtype
    )
    weights = F.dropout(weights, dropout, training=module.training)
    return (weights @ value).transpose(1, 2), weights


class MAEAttention(nn.Module):
    """Multi-head self-attention of normed tokens; with `num_queries` only the last so many ask, and
    all are asked."""

    def __init__(self, config, hidden_size, num_attention_heads):
        super().__init__()
        self.config = config
        self.is_causal = False
        self.head_dim = hidden_size // num_attention_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, norm, num_queries=None, **kwargs):
        # one product instead of three, and two of six in the backward pass; where the weights are
        # larger than what they are applied to, as where there is no backward pass, copying them
        # costs more than that saves
        many = num_queries is None and hidden_states.shape[:-1].numel() >= hidden_states.shape[-1]
        if many and _trains_plainly(norm, self.q_proj, self.k_proj, self.v_proj):
            projected = recomputed(
                norm_and_map(norm, self.q_proj, self.k_proj, self.v_proj), hidden_states
            ).chunk(3, dim=-1)
        else:
            projected = self._project(norm(hidden_states), num_queries)
        query, key, value = (
            part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in projected
        )  # (B, heads, N, d)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention
        )
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        mixed, weights = attend(
            self, query, key, value, None, dropout=dropout, scaling=self.head_dim**-0.5, **kwargs
        )  # (B, N, heads, d)
        return self.o_proj(mixed.flatten(2)), weights

    def _project(self, hidden_states, num_queries):
        """Queries, keys and values (B, N, D)."""
        asking = hidden_states if num_queries is None else hidden_states[:, -num_queries:]
        return self.q_proj(asking), self.k_proj(hidden_states), self.v_proj(hidden_states)


class MAEMLP(nn.Module):
    """Two layers, of normed tokens."""

    def __init__(self, config, hidden_size, intermediate_size):
        super().__init__()
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden_states, norm):
        if not _trains_plainly(norm, self.fc1, self.fc2):
            return self.fc2(self.activation_fn(self.fc1(norm(hidden_states))))
        weight, bias = self.fc2.weight, self.fc2.bias  # those of now, as in norm_and_map
        hidden = recomputed(norm_and_map(norm, self.fc1), hidden_states)
        return recomputed(lambda hidden: F.linear(self.activation_fn(hidden), weight, bias), hidden)


class MAELayer(GradientCheckpointingLayer):
    """A pre-norm transformer block, of the encoder and of the decoder.

    `drop_path_noise` (B, 2) decides for which samples the two branches are left out in training; by
    default it is drawn. With `num_queries` it returns the last so many tokens only: the queries,
    the MLP and the residual of the others are not computed, while their keys and values are.
    """

    def __init__(
        self, config, hidden_size, num_attention_heads, intermediate_size, drop_path_rate=0.0
    ):
        super().__init__()
        self.layernorm_before = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.attention = MAEAttention(config, hidden_size, num_attention_heads)
        self.layernorm_after = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.mlp = MAEMLP(config, hidden_size, intermediate_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path_rate = drop_path_rate

    def forward(self, hidden_states, num_queries=None, drop_path_noise=None, **kwargs):
        if drop_path_noise is None and self.training and self.drop_path_rate:
            drop_path_noise = torch.rand(len(hidden_states), 2, device=hidden_states.device)
        residual = hidden_states if num_queries is None else hidden_states[:, -num_queries:]
        mixed, _ = self.attention(hidden_states, self.layernorm_before, num_queries, **kwargs)
        hidden_states = residual + self._drop_path(self.dropout(mixed), drop_path_noise, 0)
        mapped = self.mlp(hidden_states, self.layernorm_after)
        return hidden_states + self._drop_path(self.dropout(mapped), drop_path_noise, 1)

    def _drop_path(self, branch, noise, which):
        if not self.training or not self.drop_path_rate:
            return branch
        return drop_path(branch, self.drop_path_rate, noise[:, which])


class MAEPatchEmbeddings(nn.Module):
    """Projects patches to the encoder's width.

    The weight is kept as the convolution of the ViT family and applied as a matrix, to just the
    patches that are there.
    """

    def __init__(self, config):
        super().__init__()
        self.projection = nn.Conv2d(
            config.num_channels, config.hidden_size, config.patch_hw, config.patch_hw
        )

    def forward(self, patches):
        weight = self.projection.weight.permute(0, 2, 3, 1).flatten(
            1
        )  # (D, p * q * C), the patches' order
        return F.linear(patches.to(weight.dtype), weight, self.projection.bias)


class MAEEmbeddings(nn.Module):
    """Patches (B, V, p * q * C), all in order or those of `ids_visible` (B, V) → tokens (B, 1 + V,
    D), class token first."""

    def __init__(self, config, trainable_positions=False):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.patch_embeddings = MAEPatchEmbeddings(config)
        table = torch.zeros(
            1, 1 + config.num_patches, config.hidden_size
        )  # gets its values in _init_weights
        if trainable_positions:
            self.position_embeddings = nn.Parameter(table)
        else:  # a buffer, for from_pretrained makes every parameter trainable
            self.register_buffer("position_embeddings", table)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.grid_size = config.grid_size

    def forward(self, patches, grid_size, ids_visible=None):
        positions = resize_position_table(self.position_embeddings, self.grid_size, grid_size)
        patch_positions = positions[:, 1:].expand(len(patches), -1, -1)  # (B, N, D)
        if ids_visible is not None:
            patch_positions = gather_tokens(patch_positions, ids_visible)  # (B, V, D)
        tokens = self.patch_embeddings(patches) + patch_positions
        cls = (self.cls_token + positions[:, :1]).expand(len(patches), -1, -1)
        return self.dropout(torch.cat([cls, tokens], dim=1))
