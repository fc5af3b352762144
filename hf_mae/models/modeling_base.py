# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What every model of the package shares: its first weights, how it is loaded and resized."""

import copy
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import CONFIG_NAME
from transformers.utils.hub import cached_file
from transformers.utils.import_utils import is_peft_available
from transformers.utils.peft_utils import find_adapter_config_file

from .configuration_mae import MAEConfig, read_fields
from .cross_decoder import LayerMixing
from .decoder import MAEDecoder
from .key_names import VIT_MAE_RENAMES
from .layers import MAEAttention, MAEEmbeddings, MAELayer
from .network import reach_model
from .permissions import share_weights
from .saved_files import check_weights


ModelT = TypeVar("ModelT", bound="MAEPreTrainedModel")

# what from_pretrained takes and reading a configuration does too
HUB_ARGUMENTS = (
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

    config: MAEConfig
    config_class = MAEConfig
    base_model_prefix = "vit"
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # pyright: ignore[reportAssignmentType] # a tuple as in transformers
    supports_gradient_checkpointing = True
    # the loss is a mean: the Trainer has to divide by the accumulation steps
    accepts_loss_kwargs = False
    _no_split_modules = ["MAELayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": MAELayer, "attentions": MAEAttention}
    _left_over_keys: frozenset[str] = frozenset()  # of the files that it was loaded from

    def encode_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Computes the encoder's `pooler_output` (B, D) of images (B, C, H, W), none masked."""
        return self.base_model(pixel_values, return_dict=True).pooler_output

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Gives a module the authors' init: xavier for what multiplies, normal for tokens."""
        if isinstance(module, nn.Linear) and module is getattr(self, "classifier", None):
            # the authors' code: 2e-5 for fine-tuning, 0.01 for the linear probe, whose mark the
            # batch norm is
            init.trunc_normal_(module.weight, std=0.01 if self.config.head_batch_norm else 2e-5)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            # as the linear layer that it is; torch's convolution init stays for the bias
            fan_out, fan_in = module.weight.shape[0], module.weight[0].numel()
            bound = math.sqrt(6 / (fan_in + fan_out))
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -(fan_in**-0.5), fan_in**-0.5)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d):
            buffers = dict(module.named_buffers())
            init.zeros_(buffers["running_mean"])
            init.ones_(buffers["running_var"])
            init.zeros_(buffers["num_batches_tracked"])
        elif isinstance(module, (MAEEmbeddings, MAEDecoder, LayerMixing)):
            module.init_weights()

    def get_input_embeddings(self) -> nn.Module:
        encoder: Any = self.base_model  # the model itself, if it is a bare encoder
        return encoder.embeddings.patch_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        encoder: Any = self.base_model
        encoder.embeddings.patch_embeddings = value

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Saves the model, as transformers does, in files that all may read who may others."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if Path(save_directory).is_dir():
            share_weights(save_directory)

    @classmethod
    def from_pretrained(
        cls: type[ModelT],
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args: Any,
        config: PreTrainedConfig | str | os.PathLike | None = None,
        **kwargs: Any,
    ) -> ModelT:
        """Loads a model as transformers does, of `vit_mae` folders and another `image_size` too.

        With an `image_size` that differs from the folder's, the position tables are resized
        (bicubic, in two dimensions).

        Raises:
            ValueError: the folder holds some other kind of model.

        Example:

        >>> MAEModel.from_pretrained("facebook/vit-mae-base", image_size=448)  # doctest: +SKIP
        """
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        source = base_of_adapter(pretrained_model_name_or_path, hub)
        if source is None:  # weights come as state_dict, or are new
            own = _copy_as_ours(config) if isinstance(config, PreTrainedConfig) else config
            return super().from_pretrained(None, *model_args, config=own, **kwargs)
        saved, _ = read_fields(source, **hub)
        native = MAEConfig.is_native(saved)
        if not native and saved.get("model_type") != "mae":
            raise ValueError(
                f"{source} holds a model of type {saved.get('model_type')!r}; {cls.__name__} reads "
                "'mae' and 'vit_mae'"
            )
        if isinstance(config, PreTrainedConfig):
            ours = _copy_as_ours(config)
        else:
            # the type to load in is no field: it may be "auto"
            types = {name: kwargs.pop(name) for name in ("dtype", "torch_dtype") if name in kwargs}
            read: Any = MAEConfig.from_pretrained(
                config or source, return_unused_kwargs=True, **kwargs
            )
            ours, kwargs = read
            kwargs.update(hub | types)
        if native:
            kwargs.setdefault("key_mapping", VIT_MAE_RENAMES)
        wanted_size = ours.image_size
        ours.image_size = saved.get("image_size", MAEConfig.image_size)  # as its tables are
        if Path(source).is_dir():
            check_weights(Path(source, hub.get("subfolder") or ""))
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, config=ours, **kwargs
        )
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        # else saving would rename back to vit_mae's keys, and the Trainer reads raw keys when it
        # resumes
        model._weight_conversions = None
        model.set_image_size(wanted_size)
        return loaded  # pyright: ignore[reportReturnType] # a tuple with output_loading_info

    def _adjust_missing_and_unexpected_keys(self, loading_info: Any) -> None:
        # transformers is about to leave out of its report what the class may pass over
        self._left_over_keys = frozenset(loading_info.unexpected_keys)
        super()._adjust_missing_and_unexpected_keys(loading_info)

    def set_image_size(self, image_size: int | Sequence[int]) -> None:
        """Resizes the position tables, in place, for images of another size.

        Args:
            image_size: Pixels, an int or (height, width).

        Raises:
            ValueError: it is no multiple of the patch size.
        """
        config = self.config.changed(image_size=image_size)  # checked as a whole
        for module in self.modules():
            if isinstance(module, (MAEEmbeddings, MAEDecoder)):
                module.resize_positions(config.grid_size)
        self.config.image_size = config.image_size


def base_of_adapter(
    model_name_or_path: str | os.PathLike | None, hub: Mapping[str, Any]
) -> str | os.PathLike | None:
    """The model that an adapter's folder or repository names; what holds a model is itself."""
    if model_name_or_path is None:
        return None
    reach_model(model_name_or_path, **hub)
    if not is_peft_available():
        return model_name_or_path
    path = str(model_name_or_path)
    if cached_file(path, CONFIG_NAME, _raise_exceptions_for_missing_entries=False, **hub):
        return model_name_or_path
    adapter = find_adapter_config_file(path, **hub)
    if adapter is None:
        return model_name_or_path
    return json.loads(Path(adapter).read_text(encoding="utf-8"))["base_model_name_or_path"]


def _copy_as_ours(config: PreTrainedConfig) -> MAEConfig:
    """A configuration of ours; the caller's stays as it is."""
    if isinstance(config, MAEConfig):
        return copy.deepcopy(config)
    return MAEConfig.from_dict({**config.to_dict(), "model_type": MAEConfig.model_type})
