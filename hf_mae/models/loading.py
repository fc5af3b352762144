# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""From a folder or Hub id to a model and its image processor."""

from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedConfig,
)
from transformers.utils import IMAGE_PROCESSOR_NAME

from .image_processing_mae import MAEImageProcessor
from .modeling_classification import MAEForImageClassification
from .modeling_mae import MAEForPreTraining, MAEModel


def check_model_source(model_name_or_path):
    """Raises ValueError if this is neither a folder nor what a Hub id can be."""
    if not Path(model_name_or_path).is_dir():
        try:
            validate_repo_id(str(model_name_or_path))
        except HFValidationError as error:
            raise ValueError(
                f"model_name_or_path {model_name_or_path} is neither a folder here nor a Hub id"
            ) from error


def load_classifier(model_name_or_path):
    """Any image classifier that transformers knows, or ours, in evaluation mode, and its image
    processor.

    Raises:
        ValueError: it is not a classifier.
        OSError: there is none.
    """
    check_model_source(model_name_or_path)
    config = AutoConfig.from_pretrained(model_name_or_path)
    kind = (config.architectures or ["a model of unknown kind"])[0]
    if "ForImageClassification" not in kind:  # its head would be new, and its answers noise
        raise ValueError(
            f"{model_name_or_path} holds {kind}, which is no classifier; run_finetune.py makes one "
            "of it"
        )
    model = AutoModelForImageClassification.from_pretrained(model_name_or_path).eval()
    return model, load_processor(model_name_or_path, config if config.model_type == "mae" else None)


def load_processor(model_name_or_path, config=None):
    """The image processor of a folder or Hub id; with a `MAEConfig`, that of our models, even if
    there is no file of it.

    Raises:
        ValueError: the file is damaged.
        OSError: there is none.
    """
    if config is not None and not _has_file(model_name_or_path, IMAGE_PROCESSOR_NAME):
        return MAEImageProcessor.from_model_config(config)
    try:
        return (AutoImageProcessor if config is None else MAEImageProcessor).from_pretrained(
            model_name_or_path
        )
    except (AttributeError, TypeError, LookupError) as error:
        raise ValueError(
            f"{IMAGE_PROCESSOR_NAME} of {model_name_or_path} is damaged: {error}"
        ) from error


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


_OUR_CLASSES = {
    "MAEForPreTraining": MAEForPreTraining,
    "MAEForImageClassification": MAEForImageClassification,
    "MAEModel": MAEModel,
    "ViTMAEForPreTraining": MAEForPreTraining,
    "ViTMAEModel": MAEModel,
    "ViTModel": MAEModel,
}


def load_model(model_name_or_path):
    """The model of a folder or Hub id as the class it was saved from, in float32 and evaluation
    mode, and its processor.

    Raises:
        ValueError: it is of another kind.
        OSError: there is none.
    """
    config, _ = PreTrainedConfig.get_config_dict(model_name_or_path)
    if not isinstance(config, dict):
        raise ValueError(
            f"config.json of {model_name_or_path} holds a {type(config).__name__}, no mapping of "
            "fields"
        )
    kind = (config.get("architectures") or ["a model of unknown kind"])[0]
    if kind not in _OUR_CLASSES:
        raise ValueError(
            f"{model_name_or_path} holds {kind}; there must be one of {', '.join(_OUR_CLASSES)}"
        )
    if kind == "ViTModel" and config.get("pooler_act") != "linear":
        raise ValueError(
            f"{model_name_or_path} holds a ViTModel of another's, with a trained pooler, which "
            "ours don't have"
        )
    model = _OUR_CLASSES[kind].from_pretrained(model_name_or_path, dtype=torch.float32).eval()
    return model, load_processor(model_name_or_path, model.config)
