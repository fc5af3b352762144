# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Ours → native: folders that plain transformers loads, from 4.57 on, without our code.

They compute what ours do. A pre-training model becomes a bare `vit`, for features of every patch
and for classifiers to be trained on, and below it, in `pretraining/`, a `vit_mae` with the decoder;
a classifier on the mean of the patches `beit`, which has that head; one on the class token `vit`.

transformers' pipelines make every picture RGB. A model of grey images that they are to use takes
RGB too: the luminance of a picture is folded into its patch projection.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from huggingface_hub import save_torch_state_dict
from PIL import Image
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    BeitConfig,
    BitImageProcessor,
    PreTrainedConfig,
    ViTConfig,
    ViTMAEConfig,
)

from ..models.configuration_mae import MAEConfig
from ..models.image_processing_mae import MAEImageProcessor
from ..models.key_names import NATIVE_RENAMES, rename
from ..models.masking import seeded_noise
from ..models.model_files import PRETRAINING_FOLDER
from ..models.modeling_base import MAEPreTrainedModel
from ..models.modeling_classification import MAEForImageClassification
from ..models.modeling_mae import MAEForPreTraining, MAEModel
from ..models.permissions import share_weights
from .comparison import check_differences, relative_difference


_SHARED_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "layer_norm_eps",
    "num_channels",
)
_DECODER_FIELDS = (
    "decoder_hidden_size",
    "decoder_num_hidden_layers",
    "decoder_num_attention_heads",
    "decoder_intermediate_size",
    "mask_ratio",
    "norm_pix_loss",
)
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601-2, as PIL's conversion to grey
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Export:
    """What `export` wrote.

    Attributes:
        architectures: Folder, "" for the root → the native class there.
        differences: Output → its greatest difference from ours.
        notes: What is other than in the model's own folder, for the user.
    """

    architectures: dict[str, str]
    differences: dict[str, float]
    notes: tuple[str, ...] = ()

    @property
    def architecture(self) -> str:
        """The native class in the root."""
        return self.architectures[""]


@dataclass(kw_only=True)
class _NativeModel:
    """A model in transformers' terms: its class, its configuration, its tensors by name."""

    architecture: str
    config: PreTrainedConfig
    tensors: dict[str, torch.Tensor]


def export(
    model: MAEPreTrainedModel,
    processor: MAEImageProcessor,
    folder: str | Path,
    as_: Literal["vit", "vit_mae"] | None = None,
) -> Export:
    """Writes a native folder, loads it with plain transformers and compares.

    A pre-training model becomes two: the encoder in the root, and encoder and decoder in
    `pretraining/`. A cross-attention decoder stays behind: transformers has none, and a note says
    so.

    Args:
        model: `MAEForPreTraining`, `MAEForImageClassification` or `MAEModel`.
        processor: Its image processor.
        folder: Where to.
        as_: One alone, in the root: "vit", the encoder without decoder or head, or "vit_mae",
            encoder and decoder.

    Raises:
        ValueError: there is no native model that computes the same; or, having been written, it
            doesn't to 1e-5; or the folder would keep another model's `pretraining/`.

    Example:

    >>> from hf_mae import MAEConfig, MAEForPreTraining, MAEImageProcessor
    >>> model = MAEForPreTraining(MAEConfig.from_size("tiny", image_size=32, patch_size=8))
    >>> processor = MAEImageProcessor.from_model_config(model.config)
    >>> export(model, processor, "/tmp/native").architectures
    {'': 'ViTModel', 'pretraining': 'ViTMAEForPreTraining'}
    """
    _check_that_a_native_model_fits(model.config)
    _check_that_a_native_processor_fits(model.config, processor)
    natives = _make_natives(model, as_)
    if len(natives) == 1:
        _check_that_nothing_stays(Path(folder))
    architectures, differences = {}, {}
    notes = dict.fromkeys([*describe_values(processor), *_describe_pretraining(model, natives)])
    for place, native in natives.items():
        fitting = _fit_processor(processor, native, model.config)
        differences |= _write(native, model, fitting, Path(folder, place))
        architectures[place] = native.architecture
        if fitting is not processor:
            notes[_describe_fitting(processor, fitting)] = None  # once for both
    return Export(architectures, differences, tuple(notes))


def _write(
    native: _NativeModel, model: MAEPreTrainedModel, processor: MAEImageProcessor, folder: Path
) -> dict[str, float]:
    """Writes one native model with its processor; returns the differences of its outputs."""
    if model.config.num_channels == 1 and native.architecture != "ViTMAEForPreTraining":
        native.config.num_channels = 3
        native.tensors = _take_rgb(native.tensors)
    num_channels = native.config.num_channels
    folder.mkdir(parents=True, exist_ok=True)  # save_pretrained only logs that it can't
    native.config.architectures = [native.architecture]
    native.config.dtype = "float32"
    native.config.save_pretrained(folder)
    tensors = {name: tensor.detach().contiguous() for name, tensor in native.tensors.items()}
    save_torch_state_dict(tensors, folder)
    share_weights(folder)
    _native_processor(processor, num_channels).save_pretrained(folder)
    _compare_processors(processor, folder, model.config.num_channels, num_channels)
    return _compare_models(model, folder, native.architecture, num_channels)


