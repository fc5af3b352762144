# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Samples and a model → a finished output folder: what the training scripts are made of.

Names are imported when they are first used, for `optimization` alone needs no data libraries.
"""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:  # the same names as below, for editors and type checkers
    from .arguments import FineTuningArguments, LinearProbeArguments, MAETrainingArguments
    from .balance import describe_method
    from .classification import FineTuningTrainer, LinearProbeTrainer
    from .data_arguments import DataArguments, StreamArguments
    from .metrics import TopKAccuracy
    from .model_arguments import (
        FineTuningModelArguments,
        LinearProbeModelArguments,
        ModelArguments,
    )
    from .plan import describe_classifier, print_plan
    from .pretraining import MAETrainer
    from .recipes import parse_recipe_and_flags
    from .resuming import resume_point
    from .run import (
        describe_kept,
        describe_trained,
        find_doubts,
        find_verdict,
        leave_together,
        load_labelled_images,
        print_result,
        print_results,
        select_results,
        train_and_evaluate,
        write_output_folder,
    )


# public name → the module that it is imported from when it is first used
_LAZY = {
    "DataArguments": ".data_arguments",
    "FineTuningArguments": ".arguments",
    "FineTuningModelArguments": ".model_arguments",
    "FineTuningTrainer": ".classification",
    "LinearProbeArguments": ".arguments",
    "LinearProbeModelArguments": ".model_arguments",
    "LinearProbeTrainer": ".classification",
    "MAETrainer": ".pretraining",
    "MAETrainingArguments": ".arguments",
    "ModelArguments": ".model_arguments",
    "StreamArguments": ".data_arguments",
    "TopKAccuracy": ".metrics",
    "describe_classifier": ".plan",
    "describe_kept": ".run",
    "describe_method": ".balance",
    "describe_trained": ".run",
    "find_doubts": ".run",
    "find_verdict": ".run",
    "leave_together": ".run",
    "load_labelled_images": ".run",
    "parse_recipe_and_flags": ".recipes",
    "print_plan": ".plan",
    "print_result": ".run",
    "print_results": ".run",
    "resume_point": ".resuming",
    "select_results": ".run",
    "train_and_evaluate": ".run",
    "write_output_folder": ".run",
}

__all__ = [
    "DataArguments",
    "FineTuningArguments",
    "FineTuningModelArguments",
    "FineTuningTrainer",
    "LinearProbeArguments",
    "LinearProbeModelArguments",
    "LinearProbeTrainer",
    "MAETrainer",
    "MAETrainingArguments",
    "ModelArguments",
    "StreamArguments",
    "TopKAccuracy",
    "describe_classifier",
    "describe_kept",
    "describe_method",
    "describe_trained",
    "find_doubts",
    "find_verdict",
    "leave_together",
    "load_labelled_images",
    "parse_recipe_and_flags",
    "print_plan",
    "print_result",
    "print_results",
    "resume_point",
    "select_results",
    "train_and_evaluate",
    "write_output_folder",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name], __name__), name)
    globals()[name] = value  # the next time it is found without this function
    return value
