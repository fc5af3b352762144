# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Theirs → ours: a foreign state dict becomes a model, its kind and sizes read from the tensors.

Names are changed by an ordered table for each code base (`key_names`), and the load is strict. A
further code base is one such table, and one row of `FORMATS`.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor
from transformers import ViTMAEConfig

from ..data.class_names import readable_names
from ..models.configuration_mae import SIZES, MAEConfig
from ..models.key_names import (
    FACEBOOK_RENAMES,
    MMPRETRAIN_RENAMES,
    VIT_MAE_RENAMES,
    rename,
    without_identity_pooler,
)
from ..models.modeling_base import MAEPreTrainedModel
from ..models.modeling_classification import MAEForImageClassification
from ..models.modeling_mae import MAEForPreTraining, MAEModel
from .checkpoint_files import Inert
from .image_size import Shapes, find_image_size, one_or_two, tensor_shape
from .zoo import PublishedModel


@dataclass(frozen=True, kw_only=True)
class CheckpointFormat:
    """How a code base keeps a Vision Transformer.

    Attributes:
        name: The code base.
        patch_key: Key of the patch projection in a bare encoder, which every model has.
        prefix: Of a bare encoder's keys in a whole model.
        renames: Pattern → replacement, in order, from its keys to ours.
        has_config: Whether a config.json of transformers may lie beside the tensors.
        layer_norm_eps: Its default where that is not ours.
        pools_untold: Whether no tensor tells a head on the class token from one on the mean of the
            patches without a norm.
    """

    name: str
    patch_key: str
    prefix: str
    renames: Mapping[str, Any]
    has_config: bool = False
    layer_norm_eps: float | None = None
    pools_untold: bool = False


FORMATS = [
    CheckpointFormat(
        name="mmpretrain",
        patch_key="patch_embed.projection.weight",
        prefix="backbone.",
        renames=MMPRETRAIN_RENAMES,
    ),
    CheckpointFormat(
        name="facebookresearch or timm",
        patch_key="patch_embed.proj.weight",
        prefix="",
        renames=FACEBOOK_RENAMES,
        pools_untold=True,
    ),
    CheckpointFormat(
        name="transformers vit_mae",
        patch_key="embeddings.patch_embeddings.projection.weight",
        prefix="vit.",
        renames=VIT_MAE_RENAMES,
        has_config=True,
        layer_norm_eps=1e-12,
    ),
]


@dataclass(kw_only=True)
class Conversion:
    """What became of a foreign state dict.

    Attributes:
        model: `MAEForPreTraining`, `MAEForImageClassification`, or `MAEModel` if there was no
            decoder; float32, in evaluation mode.
        format: Name of the `CheckpointFormat`.
        num_source_tensors: Tensors in the file; a fused qkv becomes three.
        notes: What couldn't be read from the tensors and was assumed, for the user.
    """

    model: MAEPreTrainedModel
    format: str
    num_source_tensors: int
    notes: list[str] = field(default_factory=list)


def convert(
    state_dict: Mapping[str, Tensor],
    extras: Mapping[str, Any] | None = None,
    published: PublishedModel | None = None,
    **fields: Any,
) -> Conversion:
    """Makes a model of a foreign state dict; its kind and sizes are those of the tensors.

    Args:
        state_dict: Name → tensor, of any of `FORMATS`; float tensors become float32.
        extras: What else the file held, as `read_checkpoint` returns it; and as `config` the fields
            of transformers' configuration that lay beside it.
        published: What it is supposed to be.
        fields: Of `MAEConfig`, for what tensors don't tell: num_attention_heads,
            decoder_num_attention_heads, norm_pix_loss, layer_norm_eps; and image_size, which only
            sin-cos positions tell.

    Raises:
        ValueError: unknown format; an image size that can't be told; keys that are left over or
            missing, or of another shape, all of them named; values that are not finite; or it is
            not what `published`, or the configuration beside it, says.

    Example:

    >>> import timm
    >>> encoder = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    >>> convert(encoder.state_dict(), image_size=224).model.config.hidden_size
    192
    """
    _check_values(state_dict)
    source, tensors = _recognise(state_dict)
    tensors = without_identity_pooler(tensors)
    notes: list[str] = []
    extras = dict(extras or {})
    if published or not source.has_config:
        extras.pop("config", None)
    untold_eps = source.layer_norm_eps is not None and "layer_norm_eps" not in fields
    if untold_eps and not published and "config" not in extras:
        fields["layer_norm_eps"] = source.layer_norm_eps
        notes.append(
            f"layer_norm_eps is taken to be {source.layer_norm_eps}, transformers' default; no "
            "config.json lies beside the file"
        )
    config = _read_config(tensors, extras, published, fields, notes)
    model_class = _choose_class(tensors)
    if model_class is MAEModel:
        tensors = {name.removeprefix("vit."): tensor for name, tensor in tensors.items()}
        notes.append(
            "the file has no decoder: it gives features, and can be fine-tuned, but reconstructs "
            "nothing"
        )
    with torch.device("meta"):
        model = model_class(config)
    _check_keys(tensors, model)
    if source.pools_untold and _has_plain_head_on_class_token(model):
        notes.append(
            "the head is taken to be on the class token; of timm's global_pool='avg' with "
            "fc_norm=False there is no model here, and no tensor tells the two apart"
        )
    model.load_state_dict(_as_float32(tensors), strict=True, assign=True)
    if published:
        check_published(model, published)
    return Conversion(
        model=model.eval(), format=source.name, num_source_tensors=len(state_dict), notes=notes
    )


