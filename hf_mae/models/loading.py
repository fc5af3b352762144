# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The one door from a folder or Hub id to a model and its image processor.

All that comes in here has its configuration read first, so that what is damaged or of another kind
is refused by a ValueError that names it.
"""

from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import IMAGE_PROCESSOR_NAME

from .configuration_mae import MAEConfig
from .image_processing_mae import MAEImageProcessor
from .modeling_classification import MAEForImageClassification
from .modeling_mae import MAEForPreTraining, MAEModel, MAEPreTrainedModel


ModelT = TypeVar("ModelT", bound=MAEPreTrainedModel)

# what a folder says that it holds → the class of ours that reads it
_OUR_CLASSES: dict[str, type[MAEPreTrainedModel]] = {
    "MAEForPreTraining": MAEForPreTraining,
    "MAEForImageClassification": MAEForImageClassification,
    "MAEModel": MAEModel,
    "ViTMAEForPreTraining": MAEForPreTraining,
    "ViTMAEModel": MAEModel,
    "ViTModel": MAEModel,
}

# what our image processor takes over from another
_PROCESSOR_FIELDS = (
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)


def load_model(
    model_name_or_path: str | Path,
) -> tuple[MAEPreTrainedModel, MAEImageProcessor]:
    """Loads a model as the class it was saved from, and its image processor.

    Args:
        model_name_or_path: Folder or Hub id of a model of ours, own or native, or `vit_mae`.

    Returns:
        The model, in float32 and evaluation mode, and its processor.

    Raises:
        ValueError: it is of another kind, or damaged.
        OSError: there is none.

    Example:

    >>> model, processor = load_model("facebook/vit-mae-base")  # doctest: +SKIP
    """
    fields = _read_config(model_name_or_path)
    kind = _architecture(fields)
    if kind not in _OUR_CLASSES:
        raise ValueError(
            f"{model_name_or_path} holds {kind}; there must be one of {', '.join(_OUR_CLASSES)}"
        )
    if kind == "ViTModel" and fields.get("pooler_act") != "linear":
        raise ValueError(
            f"{model_name_or_path} holds a ViTModel of another's, with a trained pooler, which "
            "ours don't have"
        )
    model = load_as(_OUR_CLASSES[kind], model_name_or_path).eval()
    processor = load_processor(model_name_or_path, cast(MAEConfig, model.config))
    return model, cast(MAEImageProcessor, processor)


def load_as(model_class: type[ModelT], model_name_or_path: str | Path, **options: Any) -> ModelT:
    """Loads the weights of a folder or Hub id as a class of ours, to train on.

    Args:
        model_class: One of ours; weights that the folder lacks are new.
        model_name_or_path: Folder or Hub id of a model of ours, own or native, or `vit_mae`.
        options: Fields of the configuration to change, and options of `from_pretrained`.

    Returns:
        The model, in float32 whatever type it was saved in: updates of weights in bfloat16 would be
        rounded away.

    Raises:
        ValueError: it is of another kind, or damaged.
        OSError: there is none.
    """
    _read_config(model_name_or_path)
    model = model_class.from_pretrained(model_name_or_path, dtype=torch.float32, **options)
    return cast(ModelT, model)


def load_pretraining_model(model_name_or_path: str | Path) -> MAEForPreTraining:
    """Loads an encoder and decoder, in float32 and evaluation mode.

    Raises:
        ValueError: it lacks weights, as an encoder alone does, is of another kind, or damaged.
        OSError: there is none.
    """
    model, report = cast(
        tuple[MAEForPreTraining, dict[str, Any]],
        load_as(MAEForPreTraining, model_name_or_path, output_loading_info=True),
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"{model_name_or_path} is no pre-training model: it lacks {len(missing)} weights, as "
            f"{missing[0]}"
        )
    return model.eval()


def load_classifier(
    model_name_or_path: str | Path,
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Loads any image classifier that transformers knows, or ours, and its image processor.

    Returns:
        The model, in evaluation mode, and its processor.

    Raises:
        ValueError: it is not a classifier, or damaged.
        OSError: there is none.
    """
    kind = _architecture(_read_config(model_name_or_path))
    if "ForImageClassification" not in kind:  # its head would be new, and its answers noise
        raise ValueError(
            f"{model_name_or_path} holds {kind}, which is no classifier; run_finetune.py makes one "
            "of it"
        )
    model = AutoModelForImageClassification.from_pretrained(model_name_or_path).eval()
    our_config = model.config if isinstance(model.config, MAEConfig) else None
    return model, load_processor(model_name_or_path, our_config)


