# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Ours → native: folders that plain transformers loads, from 4.57 on, without our code and to the
same outputs.

A pre-training model becomes transformers' `vit_mae`; a classifier on the mean of the patches
`beit`, which has that head; one on the class token `vit`; and any encoder, on request, a bare
`vit`.

transformers' pipelines make every picture RGB. A model of grey images that they are to use takes
RGB too: the luminance of a picture is folded into its patch projection.
"""

import re
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import save_torch_state_dict
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    BeitConfig,
    BitImageProcessor,
    ViTConfig,
    ViTMAEConfig,
)

from ..models.key_names import NATIVE_RENAMES, rename
from ..models.masking import seeded_noise
from ..models.modeling_classification import MAEForImageClassification
from ..models.modeling_mae import MAEForPreTraining, MAEModel


_SHARED_FIELDS = (
    *(
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "hidden_act",
        "hidden_dropout_prob",
    ),
    *("attention_probs_dropout_prob", "initializer_range", "layer_norm_eps", "num_channels"),
)
_DECODER_FIELDS = (
    *(
        "decoder_hidden_size",
        "decoder_num_hidden_layers",
        "decoder_num_attention_heads",
        "decoder_intermediate_size",
    ),
    *("mask_ratio", "norm_pix_loss"),
)
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601-2, as PIL's conversion to grey
TOLERANCE = 1e-5


def export(model, processor, folder, bare_encoder=False):
    """Writes a native folder, loads it with plain transformers and compares.

    Args:
        model: `MAEForPreTraining`, `MAEForImageClassification` or `MAEModel`.
        processor: Its `MAEImageProcessor`.
        folder: Where to.
        bare_encoder: Whether to leave decoder or head behind and write a `vit` for features.

    Returns:
        dict: `architecture` (the native class), and the greatest difference of each output from
            ours.

    Raises:
        ValueError: there is no native model that computes the same; or, having been written, it
            doesn't to 1e-5.

    Example:

    >>> from hf_mae import MAEConfig, MAEForPreTraining, MAEImageProcessor
    >>> model = MAEForPreTraining(MAEConfig.from_size("tiny", image_size=32, patch_size=8))
    >>> result = export(model, MAEImageProcessor.from_model_config(model.config), "/tmp/native")
    >>> result["architecture"]
    'ViTMAEForPreTraining'
    """
    _check_that_a_native_processor_fits(model.config, processor)
    architecture, config, tensors = _native(model, bare_encoder)
    if model.config.num_channels == 1 and architecture != "ViTMAEForPreTraining":
        config.num_channels, tensors = 3, _of_rgb(tensors)
    Path(folder).mkdir(parents=True, exist_ok=True)  # save_pretrained only logs that it can't
    config.architectures = [architecture]
    config.dtype = "float32"
    config.save_pretrained(folder)
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_torch_state_dict(tensors, folder)
    _native_processor(processor, config.num_channels).save_pretrained(folder)
    _compare_processors(processor, folder, model.config.num_channels, config.num_channels)
    return {
        "architecture": architecture,
        **_compare(model, folder, architecture, config.num_channels),
    }


def _check_that_a_native_processor_fits(config, processor):
    for name, (height, width) in {
        "image_size": config.image_hw,
        "patch_size": config.patch_hw,
    }.items():
        if height != width:
            raise ValueError(
                f"{name} is {height} x {width}; transformers' own models take squares only: this "
                "one stays ours"
            )
    if config.num_channels not in (1, 3):
        raise ValueError(
            f"num_channels is {config.num_channels}; transformers' own image processors take 1 and "
            "3: this one stays ours"
        )
    if len(processor.image_mean) != config.num_channels:
        raise ValueError(
            f"the image processor makes {len(processor.image_mean)} channels, as many as "
            "image_mean has, and the model "
            f"takes {config.num_channels}; mend preprocessor_config.json"
        )
    size = dict(processor.size)
    if not (size.get("shortest_edge") or (size.get("height") and size.get("width"))):
        raise ValueError("the image processor's size must be a shortest_edge, or height and width")


def _native(model, bare_encoder):
    """(class name, configuration, tensors)"""
    if isinstance(model, MAEForPreTraining) and not bare_encoder:
        config = ViTMAEConfig(**_fields(model, *_DECODER_FIELDS, "qkv_bias"))
        return "ViTMAEForPreTraining", config, _renamed(model)
    if isinstance(model, MAEForImageClassification) and not bare_encoder:
        labels = {"id2label": model.config.id2label, "label2id": model.config.label2id}
        labels["problem_type"] = model.config.problem_type
        if model.config.pooling == "mean":
            return "BeitForImageClassification", _beit_config(model, labels), _beit_tensors(model)
        return (
            "ViTForImageClassification",
            ViTConfig(**_fields(model, "qkv_bias"), **labels),
            _folded(model),
        )
    return _bare_encoder(model if isinstance(model, MAEModel) else model.vit)


def _fields(model, *names):
    config = model.config
    sides = {"image_size": config.image_hw[0], "patch_size": config.patch_hw[0]}
    return sides | {name: getattr(config, name) for name in (*_SHARED_FIELDS, *names)}


def _renamed(model):
    return rename(model.state_dict(), NATIVE_RENAMES)


def _bare_encoder(encoder):
    if not encoder.config.final_norm:
        raise ValueError(
            "the encoder has no final norm (a mean-pool classifier's: its norm comes after the "
            "mean), and transformers' ViT "
            "always has one; export the pre-trained model below it"
        )
    # transformers' ViT has a pooler: made the identity, it gives the class token
    width = encoder.config.hidden_size
    config = ViTConfig(**_fields(encoder, "qkv_bias"), pooler_act="linear")
    pooler = {"pooler.dense.weight": torch.eye(width), "pooler.dense.bias": torch.zeros(width)}
    return "ViTModel", config, _renamed(encoder) | pooler


def _beit_config(model, labels):
    return BeitConfig(
        **_fields(model),
        **labels,
        use_absolute_position_embeddings=True,
        use_relative_position_bias=False,
        use_shared_relative_position_bias=False,
        use_mask_token=False,
        use_mean_pooling=True,
        layer_scale_init_value=0.0,
        drop_path_rate=0.0,
    )


def _beit_tensors(model):
    """BEiT's keys have no bias: ours cancels in the softmax, being the same for every key that a
    query asks."""
    tensors = {}
    for name, tensor in _folded(model).items():
        if not name.endswith("attention.key.bias"):
            name = name.replace("fc_norm.", "beit.pooler.layernorm.")
            tensors[re.sub(r"^vit\.", "beit.", name)] = tensor
    if not model.config.qkv_bias:
        for name in [
            name for name in tensors if re.search(r"attention\.(query|value)\.weight$", name)
        ]:
            tensors[name.replace("weight", "bias")] = torch.zeros(model.config.hidden_size)
    return tensors


def _folded(model):
    """Tensors under native names, with the batch norm, which no native head has, multiplied into
    the linear layer."""
    tensors = _renamed(model)
    if model.config.head_batch_norm:
        weight, bias = tensors["classifier.weight"].double(), tensors["classifier.bias"].double()
        weight = weight / (model.batch_norm.running_var.double() + model.batch_norm.eps).sqrt()
        bias = bias - weight @ model.batch_norm.running_mean.double()
        tensors |= {"classifier.weight": weight.float(), "classifier.bias": bias.float()}
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("batch_norm.")}


def _of_rgb(tensors):
    """A model of grey images as one of RGB, whose grey it takes."""
    weights = torch.tensor(_LUMINANCE).view(1, 3, 1, 1)
    return {
        name: t * weights if name.endswith("patch_embeddings.projection.weight") else t
        for name, t in tensors.items()
    }


def _native_processor(processor, num_channels):
    """BitImageProcessor: of the native ones, the one that resizes by the shortest edge in every
    version."""
    names = (
        "do_resize",
        "do_center_crop",
        "do_rescale",
        "do_normalize",
        "resample",
        "rescale_factor",
    )
    fields = {name: getattr(processor, name) for name in names}
    for name in ("size", "crop_size"):
        fields[name] = {
            side: pixels for side, pixels in dict(getattr(processor, name)).items() if pixels
        }
    means = {name: list(getattr(processor, name)) for name in ("image_mean", "image_std")}
    means = {name: values * (num_channels // len(values)) for name, values in means.items()}
    return BitImageProcessor(**fields, **means, do_convert_rgb=num_channels == 3)


def _compare_processors(processor, folder, num_channels, native_channels):
    """Of a picture of one colour, which stays the same however it is resized and cropped.

    transformers' resizing isn't the same in all its versions, and its crop lies one pixel off ours
    where the margin is odd.
    """
    size = dict(processor.size)
    sides = (
        size.get("height") or size["shortest_edge"],
        size.get("width") or size["shortest_edge"],
    )
    colour = (200, 100, 50) if num_channels == 3 else (100, 100, 100)
    picture = Image.new("RGB", sides[::-1], colour)
    asked = picture if native_channels == 3 else np.array(picture.convert("L"))[..., None]
    ours = processor(picture, return_tensors="pt").pixel_values.expand(-1, native_channels, -1, -1)
    theirs = AutoImageProcessor.from_pretrained(folder)(asked, return_tensors="pt").pixel_values
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=0, atol=TOLERANCE):
        raise ValueError(
            f"{folder}: transformers' image processor makes other pixels of a picture than ours; "
            "don't use it"
        )


@torch.no_grad()
def _compare(model, folder, architecture, native_channels):
    """Greatest difference of each output from that of the native folder, relative to 1 or the
    greatest output."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    images = torch.randn(2, config.num_channels, *config.image_hw, generator=generator)
    asked = images.expand(-1, native_channels, -1, -1)
    training = model.training
    model.eval()
    if architecture == "ViTMAEForPreTraining":
        noise = seeded_noise(2, config.num_patches, generator)
        native = AutoModelForPreTraining.from_pretrained(folder).eval()
        ours, theirs = model(images, noise=noise), native(asked, noise=noise)
        pairs = {"loss": (ours.loss, theirs.loss), "logits": (ours.logits, theirs.logits)}
    elif architecture == "ViTModel":
        encoder = model if isinstance(model, MAEModel) else model.vit
        native = AutoModel.from_pretrained(folder).eval()
        pairs = {
            "last_hidden_state": (
                encoder(images).last_hidden_state,
                native(asked).last_hidden_state,
            )
        }
    else:
        native = AutoModelForImageClassification.from_pretrained(folder).eval()
        pairs = {"logits": (model(images).logits, native(asked).logits)}
    model.train(training)
    differences = {}
    for name, (ours, theirs) in pairs.items():
        differences[name] = ((ours - theirs).abs().max() / ours.abs().max().clamp(min=1)).item()
        if not differences[name] <= TOLERANCE:  # nor if it is NaN
            raise ValueError(
                f"{folder}, loaded as {architecture}, gives other {name} than ours: they differ by "
                f"{differences[name]:.3g}, "
                f"and may by {TOLERANCE:g}; don't use it"
            )
    return differences
