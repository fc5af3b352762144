# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The one door from a folder or Hub id to a model and its image processor.

All that comes in here has its configuration read first, so that what is damaged or of another kind
is refused by a ValueError that names it; and so is a folder with a tensor that is missing, left
over or of another shape.

Published pre-training models have the encoder alone in the root, and encoder and decoder in
`pretraining/`: what is loaded is the latter, but where an encoder is asked for.
"""

import contextlib
import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from huggingface_hub.errors import HFValidationError
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

from .configuration_mae import MAEConfig, read_fields
from .image_processing_mae import MAEImageProcessor
from .model_files import architecture, find_pretraining, has_file
from .modeling_base import MAEPreTrainedModel
from .modeling_classification import MAEForImageClassification
from .modeling_mae import MAEForPreTraining, MAEModel
from .saved_fields import check_processor_fields
from .saved_files import check_finite, check_weights, told_of


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
_HEAD = ("fc_norm.", "batch_norm.", "classifier.")
# transformers' ViT has a pooler, which a native folder makes the identity
_IDENTITY_POOLER = frozenset({"pooler.dense.weight", "pooler.dense.bias"})

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
    "value_range",
    "bands",
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
        ValueError: it is of another kind, or damaged; or a tensor is missing, left over or of
            another shape.
        OSError: there is none.

    Example:

    >>> model, processor = load_model("facebook/vit-mae-base")  # doctest: +SKIP
    """
    fields = _read_config(model_name_or_path)
    below = find_pretraining(model_name_or_path, fields)
    if below:
        fields, _ = read_fields(model_name_or_path, subfolder=below)
    kind = architecture(fields)
    if kind not in _OUR_CLASSES:
        raise ValueError(
            f"{model_name_or_path} holds {kind}; there must be one of {', '.join(_OUR_CLASSES)}"
        )
    if kind == "ViTModel" and fields.get("pooler_act") != "linear":
        raise ValueError(
            f"{model_name_or_path} holds a ViTModel of another's, with a trained pooler, which "
            "ours don't have"
        )
    model, report = _load(_OUR_CLASSES[kind], model_name_or_path)
    known = _IDENTITY_POOLER if kind == "ViTModel" else frozenset()
    missing = {*report["missing_keys"], *(known - model._left_over_keys)}
    _check_tensors(model_name_or_path, report, missing, model._left_over_keys - known)
    check_finite(model, model_name_or_path)
    processor = load_processor(model_name_or_path, cast(MAEConfig, model.config))
    return model.eval(), cast(MAEImageProcessor, processor)


def load_as(model_class: type[ModelT], model_name_or_path: str | Path, **options: Any) -> ModelT:
    """Loads the weights of a folder or Hub id as a class of ours, to train on.

    Args:
        model_class: One of ours. A classifier's head is new if the folder has none, or another;
            a decoder or head that an encoder has no place for is left behind.
        model_name_or_path: Folder or Hub id of a model of ours, own or native, or `vit_mae`.
        options: Fields of the configuration to change, and options of `from_pretrained`.

    Returns:
        The model, in float32 whatever type it was saved in: updates of weights in bfloat16 would be
        rounded away.

    Raises:
        ValueError: it is of another kind, or damaged; or a tensor is missing, left over or of
            another shape.
        OSError: there is none.
    """
    fields = _read_config(model_name_or_path)
    model, report = _load(model_class, model_name_or_path, **options)
    left_over = report["unexpected_keys"]  # without what the class may pass over
    new = ()
    if issubclass(model_class, MAEForPreTraining):
        left_over = model._left_over_keys
    elif issubclass(model_class, MAEForImageClassification):
        new = _new_parts(fields, MAEConfig.from_pretrained(model_name_or_path), model.config)
    _check_tensors(model_name_or_path, report, report["missing_keys"], left_over, may_be_new=new)
    check_finite(model, model_name_or_path)
    return model


def _new_parts(fields: dict[str, Any], saved: MAEConfig, wanted: MAEConfig) -> tuple[str, ...]:
    """What the names of those tensors of a classifier start with that its folder may lack."""
    if "ForImageClassification" not in architecture(fields):
        return _HEAD
    if saved.pooling != wanted.pooling:
        return (*_HEAD, "vit.layernorm.")  # one pooling has its norm before it, the other behind
    same = saved.num_labels == wanted.num_labels
    same = same and saved.head_batch_norm == wanted.head_batch_norm
    return () if same else _HEAD


