# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""A finished classifier, own or native: loading it, and which of its classes are those of a data set."""

from collections import Counter
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
from transformers.utils import IMAGE_PROCESSOR_NAME

from .decoding import whole_pixels
from .image_datasets import readable_names
from .image_processing_mae import MAEImageProcessor, image_to_array


def check_model_source(model_name_or_path):
    """Raises ValueError if this is neither a folder nor what a Hub id can be."""
    if not Path(model_name_or_path).is_dir():
        try:
            validate_repo_id(str(model_name_or_path))
        except HFValidationError as error:
            raise ValueError(f"model_name_or_path {model_name_or_path} is neither a folder here nor a Hub id") from error


def load_classifier(model_name_or_path):
    """Any image classifier that transformers knows, or ours, in evaluation mode, and its image processor.

    Raises:
        ValueError: it is not a classifier.
        OSError: there is none.
    """
    check_model_source(model_name_or_path)
    config = AutoConfig.from_pretrained(model_name_or_path)
    kind = (config.architectures or ["a model of unknown kind"])[0]
    if "ForImageClassification" not in kind:  # its head would be new, and its answers noise
        raise ValueError(f"{model_name_or_path} holds {kind}, which is no classifier; run_finetune.py makes one of it")
    model = AutoModelForImageClassification.from_pretrained(model_name_or_path).eval()
    return model, load_processor(model_name_or_path, config if config.model_type == "mae" else None)


def load_processor(model_name_or_path, config=None):
    """The image processor of a folder or Hub id; with a `MAEConfig`, that of our models, even if there is no file of it.

    Raises:
        ValueError: the file is damaged.
        OSError: there is none.
    """
    if config is not None and not _has_file(model_name_or_path, IMAGE_PROCESSOR_NAME):
        return MAEImageProcessor.from_model_config(config)
    try:
        return (AutoImageProcessor if config is None else MAEImageProcessor).from_pretrained(model_name_or_path)
    except (AttributeError, TypeError, LookupError) as error:
        raise ValueError(f"{IMAGE_PROCESSOR_NAME} of {model_name_or_path} is damaged: {error}") from error


def _has_file(model_name_or_path, name):
    if Path(model_name_or_path).is_dir():
        return Path(model_name_or_path, name).is_file()
    try:
        return bool(hf_hub_download(model_name_or_path, name))
    except EntryNotFoundError:
        return False


def num_channels(model):
    """Channels of the images that a model takes."""
    return getattr(model.config, "num_channels", 3)


def finite(logits):
    """The logits as they are, if they are numbers; else ValueError: the best of NaNs would be a class like any other."""
    if not torch.isfinite(logits).all():
        raise ValueError("the model's logits are not finite; its weights are broken")
    return logits


class ProcessorTransform:
    """Image → pixel_values as a model's own image processor makes them."""

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, image, rng=None):
        array = whole_pixels(image)
        return {
            "pixel_values": self.processor(array, input_data_format="channels_last", return_tensors="pt").pixel_values[0]
        }


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
    pixel_values = ProcessorTransform(processor)(array)["pixel_values"].unsqueeze(0).to(model.device)
    probabilities = finite(model(pixel_values).logits)[0].float().softmax(dim=0)
    scores, numbers = probabilities.topk(min(top_k, len(probabilities)))
    return [{"label": model.config.id2label[n], "score": s} for n, s in zip(numbers.tolist(), scores.tolist())]


def match_classes(names, id2label):
    """For each class of a data set the number that a model has for it: by name, for their orders may differ.

    Args:
        names: Class names of the data set, in its order.
        id2label: Number → name, of the model.

    Returns:
        numbers: One a name.

    Raises:
        ValueError: the model doesn't know a class.

    Example:

    >>> match_classes(["cat", "dog"], {0: "dog", 1: "cat", 2: "cow"})
    [1, 0]
    """
    labels = [id2label[number] for number in sorted(id2label)]
    if len(names) == len(labels) and all(label == f"LABEL_{number}" for number, label in enumerate(labels)):
        return list(range(len(names)))  # the model was given no names
    count = Counter(labels)
    label2id = {label: number for number, label in enumerate(labels) if count[label] == 1}
    for spelling in (list(names), readable_names(names)):
        numbers = [label2id.get(name) for name in spelling]
        missing = [i for i, number in enumerate(numbers) if number is None]
        # a few of ImageNet's thousand names are spelt in several ways; its order is the same everywhere
        if len(names) == len(labels) == 1000 and len(missing) < 100 and not set(missing) & set(numbers):
            numbers = [i if number is None else number for i, number in enumerate(numbers)]
        if None not in numbers:
            return numbers
    unknown = [name for name in names if name not in label2id]
    raise ValueError(
        f"the model doesn't know {len(unknown)} of the data set's {len(names)} classes, as {unknown[0]!r}; "
        f"it knows {', '.join(labels[:10])}{', …' * (len(labels) > 10)}"
    )
