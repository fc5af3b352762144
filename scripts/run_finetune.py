"""Fine-tunes a Masked Autoencoder's encoder, and a new head, to classify images.

    accelerate launch scripts/run_finetune.py [RECIPE.yaml] --model_name_or_path DIR_OR_ID \\
        --dataset_name NAME | --train_dir DIR [--flag value …]

A folder of images has a folder for each class. A column of a data set that holds lists, or several
columns of 0 and 1 (`--label_column cat dog hen`), are several labels an image, each predicted by
itself; a column of floats is a value to predict. `--help` lists the flags, `--help_all` every one;
a recipe's keys are the flags' names, and flags override it. Without a model the network is trained
from scratch (`--size` or `--config_name`).
"""

from early_help import answer_help, start


if __name__ == "__main__":
    answer_help(__file__)

from datasets import DatasetDict
from transformers import set_seed

from hf_mae import (
    CenterCropTransform,
    FineTuningArguments,
    FineTuningTrainer,
    FineTuningTransform,
    ImageSamples,
    MAEForImageClassification,
    MAEImageProcessor,
)
from hf_mae.errors import TRAINING_ERRORS, reported_as
from hf_mae.hub.cards import ClassifierCard
from hf_mae.training import (
    DataArguments,
    FineTuningModelArguments,
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


SCRIPT = "run_finetune.py"
METHOD = "It was trained whole (fine-tuning)."


def main() -> None:
    model_args, data_args, args, explicit_args = parse_recipe_and_flags(
        (FineTuningModelArguments, DataArguments, FineTuningArguments), description=__doc__ or ""
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
            "Fine-tuning a classifier", about_model, trainer, data_args, about_values, checkpoint
        )

    with reported_as(SCRIPT, TRAINING_ERRORS, lambda: describe_kept(trainer)):
        metrics = train_and_evaluate(trainer, checkpoint)

    with reported_as(SCRIPT, TRAINING_ERRORS, lambda: describe_trained(trainer)):
        if trainer.is_world_process_zero():
            method = describe_method(METHOD, args)
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
    args: FineTuningArguments,
) -> FineTuningTrainer:
    config = model.config
    options = {
        "num_channels": config.num_channels,
        "seed": args.seed,
        "on_bad_image": data_args.on_bad_image,
        "max_image_pixels": data_args.max_image_pixels,
    }
    transform = FineTuningTransform(config, args.auto_augment, args.random_erasing, processor)
    train_dataset = ImageSamples(images["train"], transform, **options)
    eval_dataset = None
    if "validation" in images:
        center_crop = CenterCropTransform(config, processor)
        eval_dataset = ImageSamples(images["validation"], center_crop, **options)
    return FineTuningTrainer(
        model,
        args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processor,
    )


if __name__ == "__main__":
    start(main)
