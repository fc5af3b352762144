# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Images from where they lie to uint8 batches, every random choice a function of (seed, epoch, sample index).

The sampler hands out draw numbers, `epoch * len(dataset) + index`; what a draw looks like (crop, flip, mask noise) follows
from its number alone, whichever process or worker makes it and whenever.
"""

import io
import math
import os
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets import Array3D, ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from PIL import Image
from torch.utils.data import Sampler
from torchvision.transforms.v2 import functional as TF

from .image_processing_mae import DECODE_ERRORS, MAEImageProcessor, image_to_array


_VALIDATION_SPLITS = ("validation", "val", "valid", "test")
_IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp")
_EXTENSIONS = {
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
    *(".jp2", ".j2k", ".pbm", ".pgm", ".ppm", ".pnm", ".tga"),
}
_MAX_REPLACEMENTS = 100


class BadImageError(RuntimeError):
    """An image can't be decoded, or too many can't."""


def load_image_dataset(
    dataset_name=None,
    dataset_config=None,
    train_dir=None,
    validation_dir=None,
    train_split=None,
    validation_split=None,
    image_column=None,
    train_val_split=0.05,
    seed=42,
):
    """Loads images, undecoded, for training and validation.

    Args:
        dataset_name: A Hub id, a local folder or file (saved by datasets, parquet, …), or `"digits"` (embedded).
        dataset_config: Configuration of the data set, if it has several.
        train_dir, validation_dir: Image folders, with or without classes, nested or not; instead of `dataset_name`, or
            `validation_dir` beside it.
        train_split, validation_split: Split names; by default `train` and the first of validation, val, valid, test.
        image_column: Column of the images; by default the only one that has images.
        train_val_split: Share of the training images to hold out if there is no validation split; 0 for none.
        seed: Decides which are held out.

    Returns:
        `datasets.DatasetDict` with `train` and, if any, `validation`; one column, `image`.

    Raises:
        ValueError: something isn't there; the message lists what is.

    Example:

    >>> load_image_dataset("digits").num_rows
    {'train': 1707, 'validation': 90}
    """
    if (dataset_name is None) == (train_dir is None):
        raise ValueError("give either dataset_name or train_dir" + (", not both" if train_dir else ""))
    if not 0 <= train_val_split < 1:
        raise ValueError(f"train_val_split is {train_val_split}; it must be in [0, 1)")
    if train_dir is not None:
        splits = DatasetDict(train=_load_folder(train_dir, "train_dir"))
    else:
        splits = _load_named(dataset_name, dataset_config)
    if train_split is None:
        train_split = next(iter(splits)) if len(splits) == 1 else "train"
    train = _only_images(_pick(splits, train_split, "train_split"), image_column)
    if validation_dir is not None:
        return DatasetDict(train=train, validation=_load_folder(validation_dir, "validation_dir"))
    if validation_split is None:
        names = [name for name in _VALIDATION_SPLITS if name in splits and name != train_split]
        validation_split = names[0] if names else None
    if validation_split is not None:
        held_out = _only_images(_pick(splits, validation_split, "validation_split"), image_column)
        return DatasetDict(train=train, validation=held_out)
    return _hold_out(train, train_val_split, seed)


def _hold_out(train, share, seed):
    if share == 0:
        return DatasetDict(train=train)
    if len(train) < 2:
        raise ValueError(f"there is {len(train)} training image: none to hold out by train_val_split={share}")
    halves = train.train_test_split(test_size=max(1, round(share * len(train))), seed=seed)
    return DatasetDict(train=halves["train"], validation=halves["test"])


def _load_folder(folder, flag):
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        parent = folder.parent
        there = _listing(parent) if parent.is_dir() else "nothing: it doesn't exist either"
        raise ValueError(f"{flag} {folder} is not a folder; in {parent} there is {there}")
    if (folder / "train").is_dir() and any((folder / name).is_dir() for name in _VALIDATION_SPLITS):
        raise ValueError(f"{flag} {folder} holds whole splits: {_listing(folder)}; name the one you mean")
    # listed here, as datasets' own loader takes minutes for a million files, makes a split of a class called "test" and
    # numbers the images in the disk's order
    files, visited = [], set()
    for root, folders, names in os.walk(folder, followlinks=True):
        # nothing hidden, and no link in a circle
        folders[:] = [name for name in folders if not name.startswith(".")]
        if os.path.realpath(root) in visited:
            folders.clear()
            continue
        visited.add(os.path.realpath(root))
        files += [
            os.path.join(root, name)
            for name in names
            if os.path.splitext(name)[1].lower() in _EXTENSIONS and not name.startswith(".")
        ]
    if not files:
        raise ValueError(f"{flag} {folder} holds no images; in it there is {_listing(folder)}")
    return Dataset.from_dict({"image": sorted(files)}, features=Features({"image": ImageFeature(decode=False)}))


def _listing(folder):
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") or "nothing"


def _load_named(name, config):
    if name == "digits":
        return DatasetDict(train=_digits())
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():  # by save_to_disk
            loaded = datasets.load_from_disk(path)
        else:
            loaded = datasets.load_dataset(str(path), config)
    elif path.suffix == ".parquet" and path.is_file():
        loaded = datasets.load_dataset("parquet", data_files=str(path))
    else:
        try:
            loaded = datasets.load_dataset(name, config)
        except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
            raise ValueError(
                f"dataset_name {name!r} is not a folder or parquet file here, nor 'digits', and the Hub says: {error}"
            ) from error
    return loaded if isinstance(loaded, DatasetDict) else DatasetDict(train=loaded)


def _digits():
    """scikit-learn's 1,797 scanned digits (8 x 8, 16 greys) as 32-pixel PNG files."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    files = []
    for scan in digits.images:
        image = Image.fromarray((scan * (255 / 16)).round().astype(np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        image.save(buffer, format="png")
        files.append({"bytes": buffer.getvalue(), "path": None})
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=[str(name) for name in digits.target_names])})
    return Dataset.from_dict({"image": files, "label": digits.target.tolist()}, features=features)


