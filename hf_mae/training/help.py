# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What the training scripts say to `--help`, a line a flag, and to `--help_all`."""

import argparse
import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

from transformers import TrainingArguments
from transformers.hf_argparser import string_to_bool

from .argument_checks import DO_NOT_APPLY


_WIDTH = 100
_TEXT_AT = 38  # the column where a flag's text starts

# what --help shows, in this order; flags that a script doesn't have are passed over
_GROUPS = {
    "Model": (
        *("size", "model_name_or_path", "config_name", "image_size", "patch_size"),
        *("num_channels", "image_mean", "image_std", "value_range", "bands", "pooling"),
        *("head_batch_norm", "config_overrides"),
    ),
    "Data": (
        *("dataset_name", "dataset_config", "train_dir", "validation_dir", "train_split"),
        *("validation_split", "image_column", "label_column", "train_val_split", "on_bad_image"),
        *("max_image_pixels", "decode_device", "streaming", "epoch_samples", "shuffle_buffer"),
    ),
    "Masking and loss": (
        *("mask_ratio", "mask_strategy", "norm_pix_loss", "decoder_type", "crops_per_image"),
        *("resolution_schedule",),
    ),
    "Augmentation and loss": (
        *("auto_augment", "random_erasing", "mixup", "cutmix", "label_smoothing_factor"),
        *("drop_path_rate", "class_weights", "class_sampling"),
    ),
    "Training": (
        *("num_train_epochs", "max_steps", "per_device_train_batch_size"),
        *("gradient_accumulation_steps", "base_learning_rate", "learning_rate"),
        *("min_learning_rate", "warmup_epochs", "weight_decay", "layer_decay", "cache_features"),
        *("bf16", "fp16", "use_cpu", "torch_compile", "gradient_checkpointing"),
        *("dataloader_num_workers", "seed", "nonfinite"),
    ),
    "Output": (
        *("output_dir", "resume_from_checkpoint", "save_strategy"),
        *("save_total_limit", "eval_strategy", "per_device_eval_batch_size", "knn_images"),
        *("logging_steps", "report_to", "push_to_hub"),
    ),
}
# of transformers' flags among them: what they are about, in a line
_IN_SHORT = {
    "max_steps": "Updates, instead of num_train_epochs.",
    "gradient_accumulation_steps": "Forward passes an update.",
    "fp16": "float16 autocast, for GPUs without bfloat16.",
    "use_cpu": "Leave GPUs alone.",
    "torch_compile": "Compile the model.",
    "gradient_checkpointing": "Less memory, for about a fifth more time.",
    "seed": "Decides all that is random.",
    "output_dir": "Where the model goes (default: trainer_output).",
    "resume_from_checkpoint": "Go on from there, or from the last one.",
    "push_to_hub": "Upload each model that is saved.",
}
_PLACES = {  # what stands for the value
    "model_name_or_path": "DIR_OR_ID",
    "config_name": "DIR_OR_ID",
    "dataset_name": "NAME",
    "hub_model_id": "ORG/NAME",
    "config_overrides": "YAML",
    "resume_from_checkpoint": "DIR|last",
    "resolution_schedule": "SCHEDULE",
}
_KINDS = {int: "N", float: "X"}
_DEFAULT_IN_WORDS = re.compile(r" \(default: (.*?)\)")


def short_help(parser: argparse.ArgumentParser, dataclass_types: Iterable[Any]) -> str:
    """The flags that matter, a line each, in groups."""
    lines = [parser.format_usage().rstrip(), ""]
    lines += textwrap.wrap(
        f"{parser.description or ''} A recipe's keys are the flags' names; flags override it. "
        "In [ ] stands what holds else; X is a number, N a whole one, … several. A flag without a "
        "value is a switch, and takes true or false. --help_all shows the other flags, and says "
        "more of these.",
        _WIDTH,
    )
    actions = _flags(parser)
    known = _own_names(dataclass_types) | set(_IN_SHORT)
    for title, names in _GROUPS.items():
        shown = [actions[name] for name in names if name in known and name in actions]
        if shown:
            lines += ["", f"{title}:", *map(_line, shown)]
    return "\n".join(lines) + "\n"


