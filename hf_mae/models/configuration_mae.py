# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a Masked Autoencoder: its fields, their validation and the table of sizes."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneConfigMixin
from transformers.utils import CONFIG_NAME

from .near_names import did_you_mean
from .network import reach_model
from .saved_fields import check_fields, check_sizes
from .saved_files import told_of


# Encoders: base, large and huge are Table 8 of the ViT paper (arXiv 2010.11929), as the MAE paper
# (2111.06377) uses them; tiny and small are DeiT's (2012.12877, Table 1). Decoders: MAE paper,
# Section 4.1 (8 blocks, 512 wide; 16 heads as in the authors' code) from base up; tiny and small
# get a decoder narrower than their encoder, as there.
SIZES = {
    "tiny": {
        "hidden_size": 192,
        "num_hidden_layers": 12,
        "num_attention_heads": 3,
        "intermediate_size": 768,
        "decoder_hidden_size": 128,
        "decoder_num_hidden_layers": 4,
        "decoder_num_attention_heads": 4,
        "decoder_intermediate_size": 512,
    },
    "small": {
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "intermediate_size": 1536,
        "decoder_hidden_size": 256,
        "decoder_num_hidden_layers": 8,
        "decoder_num_attention_heads": 8,
        "decoder_intermediate_size": 1024,
    },
    "base": {},  # the defaults below
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
    "huge": {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "intermediate_size": 5120,
        "patch_size": 14,
    },
}

# all patches among themselves (MAE paper), or the removed ones asking the visible ones (CrossMAE,
# arXiv 2401.14391)
DECODERS = ("self", "cross")

MASK_STRATEGIES = ("random", "block")  # as masking.py draws them

POOLINGS = ("mean", "cls")  # of the patches, or the class token

# a backbone's maps with simple_feature_pyramid: a quarter, half, once and twice the patch
PYRAMID_STAGES = ["p2", "p3", "p4", "p5"]

_POSITIVE_INTEGERS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "num_channels",
    "decoder_hidden_size",
    "decoder_num_hidden_layers",
    "decoder_num_attention_heads",
    "decoder_intermediate_size",
)
_RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate", "mask_ratio")
_POSITIVE_NUMBERS = ("layer_norm_eps", "initializer_range")
_LARGEST = 1e6  # of these
_SWITCHES = ("qkv_bias", "norm_pix_loss", "final_norm", "head_batch_norm", "simple_feature_pyramid")
_SWITCHES += ("decoder_layer_mixing",)


