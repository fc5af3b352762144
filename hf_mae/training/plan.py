# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The plan: what a training script prints before it trains."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.image_utils import PILImageResampling

from ..data.folders import describe_left_out
from ..file_names import print_any_name
from ..models.costs import parameter_counts
from ..models.image_processing_mae import MAEImageProcessor
from ..models.memory import largest_batch, needed_on_gpu, training_memory
from ..models.modeling_classification import MAEForImageClassification
from ..models.modeling_mae import MAEForPreTraining
from ..models.problem_types import MULTI_LABEL, REGRESSION
from ..versions import hardware
from .arguments import ClassifierArguments, ImageTrainingArguments
from .balance import describe_balance, describe_labels
from .data_arguments import DataArguments
from .metrics import FEW_IMAGES
from .model_arguments import FineTuningModelArguments
from .optimization import scaled_learning_rate
from .trainer import ImageTrainer


def print_plan(
    title: str,
    about_model: str,
    trainer: ImageTrainer,
    data_args: DataArguments,
    about_values: str,
    checkpoint: str | None,
) -> None:
    """Prints what is about to be done, on the first process.

    Args:
        title: What it is.
        about_model: The line about the model.
        trainer: The trainer, with its data.
        data_args: Where the images come from.
        about_values: The line about the depth of the images.
        checkpoint: What is resumed, or None.

    Raises:
        ValueError: on every process, if there is no whole batch or the warm-up is too long.
    """
    args = trainer.args
    steps = trainer.planned_updates
    per_epoch = trainer.updates_per_epoch
    rows = {
        "model": about_model,
        "data": _describe_data(trainer, data_args),
        "depth": _describe_values(trainer, about_values),
        **_describe_left_out(trainer),
        **_describe_labels(trainer),
        **_describe_processor(trainer),
        "batch": _describe_batch(args),
        "lr": _describe_learning_rate(args, steps / per_epoch),
        "steps": f"{steps:,} ({steps / per_epoch:.4g} epochs of {per_epoch:,})",
        "device": _describe_device(trainer),
        **_describe_memory(trainer),
        **_describe_patience(args),
        **_describe_spread(trainer),
        "output": str(args.output_dir),
    }
    num_held_out = count_images(trainer)[1]
    if 0 < num_held_out < FEW_IMAGES:
        rows["note"] = (
            f"of {num_held_out} held-out images figures are rough; raise train_val_split, or give "
            "more"
        )
    if checkpoint:
        rows["output"] += f", resuming {Path(checkpoint).name}"
        if trainer.steps_done(checkpoint) >= steps:
            rows["output"] += ", whose updates are all done: nothing is left to train"
        if trainer.changed:
            rows["changed"] = "; ".join(trainer.changed)
    elif args.resume_from_checkpoint:
        rows["output"] += ", nothing to resume, from the start"
    print_any_name()
    if trainer.is_world_process_zero():
        print(title)
        for name, text in rows.items():
            print(f"  {name:7} {text}")
        print(flush=True)


def describe_classifier(
    model: MAEForImageClassification, model_args: FineTuningModelArguments
) -> str:
    """Describes a classifier in the plan's line."""
    encoder, total = parameter_counts(model)
    frozen = ", frozen" if model.encoder_frozen else ""
    return (
        f"{total / 1e6:.2f} M parameters, {encoder / 1e6:.2f} M in the encoder{frozen}; "
        f"from {model_args.started_from}; {_describe_answers(model)}"
    )


def _describe_answers(model: MAEForImageClassification) -> str:
    config: Any = model.config
    if model.problem_type == REGRESSION:
        return f"a value, {config.id2label[0]} (regression)"
    if model.problem_type == MULTI_LABEL:
        return f"{config.num_labels} labels, any of them an image (multi-label)"
    return f"{config.num_labels} classes"


def _describe_data(trainer: ImageTrainer, data_args: DataArguments) -> str:
    num_train, num_held_out = count_images(trainer)
    text = f"{num_train:,} training images, {num_held_out:,} held out ({data_args.source_name})"
    crops = trainer.train_dataset.crops_per_image
    if crops > 1:
        text += f", {crops} crops of an image at a time"
    schedule = getattr(trainer.args, "resolution_schedule", None)  # of pre-training alone
    if schedule:
        text += f", pixels by share of the run {schedule}"
    return text