def whole_help(parser: argparse.ArgumentParser, dataclass_types: Iterable[Any]) -> str:
    """Every flag once, with all that there is to say of it; transformers' behind ours."""
    lines = [parser.format_usage().rstrip(), ""]
    lines += textwrap.wrap(
        f"{parser.description or ''} A recipe's keys are the flags' names; flags override it. Each "
        "flag can be written with hyphens, too (--train-dir); switches take true or false, and "
        "those that are on by default have a flag to turn them off, as --no_dataloader_pin_memory.",
        _WIDTH,
    )
    actions = _flags(parser)
    own = _own_names(dataclass_types)
    ours = own & set(actions)
    for title, names in _GROUPS.items():
        lines += _section(title, [actions[name] for name in names if name in ours])
        ours -= set(names)
    lines += _section("Also ours", [actions[name] for name in actions if name in ours])
    theirs = [action for name, action in actions.items() if name not in own]
    lines += _section("Of transformers' TrainingArguments", theirs)
    return "\n".join(lines) + "\n"


def _flags(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Name → the first action of that name; `--no_…` comes second."""
    actions = {}
    for action in parser._actions:
        if action.dest != argparse.SUPPRESS:
            actions.setdefault(action.dest, action)
    return actions


def _own_names(dataclass_types: Iterable[Any]) -> set[str]:
    """Names of the flags that our classes define, or say otherwise than transformers."""
    names = set()
    for dataclass_type in dataclass_types:
        for base in dataclass_type.__mro__:
            if base is TrainingArguments:
                break
            names |= set(inspect.get_annotations(base))
    return names


def _line(action: argparse.Action) -> str:
    """A flag in one line: name, value, the first sentence about it, default."""
    flag = f"  --{action.dest}{_value(action)}"
    text = _IN_SHORT.get(action.dest) or re.split(r"(?<=\.) ", _text(action))[0]
    text = _DEFAULT_IN_WORDS.sub(r" [\1]", text.removesuffix("."))
    default = _default(action)
    if default not in ("", "false", "-1") and "[" not in text:
        text += f" [{default}]"
    return f"{flag:{_TEXT_AT - 1}} {text}"


def _section(title: str, actions: Sequence[argparse.Action]) -> list[str]:
    lines = ["", f"{title}:"] if actions else []
    for action in actions:
        text = _text(action)
        if action.dest in DO_NOT_APPLY:
            text = f"Doesn't apply: {DO_NOT_APPLY[action.dest]}."
        elif _default(action) and "default" not in text.lower():
            text += f" (default: {_default(action)})"
        if action.choices and _value(action, _WIDTH) == " NAME":
            text += f" One of {', '.join(map(str, action.choices))}."
        lines.append(f"  --{action.dest}{_value(action, _WIDTH)}")
        lines += textwrap.wrap(text, _WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return lines


def _text(action: argparse.Action) -> str:
    text = " ".join((action.help or "").split())
    return text.replace("%%", "%")  # as argparse has it


def _value(action: argparse.Action, longest: int = 27) -> str:
    """What a flag takes, behind a blank; empty of a switch."""
    if action.type is string_to_bool:
        return ""
    if action.choices:
        choices = "|".join(map(str, action.choices))
        return f" {choices if len(choices) <= longest else 'NAME'}"
    name = _PLACES.get(action.dest) or _KINDS.get(action.type, "TEXT")  # pyright: ignore
    if action.dest.endswith("_dir"):
        name = "DIR"
    return f" {name} …" if action.nargs == "+" else f" {name}"


def _default(action: argparse.Action) -> str:
    """A default as it would be given; empty of none."""
    value: Any = action.default
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return f"{value:,}"
    return "" if value is None or value == [] else str(value)
