# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What the training scripts can be told about the model and the data."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar

import torch
import yaml
from transformers.utils import logging

from ..data.sources import load_image_dataset
from ..data.streaming import load_image_stream
from ..models.configuration_mae import SIZES, MAEConfig
from ..models.loading import check_model_source
from ..models.modeling_classification import MAEForImageClassification
from ..models.modeling_mae import MAEForPreTraining


logger = logging.get_logger(__name__)
_CHANGEABLE = (
    "image_size",
    "drop_path_rate",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
)


@dataclass
class BaseModelArguments:
    """Which model to train, whatever for."""

    size: str | None = field(
        default=None, metadata={"help": f"Size of a new model: {', '.join(SIZES)} (default: base)."}
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
    config_overrides: str | None = field(
        default=None,
        metadata={
            "help": "Other fields of MAEConfig, as YAML: '{hidden_size: 96, num_hidden_layers: 4}'."
        },
    )

    def overrides(self):
        """The fields of MAEConfig that are given."""
        try:
            others = yaml.safe_load(self.config_overrides or "{}")
        except yaml.YAMLError as error:
            raise ValueError(
                f"config_overrides is {self.config_overrides!r}, which is not YAML: {error}"
            ) from error
        if not isinstance(others, dict):
            raise ValueError(
                f"config_overrides is {self.config_overrides!r}; it must be a mapping, as "
                f"'{{hidden_size: 96}}'"
            )
        given = {
            name: value for name, value in vars(self).items() if name in MAEConfig.__annotations__
        }
        for name in ("image_size", "patch_size"):
            given[name] = given[name][0] if given[name] and len(given[name]) == 1 else given[name]
        return {**others, **{name: value for name, value in given.items() if value is not None}}

    def build(self, model_class, changeable, **options):
        """The model to train: a new one, or the one named with some fields of its configuration
        changed.

        Args:
            model_class: `MAEForPreTraining` or `MAEForImageClassification`.
            changeable: The fields that can be changed in a model that exists.
            options: Other fields of the configuration.

        Raises:
            ValueError: a field or value is impossible, or can't be changed in a model that exists.
        """
        overrides = self.overrides()
        sources = [
            name for name in ("model_name_or_path", "config_name", "size") if getattr(self, name)
        ]
        if len(sources) > 1:
            raise ValueError(
                f"{sources[1]} can't be given beside {sources[0]}: each says which model it is"
            )
        if self.config_name:
            return model_class(
                MAEConfig.from_pretrained(self.config_name).changed(**overrides, **options)
            )
        if not self.model_name_or_path:
            return model_class(MAEConfig.from_size(self.size or "base", **overrides, **options))
        fixed = [name for name in overrides if name not in changeable]
        if fixed:
            raise ValueError(
                f"{fixed[0]} can't be changed in model_name_or_path; {', '.join(changeable)} can"
            )
        check_model_source(self.model_name_or_path)
        # whatever type the weights were saved in: updates of weights in bfloat16 would be rounded
        # away
        return model_class.from_pretrained(
            self.model_name_or_path, dtype=torch.float32, **overrides, **options
        )


@dataclass
class ModelArguments(BaseModelArguments):
    """Which model to pre-train."""

    mask_ratio: float | None = field(default=None, metadata={"help": "Share of patches to hide."})
    norm_pix_loss: bool | None = field(
        default=None, metadata={"help": "Whether to normalise target patches."}
    )

    def build_model(self):
        """`MAEForPreTraining`; raises ValueError as `build` does."""
        return self.build(MAEForPreTraining, (*_CHANGEABLE, "mask_ratio", "norm_pix_loss"))


@dataclass
class FineTuningModelArguments(BaseModelArguments):
    """Which encoder to fine-tune, and with what head."""

    head_std: ClassVar[float] = 2e-5  # of a new head, as in the authors' code

    pooling: str = field(
        default="mean", metadata={"help": "What the head sees: mean (of the patches) or cls."}
    )
    head_batch_norm: bool = field(
        default=False, metadata={"help": "Whether a batch norm goes before the linear layer."}
    )
    drop_path_rate: float = field(
        default=0.1, metadata={"help": "Stochastic depth of the last layer."}
    )

    def build_model(self, class_names):
        """`MAEForImageClassification` for these classes; raises ValueError as `build` does.

        The head is new, but for that of a classifier of the same classes and kind.
        """
        id2label = dict(enumerate(class_names))
        options = {
            "id2label": id2label,
            "label2id": {name: number for number, name in id2label.items()},
        }
        if self.model_name_or_path:
            options["ignore_mismatched_sizes"] = (
                True  # the head of a classifier of other classes is left behind
            )
        model = self.build(
            MAEForImageClassification, (*_CHANGEABLE, "pooling", "head_batch_norm"), **options
        )
        if not self._has_this_head(model.config):
            model.reset_head(self.head_std)
        return model

    def _has_this_head(self, config):
        """Whether model_name_or_path is a classifier with the head of this configuration."""
        if not self.model_name_or_path:
            return False
        saved = MAEConfig.from_pretrained(self.model_name_or_path)
        if "ForImageClassification" not in (saved.architectures or [""])[0]:
            return False
        differs = [
            n
            for n in ("id2label", "pooling", "head_batch_norm")
            if getattr(saved, n) != getattr(config, n)
        ]
        if differs:
            logger.warning(
                f"the head of {self.model_name_or_path} is left behind for a new one: {differs[0]} "
                "differs"
            )
        return not differs


@dataclass
class LinearProbeModelArguments(FineTuningModelArguments):
    """Which encoder to probe."""

    head_std: ClassVar[float] = 0.01

    pooling: str = field(
        default="cls", metadata={"help": "What the head sees: cls or mean (of the patches)."}
    )
    head_batch_norm: bool = field(
        default=True, metadata={"help": "Whether a batch norm goes before the linear layer."}
    )
    drop_path_rate: float = field(default=0.0, metadata={"help": "Not for a frozen encoder."})

    def build_model(self, class_names):
        """`MAEForImageClassification` with a frozen encoder; raises ValueError as `build` does."""
        return super().build_model(class_names).freeze_encoder()


@dataclass
class DataArguments:
    """Which images to train on and to hold out."""

    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Hub id, local folder or parquet file of a data set, or 'digits'."},
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of the data set."}
    )
    train_dir: str | None = field(default=None, metadata={"help": "Folder of training images."})
    validation_dir: str | None = field(
        default=None, metadata={"help": "Folder of held-out images."}
    )
    train_split: str | None = field(
        default=None, metadata={"help": "Split to train on (default: train)."}
    )
    validation_split: str | None = field(
        default=None,
        metadata={"help": "Split to hold out (default: validation, val, valid or test, if there)."},
    )
    image_column: str | None = field(
        default=None, metadata={"help": "Column of the images (default: found)."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Column of the labels (default: found)."}
    )
    train_val_split: float = field(
        default=0.05,
        metadata={
            "help": "Share of the training images to hold out if there is no validation split."
        },
    )
    on_bad_image: str = field(
        default="skip",
        metadata={
            "choices": ["skip", "raise"],
            "help": "What to do about a file that can't be decoded: take another and log "
            "it, or stop.",
        },
    )

    def load(self, seed, labels):
        """The images, `datasets.DatasetDict`, with labels if asked for."""
        sources = {
            f.name: getattr(self, f.name) for f in fields(DataArguments) if f.name != "on_bad_image"
        }
        return load_image_dataset(**sources, seed=seed, labels=labels)

    @property
    def source_name(self):
        """The Hub id or, of folders and files here, the name without the way to it."""
        name = self.dataset_name or self.train_dir
        return Path(name).resolve().name if Path(name).exists() else name

    @property
    def hub_id(self):
        """The Hub id of the data set, or None."""
        on_the_hub = (
            self.dataset_name
            and self.dataset_name != "digits"
            and not Path(self.dataset_name).exists()
        )
        return self.dataset_name if on_the_hub else None


@dataclass
class StreamArguments(DataArguments):
    """Where the images come from, for pre-training: also from shards that don't fit on the disk."""

    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the shards of a Hub id, or of a folder of parquet or .tar files, "
            "as they are needed."
        },
    )
    epoch_samples: int | None = field(
        default=None,
        metadata={
            "help": "Of a stream: images an epoch (default: as many as its publisher says "
            "that there are)."
        },
    )
    shuffle_buffer: int = field(
        default=1000,
        metadata={"help": "Of a stream: undecoded images that each worker holds, to shuffle them."},
    )

    def __post_init__(self):
        given = [name for name in ("train_dir", "validation_dir") if getattr(self, name)]
        if self.streaming and given:
            raise ValueError(
                f"{given[0]} can't be streamed; give dataset_name, a Hub id or a folder of shards"
            )
        if self.epoch_samples is not None and not self.streaming:
            raise ValueError(
                "epoch_samples is for --streaming; other data sets know how many images they have"
            )
        for name in ("epoch_samples", "shuffle_buffer"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def load_stream(self):
        """Training images (`datasets.IterableDataset`), held-out images (or None) and the images an
        epoch."""
        if self.dataset_name is None:
            raise ValueError("streaming needs a dataset_name, a Hub id or a folder of shards")
        if self.dataset_name == "digits" or Path(self.dataset_name).is_file():
            raise ValueError(
                f"dataset_name {self.dataset_name} can't be streamed; a Hub id or a folder of "
                "shards can"
            )
        names = (
            "dataset_name",
            "dataset_config",
            "train_split",
            "validation_split",
            "image_column",
        )
        train, validation, rows = load_image_stream(**{name: getattr(self, name) for name in names})
        if not (self.epoch_samples or rows):
            raise ValueError(
                "the data set doesn't say how many images it has; give --epoch_samples"
            )
        return train, validation, self.epoch_samples or rows
