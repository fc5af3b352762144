# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Classes of unequal size: their counts, what each weighs in the loss, and how it is said."""

from collections.abc import Sequence

import torch

from ..data.labels import count_labels, has_label
from .arguments import ClassifierArguments


_NAMED = 5  # of the largest and of the smallest classes


def balanced_weights(labels: torch.Tensor, num_labels: int) -> torch.Tensor:
    """Computes what each class weighs in the loss, by inverse frequency.

    That is scikit-learn's "balanced": n / (K * n_c) of n images, K classes and n_c images of a
    class. So the mean of the weights over all images is 1 and the learning rate keeps its meaning.
    Several labels an image are as many problems of two classes: having it weighs n / (2 * n_c) and
    not having it n / (2 * (n - n_c)), which is a `pos_weight` of (n - n_c) / n_c at the same mean.
    Nothing is clipped.

    Args:
        labels: Those of the training images, (N,) class numbers or (N, K).
        num_labels: K.

    Returns:
        (K,) weights, or (K, 2) of not having a label and having it. What no image has weighs 1 and
        isn't among the K classes.

    Example:

    >>> balanced_weights(torch.tensor([0, 0, 0, 1]), num_labels=2)
    tensor([0.6667, 2.0000])
    """
    counts = count_labels(labels, num_labels)  # (K,)
    if labels.ndim == 2:
        total = int(has_label(labels).sum())
        counts = torch.stack([total - counts, counts], dim=1)  # (K, 2)
    num_classes = (counts > 0).sum(dim=-1, keepdim=True)
    weights = counts.sum(dim=-1, keepdim=True) / (num_classes * counts)
    return torch.where(counts > 0, weights, 1.0)


def weights_of(labels: torch.Tensor, class_weights: torch.Tensor) -> torch.Tensor:
    """Looks up the weights (B,) or (B, K) of a batch's labels, as `balanced_weights` has them."""
    class_weights = class_weights.to(labels.device)
    if labels.ndim == 1:
        return class_weights[labels]
    return torch.where(labels >= 0.5, class_weights[:, 1], class_weights[:, 0])


# in words ----------------------------------------------------------------------------------------


def describe_method(method: str, args: ClassifierArguments) -> str:
    """Says after how a classifier was trained what was done about unequal classes, if it was."""
    if args.class_weights == "balanced":
        return f"{method} Its loss weighed classes by inverse frequency (`class_weights`)."
    if args.class_sampling == "balanced":
        return f"{method} It saw images of every class equally often (`class_sampling`)."
    return method


def describe_labels(labels: torch.Tensor, names: Sequence[str]) -> dict[str, str]:
    """Describes the labels of the training images in lines of the plan.

    Args:
        labels: (N,) class numbers, (N, K) of several labels an image, or (N,) values.
        names: K names.

    Returns:
        What they are → their counts, the largest and smallest five; or of values the range.
    """
    if labels.is_floating_point() and labels.ndim == 1:
        low, mean, high = labels.min(), labels.double().mean(), labels.max()
        return {"values": f"from {low:.4g} to {high:.4g}, mean {mean:.4g}"}
    counts = count_labels(labels, len(names))
    order = counts.argsort(descending=True, stable=True).tolist()
    listed = [f"{names[label]} {counts[label]:,}" for label in order]
    text = f"{', '.join(listed)}"
    if len(listed) > 2 * _NAMED:
        most, fewest = ", ".join(listed[:_NAMED]), ", ".join(listed[-_NAMED:])
        text = f"{len(listed):,}, most images: {most}; fewest: {fewest}"
    if labels.ndim == 1:
        return {"classes": text}
    without = int((labels.sum(dim=1) == 0).sum())
    return {"labels": f"{text}; {without:,} images have none"}


def describe_balance(
    labels: torch.Tensor, names: Sequence[str], args: ClassifierArguments, epoch_samples: int
) -> dict[str, str]:
    """Describes in a line of the plan what is done about unequal classes; empty if nothing is.

    Args:
        labels: As for `describe_labels`.
        names: K names.
        args: The run's.
        epoch_samples: Samples in an epoch.
    """
    if args.class_weights == "balanced":
        weights = balanced_weights(labels, len(names))
        if labels.ndim == 2:
            weights = weights[:, 1]
        lightest, heaviest = int(weights.argmin()), int(weights.argmax())
        kind = "images of a class" if labels.ndim == 1 else "images with a label"
        return {
            "weights": f"{kind} count in the loss by inverse frequency, from "
            f"{weights[lightest]:.3g} times ({names[lightest]}) to {weights[heaviest]:.3g} times "
            f"({names[heaviest]})"
        }
    if args.class_sampling == "balanced":
        counts = count_labels(labels, len(names))
        there = counts[counts > 0]
        places = epoch_samples / len(there)
        return {
            "samples": f"{places:.4g} of each class an epoch, each image "
            f"{places / there.max():.3g} to {places / there.min():.3g} times"
        }
    return {}
