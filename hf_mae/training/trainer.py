# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The common part of our Trainers: exact draws, schedule, guards against bad images and losses."""

import dataclasses
import json
import math
import time
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from ..data.labels import own_labels
from ..data.samples import EpochSampler, collate
from ..data.streaming import ImageStream, StreamPlan, StreamSampler
from ..errors import BadImageError
from ..models.costs import peak_memory
from ..models.image_processing_mae import normalize_images
from ..output_folder import BAD_IMAGES_FILE, STREAM_FILE
from .nonfinite import NonFiniteGuard
from .optimization import parameter_groups, warmup_cosine


MAX_BAD_SHARE = 0.01


class _StepCallback(TrainerCallback):
    """Tells the sampler its epoch, and the guard of each update before the optimizer makes it."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        counts = (
            entry["nonfinite_skipped"]
            for entry in reversed(state.log_history)
            if "nonfinite_skipped" in entry
        )
        self.trainer.nonfinite.skipped = next(counts, 0)  # of the run that is resumed

    def on_epoch_begin(self, args, state, control, **kwargs):
        # from the count of updates, for accelerate's set_epoch doesn't reach a sampler below two
        # wrappers (a resumed run on several processes), and state.epoch is a fraction
        self.trainer.epoch_sampler.epoch = state.global_step // self.trainer.updates_per_epoch

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.trainer.nonfinite.before_update(state.global_step + 1, model, self.trainer.optimizer)

    def on_step_end(self, args, state, control, **kwargs):
        # with each save a line of the log, so that the mean of the next line doesn't reach back
        # across a resume
        control.should_log |= control.should_save
        if control.should_log or control.should_evaluate or control.should_training_stop:
            self.trainer.nonfinite.wait_for_verdict()

    on_epoch_end = on_step_end

    def on_train_end(self, args, state, control, **kwargs):
        self.trainer.nonfinite.wait_for_verdict()


class ImageTrainer(Trainer):
    """transformers' Trainer on `ImageSamples`: what pre-training, fine-tuning and probing have in
    common.

    - lr from `base_learning_rate`, warm-up and cosine a step;
    - order and all that happens to an image follow from (seed, epoch, index): any number of
      processes and workers sees the same, and a run that was killed goes on as if it hadn't been;
    - an epoch is as many whole batches (over processes and accumulation) as the data set has;
    - a loss that is not finite never reaches the weights;
    - images that can't be decoded are listed in `bad_images.tsv`; more than 1 % of a data set is an
      error.

    Args:
        model: One of ours.
        args: `ImageTrainingArguments`.
        train_dataset, eval_dataset: `ImageSamples`.
        processing_class: `MAEImageProcessor`; its mean and deviation normalise the batches, on the
            device.
    """

    # the loss is a mean over the batch: the Trainer has to divide it by the accumulation steps
    loss_is_scaled_for_ga = False

    eval_metrics = ("loss",)  # what `metric_for_best_model` can name

    def __init__(
        self, model, args, train_dataset=None, eval_dataset=None, processing_class=None, **kwargs
    ):
        kwargs.setdefault("data_collator", collate)
        super().__init__(
            model,
            args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        best = (args.metric_for_best_model or "loss").removeprefix("eval_")
        if best not in self.eval_metrics:  # transformers finds out at the first evaluation
            raise ValueError(
                f"metric_for_best_model is {best!r}; it must be one of "
                f"{', '.join(self.eval_metrics)}"
            )
        self.add_callback(_StepCallback(self))
        self.epoch_sampler = None
        self.nonfinite = NonFiniteGuard(args, self.accelerator)
        self._bad_images, self._unreported_bad_images = {}, []
        self._images, self._clock, self._time_evaluating = 0, time.perf_counter(), 0.0

    # data ----------------------------------------------------------------------------------------

    @property
    def updates_per_epoch(self):
        """Optimizer updates an epoch: whole total batches only."""
        total, there = self.args.total_batch_size, len(self.train_dataset)
        whole = 1
        if isinstance(self.train_dataset, ImageStream):  # as many batches for each worker
            workers = max(1, self.args.dataloader_num_workers)
            whole = workers // math.gcd(workers, self.args.gradient_accumulation_steps)
        if there < total * whole:
            raise ValueError(
                f"there are {there:,} training images and the total batch is {total:,}; take a "
                "smaller "
                "per_device_train_batch_size or gradient_accumulation_steps"
                + ", or fewer workers: their number has to divide an epoch's "
                f"{there // total} batches" * (whole > 1)
            )
        return there // total // whole * whole

    @property
    def planned_updates(self):
        """Optimizer updates of the whole run.

        Raises:
            ValueError: there is no whole batch, or the warm-up would be longer than the run.
        """
        args, per_epoch = self.args, self.updates_per_epoch
        planned = (
            args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
        )
        if args.warmup_epochs * per_epoch >= planned:
            raise ValueError(
                f"warmup_epochs is {args.warmup_epochs:g}, which is "
                f"{args.warmup_epochs * per_epoch:,.0f} updates, and the "
                f"whole run has {planned:,}; take a shorter warm-up"
            )
        return planned

    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        num_samples = self.updates_per_epoch * self.args.total_batch_size
        if isinstance(dataset, ImageStream):
            dataset.plan = self.stream_plan
            self.epoch_sampler = StreamSampler(num_samples)
            return self.epoch_sampler
        self.epoch_sampler = EpochSampler(
            len(dataset), self.args.seed, num_samples, dataset.crops_per_image
        )
        return self.epoch_sampler

    @property
    def stream_plan(self):
        """`StreamPlan` of this run, if it streams."""
        args = self.args
        batches = self.updates_per_epoch * args.gradient_accumulation_steps * args.world_size
        return StreamPlan(
            args.train_batch_size, batches, args.world_size, args.dataloader_num_workers
        )

    @property
    def _stream_facts(self):
        """What decides which rows a batch of the stream has."""
        images = self.train_dataset
        own = {
            name: getattr(images, name) for name in ("seed", "shuffle_buffer", "crops_per_image")
        }
        return {
            **dataclasses.asdict(self.stream_plan),
            **own,
            "num_shards": images.dataset.num_shards,
        }

    def check_resume(self, checkpoint):
        """Takes from a checkpoint what is known of the shards.

        Raises:
            ValueError: the run that is to be resumed read other images, or the same ones otherwise.
        """
        streams, path = (
            isinstance(self.train_dataset, ImageStream),
            checkpoint and Path(checkpoint, STREAM_FILE),
        )
        if not checkpoint or not (streams or path.is_file()):
            return
        if not streams or not path.is_file():
            raise ValueError(
                f"{checkpoint} is of a run with{'out' * streams} --streaming; it can't be resumed "
                "otherwise"
            )
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            facts, rows = (
                kept["facts"],
                {int(shard): int(count) for shard, count in kept["shard_rows"].items()},
            )
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged; resume an earlier checkpoint") from error
        now = self._stream_facts
        changed = [
            f"{name} is {now[name]}, and was {facts.get(name)}"
            for name in now
            if now[name] != facts.get(name)
        ]
        if changed:
            raise ValueError(f"a stream can't be resumed so: {', '.join(changed)}")
        self.train_dataset.shard_rows = rows

    def _save_checkpoint(self, model, trial):
        if isinstance(self.train_dataset, ImageStream):
            rows = dict(gather_object(list(self.train_dataset.shard_rows.items())))
            if self.is_world_process_zero():
                folder = Path(
                    self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
                )
                folder.mkdir(parents=True, exist_ok=True)
                text = json.dumps({"facts": self._stream_facts, "shard_rows": rows})
                (folder / STREAM_FILE).write_text(text, encoding="utf-8")
        super()._save_checkpoint(model, trial)

    def _prepare_inputs(self, inputs):
        inputs = super()._prepare_inputs(inputs)
        if "pixel_values" in inputs and inputs["pixel_values"].dtype == torch.uint8:
            processor = self.processing_class
            pixels = normalize_images(
                inputs["pixel_values"], processor.image_mean, processor.image_std
            )
            inputs = {**inputs, "pixel_values": pixels}
        return inputs

    def _take_notes(self, inputs, split):
        """Keeps what is in a batch beside the model's inputs; returns the sample numbers (B,)."""
        self._unreported_bad_images += [(split, *bad) for bad in inputs.pop("bad_images")]
        if "read_shards" in inputs:
            self.train_dataset.shard_rows.update(inputs.pop("read_shards"))
        return inputs.pop("index")

    # optimizer and schedule ----------------------------------------------------------------------

    def parameter_groups(self, model):
        """What the optimizer gets: the trainable parameters in groups, each with its options."""
        return parameter_groups(model, self.args.weight_decay)

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            groups = self.parameter_groups(model or self.model)
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class(groups, **kwargs)
        return self.optimizer

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self.lr_scheduler is None:
            args, steps, num_training_steps = (
                self.args,
                self.updates_per_epoch,
                self.planned_updates,
            )
            min_ratio = args.min_learning_rate / args.learning_rate

            def share_of_peak(step):
                return warmup_cosine(
                    step, steps, num_training_steps / steps, args.warmup_epochs, min_ratio
                )

            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, share_of_peak)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # training ------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint=None, **kwargs):
        self._clock, self._resumed_from_step = time.perf_counter(), 0
        if not resume_from_checkpoint:
            if self.is_world_process_zero():
                (Path(self.args.output_dir) / BAD_IMAGES_FILE).unlink(missing_ok=True)
            return super().train(**kwargs)
        state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / TRAINER_STATE_NAME))
        if state.global_step >= self.planned_updates:
            # the run was over: transformers would make one more update
            best = state.best_model_checkpoint if self.args.load_best_model_at_end else None
            self._load_from_checkpoint(
                best if best and Path(best).is_dir() else str(resume_from_checkpoint)
            )
            self.state = state
            return TrainOutput(state.global_step, float("nan"), {})
        self._resumed_from_step = state.global_step
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None):
        indices = self._take_notes(inputs, "train")
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._images += self.args.train_batch_size * self.args.world_size
        return self.nonfinite.record_loss(loss, indices)

    def floating_point_ops(self, inputs):
        return 0  # transformers takes every pixel for a token; no figure is better than that

    def log(self, logs, start_time=None):
        if "loss" in logs:
            elapsed = time.perf_counter() - self._clock - self._time_evaluating
            logs["samples"] = self.state.global_step * self.args.total_batch_size
            logs["images_per_second"] = round(self._images / elapsed, 1)
            logs["peak_memory_gib"] = round(peak_memory(self.args.device) / 2**30, 3)
            if self.nonfinite.skipped:
                logs["nonfinite_skipped"] = self.nonfinite.skipped
            self._images, self._clock, self._time_evaluating = 0, time.perf_counter(), 0.0
        if "train_runtime" in logs and self._resumed_from_step:
            logs["resumed_from_step"] = self._resumed_from_step  # what the time is counted from
        super().log(logs, start_time)
        self._report_bad_images()

    def evaluate(self, *args, **kwargs):
        start = time.perf_counter()
        with torch.random.fork_rng(
            devices=[]
        ):  # data loaders draw from it, and so would change what drop path drops
            metrics = super().evaluate(*args, **kwargs)
        self._time_evaluating += time.perf_counter() - start
        return metrics

    @torch.no_grad()
    def encode(self, draws, split):
        """Features of every image of `ImageSamples`, on each process.

        Returns:
            features (N, D) and labels (N,), in order, on the CPU; the label of an image that can't
            be decoded is -100.
        """
        features, labels = [], []
        loader = self.get_test_dataloader(draws)
        self.model.eval()
        for inputs in tqdm(loader, desc=f"encoding {split} images", disable=self.args.disable_tqdm):
            inputs["labels"] = own_labels(inputs)
            self._take_notes(inputs, split)
            inputs = self._prepare_inputs(inputs)
            with self.accelerator.autocast():
                pooled = self.model.vit(inputs["pixel_values"]).pooler_output
            pair = self.accelerator.gather_for_metrics((pooled.float(), inputs["labels"]))
            for whole, part in zip((features, labels), pair):
                whole.append(part.cpu())
        return torch.cat(features), torch.cat(labels)

    def _report_bad_images(self):
        """Lists new bad images in a file and stops at more than 1 % of a data set."""
        fresh = gather_object(self._unreported_bad_images)
        self._unreported_bad_images = []
        lines = []
        for split, index, path, error in fresh:
            if (split, index) not in self._bad_images:
                self._bad_images[split, index] = path
                lines.append(f"{split}\t{index}\t{path}\t{error}\n")
        file = Path(self.args.output_dir) / BAD_IMAGES_FILE
        if lines and self.is_world_process_zero():
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a+", encoding="utf-8") as stream:
                stream.seek(0)
                known = set(stream)  # by the run that is resumed
                stream.writelines(line for line in lines if line not in known)
        for split, dataset in (("train", self.train_dataset), ("validation", self.eval_dataset)):
            bad = [path for (s, _), path in self._bad_images.items() if s == split]
            if bad and len(bad) > MAX_BAD_SHARE * len(dataset):
                raise BadImageError(
                    f"{len(bad)} of {len(dataset):,} {split} images can't be decoded, which is "
                    "more than "
                    f"{MAX_BAD_SHARE:.0%}; {file} lists them. Repair them and resume, or start "
                    "again without them"
                )
