# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Features of images: what a model's encoder makes of them.

Letters in the shape comments are those of modeling_mae.py.
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import torch
from datasets import ClassLabel, Dataset, Features, LargeList, List, Value
from datasets import Image as ImageFeature
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import logging

from ..data.labels import unify_labels
from ..data.samples import ImageSamples
from ..data.transforms import ProcessorTransform
from ..models.loading import num_channels
from ..models.picture_size import MAX_IMAGE_PIXELS
from .images import ImageBatch, as_dataset, find_images, images_digest, read_batches
from .parts import Parts, weights_digest


Kind = Literal["mean", "cls", "patches"]
KINDS: tuple[Kind, ...] = ("mean", "cls", "patches")

_PART_BYTES = 2**27
_PART_IMAGES = 256  # at most: a stopped run begins its parts anew

logger = logging.get_logger(__name__)


def extract_features(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    images: Dataset | Sequence[str | os.PathLike],
    features: Kind = "mean",
    batch_size: int = 64,
    num_workers: int = 0,
) -> Dataset:
    """Computes the features of images, on the model's device.

    Nothing is masked, and nothing random: the model is in evaluation mode for as long as it takes.
    With `hidden`, the encoder's `last_hidden_state` (1 + N, D) of an image, the features are

    - `"mean"`: `hidden[1:].mean(0)` (D,), the mean of the patch tokens. It is `pooler_output` of
      models whose `config.pooling` is "mean", by default all but linear probes: what the k-NN
      accuracy of pre-training goes by, and what a fine-tuned classifier's head takes;
    - `"cls"`: `hidden[0]` (D,), the class token, which a linear probe takes;
    - `"patches"`: `hidden[1:]` (N, D), the patches row by row, from the top left.

    All of them are behind the encoder's final norm, where it has one: a classifier on the mean has
    not, for its norm is behind the mean, and belongs to the head.

    Args:
        model: An encoder, from `load_encoder`, or a model that stands on one.
        processor: Its image processor.
        images: Files, folders, patterns or addresses, as of `find_images`; or a data set with a
            column `image`, and perhaps `label`.
        features: `"mean"`, `"cls"` or `"patches"`.
        batch_size: Images that are encoded at once.
        num_workers: Processes that read ahead; 0 to read in this one.

    Returns:
        `datasets.Dataset`, a row an image in their order, with the columns `name` (the path, or
        `row 7`), `label` and its name `label_name`, if there are labels, and `features`, float32.
        Images that can't be read are left out, and named in a warning each.

    Raises:
        ValueError: the model has no class token and patches, or answers what is no number; there
            are no images; or an image of a data set with labels has none.

    Example:

    >>> from hf_mae import MAEConfig, MAEImageProcessor, MAEModel, load_image_dataset
    >>> config = MAEConfig.from_size("tiny", image_size=32, patch_size=4, num_channels=1)
    >>> model, processor = MAEModel(config), MAEImageProcessor.from_model_config(config)
    >>> digits = load_image_dataset("digits", labels=True)["train"]
    >>> found = extract_features(model, processor, digits.select(range(8)))
    >>> found.column_names
    ['name', 'label', 'label_name', 'features']
    >>> found.with_format("numpy")["features"][:].shape
    (8, 192)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    if isinstance(images, Dataset):
        dataset = _take_columns(images)
    else:
        dataset = as_dataset(find_images(images))
    extractor = FeatureExtractor(model, processor, dataset, features)
    order = list(range(len(dataset)))
    batches = [order[first : first + batch_size] for first in order[::batch_size]]
    tables = []
    model_was_training = extractor.encoder.training
    extractor.encoder.eval()
    try:
        for batch in tqdm(read_batches(extractor.samples, batches, num_workers), unit=" batches"):
            tables.append(extractor(batch))
    finally:
        extractor.encoder.train(model_was_training)
    table = pa.concat_tables(tables or [extractor.schema.empty_table()])
    for name, error in errors_of(table):
        logger.warning(f"{name} is left out: {error}")
    return Dataset(readable_rows(table).cast(extractor.columns.arrow_schema))


def _take_columns(dataset: Dataset) -> Dataset:
    """The images, undecoded, and the labels, as `load_image_dataset` has them."""
    if "image" not in dataset.features:
        raise ValueError(
            f"there is no column image; the data set has {', '.join(dataset.features)}"
        )
    columns = [name for name in ("image", "label") if name in dataset.features]
    dataset = dataset.select_columns(columns)
    if isinstance(dataset.features["image"], ImageFeature):
        dataset = dataset.cast_column("image", ImageFeature(decode=False))
    return unify_labels({"images": dataset})["images"] if "label" in columns else dataset


class FeatureExtractor:
    """Computes the rows of a batch; what it answers for is said by `about`.

    Args:
        model: An encoder, or a model that stands on one.
        processor: Its image processor.
        dataset: Images, and perhaps labels.
        kind: One of `KINDS`.
        max_image_pixels: As for `ImageSamples`.

    Attributes:
        encoder: The model that is asked.
        samples: The images, as `read_batches` takes them.
        shape: Of an image's features.
        columns: Of what is found, as `datasets` has them.
        schema: Of the tables: these columns, and why an image can't be read.

    Raises:
        ValueError: there is no such kind, or the model is none of patches.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: BaseImageProcessor,
        dataset: Dataset,
        kind: Kind = "mean",
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ):
        if kind not in KINDS:
            raise ValueError(f"features is {kind!r}; it must be one of {', '.join(KINDS)}")
        self.encoder = cast(PreTrainedModel, model.base_model)
        self.processor = processor
        self.kind: Kind = kind
        self.samples = ImageSamples(
            dataset,
            ProcessorTransform(processor),
            num_channels(model),
            seed=0,
            max_image_pixels=max_image_pixels,
        )
        self.grid, self.width = grid_and_width(self.encoder)
        num_patches = self.grid[0] * self.grid[1]
        self.shape = (num_patches, self.width) if kind == "patches" else (self.width,)
        self.columns = feature_columns(self.shape, dataset.features.get("label"))
        self.schema = self.columns.arrow_schema.remove_metadata().append(
            pa.field("error", pa.string())
        )

    @torch.no_grad()
    def encode(self, pixel_values: Tensor) -> Tensor:
        """Encodes images (B, C, H, W): float32 (B, 1 + N, D).

        Raises:
            ValueError: the model has other tokens, or answers what is no number.
        """
        device, dtype = self.encoder.device, self.encoder.dtype
        pixel_values = pixel_values.to(device, non_blocking=True).to(dtype)
        hidden = self.encoder(pixel_values).last_hidden_state.float()
        num_patches = self.grid[0] * self.grid[1]
        if hidden.shape[1:] != (1 + num_patches, self.width):
            raise ValueError(
                f"the model ({type(self.encoder).__name__}) has tokens of shape "
                f"{tuple(hidden.shape[1:])}, not a class token and {num_patches} patches of width "
                f"{self.width}"
            )
        if not torch.isfinite(hidden).all():
            raise ValueError("the model's features are not finite; its weights are broken")
        return hidden

    def __call__(self, batch: ImageBatch) -> pa.Table:
        """Answers for a batch, those that can't be read among them: without features."""
        rows = np.zeros((len(batch.indices), *self.shape), np.float32)
        if batch.pixel_values is not None:
            found = take_features(self.encode(batch.pixel_values), self.kind)
            rows[batch.readable] = found.cpu().numpy()
        columns = {
            "name": batch.names,
            "label": batch.labels,
            "label_name": [label_name(label, self.columns.get("label")) for label in batch.labels],
            "features": _as_arrow(rows),
            "error": batch.errors,
        }
        arrays = [pa.array(columns[field.name], field.type) for field in self.schema]
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def about(self) -> dict[str, Any]:
        """What the features depend on, for `Parts`."""
        processor = self.processor.to_json_string()
        return {
            "model": weights_digest(self.encoder),
            "image processor": f"{zlib.crc32(processor.encode()):08x}",
            "features": self.kind,
            "data": images_digest(self.samples.dataset),
            "max_image_pixels": self.samples.max_image_pixels,
        }

    def parts(self, folder: str | os.PathLike) -> Parts:
        """Where the features are kept until all are there; a part is small enough for memory."""
        row_bytes = 4 * int(np.prod(self.shape))
        rows = min(max(_PART_BYTES // row_bytes, 1), _PART_IMAGES)
        return Parts(folder, len(self.samples), rows, self.about())


def take_features(hidden: Tensor, kind: Kind) -> Tensor:
    """Takes features out of tokens (B, 1 + N, D): (B, D), or of all patches (B, N, D)."""
    if kind == "cls":
        return hidden[:, 0]
    return hidden[:, 1:] if kind == "patches" else hidden[:, 1:].mean(dim=1)


def grid_and_width(encoder: PreTrainedModel) -> tuple[tuple[int, int], int]:
    """Finds the patches (down, across) and the width of an encoder.

    Raises:
        ValueError: its configuration has none.
    """
    sides = []
    for name in ("image_size", "patch_size"):
        value = getattr(encoder.config, name, None)
        sides.append(value if isinstance(value, (list, tuple)) else (value, value))
    width = getattr(encoder.config, "hidden_size", None)
    if width is None or None in (*sides[0], *sides[1]):
        raise ValueError(
            f"the model ({type(encoder).__name__}) has no patches; features are of models of ours, "
            "and of transformers' classifiers on a ViT or a BEiT"
        )
    (height, width_of_image), (p, q) = [(side[0], side[-1]) for side in sides]
    return (height // p, width_of_image // q), width


# rows --------------------------------------------------------------------------------------------


def feature_columns(shape: tuple[int, ...], label: Any = None) -> Features:
    """Lists the columns of what is found, for features of this shape.

    Args:
        shape: (D,) or (N, D).
        label: The data set's feature of that name, or None.
    """
    columns: dict[str, Any] = {"name": Value("string")}
    if label is not None:
        columns["label"] = label
    if isinstance(label, ClassLabel):
        columns["label_name"] = Value("string")
    elif isinstance(label, (List, LargeList)) and isinstance(label.feature, ClassLabel):
        columns["label_name"] = List(Value("string"))
    column: Any = Value("float32")
    for side in reversed(shape):
        column = List(column, length=side)
    return Features({**columns, "features": column})


def label_name(label: Any, feature: Any) -> Any:
    """Names a class, or the classes of a list; None of what has no names."""
    if isinstance(label, list):
        return [label_name(one, feature.feature) for one in label]
    return feature.int2str(label) if isinstance(feature, ClassLabel) and label is not None else None


def _as_arrow(rows: np.ndarray) -> pa.Array:
    """Lists of fixed length, one in the other, of an array (n, …)."""
    array: Any = pa.array(rows.reshape(-1))
    for side in reversed(rows.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, side)
    return array


def errors_of(table: pa.Table) -> list[tuple[str, str]]:
    """Lists (name, error) of the images that couldn't be read."""
    bad = table.select(["name", "error"]).filter(table["error"].is_valid())
    return list(zip(bad["name"].to_pylist(), bad["error"].to_pylist()))


def readable_rows(table: pa.Table) -> pa.Table:
    """Leaves out the images that couldn't be read, and the column that says so."""
    if table["error"].null_count < len(table):
        table = table.filter(table["error"].is_null())
    return table.drop_columns("error")


@dataclass(frozen=True)
class FeatureRows:
    """Features of images that lie side by side, in the order of the data set.

    Attributes:
        indices: (n,) the images' numbers in the data set.
        table: The other columns.
        features: (n, D), or of all patches (n, N, D).
    """

    indices: np.ndarray
    table: pa.Table
    features: np.ndarray

    def vectors(self) -> np.ndarray:
        """One an image, (n, D): of all patches their mean."""
        return self.features if self.features.ndim == 2 else self.features.mean(axis=1)


def read_rows(parts: Parts) -> Iterator[FeatureRows]:
    """Reads the features of parts, in order, of the images that could be read."""
    for part, table in enumerate(parts.tables()):
        readable = table["error"].is_null().to_numpy()
        indices = np.array(parts.span(part))[readable]
        rows = readable_rows(table)
        yield FeatureRows(indices, rows, to_array(rows["features"]))


def to_array(column: pa.ChunkedArray) -> np.ndarray:
    """The array (n, …) of lists of fixed length."""
    shape, array = [len(column)], column.combine_chunks()
    while isinstance(array.type, pa.FixedSizeListType):
        shape.append(array.type.list_size)
        array = array.flatten()
    return array.to_numpy().reshape(shape)
