# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""How good a classification or a representation is."""

from collections.abc import Mapping, Sequence

import datasets
import evaluate
import numpy as np
import torch
from torch.nn import functional as F
from transformers.utils import logging

from ..models.problem_types import MULTI_LABEL, REGRESSION


logger = logging.get_logger(__name__)

FEW_IMAGES = 50
_WIDE = 0.2  # of a confidence interval

# metric → what a card and the result call it; beside these there is auroc_NAME of each label
_RESULT_NAMES = {
    "top1_accuracy": "top-1 accuracy",
    "top5_accuracy": "top-5 accuracy",
    "balanced_accuracy": "balanced accuracy",
    "mean_average_precision": "mAP",
    "mean_auroc": "mean AUROC",
    "mean_absolute_error": "mean absolute error",
    "root_mean_squared_error": "root mean squared error",
    "r2": "R2",
}


class TopKAccuracy(evaluate.Metric):
    """Top-1 and top-5 accuracy as a local `evaluate.Metric`.

    Predictions are the best five classes of an image, or all if there are fewer, from the most
    probable down; references its class. With `num_labels` of five or fewer, top-5 says nothing and
    is left out.

    Example:

    >>> ranked = [[3, 1, 0, 2, 4], [1, 3, 0, 2, 4]]
    >>> TopKAccuracy().compute(predictions=ranked, references=[3, 0], num_labels=10)
    {'top1_accuracy': 0.5, 'top5_accuracy': 1.0}
    """

    def _info(self) -> evaluate.MetricInfo:
        features = {
            "predictions": datasets.Sequence(datasets.Value("int64")),
            "references": datasets.Value("int64"),
        }
        return evaluate.MetricInfo(
            description="Share of images whose class is the first, or among the first five, of "
            "those predicted.",
            citation="",
            inputs_description="predictions: classes from the most probable down; references: the "
            "class",
            features=datasets.Features(features),
        )

    def _compute(
        self, predictions: Sequence[Sequence[int]], references: Sequence[int], num_labels: int
    ) -> dict[str, float]:
        hits = np.asarray(predictions) == np.asarray(references)[:, None]  # (images, 5)
        accuracies = {"top1_accuracy": hits[:, 0].mean().item()}
        if num_labels > 5:
            accuracies["top5_accuracy"] = hits[:, :5].any(axis=1).mean().item()
        return accuracies


def measure(
    problem_type: str, logits: torch.Tensor, labels: torch.Tensor, names: Sequence[str]
) -> dict[str, float]:
    """Measures a classifier's logits by what its problem type goes by.

    Args:
        problem_type: One of `models/problem_types.py`.
        logits: (N, K).
        labels: (N,) class numbers; (N, K) of several labels an image; or values as logits.
        names: K names.

    Returns:
        `top1_accuracy`, perhaps `top5_accuracy`, and `balanced_accuracy`, the mean over the classes
        that have images of the share that is recognised; or what `multi_label_metrics` returns; or
        `mean_absolute_error`.
    """
    if problem_type == MULTI_LABEL:
        return multi_label_metrics(logits.numpy(), labels.numpy(), names)
    if problem_type == REGRESSION:
        error = (logits - labels.view_as(logits)).abs().mean().item()
        return {"mean_absolute_error": error}
    ranked = logits.topk(min(5, logits.shape[1])).indices
    accuracies = TopKAccuracy(keep_in_memory=True).compute(
        predictions=ranked, references=labels, num_labels=logits.shape[1]
    )
    return {**(accuracies or {}), "balanced_accuracy": _balanced_accuracy(ranked[:, 0], labels)}


def _balanced_accuracy(answers: torch.Tensor, labels: torch.Tensor) -> float:
    hits = (answers == labels).double()
    right, images = labels.bincount(weights=hits), labels.bincount()
    return (right / images)[images > 0].mean().item()


