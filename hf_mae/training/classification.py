# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The Trainers of classifiers: fine-tuning and linear probing, evaluated by accuracy."""

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from accelerate.utils import broadcast
from timm.optim.lars import Lars
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import EvalPrediction, TrainerCallback
from transformers.trainer_utils import TrainOutput

from ..data.augmentation import PairMixing, erase
from ..data.labels import own_labels
from ..data.samples import Batch, FeatureSamples, Samples, collate
from ..models.image_processing_mae import MAEImageProcessor
from ..models.modeling_classification import MAEForImageClassification
from .arguments import FineTuningArguments, ImageTrainingArguments, LinearProbeArguments
from .metrics import TopKAccuracy
from .optimization import lars_groups, layer_decay_groups
from .trainer import ImageTrainer


class ClassifierTrainer(ImageTrainer):
    """`ImageTrainer` for `MAEForImageClassification`: evaluation by accuracy.

    Evaluation gives `eval_loss` (cross-entropy), `eval_top1_accuracy` and, of more than five
    classes, `eval_top5_accuracy`.

    Args:
        As for `ImageTrainer`.
    """

    eval_metrics = ("loss", "top1_accuracy", "top5_accuracy")

    model: MAEForImageClassification

    def __init__(
        self,
        model: MAEForImageClassification,
        args: ImageTrainingArguments,
        train_dataset: Samples | None = None,
        eval_dataset: Samples | None = None,
        processing_class: MAEImageProcessor | None = None,
        data_collator: Callable[[list[Any]], Batch] = collate,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Optimizer | None, LambdaLR | None] = (None, None),
    ):
        super().__init__(
            model,
            args,
            train_dataset,
            eval_dataset,
            processing_class,
            data_collator,
            compute_metrics=self._measure,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        # transformers' would take the labels from the model; here the mixing smooths
        self.label_smoother = None

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Batch,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
        """Computes cross-entropy (B,) and the five best classes (B, 5) of each image.

        The labels that go with them are its class, or -100 if it can't be decoded.
        """
        inputs["labels"] = own_labels(inputs)
        self._take_notes(inputs, "validation")
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(**inputs).logits.float()  # (B, classes)
        losses = F.cross_entropy(logits, labels, reduction="none")
        ranked = logits.topk(min(5, logits.shape[1])).indices
        return None, (losses, ranked), labels

    def _measure(self, prediction: EvalPrediction) -> dict[str, float]:
        decoded = prediction.label_ids != -100
        predictions: Any = prediction.predictions
        losses, ranked = predictions
        accuracies = TopKAccuracy(keep_in_memory=True).compute(
            predictions=ranked[decoded],
            references=prediction.label_ids[decoded],
            num_labels=self.model.config.num_labels,
        )
        return {"loss": losses[decoded].mean().item(), **(accuracies or {})}


class FineTuningTrainer(ClassifierTrainer):
    """`ClassifierTrainer` that trains the whole model (MAE paper, Table 9).

    It has layer-wise learning rate decay, mixup and CutMix.

    Args:
        model: `MAEForImageClassification`.
        args: `FineTuningArguments`.
        train_dataset: `ImageSamples` with labels and a `FineTuningTransform`.
        eval_dataset: `ImageSamples` with labels and a `CenterCropTransform`.
        processing_class: `MAEImageProcessor`.
        data_collator, callbacks, optimizers: As for transformers' Trainer.

    Example: `scripts/run_finetune.py`.
    """

    args: FineTuningArguments

    @functools.cached_property
    def mixing(self) -> PairMixing:
        """Mixes a training batch's images and labels."""
        args = self.args
        config: Any = self.model.config
        return PairMixing(config.num_labels, args.mixup, args.cutmix, args.label_smoothing_factor)

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        classifier = cast(MAEForImageClassification, model)
        groups = layer_decay_groups(classifier, self.args.weight_decay, self.args.layer_decay)
        for group in groups:
            group["lr"] = self.args.learning_rate * group["lr_scale"]
        return groups

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        inputs = super()._prepare_inputs(inputs)
        if "erased" in inputs:
            erase(inputs["pixel_values"], inputs.pop("erased"))
        return inputs

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        images, targets = self.mixing(
            inputs["pixel_values"], inputs["labels"], inputs.pop("mix_seed", [])
        )
        inputs = {**inputs, "pixel_values": images, "labels": targets}
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


class LinearProbeTrainer(ClassifierTrainer):
    """`ClassifierTrainer` of a head on a frozen encoder: LARS (MAE paper, Table 10).

    Args:
        model: `MAEForImageClassification` after `freeze_encoder()`.
        args: `LinearProbeArguments`.
        train_dataset: `ImageSamples` with labels and a `LinearProbeTransform`; a
            `CenterCropTransform` if `args.cache_features` is true: then every image is encoded
            once, before training.
        eval_dataset: `ImageSamples` with labels and a `CenterCropTransform`.
        processing_class: `MAEImageProcessor`.
        data_collator, callbacks, optimizers: As for transformers' Trainer.

    Example: `scripts/run_linear_probe.py`.
    """

    args: LinearProbeArguments

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        if self.optimizer is None:
            groups = lars_groups(model or self.model, self.args.weight_decay)
            lr, momentum = self.args.learning_rate or 0.0, 0.9
            # timm's annotation takes a momentum for a whole number
            self.optimizer = Lars(groups, lr, momentum)  # pyright: ignore[reportArgumentType]
        return self.optimizer

    def train(
        self,
        resume_from_checkpoint: str | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Trains the head, with `args.cache_features` on features that are computed first."""
        if self.args.cache_features:
            if resume_from_checkpoint:  # its encoder is the one that will be saved with the head
                self._load_from_checkpoint(str(resume_from_checkpoint))
            self.cache_features()
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def cache_features(self) -> None:
        """Encodes every image of both data sets, once, and goes on with the features."""
        if isinstance(self.train_dataset, FeatureSamples):
            return
        features, labels = self.encode(self.train_dataset, "train")
        decoded = labels != -100
        self.train_dataset = FeatureSamples(features[decoded], labels[decoded])
        if self.eval_dataset is not None:
            self.eval_dataset = FeatureSamples(*self.encode(self.eval_dataset, "validation"))
        self._report_bad_images()

    def evaluate(
        self,
        eval_dataset: Samples | dict[str, Samples] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measures the head on held-out samples; as transformers' Trainer."""
        # the batch norm's, of which each process has its own and the first's is saved
        for buffer in self.model.buffers():
            broadcast(buffer)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