def _recognise(state_dict: Mapping[str, Tensor]) -> tuple[CheckpointFormat, dict[str, Tensor]]:
    """The format, and the tensors under our names."""
    for source in FORMATS:
        found = next((key for key in state_dict if key.endswith(source.patch_key)), None)
        if found is None:
            continue
        prefix = found.removesuffix(source.patch_key)
        if prefix == source.prefix:
            return source, rename(state_dict, source.renames)
        if not prefix:  # a bare encoder
            return source, rename(_with_prefix(state_dict, source.prefix), source.renames)
        raise ValueError(
            f"the keys start with {prefix!r}, as {found!r}; take that off, it is no prefix of "
            f"{source.name}"
        )
    names = [source.name for source in FORMATS]
    raise ValueError(
        f"the keys ({', '.join(list(state_dict)[:5])}, …) are none of a Vision Transformer of "
        f"{', '.join(names)}"
    )


def _with_prefix(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The keys of an encoder as they are in a whole model; those of a decoder stay."""
    whole = {}
    for key, tensor in state_dict.items():
        whole[key if key.startswith("decoder.") else prefix + key] = tensor
    return whole


def _check_values(tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless all are numbers."""
    odd = [name for name, tensor in tensors.items() if not _is_plain(name, tensor)]
    if odd:
        raise ValueError(
            f"tensors are sparse, without data or not of a floating-point type: {', '.join(odd)}"
        )
    odd = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if odd:
        raise ValueError(f"tensors hold values that are not finite: {', '.join(odd)}")


def _is_plain(name: str, tensor: Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.is_meta:
        return False
    return tensor.is_floating_point() or "num_batches" in name  # a batch norm counts in integers


def _choose_class(tensors: Mapping[str, Tensor]) -> type[MAEPreTrainedModel]:
    if "classifier.weight" in tensors:
        return MAEForImageClassification
    if "decoder.mask_token" in tensors:
        return MAEForPreTraining
    return MAEModel


def _has_plain_head_on_class_token(model: MAEPreTrainedModel) -> bool:
    config = model.config
    if not isinstance(model, MAEForImageClassification):
        return False
    return config.pooling == "cls" and not config.head_batch_norm


def _as_float32(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    single = {}
    for name, tensor in tensors.items():
        single[name] = tensor.float() if tensor.is_floating_point() else tensor
    return single


def _read_config(
    tensors: Mapping[str, Tensor],
    extras: Mapping[str, Any],
    published: PublishedModel | None,
    given: Mapping[str, Any],
    notes: list[str],
) -> MAEConfig:
    """Reads the configuration from tensors under our names, and what lies beside them."""
    fields = _told_fields({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    beside = _fields_beside(extras.get("config", {}), fields)
    known = {"config.json beside the file is of another model: ": beside.get("image_size")}
    if published:
        known = {f"the tensors are not {published.name}: ": published.config.image_size}
    if "image_size" in given:
        known = {"": given["image_size"]}
    fields["image_size"] = find_image_size(tensors, known)
    if "num_labels" in fields:
        names = _class_names(fields["num_labels"], extras, published, notes)
        if names:
            fields["id2label"] = dict(enumerate(names))
            fields["label2id"] = {name: number for number, name in enumerate(names)}
    untold = _untold_fields(fields, beside, extras, published, given, notes)
    try:
        return MAEConfig(**{**beside, **fields, **untold, **given})
    except ValueError as error:
        message = str(error)
        if "heads" in message:
            message += (
                "; give --num_attention_heads and --decoder_num_attention_heads, which no tensor "
                "tells"
            )
        raise ValueError(message) from error


def _told_fields(shapes: Shapes) -> dict[str, Any]:
    """What the tensors tell by their names and shapes."""
    fields = _tower_fields(shapes, "vit.layers.", "")
    patches = tensor_shape(
        shapes, "vit.embeddings.patch_embeddings.projection.weight", 4
    )  # (D, C, p, q)
    fields["hidden_size"], fields["num_channels"] = patches[:2]
    fields["patch_size"] = one_or_two(patches[2:])
    fields["qkv_bias"] = "vit.layers.0.attention.q_proj.bias" in shapes
    if "decoder.mask_token" in shapes:
        fields |= _tower_fields(shapes, "decoder.decoder_layers.", "decoder_")
        fields["decoder_hidden_size"] = tensor_shape(shapes, "decoder.mask_token", 3)[-1]
    if "classifier.weight" in shapes:
        fields["pooling"] = "mean" if "fc_norm.weight" in shapes else "cls"
        fields["head_batch_norm"] = "batch_norm.running_mean" in shapes
        fields["num_labels"] = tensor_shape(shapes, "classifier.weight", 2)[0]
    return fields


def _tower_fields(shapes: Shapes, prefix: str, name: str) -> dict[str, Any]:
    """Depth and MLP width of the encoder or of the decoder."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    numbers = {int(found[1]) for found in map(pattern.match, shapes) if found}
    return {
        f"{name}num_hidden_layers": len(numbers),  # if one is skipped, the keys will say so
        f"{name}intermediate_size": tensor_shape(shapes, f"{prefix}0.mlp.fc1.weight", 2)[0],
    }


def _fields_beside(config: Any, told: Mapping[str, Any]) -> dict[str, Any]:
    """Those of transformers' fields that are ours too.

    What the tensors tell must be the same there.
    """
    if not isinstance(config, dict):
        raise ValueError(
            f"config.json beside the file holds a {type(config).__name__}; it must be a mapping of "
            "fields"
        )
    if config and config.get("model_type") != MAEConfig.model_type:
        # what isn't written down has its default there
        defaults = ViTMAEConfig().to_dict()
        config = {name: value for name, value in defaults.items() if name not in told} | config
    ours = {*MAEConfig.__annotations__, "problem_type"} - {"model_type"}
    beside = {name: value for name, value in config.items() if name in ours}
    for name in ("image_size", "patch_size"):  # one number, or two
        if isinstance(beside.get(name), list) and beside[name]:
            beside[name] = one_or_two(beside[name])
    wrong = [
        f"{name} is {beside[name]}, and in the tensors {value}"
        for name, value in told.items()
        if beside.get(name, value) != value
    ]
    if wrong:
        raise ValueError(f"config.json beside the file is of another model: {'; '.join(wrong)}")
    return beside


def _class_names(
    num_labels: int,
    extras: Mapping[str, Any],
    published: PublishedModel | None,
    notes: list[str],
) -> list[str] | None:
    if published:
        return readable_names(ImageNetInfo().label_names())
    classes = _noted_classes(extras)
    if classes is None:
        return None
    if len(classes) != num_labels:
        notes.append(
            f"the {len(classes)} class names in the file or beside it are left out: the head has "
            f"{num_labels}"
        )
        return None
    names = [str(name) for name in classes]
    count = Counter(names)  # ImageNet has two cranes, which would become one
    return [name if count[name] < 2 else f"{name} ({i})" for i, name in enumerate(names)]


def _noted_classes(extras: Mapping[str, Any]) -> list[Any] | tuple[Any, ...] | None:
    """Class names in transformers' configuration or in mmengine's notes, or None."""
    by_number = extras.get("config", {}).get("id2label")
    if isinstance(by_number, dict):
        if not all(str(number).isdecimal() for number in by_number):
            raise ValueError(
                f"config.json beside the file has id2label {by_number}; its keys must be numbers"
            )
        return [by_number[number] for number in sorted(by_number, key=int)]
    meta = extras.get("meta")
    if not isinstance(meta, dict):
        return None
    if isinstance(meta.get("dataset_meta"), dict):
        meta = meta["dataset_meta"]
    classes = meta.get("classes") or meta.get("CLASSES")
    return classes if isinstance(classes, (list, tuple)) else None


def _untold_fields(
    fields: Mapping[str, Any],
    beside: Mapping[str, Any],
    extras: Mapping[str, Any],
    published: PublishedModel | None,
    given: Mapping[str, Any],
    notes: list[str],
) -> dict[str, Any]:
    """What no tensor tells.

    It comes from the published model, else from what lies beside the tensors, else it is the usual.
    """
    if published:
        config = published.config
        return {
            "num_attention_heads": config.num_attention_heads,
            "decoder_num_attention_heads": config.decoder_num_attention_heads,
            "norm_pix_loss": config.norm_pix_loss,
            "layer_norm_eps": config.layer_norm_eps,
        }
    known = {**beside, **given}
    usual_heads = {"num_attention_heads": fields["hidden_size"] // 64}
    if "decoder_hidden_size" in fields:
        usual_heads["decoder_num_attention_heads"] = 16
    untold = {}
    for name, usual in usual_heads.items():
        size = _named_size(fields, name.removesuffix("num_attention_heads"))
        untold[name] = known.get(name) or (getattr(size, name) if size else usual)
        if name not in known:
            notes.append(f"{name} is taken to be {untold[name]}, which no tensor tells")
    if "decoder_hidden_size" in fields:
        untold["norm_pix_loss"] = known.get("norm_pix_loss", _trained_with_norm_pix_loss(extras))
        if untold["norm_pix_loss"] is None:
            untold["norm_pix_loss"] = True
            notes.append(
                "norm_pix_loss is taken to be true, as in the published recipes; no tensor tells"
            )
    return untold


def _named_size(fields: Mapping[str, Any], prefix: str) -> MAEConfig | None:
    """The configuration of the named size whose encoder, or decoder, is as wide and as deep."""
    parts = ("hidden_size", "num_hidden_layers", "intermediate_size")
    wanted = {f"{prefix}{part}": fields[f"{prefix}{part}"] for part in parts}
    for size in SIZES:
        config = MAEConfig.from_size(size)
        if all(getattr(config, name) == value for name, value in wanted.items()):
            return config
    return None


def _trained_with_norm_pix_loss(extras: Mapping[str, Any]) -> bool | None:
    """As the training loop noted it, or None.

    The authors' notes it in `args`, mmpretrain's in the text of its configuration.
    """
    args, meta = extras.get("args"), extras.get("meta")
    if isinstance(args, Inert):
        return getattr(args, "norm_pix_loss", None)
    if not isinstance(meta, dict):
        return None
    found = re.search(r"norm_pix(?:el)?\s*=\s*(True|False)", str(meta.get("cfg")))
    return found[1] == "True" if found else None


def _check_keys(found: Mapping[str, Tensor], model: MAEPreTrainedModel) -> None:
    wanted = model.state_dict()
    left_over = [name for name in found if name not in wanted]
    missing = [name for name in wanted if name not in found]
    odd = [
        f"{name} {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    problems = {"left over": left_over, "missing": missing, "of another shape": odd}
    lines = [f"{what}: {', '.join(names)}" for what, names in problems.items() if names]
    if lines:
        raise ValueError(
            f"the tensors are not those of a {type(model).__name__}; in our names, "
            + "; ".join(lines)
        )


def check_published(model: MAEPreTrainedModel, published: PublishedModel) -> None:
    """Checks that a model is of the kind and size that a published model's name says.

    Raises:
        ValueError: it isn't; the message names each field that differs.
    """
    found = type(model).__name__
    if found != published.architecture:
        raise ValueError(
            f"the tensors are not {published.name}: the model is {found}, not "
            f"{published.architecture}"
        )
    towers = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    names = [*towers, "image_size", "patch_size", "num_channels", "layer_norm_eps"]
    if published.kind != "pretrain":
        names += ["num_labels", "pooling", "head_batch_norm"]
    elif published.has_decoder:
        names += ["norm_pix_loss", *(f"decoder_{name}" for name in towers)]
    config = published.config
    wrong = [
        f"{name} is {getattr(model.config, name)}, not {getattr(config, name)}"
        for name in names
        if getattr(model.config, name) != getattr(config, name)
    ]
    if wrong:
        raise ValueError(f"the tensors are not {published.name}: {', '.join(wrong)}")
