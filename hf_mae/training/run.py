# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What the training scripts have in common: the images, the course of the run, the result.

Each script calls these in its own order; none of them calls back.
"""

import shlex
import statistics
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from datasets import DatasetDict

from ..checkpoints import find_checkpoint
from ..data.labels import has_label
from ..errors import Stopped
from ..file_names import printable
from ..hub.cards import TrainingCard
from ..models.configuration_mae import MAEConfig
from ..models.costs import parameter_counts
from ..models.modeling_base import MAEPreTrainedModel
from ..models.modeling_classification import MAEForImageClassification
from ..output_folder import CURVES_FILE, PANEL_FILE, RECIPE_FILE
from ..versions import hardware, package_versions
from .arguments import ImageTrainingArguments, MAETrainingArguments
from .data_arguments import DataArguments
from .metrics import describe_doubts, format_result, largest_share, result_name
from .next_commands import after_training_a_classifier
from .plan import count_images
from .progress import say_speed
from .recipes import save_recipe
from .trainer import ImageTrainer
from .verdicts import judge_classifier
from .visualization import REFERENCE_LOSSES, training_curves


# what of the model makes its losses comparable with the authors'
_OF_REFERENCE = ("hidden_size", "num_hidden_layers", "decoder_hidden_size")
_OF_REFERENCE += ("decoder_num_hidden_layers", "image_size", "patch_size", "mask_ratio")
_OF_REFERENCE += ("num_channels", "norm_pix_loss", "decoder_type", "mask_strategy")


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
    try:
        with trainer.stop.listening():
            trainer.train(resume_from_checkpoint=checkpoint)
    except Stopped as stop:  # on every process, after the same update
        traceback.clear_frames(stop.__traceback__)  # which hold what is trained
        _end_communication(trainer)
        raise
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
    folder = Path(str(trainer.args.output_dir))
    if not any(folder.glob("model*.safetensors")):  # the folder may have been taken away
        return describe_kept(trainer)
    return (
        f"the trained model is in {printable(folder)}, and card, curves or arguments may be "
        "missing: the same command with --resume_from_checkpoint last writes them"
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
    _end_communication(trainer)


def _end_communication(trainer: ImageTrainer) -> None:
    """Ends the threads that speak with other processes.

    One that is left when Python ends may abort the process (status 134) when all its work is done,
    and is left as long as anything holds what averages the gradients.
    """
    trainer.model_wrapped = trainer.model
    trainer.accelerator.free_memory()
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
    num_train, num_held_out = count_images(trainer)
    save_recipe(explicit_args, folder / RECIPE_FILE)
    curves = training_curves(trainer.state.log_history, _chance(trainer), _reference(trainer))
    curves.savefig(folder / CURVES_FILE, dpi=120)
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
        learning_rate=trainer.peak_rate,
        dropped_updates=trainer.nonfinite.skipped,
        hardware=hardware(args.device, args.world_size),
        versions=package_versions(),
        pictures=[name for name in (CURVES_FILE, PANEL_FILE) if (folder / name).is_file()],
        command=f"accelerate launch scripts/{script} {recipe} --output_dir runs/again",
        **facts,
    )
    card.render().save(folder / "README.md")
    card.save_facts(folder)


def _chance(trainer: ImageTrainer) -> float | None:
    """The share of the commonest class among the held-out images, if each has one."""
    labels = _held_out_labels(trainer)
    if labels is None or labels.is_floating_point() or labels.ndim != 1:
        return None
    return largest_share(labels)


def _reference(trainer: ImageTrainer) -> dict[int, float] | None:
    """The authors' early losses, if this run has their model, batch, learning rate and set."""
    args, config = trainer.args, trainer.model.config
    if not isinstance(args, MAETrainingArguments):
        return None
    wanted = MAEConfig.from_size("base", norm_pix_loss=True)
    is_theirs = all(getattr(config, name) == getattr(wanted, name) for name in _OF_REFERENCE)
    is_theirs = is_theirs and args.total_batch_size == 4096 and args.base_learning_rate == 1.5e-4
    return REFERENCE_LOSSES if is_theirs and len(trainer.train_dataset) > 1_000_000 else None


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
    labels = _held_out_labels(trainer)
    return [] if labels is None else describe_doubts(results, labels)


def find_verdict(trainer: ImageTrainer, results: dict[str, float]) -> str | None:
    """Says of a classifier's results whether it has learned anything; None without held-out images.

    Args:
        trainer: The trainer, with the held-out images.
        results: From `select_results`.
    """
    labels = _held_out_labels(trainer)
    if labels is None:
        return None
    model = cast(MAEForImageClassification, trainer.model)
    return judge_classifier(model.problem_type, results, labels)


def _held_out_labels(trainer: ImageTrainer) -> torch.Tensor | None:
    """The labels of the held-out images that have one, or None."""
    samples = trainer.eval_dataset
    labels = None if samples is None else samples.all_labels()
    return None if labels is None else labels[has_label(labels)]


def print_results(
    trainer: ImageTrainer, data_args: DataArguments, results: dict[str, float], facts: dict
) -> None:
    """Prints the result of a classifier.

    Args:
        trainer: The trainer, at the end of the run.
        data_args: Where the images come from.
        results: From `select_results`.
        facts: Of the card: `method`, how it was trained, `verdict`, `doubts`.
    """
    lines = [f"{name:34} {format_result(name, value):>13}" for name, value in results.items()]
    if lines:
        lines = [facts["method"], *lines, *facts["doubts"]]
    commands = after_training_a_classifier(trainer.output_dir, trainer.eval_dataset, data_args)
    print_result(trainer, lines, facts["verdict"], commands)


def print_result(
    trainer: ImageTrainer,
    lines: Sequence[str],
    verdict: str | None,
    commands: Sequence[str],
    **places: str | Path,
) -> None:
    """Prints the result, the speed, where things lie, and what to do next.

    Args:
        trainer: The trainer, at the end of the run.
        lines: The result.
        verdict: Whether it has learned anything, if that can be told.
        commands: What to do next.
        places: Further things and where they lie.
    """
    print()
    for line in lines:
        print(line)
    if verdict is not None:
        print(verdict)
    speeds = []
    for entry in trainer.state.log_history:
        if "images_per_second" in entry:
            speeds.append(entry["images_per_second"])
    if speeds:
        print(f"{'images/s (median)':34} {say_speed(statistics.median(speeds)):>13}")
    if trainer.nonfinite.skipped:
        print(f"{'updates dropped, not finite':34} {trainer.nonfinite.skipped:13,}")
    folder = Path(cast(str, trainer.args.output_dir))
    print(f"{'model, card, arguments':34} {folder}")
    print(f"{'curves':34} {folder / CURVES_FILE}")
    if "tensorboard" in cast(list[str], trainer.args.report_to):
        print(f"{'the same, while it runs':34} tensorboard --logdir {shlex.quote(str(folder))}")
    for name, place in places.items():
        print(f"{name:34} {place}")
    print("next")
    for command in commands:
        print(f"  {command}")
