# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""From a decoded image to what a model is fed: crops, flips, augmentation, mixing; all randomness
comes as an argument."""

import math

import numpy as np
import torch
from PIL import Image
from timm.data.random_erasing import RandomErasing
from torchvision.transforms.v2 import functional as TF
from transformers.image_utils import SizeDict

from ..models.image_processing_mae import MAEImageProcessor, channel_statistics
from ..models.masking import mask_noise
from .augmentation import _rand_augment, global_generators
from .decoding import crop_pixels, whole_pixels


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
    # no such box fits (a very long image): the largest about the center
    crop_width = min(width, max(1, round(height * ratio[1])))
    crop_height = min(height, max(1, round(width / ratio[0])))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


class RandomCropFlip:
    """Image → uint8 (C, h, w) of the model's size: random resized crop, bicubic and antialiased,
    and flip.

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
        pixels = torch.from_numpy(crop_pixels(image, box, self.image_hw)).permute(
            2, 0, 1
        )  # (C, h, w)
        pixels = TF.resize(
            pixels, list(self.image_hw), TF.InterpolationMode.BICUBIC, antialias=True
        )
        if rng.random() < 0.5:
            pixels = pixels.flip(-1)
        return pixels


class PretrainingTransform:
    """Image → uint8 pixel_values and mask noise: crop of 20 to 100 % and flip (MAE paper, Appendix
    A.1)."""

    def __init__(self, config):
        self.crop = RandomCropFlip(config, scale=(0.2, 1.0))
        self.num_patches = config.num_patches

    def __call__(self, image, rng):
        return {"pixel_values": self.crop(image, rng), "noise": mask_noise(self.num_patches, rng)}


class LinearProbeTransform:
    """Image → uint8 pixel_values: crop of 8 to 100 % and flip, nothing else (MAE paper, Appendix
    A.1)."""

    def __init__(self, config):
        self.crop = RandomCropFlip(config, scale=(0.08, 1.0))

    def __call__(self, image, rng):
        return {"pixel_values": self.crop(image, rng)}


class FineTuningTransform:
    """Image → uint8 pixel_values: crop of 8 to 100 %, flip and RandAugment; and what random erasing
    puts over them.

    Augmentation and erasing are timm's, as in the authors' code (MAE paper, Table 9). `erased` is
    (top, left, noise) or None: `erase` puts it there, once the images are normalised, on their
    device. `mix_seed` decides how this sample is mixed with its neighbour by `PairMixing`,
    `drop_path_noise` which layers it passes by.

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
        self.augment = (
            None if auto_augment == "none" else _rand_augment(auto_augment, config.image_hw, mean)
        )
        self.erasing = RandomErasing(random_erasing, mode="pixel", device="cpu")
        self.num_layers = config.num_hidden_layers

    def __call__(self, image, rng):
        pixels = self.crop(image, rng)
        with global_generators(rng):
            if self.augment is not None:
                picture = (
                    pixels.squeeze(0).numpy()
                    if len(pixels) == 1
                    else pixels.permute(1, 2, 0).numpy()
                )
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
        return (
            int(rows[0]),
            int(columns[0]),
            canvas[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].clone(),
        )


class CenterCropTransform:
    """Image → uint8 pixel_values: the image processor's resize and center crop."""

    def __init__(self, config):
        self.processor = MAEImageProcessor.from_model_config(config)

    def __call__(self, image, rng):
        # the two steps alone: all that a processor does around them takes longer than a small image
        processor, pixels = (
            self.processor,
            torch.from_numpy(whole_pixels(image)).permute(2, 0, 1),
        )  # (C, H, W)
        pixels = processor.resize(
            pixels, SizeDict(**dict(processor.size)), resample=processor.resample
        )
        return {
            "pixel_values": processor.center_crop(pixels, SizeDict(**dict(processor.crop_size)))
        }


class MaskedEvaluationTransform(CenterCropTransform):
    """Image → uint8 pixel_values of the center crop, and mask noise."""

    def __init__(self, config):
        super().__init__(config)
        self.num_patches = config.num_patches

    def __call__(self, image, rng):
        return {**super().__call__(image, rng), "noise": mask_noise(self.num_patches, rng)}


class ProcessorTransform:
    """Image → pixel_values as a model's own image processor makes them."""

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, image, rng=None):
        array = whole_pixels(image)
        return {
            "pixel_values": self.processor(
                array, input_data_format="channels_last", return_tensors="pt"
            ).pixel_values[0]
        }