def read_fields(
    model_name_or_path: str | os.PathLike, **options: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads config.json of any model; returns its fields, and the options that weren't for that.

    Raises:
        ValueError: it holds no mapping of fields, or fields of the wrong kind.
        OSError: there is none, or the Hub doesn't answer.
    """
    subfolder = options.get("subfolder")
    name = f"{subfolder}/{CONFIG_NAME}" if subfolder else CONFIG_NAME
    source = f"{name} of {model_name_or_path}"
    reach_model(model_name_or_path, **options)
    with told_of(source):
        try:
            fields, rest = PreTrainedConfig.get_config_dict(model_name_or_path, **options)
        except TypeError as error:  # up to 5.17 transformers writes into it
            raise ValueError(f"{source} holds no mapping of fields") from error
        if not isinstance(fields, dict):
            raise ValueError(f"{source} holds no mapping of fields")
        if not fields:
            raise ValueError(f"{source} is missing or empty; it must say what the model is like")
        check_fields(fields)
    return fields, rest


class MAEConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""Configuration of every model in hf_mae.

    Field names are those of transformers' `ViTMAEConfig`.

    Args:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size:
            Encoder width, depth, heads and MLP width. Defaults: ViT-Base.
        hidden_act: Activation of the MLPs.
        hidden_dropout_prob, attention_probs_dropout_prob: Dropout rates in [0, 1); the paper uses
            none.
        drop_path_rate: Stochastic depth of the last encoder layer, in [0, 1); it rises linearly
            from 0 at the first layer (fine-tuning: 0.1 for base, MAE paper Table 9).
        initializer_range: Standard deviation of the class and mask tokens at init.
        layer_norm_eps: 1e-6, as in the authors' code (transformers' ViTMAE has 1e-12).
        image_size: Pixels, an int or (height, width); a multiple of `patch_size`.
        patch_size: Pixels, an int or (height, width).
        num_channels: Any number of image channels.
        qkv_bias: Whether queries, keys and values have a bias.
        decoder_hidden_size, decoder_num_hidden_layers: Width and depth of the decoder. Defaults:
            MAE paper, Section 4.1 (8 blocks, width 512).
        decoder_num_attention_heads, decoder_intermediate_size: Heads and MLP width of the decoder.
            Defaults: the authors' code (16 heads).
        decoder_type: `"self"`, the paper's: visible and removed patches attend to one another; or
            `"cross"`: the removed ones ask the visible ones alone (CrossMAE, arXiv 2401.14391).
        prediction_ratio: Share of all patches that a cross decoder predicts in a training step, in
            (0, 1]: 0.25 (CrossMAE's command for ViT-Base), or all that are hidden where these are
            fewer. None for the paper's decoder, which predicts all that are hidden.
        decoder_layer_mixing: Whether each block of a cross decoder asks a learned sum of what the
            encoder's layers gave, instead of its last alone (CrossMAE's weighted feature maps).
        mask_ratio: Share of patches hidden from the encoder, in [0, 1) (0.75: MAE paper, Section
            4.1).
        mask_strategy: `"random"` patches are hidden, or square `"block"`s of them, as many.
        mask_block_size: Side of a block in patches; None for a quarter of the grid's shorter side,
            at least 2.
        norm_pix_loss: Whether the target of a patch is its pixels normalised by their own mean and
            standard deviation (MAE paper, Table 1d).
        pooling: What represents an image: `"mean"` of the patch tokens, or the `"cls"` token.
        final_norm: Whether the encoder ends with a layer norm. A mean-pool classifier has it after
            the mean instead (MAE paper, Appendix A.1), and sets this.
        head_batch_norm: Whether a classification head starts with a batch norm without affine
            parameters (MAE paper, Appendix A.1, linear probing).
        simple_feature_pyramid: Whether a backbone makes four maps of its last one, as ViTDet does
            (arXiv 2203.16527).
        out_features, out_indices: Which maps a backbone gives, by name or by number, among
            `stage_names`: "stem" and "stage1" to the last layer's, of which the default is the
            last; or "p2" to "p5" of a pyramid, of which the default is all.

    Raises:
        ValueError: a value is impossible; the message names the field, what was found and what is
            allowed.

    Example:

    >>> from hf_mae import MAEConfig
    >>> config = MAEConfig.from_size("base", image_size=(224, 448))
    >>> config.grid_size
    (14, 28)
    """

    model_type = "mae"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    drop_path_rate: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int | list[int] | tuple[int, int] = 16
    num_channels: int = 3
    qkv_bias: bool = True
    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 8
    decoder_num_attention_heads: int = 16
    decoder_intermediate_size: int = 2048
    decoder_type: str = "self"
    prediction_ratio: float | None = None
    decoder_layer_mixing: bool = False
    mask_ratio: float = 0.75
    mask_strategy: str = "random"
    mask_block_size: int | None = None
    norm_pix_loss: bool = False
    pooling: str = "mean"
    final_norm: bool = True
    head_batch_norm: bool = False
    simple_feature_pyramid: bool = False
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __new__(cls, *args: Any, **fields: Any) -> "MAEConfig":
        check_fields(fields)  # up to 5.17 transformers would speak first
        return super().__new__(cls)

    def __post_init__(
        self,
        out_features: list[str] | None = None,
        out_indices: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("stage_names", None)  # they follow from the depth
        super().__post_init__(**kwargs)
        if self.decoder_type == "cross" and self.prediction_ratio is None:
            self.prediction_ratio = 0.25
        self.check()
        layers = range(1, self.num_hidden_layers + 1)
        self.stage_names = ["stem", *(f"stage{number}" for number in layers)]
        if self.simple_feature_pyramid:
            self.stage_names = list(PYRAMID_STAGES)
        if out_features is None and out_indices is None:
            out_features = self._default_features()
        self.set_output_features_output_indices(out_features, out_indices)

    def to_dict(self) -> dict[str, Any]:
        """As transformers does; what a backbone gives is left out where it is the default."""
        fields = super().to_dict()
        del fields["stage_names"]  # they follow from the depth
        if fields["out_features"] == self._default_features():
            del fields["out_features"], fields["out_indices"]
        return fields

    def _default_features(self) -> list[str]:
        return self.stage_names if self.simple_feature_pyramid else self.stage_names[-1:]

    @classmethod
    def from_size(cls, size: str, **overrides: Any) -> "MAEConfig":
        """Makes the configuration of a named size, with fields overridden.

        Args:
            size: "tiny", "small", "base", "large" or "huge", as in `SIZES`.

        Raises:
            ValueError: the size or a field is unknown, or a value is impossible.
        """
        if size not in SIZES:
            raise ValueError(
                f"size is {size!r}; it must be one of {', '.join(SIZES)}{did_you_mean(size, SIZES)}"
            )
        cls._check_names(overrides)
        return cls(**{**SIZES[size], **overrides})

    def changed(self, **overrides: Any) -> "MAEConfig":
        """Copies this configuration, with fields overridden.

        Raises:
            ValueError: a field is unknown, or a value is impossible.
        """
        self._check_names(overrides)
        return type(self)(**{**self.to_dict(), **overrides})

    @classmethod
    def _check_names(cls, names: Iterable[str]) -> None:
        unknown = [name for name in names if not hasattr(cls, name)]
        if unknown:
            hint = did_you_mean(unknown[0], own_fields()) or f"; it has {', '.join(own_fields())}"
            raise ValueError(f"MAEConfig has no field {unknown[0]!r}{hint}")

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        # transformers' `vit_mae` and `vit` have a subset of our fields under the same names: such
        # folders are ours to read; said here, the model type doesn't set off transformers' warning
        # about a mismatch
        config_dict, kwargs = read_fields(pretrained_model_name_or_path, **kwargs)
        if cls.is_native(config_dict):
            config_dict["model_type"] = cls.model_type
        return config_dict, kwargs

    @staticmethod
    def is_native(config_dict: Mapping[str, Any]) -> bool:
        """Whether these are the fields of a model of transformers' own that is ours to read.

        That is `vit_mae`, and `vit` without a head: an encoder as ours, and its pooler.
        """
        if config_dict.get("model_type") == "vit":
            return config_dict.get("architectures") == ["ViTModel"]
        return config_dict.get("model_type") == "vit_mae"

    def check(self) -> None:
        """Checks every field.

        Raises:
            ValueError: a field has an impossible value.
        """
        for name in _POSITIVE_INTEGERS:
            self._check_field(name, _is_positive_integer, "a positive whole number")
        for name in _RATES:
            self._check_field(name, _is_rate, "a number in [0, 1)")
        for name in _POSITIVE_NUMBERS:
            self._check_field(name, _is_positive_number, f"a positive number up to {_LARGEST:g}")
        for name in _SWITCHES:
            self._check_field(name, _is_bool, "True or False")
        for name in ("image_size", "patch_size"):
            self._check_field(name, _is_size, "a positive whole number or (height, width)")
        self._check_choice("hidden_act", ACT2FN)
        self._check_choice("pooling", POOLINGS)
        self._check_decoder()
        self._check_mask()
        self._check_width("hidden_size", "num_attention_heads")
        self._check_width("decoder_hidden_size", "decoder_num_attention_heads")
        self._check_grid()
        check_sizes(vars(self))

    def _check_field(self, name: str, is_possible: Callable[[Any], bool], allowed: str) -> None:
        value = getattr(self, name)
        if not is_possible(value):
            raise ValueError(f"{name} is {value!r}; it must be {allowed}")

    def _check_choice(self, name: str, choices: Iterable[str]) -> None:
        value = getattr(self, name)
        if not isinstance(value, str) or value not in choices:
            near = did_you_mean(str(value), choices)
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(choices)}{near}")

    def _check_decoder(self) -> None:
        self._check_choice("decoder_type", DECODERS)
        if self.decoder_type == "cross":
            self._check_field("prediction_ratio", _is_share, "a number in (0, 1]")
            return
        for name, off in (("prediction_ratio", None), ("decoder_layer_mixing", False)):
            if getattr(self, name) != off:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, which is for a decoder_type 'cross'; set "
                    f"that, or leave {name} out"
                )

    def _check_mask(self) -> None:
        self._check_choice("mask_strategy", MASK_STRATEGIES)
        side = self.mask_block_size
        if side is None:
            return
        self._check_field("mask_block_size", _is_positive_integer, "a positive whole number")
        if self.mask_strategy != "block":
            raise ValueError(
                f"mask_block_size is {side}, which is for a mask_strategy 'block'; set that, or "
                "leave mask_block_size out"
            )

    def _check_width(self, width_name: str, heads_name: str) -> None:
        width, heads = getattr(self, width_name), getattr(self, heads_name)
        if width % heads:
            raise ValueError(
                f"{width_name} is {width}; it must be a multiple of {heads_name}, which is {heads}"
            )
        if width % 4:
            # a quarter each for the sine and cosine of the column and of the row
            raise ValueError(
                f"{width_name} is {width}; it must be a multiple of 4 for the sin-cos position "
                "table"
            )

    def _check_grid(self) -> None:
        for image, patch, side in zip(self.image_hw, self.patch_hw, ("height", "width")):
            if image % patch:
                raise ValueError(
                    f"image_size has {side} {image}; it must be a multiple of patch_size, {patch}"
                )

    @property
    def image_hw(self) -> tuple[int, int]:
        """Image (height, width) in pixels."""
        return _pair(self.image_size)

    @property
    def patch_hw(self) -> tuple[int, int]:
        """Patch (height, width) in pixels."""
        return _pair(self.patch_size)

    @property
    def grid_size(self) -> tuple[int, int]:
        """Patches (down, across)."""
        return self.image_hw[0] // self.patch_hw[0], self.image_hw[1] // self.patch_hw[1]

    @property
    def num_patches(self) -> int:
        """Patches in an image."""
        return self.grid_size[0] * self.grid_size[1]


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return value[0], value[-1]  # one side alone is that of a square


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_positive_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_rate(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1


def _is_positive_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 < value <= _LARGEST


def _is_share(value: Any) -> bool:
    return _is_positive_number(value) and value <= 1


def _is_size(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) in (1, 2) and all(map(_is_positive_integer, value))
    return _is_positive_integer(value)


def own_fields() -> list[str]:
    """Names the fields that `MAEConfig` adds to those of every configuration."""
    return [name for name in MAEConfig.__annotations__ if not name.startswith("_")]
