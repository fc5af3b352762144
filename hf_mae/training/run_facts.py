# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What a run is made of, and whether one that is resumed is still made of the same."""

import json
import os
import textwrap
from collections.abc import Collection
from dataclasses import MISSING, fields
from typing import Any

from transformers import PreTrainedConfig, TrainingArguments

from ..models.configuration_mae import MAEConfig, own_fields
from ..models.image_processing_mae import MAEImageProcessor
from ..versions import PACKAGES, version
from .arguments import ImageTrainingArguments


# arguments that decide no update: a resumed run may have others. What processes, accumulation and
# batches of a process make together is a fact by itself, the total batch size
_FREE = frozenset(
    {
        # where, and how it is spread
        "output_dir",
        "resume_from_checkpoint",
        "allow_changed",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "local_rank",
        "use_cpu",
        "accelerator_config",
        "parallelism_config",
        "deepspeed",
        "full_determinism",
        "torch_compile",
        "torch_compile_backend",
        "torch_compile_mode",
        "activation_checkpointing",
        "activation_checkpointing_kwargs",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "torch_empty_cache_steps",
        "debug",
        "skip_memory_metrics",
        "remove_unused_columns",
        "restore_callback_states_from_checkpoint",
        # evaluation, which only looks
        "per_device_eval_batch_size",
        "prediction_loss_only",
        "batch_eval_metrics",
        "include_for_metrics",
        "bf16_full_eval",
        "fp16_full_eval",
        "load_best_model_at_end",
        "metric_for_best_model",
        "greater_is_better",
        # what is said
        "disable_tqdm",
        "report_to",
        "run_name",
        "project",
        "enable_jit_checkpoint",
        "include_num_input_tokens_seen",
        "do_train",
        "do_eval",
        "do_predict",
        # what is done about updates that aren't finite
        "nonfinite",
        "max_skipped",
    }
)
_FREE_PREFIXES = ("logging_", "log_", "save_", "eval_", "hub_", "push_", "dataloader_", "ddp_")
_FREE_PREFIXES += ("fsdp", "trackio_", "include_")
_OF_IMAGES = ("image_mean", "image_std", "value_range", "bands")
_OF_IMAGES += ("do_resize", "size", "resample", "do_center_crop", "crop_size")
# what the weights, or the optimizer's state, have the form of, and what counts the steps
_FIXED = ("total_batch_size", "optim", "hidden_size", "num_hidden_layers", "num_attention_heads")
_FIXED += ("intermediate_size", "image_size", "patch_size", "num_channels", "qkv_bias", "pooling")
_FIXED += ("decoder_hidden_size", "decoder_num_hidden_layers", "decoder_num_attention_heads")
_FIXED += ("decoder_type", "decoder_layer_mixing")
_FIXED += ("decoder_intermediate_size", "final_norm", "head_batch_norm", "id2label")
_NOT_OF_MODEL = (
    "label2id",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "_name_or_path",
)


def collect_facts(
    args: ImageTrainingArguments,
    config: PreTrainedConfig,
    processor: MAEImageProcessor | None,
    data: dict[str, str],
) -> dict[str, Any]:
    """Collects what a run is made of, as JSON has it.

    That is the images and how they are normalised, the model's configuration, the total batch size,
    all arguments that decide an update, and the versions of packages.

    Args:
        args: The arguments.
        config: The model's configuration.
        processor: The image processor, if there is one.
        data: What is trained on and held out, by name.
    """
    facts: dict[str, Any] = {**data}
    for name in _OF_IMAGES:
        facts[name] = getattr(processor, name, None)
    facts |= {name: value for name, value in config.to_dict().items() if name not in _NOT_OF_MODEL}
    if facts.get("problem_type") is None:  # the labels will say it, which are facts themselves
        facts.pop("problem_type", None)
    start = str(config._name_or_path or "")
    facts["model_name_or_path"] = os.path.abspath(start) if os.path.isdir(start) else start
    facts["total_batch_size"] = args.total_batch_size
    for name, value in args.to_dict().items():
        if _decides(name):
            facts[name] = value
    for package in (*PACKAGES, "timm", "pillow"):
        facts[package] = version(package)
    return _as_json(facts)


def default_facts(args: ImageTrainingArguments) -> dict[str, Any]:
    """What a checkpoint from before a field was thought of doesn't say: the field's default.

    Args:
        args: Arguments of the kind whose fields are meant; those of the configuration come on top.
    """
    model, theirs = MAEConfig().to_dict(), {each.name for each in fields(TrainingArguments)}
    facts = {name: model[name] for name in own_fields()}
    for each in fields(args):
        is_ours = each.name not in theirs and each.default is not MISSING
        if is_ours and _decides(each.name):
            facts[each.name] = each.default
    return _as_json(facts)


def _decides(name: str) -> bool:
    """Whether an update may depend on an argument."""
    return name not in _FREE and not name.startswith(_FREE_PREFIXES)


def _as_json(facts: dict[str, Any]) -> dict[str, Any]:
    for name in ("image_size", "patch_size"):
        facts[name] = _sides(facts[name])
    return json.loads(json.dumps(facts, default=str))


def check_facts(
    before: dict[str, Any], now: dict[str, Any], allowed: Collection[str]
) -> tuple[str, ...]:
    """Compares a run with the one that it goes on with.

    Args:
        before, now: From `collect_facts`, the older one put over `default_facts`. What only one of
            them knows isn't compared, but that another version may have other names.
        allowed: Facts that may differ.

    Returns:
        What differs, a sentence each.

    Raises:
        ValueError: others differ, or one that is allowed to doesn't exist.
    """
    unknown = [name for name in allowed if name not in now]
    if unknown:
        raise ValueError(
            f"allow_changed names {unknown[0]!r}, which is none of what a checkpoint keeps: "
            f"{', '.join(now)}"
        )
    changed = {}
    for name in now:
        if name in before and before[name] != now[name]:
            changed[name] = f"{name} is {_shown(now[name])}, and was {_shown(before[name])}"
    fixed = [name for name in changed if name in _FIXED]
    if fixed:
        said = "; ".join(changed[name] for name in fixed)
        raise ValueError(
            f"{said}. That can't change in a run that is resumed: give what it had, or start "
            "another run from its weights by --model_name_or_path"
        )
    refused = [name for name in changed if name not in allowed]
    if refused:
        said = "; ".join(changed[name] for name in refused)
        raise ValueError(
            f"{said}. A run that is resumed has to be the same: give what it had, or let it "
            f"change by --allow_changed {' '.join(refused)}"
        )
    return tuple(changed.values())


def _sides(value: Any) -> Any:
    """A size as it is, or one number if all sides are the same."""
    is_square = isinstance(value, (list, tuple)) and len(set(value)) == 1
    return value[0] if is_square else value


def _shown(value: Any) -> str:
    return textwrap.shorten(str(value), 100, placeholder=" …")
