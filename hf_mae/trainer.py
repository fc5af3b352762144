# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The Trainers: pre-training with held-out reconstructions, fine-tuning and linear probing with accuracies."""

import math
from pathlib import Path

import torch
from accelerate.utils import broadcast
from timm.optim import Lars
from torch.nn import functional as F
from transformers.integrations import TensorBoardCallback

from .base_trainer import DrawTrainer
from .data import FeatureDraws, collate, own_labels
from .flops import training_flops
from .functional import baseline_losses, masked_losses, patchify, pixel_target, random_masking
from .metrics import TopKAccuracy, knn_accuracy
from .modeling_mae import MAEForPreTraining
from .optimization import lars_groups, layer_decay_groups
from .transforms import PairMixing, PretrainingTransform, TransformSchedule, erase
from .visualization import PANEL_FILE, reconstruction_panel


PANEL_IMAGES = 8


class MAETrainer(DrawTrainer):
    """`DrawTrainer` for `MAEForPreTraining`: AdamW that decays matrices only, evaluation with fixed masks.

    Evaluation gives `eval_loss`, the losses of two baselines, a panel of reconstructions and, with `args.knn_images`, the
    k-NN accuracy of the features.

    Args:
        model: `MAEForPreTraining`.
        args: `MAETrainingArguments`.
        train_dataset, eval_dataset: `ImageDraws` with a `PretrainingTransform` and a `HeldOutTransform`.
        processing_class: `MAEImageProcessor`.
        knn_bank: `ImageDraws` with labels and a `CentreCropTransform`: what held-out images, which then must have labels
            too, are compared with.

    Example: `scripts/run_mae.py`.
    """

    eval_metrics = ("loss", "loss_visible_mean", "loss_best_constant", "knn_accuracy")

    def __init__(self, model, args, *data, knn_bank=None, **kwargs):
        super().__init__(model, args, *data, compute_metrics=_mean_losses, **kwargs)
        self.knn_bank = knn_bank
        *_, num_visible = random_masking(torch.zeros(1, model.config.num_patches), model.config.mask_ratio)
        if num_visible == model.config.num_patches:
            raise ValueError(f"mask_ratio is {model.config.mask_ratio}: no patch is masked, so there is nothing to learn")
        self._flops = {}  # of an image, by its size
        if args.resolution_schedule:
            self.train_dataset.transform = self._resolution_schedule()

    def _resolution_schedule(self):
        """`TransformSchedule` of `args.resolution_schedule`.

        Raises:
            ValueError: a size is impossible for the model, the last is not the model's, or the run is too short for all.
        """
        config, resolutions = self.model.config, self.args.resolutions
        sizes = list(resolutions.values())
        if (sizes[-1], sizes[-1]) != config.image_hw:
            raise ValueError(
                f"resolution_schedule ends with {sizes[-1]} pixels and the model's image_size is {config.image_size}; they "
                "must be the same, a square"
            )
        transforms = [PretrainingTransform(config.changed(image_size=size)) for size in sizes]
        epochs = self.planned_updates / self.updates_per_epoch
        starts = [math.ceil(round(share * epochs, 6)) for share in resolutions]  # 0.55 * 100 is more than 55
        if starts != sorted(set(starts)) or starts[-1] >= epochs:
            raise ValueError(
                f"resolution_schedule changes sizes at whole epochs and the run has {epochs:.4g}: they would start at "
                f"epochs {', '.join(map(str, starts))}, so that some are never trained at; train longer or take fewer sizes"
            )
        return TransformSchedule(dict(zip(starts, transforms)))

    def compute_loss(self, model, inputs, *args, **kwargs):
        if self.args.resolution_schedule:
            inputs = {**inputs, "interpolate_pos_encoding": True}  # positions for whatever grid the images have
        return super().compute_loss(model, inputs, *args, **kwargs)

    def floating_point_ops(self, inputs):
        """Of matrix products, forward and backward, of a batch."""
        batch, _, *size = inputs["pixel_values"].shape
        if tuple(size) not in self._flops:
            config = self.model.config.changed(image_size=size)
            self._flops[tuple(size)] = training_flops(MAEForPreTraining, config)
        return batch * self._flops[tuple(size)]

    def log(self, logs, start_time=None):
        if "loss" in logs:
            logs["training_flops"] = self.state.total_flos
        super().log(logs, start_time)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Losses of each image (B, 3): the model's and two baselines'; labels are the image numbers."""
        index = self._take_notes(inputs, "validation")
        inputs.pop("labels", None)
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
        config = self.model.config
        target = pixel_target(patchify(inputs["pixel_values"], config.patch_hw), config.norm_pix_loss)
        losses = masked_losses(outputs.logits, target, outputs.mask)
        return None, torch.stack([losses, *baseline_losses(target, outputs.mask)], dim=1), index

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        self._draw_panel()
        if self.knn_bank is not None:
            bank, queries = self.encode(self.knn_bank, "k-NN bank"), self.encode(self.eval_dataset, "validation")
            pairs = ((features[labels != -100], labels[labels != -100]) for features, labels in (bank, queries))
            output.metrics[f"{metric_key_prefix}_knn_accuracy"] = knn_accuracy(*next(pairs), *next(pairs))
        return output

    def _draw_panel(self):
        """The first held-out images into the output folder and TensorBoard."""
        samples = [self.eval_dataset[i] for i in range(min(PANEL_IMAGES, len(self.eval_dataset)))]
        batch = collate(samples)
        inputs = self._prepare_inputs({name: batch[name] for name in ("pixel_values", "noise")})
        self.model.eval()
        with self.compute_loss_context_manager():
            figure = reconstruction_panel(self.model, self.processing_class, **inputs)
        if self.is_world_process_zero():
            Path(self.args.output_dir).mkdir(parents=True, exist_ok=True)
            figure.savefig(Path(self.args.output_dir) / PANEL_FILE, dpi=120)
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                    callback.tb_writer.add_figure("reconstructions", figure, self.state.global_step)


def _mean_losses(prediction):
    names = ("loss", "loss_visible_mean", "loss_best_constant")
    return dict(zip(names, prediction.predictions.mean(axis=0).tolist()))


class FineTuningTrainer(DrawTrainer):
    """`DrawTrainer` for `MAEForImageClassification`: layer-wise lr decay, mixup and CutMix, evaluation by accuracy.

    Evaluation gives `eval_loss` (cross-entropy), `eval_top1_accuracy` and, of more than five classes, `eval_top5_accuracy`.

    Args:
        model: `MAEForImageClassification`.
        args: `FineTuningArguments`.
        train_dataset, eval_dataset: `ImageDraws` with labels and a `FineTuningTransform` and a `CentreCropTransform`.
        processing_class: `MAEImageProcessor`.

    Example: `scripts/run_finetune.py`.
    """

    eval_metrics = ("loss", "top1_accuracy", "top5_accuracy")

    def __init__(self, model, args, *data, **kwargs):
        super().__init__(model, args, *data, compute_metrics=self._accuracies, **kwargs)
        self.label_smoother = None  # transformers', which would take the labels from the model; the mixing smooths
        self.mixing = self.make_mixing(args)

    def make_mixing(self, args):
        """What turns a training batch and its labels into mixed images and soft targets."""
        return PairMixing(self.model.config.num_labels, args.mixup, args.cutmix, args.label_smoothing_factor)

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
            inputs["pixel_values"], inputs["labels"] = self.mixing(inputs["pixel_values"], inputs["labels"], seed)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Cross-entropy (B,) and the five best classes (B, 5) of each image; its class, or -100 if it can't be decoded."""
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
        accuracies = metric.compute(predictions=ranked, references=prediction.label_ids[decoded], num_labels=num_labels)
        return {"loss": losses.mean().item(), **accuracies}


