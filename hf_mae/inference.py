# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""A classifier's answers for image files."""

import torch
from PIL import Image

from .data.transforms import ProcessorTransform
from .models.image_processing_mae import image_to_array
from .models.loading import num_channels


def finite(logits):
    """The logits as they are, if they are numbers; else ValueError: the best of NaNs would be a
    class like any other."""
    if not torch.isfinite(logits).all():
        raise ValueError("the model's logits are not finite; its weights are broken")
    return logits


@torch.no_grad()
def predict(model, processor, path, top_k=5):
    """The most probable classes of an image file.

    Returns:
        [{"label": …, "score": …}, …], from the most probable down.

    Raises:
        One of `image_processing_mae.DECODE_ERRORS`.
    """
    with Image.open(path) as image:
        array = image_to_array(image, num_channels(model))
    pixel_values = (
        ProcessorTransform(processor)(array)["pixel_values"].unsqueeze(0).to(model.device)
    )
    probabilities = finite(model(pixel_values).logits)[0].float().softmax(dim=0)
    scores, numbers = probabilities.topk(min(top_k, len(probabilities)))
    return [
        {"label": model.config.id2label[n], "score": s}
        for n, s in zip(numbers.tolist(), scores.tolist())
    ]