def load_config(model_name_or_path: str | Path) -> MAEConfig:
    """Loads the configuration of a model of ours, own or native, or `vit_mae`.

    Raises:
        ValueError: it is damaged.
        OSError: there is none.
    """
    _read_config(model_name_or_path)
    return MAEConfig.from_pretrained(model_name_or_path)


def load_processor(
    model_name_or_path: str | Path, config: MAEConfig | None = None
) -> BaseImageProcessor:
    """Loads an image processor.

    Args:
        model_name_or_path: Folder or Hub id.
        config: Of a model of ours: then the processor is ours too, with what the folder's own says
            and for the model's image size, and need not have a file.

    Raises:
        ValueError: the file is damaged, or not for this model.
        OSError: there is none.
    """
    if config is not None and not _has_file(model_name_or_path, IMAGE_PROCESSOR_NAME):
        return MAEImageProcessor.from_model_config(config)
    try:
        if config is None:
            return cast(BaseImageProcessor, AutoImageProcessor.from_pretrained(model_name_or_path))
        processor = _load_as_ours(model_name_or_path)
    except (AttributeError, TypeError, LookupError) as error:
        raise ValueError(
            f"{IMAGE_PROCESSOR_NAME} of {model_name_or_path} is damaged: {error}"
        ) from error
    try:
        return processor.fitted_to(config)
    except ValueError as error:
        raise ValueError(f"{model_name_or_path}: {error}") from error


def _load_as_ours(model_name_or_path: str | Path) -> MAEImageProcessor:
    """Loads a processor of ours, or one of transformers' as ours."""
    fields, _ = MAEImageProcessor.get_image_processor_dict(model_name_or_path)
    kind = fields.get("image_processor_type", fields.get("feature_extractor_type"))
    if kind in (None, "MAEImageProcessor"):
        return MAEImageProcessor.from_pretrained(model_name_or_path)
    try:
        native: Any = AutoImageProcessor.from_pretrained(
            model_name_or_path, trust_remote_code=False
        )
    except ValueError as error:  # which lists all that there are
        raise ValueError(
            f"{IMAGE_PROCESSOR_NAME} of {model_name_or_path} is of a {kind}, which transformers "
            "doesn't have, or damaged"
        ) from error
    options = {name: getattr(native, name, None) for name in _PROCESSOR_FIELDS}
    for name in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
        options[name] = bool(options[name])  # None would be our default, which is true
    return MAEImageProcessor(**options)


def check_model_source(model_name_or_path: str | Path) -> None:
    """Raises ValueError if this is neither a folder nor what a Hub id can be."""
    if Path(model_name_or_path).is_dir():
        return
    try:
        validate_repo_id(str(model_name_or_path))
    except HFValidationError as error:
        raise ValueError(
            f"model_name_or_path {model_name_or_path} is neither a folder here nor a Hub id"
        ) from error


def num_channels(model: nn.Module) -> int:
    """Counts the channels of the images that a model takes."""
    return getattr(model.config, "num_channels", 3)


def _read_config(model_name_or_path: str | Path) -> dict[str, Any]:
    """Reads the fields of config.json as they are."""
    check_model_source(model_name_or_path)
    damage = ValueError(f"config.json of {model_name_or_path} holds no mapping of fields")
    try:
        fields, _ = PreTrainedConfig.get_config_dict(model_name_or_path)
    except TypeError as error:  # up to 5.17 transformers writes into it
        raise damage from error
    if not isinstance(fields, dict):
        raise damage
    return fields


def _architecture(fields: dict[str, Any]) -> str:
    """Names the class that a model was saved from."""
    return (fields.get("architectures") or ["a model of unknown kind"])[0]


def _has_file(model_name_or_path: str | Path, name: str) -> bool:
    if Path(model_name_or_path).is_dir():
        return Path(model_name_or_path, name).is_file()
    try:
        return bool(hf_hub_download(str(model_name_or_path), name))
    except EntryNotFoundError:
        return False