def _pick(splits, name, flag):
    if name not in splits:
        raise ValueError(f"{flag} is {name!r}; the data set has {', '.join(splits)}")
    return splits[name]


def _only_images(dataset, column):
    """The images alone, as undecoded files (or arrays), in a column called `image`."""
    features = dataset.features
    if column is None:
        found = [name for name, feature in features.items() if isinstance(feature, (ImageFeature, Array3D))]
        found = found or [name for name in features if name.lower() in _IMAGE_COLUMNS]
        if len(found) != 1:
            what = "no column has images" if not found else f"several columns have images ({', '.join(found)})"
            raise ValueError(f"{what}; name one by image_column: the data set has {', '.join(features)}")
        column = found[0]
    elif column not in features:
        raise ValueError(f"image_column is {column!r}; the data set has {', '.join(features)}")
    feature = features[column]
    files = isinstance(feature, dict) and {"bytes", "path"} & set(feature)
    if not (isinstance(feature, (ImageFeature, Array3D)) or files or getattr(feature, "dtype", "") in ("binary", "string")):
        raise ValueError(f"image_column {column!r} holds no images but {feature}; the data set has {', '.join(features)}")
    dataset = dataset.select_columns([column])
    if not isinstance(feature, Array3D):
        dataset = dataset.cast_column(column, ImageFeature(decode=False))
    return dataset if column == "image" else dataset.rename_column(column, "image")


def decode(value, num_channels):
    """What an image column holds → (H, W, C) uint8 array, upright.

    Args:
        value: {"bytes": …, "path": …} of a file in any format that PIL reads, or an array (H, W, C) of uint8.
        num_channels: C.

    Raises:
        One of `image_processing_mae.DECODE_ERRORS`.
    """
    if not isinstance(value, dict):
        array = np.asarray(value)
        whole = np.issubdtype(array.dtype, np.integer) and array.size and array.min() >= 0 and array.max() <= 255
        if array.ndim != 3 or array.shape[2] != num_channels or not whole:
            raise ValueError(
                f"array of shape {array.shape} and {array.dtype}; expected (height, width, {num_channels}), whole numbers "
                "from 0 to 255"
            )
        return array.astype(np.uint8)
    if value.get("bytes") is None and value.get("path") is None:
        raise ValueError("neither bytes nor a path")
    with Image.open(io.BytesIO(value["bytes"]) if value.get("bytes") is not None else value["path"]) as image:
        return image_to_array(image, num_channels)


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


