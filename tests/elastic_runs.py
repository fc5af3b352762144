"""Trains what a file of jobs says, one after another, by as many processes as it is started in.

    elastic_runs.py JOBS.json

A job is {"name", "kind", "folder"} and perhaps "arguments", "fields" (of the configuration),
"sharded" (a state_dict_type of FSDP2, which then runs on the CPU) and "poisoned". Process 0 prints
a line of JSON a job: [name, report]. The total batch is 32, however it is spread.
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from helpers import QUIET, TINY

from hf_mae import MAEConfig, MAEForImageClassification, MAEForPreTraining, MAEImageProcessor
from hf_mae.data.samples import ImageSamples
from hf_mae.data.sources import load_image_dataset
from hf_mae.data.transforms import (
    CenterCropTransform,
    FineTuningTransform,
    LinearProbeTransform,
    PretrainingTransform,
)
from hf_mae.training import resume_point
from hf_mae.training.arguments import (
    FineTuningArguments,
    LinearProbeArguments,
    MAETrainingArguments,
)
from hf_mae.training.classification import FineTuningTrainer, LinearProbeTrainer
from hf_mae.training.pretraining import MAETrainer


TOTAL_BATCH = 32
EVERYTHING = {
    "pretrain": {"crops_per_image": 2, "resolution_schedule": "0:16,0.5:32"},
    "finetune": {"class_weights": "balanced", "random_erasing": 0.5, "base_learning_rate": 4e-3},
    "probe": {"class_sampling": "balanced", "learning_rate": 1.0},
    "cached": {"cache_features": True, "learning_rate": 1.0},
}
CLASSES = {
    "pretrain": (MAETrainer, MAETrainingArguments),
    "finetune": (FineTuningTrainer, FineTuningArguments),
    "probe": (LinearProbeTrainer, LinearProbeArguments),
    "cached": (LinearProbeTrainer, LinearProbeArguments),
}
PROBE = {"pooling": "cls", "head_batch_norm": True}


class PoisonedTrainer(MAETrainer):
    """Its third update's loss is NaN, on the last process alone."""

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        is_last = self.args.process_index == self.args.world_size - 1
        return loss * float("nan") if self.state.global_step == 2 and is_last else loss


def make_args(job):
    kind = job["kind"]
    args_class = CLASSES[kind][1]
    accumulation = job.get("arguments", {}).get("gradient_accumulation_steps", 1)
    batch_size = TOTAL_BATCH // (int(os.environ.get("WORLD_SIZE", 1)) * accumulation)
    arguments = {**QUIET, **EVERYTHING[kind], "per_device_train_batch_size": batch_size}
    arguments |= job.get("arguments", {})
    if "sharded" in job:
        arguments["fsdp"] = True
        arguments["fsdp_config"] = {"state_dict_type": job["sharded"]}
    args = args_class(output_dir=job["folder"], **arguments)
    if "sharded" in job:  # accelerate shards on accelerators only; gloo can do it as well
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_HPU
    return args


def make_model(job):
    fields = {**TINY, "num_channels": 1, "num_labels": 10, "drop_path_rate": 0.3}
    fields |= job.get("fields", {})
    torch.manual_seed(0)
    if job["kind"] == "pretrain":
        return MAEForPreTraining(MAEConfig(**fields, norm_pix_loss=True))
    if job["kind"] == "finetune":
        return MAEForImageClassification(MAEConfig(**fields))
    return MAEForImageClassification(MAEConfig(**fields, **PROBE)).freeze_encoder()


def make_transform(kind, config, args):
    if kind == "finetune":
        return FineTuningTransform(config, args.auto_augment, args.random_erasing)
    classes = {"pretrain": PretrainingTransform, "probe": LinearProbeTransform}
    return classes.get(kind, CenterCropTransform)(config)


def make_trainer(job, images):
    kind, args, model = job["kind"], make_args(job), make_model(job)
    trainer_class = PoisonedTrainer if job.get("poisoned") else CLASSES[kind][0]
    transform = make_transform(kind, model.config, args)
    options = {"crops_per_image": getattr(args, "crops_per_image", 1)}
    train = ImageSamples(images["train"], transform, 1, args.seed, **options)
    held_out = None
    if kind != "pretrain":
        center_crop = CenterCropTransform(model.config)
        held_out = ImageSamples(images["validation"], center_crop, 1, args.seed)
    processor = MAEImageProcessor.from_model_config(model.config)
    return trainer_class(model, args, train, held_out, processor)


def train(job, images):
    trainer = make_trainer(job, images)
    checkpoint = resume_point(trainer.args)
    try:
        trainer.check_resume(checkpoint)
    except ValueError as error:
        return {"refused": str(error)}
    trainer.train(checkpoint)
    trainer.save_model()
    history = trainer.state.log_history
    report = {
        "losses": [entry["loss"] for entry in history if "loss" in entry],
        "steps": trainer.state.global_step,
        "skipped": trainer.nonfinite.skipped,
        "sharded": trainer.state_dict_type,
    }
    if trainer.eval_dataset is not None:
        report["eval_loss"] = trainer.evaluate()["eval_loss"]
    return report


def main():
    images = load_image_dataset("digits", train_val_split=0.1, labels=True)
    images["train"] = images["train"].select(range(80))  # 2 updates an epoch, and some are left
    images["validation"] = images["validation"].select(range(30))
    for job in json.loads(Path(sys.argv[1]).read_text()):
        report = train(job, images)
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps([job["name"], report]), flush=True)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    os._exit(0)  # the tear-down of gloo's threads at exit can abort


if __name__ == "__main__":
    main()
