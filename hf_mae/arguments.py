# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What the scripts can be told: a YAML recipe, then flags that override it."""

import difflib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool
from transformers.utils import is_torch_bf16_gpu_available

from .configuration_mae import SIZES, MAEConfig
from .modeling_mae import MAEForPreTraining
from .optimization import scaled_learning_rate


_CHANGEABLE = (
    *("image_size", "mask_ratio", "norm_pix_loss", "drop_path_rate"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),
)


@dataclass
class ModelArguments:
    """Which model to train."""

    size: str | None = field(default=None, metadata={"help": f"Size of a new model: {', '.join(SIZES)} (default: base)."})
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Go on from this model (folder or Hub id) instead of a new one."}
    )
    image_size: list[int] | None = field(default=None, metadata={"help": "Pixels: one number, or height and width."})
    patch_size: list[int] | None = field(default=None, metadata={"help": "Pixels: one number, or height and width."})
    num_channels: int | None = field(default=None, metadata={"help": "Channels of the images."})
    mask_ratio: float | None = field(default=None, metadata={"help": "Share of patches to hide."})
    norm_pix_loss: bool | None = field(default=None, metadata={"help": "Whether to normalise target patches."})
    config_overrides: str | None = field(
        default=None,
        metadata={"help": "Other fields of MAEConfig, as YAML: '{hidden_size: 96, num_hidden_layers: 4}'."},
    )

    def overrides(self):
        """The fields of MAEConfig that are given."""
        try:
            others = yaml.safe_load(self.config_overrides or "{}")
        except yaml.YAMLError as error:
            raise ValueError(f"config_overrides is {self.config_overrides!r}, which is not YAML: {error}") from error
        if not isinstance(others, dict):
            raise ValueError(
                f"config_overrides is {self.config_overrides!r}; it must be a mapping, as '{{hidden_size: 96}}'"
            )
        given = {name: getattr(self, name) for name in ("num_channels", "mask_ratio", "norm_pix_loss")}
        for name in ("image_size", "patch_size"):
            sides = getattr(self, name)
            given[name] = sides[0] if sides and len(sides) == 1 else sides
        return {**others, **{name: value for name, value in given.items() if value is not None}}

    def build_model(self):
        """The model to train: a new one, or the one named with some fields of its configuration changed.

        Raises:
            ValueError: a field or value is impossible, or can't be changed in a model that exists.
        """
        overrides = self.overrides()
        if not self.model_name_or_path:
            return MAEForPreTraining(MAEConfig.from_size(self.size or "base", **overrides))
        fixed = ["size"] * bool(self.size) + [name for name in overrides if name not in _CHANGEABLE]
        if fixed:
            raise ValueError(f"{fixed[0]} can't be changed in model_name_or_path; {', '.join(_CHANGEABLE)} can")
        return MAEForPreTraining.from_pretrained(self.model_name_or_path, **overrides)


