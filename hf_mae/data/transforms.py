# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""From a decoded image to what a model is fed; all randomness comes as an argument.

A transform is called with what `decoding.open_image` returns (an array (H, W, C) is one) and a
`numpy.random.Generator`. It returns `images` (C, h, w), uint8 or, of deep images, float32 from 0 to
255, which the trainer normalises on the device, and what else a sample needs. Its `values` say how
files are to be opened for it.
"""

import copy
import math
from typing import Any, cast

import numpy as np
import torch
from transformers.image_utils import PILImageResampling, SizeDict

from ..models.configuration_mae import MAEConfig
from ..models.image_processing_mae import MAEImageProcessor, MAEImageProcessorPil
from ..models.masking import mask_noise
from ..models.pictures import to_8_bits, values_of
from .decoding import DecodedImage, Jpeg, crop_pixels, whole_pixels
from .device_decoding import UndecodedCrop
from .nvimagecodec import Box


Sample = dict[str, Any]


def random_crop_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """Chooses the box (top, left, height, width) of a random resized crop, in pixels.

    Args:
        height, width: The image, in pixels.
        rng: Decides the box.
        scale: Share of the image's area (0.2 to 1: MAE paper, Appendix A.1).
        ratio: Width by height.

    Example:

    >>> random_crop_box(300, 400, np.random.default_rng(0))
    (19, 208, 192, 145)
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_width = round(math.sqrt(area * aspect))
        crop_height = round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(rng.integers(height - crop_height + 1))
            left = int(rng.integers(width - crop_width + 1))
            return top, left, crop_height, crop_width
    # no such box fits (a very long image): the largest about the center
    crop_width = min(width, max(1, round(height * ratio[1])))
    crop_height = min(height, max(1, round(width / ratio[0])))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def drop_path_noise(num_layers: int, rng: np.random.Generator) -> torch.Tensor:
    """Uniform noise (layers, 2) that decides which branches one sample passes by."""
    return torch.from_numpy(rng.random((num_layers, 2), dtype=np.float32))


class RandomCropFlip:
    """Image → (C, h, w) of the model's size: random resized crop and flip.

    It is resized as the image processor does it, by default bicubic, and antialiased. For
    rectangular models the crop's aspect ratios lie about the model's own.

    Args:
        config: `MAEConfig`, for the size.
        scale: Share of the image's area.
        processor: The model's image processor; by default the one of its configuration.
        decode: Whether JPEG files are decoded; else plain ones come as `UndecodedCrop`.
    """

    def __init__(
        self,
        config: MAEConfig,
        scale: tuple[float, float],
        processor: MAEImageProcessor | None = None,
        decode: bool = True,
    ):
        self.image_hw = config.image_hw
        self.scale = scale
        self.processor = processor or MAEImageProcessor.from_model_config(config)
        self.decode = decode
        self.values = values_of(self.processor)
        self._size = SizeDict(height=self.image_hw[0], width=self.image_hw[1])
        aspect = self.image_hw[1] / self.image_hw[0]
        self.ratio = (3 / 4 * aspect, 4 / 3 * aspect)

    def __call__(
        self, image: DecodedImage, rng: np.random.Generator
    ) -> torch.Tensor | UndecodedCrop:
        height, width, _ = image.shape
        box = random_crop_box(height, width, rng, self.scale, self.ratio)
        if not self.decode and isinstance(image, Jpeg) and image.can_be_left(box):
            return UndecodedCrop(image, box, self.image_hw, flip=rng.random() < 0.5)
        resample = self.processor.resample
        # a large photograph is decoded at reduced scale and then resized with it: bicubic
        target = self.image_hw if resample == PILImageResampling.BICUBIC else None
        pixels = torch.from_numpy(crop_pixels(image, box, target)).permute(2, 0, 1)
        pixels = self.processor.resize(pixels, self._size, resample=resample)  # (C, h, w)
        if rng.random() < 0.5:
            pixels = pixels.flip(-1)
        return pixels


class PretrainingTransform:
    """Image → crop of 20 to 100 % and flip, and mask noise (MAE paper, Appendix A.1).

    Returns `images` (C, h, w) and `noise` (N,); where layers are dropped also `drop_path_noise`
    (layers, 2), which decides which of them the sample passes by.

    Args:
        config: `MAEConfig`, for the size of images and patches, layers and `drop_path_rate`.
        processor: The model's image processor; by default the one of its configuration.
        decode: Whether JPEG files are decoded; else the crops of plain ones come as
            `UndecodedCrop`, for `device_decoding.decode_crops`.
    """

    def __init__(
        self, config: MAEConfig, processor: MAEImageProcessor | None = None, decode: bool = True
    ):
        self.config = config
        self.crop = RandomCropFlip(config, (0.2, 1.0), processor, decode)
        self.values = self.crop.values

    def __call__(self, image: DecodedImage, rng: np.random.Generator) -> Sample:
        sample = {"images": self.crop(image, rng), "noise": mask_noise(self.config, rng)}
        if self.config.drop_path_rate:  # drawn last, for samples are the same with and without it
            sample["drop_path_noise"] = drop_path_noise(self.config.num_hidden_layers, rng)
        return sample

    def at_size(self, pixels: int) -> "PretrainingTransform":
        """Copies the transform for images of `pixels` by `pixels`.

        Raises:
            ValueError: the patch size doesn't divide it.
        """
        other = copy.copy(self)
        other.config = self.config.changed(image_size=pixels)
        crop = self.crop
        other.crop = RandomCropFlip(other.config, crop.scale, crop.processor, crop.decode)
        return other


