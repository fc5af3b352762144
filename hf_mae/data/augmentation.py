# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""timm's augmentation under our seeds: RandAugment, random erasing, mixup and CutMix."""

import contextlib
import random
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import RandAugment, posterize, rand_augment_transform
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from torch.nn import functional as F


Box = tuple[int, int, torch.Tensor]  # top, left, and the noise (C, h, w) that covers it


@contextlib.contextmanager
def global_generators(rng: np.random.Generator) -> Iterator[None]:
    """Lets the global generators follow from `rng` for a while.

    For libraries that draw from those of random, numpy and torch (CPU). Afterwards they are as they
    were.
    """
    seed = int(rng.integers(2**32))
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


# RandAugment -------------------------------------------------------------------------------------


def make_rand_augment(policy: str, image_hw: tuple[int, int], mean: Sequence[float]) -> RandAugment:
    """Makes timm's RandAugment, which turns a PIL image into another.

    Args:
        policy: timm's name of it, as rand-m9-mstd0.5-inc1.
        image_hw: (height, width) of the images.
        mean: Mean of each channel, in [0, 1]: fills what is moved in from outside.

    Raises:
        ValueError: there is no such policy, or the images have channels that it isn't made for.
    """
    if not re.fullmatch(r"rand(-(m\d+|n\d+|p[\d.]+|mstd[\d.]+|mmax\d+|inc[01]|t\w+))+", policy):
        raise ValueError(
            f"auto_augment is {policy!r}; it must be a policy of timm's RandAugment (rand-m9-…) or "
            "'none'"
        )
    if len(mean) not in (1, 3):
        raise ValueError(
            f"auto_augment works on 1 or 3 channels and the model has {len(mean)}; pass "
            "--auto_augment none"
        )
    fill = tuple(min(255, round(255 * value)) for value in mean)
    parameters = {
        "translate_const": int(min(image_hw) * 0.45),
        "img_mean": fill if len(fill) == 3 else fill[0],
        "interpolation": Image.Resampling.BICUBIC,
    }
    augment = rand_augment_transform(policy, parameters)
    for op in augment.ops:
        if op.name.startswith("Posterize"):
            op.aug_fn = _posterize
    return augment


def _posterize(image: Image.Image, bits: int, **kwargs) -> Image.Image:
    # RandAugment's increasing magnitudes go down to 0 bits, which is a black picture; Pillow 13
    # refuses to make that
    return posterize(image, bits, **kwargs) if bits > 0 else Image.new(image.mode, image.size)


def augment_pixels(augment: RandAugment, pixels: torch.Tensor) -> torch.Tensor:
    """Augments pixels (C, H, W) of 1 or 3 channels; what is deeper than 8 bits is rounded."""
    if pixels.is_floating_point():
        return augment_pixels(augment, pixels.round().to(torch.uint8)).float()
    is_grey = len(pixels) == 1
    array = pixels.squeeze(0).numpy() if is_grey else pixels.permute(1, 2, 0).numpy()
    array = np.array(augment(Image.fromarray(array)))
    array = array.reshape(*array.shape[:2], len(pixels))  # (H, W, C)
    return torch.from_numpy(array).permute(2, 0, 1)


# random erasing ----------------------------------------------------------------------------------


def choose_erasing(probability: float, shape: torch.Size) -> Box | None:
    """Chooses a box of an image (C, H, W) to erase, and the noise over it, as timm does.

    Args:
        probability: How likely there is one.
        shape: (C, H, W).
    """
    erasing = RandomErasing(probability, mode="pixel", device="cpu")
    canvas = erasing(torch.full(shape, torch.nan))  # (C, H, W), numbers where it is erased
    erased = canvas[0].isfinite()
    rows = erased.any(dim=1).nonzero().flatten()
    columns = erased.any(dim=0).nonzero().flatten()
    if not len(rows):
        return None
    top, left = int(rows[0]), int(columns[0])
    return top, left, canvas[:, top : rows[-1] + 1, left : columns[-1] + 1].clone()


def erase(pixel_values: torch.Tensor, boxes: Iterable[Box | None]) -> None:
    """Puts noise over boxes of images (B, C, H, W), in place; a box is None for no erasing."""
    for image, box in zip(pixel_values, boxes):
        if box is not None:
            top, left, noise = box
            _, height, width = noise.shape
            image[:, top : top + height, left : left + width] = noise


# mixing ------------------------------------------------------------------------------------------


