# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Masked Autoencoder (arXiv 2111.06377): the encoder, the decoder and pre-training.

Letters in the shape comments: B images, C channels, H x W pixels, p x q pixels a patch, N patches,
V visible and M removed ones (N = V + M), D width. Everywhere a mask has 1 for a patch that is
removed and 0 for one that the encoder sees.
"""

import copy
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import guard_or_false
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .configuration_mae import MAEConfig
from .cross_decoder import MAECrossDecoder
from .decoder import MAEDecoder
from .functional import (
    gather_tokens,
    masked_losses,
    patch_statistics,
    patchify,
    pixel_target,
    take_patches,
    unpatchify,
)
from .layers import MAEEmbeddings, MAELayer
from .masking import choose_mask
from .model_files import find_pretraining
from .modeling_base import HUB_ARGUMENTS, MAEPreTrainedModel, ModelT, base_of_adapter
from .modeling_outputs import MAEForPreTrainingOutput, MAEModelOutput, MAEReconstruction


logger = logging.get_logger(__name__)


class MAEModel(MAEPreTrainedModel):
    """The encoder: ordered features of every patch, or of the visible ones if masks are asked for.

    Example:

    >>> import torch
    >>> from hf_mae import MAEConfig, MAEModel
    >>> model = MAEModel(MAEConfig.from_size("tiny")).eval()
    >>> outputs = model(torch.rand(1, 3, 224, 224))
    >>> outputs.last_hidden_state.shape, outputs.pooler_output.shape
    (torch.Size([1, 197, 192]), torch.Size([1, 192]))
    """

    _keys_to_ignore_on_load_unexpected = [
        r"^decoder\.",
        r"^fc_norm\.",
        r"^batch_norm\.",
        r"^classifier\.",
        r"^pooler\.",
    ]

    def __init__(self, config: MAEConfig, trainable_positions: bool = False):
        super().__init__(config)
        self.embeddings = MAEEmbeddings(config, trainable_positions)
        depth = config.num_hidden_layers
        self.layers = nn.ModuleList(
            MAELayer(
                config,
                config.hidden_size,
                config.num_attention_heads,
                config.intermediate_size,
                drop_path_rate=config.drop_path_rate * i / max(depth - 1, 1),
            )
            for i in range(depth)
        )
        norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm = norm if config.final_norm else nn.Identity()
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: Tensor,
        noise: Tensor | None = None,
        mask_ratio: float | None = None,
        bool_masked_pos: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        drop_path_noise: Tensor | None = None,
        layer_outputs: list[Tensor] | None = None,
        **kwargs: Any,
    ) -> MAEModelOutput:
        """Encodes images.

        Args:
            pixel_values: (B, C, H, W), floating point, normalised by the image processor.
            noise: (B, N), decides the mask: the patches with the smallest numbers stay visible.
                Given alone, as many are removed as `config.mask_ratio` says.
            mask_ratio: Share of patches to remove, in [0, 1); without `noise` they are drawn at
                random.
            bool_masked_pos: (B, N), true for the patches to remove; equally many in every image.
            interpolate_pos_encoding: Take images of another size than `config.image_size`.
            drop_path_noise: (B, layers, 2), uniform in [0, 1), decides what `config.drop_path_rate`
                drops in training; by default it is drawn.
            layer_outputs: A list that takes the embeddings and what each layer gave, (B, 1 + V, D),
                the last after the final norm.
            kwargs: `output_hidden_states` and `output_attentions`, as in transformers.

        Returns:
            `MAEModelOutput`

        Raises:
            ValueError: wrong size, channels, dtype or mask.
        """
        self._check_images(pixel_values, interpolate_pos_encoding)
        if self._wants_attentions(kwargs):
            kwargs["output_attentions"] = True
        grid_size = self._grid_size(pixel_values)
        mask = choose_mask(
            self.config,
            grid_size,
            batch_size=pixel_values.shape[0],
            device=pixel_values.device,
            noise=noise,
            mask_ratio=mask_ratio,
            bool_masked_pos=bool_masked_pos,
        )
        if mask is None:
            patches = patchify(pixel_values, self.config.patch_hw)  # (B, N, p * q * C)
            tokens = self.embeddings(patches, grid_size)  # (B, 1 + N, D)
        else:
            # only the visible patches, where the mask is 0
            patches = take_patches(pixel_values, self.config.patch_hw, mask.ids_visible)
            tokens = self.embeddings(patches, grid_size, mask.ids_visible)  # (B, 1 + V, D)
        tokens = self._encode(tokens, drop_path_noise, layer_outputs, **kwargs)
        hidden_states = self.layernorm(tokens)
        if layer_outputs is not None:
            layer_outputs.append(hidden_states)
        return MAEModelOutput(
            last_hidden_state=hidden_states,
            pooler_output=self._pool(hidden_states),
            mask=None if mask is None else mask.mask,
            ids_restore=None if mask is None else mask.ids_restore,
            ids_shuffle=None if mask is None else mask.ids_shuffle,
        )

    def _encode(
        self,
        tokens: Tensor,
        drop_path_noise: Tensor | None,
        layer_outputs: list[Tensor] | None,
        **kwargs: Any,
    ) -> Tensor:
        for i, layer in enumerate(self.layers):
            if layer_outputs is not None:
                layer_outputs.append(tokens)
            noise = None if drop_path_noise is None else drop_path_noise[:, i]
            tokens = layer(tokens, drop_path_noise=noise, **kwargs)
        return tokens

    def _pool(self, hidden_states: Tensor) -> Tensor:
        if self.config.pooling == "mean":
            return hidden_states[:, 1:].mean(dim=1)
        return hidden_states[:, 0]

    def _grid_size(self, pixel_values: Tensor) -> tuple[int, int]:
        (height, width), (p, q) = pixel_values.shape[2:], self.config.patch_hw
        return height // p, width // q

    def _check_images(self, pixel_values: Tensor, interpolate_pos_encoding: bool) -> None:
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.config.num_channels:
            expected = f"(batch, {self.config.num_channels}, height, width)"
            raise ValueError(
                f"pixel_values have shape {tuple(pixel_values.shape)}; expected {expected}"
            )
        if not pixel_values.is_floating_point():
            raise ValueError(
                f"pixel_values are {pixel_values.dtype}; normalise them with the image processor "
                "first"
            )
        found, wanted = tuple(pixel_values.shape[2:]), self.config.image_hw
        if not interpolate_pos_encoding and found != wanted:
            raise ValueError(
                f"pixel_values are {found[0]} x {found[1]} pixels and the model is for "
                f"{wanted[0]} x {wanted[1]}; resize them, or pass interpolate_pos_encoding=True"
            )

    def _wants_attentions(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether attention weights are asked for, which only one implementation computes."""
        asked = kwargs.get("output_attentions")
        if asked is None:
            asked = getattr(self.config, "output_attentions", False)
        implementation = self.config._attn_implementation
        if asked and implementation not in (None, "eager"):
            logger.warning_once(
                f"attention weights were asked for, which {implementation!r} doesn't compute: for "
                "such calls it is 'eager'; load the model with attn_implementation='eager' to have "
                "it so from the start"
            )
        return bool(asked)


