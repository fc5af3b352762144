# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The course of every training script: arguments, plan, training, result, and the papers in the
output folder."""

import statistics
import sys
from pathlib import Path

from safetensors import SafetensorError
from transformers import set_seed

from ..data.labels import readable_names
from ..data.samples import ImageSamples
from ..data.transforms import CenterCropTransform
from ..errors import BadImageError, NonFiniteLossError
from ..hub.cards import ClassifierCard
from ..models.costs import parameter_counts
from ..models.image_processing_mae import MAEImageProcessor
from ..output_folder import CURVES_FILE, PANEL_FILE, RECIPE_FILE, resume_point
from ..versions import hardware, package_versions
from .optimization import scaled_learning_rate
from .recipes import parse_recipe_and_flags, save_recipe
from .visualization import training_curves


def run(script, title, argument_types, prepare, describe, finish):
    """Runs a training script from its arguments to its result.

    Args:
        script: Its name, for messages.
        title: What it does, for the plan.
        argument_types: Dataclasses of the arguments about the model, the data and the training.
        prepare: (model_args, data_args, args) → trainer; ValueError and OSError are the user's to
            mend.
        describe: (model_args, trainer) → the plan's line about the model.
        finish: (trainer, model_args, data_args, given, metrics): writes papers, prints the result;
            on one process.
    """
    model_args, data_args, args, given = parse_recipe_and_flags(argument_types)
    try:
        checkpoint = resume_point(args)
        set_seed(args.seed)
        trainer = prepare(model_args, data_args, args)
        trainer.check_resume(checkpoint)
        if trainer.is_world_process_zero():
            print(
                plan(title, describe(model_args, trainer), trainer, data_args, checkpoint),
                flush=True,
            )
    except (ValueError, OSError, SafetensorError) as error:
        sys.exit(f"{script}: error: {error}")
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()  # before anything else can go wrong
        metrics = final_metrics(trainer)
        trainer.save_state()
    except (BadImageError, NonFiniteLossError) as error:
        sys.exit(f"{script}: error: {error}")
    if trainer.is_world_process_zero():
        finish(trainer, model_args, data_args, given, metrics)
    # a process that leaves early takes the others' connections with it
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


def plan(title, model, trainer, data_args, checkpoint):
    """What is about to be done, in lines.

    Args:
        title: What it is.
        model: The line about the model.
        trainer: `ImageTrainer`.
        data_args: `DataArguments`.
        checkpoint: What is resumed, or None.
    """
    args = trainer.args
    held_out = len(trainer.eval_dataset) if trainer.eval_dataset else 0
    steps, per_epoch = trainer.planned_updates, trainer.updates_per_epoch
    scaled = args.learning_rate == scaled_learning_rate(
        args.base_learning_rate, args.total_batch_size
    )
    crops = trainer.train_dataset.crops_per_image
    schedule = getattr(args, "resolution_schedule", None)
    base = f" ({args.base_learning_rate:g} * {args.total_batch_size} / 256)" if scaled else ""
    rows = {
        "model": model,
        "data": f"{len(trainer.train_dataset):,} training images, {held_out:,} held out "
        f"({data_args.source_name})"
        + f", {crops} crops of an image at a time" * (crops > 1)
        + f", pixels by share of the run {schedule}" * bool(schedule),
        "batch": f"{args.total_batch_size:,} = {args.train_batch_size} a process * "
        f"{args.world_size} process{'es' * (args.world_size > 1)} * "
        f"{args.gradient_accumulation_steps} accumulated",
        "lr": f"{args.learning_rate:g}{base}, {args.warmup_epochs:g} epochs of warm-up, cosine to "
        f"{args.min_learning_rate:g}",
        "steps": f"{steps:,} ({steps / per_epoch:.4g} epochs of {per_epoch:,})",
        "device": f"{hardware(args.device, args.world_size)}, "
        f"{'bf16' if args.bf16 else 'fp16' if args.fp16 else 'fp32'}",
        "output": args.output_dir + (f", resuming {Path(checkpoint).name}" if checkpoint else ""),
    }
    return "\n".join([title, *(f"  {name:7} {text}" for name, text in rows.items()), ""])


def final_metrics(trainer):
    """Metrics of the finished model on held-out images, from the last evaluation if that was at the
    end."""
    if trainer.eval_dataset is None:
        return {}
    last = next(
        (entry for entry in reversed(trainer.state.log_history) if "eval_loss" in entry), {}
    )
    current = (
        last.get("step") == trainer.state.global_step and not trainer.args.load_best_model_at_end
    )
    return last if current else trainer.evaluate()


def closing(trainer, lines, **places):
    """The result in lines: what is given, speed, and where things lie."""
    folder = Path(trainer.args.output_dir)
    speeds = [
        entry["images_per_second"]
        for entry in trainer.state.log_history
        if "images_per_second" in entry
    ]
    if speeds:
        lines = [*lines, f"{'images/s (median)':34} {statistics.median(speeds):13,.0f}"]
    places = {
        "model, card, arguments": folder,
        "curves": f"tensorboard --logdir {folder}",
        **places,
    }
    return "\n".join(["", *lines, *(f"{name:34} {place}" for name, place in places.items())])


def write_output_folder(trainer, data_args, given, card_class, script, **facts):
    """`arguments.yaml`, which repeats the run, curves and the model card, into the output folder.

    Args:
        given: What the script was given, from `parse_recipe_and_flags`.
        card_class: `PreTrainingCard` or `ClassifierCard`.
        script: What repeats the run with `arguments.yaml`.
        facts: Further fields of the card.
    """
    args, folder = trainer.args, Path(trainer.args.output_dir)
    save_recipe(given, folder / RECIPE_FILE)
    training_curves(trainer.state.log_history).savefig(folder / CURVES_FILE, dpi=120)
    card = card_class(
        folder=folder.resolve().name,
        dataset=data_args.source_name,
        hub_dataset=data_args.hub_id,
        config=trainer.model.config,
        num_parameters=parameter_counts(trainer.model),
        num_train_images=len(trainer.train_dataset),
        num_held_out_images=len(trainer.eval_dataset) if trainer.eval_dataset else 0,
        epochs=round(trainer.state.epoch, 2),
        steps=trainer.state.global_step,
        total_batch_size=args.total_batch_size,
        learning_rate=args.learning_rate,
        hardware=hardware(args.device, args.world_size),
        versions=package_versions(),
        pictures=[name for name in (CURVES_FILE, PANEL_FILE) if (folder / name).is_file()],
        command=f"accelerate launch scripts/{script} arguments.yaml --output_dir runs/again",
        **facts,
    )
    card.render().save(folder / "README.md")
    card.save_facts(folder)


def prepare_classifier(model_args, data_args, args, trainer_class, train_transform):
    """Loads labelled images and a model for their classes; returns the trainer.

    Args:
        trainer_class: `FineTuningTrainer` or `LinearProbeTrainer`.
        train_transform: `MAEConfig` → the transform of training images; the others are cropped at
            the center.

    Raises:
        ValueError: something is missing or impossible.
    """
    with args.main_process_first(desc="loading the data set"):
        splits = data_args.load(args.seed, labels=True)
    if "validation" not in splits:
        args.eval_strategy = "no"
    names = splits["train"].features["label"].names
    if len(names) < 2:
        raise ValueError(
            f"the images are all of one class, {names[0]!r}; there must be at least two to tell "
            "apart"
        )
    model = model_args.build_model(readable_names(names))
    transforms = {
        "train": train_transform(model.config),
        "validation": CenterCropTransform(model.config),
    }
    draws = {
        split: ImageSamples(
            images, transforms[split], model.config.num_channels, args.seed, data_args.on_bad_image
        )
        for split, images in splits.items()
    }
    trainer = trainer_class(
        model,
        args,
        train_dataset=draws["train"],
        eval_dataset=draws.get("validation"),
        processing_class=MAEImageProcessor.from_model_config(model.config),
    )
    _ = trainer.planned_updates  # raises if there is none
    return trainer


def describe_classifier(model_args, trainer):
    """The plan's line about a classifier."""
    encoder, total = parameter_counts(trainer.model)
    frozen = ", frozen" * trainer.model.encoder_frozen
    return (
        f"{total / 1e6:.2f} M parameters, {encoder / 1e6:.2f} M in the encoder{frozen}; from "
        f"{started_from(model_args)}; "
        f"{trainer.model.config.num_labels} classes"
    )


def started_from(model_args):
    """Where the encoder's weights come from, in words."""
    return (
        Path(model_args.model_name_or_path).name
        if model_args.model_name_or_path
        else "random weights"
    )


def finish_classifier(trainer, model_args, data_args, given, metrics, script, method):
    """Writes the papers of a classifier and prints its accuracies.

    Args:
        script: What repeats the run.
        method: How it was trained, a sentence.
    """
    names = {"top-1 accuracy": "eval_top1_accuracy", "top-5 accuracy": "eval_top5_accuracy"}
    accuracies = {name: metrics[key] for name, key in names.items() if key in metrics}
    facts = {"results": accuracies, "method": method, "started_from": started_from(model_args)}
    if model_args.model_name_or_path and not Path(model_args.model_name_or_path).exists():
        facts["base_model"] = model_args.model_name_or_path
    write_output_folder(trainer, data_args, given, ClassifierCard, script, **facts)
    lines = [method] if accuracies else []
    print(
        closing(trainer, lines + [f"{name:34} {value:13.2%}" for name, value in accuracies.items()])
    )
