"""Fine-tunes a Masked Autoencoder's encoder, and a new head, to classify images.

    accelerate launch scripts/run_finetune.py [RECIPE.yaml] --model_name_or_path DIR_OR_ID \\
        --dataset_name NAME | --train_dir DIR [--flag value …]

A folder of images has a folder for each class. `--help` lists every flag; a recipe's keys are the
flags' names, and flags override it. Without a model the network is trained from scratch (`--size`
or `--config_name`).
"""

from functools import partial

from hf_mae.data.transforms import FineTuningTransform
from hf_mae.training.arguments import FineTuningArguments
from hf_mae.training.classification import FineTuningTrainer
from hf_mae.training.run import describe_classifier, finish_classifier, prepare_classifier, run
from hf_mae.training.script_arguments import DataArguments, FineTuningModelArguments


def main():
    types = (FineTuningModelArguments, DataArguments, FineTuningArguments)
    finish = partial(
        finish_classifier, script="run_finetune.py", method="It was trained whole (fine-tuning)."
    )
    run("run_finetune.py", "Fine-tuning a classifier", types, prepare, describe_classifier, finish)


def prepare(model_args, data_args, args):
    """Loads images and model; returns the trainer."""

    def train_transform(config):
        return FineTuningTransform(config, args.auto_augment, args.random_erasing)

    return prepare_classifier(model_args, data_args, args, FineTuningTrainer, train_transform)


if __name__ == "__main__":
    main()
