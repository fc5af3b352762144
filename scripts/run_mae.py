"""Pre-trains a Masked Autoencoder.

    accelerate launch scripts/run_mae.py [RECIPE.yaml] --dataset_name NAME | --train_dir DIR [--flag
    value …]

`--help` lists the flags, `--help_all` every one; a recipe's keys are the flags' names, and flags
override it.
"""

from early_help import answer_help, start


if __name__ == "__main__":
    answer_help(__file__)

from typing import Any, NamedTuple

import numpy as np
from datasets import ClassLabel, Dataset, IterableDataset
from transformers import set_seed

from hf_mae import (
    CenterCropTransform,
    ImageSamples,
    ImageStream,
    MAEForPreTraining,
    MAEImageProcessor,
    MAETrainer,
    MAETrainingArguments,
    MaskedEvaluationTransform,
    PretrainingTransform,
)
from hf_mae.errors import TRAINING_ERRORS, reported_as
from hf_mae.hub.cards import PreTrainingCard
from hf_mae.models.costs import parameter_counts
from hf_mae.models.masking import block_side
from hf_mae.output_folder import PANEL_FILE
from hf_mae.training import (
    ModelArguments,
    StreamArguments,
    describe_kept,
    describe_trained,
    find_doubts,
    leave_together,
    parse_recipe_and_flags,
    print_plan,
    print_result,
    resume_point,
    train_and_evaluate,
    write_output_folder,
)
from hf_mae.training.next_commands import after_pretraining
from hf_mae.training.progress import say_loss
from hf_mae.training.verdicts import judge_pretraining
from hf_mae.training.world_size import check_world_size


SCRIPT = "run_mae.py"


def main() -> None:
    model_args, data_args, args, explicit_args = parse_recipe_and_flags(
        (ModelArguments, StreamArguments, MAETrainingArguments), description=__doc__ or ""
    )
    with reported_as(SCRIPT):
        check_world_size(args.world_size)
        checkpoint = resume_point(args)
        set_seed(args.seed)
        images = open_stream(data_args, args) if data_args.streaming else load(data_args, args)
        model = model_args.build_model()
        processor = model_args.build_processor(model.config)
        about_values = model_args.fit_value_range(
            processor, images.train, images.held_out, data_args.max_image_pixels
        )
        trainer = build_trainer(model, processor, images, data_args, args)
        trainer.check_resume(checkpoint)
        title = "Pre-training a masked autoencoder"
        print_plan(title, describe(model), trainer, data_args, about_values, checkpoint)

    with reported_as(SCRIPT, TRAINING_ERRORS, lambda: describe_kept(trainer)):
        metrics = train_and_evaluate(trainer, checkpoint)

    with reported_as(SCRIPT, TRAINING_ERRORS, lambda: describe_trained(trainer)):
        if trainer.is_world_process_zero():
            losses = select_losses(metrics)
            knn_accuracy = metrics.get("eval_knn_accuracy")
            doubts = []
            if knn_accuracy is not None:
                doubts = find_doubts(trainer, {"k-NN accuracy": knn_accuracy})
            facts = {"results": losses, "knn_accuracy": knn_accuracy, "doubts": doubts}
            facts |= {
                "rank_me": metrics.get("eval_rank_me"),
                "verdict": find_verdict(trainer, losses),
            }
            write_output_folder(trainer, data_args, explicit_args, PreTrainingCard, SCRIPT, **facts)
            print_losses(trainer, data_args, losses, facts)
        leave_together(trainer)


class Images(NamedTuple):
    """Images to train on, to hold out (or None), and to compare held-out ones with (or None)."""

    train: Dataset | IterableDataset
    held_out: Dataset | None
    knn_bank: Dataset | None = None
    epoch_samples: int = 0  # of a stream


def load(data_args: StreamArguments, args: MAETrainingArguments) -> Images:
    with args.main_process_first(desc="loading the data set"):
        splits = data_args.load(args.seed, labels=args.knn_images > 0)
    train = splits["train"].select_columns(["image"])
    held_out = splits.get("validation")
    if not args.knn_images:
        return Images(train, held_out)
    if held_out is None:
        raise ValueError(
            f"knn_images is {args.knn_images} and no images are held out to compare; raise "
            "train_val_split"
        )
    if not isinstance(held_out.features["label"], ClassLabel):
        raise ValueError(
            f"knn_images needs one class an image; the labels are {held_out.features['label']}"
        )
    # in no order, for folders come class by class
    order = np.random.default_rng(args.seed).permutation(len(splits["train"]))
    knn_bank = splits["train"].select(order[: args.knn_images])
    return Images(train, held_out, knn_bank)