@dataclass
class DataArguments:
    """Which images to train on and to hold out."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "Hub id, local folder or parquet file of a data set, or 'digits'."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    train_dir: str | None = field(default=None, metadata={"help": "Folder of training images."})
    validation_dir: str | None = field(default=None, metadata={"help": "Folder of held-out images."})
    train_split: str | None = field(default=None, metadata={"help": "Split to train on (default: train)."})
    validation_split: str | None = field(
        default=None, metadata={"help": "Split to hold out (default: validation, val, valid or test, if there)."}
    )
    image_column: str | None = field(default=None, metadata={"help": "Column of the images (default: found)."})
    train_val_split: float = field(
        default=0.05, metadata={"help": "Share of the training images to hold out if there is no validation split."}
    )
    on_bad_image: str = field(
        default="skip",
        metadata={
            "choices": ["skip", "raise"],
            "help": "What to do about a file that can't be decoded: take another and log it, or stop.",
        },
    )


@dataclass
class MAETrainingArguments(TrainingArguments):
    """transformers' TrainingArguments with the paper's pre-training defaults (MAE paper, Appendix A.1, Table 8)."""

    per_device_train_batch_size: int = field(default=64, metadata={"help": "Images a device and forward pass."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Images a device and forward pass."})
    num_train_epochs: float = field(default=800, metadata={"help": "Epochs."})
    base_learning_rate: float = field(
        default=1.5e-4, metadata={"help": "Learning rate of 256 images: the peak is base * total batch / 256."}
    )
    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate, instead of base_learning_rate."}
    )
    min_learning_rate: float = field(default=0.0, metadata={"help": "Where the cosine ends."})
    warmup_epochs: float = field(default=40, metadata={"help": "Epochs of linear warm-up."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of the matrices."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Beta2 of AdamW."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradient clipping; 0 for none."})
    nonfinite: str = field(
        default="raise",
        metadata={
            "choices": ["raise", "skip"],
            "help": "On a loss that is not finite: stop before the weights are touched, or drop the update and count it.",
        },
    )
    bf16: bool | None = field(default=None, metadata={"help": "bfloat16 autocast (default: where the GPU has it)."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps, epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep."})
    logging_steps: float = field(default=20, metadata={"help": "Updates between two lines of the log."})
    report_to: None | str | list[str] = field(default="tensorboard", metadata={"help": "Where to log."})
    # the loss is checked by `nonfinite`; this filter would hide it, and wait for the device every step
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide losses that are not finite."})
    # our data sets hand over just what the model takes
    remove_unused_columns: bool = field(default=False, metadata={"help": "Drop columns the model doesn't take."})
    # every parameter takes part in every step
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Passed to DDP."})

    def __post_init__(self):
        if self.bf16 is None:
            self.bf16 = not (self.use_cpu or self.fp16) and is_torch_bf16_gpu_available()
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.lr_scheduler_type != "linear" or self.warmup_steps:  # transformers' defaults
            raise ValueError("lr_scheduler_type and warmup_steps don't apply: the schedule is warmup_epochs, then a cosine")
        # pinning is for copies to an accelerator; without one torch warns about it at every epoch
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()
        given = self.learning_rate
        self.learning_rate = given or 0.0
        super().__post_init__()
        if given is None:
            self.learning_rate = scaled_learning_rate(self.base_learning_rate, self.total_batch_size)
        for name in ("base_learning_rate", "learning_rate", "num_train_epochs"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if not 0 <= self.min_learning_rate <= self.learning_rate:
            raise ValueError(
                f"min_learning_rate is {self.min_learning_rate}; it must be between 0 and the peak, {self.learning_rate}"
            )
        if not self.warmup_epochs >= 0:  # that it is shorter than the run, the trainer checks
            raise ValueError(f"warmup_epochs is {self.warmup_epochs:g}; it must be at least 0")

    @property
    def total_batch_size(self):
        """Images an update: over devices, processes and accumulation steps."""
        return self.train_batch_size * self.world_size * self.gradient_accumulation_steps


class _Parser(HfArgumentParser):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for action in self._actions:
            if action.type is string_to_bool and action.nargs is None:  # --bf16 is --bf16 true
                action.nargs, action.const = "?", True

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")


def parse_recipe_and_flags(dataclass_types, argv=None):
    """Reads `[RECIPE.yaml] [--flag value …]`: the recipe's keys are the flags' names, and flags win.

    Args:
        dataclass_types: What the arguments are for; together they say which names there are.
        argv: By default the command line.

    Returns:
        An instance of each dataclass, and a dict of everything that was given (a recipe that repeats the run).

    Exits with status 2 and one line on stderr if a name is unknown or a value impossible.
    """
    parser = _Parser(dataclass_types, allow_abbrev=False, usage="%(prog)s [RECIPE.yaml] [--flag value …]")
    argv = list(sys.argv[1:] if argv is None else argv)
    recipe = argv.pop(0) if argv and not argv[0].startswith("-") else None
    names = {action.dest for action in parser._actions}
    flags = (_recipe_flags(Path(recipe), names, parser) if recipe else []) + argv
    namespace, unknown = parser.parse_known_args(flags)
    if unknown:
        name = unknown[0].lstrip("-").split("=")[0]
        parser.error(f"unknown argument {unknown[0]!r}{_nearest(name, names, '--')}")
    options = (parser._option_string_actions.get(flag.split("=")[0]) for flag in flags if flag.startswith("--"))
    named = {option.dest for option in options if option}
    given = {name: value for name, value in vars(namespace).items() if name in named}
    try:
        return *parser.parse_dict(vars(namespace), allow_extra_keys=True), given
    except ValueError as error:
        parser.error(str(error))


def save_recipe(given, path):
    """Writes what `parse_recipe_and_flags` was given as a recipe that repeats the run, to another output folder."""
    recipe = {name: value for name, value in given.items() if name not in ("output_dir", "resume_from_checkpoint")}
    if "config_overrides" in recipe:
        recipe["config_overrides"] = yaml.safe_load(recipe["config_overrides"])
    Path(path).write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")


def _recipe_flags(path, names, parser):
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        parser.error(f"no recipe {path}; in {path.parent} there is {', '.join(there) or 'none'}")
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        parser.error(f"{path} is not YAML: {error}")
    if not isinstance(recipe, dict):
        parser.error(f"{path} holds {type(recipe).__name__}; a recipe is a mapping of flags to values")
    flags = []
    for name, value in recipe.items():
        if name not in names:
            parser.error(f"{path}: unknown key {name!r}{_nearest(str(name), names, '')}")
        if value is None:
            continue
        if value is False and parser._option_string_actions[f"--{name}"].type is not string_to_bool:
            value = "no"  # what YAML took for a truth value is the name of a strategy
        values = value if isinstance(value, list) else [value]
        flags += [f"--{name}", *(item if isinstance(item, str) else json.dumps(item) for item in values)]
    return flags


def _nearest(name, names, prefix):
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {prefix}{near[0]}?" if near else ""
