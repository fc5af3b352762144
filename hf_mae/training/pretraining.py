# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The Trainer of pre-training, with held-out losses and reconstructions."""

import math
from pathlib import Path

import torch
from transformers.integrations import TensorBoardCallback

from ..data.resolution import TransformSchedule
from ..data.samples import collate
from ..data.transforms import PretrainingTransform
from ..models.costs import training_flops
from ..models.functional import baseline_losses, masked_losses, patchify, pixel_target
from ..models.masking import random_masking
from ..models.modeling_mae import MAEForPreTraining
from ..output_folder import PANEL_FILE
from .metrics import knn_accuracy
from .trainer import ImageTrainer
from .visualization import reconstruction_panel


PANEL_IMAGES = 8


class MAETrainer(ImageTrainer):
    """`ImageTrainer` for `MAEForPreTraining`: AdamW, evaluation with fixed masks.

    Evaluation gives `eval_loss`, the losses of two baselines, a panel of reconstructions and, with
    `args.knn_images`, the k-NN accuracy of the features.

    Args:
        model: `MAEForPreTraining`.
        args: `MAETrainingArguments`.
        train_dataset, eval_dataset: `ImageSamples` with a `PretrainingTransform` and a
            `MaskedEvaluationTransform`.
        processing_class: `MAEImageProcessor`.
        knn_bank: `ImageSamples` with labels and a `CenterCropTransform`: what held-out images,
            which then must have labels too, are compared with.

    Example: `scripts/run_mae.py`.
    """

    eval_metrics = ("loss", "loss_visible_mean", "loss_best_constant", "knn_accuracy")

    def __init__(self, model, args, *data, knn_bank=None, **kwargs):
        super().__init__(model, args, *data, compute_metrics=_mean_losses, **kwargs)
        self.knn_bank = knn_bank
        *_, num_visible = random_masking(
            torch.zeros(1, model.config.num_patches), model.config.mask_ratio
        )
        if num_visible == model.config.num_patches:
            raise ValueError(
                f"mask_ratio is {model.config.mask_ratio}: no patch is masked, so there is nothing "
                "to learn"
            )
        self._flops = {}  # of an image, by its size
        if args.resolution_schedule:
            self.train_dataset.transform = self._resolution_schedule()

    def _resolution_schedule(self):
        """`TransformSchedule` of `args.resolution_schedule`.

        Raises:
            ValueError: a size is impossible for the model, the last is not the model's, or the run
                is too short for all.
        """
        config, resolutions = self.model.config, self.args.resolutions
        sizes = list(resolutions.values())
        if (sizes[-1], sizes[-1]) != config.image_hw:
            raise ValueError(
                f"resolution_schedule ends with {sizes[-1]} pixels and the model's image_size is "
                f"{config.image_size}; they "
                "must be the same, a square"
            )
        transforms = [PretrainingTransform(config.changed(image_size=size)) for size in sizes]
        epochs = self.planned_updates / self.updates_per_epoch
        starts = [
            math.ceil(round(share * epochs, 6)) for share in resolutions
        ]  # 0.55 * 100 is more than 55
        if starts != sorted(set(starts)) or starts[-1] >= epochs:
            raise ValueError(
                f"resolution_schedule changes sizes at whole epochs and the run has {epochs:.4g}: "
                "they would start at "
                f"epochs {', '.join(map(str, starts))}, so that some are never trained at; train "
                "longer or take fewer sizes"
            )
        return TransformSchedule(dict(zip(starts, transforms)))

    def compute_loss(self, model, inputs, *args, **kwargs):
        if self.args.resolution_schedule:
            inputs = {
                **inputs,
                "interpolate_pos_encoding": True,
            }  # positions for whatever grid the images have
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
        """Losses of each image (B, 3): the model's and two baselines'; labels are the image
        numbers."""
        index = self._take_notes(inputs, "validation")
        inputs.pop("labels", None)
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
        config = self.model.config
        target = pixel_target(
            patchify(inputs["pixel_values"], config.patch_hw), config.norm_pix_loss
        )
        losses = masked_losses(outputs.logits, target, outputs.mask)
        return None, torch.stack([losses, *baseline_losses(target, outputs.mask)], dim=1), index

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        self._draw_panel()
        if self.knn_bank is not None:
            bank, queries = (
                self.encode(self.knn_bank, "k-NN bank"),
                self.encode(self.eval_dataset, "validation"),
            )
            pairs = (
                (features[labels != -100], labels[labels != -100])
                for features, labels in (bank, queries)
            )
            output.metrics[f"{metric_key_prefix}_knn_accuracy"] = knn_accuracy(
                *next(pairs), *next(pairs)
            )
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
