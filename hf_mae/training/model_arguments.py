# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What the training scripts can be told about the model, and the pixels that it sees."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from datasets import Dataset, IterableDataset
from transformers import PreTrainedConfig
from transformers.utils import logging

from ..data.class_names import composed
from ..data.value_range import check_value_range, fit_value_range
from ..models.configuration_mae import (
    DECODERS,
    MASK_STRATEGIES,
    POOLINGS,
    SIZES,
    MAEConfig,
    own_fields,
)
from ..models.image_processing_mae import MAEImageProcessor
from ..models.loading import ModelT, load_as, load_config, load_processor
from ..models.modeling_classification import MAEForImageClassification
from ..models.modeling_mae import MAEForPreTraining
from ..models.near_names import did_you_mean
from ..models.picture_size import MAX_IMAGE_PIXELS
from ..models.problem_types import SINGLE_LABEL
from .recipes import read_yaml


logger = logging.get_logger(__name__)
# what says what a model computes; the rest of a configuration follows from data and flags
_OVERRIDABLE = (*own_fields(), "problem_type")
_CHANGEABLE = (
    "image_size",
    "drop_path_rate",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
)
_POOLING = "What the head sees: mean of the patches, or class token."


@dataclass
class BaseModelArguments:
    """Which model to train, whatever for."""

    size: str | None = field(
        default=None,
        metadata={"choices": list(SIZES), "help": "Of a new model (default: base)."},
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Go on from this model (folder or Hub id) instead of a new one."},
    )
    config_name: str | None = field(
        default=None,
        metadata={"help": "Make a new model by the configuration in this folder or Hub id."},
    )
    image_size: list[int] | None = field(
        default=None, metadata={"help": "Pixels: one number, or height and width."}
    )
    patch_size: list[int] | None = field(
        default=None, metadata={"help": "Pixels: one number, or height and width."}
    )
    num_channels: int | None = field(default=None, metadata={"help": "Channels of the images."})
    image_mean: list[float] | None = field(
        default=None,
        metadata={
            "help": "Mean of each channel, 0 to 1 (default: the model's own, or ImageNet's)."
        },
    )
    image_std: list[float] | None = field(
        default=None, metadata={"help": "Standard deviation of each channel, likewise."}
    )
    value_range: list[str] | None = field(
        default=None,
        metadata={
            "help": "Values of black and white, or auto (default: the model's, or sampled). "
            "They hold for all images, as 0 4095; auto takes percentiles 0.1 and 99.9 of a sample."
        },
    )
    bands: list[int] | None = field(
        default=None,
        metadata={"help": "Bands that are taken, numbered from 1, in this order: 4 3 2."},
    )
    config_overrides: str | None = field(
        default=None,
        metadata={
            "help": "Other fields of MAEConfig, as '{num_hidden_layers: 4}'. It is YAML, and may "
            "hold several."
        },
    )

    def overrides(self) -> dict[str, Any]:
        """Collects the fields of MAEConfig that are given.

        Raises:
            ValueError: `config_overrides` is no mapping in YAML.
        """
        try:
            others = read_yaml(self.config_overrides or "{}")
        except ValueError as error:
            raise ValueError(
                f"config_overrides is {self.config_overrides!r}, which is not YAML: {error}"
            ) from error
        if not isinstance(others, dict):
            raise ValueError(
                f"config_overrides is {self.config_overrides!r}; it must be a mapping, as "
                f"'{{hidden_size: 96}}'"
            )
        own = {}
        for name, value in vars(self).items():
            if value is None or name not in MAEConfig.__annotations__:
                continue
            is_one_side = isinstance(value, list) and len(value) == 1
            own[name] = value[0] if is_one_side else value
        return {**others, **own}

    def build(
        self, model_class: type[ModelT], changeable: Collection[str], **options: Any
    ) -> ModelT:
        """Builds the model to train.

        It is a new one, or the one named with some fields of its configuration changed.

        Args:
            model_class: `MAEForPreTraining` or `MAEForImageClassification`.
            changeable: The fields that can be changed in a model that exists.
            options: Other fields of the configuration.

        Raises:
            ValueError: a field or value is impossible, or can't be changed in a model that exists.
            OSError: there is no such model.
        """
        overrides = {k: v for k, v in self.overrides().items() if k not in options}
        self._check_sources()
        if self.model_name_or_path:
            fixed = [name for name in overrides if name not in changeable]
            if fixed:
                raise ValueError(
                    f"{fixed[0]} can't be changed in model_name_or_path; {', '.join(changeable)} "
                    "can"
                )
            return load_as(model_class, self.model_name_or_path, **overrides, **options)
        for name in overrides:
            if name not in _OVERRIDABLE:
                others = f"; it has {', '.join(_OVERRIDABLE)}"
                raise ValueError(
                    f"config_overrides has {name!r}, and MAEConfig has no field {name!r} that can "
                    f"be set there{did_you_mean(str(name), _OVERRIDABLE) or others}"
                )
        if self.config_name:
            config = load_config(self.config_name).changed(**overrides, **options)
        else:
            config = MAEConfig.from_size(self.size or "base", **overrides, **options)
        return model_class(config)

    def build_processor(self, config: MAEConfig) -> MAEImageProcessor:
        """Builds the image processor of the model to train.

        It is the one of `model_name_or_path`, for the size of `config`, or ImageNet's; `image_mean`
        and `image_std` go before both.

        Raises:
            ValueError: it is damaged, not for this model, or doesn't normalise; or a mean or
                deviation is impossible.
        """
        self._check_statistics(config.num_channels)
        if self.model_name_or_path:
            loaded = load_processor(self.model_name_or_path, config)
            processor = cast(MAEImageProcessor, loaded)
        else:
            processor = MAEImageProcessor.from_model_config(config)
        scales = processor.do_rescale and math.isclose(processor.rescale_factor, 1 / 255)
        if not (scales and processor.do_normalize):
            raise ValueError(
                f"preprocessor_config.json of {self.model_name_or_path} doesn't scale pixels to 0 "
                "to 1 and normalise them, as training does; set do_rescale, do_normalize, "
                "image_mean and image_std there, and rescale_factor to 1 / 255"
            )
        processor.image_mean = self.image_mean or processor.image_mean
        processor.image_std = self.image_std or processor.image_std
        processor.bands = self.bands or processor.bands
        self._check_bands(processor.bands, config.num_channels)
        return processor

    def fit_value_range(
        self,
        processor: MAEImageProcessor,
        images: Dataset | IterableDataset,
        held_out: Dataset | None,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ) -> str:
        """Gives the image processor the images' value range; returns a line that says which.

        Raises:
            ValueError: `value_range` is impossible, or it isn't given and the images don't tell; or
                those that are held out have other values.
        """
        num_channels = len(cast(Sequence[float], processor.image_mean))
        wanted = self._wanted_range()
        line = fit_value_range(processor, images, num_channels, wanted, max_image_pixels)
        if held_out is not None:
            check_value_range(processor, held_out, num_channels, max_image_pixels)
        return line

    def _wanted_range(self) -> list[float] | Literal["auto"] | None:
        given: Any = self.value_range
        if given is None:
            return None
        if given in ("auto", ["auto"]):
            return "auto"
        try:
            low, high = (float(value) for value in given)
            if -math.inf < low < high < math.inf:
                return [low, high]
        except (TypeError, ValueError):
            pass
        raise ValueError(
            f"value_range is {given}; it must be the values of black and white, the lower first, "
            "or auto"
        )

    def _check_bands(self, bands: Sequence[int] | None, num_channels: int) -> None:
        if bands is None:
            return
        if min(bands) < 1:
            raise ValueError(f"bands is {list(bands)}; the first band is 1")
        if len(bands) not in (1, num_channels):
            raise ValueError(
                f"bands names {len(bands)} bands, and the model takes {num_channels}; pass "
                f"--num_channels {len(bands)} with a new model, or name {num_channels}"
            )

    def _check_statistics(self, num_channels: int) -> None:
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) != num_channels:
                raise ValueError(
                    f"{name} has {len(values)} values; give {num_channels}, one for each channel "
                    "of the model"
                )
            if not all(map(math.isfinite, values)):
                raise ValueError(f"{name} is {values}; its values must be finite")
            if max(map(abs, values)) > 1e6:
                raise ValueError(f"{name} is {values}; its values must be at most 1e6")
        if self.image_std is not None and min(self.image_std) <= 0:
            raise ValueError(f"image_std is {self.image_std}; its values must be above 0")
        if self.image_std is not None and min(self.image_std) < 1e-6:
            raise ValueError(f"image_std is {self.image_std}; its values must be at least 1e-6")

    def _check_sources(self) -> None:
        names = ("model_name_or_path", "config_name", "size")
        sources = [name for name in names if getattr(self, name)]
        if len(sources) > 1:
            raise ValueError(
                f"{sources[1]} can't be given beside {sources[0]}: each says which model it is"
            )

    @property
    def started_from(self) -> str:
        """Where the encoder's weights come from, in words."""
        if self.model_name_or_path:
            return Path(self.model_name_or_path).name
        return "random weights"

    @property
    def hub_id(self) -> str | None:
        """The Hub id of the model, or None."""
        if self.model_name_or_path and not Path(self.model_name_or_path).exists():
            return self.model_name_or_path
        return None


