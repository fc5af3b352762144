# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The Trainers of classifiers: fine-tuning and linear probing with accuracies."""

import torch
from accelerate.utils import broadcast
from timm.optim import Lars
from torch.nn import functional as F

from ..data.augmentation import PairMixing, erase
from ..data.labels import own_labels
from ..data.samples import FeatureSamples
from .metrics import TopKAccuracy
from .optimization import lars_groups, layer_decay_groups
from .trainer import ImageTrainer


class FineTuningTrainer(ImageTrainer):
    """`ImageTrainer` for `MAEForImageClassification`: layer-wise lr decay, mixup and CutMix,
    evaluation by accuracy.

    Evaluation gives `eval_loss` (cross-entropy), `eval_top1_accuracy` and, of more than five
    classes, `eval_top5_accuracy`.

    Args:
        model: `MAEForImageClassification`.
        args: `FineTuningArguments`.
        train_dataset, eval_dataset: `ImageSamples` with labels and a `FineTuningTransform` and a
            `CenterCropTransform`.
        processing_class: `MAEImageProcessor`.

    Example: `scripts/run_finetune.py`.
    """

    eval_metrics = ("loss", "top1_accuracy", "top5_accuracy")

    def __init__(self, model, args, *data, **kwargs):
        super().__init__(model, args, *data, compute_metrics=self._accuracies, **kwargs)
        self.label_smoother = (
            None  # transformers', which would take the labels from the model; the mixing smooths
        )
        self.mixing = self.make_mixing(args)

    def make_mixing(self, args):
        """What turns a training batch and its labels into mixed images and soft targets."""
        return PairMixing(
            self.model.config.num_labels, args.mixup, args.cutmix, args.label_smoothing_factor
        )

    def parameter_groups(self, model):
        groups = layer_decay_groups(model, self.args.weight_decay, self.args.layer_decay)
        return [{**group, "lr": self.args.learning_rate * group["lr_scale"]} for group in groups]

    def _prepare_inputs(self, inputs):
        inputs = super()._prepare_inputs(inputs)
        if "erased" in inputs:
            erase(inputs["pixel_values"], inputs.pop("erased"))
        return inputs

    def compute_loss(self, model, inputs, *args, **kwargs):
        seed = inputs.pop("mix_seed", None)
        if self.mixing is not None:
            inputs["pixel_values"], inputs["labels"] = self.mixing(
                inputs["pixel_values"], inputs["labels"], seed
            )
        return super().compute_loss(model, inputs, *args, **kwargs)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Cross-entropy (B,) and the five best classes (B, 5) of each image; its class, or -100 if
        it can't be decoded."""
        inputs["labels"] = own_labels(inputs)
        self._take_notes(inputs, "validation")
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(**inputs).logits.float()
        losses = F.cross_entropy(logits, labels, reduction="none")
        return None, (losses, logits.topk(min(5, logits.shape[1])).indices), labels

    def _accuracies(self, prediction):
        decoded = prediction.label_ids != -100
        losses, ranked = (part[decoded] for part in prediction.predictions)
        metric, num_labels = TopKAccuracy(keep_in_memory=True), self.model.config.num_labels
        accuracies = metric.compute(
            predictions=ranked, references=prediction.label_ids[decoded], num_labels=num_labels
        )
        return {"loss": losses.mean().item(), **accuracies}


class LinearProbeTrainer(FineTuningTrainer):
    """The same for a frozen encoder: LARS without mixing (MAE paper, Table 10).

    Args:
        model: `MAEForImageClassification` after `freeze_encoder()`.
        args: `LinearProbeArguments`.
        train_dataset: `ImageSamples` with labels and a `LinearProbeTransform`; a
            `CenterCropTransform` if `args.cache_features` is true: then every image is encoded
            once, before training.
        eval_dataset: `ImageSamples` with labels and a `CenterCropTransform`.

    Example: `scripts/run_linear_probe.py`.
    """

    def make_mixing(self, args):
        return None

    def train(self, resume_from_checkpoint=None, **kwargs):
        if self.args.cache_features:
            if resume_from_checkpoint:  # its encoder is the one that will be saved with the head
                self._load_from_checkpoint(str(resume_from_checkpoint))
            self.cache_features()
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def evaluate(self, *args, **kwargs):
        for buffer in (
            self.model.buffers()
        ):  # the batch norm's, of which each process has its own and the first's is saved
            broadcast(buffer)
        return super().evaluate(*args, **kwargs)

    def cache_features(self):
        """Encodes every image of both data sets, once, and goes on with the features."""
        if isinstance(self.train_dataset, FeatureSamples):
            return
        features, labels = self.encode(self.train_dataset, "train")
        self.train_dataset = FeatureSamples(features[labels != -100], labels[labels != -100])
        if self.eval_dataset is not None:
            self.eval_dataset = FeatureSamples(*self.encode(self.eval_dataset, "validation"))
        self._report_bad_images()

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            groups = lars_groups(model or self.model, self.args.weight_decay)
            self.optimizer = Lars(groups, lr=self.args.learning_rate, momentum=0.9)
        return self.optimizer
