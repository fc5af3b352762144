# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The encoder with a classification head.

Letters in the shape comments are those of modeling_mae.py.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from .configuration_mae import MAEConfig
from .modeling_base import MAEPreTrainedModel
from .modeling_mae import MAEModel
from .problem_types import REGRESSION, SINGLE_LABEL, classification_loss, find_problem_type


logger = logging.get_logger(__name__)


class HeadBatchNorm(nn.BatchNorm1d):
    """Batch norm without affine parameters, which can be told the statistics of its batch.

    So features that are spread over processes and accumulation steps are normalised as one batch.
    """

    def __init__(self, width: int):
        super().__init__(width, eps=1e-6, affine=False)

    def forward(self, features: Tensor, statistics: Tensor | None = None) -> Tensor:
        """Normalises features (B, D); in training by `statistics`, or if None by their own.

        Args:
            features: (B, D).
            statistics: (B, 2, D), mean and variance, the same for all.
        """
        if statistics is None or not self.training:
            return super().forward(features)
        mean, variance = statistics.unbind(dim=1)  # (B, D)
        return (features - mean) * torch.rsqrt(variance + self.eps)

    @torch.no_grad()
    def track(self, statistics: Tensor, count: int) -> None:
        """Takes a batch's statistics into the running ones, unless they are not finite.

        Args:
            statistics: (2, D), mean and variance.
            count: Features in the batch.
        """
        mean, variance = statistics
        unbiased = variance * count / max(count - 1, 1)
        is_finite = torch.isfinite(statistics).all()
        norm: Any = self  # torch's types have it without running statistics, too
        for running, value in ((norm.running_mean, mean), (norm.running_var, unbiased)):
            running.copy_(torch.where(is_finite, running.lerp(value, norm.momentum), running))
        norm.num_batches_tracked += 1


class MAEForImageClassification(MAEPreTrainedModel):
    """The encoder with a classification head, for fine-tuning and linear probing.

    `config.pooling` says what the head sees: `"mean"`, the mean of the patch tokens behind a norm
    of its own (fine-tuning, MAE paper Appendix A.1), or `"cls"`, the class token behind the
    encoder's norm; then, with `config.head_batch_norm`, a batch norm without affine parameters
    (linear probe, same place). The position table is trained along.

    Loaded from a pre-training folder (ours or `vit_mae`), the head is new.

    Example:

    >>> import torch
    >>> from hf_mae import MAEConfig, MAEForImageClassification
    >>> model = MAEForImageClassification(MAEConfig.from_size("tiny", num_labels=10))
    >>> model(torch.rand(2, 3, 224, 224), labels=torch.tensor([3, 7])).logits.shape
    torch.Size([2, 10])
    """

    _keys_to_ignore_on_load_unexpected = [
        r"^decoder\.",
        r"^vit\.layernorm\.",
        r"^layernorm\.",
        r"pooler\.",
    ]

    def __init__(self, config: MAEConfig):
        config = copy.deepcopy(config)  # the caller's stays as it is
        config.final_norm = config.pooling == "cls"
        super().__init__(config)
        width = config.hidden_size
        self.vit = MAEModel(config, trainable_positions=True)
        norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.fc_norm = nn.Identity() if config.final_norm else norm
        self.batch_norm = HeadBatchNorm(width) if config.head_batch_norm else nn.Identity()
        num_labels: Any = config.num_labels  # transformers has given it a value
        self.classifier = nn.Linear(width, num_labels)
        self.encoder_frozen = False
        self.post_init()

    def freeze_encoder(self) -> "MAEForImageClassification":
        """Leaves the encoder as it is from now on, and returns the model.

        It gets no gradients, and stays in evaluation mode whatever the head's is.
        """
        self.encoder_frozen = True
        self.vit.requires_grad_(False)
        return self.train(self.training)

    def train(self, mode: bool = True) -> "MAEForImageClassification":
        super().train(mode)
        if self.encoder_frozen:
            self.vit.eval()
        return self

    def reset_head(self, std: float) -> None:
        """Gives the linear layer new weights, of this standard deviation."""
        nn.init.trunc_normal_(self.classifier.weight, std=std)
        nn.init.zeros_(self.classifier.bias)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        features: Tensor | None = None,
        batch_statistics: Tensor | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutput:
        """Classifies images.

        Args:
            pixel_values: (B, C, H, W), as for `MAEModel`.
            labels: By `config.problem_type`: of "single_label_classification" (B,) class numbers,
                or (B, num_labels) probabilities (of mixed images, say), for cross-entropy; of
                "multi_label_classification" (B, num_labels) in [0, 1], for binary cross-entropy;
                of "regression" (B, num_labels), or (B,) of one, for the squared error. Where it is
                None the labels say it, as `find_problem_type` has it, and it is set if that isn't
                "single_label_classification".
            features: (B, D), the encoder's `pooler_output` computed before, instead of
                pixel_values.
            batch_statistics: (B, 2, D), mean and variance of the features of the whole batch that
                these are a part of, the same for all: what the head's batch norm goes by in
                training, instead of its input's own.
            kwargs: `interpolate_pos_encoding` and `drop_path_noise`, as for `MAEModel`.

        Returns:
            `ImageClassifierOutput`: loss (scalar, if labels are given), logits (B, num_labels), and
                the encoder's hidden_states and attentions on request.

        Raises:
            ValueError: as `MAEModel`; both or neither of pixel_values and features are given; or
                the labels aren't what the problem type takes.
        """
        if (pixel_values is None) == (features is None):
            raise ValueError("give either pixel_values or features")
        encoded = None
        if features is None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_frozen):
                encoded = self.vit(pixel_values, return_dict=True, **kwargs)
            features = encoded.pooler_output
        features = self.fc_norm(features)
        if isinstance(self.batch_norm, HeadBatchNorm):
            features = self.batch_norm(features, batch_statistics)
        logits = self.classifier(features)
        return ImageClassifierOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            hidden_states=encoded.hidden_states if encoded else None,
            attentions=encoded.attentions if encoded else None,
        )

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return classification_loss(logits, labels, self.settle_problem_type(labels))

    @property
    def problem_type(self) -> str:
        """What the configuration says, or if it says nothing what most labels would mean."""
        config: Any = self.config
        if config.problem_type is None:
            return REGRESSION if config.num_labels == 1 else SINGLE_LABEL
        return config.problem_type

    def settle_problem_type(self, labels: Tensor) -> str:
        """Finds what labels mean, and notes in the configuration if they aren't of classes."""
        config: Any = self.config
        if config.problem_type is not None:
            return config.problem_type
        found = find_problem_type(labels, config.num_labels)
        if found != SINGLE_LABEL:
            logger.warning(f"config.problem_type is set to {found!r}, as the labels are")
            config.problem_type = found
        return found


__all__ = ["MAEForImageClassification"]
