# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What a classifier's logits and labels mean: `config.problem_type`, by transformers' names.

| problem type | labels | loss | answer |
|---|---|---|---|
| single_label_classification | (B,) classes, or (B, K) probabilities | cross-entropy | softmax |
| multi_label_classification | (B, K) in [0, 1], each by itself | binary cross-entropy | sigmoid |
| regression | (B, K), or (B,) where K is 1 | squared error | the value |
"""

from torch import Tensor
from torch.nn import functional as F


SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"

_SUM_TOLERANCE = 1e-2  # of probabilities in bfloat16


def find_problem_type(labels: Tensor, num_labels: int) -> str:
    """Finds what labels mean, for a model whose configuration doesn't say it.

    As in transformers, but that floats whose rows sum to 1 are probabilities of classes.

    Example:

    >>> find_problem_type(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), num_labels=3)
    'multi_label_classification'
    """
    if num_labels == 1:
        return REGRESSION
    if labels.is_floating_point() and labels.ndim == 2:
        off_by = (labels.float().sum(dim=1) - 1).abs()  # (B,)
        return SINGLE_LABEL if bool((off_by < _SUM_TOLERANCE).all()) else MULTI_LABEL
    return SINGLE_LABEL


def classification_loss(
    logits: Tensor, labels: Tensor, problem_type: str, weights: Tensor | None = None
) -> Tensor:
    """Computes the mean loss (a scalar) of logits (B, K), in float32.

    Args:
        logits: (B, K).
        labels: As in the table above.
        problem_type: One of the three.
        weights: What each loss counts in the mean, (B,) of an image's or (B, K) of a label's.

    Raises:
        ValueError: the labels have another shape.
    """
    logits = logits.float()
    reduction = "mean" if weights is None else "none"
    losses = _losses(logits, labels, problem_type, reduction)
    return losses if weights is None else (losses * weights).mean()


def _losses(logits: Tensor, labels: Tensor, problem_type: str, reduction: str) -> Tensor:
    if problem_type == SINGLE_LABEL and not labels.is_floating_point():
        _check_shape(labels, (), problem_type)
        return F.cross_entropy(logits, labels.long(), reduction=reduction)
    if problem_type == REGRESSION and logits.shape[1] == 1 and labels.ndim == 1:
        labels = labels.unsqueeze(1)  # (B, 1)
    _check_shape(labels, tuple(logits.shape[1:]), problem_type)
    labels = labels.float()
    if problem_type == SINGLE_LABEL:
        return F.cross_entropy(logits, labels, reduction=reduction)
    if problem_type == MULTI_LABEL:
        return F.binary_cross_entropy_with_logits(logits, labels, reduction=reduction)
    return F.mse_loss(logits, labels, reduction=reduction)


def _check_shape(labels: Tensor, row: tuple[int, ...], problem_type: str) -> None:
    """Raises ValueError unless the labels of an image have this shape."""
    if tuple(labels.shape[1:]) != row:
        kind = "floats" if labels.is_floating_point() else "whole numbers"
        wanted = f"{row[0]} numbers" if row else "one class number"
        raise ValueError(
            f"labels are {kind} of shape {tuple(labels.shape)}; {problem_type} takes {wanted} an "
            "image (several labels an image are floats, of shape (B, num_labels))"
        )


def answer_scores(logits: Tensor, problem_type: str | None) -> Tensor:
    """Turns logits (…, K) into what a model answers, as transformers' pipeline() does.

    That is the softmax; of several labels, or a single logit whose meaning the configuration
    doesn't say, the sigmoid; of a regression the value.
    """
    logits = logits.float()
    if problem_type == REGRESSION:
        return logits
    if problem_type == MULTI_LABEL or logits.shape[-1] == 1:
        return logits.sigmoid()
    return logits.softmax(dim=-1)
