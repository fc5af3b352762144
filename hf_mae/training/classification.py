# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The Trainers of classifiers: fine-tuning and linear probing, of any problem type."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from timm.optim.lars import Lars
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import EvalPrediction, TrainerCallback
from transformers.trainer_utils import TrainOutput

from ..data.augmentation import PairMixing, erase
from ..data.feature_samples import FeatureSamples
from ..data.labels import has_label, own_images, own_labels
from ..data.samples import Batch, BatchShape, Samples, collate
from ..models.image_processing_mae import MAEImageProcessor
from ..models.modeling_classification import HeadBatchNorm, MAEForImageClassification
from ..models.problem_types import MULTI_LABEL, REGRESSION, classification_loss
from .arguments import ClassifierArguments, FineTuningArguments, LinearProbeArguments
from .balance import balanced_weights, weights_of
from .metrics import format_result, measure, metric_names, result_name
from .optimization import lars_groups, layer_decay_groups, scaled_learning_rate
from .probe_rate import choose_rate
from .trainer import ImageTrainer


class ClassifierTrainer(ImageTrainer):
    """`ImageTrainer` for `MAEForImageClassification`: evaluation by what its problem type goes by.

    Evaluation gives `eval_loss` and, by `config.problem_type`, `eval_top1_accuracy`, (of more than
    five classes) `eval_top5_accuracy` and `eval_balanced_accuracy`; of several labels an image
    `eval_mean_average_precision`, `eval_mean_auroc` and `eval_auroc_NAME` of each label; of a
    regression `eval_mean_absolute_error`. `predict` gives the logits (N, num_labels), with or
    without labels; those of an image that can't be decoded are NaN.

    Args:
        As for `ImageTrainer`.
    """

    args: ClassifierArguments
    model: MAEForImageClassification

    def __init__(
        self,
        model: MAEForImageClassification | None,
        args: ClassifierArguments,
        train_dataset: Samples | None = None,
        eval_dataset: Samples | None = None,
        processing_class: MAEImageProcessor | None = None,
        data_collator: Callable[[list[Any]], Batch] = collate,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Optimizer | None, LambdaLR | None] = (None, None),
        model_init: Callable[..., MAEForImageClassification] | None = None,
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
            model_init=model_init,
        )
        # transformers' would take the labels from the model; here the mixing smooths
        self.label_smoother = None

    def describe_metrics(self, metrics: dict[str, float]) -> list[str]:
        parts = super().describe_metrics(metrics)
        for key, value in metrics.items():
            name = result_name(key.removeprefix("eval_"))
            if name:  # the first is what the problem type goes by
                return [*parts, f"{name} {format_result(name, value)}"]
        return parts

    def check_arguments(self) -> None:
        super().check_arguments()
        args = self.args
        if args.class_weights == args.class_sampling == "none":
            return
        if self.model.problem_type == REGRESSION:
            raise ValueError(
                "class_weights and class_sampling are for classes, and a regression has none"
            )
        if self.model.problem_type == MULTI_LABEL and args.class_sampling == "balanced":
            raise ValueError(
                "class_sampling is for one class an image: an image with several labels can't be "
                "drawn for one of them alone; take --class_weights balanced"
            )

    @property
    def batch_shape(self) -> BatchShape:
        """How the run cuts its samples into batches."""
        balanced = self.args.class_sampling == "balanced"
        return dataclasses.replace(super().batch_shape, balanced=balanced)

    @functools.cached_property
    def class_weights(self) -> torch.Tensor | None:
        """What classes weigh in the loss, as `balanced_weights` has it; None for all the same.

        Raises:
            ValueError: the training images have no labels.
        """
        if self.args.class_weights == "none":
            return None
        labels = self.train_dataset.all_labels()
        if labels is None:
            raise ValueError("class_weights needs labels, and the training images have none")
        config: Any = self.model.config
        return balanced_weights(labels, config.num_labels)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        if self.class_weights is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels, inputs = inputs["labels"], {**inputs}
        weights = inputs.pop("label_weights", None)
        if weights is None:  # the labels are as the data set has them
            weights = weights_of(labels, self.class_weights)
        del inputs["labels"]
        outputs = model(**inputs)
        problem_type = self.model.settle_problem_type(labels)
        # the mean over the images, not over the weights: so it doesn't depend on how they are
        # spread over batches, processes and accumulation steps
        loss = classification_loss(outputs.logits, labels, problem_type, weights)
        return (loss, outputs) if return_outputs else loss

    def metric_names(self) -> Sequence[str]:
        return ("loss", *metric_names(self.model.problem_type, self._label_names()))

    def _label_names(self) -> list[str]:
        config: Any = self.model.config
        return [config.id2label[number] for number in range(config.num_labels)]

    def evaluate(
        self,
        eval_dataset: Samples | dict[str, Samples] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measures the model on held-out samples; as transformers' Trainer.

        Raises:
            ValueError: they have no labels.
        """
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if not any(name.endswith("_loss") for name in metrics):
            raise ValueError("the samples have no labels to measure by; predict gives their logits")
        return metrics

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Batch,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, torch.Tensor, torch.Tensor | None]:
        """Computes the logits (B, num_labels) of each image, NaN if it can't be decoded.

        The labels that go with them, if there are any, are those of `own_labels`.
        """
        is_own, labels = own_images(inputs), own_labels(inputs)
        inputs.pop("labels", None)
        self._take_notes(inputs, self._evaluated_split)
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(**inputs).logits.float()  # (B, num_labels)
        is_own = is_own.to(logits.device).unsqueeze(1)  # (B, 1)
        logits = torch.where(is_own, logits, torch.nan)
        return None, logits, None if labels is None else labels.to(logits.device)

    def _measure(self, prediction: EvalPrediction) -> dict[str, float]:
        predictions: Any = prediction.predictions
        label_ids: Any = prediction.label_ids
        logits, labels = torch.from_numpy(predictions), torch.from_numpy(label_ids)
        known = has_label(labels)
        logits, labels = logits[known], labels[known]
        problem_type = self.model.settle_problem_type(labels)
        loss = classification_loss(logits, labels, problem_type).item()
        return {"loss": loss, **measure(problem_type, logits, labels, self._label_names())}


class FineTuningTrainer(ClassifierTrainer):
    """`ClassifierTrainer` that trains the whole model (MAE paper, Table 9).

    It has layer-wise learning rate decay, mixup and CutMix.

    Args:
        model: `MAEForImageClassification`; None with `model_init`.
        args: `FineTuningArguments`.
        train_dataset: `ImageSamples` with labels and a `FineTuningTransform`.
        eval_dataset: `ImageSamples` with labels and a `CenterCropTransform`.
        processing_class: `MAEImageProcessor`.
        data_collator, callbacks, optimizers, model_init: As for transformers' Trainer.

    Raises:
        ValueError: images of a regression are to be mixed, or their values smoothed.

    Example: `scripts/run_finetune.py`.
    """

    args: FineTuningArguments

    def check_arguments(self) -> None:
        super().check_arguments()
        for name in ("mixup", "cutmix", "label_smoothing_factor"):
            if self.model.problem_type == REGRESSION and getattr(self.args, name):
                raise ValueError(
                    f"{name} is {getattr(self.args, name)}, and a regression has no labels to mix "
                    "or smooth; pass --mixup 0 --cutmix 0 --label_smoothing_factor 0"
                )

    def make_mixing(self, labels: torch.Tensor) -> PairMixing:
        """Makes what mixes a training batch's images and labels."""
        args = self.args
        config: Any = self.model.config
        problem_type = self.model.settle_problem_type(labels)
        # else the model would look at what each batch of mixed labels means, and wait for the GPU
        config.problem_type = problem_type
        return PairMixing(
            config.num_labels,
            args.mixup,
            args.cutmix,
            args.label_smoothing_factor,
            problem_type == MULTI_LABEL,
        )

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
        labels, mix_seed = inputs["labels"], inputs.pop("mix_seed", [])
        if self.model.problem_type != REGRESSION:
            mixing, images = self.make_mixing(labels), inputs["pixel_values"]
            inputs = {**inputs}
            if self.class_weights is None:
                images, targets = mixing(images, labels, mix_seed)
            else:
                weights = weights_of(labels, self.class_weights)
                images, targets, weights = mixing.weighted(images, labels, weights, mix_seed)
                inputs["label_weights"] = weights
            inputs |= {"pixel_values": images, "labels": targets}
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
        data_collator, callbacks, optimizers, model_init: As for transformers' Trainer.

    Example: `scripts/run_linear_probe.py`.
    """

    args: LinearProbeArguments
    _chosen_rate: float | None = None  # of 256 images, by `choose_rate`

    def check_arguments(self) -> None:
        super().check_arguments()
        if self.args.total_batch_size < 2 and self.model.config.head_batch_norm:
            raise ValueError(
                "an update has 1 image, and the head's batch norm needs at least 2; raise "
                "per_device_train_batch_size"
            )

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        if self.optimizer is None:
            groups = lars_groups(model or self.model, self.args.weight_decay)
            # timm's annotation takes a momentum for a whole number
            self.optimizer = Lars(groups, self.peak_rate, 0.9)  # pyright: ignore[reportArgumentType]
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
        if self.args.chooses_rate:
            self.choose_rate()
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def cache_features(self) -> None:
        """Encodes every image of both data sets, once, and goes on with the features."""
        if isinstance(self.train_dataset, FeatureSamples):
            return
        if self.args.should_save:
            _ = self.data_facts  # of the images, while they are here
        features, labels = self.encode(self.train_dataset, "train")
        decoded = has_label(labels)
        self.train_dataset = FeatureSamples(features[decoded], labels[decoded])
        if self.eval_dataset is not None:
            dataset = getattr(self.eval_dataset, "dataset", None)
            encoded = self.encode(self.eval_dataset, "validation")
            self.eval_dataset = FeatureSamples(*encoded, dataset)
        self._report_bad_images()

    @property
    def peak_rate(self) -> float:
        if self._chosen_rate is None:
            return super().peak_rate
        return scaled_learning_rate(self._chosen_rate, self.args.total_batch_size)

    def choose_rate(self) -> None:
        """Chooses the learning rate by trying, on the cached features; says which."""
        args, samples = self.args, cast(FeatureSamples, self.train_dataset)
        self._chosen_rate, reached = choose_rate(
            self.model, samples, args.total_batch_size, self.planned_updates, args.seed
        )
        if self.is_world_process_zero():
            tried = ", ".join(f"{rate:g}: {value:.3g}" for rate, value in reached.items())
            print(
                f"base_learning_rate {self._chosen_rate:g} is chosen: it did best on a fifth of "
                f"the training features, held out for that alone ({tried})",
                flush=True,
            )

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor | int | None]:
        """Encodes the batches of an update, all before the head is trained on the first.

        So its batch norm goes by all of them, on all processes.
        """
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not (batches and self.has_shared_batch_norm):
            return batches, count
        batches = [self._encode_batch(batch) for batch in batches]
        statistics = self._measure_features([batch["features"] for batch in batches])  # (2, D)
        batch_norm = cast(HeadBatchNorm, self.model.batch_norm)
        batch_norm.track(statistics, self.args.total_batch_size)
        for batch in batches:
            batch["batch_statistics"] = statistics.expand(len(batch["features"]), -1, -1)
        return batches, count

    @property
    def has_shared_batch_norm(self) -> bool:
        """Whether there is a batch norm, and it goes by the features of all processes."""
        model = self.model
        if not (isinstance(model.batch_norm, HeadBatchNorm) and model.encoder_frozen):
            return False
        return isinstance(model.fc_norm, nn.Identity)  # what comes before it isn't trained

    def _encode_batch(self, batch: Batch) -> Batch:
        """Puts an image batch's features in the place of its images."""
        if "features" not in batch:
            images = {name: batch.pop(name) for name in ("images", "pixel_values") if name in batch}
            batch["features"] = self.encode_images(self._prepare_inputs(images)["pixel_values"])
        return batch | {"features": batch["features"].to(self.args.device)}

    def _measure_features(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """Measures mean and variance (2, D) of features (B, D) each, over all processes."""
        features = torch.cat(parts)
        mean: Any = self.accelerator.reduce(features.mean(dim=0), reduction="mean")
        squares = (features - mean).square().mean(dim=0)
        variance: Any = self.accelerator.reduce(squares, reduction="mean")
        return torch.stack([mean, variance])
