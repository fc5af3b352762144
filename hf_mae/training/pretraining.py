# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The Trainer of pre-training, with held-out losses and reconstructions."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import EvalPrediction, TrainerCallback
from transformers.integrations.integration_utils import TensorBoardCallback
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
from .metrics import knn_accuracy
from .trainer import ImageTrainer


PANEL_IMAGES = 8
_BASELINES = ("loss_visible_mean", "loss_best_constant")


class MAETrainer(ImageTrainer):
    """`ImageTrainer` for `MAEForPreTraining`: AdamW, evaluation with fixed masks.

    Evaluation gives `eval_loss`, the losses of two baselines, a panel of reconstructions and, with
    a `knn_bank`, the k-NN accuracy of the features.

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
        return ("loss", *_BASELINES, "knn_accuracy")

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
        batch_size, _, height, width = images.shape
        size = (height, width)
        if size not in self._flops:
            config = self.model.config.changed(image_size=size)
            self._flops[size] = training_flops(MAEForPreTraining, config)
        return batch_size * self._flops[size]

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
        """Evaluates, draws the panel and compares with the k-NN bank."""
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        samples: Any = dataloader.dataset
        metrics: Any = output.metrics
        self._draw_panel(samples)
        if self.knn_bank is not None:
            accuracy = self._knn_accuracy(self.knn_bank, samples)
            metrics[f"{metric_key_prefix}_knn_accuracy"] = accuracy
        return output

    def _knn_accuracy(self, bank: Samples, queries: Samples) -> float:
        features, labels = self.encode(bank, "k-NN bank")
        query_features, query_labels = self.encode(queries, "validation")
        known, query_known = has_label(labels), has_label(query_labels)
        return knn_accuracy(
            features[known],
            labels[known],
            query_features[query_known],
            query_labels[query_known],
        )

    def _draw_panel(self, samples: Samples) -> None:
        """Draws the first held-out images into the output folder and TensorBoard."""
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
        figure.savefig(self.output_dir / PANEL_FILE, dpi=120)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                callback.tb_writer.add_figure("reconstructions", figure, self.state.global_step)


def _mean_losses(prediction: EvalPrediction) -> dict[str, float]:
    predictions: Any = prediction.predictions  # (images, 3)
    losses = predictions.mean(axis=0).tolist()
    return dict(zip(("loss", *_BASELINES), losses))
