# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""A classifier's answers for image files: for one, or for all that there are as a table."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from ..data.samples import ImageSamples
from ..data.transforms import ProcessorTransform
from ..models.loading import num_channels
from ..models.pictures import open_picture, to_pixels
from ..models.problem_types import MULTI_LABEL, REGRESSION, answer_scores
from .images import ImageBatch, images_digest
from .parts import Parts, compute_parts, weights_digest
from .tables import write_table


ROWS = 256  # of a part: what is computed again, at most, after a run that was killed
COLUMNS = 100  # a table has one for each class, if there aren't more
TOP_K = 5


class Prediction(TypedDict):
    """A label and its score: a probability, or of a regression the value."""

    label: str
    score: float


def finite(logits: torch.Tensor) -> torch.Tensor:
    """Returns the logits as they are if they are numbers.

    Raises:
        ValueError: they aren't: the best of NaNs would be a class like any other.
    """
    if not torch.isfinite(logits).all():
        raise ValueError("the model's logits are not finite; its weights are broken")
    return logits


@torch.no_grad()
def predict(
    model: PreTrainedModel, processor: BaseImageProcessor, path: str | Path, top_k: int = 5
) -> list[Prediction]:
    """Finds what a classifier answers for an image file, by its `config.problem_type`.

    The scores are the softmax over the classes, of a multi-label model each label's sigmoid, and of
    a regression the values, as those of transformers' pipeline().

    Args:
        model: A classifier, and
        processor: its image processor, both from `load_classifier`.
        path: The file.
        top_k: How many labels to name.

    Returns:
        `[{"label": …, "score": …}, …]`, from the highest score down.

    Raises:
        ValueError: the model answers what is no number.
        One of `errors.DECODE_ERRORS`: the image can't be decoded.

    Example:

    >>> predict(*load_classifier("org/vit-huge-p14-mae-in1k"), "bird.jpg")  # doctest: +SKIP
    """
    transform = ProcessorTransform(processor)
    pixels = to_pixels(open_picture(path), num_channels(model), transform.values)  # (H, W, C)
    pixel_values = transform(pixels)["pixel_values"].unsqueeze(0)  # (1, C, H, W)
    logits = finite(model(pixel_values.to(model.device)).logits)  # (1, K)
    scores = answer_scores(logits, model.config.problem_type)
    return rank(scores[0], model.config, top_k)


def rank(scores: torch.Tensor, config: Any, top_k: int = TOP_K) -> list[Prediction]:
    """Names the highest of an image's scores (K,), from the highest down."""
    highest, numbers = scores.topk(min(top_k, len(scores)))
    predictions = []
    for number, score in zip(numbers.tolist(), highest.tolist()):
        predictions.append(Prediction(label=config.id2label[number], score=score))
    return predictions


@torch.no_grad()
def compute_logits(model: PreTrainedModel, batch: ImageBatch) -> torch.Tensor:
    """Computes the logits (R, K), on the CPU, of those images of a batch that can be read.

    Raises:
        ValueError: the model answers what is no number.
    """
    config: Any = model.config
    if batch.pixel_values is None:
        return torch.zeros(0, config.num_labels)
    return finite(model(batch.pixel_values.to(model.device)).logits).float().cpu()


# as a table --------------------------------------------------------------------------------------


def answer_schema(config: Any) -> pa.Schema:
    """Says which columns the answers of a classifier have, beside `image` and `error`.

    - Of one class an image: `label` and `score`, the most probable and its probability; then
      `score_NAME` of each class, if there are at most 100, else `top2_label`, `top2_score` … to
      `top5_label`, `top5_score`.
    - Of several labels an image: `score_NAME`, each label's probability.
    - Of a regression: `value_NAME`.
    """
    text, number = pa.string(), pa.float64()
    fields = [("image", text), ("error", text)]
    if config.problem_type == REGRESSION:
        fields += [(f"value_{name}", number) for name in distinct_names(config)]
    elif config.problem_type == MULTI_LABEL or config.num_labels <= COLUMNS:
        if config.problem_type != MULTI_LABEL:
            fields += [("label", text), ("score", number)]
        fields += [(f"score_{name}", number) for name in distinct_names(config)]
    else:
        fields += [("label", text), ("score", number)]
        for place in range(2, TOP_K + 1):
            fields += [(f"top{place}_label", text), (f"top{place}_score", number)]
    return pa.schema(fields)


