# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What the arguments of training may be: one table of limits, and what doesn't apply here."""

import json
import multiprocessing
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import get_token
from transformers import Trainer
from transformers.integrations.deepspeed import is_deepspeed_available
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)
from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy
from transformers.training_args import OptimizerNames, trainer_log_levels
from transformers.utils.import_utils import is_liger_kernel_available

from ..models.near_names import did_you_mean
from ..models.network import why_no_hub


class Limits(NamedTuple):
    """Which values a number may have; nan never.

    Attributes:
        low, high: The least and the greatest.
        above_low: Whether it must be above `low`.
        below_high: Whether it must be below `high`.
    """

    low: float
    high: float
    above_low: bool = False
    below_high: bool = False

    def hold(self, value: float) -> bool:
        """Whether a value keeps to them."""
        enough = value > self.low if self.above_low else value >= self.low
        return enough and (value < self.high if self.below_high else value <= self.high)

    def describe(self, value: float) -> str:
        """Says what is allowed, to one who gave this value."""
        if self.high == 1:
            opening = "(" if self.above_low else "["
            return f"in {opening}{self.low:g}, 1{')' if self.below_high else ']'}"
        if value > self.high:
            return f"at most {self.high:,.10g}"
        return "positive" if self.above_low else f"at least {self.low:g}"


# far above whatever somebody trained with, and far below what float32 can't hold
_LARGE = 1e6
# what counts in libraries, which have 32 bits for them, can be
_MANY = 2**31 - 1

_POSITIVE = Limits(0, _LARGE, above_low=True)
_NOT_NEGATIVE = Limits(0, _LARGE)
_SHARE = Limits(0, 1)
_BETA = Limits(0, 1, below_high=True)
_STEPS = Limits(0, _MANY, above_low=True)  # below 1 it is a share of the run
_COUNT = Limits(1, _MANY)
_COUNT_OR_NONE = Limits(0, _MANY)

# every number that the training scripts take for TrainingArguments, ours and transformers'
LIMITS = {
    "base_learning_rate": _POSITIVE,
    "learning_rate": _POSITIVE,
    "min_learning_rate": _NOT_NEGATIVE,
    "num_train_epochs": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "max_grad_norm": _NOT_NEGATIVE,
    "adam_beta1": _BETA,
    "adam_beta2": _BETA,
    "adam_epsilon": _NOT_NEGATIVE,
    "layer_decay": Limits(0, 1, above_low=True),
    "mixup": _NOT_NEGATIVE,
    "cutmix": _NOT_NEGATIVE,
    "random_erasing": _SHARE,
    "label_smoothing_factor": _SHARE,
    "per_device_train_batch_size": _COUNT,
    "per_device_eval_batch_size": _COUNT,
    "gradient_accumulation_steps": _COUNT,
    "eval_accumulation_steps": _COUNT,
    "logging_steps": _STEPS,
    "eval_steps": _STEPS,
    "save_steps": _STEPS,
    "eval_delay": _COUNT_OR_NONE,
    "save_total_limit": _COUNT_OR_NONE,
    "knn_images": _COUNT_OR_NONE,
    "max_skipped": _COUNT,
    "dataloader_num_workers": Limits(0, 4096),  # more cores than a machine has
    "dataloader_prefetch_factor": _COUNT,
    "torch_empty_cache_steps": _COUNT,
    "ddp_bucket_cap_mb": _COUNT,
    "ddp_timeout": _COUNT,
    "seed": Limits(0, 2**32 - 1),  # numpy's
}

_SCHEDULE = "the schedule is warmup_epochs, then a cosine"
# what transformers offers, by the only value that goes with our data sets and trainers
_ONLY = {
    "dataloader_drop_last": (False, "training takes whole batches, evaluation every image"),
    "remove_unused_columns": (False, "our data sets hand over just what the model takes"),
    "eval_do_concat_batches": (True, "metrics are of all held-out images"),
    "batch_eval_metrics": (False, "metrics are of all held-out images"),
    "data_seed": (None, "seed decides the order of the images, too"),
    "train_sampling_strategy": ("random", "images have no length to group them by"),
    "lr_scheduler_kwargs": (None, _SCHEDULE),
    "auto_find_batch_size": (False, "another batch size is another run"),
    "neftune_noise_alpha": (None, "it is for the embeddings of text"),
}
# name → why it doesn't apply
DO_NOT_APPLY = {
    **{name: reason for name, (_, reason) in _ONLY.items()},
    "lr_scheduler_type": _SCHEDULE,
    "warmup_steps": _SCHEDULE,
}

# what is one of a list
_ENUMERATIONS = {
    "eval_strategy": IntervalStrategy,
    "logging_strategy": IntervalStrategy,
    "save_strategy": SaveStrategy,
    "hub_strategy": HubStrategy,
    "optim": OptimizerNames,
}