class LinearProbeTransform:
    """Image → crop of 8 to 100 % and flip, nothing else (MAE paper, Appendix A.1).

    Returns `images` (C, h, w).

    Args:
        config: `MAEConfig`, for the size.
        processor: The model's image processor; by default the one of its configuration.
    """

    def __init__(self, config: MAEConfig, processor: MAEImageProcessor | None = None):
        self.crop = RandomCropFlip(config, (0.08, 1.0), processor)
        self.values = self.crop.values

    def __call__(self, image: DecodedImage, rng: np.random.Generator) -> Sample:
        return {"images": self.crop(image, rng)}


class FineTuningTransform:
    """Image → crop of 8 to 100 %, flip, RandAugment, and what random erasing puts over it.

    Augmentation and erasing are timm's, as in the authors' code (MAE paper, Table 9).

    Returns `images` (C, h, w); `erased`, a box (top, left, noise) or None, which
    `augmentation.erase` puts there once the images are normalised; `mix_seed`, which decides how
    `PairMixing` mixes this sample with its neighbour; and `drop_path_noise` (layers, 2), which
    decides which layers it passes by.

    Args:
        config: `MAEConfig`, for size, channels and layers.
        auto_augment: timm's name of a policy, or "none".
        random_erasing: Probability that a box is replaced by noise.
        processor: The model's image processor; by default the one of its configuration.

    Raises:
        ValueError: there is no such policy, or the images have channels that it isn't made for.
    """

    def __init__(
        self,
        config: MAEConfig,
        auto_augment: str = "rand-m9-mstd0.5-inc1",
        random_erasing: float = 0.25,
        processor: MAEImageProcessor | None = None,
    ):
        from .augmentation import make_rand_augment  # timm takes long to import

        self.crop = RandomCropFlip(config, (0.08, 1.0), processor)
        self.values = self.crop.values
        self.augment = None
        if auto_augment != "none":
            mean = self.crop.processor.image_mean
            self.augment = make_rand_augment(auto_augment, config.image_hw, mean)
        self.random_erasing = random_erasing
        self.num_layers = config.num_hidden_layers

    def __call__(self, image: DecodedImage, rng: np.random.Generator) -> Sample:
        from .augmentation import augment_pixels, choose_erasing, global_generators

        pixels = cast(torch.Tensor, self.crop(image, rng))
        with global_generators(rng):
            if self.augment is not None:
                pixels = augment_pixels(self.augment, pixels)
            erased = choose_erasing(self.random_erasing, pixels.shape)
        mix_seed = int(rng.integers(2**32))
        return {
            "images": pixels,
            "erased": erased,
            "mix_seed": mix_seed,
            "drop_path_noise": drop_path_noise(self.num_layers, rng),
        }


class CenterCropTransform:
    """Image → the image processor's resize and center crop.

    Returns `images` (C, h, w).

    Args:
        config: `MAEConfig`, for size and channels.
        processor: The model's image processor; by default the one of its configuration.
    """

    def __init__(self, config: MAEConfig, processor: MAEImageProcessor | None = None):
        self.processor = processor or MAEImageProcessor.from_model_config(config)
        self.values = values_of(self.processor)

    def __call__(self, image: DecodedImage, rng: np.random.Generator) -> Sample:
        # the two steps alone: all that a processor does around them takes longer than a small image
        processor = self.processor
        pixels = torch.from_numpy(whole_pixels(image)).permute(2, 0, 1)  # (C, H, W)
        size = SizeDict(**dict(processor.size))
        if not processor.do_center_crop:
            return {"images": processor.resize(pixels, size, resample=processor.resample)}
        crop_size = SizeDict(**dict(processor.crop_size))
        if processor.do_resize:
            pixels = processor.resize_for_crop(pixels, size, crop_size, processor.resample)
        return {"images": processor.center_crop(pixels, crop_size)}


class MaskedEvaluationTransform(CenterCropTransform):
    """Image → the center crop, and mask noise.

    Returns `images` (C, h, w) and `noise` (N,).

    Args:
        config: `MAEConfig`, for size, patches and channels.
        processor: The model's image processor; by default the one of its configuration.
    """

    def __init__(self, config: MAEConfig, processor: MAEImageProcessor | None = None):
        super().__init__(config, processor)
        self.config = config

    def __call__(self, image: DecodedImage, rng: np.random.Generator) -> Sample:
        return {**super().__call__(image, rng), "noise": mask_noise(self.config, rng)}


class ProcessorTransform:
    """Image → what a model's own image processor makes of it.

    Returns `pixel_values` (C, h, w), normalised. Processors of other models are given 8 bits.

    Args:
        processor: Image processor of any model.
    """

    def __init__(self, processor: Any):
        self.processor = processor
        self.values = values_of(processor)

    def __call__(self, image: DecodedImage, rng: np.random.Generator | None = None) -> Sample:
        array, options = whole_pixels(image), {}
        if isinstance(self.processor, (MAEImageProcessor, MAEImageProcessorPil)):
            # they are pixels already
            options["value_range"] = None if array.dtype == np.uint8 else (0, 255)
            options["bands"] = None
        else:
            array = to_8_bits(array)
        processed = self.processor(
            array, input_data_format="channels_last", return_tensors="pt", **options
        )
        return {"pixel_values": processed.pixel_values[0]}