def _check_that_a_native_model_fits(config: MAEConfig) -> None:
    sides = {"image_size": config.image_hw, "patch_size": config.patch_hw}
    for name, (height, width) in sides.items():
        if height != width:
            raise ValueError(
                f"{name} is {height} x {width}; transformers' own models take squares only: this "
                "one stays ours"
            )


def _check_that_a_native_processor_fits(config: MAEConfig, processor: MAEImageProcessor) -> None:
    if config.num_channels not in (1, 3):
        raise ValueError(
            f"num_channels is {config.num_channels}; transformers' own image processors take 1 and "
            "3: this one stays ours"
        )
    if len(processor.image_mean) != config.num_channels:
        raise ValueError(
            f"the image processor makes {len(processor.image_mean)} channels, as many as "
            f"image_mean has, and the model takes {config.num_channels}; mend "
            "preprocessor_config.json"
        )
    size = dict(processor.size)
    if not (size.get("shortest_edge") or (size.get("height") and size.get("width"))):
        raise ValueError("the image processor's size must be a shortest_edge, or height and width")


def _check_that_nothing_stays(folder: Path) -> None:
    """Raises ValueError if there is a decoder below that our classes would take for this one's."""
    if (folder / PRETRAINING_FOLDER).exists():
        raise ValueError(
            f"{folder / PRETRAINING_FOLDER} is there already, with the decoder of what was "
            "exported before; delete it, or name another folder"
        )


def _make_natives(
    model: MAEPreTrainedModel, as_: Literal["vit", "vit_mae"] | None
) -> dict[str, _NativeModel]:
    """Folder → the model that goes there."""
    if as_ not in (None, "vit", "vit_mae"):
        raise ValueError(f"as_ is {as_!r}; it must be 'vit', 'vit_mae' or None")
    if as_ == "vit_mae" and not isinstance(model, MAEForPreTraining):
        raise ValueError(
            f"the model is a {type(model).__name__}, without a decoder; 'vit_mae' is for "
            "pre-training models"
        )
    if as_ == "vit_mae" and model.config.decoder_type != "self":
        raise ValueError(
            f"decoder_type is {model.config.decoder_type!r}, and transformers has no such decoder; "
            "export the encoder alone, as 'vit'"
        )
    if as_ == "vit_mae":
        return {"": _native_pretraining(model)}
    if as_ == "vit" or isinstance(model, MAEModel):
        return {"": _native_encoder(_encoder_of(model))}
    if isinstance(model, MAEForImageClassification):
        return {"": _native_classifier(model)}
    natives = {"": _native_encoder(_encoder_of(model))}
    if model.config.decoder_type == "self":
        natives[PRETRAINING_FOLDER] = _native_pretraining(model)
    return natives


def _describe_pretraining(model: MAEPreTrainedModel, natives: dict[str, _NativeModel]) -> list[str]:
    """What native folders don't keep of how a model was pre-trained."""
    config, kinds = model.config, [native.architecture for native in natives.values()]
    if isinstance(model, MAEForPreTraining) and config.decoder_type == "cross":
        return [
            "transformers has no cross-attention decoder: here is the encoder alone; keep the "
            "model's own folder to fill in patches and to train on"
        ]
    if "ViTMAEForPreTraining" in kinds and config.mask_strategy != "random":
        return [
            "transformers' own model hides patches at random; that this one was trained with "
            f"mask_strategy {config.mask_strategy!r} isn't kept"
        ]
    return []


def _native_pretraining(model: MAEPreTrainedModel) -> _NativeModel:
    config = ViTMAEConfig(**_read_fields(model.config, *_DECODER_FIELDS, "qkv_bias"))
    return _NativeModel(architecture="ViTMAEForPreTraining", config=config, tensors=_rename(model))


def _encoder_of(model: MAEPreTrainedModel) -> MAEModel:
    """The model itself, if it is a bare encoder."""
    return cast(MAEModel, model.base_model)


def _native_encoder(encoder: MAEModel) -> _NativeModel:
    if not encoder.config.final_norm:
        raise ValueError(
            "the encoder has no final norm (a mean-pool classifier's: its norm comes after the "
            "mean), and transformers' ViT always has one; export the pre-trained model below it"
        )
    # transformers' ViT has a pooler: made the identity, it gives the class token
    config = ViTConfig(**_read_fields(encoder.config, "qkv_bias"), pooler_act="linear")
    width = encoder.config.hidden_size
    tensors = _rename(encoder)
    tensors["pooler.dense.weight"] = torch.eye(width)
    tensors["pooler.dense.bias"] = torch.zeros(width)
    return _NativeModel(architecture="ViTModel", config=config, tensors=tensors)


