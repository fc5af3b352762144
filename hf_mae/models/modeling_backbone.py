# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The encoder as a backbone: feature maps for segmentation and detection.

Letters in the shape comments are those of modeling_mae.py.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.backbone_utils import BackboneMixin, filter_output_hidden_states
from transformers.modeling_outputs import BackboneOutput
from transformers.utils.generic import can_return_tuple

from .configuration_mae import PYRAMID_STAGES, MAEConfig
from .modeling_base import MAEPreTrainedModel
from .modeling_mae import MAEModel


_PYRAMID_WIDTH = 256  # ViTDet (arXiv 2203.16527), Section 3


class MAEBackbone(BackboneMixin, MAEPreTrainedModel):
    """The encoder, whose tokens become maps of features (B, D, h, w), for transformers' heads.

    There is one stage a layer, "stage1" to "stageN", behind "stem"; `config.out_features` or
    `config.out_indices` choose among them, by default the last. Each map goes through the encoder's
    norm, if it has one, so that the last one is `MAEModel`'s `last_hidden_state`. With
    `config.simple_feature_pyramid` there are four maps of 256 channels made of the last one, at a
    quarter, half, once and twice the patch: "p2" to "p5", strides 4, 8, 16 and 32 for patches of
    16 (ViTDet, arXiv 2203.16527). The pyramid is new. The position table is trained along.

    Images may have any size: positions are interpolated, and what is no multiple of the patch is
    padded by zeros, below and on the right.

    Example:

    >>> import torch
    >>> from hf_mae import MAEBackbone, MAEConfig
    >>> backbone = MAEBackbone(MAEConfig.from_size("tiny", out_indices=[6, 12]))
    >>> [tuple(found.shape) for found in backbone(torch.rand(1, 3, 224, 320)).feature_maps]
    [(1, 192, 14, 20), (1, 192, 14, 20)]
    """

    has_attentions = True
    _keys_to_ignore_on_load_unexpected = [
        r"^decoder\.",
        r"^fc_norm\.",
        r"^batch_norm\.",
        r"^classifier\.",
        r"pooler\.",
    ]

    def __init__(self, config: MAEConfig):
        config = copy.deepcopy(config)  # the caller's stays as it is
        super().__init__(config)
        self.vit = MAEModel(config, trainable_positions=True)
        if config.simple_feature_pyramid:
            self.num_features = [_PYRAMID_WIDTH] * len(PYRAMID_STAGES)
            self.pyramid = MAEFeaturePyramid(config.hidden_size)
        else:
            self.num_features = [config.hidden_size] * len(config.stage_names)
        self.post_init()

    @can_return_tuple
    @filter_output_hidden_states
    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BackboneOutput:
        """Computes feature maps.

        Args:
            pixel_values: (B, C, H, W), of any size, normalised by the image processor.
            kwargs: `output_hidden_states` and `output_attentions`, as in transformers.

        Returns:
            `BackboneOutput`: feature_maps, one (B, D, h, w) for each of `config.out_features`, and
                the encoder's hidden_states and attentions on request.

        Raises:
            ValueError: wrong channels or dtype.
        """
        (height, width), (p, q) = pixel_values.shape[2:], self.config.patch_hw
        pixel_values = F.pad(pixel_values, (0, -width % q, 0, -height % p))
        encoded = self.vit(pixel_values, interpolate_pos_encoding=True, return_dict=True, **kwargs)
        grid_size = self.vit._grid_size(pixel_values)
        if self.config.simple_feature_pyramid:
            last = _to_map(encoded.last_hidden_state, grid_size)
            stages = self.pyramid(last)
        else:
            stages = encoded.hidden_states
        feature_maps = []
        for name, stage in zip(self.stage_names, stages, strict=True):
            if name not in self.out_features:
                continue
            if not self.config.simple_feature_pyramid:
                stage = _to_map(self.vit.layernorm(stage), grid_size)
            feature_maps.append(stage)
        return BackboneOutput(
            feature_maps=tuple(feature_maps),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


def _to_map(tokens: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """Tokens (B, 1 + N, D) as a map (B, D, h, w), without the class token."""
    return tokens[:, 1:].unflatten(1, grid_size).permute(0, 3, 1, 2).contiguous()


class MAEFeaturePyramid(nn.Module):
    """Four maps of one: (B, D, h, w) → 256 channels at 4, 2, 1 and 1/2 times its size.

    (ViTDet, arXiv 2203.16527, Section 3, "Simple feature pyramid".)
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        half, quarter = hidden_size // 2, hidden_size // 4
        four_times = nn.Sequential(
            nn.ConvTranspose2d(hidden_size, half, 2, 2),
            MAEChannelNorm(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, 2),
        )
        self.scales = nn.ModuleList(
            [
                four_times,
                nn.ConvTranspose2d(hidden_size, half, 2, 2),
                nn.Identity(),
                nn.MaxPool2d(2, 2),
            ]
        )
        widths = [quarter, half, hidden_size, hidden_size]
        self.projections = nn.ModuleList(_project(width) for width in widths)

    def forward(self, features: Tensor) -> list[Tensor]:
        maps = []
        for scale, project in zip(self.scales, self.projections):
            maps.append(project(scale(features)))
        return maps


def _project(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(width, _PYRAMID_WIDTH, 1, bias=False),
        MAEChannelNorm(_PYRAMID_WIDTH),
        nn.Conv2d(_PYRAMID_WIDTH, _PYRAMID_WIDTH, 3, padding=1, bias=False),
        MAEChannelNorm(_PYRAMID_WIDTH),
    )


class MAEChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, h, w)."""

    def __init__(self, num_channels: int):
        super().__init__(num_channels, eps=1e-6)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


__all__ = ["MAEBackbone"]
