# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""How good a classification or a representation is."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
import torch
from torch.nn import functional as F


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