@dataclass
class ModelArguments(BaseModelArguments):
    """Which model to pre-train."""

    mask_ratio: float | None = field(
        default=None,
        metadata={"help": "Share of patches to hide (default: 0.75, or the model's own)."},
    )
    mask_strategy: str | None = field(
        default=None,
        metadata={
            "choices": list(MASK_STRATEGIES),
            "help": "Hide single patches or blocks (default: random, or the model's own).",
        },
    )
    mask_block_size: int | None = field(
        default=None,
        metadata={
            "help": "Side of a block in patches. (default: a quarter of the grid's shorter side)"
        },
    )
    decoder_type: str | None = field(
        default=None,
        metadata={
            "choices": list(DECODERS),
            "help": "The paper's decoder or a cross-attention one. Cross is CrossMAE's, arXiv "
            "2401.14391, with far fewer operations. (default: self, or the model's own)",
        },
    )
    prediction_ratio: float | None = field(
        default=None,
        metadata={
            "help": "Share of patches a cross decoder predicts an update (default: 0.25, or the "
            "model's own)."
        },
    )
    norm_pix_loss: bool | None = field(
        default=None, metadata={"help": "Whether to normalise target patches."}
    )

    def build_model(self) -> MAEForPreTraining:
        """Builds the model to pre-train; raises as `build` does."""
        changeable = (*_CHANGEABLE, "mask_ratio", "mask_strategy", "mask_block_size")
        changeable += ("prediction_ratio", "norm_pix_loss")
        return self.build(MAEForPreTraining, changeable)