def load_pretraining_model(model_name_or_path: str | Path) -> MAEForPreTraining:
    """Loads an encoder and decoder, in float32 and evaluation mode.

    Raises:
        ValueError: it has no decoder, as a classifier or an encoder alone, is of another kind, or
            damaged.
        OSError: there is none.
    """
    fields = _read_config(model_name_or_path)
    kind = architecture(fields)
    is_known = kind in _OUR_CLASSES or "ForImageClassification" in kind
    has_decoder = "ForPreTraining" in kind or find_pretraining(model_name_or_path, fields)
    if is_known and not has_decoder:
        raise ValueError(
            f"{model_name_or_path} is no pre-training model: it holds {kind}, which has no "
            "decoder; take the folder that run_mae.py wrote"
        )
    return load_as(MAEForPreTraining, model_name_or_path).eval()


def _load(
    model_class: type[ModelT], model_name_or_path: str | Path, **options: Any
) -> tuple[ModelT, dict[str, Any]]:
    """The model, in float32, and transformers' report of the tensors, which isn't printed."""
    with told_of(model_name_or_path), _without_report():
        loaded: Any = model_class.from_pretrained(
            model_name_or_path,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are in the report
            output_loading_info=True,
            **options,
        )
        _validate(loaded[0].config)
    return loaded


@contextlib.contextmanager
def _without_report() -> Iterator[None]:
    """Keeps transformers from printing which tensors are missing: what shouldn't be, is refused."""
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_is_error)
    try:
        yield
    finally:
        logger.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _validate(config: PreTrainedConfig) -> None:
    """Lets transformers say now what it would say when the model is saved."""
    validate = getattr(config, "validate", None)  # older ones don't
    if validate is not None:
        validate()


def _check_tensors(
    model_name_or_path: str | Path,
    report: dict[str, Any],
    missing: Collection[str],
    left_over: Collection[str],
    may_be_new: tuple[str, ...] = (),
) -> None:
    """Raises ValueError that names the tensors which aren't those of the model.

    Args:
        model_name_or_path: Where it was loaded from.
        report: What transformers says of the loading.
        missing: Names that the folder lacks.
        left_over: Names that the model has no place for.
        may_be_new: What names start with that need not be there, or may be of another shape.
    """
    missing = [name for name in missing if not name.startswith(may_be_new)]
    odd = []
    for name, found, wanted in report["mismatched_keys"]:
        if not name.startswith(may_be_new):
            odd.append(f"{name} {tuple(found)}, not {tuple(wanted)}")
    if "decoder.mask_token" in missing and "decoder.decoder_pred.weight" in missing:
        raise ValueError(
            f"{model_name_or_path} is no pre-training model: it lacks {len(missing)} weights, as "
            f"{min(missing)}"
        )
    problems = {"missing": missing, "left over": list(left_over), "of another shape": odd}
    found = [f"{what}: {_enumerate(names)}" for what, names in problems.items() if names]
    if found:
        raise ValueError(
            f"{model_name_or_path} doesn't hold the tensors that its config.json says; in our "
            f"names, {'; '.join(found)}. It is damaged, or config.json is another's"
        )


