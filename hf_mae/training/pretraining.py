# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The Trainer of pre-training, with held-out losses and reconstructions."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Subset
from transformers import EvalPrediction, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

from ..data.labels import has_label
from ..data.resolution import schedule_resolutions
from ..data.samples import Batch, ImageSamples, Samples, collate
from ..inference.reconstructions import reconstruction_panel
from ..models.costs import training_flops
from ..models.functional import baseline_losses
from ..models.image_processing_mae import MAEImageProcessor
from ..models.masking import random_masking
from ..models.modeling_mae import MAEForPreTraining
from ..output_folder import PANEL_FILE
from .arguments import MAETrainingArguments
from .metrics import knn_accuracy, rank_me
from .progress import say_loss
from .trackers import log_picture
from .trainer import ImageTrainer


PANEL_IMAGES = 8
RANK_IMAGES = 2048  # held out, that RankMe is measured on at most
_BASELINES = ("loss_visible_mean", "loss_best_constant")


class MAETrainer(ImageTrainer):
    """`ImageTrainer` for `MAEForPreTraining`: AdamW, evaluation with fixed masks.

    Evaluation gives `eval_loss`, the losses of two baselines, RankMe of the features and, with a
    `knn_bank`, their k-NN accuracy; and, at the first few evaluations and ever more seldom, a panel
    of reconstructions.

    Args:
        model: `MAEForPreTraining`; None with `model_init`.
        args: `MAETrainingArguments`.
        train_dataset: `ImageSamples` with a `PretrainingTransform`. With
            `args.resolution_schedule` they are given the schedule.
        eval_dataset: `ImageSamples` with a `MaskedEvaluationTransform`.
        processing_class: `MAEImageProcessor`.
        knn_bank: `ImageSamples` with labels and a `CenterCropTransform`: what held-out images,
            which then must have labels too, are compared with.
        data_collator, callbacks, optimizers, model_init: As for transformers' Trainer.

    Raises:
        ValueError: nothing is masked, or the schedule doesn't fit the model or the run.

    Example: `scripts/run_mae.py`.
    """

    args: MAETrainingArguments
    model: MAEForPreTraining

    def __init__(
        self,
        model: MAEForPreTraining | None,
        args: MAETrainingArguments,
        train_dataset: ImageSamples | None = None,
        eval_dataset: Samples | None = None,
        processing_class: MAEImageProcessor | None = None,
        knn_bank: Samples | None = None,
        data_collator: Callable[[list[Any]], Batch] = collate,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Optimizer | None, LambdaLR | None] = (None, None),
        model_init: Callable[..., MAEForPreTraining] | None = None,
    ):
        super().__init__(
            model,
            args,
            train_dataset,
            eval_dataset,
            processing_class,
            data_collator,
            compute_metrics=_mean_losses,
            callbacks=callbacks,
            optimizers=optimizers,
            model_init=model_init,
        )
        config: Any = self.model.config
        self.knn_bank = knn_bank
        *_, num_visible = random_masking(torch.zeros(1, config.num_patches), config.mask_ratio)
        if num_visible == config.num_patches:
            raise ValueError(
                f"mask_ratio is {config.mask_ratio}: no patch is masked, so there is nothing to "
                "learn"
            )
        crop = getattr(getattr(train_dataset, "transform", None), "crop", None)
        come_decoded = train_dataset is not None and getattr(crop, "decode", True)
        if args.decode_device == "cuda" and come_decoded:
            raise ValueError(
                "decode_device is cuda and the training samples come decoded; make their "
                "PretrainingTransform with decode=False"
            )
        self._flops: dict[tuple[int, int], int] = {}  # of an image, by its size
        self._schedule_resolutions()

    def _schedule_resolutions(self) -> None:
        train_dataset: Any = self.train_dataset
        if self.args.resolution_schedule and train_dataset is not None:
            epochs = self.planned_updates / self.updates_per_epoch
            train_dataset.schedule = schedule_resolutions(
                train_dataset.transform,  # one with `at_size`
                self.args.resolutions,
                self.model.config,
                epochs,
            )

    def _hp_search_setup(self, trial: Any) -> None:
        super()._hp_search_setup(trial)
        if trial is not None:
            self._schedule_resolutions()

    def metric_names(self) -> Sequence[str]:
        return ("loss", *_BASELINES, "knn_accuracy", "rank_me")

    def describe_metrics(self, metrics: dict[str, float]) -> list[str]:
        parts = super().describe_metrics(metrics)
        if parts:
            share = metrics["eval_loss"] / metrics["eval_loss_best_constant"]
            parts[0] += f" ({say_loss(share, 2)} of the best constant)"
        if "eval_knn_accuracy" in metrics:
            parts.append(f"k-NN {metrics['eval_knn_accuracy']:.1%}")
        if "eval_rank_me" in metrics:
            parts.append(f"RankMe {metrics['eval_rank_me']:.1f}")
        return parts

    # training ------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        if self.args.resolution_schedule:
            # positions for whatever grid the images have
            inputs = {**inputs, "interpolate_pos_encoding": True}
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def floating_point_ops(self, inputs: Batch) -> int:
        """Counts those of matrix products, forward and backward, of a batch."""
        images = inputs["images"] if "images" in inputs else inputs["pixel_values"]
        size = tuple(images[0].shape[1:])  # (C, h, w), of an UndecodedCrop too
        if size not in self._flops:
            config = self.model.config.changed(image_size=size)
            self._flops[size] = training_flops(MAEForPreTraining, config)
        return len(images) * self._flops[size]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs["training_flops"] = self.state.total_flos
        super().log(logs, start_time)

    # evaluation ----------------------------------------------------------------------------------

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Batch,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, torch.Tensor, torch.Tensor]:
        """Computes losses of each image (B, 3): the model's and two baselines'.

        The labels that go with them are the image numbers.
        """
        index = self._take_notes(inputs, self._evaluated_split)
        inputs.pop("labels", None)
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
        baselines = baseline_losses(outputs.target, outputs.mask)
        return None, torch.stack([outputs.losses, *baselines], dim=1), index

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluates, draws the panel, compares with the k-NN bank and measures RankMe."""
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        samples: Any = dataloader.dataset
        metrics: Any = output.metrics
        if self._is_panel_due():
            self._draw_panel(samples)
        if self.knn_bank is None:
            some: Any = Subset(samples, _spread(len(samples)))
            features, _ = self.encode(some, "validation", labelled=False)
        else:
            features, labels = self.encode(samples, "validation")
            accuracy = self._knn_accuracy(self.knn_bank, features, labels)
            metrics[f"{metric_key_prefix}_knn_accuracy"] = accuracy
            features = features[_spread(len(features))]
        metrics[f"{metric_key_prefix}_rank_me"] = rank_me(features)
        return output

    def _knn_accuracy(self, bank: Samples, queries: torch.Tensor, labels: torch.Tensor) -> float:
        features, bank_labels = self.encode(bank, "k-NN bank")
        known, query_known = has_label(bank_labels), has_label(labels)
        return knn_accuracy(
            features[known], bank_labels[known], queries[query_known], labels[query_known]
        )

    def _is_panel_due(self) -> bool:
        """Whether this evaluation is the 1st, 2nd, 4th, 8th, … of a run, or the last."""
        evaluations = 1
        for entry in self.state.log_history:
            evaluations += "eval_loss" in entry
        is_power_of_two = evaluations & (evaluations - 1) == 0
        return is_power_of_two or self.state.global_step >= self.state.max_steps

    def _draw_panel(self, samples: Samples) -> None:
        """Draws the first held-out images into the output folder and what is logged to."""
        numbers = range(min(PANEL_IMAGES, len(samples)))
        batch = collate([samples[number] for number in numbers])
        names = {"images", "pixel_values", "noise"} & batch.keys()
        inputs = self._prepare_inputs({name: batch[name] for name in names})
        self.model.eval()
        with self.compute_loss_context_manager():
            figure = reconstruction_panel(self.model, self.processing_class, **inputs)
        if not self.is_world_process_zero():
            return
        self.output_dir.mkdir(parents=True, exist_ok=True)
        file = self.output_dir / PANEL_FILE
        figure.savefig(file, dpi=120)
        callbacks = self.callback_handler.callbacks
        log_picture(callbacks, "reconstructions", figure, file, self.state.global_step)


def _spread(num_samples: int) -> list[int]:
    """Which images RankMe is measured on: evenly spaced, for folders come class by class."""
    step = max(1, num_samples // RANK_IMAGES)
    return list(range(0, num_samples, step)[:RANK_IMAGES])


def _mean_losses(prediction: EvalPrediction) -> dict[str, float]:
    predictions: Any = prediction.predictions  # (images, 3)
    losses = predictions.mean(axis=0).tolist()
    return dict(zip(("loss", *_BASELINES), losses))