def _native_classifier(model: MAEForImageClassification) -> _NativeModel:
    labels = {
        "id2label": model.config.id2label,
        "label2id": model.config.label2id,
        "problem_type": model.config.problem_type,
    }
    tensors = _fold_batch_norm(model)
    if model.config.pooling == "mean":
        config = _beit_config(model.config, labels)
        tensors = _beit_tensors(tensors, model.config)
        return _NativeModel(
            architecture="BeitForImageClassification", config=config, tensors=tensors
        )
    config = ViTConfig(**_read_fields(model.config, "qkv_bias"), **labels)
    return _NativeModel(architecture="ViTForImageClassification", config=config, tensors=tensors)


def _read_fields(config: MAEConfig, *names: str) -> dict[str, Any]:
    """Those that every native configuration has, and the named ones."""
    fields = {name: getattr(config, name) for name in (*_SHARED_FIELDS, *names)}
    return {"image_size": config.image_hw[0], "patch_size": config.patch_hw[0], **fields}


def _rename(model: MAEPreTrainedModel) -> dict[str, torch.Tensor]:
    """The tensors under native names."""
    return rename(model.state_dict(), NATIVE_RENAMES)


def _fold_batch_norm(model: MAEForImageClassification) -> dict[str, torch.Tensor]:
    """The tensors under native names, the batch norm multiplied into the linear layer.

    No native head has a batch norm.
    """
    tensors = _rename(model)
    if not model.config.head_batch_norm:
        return tensors
    mean = tensors["batch_norm.running_mean"].double()
    variance = tensors["batch_norm.running_var"].double()
    eps = cast(nn.BatchNorm1d, model.batch_norm).eps
    weight = tensors["classifier.weight"].double() / (variance + eps).sqrt()
    bias = tensors["classifier.bias"].double() - weight @ mean
    kept = {name: t for name, t in tensors.items() if not name.startswith("batch_norm.")}
    return kept | {"classifier.weight": weight.float(), "classifier.bias": bias.float()}


def _beit_config(config: MAEConfig, labels: dict[str, Any]) -> BeitConfig:
    return BeitConfig(
        **_read_fields(config),
        **labels,
        use_absolute_position_embeddings=True,
        use_relative_position_bias=False,
        use_shared_relative_position_bias=False,
        use_mask_token=False,
        use_mean_pooling=True,
        layer_scale_init_value=0.0,
        drop_path_rate=0.0,
    )


def _beit_tensors(tensors: dict[str, torch.Tensor], config: MAEConfig) -> dict[str, torch.Tensor]:
    """ViT's tensors as BEiT's.

    BEiT's keys have no bias: ours cancels in the softmax, being the same for every key that a query
    asks. Its queries and values always have one.
    """
    renamed = {}
    for name, tensor in tensors.items():
        if name.endswith("attention.key.bias"):
            continue
        name = name.replace("fc_norm.", "beit.pooler.layernorm.")
        name = re.sub(r"^vit\.", "beit.", name)
        renamed[name] = tensor
        if not config.qkv_bias and re.search(r"attention\.(query|value)\.weight$", name):
            renamed[name.replace("weight", "bias")] = torch.zeros(config.hidden_size)
    return renamed