def multi_label_metrics(
    scores: np.ndarray, targets: np.ndarray, names: Sequence[str]
) -> dict[str, float]:
    """Measures how well scores order images by each label.

    Args:
        scores: (N, K), logits or probabilities.
        targets: (N, K), 1 where an image has the label.
        names: K names.

    Returns:
        `mean_average_precision`, `mean_auroc` and `auroc_NAME` of each label. A label that no
        image has, or every one, has no AUROC: it is left out of all of them, and said so.

    Example:

    >>> multi_label_metrics(np.array([[2.0], [1.0], [3.0]]), np.array([[1], [0], [1]]), ["cat"])
    {'mean_average_precision': 1.0, 'mean_auroc': 1.0, 'auroc_cat': 1.0}
    """
    precisions, areas, undefined = [], {}, []
    for number, name in enumerate(names):
        area, precision = label_areas(scores[:, number], targets[:, number] >= 0.5)
        if area is None:
            undefined.append(name)
            continue
        precisions.append(precision)
        areas[f"auroc_{name}"] = area
    if undefined:
        logger.warning_once(
            f"{len(undefined)} of {len(names)} labels have no images with them, or none without, "
            f"and are left out of mAP and AUROC: {', '.join(undefined)}"
        )
    if not areas:
        return {}
    means = {
        "mean_average_precision": float(np.mean(precisions)),
        "mean_auroc": float(np.mean(list(areas.values()))),
    }
    return means | areas


def label_areas(scores: np.ndarray, has_it: np.ndarray) -> tuple[float | None, float | None]:
    """Computes a label's AUROC and average precision, of scores (N,) and who has it, (N,).

    Both are None of a label that no image has, or every one.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    if has_it.all() or not has_it.any():
        return None, None
    return float(roc_auc_score(has_it, scores)), float(average_precision_score(has_it, scores))


def value_metrics(values: np.ndarray, targets: np.ndarray) -> dict[str, float | None]:
    """Measures predicted values (N,) beside the mean absolute error.

    Returns:
        `root_mean_squared_error`, and `r2`, the share of the targets' variance that is explained;
        None where they don't vary.

    Example:

    >>> value_metrics(np.array([1.0, 3.0]), np.array([1.0, 5.0]))
    {'root_mean_squared_error': 1.4142135623730951, 'r2': 0.5}
    """
    squares = float(np.square(values - targets).mean())
    variance = float(targets.var())
    r2 = 1 - squares / variance if variance > 0 else None
    return {"root_mean_squared_error": squares**0.5, "r2": r2}


def class_rates(has_it: np.ndarray, answered: np.ndarray) -> dict[str, float | int | None]:
    """Measures how well one class, or one label, is told from all else.

    Args:
        has_it: (N,) whether an image is of the class.
        answered: (N,) whether the model says so.

    Returns:
        `images` of the class, `answered` and `right`; `precision`, `recall`, `accuracy` (of whether
        it is the class) and `f1`, the first three with `…_low` and `…_high`, the Wilson interval of
        95 % confidence. What there is nothing to measure on is None.

    Example:

    >>> rates = class_rates(np.array([True, True, False]), np.array([True, False, False]))
    >>> rates["precision"], rates["recall"], rates["f1"]
    (1.0, 0.5, 0.6666666666666666)
    """
    images, said = int(has_it.sum()), int(answered.sum())
    right = int((has_it & answered).sum())
    agreed = int((has_it == answered).sum())
    rates: dict[str, float | int | None] = {"images": images, "answered": said, "right": right}
    of = {"precision": (right, said), "recall": (right, images), "accuracy": (agreed, len(has_it))}
    for name, (hits, count) in of.items():
        share = hits / count if count else None
        low, high = accuracy_interval(share, count) if share is not None else (None, None)
        rates |= {name: share, f"{name}_low": low, f"{name}_high": high}
    rates["f1"] = 2 * right / (images + said) if images + said else None
    return rates


def metric_names(problem_type: str, names: Sequence[str]) -> list[str]:
    """Lists what `measure` can return."""
    if problem_type == MULTI_LABEL:
        return ["mean_average_precision", "mean_auroc", *(f"auroc_{name}" for name in names)]
    if problem_type == REGRESSION:
        return ["mean_absolute_error"]
    return ["top1_accuracy", "top5_accuracy", "balanced_accuracy"]


def result_name(metric: str) -> str | None:
    """Says what a card and the result call a metric; None if they don't have it."""
    if metric.startswith("auroc_"):
        return f"AUROC of {metric.removeprefix('auroc_')}"
    return _RESULT_NAMES.get(metric)


def format_result(name: str, value: float) -> str:
    """Writes a metric, under either name: errors and R2 as they are, all others in per cent."""
    return f"{value:.4g}" if name.lower().endswith(("error", "r2")) else f"{value:.2%}"


