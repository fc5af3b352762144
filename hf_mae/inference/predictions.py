# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""A classifier's answers for image files."""

from pathlib import Path
from typing import TypedDict, cast

import torch
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from ..data.transforms import ProcessorTransform
from ..models.loading import num_channels
from ..models.pictures import open_picture, to_pixels
from ..models.problem_types import answer_scores


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
    logits = finite(model(pixel_values.to(model.device)).logits)[0]  # (K,)
    scores = answer_scores(logits, model.config.problem_type)
    scores, numbers = scores.topk(min(top_k, len(scores)))
    names = cast(dict[int, str], model.config.id2label)
    predictions = []
    for number, score in zip(numbers.tolist(), scores.tolist()):
        predictions.append(Prediction(label=names[number], score=score))
    return predictions
