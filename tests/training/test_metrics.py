import math

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from hf_mae.training.metrics import TopKAccuracy, knn_accuracy, multi_label_metrics


def test_top_k_is_scikit_learns():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(500, 20)), rng.integers(0, 20, 500)
    ranked = np.argsort(-scores, axis=1)[:, :5]
    metric = TopKAccuracy(keep_in_memory=True)
    for part in (slice(0, 300), slice(300, 500)):
        metric.add_batch(predictions=ranked[part], references=labels[part])
    found = metric.compute(num_labels=20)
    for k in (1, 5):
        assert found[f"top{k}_accuracy"] == pytest.approx(
            top_k_accuracy_score(labels, scores, k=k, labels=range(20))
        )
    assert found["top1_accuracy"] < found["top5_accuracy"] < 1


def test_of_few_classes_there_is_no_top_5():
    metric = TopKAccuracy(keep_in_memory=True)
    assert metric.compute(predictions=[[1, 0, 2], [2, 1, 0]], references=[0, 2], num_labels=3) == {
        "top1_accuracy": 0.5
    }


@pytest.mark.parametrize("size", [300, 7])
def test_knn_against_a_loop(size):
    torch.manual_seed(0)
    centers = torch.randn(4, 16)
    bank_labels, query_labels = torch.randint(4, (size,)), torch.randint(4, (1500,))
    bank, queries = (
        centers[labels] + 1.5 * torch.randn(len(labels), 16)
        for labels in (bank_labels, query_labels)
    )
    right = 0
    for query, label in zip(queries.tolist(), query_labels.tolist()):
        cosines = []
        for row, row_label in zip(bank.tolist(), bank_labels.tolist()):
            dot = sum(a * b for a, b in zip(query, row))
            cosines.append((dot / math.hypot(*query) / math.hypot(*row), row_label))
        votes = [0.0] * 4
        for cosine, row_label in sorted(cosines, reverse=True)[:20]:
            votes[row_label] += math.exp(cosine / 0.07)
        right += votes.index(max(votes)) == label
    assert knn_accuracy(bank, bank_labels, queries, query_labels) == pytest.approx(
        right / 1500, abs=1e-3
    )
    assert 0.3 < right / 1500 < 0.99


# several labels an image -------------------------------------------------------------------------


def test_multi_label_metrics_against_loops():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (40, 3))
    scores = targets + rng.normal(0, 1, (40, 3))
    metrics = multi_label_metrics(scores, targets, ["a", "b", "c"])
    precisions, areas = [], []
    for k, name in enumerate("abc"):
        positives, negatives = scores[targets[:, k] == 1, k], scores[targets[:, k] == 0, k]
        wins = sum(p > n for p in positives for n in negatives)
        areas.append(wins / (len(positives) * len(negatives)))
        assert metrics[f"auroc_{name}"] == pytest.approx(areas[-1])
        ranked = targets[(-scores[:, k]).argsort(), k]
        found = [ranked[: i + 1].mean() for i in range(40) if ranked[i]]
        precisions.append(np.mean(found))
    assert metrics["mean_auroc"] == pytest.approx(np.mean(areas))
    assert metrics["mean_average_precision"] == pytest.approx(np.mean(precisions))


def test_labels_without_positives_are_said(monkeypatch):
    said = []
    monkeypatch.setattr("hf_mae.training.metrics.logger.warning_once", said.append)
    targets, scores = np.array([[1, 0, 1], [0, 0, 1]]), np.array([[2.0, 1, 1], [1, 2, 3]])
    metrics = multi_label_metrics(scores, targets, ["some", "none", "all"])
    assert metrics == {"mean_average_precision": 1.0, "mean_auroc": 1.0, "auroc_some": 1.0}
    assert "2 of 3 labels have no images with them, or none without" in said[0]
    assert said[0].endswith(": none, all")
    assert multi_label_metrics(scores[:, 1:], targets[:, 1:], ["none", "all"]) == {}
