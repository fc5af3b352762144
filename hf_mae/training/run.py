# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What the training scripts have in common: the plan, the course of the run, the result.

Each script calls these in its own order; none of them calls back.
"""

import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from datasets import DatasetDict
from transformers.image_utils import PILImageResampling

from ..checkpoints import find_checkpoint
from ..data.folders import describe_left_out
from ..data.labels import has_label
from ..file_names import print_any_name, printable
from ..hub.cards import TrainingCard
from ..models.costs import parameter_counts
from ..models.image_processing_mae import MAEImageProcessor
from ..models.modeling_base import MAEPreTrainedModel
from ..models.modeling_classification import MAEForImageClassification
from ..models.problem_types import MULTI_LABEL, REGRESSION
from ..output_folder import CURVES_FILE, PANEL_FILE, RECIPE_FILE
from ..versions import hardware, package_versions
from .arguments import ClassifierArguments, ImageTrainingArguments
from .balance import describe_balance, describe_labels
from .data_arguments import DataArguments
from .metrics import FEW_IMAGES, describe_doubts, format_result, result_name
from .model_arguments import FineTuningModelArguments
from .optimization import scaled_learning_rate
from .recipes import save_recipe
from .trainer import ImageTrainer
from .visualization import training_curves


def load_labelled_images(data_args: DataArguments, args: ImageTrainingArguments) -> DatasetDict:
    """Loads the images of a classifier; without held-out ones, turns evaluation off.

    Returns:
        `train` and, if any, `validation`, with columns `image` and `label`.

    Raises:
        ValueError: something isn't there.
    """
    with args.main_process_first(desc="loading the data set"):
        images = data_args.load(args.seed, labels=True)
    if "validation" not in images:
        args.eval_strategy = "no"
    return images


# the plan ----------------------------------------------------------------------------------------


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
        "lr": _describe_learning_rate(args),
        "steps": f"{steps:,} ({steps / per_epoch:.4g} epochs of {per_epoch:,})",
        "device": _describe_device(trainer),
        **_describe_patience(args),
        **_describe_spread(trainer),
        "output": str(args.output_dir),
    }
    num_held_out = _count_images(trainer)[1]
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
    num_train, num_held_out = _count_images(trainer)
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


def _describe_learning_rate(args: ImageTrainingArguments) -> str:
    peak = f"{args.learning_rate:g}"
    scaled = scaled_learning_rate(args.base_learning_rate, args.total_batch_size)
    if args.learning_rate == scaled:
        peak += f" ({args.base_learning_rate:g} * {args.total_batch_size} / 256)"
    return f"{peak}, {args.warmup_epochs:g} epochs of warm-up, cosine to {args.min_learning_rate:g}"


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


def _count_images(trainer: ImageTrainer) -> tuple[int, int]:
    """Counts training and held-out images."""
    num_held_out = len(trainer.eval_dataset) if trainer.eval_dataset else 0
    return len(trainer.train_dataset), num_held_out


# the run -----------------------------------------------------------------------------------------


def train_and_evaluate(trainer: ImageTrainer, checkpoint: str | None) -> dict[str, float]:
    """Trains, saves the model and evaluates it.

    Args:
        trainer: The trainer, with its data.
        checkpoint: What to resume, or None.

    Returns:
        Metrics of the finished model on held-out images, from the last evaluation if that was at
        the end; empty without held-out images.

    Raises:
        BadImageError: too many images can't be decoded.
        NonFiniteLossError: a loss, gradient or weight is not finite.
        Stopped: the run was asked to stop by a signal, and has saved a checkpoint.
    """
    with trainer.stop.listening():
        trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()  # before anything else can go wrong
    metrics = _final_metrics(trainer)
    trainer.save_state()
    return metrics


def describe_kept(trainer: ImageTrainer) -> str:
    """Says what is still there of a run that has ended before its time, and how to go on."""
    folder = Path(str(trainer.args.output_dir))
    newest = find_checkpoint(folder)
    if newest is None:
        return f"there is no whole checkpoint in {printable(folder)}, so start again"
    return f"{newest.name} is whole: go on by --resume_from_checkpoint last"


def describe_trained(trainer: ImageTrainer) -> str:
    """Says what is there when what lies beside the trained model can't be written."""
    folder = printable(Path(str(trainer.args.output_dir)))
    return (
        f"the trained model is in {folder}, and card, curves or arguments may be missing: the same "
        "command with --resume_from_checkpoint last writes them"
    )


def _final_metrics(trainer: ImageTrainer) -> dict[str, float]:
    if trainer.eval_dataset is None:
        return {}
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    best_was_loaded = trainer.args.load_best_model_at_end
    if evaluations and not best_was_loaded:
        last = evaluations[-1]
        if last["step"] == trainer.state.global_step:
            return last
    return trainer.evaluate()