def _enumerate(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def load_classifier(
    model_name_or_path: str | Path,
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Loads any image classifier that transformers knows, or ours, and its image processor.

    Returns:
        The model, in evaluation mode, and its processor.

    Raises:
        ValueError: it is not a classifier, or damaged; or a tensor is missing, left over or of
            another shape.
        OSError: there is none.
    """
    kind = architecture(_read_config(model_name_or_path))
    if "ForImageClassification" not in kind:  # its head would be new, and its answers noise
        raise ValueError(
            f"{model_name_or_path} holds {kind}, which is no classifier; run_finetune.py makes one "
            "of it"
        )
    if Path(model_name_or_path).is_dir():
        check_weights(model_name_or_path)
    with told_of(model_name_or_path), _without_report():
        model, report = AutoModelForImageClassification.from_pretrained(
            model_name_or_path, ignore_mismatched_sizes=True, output_loading_info=True
        )
        _validate(model.config)
    is_ours = isinstance(model, MAEPreTrainedModel)
    left_over = model._left_over_keys if is_ours else report["unexpected_keys"]
    _check_tensors(model_name_or_path, report, report["missing_keys"], left_over)
    check_finite(model, model_name_or_path)
    our_config = model.config if isinstance(model.config, MAEConfig) else None
    return model.eval(), load_processor(model_name_or_path, our_config)


def load_encoder(
    model_name_or_path: str | Path,
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Loads the encoder of a model, whatever stands on it, and its image processor.

    Args:
        model_name_or_path: Folder or Hub id of a model of ours, own or native, or `vit_mae`; or of
            a classifier of transformers' whose encoder is a ViT or a BEiT.

    Returns:
        The encoder, in float32 and evaluation mode, and its processor.

    Raises:
        ValueError: it is of another kind, or damaged; or a tensor is missing, left over or of
            another shape.
        OSError: there is none.

    Example:

    >>> encoder, processor = load_encoder("facebook/vit-mae-base")  # doctest: +SKIP
    """
    fields = _read_config(model_name_or_path)
    if fields.get("model_type") == "mae" or MAEConfig.is_native(fields):
        encoder = load_as(MAEModel, model_name_or_path)
        return encoder.eval(), load_processor(model_name_or_path, encoder.config)
    if "ForImageClassification" not in architecture(fields):
        raise ValueError(
            f"{model_name_or_path} holds {architecture(fields)}, which is no encoder of ours; "
            f"there must be one of {', '.join(_OUR_CLASSES)}, or a classifier of transformers' on "
            "a ViT or a BEiT"
        )
    classifier, processor = load_classifier(model_name_or_path)
    return cast(PreTrainedModel, classifier.base_model).float(), processor


def load_config(model_name_or_path: str | Path) -> MAEConfig:
    """Loads the configuration of a model of ours, own or native, or `vit_mae`.

    Raises:
        ValueError: it is damaged.
        OSError: there is none.
    """
    below = find_pretraining(model_name_or_path, _read_config(model_name_or_path))
    return MAEConfig.from_pretrained(model_name_or_path, subfolder=below or "")


def load_processor(
    model_name_or_path: str | Path, config: MAEConfig | None = None
) -> BaseImageProcessor:
    """Loads an image processor.

    Args:
        model_name_or_path: Folder or Hub id.
        config: Of a model of ours: then the processor is ours too, with what the folder's own says
            and for the model's image size, and need not have a file. That of a model with a decoder
            lies where the decoder lies.

    Raises:
        ValueError: the file is damaged, or not for this model.
        OSError: there is none.
    """
    below = None
    if config is not None and "ForPreTraining" in architecture(vars(config)):
        below = find_pretraining(model_name_or_path, _read_config(model_name_or_path))
    name = f"{below}/{IMAGE_PROCESSOR_NAME}" if below else IMAGE_PROCESSOR_NAME
    if config is not None and not has_file(model_name_or_path, name):
        return MAEImageProcessor.from_model_config(config)
    with told_of(f"{name} of {model_name_or_path}"):
        fields, _ = MAEImageProcessor.get_image_processor_dict(
            model_name_or_path, subfolder=below or ""
        )
        check_processor_fields(fields)
        if config is None:
            return cast(BaseImageProcessor, AutoImageProcessor.from_pretrained(model_name_or_path))
        kind = fields.get("image_processor_type", fields.get("feature_extractor_type"))
        processor = _load_as_ours(model_name_or_path, below or "", kind)
        return processor.fitted_to(config)


def _load_as_ours(
    model_name_or_path: str | Path, subfolder: str, kind: str | None
) -> MAEImageProcessor:
    """Loads a processor of ours, or one of transformers', of this class, as ours."""
    if kind in (None, "MAEImageProcessor"):
        return MAEImageProcessor.from_pretrained(model_name_or_path, subfolder=subfolder)
    try:
        native: Any = AutoImageProcessor.from_pretrained(
            model_name_or_path, subfolder=subfolder, trust_remote_code=False
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
    fields, _ = read_fields(model_name_or_path)
    if fields.get("return_dict", True) is not True:
        raise ValueError(
            f"config.json of {model_name_or_path} has return_dict {fields['return_dict']}; set it "
            "to true, for outputs are read by name"
        )
    return fields