@dataclass
class FineTuningModelArguments(BaseModelArguments):
    """Which encoder to fine-tune, and with what head."""

    head_std: ClassVar[float] = 2e-5  # of a new head, as in the authors' code

    pooling: str = field(default="mean", metadata={"choices": list(POOLINGS), "help": _POOLING})
    head_batch_norm: bool = field(
        default=False, metadata={"help": "Whether a batch norm goes before the linear layer."}
    )
    drop_path_rate: float = field(
        default=0.1, metadata={"help": "Stochastic depth of the last layer."}
    )

    def build_model(
        self, class_names: Sequence[str], problem_type: str = SINGLE_LABEL
    ) -> MAEForImageClassification:
        """Builds a classifier of these classes; raises as `build` does.

        The head is new, but for that of a classifier of the same classes and kind.
        """
        stated = self.overrides().get("problem_type", problem_type)
        if stated != problem_type:
            raise ValueError(
                f"config_overrides has problem_type {stated!r}, and the column of labels is for "
                f"{problem_type}: floats are for regression, lists and several columns for "
                "multi_label_classification, all else for single_label_classification"
            )
        id2label = dict(enumerate(class_names))
        label2id = {name: number for number, name in id2label.items()}
        options: dict[str, Any] = {"id2label": id2label, "label2id": label2id}
        options["problem_type"] = problem_type
        changeable = (*_CHANGEABLE, "pooling", "head_batch_norm")
        model = self.build(MAEForImageClassification, changeable, **options)
        if not self._has_this_head(model.config):
            model.reset_head(self.head_std)
        return model

    def _has_this_head(self, config: PreTrainedConfig) -> bool:
        """Whether model_name_or_path is a classifier with the head of this configuration."""
        if not self.model_name_or_path:
            return False
        saved: Any = load_config(self.model_name_or_path)
        if "ForImageClassification" not in (saved.architectures or [""])[0]:
            return False
        saved.problem_type = saved.problem_type or SINGLE_LABEL
        saved.id2label = {number: composed(name) for number, name in saved.id2label.items()}
        for name in ("id2label", "problem_type", "pooling", "head_batch_norm"):
            if getattr(saved, name) != getattr(config, name):
                logger.warning(
                    f"the head of {self.model_name_or_path} is left behind for a new one: {name} "
                    "differs"
                )
                return False
        return True


@dataclass
class LinearProbeModelArguments(FineTuningModelArguments):
    """Which encoder to probe."""

    head_std: ClassVar[float] = 0.01

    pooling: str = field(default="cls", metadata={"choices": list(POOLINGS), "help": _POOLING})
    head_batch_norm: bool = field(
        default=True, metadata={"help": "Whether a batch norm goes before the linear layer."}
    )
    drop_path_rate: float = field(default=0.0, metadata={"help": "Not for a frozen encoder."})

    def build_model(
        self, class_names: Sequence[str], problem_type: str = SINGLE_LABEL
    ) -> MAEForImageClassification:
        """Builds a classifier with a frozen encoder; raises as `build` does."""
        return super().build_model(class_names, problem_type).freeze_encoder()
