"""Pre-trains a Masked Autoencoder.

    accelerate launch scripts/run_mae.py [RECIPE.yaml] --dataset_name NAME | --train_dir DIR [--flag
    value …]

`--help` lists every flag; a recipe's keys are the flags' names, and flags override it.
"""

from pathlib import Path

import numpy as np

from hf_mae import MAEImageProcessor
from hf_mae.data.samples import ImageSamples
from hf_mae.data.streaming import ImageStream
from hf_mae.data.transforms import (
    CenterCropTransform,
    MaskedEvaluationTransform,
    PretrainingTransform,
)
from hf_mae.hub.cards import PreTrainingCard
from hf_mae.models.costs import parameter_counts
from hf_mae.output_folder import PANEL_FILE
from hf_mae.training.arguments import MAETrainingArguments
from hf_mae.training.pretraining import MAETrainer
from hf_mae.training.run import closing, run, write_output_folder
from hf_mae.training.script_arguments import ModelArguments, StreamArguments


def main():
    types = (ModelArguments, StreamArguments, MAETrainingArguments)
    run("run_mae.py", "Pre-training a masked autoencoder", types, prepare, describe, finish)


def prepare(model_args, data_args, args):
    """Loads images and model; returns the trainer."""
    train, held_out, knn_bank, options = (stream if data_args.streaming else whole)(data_args, args)
    model = model_args.build_model()
    if held_out is None:
        args.eval_strategy = "no"

    def draws(images, transform, draws_class=ImageSamples, **options):
        common = (model.config.num_channels, args.seed, data_args.on_bad_image)
        return (
            None
            if images is None
            else draws_class(images, transform(model.config), *common, **options)
        )

    trainer = MAETrainer(
        model,
        args,
        train_dataset=draws(
            train, PretrainingTransform, crops_per_image=args.crops_per_image, **options
        ),
        eval_dataset=draws(held_out, MaskedEvaluationTransform),
        processing_class=MAEImageProcessor.from_model_config(model.config),
        knn_bank=draws(knn_bank, CenterCropTransform),
    )
    _ = trainer.planned_updates  # raises if there is none
    return trainer


def whole(data_args, args):
    """Images to train on, to hold out and to compare with, or None; and how they are drawn."""
    with args.main_process_first(desc="loading the data set"):
        splits = data_args.load(args.seed, labels=args.knn_images > 0)
    knn_bank = None
    if args.knn_images:
        if "validation" not in splits:
            raise ValueError(
                f"knn_images is {args.knn_images} and no images are held out to compare; raise "
                "train_val_split"
            )
        # in no order, for folders come class by class
        chosen = np.random.default_rng(args.seed).permutation(len(splits["train"]))[
            : args.knn_images
        ]
        knn_bank = splits["train"].select(chosen)
    return splits["train"].select_columns(["image"]), splits.get("validation"), knn_bank, {}


def stream(data_args, args):
    """The same, of shards that are read as they are needed."""
    if args.knn_images:
        raise ValueError("knn_images needs labels, which --streaming doesn't read")
    train, held_out, epoch_samples = data_args.load_stream()
    args.dataloader_persistent_workers = (
        args.dataloader_num_workers > 0
    )  # a stream goes on where an epoch ends
    options = {"epoch_samples": epoch_samples, "shuffle_buffer": data_args.shuffle_buffer}
    return train, held_out, None, {"draws_class": ImageStream, **options}


def describe(model_args, trainer):
    encoder, total = parameter_counts(trainer.model)
    config = trainer.model.config
    return (
        f"{total / 1e6:.2f} M parameters, {encoder / 1e6:.2f} M in the encoder; "
        f"{config.num_patches} patches an image, "
        f"{config.mask_ratio:.0%} hidden{', norm_pix_loss' * config.norm_pix_loss}"
    )


def finish(trainer, model_args, data_args, given, metrics):
    losses = held_out_losses(metrics)
    facts = {"results": losses, "knn_accuracy": metrics.get("eval_knn_accuracy")}
    write_output_folder(trainer, data_args, given, PreTrainingCard, "run_mae.py", **facts)
    places = {"reconstructions": Path(trainer.args.output_dir) / PANEL_FILE} if losses else {}
    print(closing(trainer, result_lines(losses, metrics), **places))


def held_out_losses(metrics):
    """Predictor → loss, of the model and the baselines."""
    names = {
        "this model": "eval_loss",
        "mean of the visible patches": "eval_loss_visible_mean",
        "best constant patch per image": "eval_loss_best_constant",
    }
    return {name: metrics[key] for name, key in names.items()} if metrics else {}


def result_lines(losses, metrics):
    """Losses beside the baselines, and the k-NN accuracy if there is one."""
    if not losses:
        return []
    best_constant = losses["best constant patch per image"]
    lines = [
        f"{'predictor of the hidden patches':34} {'held-out loss':>13} {'of best constant':>17}"
    ]
    lines += [
        f"  {name:32} {loss:13.4f} {loss / best_constant:17.2f}" for name, loss in losses.items()
    ]
    if "eval_knn_accuracy" in metrics:
        lines.append(f"{'k-NN accuracy of the features':34} {metrics['eval_knn_accuracy']:13.2%}")
    return lines


if __name__ == "__main__":
    main()
