# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What all our Trainers share: samples, schedule, guards against bad images and losses."""

import functools
import math
import operator
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader, Sampler
from tqdm import tqdm
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    TrainerCallback,
    TrainerState,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_callback import ProgressCallback as TransformersProgress
from transformers.trainer_utils import (
    EvalLoopOutput,
    PredictionOutput,
    TrainOutput,
)

from ..data.device_decoding import decode_crops
from ..data.labels import own_labels
from ..data.samples import Batch, BatchShape, Samples, collate
from ..errors import BadImageError
from ..file_names import one_line
from ..models.costs import peak_memory
from ..models.image_processing_mae import MAEImageProcessor, normalize_images
from ..output_folder import BAD_IMAGES_FILE, append_new_lines
from .arguments import ImageTrainingArguments
from .nonfinite import NonFiniteGuard
from .optimization import parameter_groups, warmup_cosine
from .progress import ProgressCallback, say_loss
from .resumable import ResumableTrainer
from .step_callback import StepCallback
from .stopping import StopRequest, start_worker


MAX_BAD_SHARE = 0.01


class ImageTrainer(ResumableTrainer):
    """transformers' Trainer on `Samples`: what pre-training, fine-tuning and probing share.

    - The learning rate comes from `base_learning_rate`, with a warm-up and a cosine by step.
    - Order and all that happens to an image follow from (seed, epoch, index): any number of
      processes and workers sees the same, and a run that was killed goes on as if it hadn't been.
    - An epoch is as many whole batches (over processes and accumulation) as the data set has.
    - A loss that is not finite never reaches the weights.
    - Images that can't be decoded are listed in `bad_images.tsv`; more than 1 % of a data set is an
      error.

    Args:
        model: One of ours; None with `model_init`.
        args: `ImageTrainingArguments`.
        train_dataset, eval_dataset: `ImageSamples`, or other `Samples`.
        processing_class: `MAEImageProcessor`; its mean and deviation normalise the batches, on the
            device.
        data_collator, compute_metrics, callbacks, optimizers, model_init: As for transformers'
            Trainer; `hyperparameter_search` needs `model_init`.

    Raises:
        ValueError: `metric_for_best_model` is none of the metrics.
    """

    # the loss is a mean over the batch: the Trainer has to divide it by the accumulation steps
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: PreTrainedModel | None,
        args: ImageTrainingArguments,
        train_dataset: Samples | None = None,
        eval_dataset: Samples | None = None,
        processing_class: MAEImageProcessor | None = None,
        data_collator: Callable[[list[Any]], Batch] = collate,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Optimizer | None, LambdaLR | None] = (None, None),
        model_init: Callable[..., PreTrainedModel] | None = None,
    ):
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            model_init=model_init,
        )
        self.check_arguments()
        self.add_callback(StepCallback(self))
        for callback in (PrinterCallback, TransformersProgress):  # notebooks have another
            if self.pop_callback(callback) is not None:
                self.add_callback(ProgressCallback(self))
        self.epoch_sampler: Any = None  # with a settable `epoch`
        self.nonfinite = NonFiniteGuard(args, self.accelerator)
        self.stop = StopRequest()
        self._evaluated_split = "validation"
        self._other_splits: dict[str, Samples] = {}  # that were evaluated, beside eval_dataset
        self._bad_images: dict[tuple[str, int], str] = {}  # (split, index) → path
        self._unreported_bad_images: list[tuple[str, int, str, str]] = []
        self._resumed_from_step = 0
        self._restart_clock()

    def _restart_clock(self) -> None:
        self._images, self._clock, self._time_evaluating = 0, time.perf_counter(), 0.0

    def check_arguments(self) -> None:
        """Checks that the arguments fit the model, at the start and in a hyperparameter search.

        Raises:
            ValueError: they don't, or a value is impossible.
        """
        self.args.check()
        best = (self.args.metric_for_best_model or "loss").removeprefix("eval_")
        names = self.metric_names()
        if best not in names:  # transformers finds out at the first evaluation
            raise ValueError(
                f"metric_for_best_model is {best!r}; it must be one of {', '.join(names)}"
            )

    def metric_names(self) -> Sequence[str]:
        """Lists the metrics that evaluation can give, for `metric_for_best_model` to name one."""
        return ("loss",)

    def describe_metrics(self, metrics: dict[str, float]) -> list[str]:
        """Says what an evaluation found, for the line of its epoch."""
        return [f"held out {say_loss(metrics['eval_loss'])}"] if "eval_loss" in metrics else []

    @property
    def output_dir(self) -> Path:
        """The output folder."""
        return Path(str(self.args.output_dir))

    # data ----------------------------------------------------------------------------------------

    @property
    def batch_shape(self) -> BatchShape:
        """How the run cuts its samples into batches."""
        args = self.args
        return BatchShape(
            batch_size=args.train_batch_size,
            accumulation=args.gradient_accumulation_steps,
            num_processes=args.world_size,
            num_workers=args.dataloader_num_workers or 0,
            seed=args.seed,
        )

    @property
    def updates_per_epoch(self) -> int:
        """Updates of an epoch: whole total batches only.

        Raises:
            ValueError: there is none.
        """
        return self.train_dataset.updates_per_epoch(self.batch_shape)

    @property
    def planned_updates(self) -> int:
        """Updates of the whole run.

        Raises:
            ValueError: there is no whole batch, or the warm-up would be longer than the run.
        """
        args, per_epoch = self.args, self.updates_per_epoch
        planned = math.ceil(args.num_train_epochs * per_epoch)
        if args.max_steps > 0:
            planned = args.max_steps
        warmup = args.warmup_in(planned / per_epoch) * per_epoch
        if warmup >= planned:
            given = args.warmup_epochs
            given = f"{given:g}" if isinstance(given, float) else given
            raise ValueError(
                f"warmup_epochs is {given}, which is {warmup:,.0f} updates, and the "
                f"whole run has {planned:,}; take fewer, a share, as 5%, or auto"
            )
        return planned

    @property
    def peak_rate(self) -> float:
        """The highest learning rate of the run."""
        return self.args.learning_rate or 0.0  # never None once the arguments are made

    def _get_train_sampler(self, train_dataset: Samples | None = None) -> Sampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        self.epoch_sampler = dataset.sampler(self.batch_shape)
        return self.epoch_sampler

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        loader: Any = super()._get_dataloader(*args, **kwargs)
        inner = getattr(loader, "base_dataloader", loader)  # what accelerate's reads from
        inner.worker_init_fn = functools.partial(start_worker, inner.worker_init_fn)
        return loader

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        inputs = super()._prepare_inputs(inputs)
        if "images" in inputs:
            images, processor = inputs.pop("images"), self.processing_class  # (B, C, H, W)
            if isinstance(images, list):  # not all are decoded
                images = decode_crops(images, processor, self.args.device)
            inputs["pixel_values"] = normalize_images(
                images, processor.image_mean, processor.image_std
            )
        return inputs

    def _take_notes(self, inputs: Batch, split: str) -> torch.Tensor:
        """Takes out of a batch what isn't for the model; returns the images' numbers (B,)."""
        for bad in inputs.pop("bad_images"):
            self._unreported_bad_images.append((split, *bad))
        return inputs.pop("index")

    # optimizer and schedule ----------------------------------------------------------------------

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """What the optimizer gets: the trainable parameters in groups, each with its options."""
        return parameter_groups(model, self.args.weight_decay)

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        if self.optimizer is None:
            groups = self.parameter_groups(model or self.model)
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class(groups, **kwargs)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: Optimizer | None = None
    ) -> LRScheduler:
        if self.lr_scheduler is None:
            args, per_epoch, planned = self.args, self.updates_per_epoch, self.planned_updates
            min_ratio = args.min_learning_rate / self.peak_rate
            epochs = planned / per_epoch
            warmup = args.warmup_in(epochs)

            def share_of_peak(step: int) -> float:
                return warmup_cosine(step, per_epoch, epochs, warmup, min_ratio)

            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, share_of_peak)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # hyperparameter search -----------------------------------------------------------------------

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> Any:
        """Searches for arguments; as transformers' Trainer, but for what it goes by by itself.

        Without a `compute_objective` that is `args.metric_for_best_model`, or the loss:
        transformers' own default adds up all metrics but the loss, of which some are baselines.
        What says how samples are made (`args.of_samples`) can't be searched for.

        Raises:
            ValueError: a trial sets an argument to what is impossible, or can't be searched for.
        """
        best = (self.args.metric_for_best_model or "loss").removeprefix("eval_")
        if len(args) < 2 and kwargs.get("compute_objective") is None:
            kwargs["compute_objective"] = operator.itemgetter(f"eval_{best}")
        return super().hyperparameter_search(*args, **kwargs)

    def _hp_search_setup(self, trial: Any) -> None:
        # as transformers does it, and what follows from the arguments that a trial sets
        args = self.args
        of_samples = {name: getattr(args, name) for name in args.of_samples}
        rate, was_scaled = args.learning_rate, args.learning_rate == args.scaled_learning_rate
        super()._hp_search_setup(trial)
        if self.hp_search_backend is None or trial is None:
            return
        for name, value in of_samples.items():
            if getattr(args, name) != value:
                raise ValueError(
                    f"{name} says how samples are made, before the search; it can't be searched for"
                )
        if was_scaled and args.learning_rate == rate:
            args.learning_rate = args.scaled_learning_rate  # pyright: ignore[reportAttributeAccessIssue]
        self.check_arguments()
        self.nonfinite = NonFiniteGuard(args, self.accelerator)

    # training ------------------------------------------------------------------------------------

    def train(
        self,
        resume_from_checkpoint: str | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Trains, from the start or from a checkpoint.

        Args:
            resume_from_checkpoint: Folder; None for a fresh start. `check_resume` comes first.
            trial, ignore_keys_for_eval: As for transformers' Trainer.

        Raises:
            BadImageError: more than 1 % of a data set can't be decoded.
            NonFiniteLossError: a loss is not finite, and the run is to stop at such.
            ValueError: the data set or the run is too short.
        """
        self._clock, self._resumed_from_step = time.perf_counter(), 0
        if not resume_from_checkpoint:
            if self.is_world_process_zero():
                (self.output_dir / BAD_IMAGES_FILE).unlink(missing_ok=True)
            return super().train(None, trial, ignore_keys_for_eval)
        state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / TRAINER_STATE_NAME))
        if state.global_step >= self.planned_updates:
            state.compute_steps(self.args, state.max_steps)
            return self._load_finished_run(str(resume_from_checkpoint), state)
        self._resumed_from_step = state.global_step
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def _load_finished_run(self, checkpoint: str, state: TrainerState) -> TrainOutput:
        """Loads what a run that is over ended with; transformers would make one more update."""
        self._load_from_checkpoint(checkpoint)
        self.state = state
        self.nonfinite.skipped = self.skipped_before(state)
        if self.misses_evaluation():
            self._make_up_evaluation()
        best = self.best_checkpoint(state, Path(checkpoint).parent)
        if best is not None and best.name != Path(checkpoint).name:
            self._load_from_checkpoint(str(best))
        return TrainOutput(state.global_step, float("nan"), {})

    def misses_evaluation(self) -> bool:
        """Whether the run was stopped when it was about to evaluate."""
        args, state = self.args, self.state
        step, is_due = state.global_step, False
        if args.eval_strategy == "epoch":
            is_due = step % self.updates_per_epoch == 0 and args.eval_delay <= (state.epoch or 0)
        elif args.eval_strategy == "steps":
            is_due = step % state.eval_steps == 0 or step >= self.planned_updates
            is_due = is_due and args.eval_delay <= step
        done = set()
        for entry in state.log_history:
            if any(name.startswith("eval_") for name in entry):
                done.add(entry["step"])
        return is_due and step not in done

    def _make_up_evaluation(self) -> None:
        metrics = self._evaluate(None, None)
        self._determine_best_metric(metrics, None)

    def skipped_before(self, state: TrainerState) -> int:
        """Counts the updates that the run which is resumed dropped."""
        skipped = [entry.get("nonfinite_skipped", 0) for entry in state.log_history]
        return int(max(skipped, default=0))

    def training_step(
        self, model: nn.Module, inputs: Batch, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        self.train_dataset.record(inputs)
        indices = self._take_notes(inputs, "train")
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._images += self.args.train_batch_size * self.args.world_size
        return self.nonfinite.record_loss(loss, indices)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm: Any = super()._get_grad_norm(model, grad_norm)
        self.nonfinite.record_gradient_norm(norm)
        return norm

    def floating_point_ops(self, inputs: Batch) -> int:
        return 0  # transformers takes every pixel for a token; no figure is better than that

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            elapsed = time.perf_counter() - self._clock - self._time_evaluating
            logs["samples"] = self.state.global_step * self.args.total_batch_size
            logs["images_per_second"] = round(self._images / elapsed, 1)
            logs["peak_memory_gib"] = round(peak_memory(self.args.device) / 2**30, 3)
            if self.nonfinite.skipped:
                logs["nonfinite_skipped"] = self.nonfinite.skipped
            self._restart_clock()
        if "train_runtime" in logs and self._resumed_from_step:
            logs["resumed_from_step"] = self._resumed_from_step  # what the time is counted from
        super().log(logs, start_time)
        self._report_bad_images()

    # evaluation ----------------------------------------------------------------------------------

    def evaluate(
        self,
        eval_dataset: Samples | dict[str, Samples] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measures the model on held-out samples; as transformers' Trainer."""
        start = time.perf_counter()
        dataset: Any = eval_dataset  # transformers' type is a narrower dict
        # data loaders draw from the generator, and so would change what drop path drops
        with torch.random.fork_rng(devices=[]):
            metrics = super().evaluate(dataset, ignore_keys, metric_key_prefix)
        self._time_evaluating += time.perf_counter() - start
        return metrics

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        samples: Any = dataloader.dataset
        self._evaluated_split = "validation"
        if samples is not self.eval_dataset:
            self._evaluated_split = metric_key_prefix.removeprefix("eval_")
            self._other_splits[self._evaluated_split] = samples
        return super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )

    def predict(
        self,
        test_dataset: Samples,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
    ) -> PredictionOutput:
        """Predicts for samples with or without labels; as transformers' Trainer."""
        dataset: Any = test_dataset
        output = super().predict(dataset, ignore_keys, metric_key_prefix)
        self._report_bad_images()
        return output

    @torch.no_grad()
    def encode(
        self, samples: Samples, split: str, labelled: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes the features of every image of a data set, on each process.

        Args:
            samples: What is encoded.
            split: What they are, for the list of bad images.
            labelled: Whether they must have labels.

        Returns:
            features (N, D) and labels (N,) or (N, K), in order, on the CPU; `has_label` says which
            images could be decoded. Without labels these are the images' numbers.

        Raises:
            ValueError: there are no labels.
        """
        features, labels = [], []
        loader = self.get_test_dataloader(samples)
        self.model.eval()
        quiet = self.args.disable_tqdm or not sys.stderr.isatty()
        for inputs in tqdm(loader, desc=f"encoding {split} images", disable=quiet, leave=False):
            known = own_labels(inputs) if labelled else inputs["index"]
            if known is None:
                raise ValueError(f"the {split} images have no labels")
            self._take_notes(inputs, split)
            inputs = self._prepare_inputs({**inputs, "labels": known})
            pooled = self.encode_images(inputs["pixel_values"])
            pooled, known = self.accelerator.gather_for_metrics((pooled, inputs["labels"]))
            features.append(pooled.cpu())
            labels.append(known.cpu())
        return torch.cat(features), torch.cat(labels)

    def _report_bad_images(self) -> None:
        """Lists new bad images in a file and stops at more than 1 % of a data set."""
        fresh = gather_object(self._unreported_bad_images)
        self._unreported_bad_images = []
        lines = []
        for split, index, path, error in fresh:
            if (split, index) not in self._bad_images:
                self._bad_images[split, index] = path
                lines.append(f"{split}\t{index}\t{one_line(path)}\t{one_line(error)}\n")
        file = self.output_dir / BAD_IMAGES_FILE
        if lines and self.is_world_process_zero():
            append_new_lines(file, lines)  # the run that is resumed may have listed some
        splits = {"train": self.train_dataset, "validation": self.eval_dataset}
        for split, dataset in {**splits, **self._other_splits}.items():
            count = sum(its_split == split for its_split, _ in self._bad_images)
            if dataset is not None and count > MAX_BAD_SHARE * len(dataset):
                raise BadImageError(
                    f"{count} of {len(dataset):,} {split} images can't be decoded, which is more "
                    f"than {MAX_BAD_SHARE:.0%}; {file} lists them. Repair them and resume, or "
                    "start again without them"
                )