def _describe_values(trainer: ImageTrainer, about_values: str) -> str:
    processor: Any = trainer.processing_class
    if processor.bands is not None:
        about_values = f"bands {', '.join(map(str, processor.bands))}: {about_values}"
    rounds = getattr(trainer.args, "auto_augment", "none") != "none"  # of fine-tuning alone
    if rounds and not about_values.startswith("8 bits"):
        about_values += "; RandAugment rounds them to 8 bits, --auto_augment none does not"
    return about_values


def _describe_left_out(trainer: ImageTrainer) -> dict[str, str]:
    """Counts the files in folders of images that aren't read."""
    notes: dict[str, str] = {}
    for name, samples in {"train": trainer.train_dataset, "held out": trainer.eval_dataset}.items():
        note = describe_left_out(getattr(samples, "dataset", None))
        if note and note not in notes.values():  # else both are of one folder
            notes[name] = note
    if not notes:
        return {}
    parts = [f"{name}: {note}" for name, note in notes.items()]
    return {"others": "; ".join(parts) if len(parts) > 1 else next(iter(notes.values()))}


def _describe_labels(trainer: ImageTrainer) -> dict[str, str]:
    """Describes a classifier's labels, of the training part, and how classes are balanced."""
    args, config = trainer.args, trainer.model.config
    if not isinstance(args, ClassifierArguments):
        return {}
    labels = trainer.train_dataset.all_labels()
    if labels is None:
        return {}
    names = [config.id2label[number] for number in range(config.num_labels)]
    epoch_samples = trainer.updates_per_epoch * args.total_batch_size
    balance = describe_balance(labels, names, args, epoch_samples)
    return {**describe_labels(labels, names), **balance}


def _describe_processor(trainer: ImageTrainer) -> dict[str, str]:
    """Describes how images are normalised and cropped, where that isn't as by default."""
    config: Any = trainer.model.config
    processor = trainer.processing_class
    default = MAEImageProcessor.from_model_config(config)
    rows = {}
    statistics = (list(processor.image_mean), list(processor.image_std))
    if statistics != (list(default.image_mean), list(default.image_std)):
        mean, std = (_list_numbers(values) for values in statistics)
        rows["pixels"] = f"mean {mean}, standard deviation {std}, which are not ImageNet's"
    names = ("do_resize", "size", "resample", "do_center_crop")
    if any(getattr(processor, name) != getattr(default, name) for name in names):
        sides = [f"{side} {pixels}" for side, pixels in dict(processor.size).items() if pixels]
        resized = f"resized to {', '.join(sides)}" if processor.do_resize else "not resized"
        cropped = "a center crop" if processor.do_center_crop else "no crop"
        filter_name = PILImageResampling(processor.resample).name.lower()
        rows["sizes"] = f"held-out images are {resized} ({filter_name}), then {cropped}"
    return rows


def _list_numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _describe_batch(args: ImageTrainingArguments) -> str:
    processes = "process" if args.world_size == 1 else "processes"
    return (
        f"{args.total_batch_size:,} = {args.train_batch_size} a process * {args.world_size} "
        f"{processes} * {args.gradient_accumulation_steps} accumulated"
    )


def _describe_learning_rate(args: ImageTrainingArguments, num_epochs: float) -> str:
    warmup = args.warmup_in(num_epochs)
    course = (
        f"{warmup:.3g} epochs of warm-up ({warmup / num_epochs:.3g} of the run), cosine to "
        f"{args.min_learning_rate:g}"
    )
    if getattr(args, "chooses_rate", False):  # of a linear probe alone
        return f"chosen on a fifth of the training features, {course}"
    peak = f"{args.learning_rate:g}"
    scaled = scaled_learning_rate(args.base_learning_rate, args.total_batch_size)
    if args.learning_rate == scaled:
        peak += f" ({args.base_learning_rate:g} * {args.total_batch_size} / 256)"
    return f"{peak}, {course}"