class LinearProbeTrainer(FineTuningTrainer):
    """The same for a frozen encoder: LARS without mixing (MAE paper, Table 10).

    Args:
        model: `MAEForImageClassification` after `freeze_encoder()`.
        args: `LinearProbeArguments`.
        train_dataset: `ImageDraws` with labels and a `LinearProbeTransform`; a `CentreCropTransform` if
            `args.cache_features` is true: then every image is encoded once, before training.
        eval_dataset: `ImageDraws` with labels and a `CentreCropTransform`.

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
        for buffer in self.model.buffers():  # the batch norm's, of which each process has its own and the first's is saved
            broadcast(buffer)
        return super().evaluate(*args, **kwargs)

    def cache_features(self):
        """Encodes every image of both data sets, once, and goes on with the features."""
        if isinstance(self.train_dataset, FeatureDraws):
            return
        features, labels = self.encode(self.train_dataset, "train")
        self.train_dataset = FeatureDraws(features[labels != -100], labels[labels != -100])
        if self.eval_dataset is not None:
            self.eval_dataset = FeatureDraws(*self.encode(self.eval_dataset, "validation"))
        self._report_bad_images()

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            groups = lars_groups(model or self.model, self.args.weight_decay)
            self.optimizer = Lars(groups, lr=self.args.learning_rate, momentum=0.9)
        return self.optimizer