class PairMixing:
    """Mixup and CutMix with label smoothing (MAE paper, Table 9), by timm, of pairs of samples.

    Samples 0 and 1, 2 and 3, … of a batch are mixed. The authors choose one mixing a batch; here
    each pair has its own, which follows from its first sample's `mix_seed`. An image is mixed as
    often and as much, and what becomes of it doesn't depend on how samples are spread over batches,
    processes and accumulation steps.

    Args:
        num_labels: Classes.
        mixup, cutmix: Alpha of the Beta distribution of their shares; 0 for none. With both, each
            half of the time.
        label_smoothing: Share of a label that is spread over all classes; of several labels an
            image, each by itself, over having it and not having it.
        multi_label: Whether there are several labels an image.

    Example:

    >>> mix = PairMixing(num_labels=10, mixup=0.8, cutmix=1.0, label_smoothing=0.1)
    >>> images, labels = torch.rand(4, 3, 32, 32), torch.tensor([3, 1, 4, 1])
    >>> pixel_values, targets = mix(images, labels, mix_seed=[9, 2, 6, 5])
    >>> targets.shape, targets.sum(dim=1).round(decimals=3)
    (torch.Size([4, 10]), tensor([1., 1., 1., 1.]))
    """

    def __init__(
        self,
        num_labels: int,
        mixup: float,
        cutmix: float,
        label_smoothing: float,
        multi_label: bool = False,
    ):
        self.num_labels = num_labels
        self.label_smoothing = label_smoothing
        self.answers = 2 if multi_label else num_labels  # that a label is spread over
        self.mix = None
        if mixup > 0 or cutmix > 0:
            # of two classes, which the samples of a pair are: the targets are their shares
            self.mix = Mixup(mixup, cutmix, label_smoothing=0.0, num_classes=2)

    def __call__(
        self, pixel_values: torch.Tensor, labels: torch.Tensor, mix_seed: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixes a batch.

        Args:
            pixel_values: (B, C, H, W).
            labels: (B,) class numbers, or (B, num_labels).
            mix_seed: A seed a sample.

        Returns:
            Mixed pixel_values (B, C, H, W) and targets (B, num_labels).

        Raises:
            ValueError: B is odd.
        """
        images, shares = self._mix_images(pixel_values, mix_seed)
        return images, _blend(self._smooth(labels), shares)

    def weighted(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor,
        mix_seed: Sequence[int],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mixes a batch whose labels count differently in the loss.

        The loss of a mixed image is the sum of the losses by its two labels, each smoothed, times
        their shares; here each part has the weight of its own label as well. Weights of classes
        applied to the mixed and smoothed target itself would pull every image to the rare classes,
        over which smoothing spreads a little of every label.

        Args:
            pixel_values, labels, mix_seed: As for calling it.
            weights: Of each label, (B,) or of several an image (B, num_labels).

        Returns:
            Mixed pixel_values (B, C, H, W), targets (B, num_labels), and weights as those given:
            the loss by these targets, times these weights, is that sum.

        Raises:
            ValueError: B is odd.
        """
        images, shares = self._mix_images(pixel_values, mix_seed)
        of_targets = weights if weights.ndim == 2 else weights.unsqueeze(1)  # (B, K or 1)
        targets = _blend(self._smooth(labels) * of_targets, shares) / _blend(of_targets, shares)
        return images, targets, _blend(weights, shares)

    def _mix_images(
        self, pixel_values: torch.Tensor, mix_seed: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mixes images; returns them and the shares (B, 2) of an image and of its neighbour."""
        if self.mix is None:
            return pixel_values, None
        if len(pixel_values) % 2:
            raise ValueError(f"mixup and cutmix mix pairs: a batch of {len(pixel_values)} is odd")
        images, all_shares = [], []
        both = torch.arange(2, device=pixel_values.device)
        for first in range(0, len(pixel_values), 2):
            with global_generators(np.random.default_rng(mix_seed[first])):
                mixed, shares = self.mix(pixel_values[first : first + 2].clone(), both)
            images.append(mixed)
            all_shares.append(shares[:1].expand(2, 2))
        return torch.cat(images), torch.cat(all_shares)

    def _smooth(self, labels: torch.Tensor) -> torch.Tensor:
        """The targets (B, num_labels) of unmixed images."""
        if labels.ndim == 1:
            labels = F.one_hot(labels, self.num_labels)
        spread = self.label_smoothing / self.answers
        return labels.float() * (1 - self.label_smoothing) + spread


def _blend(values: torch.Tensor, shares: torch.Tensor | None) -> torch.Tensor:
    """Values (B,) or (B, K) and their neighbours' in a pair, each times its share (B, 2)."""
    if shares is None:
        return values
    neighbours = values.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    own, other = shares.unbind(dim=1)  # (B,)
    if values.ndim == 2:
        own, other = own.unsqueeze(1), other.unsqueeze(1)  # (B, 1)
    return values * own + neighbours * other