def _describe_patience(args: ImageTrainingArguments) -> dict[str, str]:
    """Says how long processes wait for each other, if there are several."""
    if args.world_size == 1:
        return {}
    return {"waits": f"{args.ddp_timeout:,} s for a process that doesn't answer (ddp_timeout)"}


def _describe_device(trainer: ImageTrainer) -> str:
    args = trainer.args
    text = f"{hardware(args.device, args.world_size)}, {_precision(args)}"
    if trainer.state_dict_type is not None:
        text += f", the model sharded over them (FSDP, {trainer.state_dict_type})"
    elif args.fsdp:
        text += ", the whole model on each (--fsdp shards over accelerators only)"
    return text


def _describe_memory(trainer: ImageTrainer) -> dict[str, str]:
    """Says what a GPU's memory is foretold to hold; finding that out takes a second or a few.

    A model that is sharded, or wrapped by another library, takes what can't be told here.
    """
    device = trainer.args.device
    known = type(trainer.model) in (MAEForPreTraining, MAEForImageClassification)
    if device.type != "cuda" or trainer.state_dict_type is not None or not known:
        return {}
    return {"memory": describe_memory(trainer, torch.cuda.mem_get_info(device)[1])}


def describe_memory(trainer: ImageTrainer, total: int) -> str:
    """Says how much memory a process is foretold to take, and if that is too much, what fits.

    Args:
        trainer: The trainer, whose model is one of ours.
        total: Bytes of the GPU.
    """
    batch_size = trainer.args.train_batch_size
    needed = foretold_memory(trainer, batch_size)
    text = (
        f"about {needed / 2**30:.1f} GiB of the GPU's {total / 2**30:.1f}, foretold for a batch of "
        f"{batch_size} in {_precision(trainer.args)}"
    )
    if needed <= total:
        return text
    fits = largest_batch(lambda batch: foretold_memory(trainer, batch), batch_size, total)
    if fits == 0:
        return f"{text}: it won't fit, nor would 2; take a smaller model"
    return (
        f"{text}: it won't fit, {fits} would (--per_device_train_batch_size, with "
        "--gradient_accumulation_steps for the rest)"
    )


def foretold_memory(trainer: ImageTrainer, batch_size: int) -> int:
    """Foretells the bytes of a GPU that a process takes to train."""
    args, model = trainer.args, trainer.model

    def prepare(copied: Any) -> None:
        if getattr(model, "encoder_frozen", False):
            copied.freeze_encoder()
        if args.gradient_checkpointing:
            with warnings.catch_warnings():  # the newest transformers has another name for it
                warnings.simplefilter("ignore", FutureWarning)
                copied.gradient_checkpointing_enable()

    half = bool(args.bf16 or args.fp16)
    tensors = training_memory(type(model), model.config, batch_size, half, prepare=prepare)
    if args.world_size > 1:  # the buckets in which processes exchange their gradients
        tensors += 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    return needed_on_gpu(tensors)


def _precision(args: ImageTrainingArguments) -> str:
    if args.bf16:
        return "bf16"
    return "fp16" if args.fp16 else "fp32"


def _describe_spread(trainer: ImageTrainer) -> dict[str, str]:
    """Names what depends on the number of processes and of accumulated batches."""
    config = trainer.model.config
    encoder_frozen = getattr(trainer.model, "encoder_frozen", False)
    names = []
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        if getattr(config, name) and not encoder_frozen:
            names.append(f"{name} {getattr(config, name):g}")
    has_batch_norm = isinstance(trainer.args, ClassifierArguments) and config.head_batch_norm
    if has_batch_norm and not getattr(trainer, "has_shared_batch_norm", False):
        names.append("head_batch_norm behind what is trained")
    if not names:
        return {}
    return {
        "spread": f"with {' and '.join(names)}, losses depend on the number of processes and of "
        "accumulated batches: keep both to repeat or resume this run"
    }


def count_images(trainer: ImageTrainer) -> tuple[int, int]:
    """Counts training and held-out images."""
    num_held_out = len(trainer.eval_dataset) if trainer.eval_dataset else 0
    return len(trainer.train_dataset), num_held_out