def _take_rgb(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Makes a model of grey images one of RGB, whose grey it takes."""
    (name,) = [name for name in tensors if name.endswith("patch_embeddings.projection.weight")]
    luminance = torch.tensor(_LUMINANCE).view(1, 3, 1, 1)
    return {**tensors, name: tensors[name] * luminance}  # (D, 1, p, p) to (D, 3, p, p)


def _fit_processor(
    processor: MAEImageProcessor, native: _NativeModel, config: MAEConfig
) -> MAEImageProcessor:
    """For what isn't a classifier, a processor without a margin around the crop.

    transformers' example scripts crop to what the processor resizes to, so that this has to be the
    model's size. A classifier is evaluated with the margin that it was measured with.
    """
    if native.architecture.endswith("ForImageClassification"):
        return processor
    pixels = config.image_hw[0]
    size = dict.fromkeys(_given_sides(processor.size), pixels)
    crop_size = {"height": pixels, "width": pixels}
    if (size, crop_size) == (_given_sides(processor.size), _given_sides(processor.crop_size)):
        return processor
    fields = {**processor.to_dict(), "size": size, "crop_size": crop_size}
    return cast(MAEImageProcessor, type(processor).from_dict(fields))


def _describe_fitting(ours: MAEImageProcessor, fitting: MAEImageProcessor) -> str:
    old, new = _given_sides(ours.size), _given_sides(fitting.size)
    return (
        f"the image processor resizes to {new}, the model's size, as transformers' examples expect "
        f"it, where that of the model's own folder resizes to {old} and crops: features of a "
        "picture differ as far as its margin goes"
    )


def describe_values(processor: MAEImageProcessor) -> list[str]:
    """Says, if it isn't that of 8 bits, of which values an exported model's pixels are made."""
    if processor.value_range is None and processor.bands is None:
        return []
    bands = f"bands {', '.join(map(str, processor.bands))}, " if processor.bands else ""
    low, high = processor.value_range or (0, 255)
    return [
        f"the model's pixels are {bands}values from {low:,g}, which is black, to {high:,g}, white; "
        "transformers' own image processors take pictures of 8 bits alone: bring others to 0 to "
        "255 by that range first, as hf_mae's scripts do by what preprocessor_config.json says"
    ]


def _native_processor(processor: MAEImageProcessor, num_channels: int) -> BitImageProcessor:
    """Of the native ones, the one that resizes by the shortest edge in every version.

    It has value range and bands for our own scripts; transformers doesn't look at them.
    """
    copies = num_channels // len(processor.image_mean)
    ours: Any = {"value_range": processor.value_range, "bands": processor.bands}
    ours = {name: value for name, value in ours.items() if value is not None}
    return BitImageProcessor(
        do_resize=processor.do_resize,
        size=_given_sides(processor.size),
        resample=processor.resample,
        do_center_crop=processor.do_center_crop,
        crop_size=_given_sides(processor.crop_size),
        do_rescale=processor.do_rescale,
        rescale_factor=processor.rescale_factor,
        do_normalize=processor.do_normalize,
        image_mean=list(processor.image_mean) * copies,
        image_std=list(processor.image_std) * copies,
        do_convert_rgb=num_channels == 3,
        **ours,
    )


def _given_sides(size: Any) -> dict[str, int]:
    return {side: pixels for side, pixels in dict(size).items() if pixels}


def _compare_processors(
    processor: MAEImageProcessor, folder: str | Path, num_channels: int, native_channels: int
) -> None:
    """Raises ValueError unless both make the same of a picture of one colour.

    Such a picture stays the same however it is resized: that isn't the same in all versions of
    transformers.
    """
    size = dict(processor.size)
    height = size.get("height") or size["shortest_edge"]
    width = size.get("width") or size["shortest_edge"]
    colour = (200, 100, 50) if num_channels == 3 else (100, 100, 100)
    picture = Image.new("RGB", (width, height), colour)
    native_picture = picture
    if native_channels == 1:
        native_picture = np.array(picture.convert("L"))[..., None]  # (H, W, 1)
    native_processor = AutoImageProcessor.from_pretrained(folder)
    as_pictures: Any = {"value_range": None, "bands": None}
    ours = processor(picture, return_tensors="pt", **as_pictures).pixel_values  # (1, C, H, W)
    ours = ours.expand(-1, native_channels, -1, -1)
    theirs = native_processor(native_picture, return_tensors="pt").pixel_values
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=0, atol=TOLERANCE):
        raise ValueError(
            f"{folder}: transformers' image processor makes other pixels of a picture than ours; "
            "don't use it"
        )


@torch.no_grad()
def _compare_models(
    model: MAEPreTrainedModel, folder: str | Path, architecture: str, native_channels: int
) -> dict[str, float]:
    """Compares each output with that of the native folder.

    Returns:
        Output → its greatest difference, relative to 1 or the greatest output.

    Raises:
        ValueError: one is greater than `TOLERANCE`.
    """
    config = model.config
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, config.num_channels, *config.image_hw, generator=generator)
    noise = seeded_noise(2, config.num_patches, generator)  # (B, N)
    native_images = images.expand(-1, native_channels, -1, -1)
    was_training = model.training
    model.eval()
    if architecture == "ViTMAEForPreTraining":
        names = ["loss", "logits"]
        native = AutoModelForPreTraining.from_pretrained(folder).eval()
        ours = model(images, noise=noise)
        theirs = native(native_images, noise=noise)
    elif architecture == "ViTModel":
        names = ["last_hidden_state"]
        encoder = _encoder_of(model)
        native = AutoModel.from_pretrained(folder).eval()
        ours = encoder(images)
        theirs = native(native_images)
    else:
        names = ["logits"]
        native = AutoModelForImageClassification.from_pretrained(folder).eval()
        ours = model(images)
        theirs = native(native_images)
    model.train(was_training)
    differences = {name: relative_difference(ours[name], theirs[name]) for name in names}
    check_differences(differences, TOLERANCE, f"{folder}, loaded as {architecture},")
    return differences