class MAEForPreTraining(MAEPreTrainedModel):
    """Encoder and decoder, with the loss on the removed patches.

    In training only what the loss needs is computed: the decoder's last block, norm and predictor
    run for the removed patches alone, and `logits` are None unless `return_logits=True`. Of a
    cross-attention decoder the loss then is that of `config.prediction_ratio` of the patches; with
    logits, as in evaluation, it is that of all that are removed.

    Example:

    >>> import torch
    >>> from hf_mae import MAEConfig, MAEForPreTraining
    >>> model = MAEForPreTraining(MAEConfig.from_size("tiny", norm_pix_loss=True))
    >>> model(torch.rand(2, 3, 224, 224)).loss.backward()
    """

    def __init__(self, config: MAEConfig):
        config = copy.deepcopy(config)  # the caller's stays as it is
        config.final_norm = True
        super().__init__(config)
        self.vit = MAEModel(config)
        self.decoder = (MAECrossDecoder if config.decoder_type == "cross" else MAEDecoder)(config)
        self.post_init()

    @classmethod
    def from_pretrained(
        cls: type[ModelT],
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args: Any,
        **kwargs: Any,
    ) -> ModelT:
        """Loads a model as `MAEModel` does; of a published one, the folder that has the decoder.

        That is `pretraining/` where the root holds the encoder alone and no `subfolder` is given.

        Raises:
            ValueError: the folder holds some other kind of model.
            OSError: there is none; or the Hub can't be asked where the decoder lies.
        """
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        source = base_of_adapter(pretrained_model_name_or_path, hub)
        if source and source == pretrained_model_name_or_path and not kwargs.get("subfolder"):
            fields, _ = PreTrainedConfig.get_config_dict(source, **hub)
            below = find_pretraining(source, fields, **hub)
            if below:
                kwargs["subfolder"] = below
        base: Any = super()
        return base.from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        noise: Tensor | None = None,
        mask_ratio: float | None = None,
        bool_masked_pos: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        return_loss: bool = True,
        return_logits: bool | None = None,
        **kwargs: Any,
    ) -> MAEForPreTrainingOutput:
        """Masks, encodes, decodes and compares.

        Args:
            pixel_values, noise, bool_masked_pos, interpolate_pos_encoding: as for `MAEModel`.
            mask_ratio: Share of patches to remove; by default `config.mask_ratio`.
            return_loss: Whether to compute the loss.
            return_logits: Whether to predict every patch; by default outside training, and in it if
                `return_loss` is false.
            kwargs: as for `MAEModel`.

        Returns:
            `MAEForPreTrainingOutput`

        Raises:
            ValueError: wrong size, channels, dtype or mask; a loss is asked for and nothing is
                masked.
        """
        if mask_ratio is None and bool_masked_pos is None:
            mask_ratio = self.config.mask_ratio
        if return_logits is None:
            return_logits = not (self.training and return_loss)
        layer_outputs = [] if self.config.decoder_layer_mixing else None
        encoded = self.vit(
            pixel_values,
            noise,
            mask_ratio,
            bool_masked_pos,
            interpolate_pos_encoding,
            layer_outputs=layer_outputs,
            return_dict=True,
            **kwargs,
        )
        latent, ids_shuffle = encoded.last_hidden_state, encoded.ids_shuffle
        num_visible = latent.shape[1] - 1
        # of a mask that is given to a compiled model, the number is not known beforehand
        if return_loss and guard_or_false(num_visible == ids_shuffle.shape[1]):
            raise ValueError(
                "no patch is masked, so there is no loss; mask some, or pass return_loss=False"
            )
        grid_size = self.vit._grid_size(pixel_values)
        ids_asked = None
        if not return_logits:
            removed, num_patches = ids_shuffle[:, num_visible:], ids_shuffle.shape[1]
            ids_asked = self.decoder.choose(removed, num_patches)
        pred = self.decoder(layer_outputs or [latent], ids_shuffle, grid_size, ids_asked)
        loss = logits = target = losses = None
        if return_logits:
            logits = gather_tokens(pred, encoded.ids_restore)  # natural order
            if return_loss:
                target = self._target(pixel_values)
                losses = masked_losses(logits, target, encoded.mask)
                loss = losses.mean()
        elif return_loss:
            # the same, for the mean: all images have equally many patches where the mask is 1
            loss = F.mse_loss(pred.float(), self._target(pixel_values, ids_asked))
        return MAEForPreTrainingOutput(
            loss=loss,
            logits=logits,
            mask=encoded.mask,
            ids_restore=encoded.ids_restore,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            losses=losses,
            target=target,
        )

    def _target(self, pixel_values: Tensor, ids: Tensor | None = None) -> Tensor:
        """What to predict, for every patch or those of `ids` (B, M): (B, N or M, p * q * C)."""
        patch_hw = self.config.patch_hw
        if ids is None:
            patches = patchify(pixel_values, patch_hw)
        else:
            patches = take_patches(pixel_values, patch_hw, ids)
        return pixel_target(patches, self.config.norm_pix_loss)

    @torch.no_grad()
    def reconstruct(
        self,
        pixel_values: Tensor,
        noise: Tensor | None = None,
        mask_ratio: float | None = None,
        bool_masked_pos: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> MAEReconstruction:
        """Fills in the removed patches.

        A model trained with `norm_pix_loss` predicts patches of mean 0 and deviation 1. To make a
        picture of them, each patch's true mean and deviation are borrowed from the original: such
        pictures look better than what the model knows, and the output says so in
        `borrows_patch_statistics`.

        Args:
            pixel_values, noise, mask_ratio, bool_masked_pos, interpolate_pos_encoding: as for
                `forward`; `mask_ratio=0` decodes the whole image.

        Returns:
            `MAEReconstruction`, images in the scale of `pixel_values`; the processor's
            `post_process_reconstruction` makes uint8 pictures of them.
        """
        outputs = self(
            pixel_values,
            noise,
            mask_ratio,
            bool_masked_pos,
            interpolate_pos_encoding,
            return_loss=False,
            return_logits=True,
            return_dict=True,
        )
        patch_hw, image_hw = self.config.patch_hw, (pixel_values.shape[2], pixel_values.shape[3])
        patches, predicted = patchify(pixel_values, patch_hw).float(), outputs.logits.float()
        if self.config.norm_pix_loss:
            mean, std = patch_statistics(patches)
            predicted = predicted * std + mean
        filled = torch.where(outputs.mask.unsqueeze(-1).bool(), predicted, patches)
        return MAEReconstruction(
            images=unpatchify(filled, patch_hw, image_hw),
            predicted=unpatchify(predicted, patch_hw, image_hw),
            mask=outputs.mask,
            borrows_patch_statistics=self.config.norm_pix_loss,
        )


__all__ = ["MAEForPreTraining", "MAEModel"]