class PretrainingTransform:
    """(H, W, C) array → uint8 pixel_values and mask noise: random resized crop, bicubic and antialiased, and flip.

    (MAE paper, Appendix A.1.) For rectangular models the crop's aspect ratios lie about the model's own.
    """

    def __init__(self, config):
        self.image_hw = config.image_hw
        self.num_patches = config.num_patches
        aspect = self.image_hw[1] / self.image_hw[0]
        self.ratio = (3 / 4 * aspect, 4 / 3 * aspect)

    def __call__(self, array, rng):
        top, left, height, width = random_crop_box(*array.shape[:2], rng, ratio=self.ratio)
        image = torch.from_numpy(array[top : top + height, left : left + width]).permute(2, 0, 1)  # (C, h, w)
        image = TF.resize(image, list(self.image_hw), TF.InterpolationMode.BICUBIC, antialias=True)
        if rng.random() < 0.5:
            image = image.flip(-1)
        return {"pixel_values": image.contiguous(), "noise": mask_noise(self.num_patches, rng)}


class HeldOutTransform:
    """(H, W, C) array → uint8 pixel_values and mask noise: the image processor's resize and centre crop."""

    def __init__(self, config):
        self.processor = MAEImageProcessor.from_model_config(config)
        self.num_patches = config.num_patches

    def __call__(self, array, rng):
        batch = self.processor(
            array, do_rescale=False, do_normalize=False, input_data_format="channels_last", return_tensors="pt"
        )
        return {"pixel_values": batch["pixel_values"][0], "noise": mask_noise(self.num_patches, rng)}


def mask_noise(num_patches, rng):
    """Uniform noise (N,) that decides a sample's mask."""
    return torch.from_numpy(rng.random(num_patches, dtype=np.float32))


class ImageDraws(torch.utils.data.Dataset):
    """The draws of an image data set: `draws[epoch * len(draws) + index]`.

    Args:
        dataset: `datasets.Dataset` with a column `image`, as `load_image_dataset` returns them.
        transform: (array, rng) → dict of tensors.
        num_channels: Channels to decode to.
        seed: With the epoch and the index, of all randomness.
        on_bad_image: `"skip"` replaces an image that can't be decoded by another one, drawn by (seed, epoch, index), and
            reports it in the sample; `"raise"` raises `BadImageError`.

    A sample is what the transform returns, with `index` (of the draw) and `bad_images`, a list of (index, path, error).
    """

    def __init__(self, dataset, transform, num_channels, seed, on_bad_image="skip"):
        if on_bad_image not in ("skip", "raise"):
            raise ValueError(f"on_bad_image is {on_bad_image!r}; it must be 'skip' or 'raise'")
        self.dataset = dataset
        self.transform = transform
        self.num_channels = num_channels
        self.seed = seed
        self.on_bad_image = on_bad_image

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, draw):
        epoch, index = divmod(draw, len(self.dataset))
        bad_images, candidate = [], index
        for attempt in range(_MAX_REPLACEMENTS):
            value = self.dataset[candidate]["image"]
            try:
                array = decode(value, self.num_channels)
            except DECODE_ERRORS as error:
                path = (value.get("path") if isinstance(value, dict) else None) or "-"
                if self.on_bad_image == "raise":
                    raise BadImageError(f"image {candidate} ({path}) can't be decoded: {error}") from error
                bad_images.append((candidate, path, " ".join(f"{type(error).__name__}: {error}".split())))
                candidate = int(np.random.default_rng([self.seed, epoch, index, attempt]).integers(len(self.dataset)))
                continue
            sample = self.transform(array, np.random.default_rng([self.seed, epoch, index]))
            return {**sample, "index": index, "bad_images": bad_images}
        raise BadImageError(
            f"{_MAX_REPLACEMENTS} images in a row can't be decoded; the last one is {candidate} ({path}): "
            f"{bad_images[-1][2]}"
        )


class DrawSampler(Sampler):
    """Draw numbers of one epoch, `epoch * length + index`, in an order that follows from (seed, epoch).

    Args:
        length: Images in the data set.
        seed: Of the order.
        num_draws: How many of them an epoch takes (whole batches).
    """

    def __init__(self, length, seed, num_draws):
        self.length = length
        self.seed = seed
        self.num_draws = num_draws
        self.epoch = 0

    def __len__(self):
        return self.num_draws

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        yield from (self.epoch * self.length + order[: self.num_draws]).tolist()


def collate(samples):
    """Samples → a batch: tensors stacked, `index` (B,), `bad_images` in one list."""
    batch = {name: torch.stack([s[name] for s in samples]) for name in samples[0] if name not in ("index", "bad_images")}
    batch["index"] = torch.tensor([sample["index"] for sample in samples])
    batch["bad_images"] = [bad for sample in samples for bad in sample["bad_images"]]
    return batch