def leave_together(trainer: ImageTrainer) -> None:
    """Ends the run on every process at once."""
    # a process that leaves early takes the others' connections with it
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


# the result --------------------------------------------------------------------------------------


def write_output_folder(
    trainer: ImageTrainer,
    data_args: DataArguments,
    explicit_args: dict[str, Any],
    card_class: type[TrainingCard],
    script: str,
    **facts: Any,
) -> None:
    """Writes what lies beside the model: `arguments.yaml`, the curves and the model card.

    Args:
        trainer: The trainer, at the end of the run.
        data_args: Where the images come from.
        explicit_args: What `parse_recipe_and_flags` found in recipe and flags.
        card_class: `PreTrainingCard` or `ClassifierCard`.
        script: What repeats the run with `arguments.yaml`.
        facts: Further fields of the card.
    """
    args = trainer.args
    folder = Path(cast(str, args.output_dir))
    model = cast(MAEPreTrainedModel, trainer.model)
    num_train, num_held_out = _count_images(trainer)
    save_recipe(explicit_args, folder / RECIPE_FILE)
    training_curves(trainer.state.log_history).savefig(folder / CURVES_FILE, dpi=120)
    place = _short_way(folder)
    recipe = shlex.quote(printable(place / RECIPE_FILE))
    card = card_class(
        folder=printable(place),
        dataset=data_args.source_name,
        hub_dataset=data_args.hub_id,
        config=model.config,
        value_range=trainer.processing_class.value_range,
        bands=trainer.processing_class.bands,
        num_parameters=parameter_counts(model),
        num_train_images=num_train,
        num_held_out_images=num_held_out,
        epochs=round(cast(float, trainer.state.epoch), 2),
        steps=trainer.state.global_step,
        total_batch_size=args.total_batch_size,
        learning_rate=cast(float, args.learning_rate),
        dropped_updates=trainer.nonfinite.skipped,
        hardware=hardware(args.device, args.world_size),
        versions=package_versions(),
        pictures=[name for name in (CURVES_FILE, PANEL_FILE) if (folder / name).is_file()],
        command=f"accelerate launch scripts/{script} {recipe} --output_dir runs/again",
        **facts,
    )
    card.render().save(folder / "README.md")
    card.save_facts(folder)


def _short_way(folder: Path) -> Path:
    """A folder as commands name it that are given where the run was started."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def select_results(metrics: dict[str, float]) -> dict[str, float]:
    """Selects a classifier's metrics, by the names that its card and the result give them."""
    results = {}
    for key, value in metrics.items():
        name = result_name(key.removeprefix("eval_"))
        if name:
            results[name] = value
    return results


def find_doubts(trainer: ImageTrainer, results: dict[str, float]) -> list[str]:
    """Finds how far results can be trusted, where that isn't far, in sentences.

    Args:
        trainer: The trainer, with the held-out images.
        results: From `select_results`, or the k-NN accuracy.
    """
    samples = trainer.eval_dataset
    labels = None if samples is None else samples.all_labels()
    if labels is None:
        return []
    return describe_doubts(results, labels[has_label(labels)])


def print_results(
    trainer: ImageTrainer, results: dict[str, float], method: str, doubts: Sequence[str] = ()
) -> None:
    """Prints the result of a classifier.

    Args:
        trainer: The trainer, at the end of the run.
        results: From `select_results`.
        method: How it was trained, a sentence.
        doubts: From `find_doubts`.
    """
    lines = [f"{name:34} {format_result(name, value):>13}" for name, value in results.items()]
    print_result(trainer, [method, *lines, *doubts] if lines else [])


def print_result(trainer: ImageTrainer, lines: Sequence[str], **places: str | Path) -> None:
    """Prints the result, the speed, and where things lie.

    Args:
        trainer: The trainer, at the end of the run.
        lines: The result.
        places: Further things and where they lie.
    """
    print()
    for line in lines:
        print(line)
    speeds = []
    for entry in trainer.state.log_history:
        if "images_per_second" in entry:
            speeds.append(entry["images_per_second"])
    if speeds:
        print(f"{'images/s (median)':34} {statistics.median(speeds):13,.0f}")
    if trainer.nonfinite.skipped:
        print(f"{'updates dropped, not finite':34} {trainer.nonfinite.skipped:13,}")
    folder = Path(cast(str, trainer.args.output_dir))
    print(f"{'model, card, arguments':34} {folder}")
    print(f"{'curves':34} tensorboard --logdir {folder}")
    for name, place in places.items():
        print(f"{name:34} {place}")