def open_stream(data_args: StreamArguments, args: MAETrainingArguments) -> Images:
    if args.knn_images:
        raise ValueError("knn_images needs labels, which --streaming doesn't read")
    train, held_out, epoch_samples = data_args.load_stream()
    # a stream goes on where an epoch ends
    args.dataloader_persistent_workers = bool(args.dataloader_num_workers)
    return Images(train, held_out, epoch_samples=epoch_samples)


def build_trainer(
    model: MAEForPreTraining,
    processor: MAEImageProcessor,
    images: Images,
    data_args: StreamArguments,
    args: MAETrainingArguments,
) -> MAETrainer:
    config = model.config
    common = {
        "num_channels": config.num_channels,
        "seed": args.seed,
        "on_bad_image": data_args.on_bad_image,
        "max_image_pixels": data_args.max_image_pixels,
    }
    of_training = {**common, "crops_per_image": args.crops_per_image}
    transform = PretrainingTransform(config, processor, decode=args.decode_device == "cpu")
    if isinstance(images.train, Dataset):
        train_dataset = ImageSamples(images.train, transform, **of_training)
    else:
        train_dataset = ImageStream(
            images.train,
            transform,
            epoch_samples=images.epoch_samples,
            shuffle_buffer=data_args.shuffle_buffer,
            **of_training,
        )
    eval_dataset = knn_bank = None
    if images.held_out is None:
        args.eval_strategy = "no"
    else:
        masked_crop = MaskedEvaluationTransform(config, processor)
        eval_dataset = ImageSamples(images.held_out, masked_crop, **common)
    if images.knn_bank is not None:
        center_crop = CenterCropTransform(config, processor)
        knn_bank = ImageSamples(images.knn_bank, center_crop, **common)
    return MAETrainer(
        model,
        args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processor,
        knn_bank=knn_bank,
    )


def describe(model: MAEForPreTraining) -> str:
    """Describes the model in the plan's line."""
    encoder, total = parameter_counts(model)
    config = model.config
    norm_pix_loss = ", norm_pix_loss" if config.norm_pix_loss else ""
    hidden = f"{config.mask_ratio:.0%} hidden"
    if config.mask_strategy == "block":
        hidden += f" in blocks of {config.mask_block_size or block_side(config.grid_size)}"
    if config.decoder_type == "cross":
        hidden += f", {config.prediction_ratio:.0%} predicted by a cross-attention decoder"
    return (
        f"{total / 1e6:.2f} M parameters, {encoder / 1e6:.2f} M in the encoder; "
        f"{config.num_patches} patches an image, {hidden}{norm_pix_loss}"
    )


def select_losses(metrics: dict[str, float]) -> dict[str, float]:
    """Selects the held-out losses of the model and the baselines, by predictor."""
    names = {
        "this model": "eval_loss",
        "mean of the visible patches": "eval_loss_visible_mean",
        "best constant patch per image": "eval_loss_best_constant",
    }
    return {name: metrics[key] for name, key in names.items()} if metrics else {}


def find_verdict(trainer: MAETrainer, losses: dict[str, float]) -> str | None:
    """Says whether the model has learned anything; None without held-out images."""
    if not losses:
        return None
    loss, best_constant = losses["this model"], losses["best constant patch per image"]
    return judge_pretraining(loss, best_constant, trainer.state.log_history)


def print_losses(
    trainer: MAETrainer,
    data_args: StreamArguments,
    losses: dict[str, float],
    facts: dict[str, Any],
) -> None:
    """Prints the losses beside the baselines', and what else the card has to say of them."""
    commands = after_pretraining(trainer.output_dir, trainer.eval_dataset, data_args)
    if not losses:
        print_result(trainer, [], None, commands)
        return
    best_constant = losses["best constant patch per image"]
    predictor = "predictor of the hidden patches"
    lines = [f"{predictor:34} {'held-out loss':>13} {'of best constant':>17}"]
    for name, loss in losses.items():
        lines.append(f"  {name:32} {say_loss(loss):>13} {say_loss(loss / best_constant, 2):>17}")
    if facts["knn_accuracy"] is not None:
        lines.append(f"{'k-NN accuracy of the features':34} {facts['knn_accuracy']:13.2%}")
    lines.append(f"{'RankMe of the features':34} {facts['rank_me']:13.1f}")
    lines += facts["doubts"]
    panel = trainer.output_dir / PANEL_FILE
    print_result(trainer, lines, facts["verdict"], commands, reconstructions=panel)


if __name__ == "__main__":
    start(main)
