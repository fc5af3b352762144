# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Masked Autoencoder (arXiv 2111.06377): the encoder, the decoder and pre-training.

Letters in the shape comments: B images, C channels, H x W pixels, p x q pixels a patch, N patches,
V visible and M masked
patches (N = V + M), D width. Everywhere a mask has 1 for a patch that is removed and 0 for one that
the encoder sees.
"""

import copy
import math
import os

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .configuration_mae import MAEConfig
from .decoder import MAEDecoder
from .functional import (
    gather_tokens,
    masked_losses,
    patch_statistics,
    patchify,
    pixel_target,
    resize_position_table,
    sincos_position_table,
    take_patches,
    unpatchify,
)
from .key_names import VIT_MAE_RENAMES
from .layers import MAEAttention, MAEEmbeddings, MAELayer
from .masking import given_masking, random_masking
from .modeling_outputs import MAEForPreTrainingOutput, MAEModelOutput, MAEReconstruction


_HUB_ARGUMENTS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
)


class MAEPreTrainedModel(PreTrainedModel):
    """Init, loading and resizing, for every model of the package."""

    config_class = MAEConfig
    base_model_prefix = "vit"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = (
        False  # the loss is a mean: the Trainer has to divide by the accumulation steps
    )
    _no_split_modules = ["MAELayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": MAELayer, "attentions": MAEAttention}

    @torch.no_grad()
    def _init_weights(self, module):
        """The authors' init, all of it: xavier for what multiplies, normal for tokens, sin-cos for
        positions."""
        if module is getattr(self, "classifier", None):
            # the authors' code: 2e-5 for fine-tuning, 0.01 for the linear probe, whose mark the
            # batch norm is
            init.trunc_normal_(module.weight, std=0.01 if self.config.head_batch_norm else 2e-5)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            # as the linear layer that it is; torch's convolution init stays for the bias
            fan_out, fan_in = module.weight.shape[0], module.weight[0].numel()
            bound = math.sqrt(6 / (fan_in + fan_out))
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -(fan_in**-0.5), fan_in**-0.5)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d):
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
        elif isinstance(module, MAEEmbeddings):
            init.normal_(module.cls_token, std=self.config.initializer_range)
            table = module.position_embeddings
            init.copy_(table, sincos_position_table(module.grid_size, table.shape[-1]))
        elif isinstance(module, MAEDecoder):
            init.normal_(module.mask_token, std=self.config.initializer_range)
            table = module.decoder_pos_embed
            init.copy_(table, sincos_position_table(module.grid_size, table.shape[-1]))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, config=None, **kwargs):
        """transformers' `from_pretrained`, which also reads `vit_mae` folders and takes another
        `image_size`.

        With an `image_size` that differs from the folder's, the position tables are resized
        (bicubic, in two dimensions).

        Raises:
            ValueError: the folder holds some other kind of model.

        Example:

        >>> MAEModel.from_pretrained("facebook/vit-mae-base", image_size=448)  # doctest: +SKIP
        """
        hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}
        saved, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **hub)
        native = MAEConfig.is_native(saved)
        if not native and saved.get("model_type") != "mae":
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a model of type "
                f"{saved.get('model_type')!r}; "
                f"{cls.__name__} reads 'mae' and 'vit_mae'"
            )
        if config is None or isinstance(config, (str, os.PathLike)):
            config, kwargs = MAEConfig.from_pretrained(
                config or pretrained_model_name_or_path,
                return_unused_kwargs=True,
                **{**kwargs, **hub},
            )
            kwargs.update(hub)
        elif isinstance(config, MAEConfig):
            config = copy.deepcopy(config)  # the caller's stays as it is
        else:
            config = MAEConfig.from_dict({**config.to_dict(), "model_type": MAEConfig.model_type})
        if native:
            kwargs.setdefault("key_mapping", VIT_MAE_RENAMES)
        wanted_size = config.image_size
        config.image_size = saved.get("image_size", MAEConfig.image_size)
        loaded = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, config=config, **kwargs
        )
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        # else saving would rename back to vit_mae's keys, and the Trainer reads raw keys when it
        # resumes
        model._weight_conversions = None
        model.set_image_size(wanted_size)
        return loaded

    def set_image_size(self, image_size):
        """Resizes the position tables, in place, for images of another size: pixels, an int or
        (height, width)."""
        config = self.config.changed(image_size=image_size)  # checked as a whole
        tables = {"position_embeddings": MAEEmbeddings, "decoder_pos_embed": MAEDecoder}
        for module in self.modules():
            for name, kind in tables.items():
                if isinstance(module, kind):
                    table = getattr(module, name)
                    resized = resize_position_table(
                        table.detach(), module.grid_size, config.grid_size
                    )
                    setattr(
                        module,
                        name,
                        nn.Parameter(resized) if isinstance(table, nn.Parameter) else resized,
                    )
                    module.grid_size = config.grid_size
        self.config.image_size = config.image_size


class MAEModel(MAEPreTrainedModel):
    """The encoder: ordered features of every patch by default, of the visible ones if a mask is
    asked for.

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

    def __init__(self, config, trainable_positions=False):
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

    def get_input_embeddings(self):
        return self.embeddings.patch_embeddings

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values,
        noise=None,
        mask_ratio=None,
        bool_masked_pos=None,
        interpolate_pos_encoding=False,
        drop_path_noise=None,
        **kwargs,
    ):
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

        Returns:
            `MAEModelOutput`

        Raises:
            ValueError: wrong size, channels, dtype or mask.
        """
        grid_size = self._check_images(pixel_values, interpolate_pos_encoding)
        self._check_attentions(kwargs)
        shape = (len(pixel_values), math.prod(grid_size))  # (B, N)
        masking = self._masking(shape, pixel_values.device, noise, mask_ratio, bool_masked_pos)
        ids_shuffle, ids_restore, mask, num_visible = masking or (None, None, None, 0)
        if masking:
            ids_visible = ids_shuffle[:, :num_visible]
            patches = take_patches(
                pixel_values, self.config.patch_hw, ids_visible
            )  # (B, V, p * q * C)
        else:
            ids_visible, patches = None, patchify(pixel_values, self.config.patch_hw)
        hidden_states = self.embeddings(patches, grid_size, ids_visible)  # (B, 1 + V, D)
        for i, layer in enumerate(self.layers):
            noise_here = None if drop_path_noise is None else drop_path_noise[:, i]
            hidden_states = layer(hidden_states, drop_path_noise=noise_here, **kwargs)
        hidden_states = self.layernorm(hidden_states)
        pooled = (
            hidden_states[:, 1:].mean(dim=1)
            if self.config.pooling == "mean"
            else hidden_states[:, 0]
        )
        return MAEModelOutput(
            last_hidden_state=hidden_states,
            pooler_output=pooled,
            mask=mask,
            ids_restore=ids_restore,
            ids_shuffle=ids_shuffle,
        )

    def _check_images(self, pixel_values, interpolate_pos_encoding):
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
        (height, width), (p, q) = pixel_values.shape[2:], self.config.patch_hw
        if not interpolate_pos_encoding and (height, width) != self.config.image_hw:
            raise ValueError(
                f"pixel_values are {height} x {width} pixels and the model is for "
                f"{self.config.image_hw[0]} x "
                f"{self.config.image_hw[1]}; resize them, or pass interpolate_pos_encoding=True"
            )
        return height // p, width // q

    def _check_attentions(self, kwargs):
        asked = kwargs.get("output_attentions", getattr(self.config, "output_attentions", False))
        if asked and self.config._attn_implementation != "eager":
            raise ValueError(
                "attention weights were asked for and attn_implementation is "
                f"{self.config._attn_implementation!r}, "
                "which doesn't compute them; load the model with attn_implementation='eager'"
            )

    def _masking(self, shape, device, noise, mask_ratio, bool_masked_pos):
        """(ids_shuffle, ids_restore, mask, V) for (B, N) patches, or None if nothing is asked to be
        masked."""
        for name, given in (("noise", noise), ("bool_masked_pos", bool_masked_pos)):
            if given is not None and given.shape != shape:
                raise ValueError(
                    f"{name} has shape {tuple(given.shape)}; expected (batch, patches) {shape}"
                )
        if mask_ratio is not None and not 0 <= mask_ratio < 1:
            raise ValueError(f"mask_ratio is {mask_ratio}; it must be in [0, 1)")
        if bool_masked_pos is not None:
            if noise is not None or mask_ratio is not None:
                raise ValueError(
                    "bool_masked_pos is the mask; noise and mask_ratio can't be given beside it"
                )
            return given_masking(bool_masked_pos)
        if noise is None and mask_ratio is None:
            return None
        if noise is None:
            noise = torch.rand(shape, device=device)
        return random_masking(noise, self.config.mask_ratio if mask_ratio is None else mask_ratio)


class MAEForPreTraining(MAEPreTrainedModel):
    """Encoder and decoder, with the loss on the removed patches.

    In training only what the loss needs is computed: the decoder's last block, norm and predictor
    run for the removed
    patches alone, and `logits` are None unless `return_logits=True`.

    Example:

    >>> import torch
    >>> from hf_mae import MAEConfig, MAEForPreTraining
    >>> model = MAEForPreTraining(MAEConfig.from_size("tiny", norm_pix_loss=True))
    >>> model(torch.rand(2, 3, 224, 224)).loss.backward()
    """

    def __init__(self, config):
        config = copy.deepcopy(config)  # the caller's stays as it is
        config.final_norm = True
        super().__init__(config)
        self.vit = MAEModel(config)
        self.decoder = MAEDecoder(config)
        self.post_init()

    def get_input_embeddings(self):
        return self.vit.get_input_embeddings()

    @can_return_tuple
    def forward(
        self,
        pixel_values,
        noise=None,
        mask_ratio=None,
        bool_masked_pos=None,
        interpolate_pos_encoding=False,
        return_loss=True,
        return_logits=None,
        **kwargs,
    ):
        """Masks, encodes, decodes and compares.

        Args:
            pixel_values, noise, bool_masked_pos, interpolate_pos_encoding: as for `MAEModel`.
            mask_ratio: Share of patches to remove; by default `config.mask_ratio`.
            return_loss: Whether to compute the loss.
            return_logits: Whether to predict every patch; by default outside training, and in it if
                `return_loss` is false.

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
        encoded = self.vit(
            pixel_values,
            noise,
            mask_ratio,
            bool_masked_pos,
            interpolate_pos_encoding,
            return_dict=True,
            **kwargs,
        )
        ids_shuffle = encoded.ids_shuffle
        num_visible = encoded.last_hidden_state.shape[1] - 1
        if return_loss and num_visible == ids_shuffle.shape[1]:
            raise ValueError(
                "no patch is masked, so there is no loss; mask some, or pass return_loss=False"
            )

        grid_size = [
            size // patch for size, patch in zip(pixel_values.shape[2:], self.config.patch_hw)
        ]
        pred = self.decoder(
            encoded.last_hidden_state, ids_shuffle, grid_size, masked_only=not return_logits
        )
        loss = None
        if return_loss:
            masked_pred = pred[:, num_visible:] if return_logits else pred  # (B, M, p * q * C)
            patches = take_patches(pixel_values, self.config.patch_hw, ids_shuffle[:, num_visible:])
            target = pixel_target(patches, self.config.norm_pix_loss)
            loss = F.mse_loss(
                masked_pred.float(), target
            )  # all rows mask equally many: a mean is the masked loss
        logits = gather_tokens(pred, encoded.ids_restore) if return_logits else None
        losses, target = None, None
        if return_loss and return_logits:
            patches = patchify(pixel_values, self.config.patch_hw)
            target = pixel_target(patches, self.config.norm_pix_loss)  # (B, N, p * q * C)
            losses = masked_losses(logits, target, encoded.mask)  # (B,)
        return MAEForPreTrainingOutput(
            loss=loss,
            losses=losses,
            target=target,
            logits=logits,
            mask=encoded.mask,
            ids_restore=encoded.ids_restore,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    @torch.no_grad()
    def reconstruct(
        self,
        pixel_values,
        noise=None,
        mask_ratio=None,
        bool_masked_pos=None,
        interpolate_pos_encoding=False,
    ):
        """Fills in the removed patches.

        A model trained with `norm_pix_loss` predicts patches of mean 0 and deviation 1. To make a
        picture of them, each patch's true mean and deviation are borrowed from the original: such
        pictures look better than what the model knows, and the output says so in
        `borrows_patch_statistics`.

        Args:
            As for `forward`; `mask_ratio=0` decodes the whole image.

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
        patch_hw, image_hw = self.config.patch_hw, pixel_values.shape[2:]
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