def distinct_names(config: Any) -> list[str]:
    """The names of a model's labels; those that several have with their number."""
    names = [config.id2label[number] for number in range(config.num_labels)]
    count = Counter(names)
    distinct: list[str] = []
    for number, name in enumerate(names):
        own = name
        while own in distinct or count[own] > 1 or (own != name and own in count):
            own = f"{own} ({number})"
        distinct.append(own)
    return distinct


def answer_table(batch: ImageBatch, scores: torch.Tensor, config: Any) -> pa.Table:
    """Makes a batch's rows of `answer_schema`, one an image, of the scores (R, K) of the readable.

    Numbers have as few digits as tell them from other float32, in all formats the same.
    """
    schema = answer_schema(config)
    rows: list[dict[str, Any]] = []
    for name, error in zip(batch.names, batch.errors):
        rows.append({"image": name, "error": error})
    decimals = scores.numpy().astype(np.float32).astype(str).astype(np.float64)  # (R, K)
    each = [name for name in schema.names if name.startswith(("score_", "value_"))]
    for place, own_scores, own_decimals in zip(batch.readable, scores, decimals):
        rows[place] |= dict(zip(each, own_decimals.tolist()))
        if "label" not in schema.names:
            continue
        best = own_scores.topk(min(TOP_K, len(own_scores))).indices.tolist()
        for number, at in enumerate(best, start=1):
            prefix = "" if number == 1 else f"top{number}_"
            rows[place][f"{prefix}label"] = config.id2label[at]
            rows[place][f"{prefix}score"] = own_decimals[at].item()
    return pa.Table.from_pylist(rows, schema=schema)  # which takes its columns alone


def open_parts(
    model: PreTrainedModel, processor: BaseImageProcessor, folder: Path, samples: ImageSamples
) -> Parts:
    """Names the parts of a classifier's answers for the images of a data set."""
    about = {**describe_classifier(model, processor), "data": images_digest(samples.dataset)}
    about["max_image_pixels"] = samples.max_image_pixels
    return Parts(folder, len(samples), ROWS, about)


def describe_classifier(model: PreTrainedModel, processor: BaseImageProcessor) -> dict[str, Any]:
    """Says what a classifier's answers depend on, for `Parts`."""
    return {
        "weights": weights_digest(model),
        "labels": distinct_names(model.config),
        "problem_type": model.config.problem_type,
        "processor": json.loads(processor.to_json_string()),
    }


def write_predictions(
    model: PreTrainedModel,
    samples: ImageSamples,
    parts: Parts,
    file: Path,
    batch_size: int,
    num_workers: int,
    state: PartialState,
) -> None:
    """Writes a classifier's answers for all images into a file; every process calls it.

    Until it is whole they are kept in parts. The main process merges these, and leaves them to be
    removed by the caller.

    Args:
        model: A classifier, on its device.
        samples: The images.
        parts: Of `open_parts`.
        file: A name that `check_table_file` takes.
        batch_size, num_workers, state: As for `compute_parts`.
    """
    config: Any = model.config

    def answer(batch: ImageBatch) -> pa.Table:
        scores = answer_scores(compute_logits(model, batch), config.problem_type)
        return answer_table(batch, scores, config)

    compute_parts(parts, samples, answer, batch_size, num_workers, state)
    if state.is_main_process:
        write_table(parts.tables, answer_schema(config), file)
