# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""From a decoded image to what a model is fed: crops, flips, augmentation, mixing; all randomness comes as an argument."""

import contextlib
import math
import random
import re

import numpy as np
import torch
from PIL import Image
from timm.data import Mixup
from timm.data.auto_augment import posterize, rand_augment_transform
from timm.data.mixup import mixup_target
from timm.data.random_erasing import RandomErasing
from torchvision.transforms.v2 import functional as TF
from transformers.image_utils import SizeDict

from .decoding import crop_pixels, whole_pixels
from .image_processing_mae import MAEImageProcessor, channel_statistics


def random_crop_box(height, width, rng, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3)):
    """The box (top, left, height, width) of a random resized crop, in pixels.

    Args:
        height, width: The image, in pixels.
        rng: `numpy.random.Generator`.
        scale: Share of the image's area (0.2 to 1: MAE paper, Appendix A.1).
        ratio: Width by height.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(rng.integers(height - crop_height + 1))
            left = int(rng.integers(width - crop_width + 1))
            return top, left, crop_height, crop_width
    # no such box fits (a very long image): the largest about the centre
    crop_width = min(width, max(1, round(height * ratio[1])))
    crop_height = min(height, max(1, round(width / ratio[0])))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


class RandomCropFlip:
    """Image → uint8 (C, h, w) of the model's size: random resized crop, bicubic and antialiased, and flip.

    The image is what `decoding.open_image` returns, here and below; an array (H, W, C) is one.

    For rectangular models the crop's aspect ratios lie about the model's own.

    Args:
        config: `MAEConfig`, for the size.
        scale: Share of the image's area.
    """

    def __init__(self, config, scale):
        self.image_hw = config.image_hw
        self.scale = scale
        aspect = self.image_hw[1] / self.image_hw[0]
        self.ratio = (3 / 4 * aspect, 4 / 3 * aspect)

    def __call__(self, image, rng):
        box = random_crop_box(*image.shape[:2], rng, self.scale, self.ratio)
        pixels = torch.from_numpy(crop_pixels(image, box, self.image_hw)).permute(2, 0, 1)  # (C, h, w)
        pixels = TF.resize(pixels, list(self.image_hw), TF.InterpolationMode.BICUBIC, antialias=True)
        if rng.random() < 0.5:
            pixels = pixels.flip(-1)
        return pixels


class PretrainingTransform:
    """Image → uint8 pixel_values and mask noise: crop of 20 to 100 % and flip (MAE paper, Appendix A.1)."""

    def __init__(self, config):
        self.crop = RandomCropFlip(config, scale=(0.2, 1.0))
        self.num_patches = config.num_patches

    def __call__(self, image, rng):
        return {"pixel_values": self.crop(image, rng), "noise": mask_noise(self.num_patches, rng)}


class TransformSchedule:
    """Transforms one after the other.

    Args:
        starts: First epoch (0 and more) → transform.

    Example:

    >>> TransformSchedule({0: "small", 60: "large"}).at(59.5)
    'small'
    """

    def __init__(self, starts):
        self.starts = dict(sorted(starts.items()))

    def at(self, epoch):
        """The transform of an epoch."""
        return [transform for start, transform in self.starts.items() if start <= epoch][-1]


class LinearProbeTransform:
    """Image → uint8 pixel_values: crop of 8 to 100 % and flip, nothing else (MAE paper, Appendix A.1)."""

    def __init__(self, config):
        self.crop = RandomCropFlip(config, scale=(0.08, 1.0))

    def __call__(self, image, rng):
        return {"pixel_values": self.crop(image, rng)}


class FineTuningTransform:
    """Image → uint8 pixel_values: crop of 8 to 100 %, flip and RandAugment; and what random erasing puts over them.

    Augmentation and erasing are timm's, as in the authors' code (MAE paper, Table 9). `erased` is (top, left, noise) or
    None: `erase` puts it there, once the images are normalised, on their device. `mix_seed` decides how this sample is mixed
    with its neighbour by `PairMixing`, `drop_path_noise` which layers it passes by.

    Args:
        config: `MAEConfig`, for size and channels.
        auto_augment: timm's name of a policy, or "none".
        random_erasing: Probability that a box is replaced by noise.

    Raises:
        ValueError: there is no such policy, or the images have channels that it isn't made for.
    """

    def __init__(self, config, auto_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25):
        self.crop = RandomCropFlip(config, scale=(0.08, 1.0))
        mean, _ = channel_statistics(config.num_channels)
        self.augment = None if auto_augment == "none" else _rand_augment(auto_augment, config.image_hw, mean)
        self.erasing = RandomErasing(random_erasing, mode="pixel", device="cpu")
        self.num_layers = config.num_hidden_layers

    def __call__(self, image, rng):
        pixels = self.crop(image, rng)
        with global_generators(rng):
            if self.augment is not None:
                picture = pixels.squeeze(0).numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()
                picture = np.array(self.augment(Image.fromarray(picture)))
                pixels = torch.from_numpy(picture.reshape(*picture.shape[:2], -1)).permute(2, 0, 1)
            erased = self._draw_erasing(pixels.shape)
        return {
            "pixel_values": pixels,
            "erased": erased,
            "mix_seed": int(rng.integers(2**32)),
            "drop_path_noise": torch.from_numpy(rng.random((self.num_layers, 2), dtype=np.float32)),
        }

    def _draw_erasing(self, shape):
        """(top, left, noise (C, h, w)) as timm draws them, or None."""
        canvas = self.erasing(torch.full(shape, torch.nan))
        there = canvas.isfinite()
        rows, columns = (there[0].any(dim=dim).nonzero().flatten() for dim in (1, 0))
        if not len(rows):
            return None
        return int(rows[0]), int(columns[0]), canvas[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].clone()


def erase(pixel_values, erased):
    """Puts noise over boxes of images (B, C, H, W), in place; `erased` has (top, left, noise) or None for each."""
    for image, box in zip(pixel_values, erased):
        if box is not None:
            top, left, noise = box
            image[:, top : top + noise.shape[1], left : left + noise.shape[2]] = noise


def _rand_augment(policy, image_hw, mean):
    if not re.fullmatch(r"rand(-(m\d+|n\d+|p[\d.]+|mstd[\d.]+|mmax\d+|inc[01]|t\w+))+", policy):
        raise ValueError(f"auto_augment is {policy!r}; it must be a policy of timm's RandAugment (rand-m9-…) or 'none'")
    if len(mean) not in (1, 3):
        raise ValueError(f"auto_augment works on 1 or 3 channels and the model has {len(mean)}; pass --auto_augment none")
    fill = tuple(min(255, round(255 * value)) for value in mean)
    augment = rand_augment_transform(
        policy,
        {
            "translate_const": int(min(image_hw) * 0.45),
            "img_mean": fill if len(fill) == 3 else fill[0],
            "interpolation": Image.Resampling.BICUBIC,
        },
    )
    for op in augment.ops:
        if op.name.startswith("Posterize"):
            op.aug_fn = _posterize
    return augment


def _posterize(image, bits, **kwargs):
    # RandAugment's increasing magnitudes go down to 0 bits, which is a black picture; Pillow 13 refuses to make that
    return posterize(image, bits, **kwargs) if bits > 0 else Image.new(image.mode, image.size)


@contextlib.contextmanager
def global_generators(rng):
    """Makes the generators of random, numpy and torch (CPU) follow from `rng`, and leaves them as they were.

    For libraries that draw from those.
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


