# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Features of images, computed once, to train a head on."""

from collections.abc import Sequence
from typing import Any

import torch

from .samples import Batch, Samples


class FeatureSamples(Samples):
    """Features that were computed once, in the order that `ImageSamples` have.

    Args:
        features: (N, D).
        labels: (N,), or (N, K) of several labels an image.
        dataset: The rows that they are of, for those who look for an image.
    """

    def __init__(self, features: torch.Tensor, labels: torch.Tensor, dataset: Any = None):
        self.dataset = dataset
        self.features = features
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def all_labels(self) -> torch.Tensor:
        """Gives the labels of all images."""
        return self.labels

    def __getitem__(self, number: int) -> Batch:
        return self.__getitems__([number])

    def __getitems__(self, numbers: Sequence[int]) -> Batch:
        """Makes a whole batch at once, for a sample is too small to be handled alone."""
        index = torch.tensor(numbers) % len(self)  # (B,)
        return {
            "features": self.features[index],
            "labels": self.labels[index],
            "index": index,
            "bad_images": [],
        }
