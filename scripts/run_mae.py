"""Pre-trains a Masked Autoencoder.

    accelerate launch scripts/run_mae.py [RECIPE.yaml] --dataset_name NAME | --train_dir DIR [--flag value …]

`--help` lists every flag; a recipe's keys are the flags' names, and flags override it.
"""

import statistics
import sys
from pathlib import Path

from transformers import set_seed

from hf_mae import MAEImageProcessor
from hf_mae.arguments import DataArguments, MAETrainingArguments, ModelArguments, parse_recipe_and_flags, save_recipe
from hf_mae.data import BadImageError, HeldOutTransform, ImageDraws, PretrainingTransform, load_image_dataset
from hf_mae.hub import TrainingCard, hardware
from hf_mae.optimization import scaled_learning_rate
from hf_mae.trainer import PANEL_FILE, MAETrainer, NonFiniteLossError, resume_point


def main():
    model_args, data_args, args, given = parse_recipe_and_flags((ModelArguments, DataArguments, MAETrainingArguments))
    try:
        checkpoint = resume_point(args)
        trainer = prepare(model_args, data_args, args)
    except (ValueError, OSError) as error:
        sys.exit(f"run_mae.py: error: {error}")
    if trainer.is_world_process_zero():
        print(plan(trainer, data_args, checkpoint), flush=True)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()  # before anything else can go wrong
        metrics = held_out_metrics(trainer)
        trainer.save_state()
    except (BadImageError, NonFiniteLossError) as error:
        sys.exit(f"run_mae.py: error: {error}")
    if trainer.is_world_process_zero():
        write_papers(trainer, data_args, given, metrics)
        print(closing_table(trainer, metrics))
    trainer.accelerator.wait_for_everyone()  # a process that leaves early takes the others' connections with it
    trainer.accelerator.end_training()


def prepare(model_args, data_args, args):
    """Loads images and model; returns the trainer."""
    set_seed(args.seed)
    sources = {name: value for name, value in vars(data_args).items() if name != "on_bad_image"}
    with args.main_process_first(desc="loading the data set"):
        splits = load_image_dataset(**sources, seed=args.seed)
    model = model_args.build_model()
    draws = {
        split: ImageDraws(images, transform(model.config), model.config.num_channels, args.seed, data_args.on_bad_image)
        for (split, images), transform in zip(splits.items(), (PretrainingTransform, HeldOutTransform))
    }
    if "validation" not in draws:
        args.eval_strategy = "no"
    trainer = MAETrainer(
        model,
        args,
        train_dataset=draws["train"],
        eval_dataset=draws.get("validation"),
        processing_class=MAEImageProcessor.from_model_config(model.config),
    )
    _ = trainer.planned_updates  # raises if there is none
    return trainer


def plan(trainer, data_args, checkpoint):
    """What is about to be done, in lines."""
    args, config = trainer.args, trainer.model.config
    encoder, total = parameter_counts(trainer.model)
    held_out = len(trainer.eval_dataset) if trainer.eval_dataset else 0
    steps, per_epoch = trainer.planned_updates, trainer.updates_per_epoch
    scaled = args.learning_rate == scaled_learning_rate(args.base_learning_rate, args.total_batch_size)
    base = f" ({args.base_learning_rate:g} * {args.total_batch_size} / 256)" if scaled else ""
    rows = {
        "model": f"{total / 1e6:.2f} M parameters, {encoder / 1e6:.2f} M in the encoder; {config.num_patches} patches an "
        f"image, {config.mask_ratio:.0%} hidden{', norm_pix_loss' * config.norm_pix_loss}",
        "data": f"{len(trainer.train_dataset):,} training images, {held_out:,} held out ({source_name(data_args)})",
        "batch": f"{args.total_batch_size:,} = {args.train_batch_size} a process * "
        f"{args.world_size} process{'es' * (args.world_size > 1)} * {args.gradient_accumulation_steps} accumulated",
        "lr": f"{args.learning_rate:g}{base}, {args.warmup_epochs:g} epochs of warm-up, cosine to "
        f"{args.min_learning_rate:g}",
        "steps": f"{steps:,} ({steps / per_epoch:.4g} epochs of {per_epoch:,})",
        "device": f"{hardware(args.device, args.world_size)}, {'bf16' if args.bf16 else 'fp16' if args.fp16 else 'fp32'}",
        "output": args.output_dir + (f", resuming {Path(checkpoint).name}" if checkpoint else ""),
    }
    return "\n".join(["Pre-training a masked autoencoder", *(f"  {name:7} {text}" for name, text in rows.items()), ""])


def parameter_counts(model):
    """Parameters and position tables of the encoder and in all."""
    return tuple(sum(tensor.numel() for tensor in module.state_dict().values()) for module in (model.vit, model))


def source_name(data_args):
    return data_args.dataset_name or Path(data_args.train_dir).name


def held_out_metrics(trainer):
    """Losses of the finished model on held-out images, from the last evaluation if that was at the end."""
    if trainer.eval_dataset is None:
        return {}
    last = next((entry for entry in reversed(trainer.state.log_history) if "eval_loss" in entry), {})
    current = last.get("step") == trainer.state.global_step and not trainer.args.load_best_model_at_end
    metrics = last if current else trainer.evaluate()
    return {
        "this model": metrics["eval_loss"],
        "mean of the visible patches": metrics["eval_loss_visible_mean"],
        "best constant patch per image": metrics["eval_loss_best_constant"],
    }


def write_papers(trainer, data_args, given, metrics):
    """arguments.yaml, which repeats the run, and the model card."""
    args, folder = trainer.args, Path(trainer.args.output_dir)
    save_recipe(given, folder / "arguments.yaml")
    card = TrainingCard(
        folder=folder.resolve().name,
        dataset=source_name(data_args),
        config=trainer.model.config,
        num_parameters=parameter_counts(trainer.model),
        num_train_images=len(trainer.train_dataset),
        num_held_out_images=len(trainer.eval_dataset) if trainer.eval_dataset else 0,
        epochs=round(trainer.state.epoch, 2),
        steps=trainer.state.global_step,
        total_batch_size=args.total_batch_size,
        learning_rate=args.learning_rate,
        hardware=hardware(args.device, args.world_size),
        command="accelerate launch scripts/run_mae.py arguments.yaml --output_dir runs/again",
        results=metrics,
    )
    card.render().save(folder / "README.md")


def closing_table(trainer, metrics):
    """The result in lines: losses beside the baselines, speed, and where things lie."""
    folder, best_constant = Path(trainer.args.output_dir), metrics.get("best constant patch per image")
    lines = [f"{'predictor of the hidden patches':34} {'held-out loss':>13} {'of best constant':>17}"] if metrics else []
    lines += [f"  {name:32} {loss:13.4f} {loss / best_constant:17.2f}" for name, loss in metrics.items()]
    speeds = [entry["images_per_second"] for entry in trainer.state.log_history if "images_per_second" in entry]
    if speeds:
        lines.append(f"{'images/s (median)':34} {statistics.median(speeds):13,.0f}")
    places = {"model, card, arguments": folder, "curves": f"tensorboard --logdir {folder}"}
    if metrics:
        places["reconstructions"] = folder / PANEL_FILE
    return "\n".join(["", *lines, *(f"{name:34} {place}" for name, place in places.items())])


if __name__ == "__main__":
    main()