# how far they can be trusted ---------------------------------------------------------------------


def accuracy_interval(accuracy: float, num_images: int) -> tuple[float, float]:
    """Computes the Wilson interval of 95 % confidence of an accuracy.

    Args:
        accuracy: Share of images.
        num_images: That it was measured on.

    Example:

    >>> low, high = accuracy_interval(0.5, num_images=10)
    >>> round(low, 3), round(high, 3)
    (0.237, 0.763)
    """
    from scipy.stats import binomtest

    result = binomtest(round(accuracy * num_images), num_images)
    interval = result.proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def largest_share(labels: torch.Tensor) -> float:
    """Computes the share of the commonest class among labels (N,): what is right by chance."""
    return labels.bincount().max().item() / len(labels)


def describe_doubts(results: Mapping[str, float], labels: torch.Tensor) -> list[str]:
    """Says how far results can be trusted, where that isn't far.

    Of an accuracy that is if it was measured on few images, its interval is wide, or it may be no
    better than always answering the commonest class; of others, if there are few images.

    Args:
        results: By name, those of `result_name` or "k-NN accuracy".
        labels: Of the images that they were measured on, (N,) classes, (N, K) or (N,) values.

    Returns:
        Sentences, perhaps none.
    """
    n = len(labels)
    if labels.ndim == 2 or labels.is_floating_point():
        few = f"These figures are of {n} images alone; on others they may be far from that."
        return [few] if results and n < FEW_IMAGES else []
    doubts = []
    for name in ("top-1 accuracy", "k-NN accuracy"):
        if name not in results:
            continue
        low, high = accuracy_interval(results[name], n)
        if n >= FEW_IMAGES and high - low <= _WIDE and low > largest_share(labels):
            continue
        doubt = (
            f"The {name} is of {n:,} images: with 95 % confidence it is between {low:.1%} and "
            f"{high:.1%} (Wilson interval)"
        )
        if low <= largest_share(labels):
            share = f"{largest_share(labels):.1%}"
            doubt += f", and always answering the commonest class gives {share}"
        doubts.append(f"{doubt}.")
    return doubts


# of features -------------------------------------------------------------------------------------


def knn_accuracy(
    bank: torch.Tensor,
    bank_labels: torch.Tensor,
    queries: torch.Tensor,
    query_labels: torch.Tensor,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Computes the share of queries whose class their nearest neighbours elect.

    Each of k neighbours has a vote of weight exp(cosine / temperature) (Wu et al., arXiv
    1805.01978, with the k and temperature that DINO, arXiv 2104.14294, uses).

    Args:
        bank, queries: Features (N, D) and (M, D).
        bank_labels, query_labels: Class numbers (N,) and (M,).
        k: Neighbours that vote.
        temperature: Of their votes.

    Example:

    >>> features, labels = torch.eye(4), torch.tensor([0, 1, 2, 3])
    >>> knn_accuracy(features, labels, features[:2] + 0.1, labels[:2], k=2)
    1.0
    """
    bank = F.normalize(bank.float(), dim=1)
    num_classes = int(bank_labels.max()) + 1
    right = 0
    for features, labels in zip(queries.split(1024), query_labels.split(1024)):
        cosines = F.normalize(features.float(), dim=1) @ bank.T  # (1024, N)
        similarity, nearest = cosines.topk(min(k, len(bank)), dim=1)  # (1024, k)
        votes = torch.zeros(len(features), num_classes, device=bank.device)
        votes.scatter_add_(1, bank_labels[nearest], (similarity / temperature).exp())
        right += (votes.argmax(dim=1) == labels).sum().item()
    return right / len(queries)


def rank_me(features: torch.Tensor) -> float:
    """Computes how many directions features use: RankMe (Garrido et al., arXiv 2210.02885).

    It needs no labels; between runs on the same images the higher tends to be the better, and a
    fall in a run is a collapse. It is at most the number of features, or their width.

    Args:
        features: (N, D).

    Example:

    >>> round(rank_me(torch.eye(4)), 3)
    4.0
    """
    singular = torch.linalg.svdvals(features.double())  # (min(N, D),)
    shares = singular / singular.sum().clamp(min=1e-12) + 1e-7  # as in the paper's equation 1
    return (-(shares * shares.log()).sum()).exp().item()
