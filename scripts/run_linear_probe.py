"""Trains a linear classifier on the features of a frozen Masked Autoencoder.

    accelerate launch scripts/run_linear_probe.py [RECIPE.yaml] --model_name_or_path DIR_OR_ID \\
        --dataset_name NAME | --train_dir DIR [--flag value …]

Labels are as for run_finetune.py. `--cache_features` encodes each image once and takes minutes.
`--help` lists the flags, `--help_all` every one; a recipe's keys are the flags' names, and flags
override it. Without a model an encoder with random weights is probed (`--size` or `--config_name`).
"""

from early_help import answer_help, start


if __name__ == "__main__":
    answer_help(__file__)

from datasets import DatasetDict
from transformers import set_seed

from hf_mae import (
    CenterCropTransform,
    ImageSamples,
    LinearProbeArguments,
    LinearProbeTrainer,
    LinearProbeTransform,
    MAEForImageClassification,
    MAEImageProcessor,
)
from hf_mae.errors import TRAINING_ERRORS, reported_as
from hf_mae.hub.cards import ClassifierCard
from hf_mae.training import (
    DataArguments,
    LinearProbeModelArguments,
    describe_classifier,
    describe_kept,
    describe_method,
    describe_trained,
    find_doubts,
    find_verdict,
    leave_together,
    load_labelled_images,
    parse_recipe_and_flags,
    print_plan,
    print_results,
    resume_point,
    select_results,
    train_and_evaluate,
    write_output_folder,
)
from hf_mae.training.world_size import check_world_size


SCRIPT = "run_linear_probe.py"
# the result says what the head was trained on, for the two give different numbers
METHOD = "A linear head was trained on random crops and flips, the encoder frozen (linear probe)."
METHOD_CACHED = (
    "A linear head was trained on cached features of each image's center crop, the encoder frozen."
)


def main() -> None:
    model_args, data_args, args, explicit_args = parse_recipe_and_flags(
        (LinearProbeModelArguments, DataArguments, LinearProbeArguments), description=__doc__ or ""
    )
    with reported_as(SCRIPT):
        check_world_size(args.world_size)
        checkpoint = resume_point(args)
        set_seed(args.seed)
        images = load_labelled_images(data_args, args)
        problem_type, class_names = data_args.describe_labels(images)
        model = model_args.build_model(class_names, problem_type)
        processor = model_args.build_processor(model.config)
        about_values = model_args.fit_value_range(
            processor, images["train"], images.get("validation"), data_args.max_image_pixels
        )
        trainer = build_trainer(model, processor, images, data_args, args)
        trainer.check_resume(checkpoint)
        about_model = describe_classifier(model, model_args)
        print_plan(
            "Probing a frozen encoder", about_model, trainer, data_args, about_values, checkpoint
        )

    with reported_as(SCRIPT, TRAINING_ERRORS, lambda: describe_kept(trainer)):
        metrics = train_and_evaluate(trainer, checkpoint)

    with reported_as(SCRIPT, TRAINING_ERRORS, lambda: describe_trained(trainer)):
        if trainer.is_world_process_zero():
            method = describe_method(METHOD_CACHED if args.cache_features else METHOD, args)
            results = select_results(metrics)
            doubts = find_doubts(trainer, results)
            facts = {"results": results, "doubts": doubts, "method": method}
            facts["verdict"] = find_verdict(trainer, results)
            facts |= {"started_from": model_args.started_from, "base_model": model_args.hub_id}
            facts |= {"label_columns": data_args.label_column or []}
            write_output_folder(trainer, data_args, explicit_args, ClassifierCard, SCRIPT, **facts)
            print_results(trainer, data_args, results, facts)
        leave_together(trainer)


def build_trainer(
    model: MAEForImageClassification,
    processor: MAEImageProcessor,
    images: DatasetDict,
    data_args: DataArguments,
    args: LinearProbeArguments,
) -> LinearProbeTrainer:
    config = model.config
    options = {
        "num_channels": config.num_channels,
        "seed": args.seed,
        "on_bad_image": data_args.on_bad_image,
        "max_image_pixels": data_args.max_image_pixels,
    }
    center_crop = CenterCropTransform(config, processor)
    transform = center_crop if args.cache_features else LinearProbeTransform(config, processor)
    train_dataset = ImageSamples(images["train"], transform, **options)
    eval_dataset = None
    if "validation" in images:
        eval_dataset = ImageSamples(images["validation"], center_crop, **options)
    return LinearProbeTrainer(
        model,
        args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processor,
    )


if __name__ == "__main__":
    start(main)
