"""Trains a linear classifier on the features of a frozen Masked Autoencoder.

    accelerate launch scripts/run_linear_probe.py [RECIPE.yaml] --model_name_or_path DIR_OR_ID \\
        --dataset_name NAME | --train_dir DIR [--flag value …]

`--cache_features` encodes each image once and takes minutes. `--help` lists every flag; a recipe's keys are the flags'
names, and flags override it. Without a model an encoder with random weights is probed (`--size` or `--config_name`).
"""

from hf_mae import MAEImageProcessor
from hf_mae.arguments import DataArguments, LinearProbeModelArguments
from hf_mae.data import ImageDraws
from hf_mae.runs import describe_classifier, finish_classifier, load_classification, run
from hf_mae.trainer import LinearProbeTrainer
from hf_mae.training_arguments import LinearProbeArguments
from hf_mae.transforms import CentreCropTransform, LinearProbeTransform


def main():
    types = (LinearProbeModelArguments, DataArguments, LinearProbeArguments)
    run("run_linear_probe.py", "Probing a frozen encoder", types, prepare, describe_classifier, finish)


def prepare(model_args, data_args, args):
    """Loads images and model; returns the trainer."""
    splits, model = load_classification(model_args, data_args, args)
    transform = CentreCropTransform if args.cache_features else LinearProbeTransform
    transforms = {"train": transform(model.config), "validation": CentreCropTransform(model.config)}
    draws = {
        split: ImageDraws(images, transforms[split], model.config.num_channels, args.seed, data_args.on_bad_image)
        for split, images in splits.items()
    }
    trainer = LinearProbeTrainer(
        model,
        args,
        train_dataset=draws["train"],
        eval_dataset=draws.get("validation"),
        processing_class=MAEImageProcessor.from_model_config(model.config),
    )
    _ = trainer.planned_updates  # raises if there is none
    return trainer


def finish(trainer, model_args, data_args, given, metrics):
    """The result says what the head was trained on, for the two give different numbers."""
    if trainer.args.cache_features:
        method = "A linear head was trained on cached features of each image's centre crop, the encoder frozen."
    else:
        method = "A linear head was trained on random crops and flips, the encoder frozen (linear probe)."
    finish_classifier(trainer, model_args, data_args, given, metrics, "run_linear_probe.py", method)


if __name__ == "__main__":
    main()
