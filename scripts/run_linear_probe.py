"""Trains a linear classifier on the features of a frozen Masked Autoencoder.

    accelerate launch scripts/run_linear_probe.py [RECIPE.yaml] --model_name_or_path DIR_OR_ID \\
        --dataset_name NAME | --train_dir DIR [--flag value …]

`--cache_features` encodes each image once and takes minutes. `--help` lists every flag; a recipe's
keys are the flags' names, and flags override it. Without a model an encoder with random weights is
probed (`--size` or `--config_name`).
"""

from hf_mae.data.transforms import CenterCropTransform, LinearProbeTransform
from hf_mae.training.arguments import LinearProbeArguments
from hf_mae.training.classification import LinearProbeTrainer
from hf_mae.training.run import describe_classifier, finish_classifier, prepare_classifier, run
from hf_mae.training.script_arguments import DataArguments, LinearProbeModelArguments


def main():
    types = (LinearProbeModelArguments, DataArguments, LinearProbeArguments)
    run(
        "run_linear_probe.py",
        "Probing a frozen encoder",
        types,
        prepare,
        describe_classifier,
        finish,
    )


def prepare(model_args, data_args, args):
    """Loads images and model; returns the trainer."""
    train_transform = CenterCropTransform if args.cache_features else LinearProbeTransform
    return prepare_classifier(model_args, data_args, args, LinearProbeTrainer, train_transform)


def finish(trainer, model_args, data_args, given, metrics):
    """The result says what the head was trained on, for the two give different numbers."""
    if trainer.args.cache_features:
        method = (
            "A linear head was trained on cached features of each image's center crop, the "
            "encoder frozen."
        )
    else:
        method = (
            "A linear head was trained on random crops and flips, the encoder frozen (linear "
            "probe)."
        )
    finish_classifier(trainer, model_args, data_args, given, metrics, "run_linear_probe.py", method)


if __name__ == "__main__":
    main()