def check_limits(args: Any) -> None:
    """Checks every number of training arguments by `LIMITS`; None is what isn't given.

    Raises:
        ValueError: one is out of them, nan, or no number.
    """
    for name, limits in LIMITS.items():
        value = getattr(args, name, None)
        if value is None:
            continue
        if not isinstance(value, Real):
            raise ValueError(f"{name} is {value!r}; it must be a number")
        number: Any = value  # not made a float, for an int may be too large for one
        if not limits.hold(number):
            raise ValueError(f"{name} is {number}; it must be {limits.describe(number)}")
    if args.max_steps != -1 and not _COUNT.hold(args.max_steps):
        raise ValueError(
            f"max_steps is {args.max_steps}; it must be at least 1 and at most {_MANY:,}, or -1 "
            "for as many as num_train_epochs says"
        )


def check_choices(args: Any) -> None:
    """Checks what is no number, before transformers works with it.

    Raises:
        ValueError: a value is impossible or doesn't apply.
    """
    for name, (value, reason) in _ONLY.items():
        found = getattr(args, name, value)  # older versions of transformers lack some
        if found not in (value, {}):
            raise ValueError(f"{name} doesn't apply: {reason}; it is {found!r}, leave it out")
    if args.lr_scheduler_type != "linear" or args.warmup_steps:  # transformers' defaults
        raise ValueError(f"lr_scheduler_type and warmup_steps don't apply: {_SCHEDULE}")
    if args.label_smoothing_factor and not hasattr(args, "mixup"):
        raise ValueError(
            f"label_smoothing_factor is {args.label_smoothing_factor}, which doesn't apply: only "
            "fine-tuning smooths labels"
        )
    if args.dataloader_persistent_workers and not args.dataloader_num_workers:
        raise ValueError(
            "dataloader_persistent_workers needs workers; give dataloader_num_workers, or leave it "
            "out"
        )
    for name, kind in _ENUMERATIONS.items():
        _check_choice(name, getattr(args, name), [member.value for member in kind])
    for name in ("log_level", "log_level_replica"):
        _check_choice(name, getattr(args, name), trainer_log_levels)
    methods = (None, *multiprocessing.get_all_start_methods())
    context = "dataloader_multiprocessing_context"
    _check_choice(context, getattr(args, context, None), methods)
    for name in args._VALID_DICT_FIELDS:
        _check_mapping(name, getattr(args, name))
    if args.deepspeed and not is_deepspeed_available():
        raise ValueError("deepspeed needs a package: pip install deepspeed")
    if args.use_liger_kernel and not is_liger_kernel_available():
        raise ValueError("use_liger_kernel needs a package: pip install liger-kernel")
    if args.push_to_hub and not (args.hub_token or get_token()):
        raise ValueError(
            "push_to_hub needs a token that may write; run hf auth login, or set HF_TOKEN"
        )
    reason = why_no_hub() if args.push_to_hub else None
    if reason is not None:
        raise ValueError(f"push_to_hub needs the Hub, which can't be reached ({reason})")


def _check_choice(name: str, value: Any, choices: Any) -> None:
    if value not in choices:
        known = [str(choice) for choice in choices if choice is not None]
        near = did_you_mean(str(value), known)
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(known)}{near}")


def _check_mapping(name: str, value: Any) -> None:
    """Raises ValueError if this is text, and neither a mapping in JSON nor the file of one."""
    if not isinstance(value, str):
        return
    try:
        text = value if value.startswith("{") else Path(value).read_text(encoding="utf-8")
        fields = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{name} is {value!r}, which is not JSON or a file of it: {error}"
        ) from error
    if not isinstance(fields, dict):
        raise ValueError(f"{name} is {value!r}, which holds no mapping")


def check_packages(args: Any) -> None:
    """Checks that reports' and optimizer's packages are installed; transformers does amid a run.

    Args:
        args: As transformers' TrainingArguments have made them ready.

    Raises:
        ValueError: a package is missing, or unknown.
    """
    _check_report_to(args.report_to or [])
    _check_optimizer(args)


def _check_optimizer(args: Any) -> None:
    try:
        Trainer.get_optimizer_cls_and_kwargs(args)
    except (ImportError, RuntimeError, ValueError) as error:
        if "pass a model" in str(error):  # some are made for a model, which comes later
            return
        options = f" with optim_args {args.optim_args!r}" if args.optim_args else ""
        raise ValueError(f"optim is {args.optim.value}{options}: {error}") from error


# where to log: a dependency of ours, and those that transformers doesn't list if installed
_NOT_LISTED = ("tensorboard", "azure_ml", "flyte")


def _check_report_to(names: str | list[str]) -> None:
    """Raises ValueError unless these are installed; transformers ends in an error of its own."""
    for name in [names] if isinstance(names, str) else names:
        if name in _NOT_LISTED:
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(
                f"report_to is {name!r}, which transformers doesn't know; it knows "
                f"{', '.join(INTEGRATION_TO_CALLBACK)}"
                f"{did_you_mean(name, INTEGRATION_TO_CALLBACK)}"
            )
        if name not in get_available_reporting_integrations():
            raise ValueError(
                f"report_to is {name!r}, which is not installed; pip install it, or take another"
            )