class PairMixing:
    """Mixup and CutMix with label smoothing (MAE paper, Table 9), by timm, of samples 0 and 1, 2 and 3, … of a batch.

    The authors draw one mixing a batch; here each pair has its own, drawn from its first sample's `mix_seed`. An image is
    mixed as often and as much, and what becomes of it doesn't depend on how samples are spread over batches, processes and
    accumulation steps.

    Args:
        num_labels: Classes.
        mixup, cutmix: Alpha of the Beta distribution of their shares; 0 for none. With both, each half of the time.
        label_smoothing: Share of a label that is spread over all classes.

    Example:

    >>> mix = PairMixing(num_labels=10, mixup=0.8, cutmix=1.0, label_smoothing=0.1)
    >>> pixel_values, targets = mix(torch.rand(4, 3, 32, 32), torch.tensor([3, 1, 4, 1]), mix_seed=[9, 2, 6, 5])
    >>> targets.shape, targets.sum(dim=1).round(decimals=3)
    (torch.Size([4, 10]), tensor([1., 1., 1., 1.]))
    """

    def __init__(self, num_labels, mixup, cutmix, label_smoothing):
        self.num_labels = num_labels
        self.label_smoothing = label_smoothing
        mixes = mixup > 0 or cutmix > 0
        self.mix = Mixup(mixup, cutmix, label_smoothing=label_smoothing, num_classes=num_labels) if mixes else None

    def __call__(self, pixel_values, labels, mix_seed):
        """pixel_values (B, C, H, W), labels (B,), B seeds → mixed pixel_values, targets (B, num_labels)."""
        if self.mix is None:
            return pixel_values, mixup_target(labels, self.num_labels, smoothing=self.label_smoothing)
        if len(labels) % 2:
            raise ValueError(f"mixup and cutmix mix pairs: a batch of {len(labels)} is odd")
        mixed = []
        for pair, seed in zip(range(0, len(labels), 2), mix_seed[::2]):
            with global_generators(np.random.default_rng(seed)):
                mixed.append(self.mix(pixel_values[pair : pair + 2].clone(), labels[pair : pair + 2]))
        images, targets = zip(*mixed)
        return torch.cat(images), torch.cat(targets)


class CentreCropTransform:
    """Image → uint8 pixel_values: the image processor's resize and centre crop."""

    def __init__(self, config):
        self.processor = MAEImageProcessor.from_model_config(config)

    def __call__(self, image, rng):
        # the two steps alone: all that a processor does around them takes longer than a small image
        processor, pixels = self.processor, torch.from_numpy(whole_pixels(image)).permute(2, 0, 1)  # (C, H, W)
        pixels = processor.resize(pixels, SizeDict(**dict(processor.size)), resample=processor.resample)
        return {"pixel_values": processor.center_crop(pixels, SizeDict(**dict(processor.crop_size)))}


class HeldOutTransform(CentreCropTransform):
    """Image → uint8 pixel_values of the centre crop, and mask noise."""

    def __init__(self, config):
        super().__init__(config)
        self.num_patches = config.num_patches

    def __call__(self, image, rng):
        return {**super().__call__(image, rng), "noise": mask_noise(self.num_patches, rng)}


def mask_noise(num_patches, rng):
    """Uniform noise (N,) that decides a sample's mask."""
    return torch.from_numpy(rng.random(num_patches, dtype=np.float32))
