# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Foreign state dicts → ours: an ordered table of renames for each code base, a split of the fused
qkv, sizes read from the tensors, and a strict load."""

import re
from collections import Counter
from dataclasses import dataclass, field

import torch
from timm.data import ImageNetInfo
from transformers import ViTMAEConfig

from ..data.labels import readable_names
from ..models.configuration_mae import SIZES, MAEConfig
from ..models.key_names import FACEBOOK_RENAMES, MMPRETRAIN_RENAMES, VIT_MAE_RENAMES, rename
from ..models.modeling_classification import MAEForImageClassification
from ..models.modeling_mae import MAEForPreTraining, MAEModel
from .checkpoint_files import Inert


# name of a code base → (a key that every model of it has, prefix of a bare encoder's keys, renames)
FORMATS = {
    "mmpretrain": ("patch_embed.projection.weight", "backbone.", MMPRETRAIN_RENAMES),
    "facebookresearch or timm": ("patch_embed.proj.weight", "", FACEBOOK_RENAMES),
    "transformers vit_mae": (
        "embeddings.patch_embeddings.projection.weight",
        "vit.",
        VIT_MAE_RENAMES,
    ),
}


@dataclass(kw_only=True)
class Conversion:
    """What became of a foreign state dict.

    Attributes:
        model: `MAEForPreTraining`, `MAEForImageClassification`, or `MAEModel` if there was no
            decoder; float32.
        format: Key of `FORMATS`.
        num_source_tensors: Tensors in the file; a fused qkv becomes three.
        notes: What couldn't be read from the tensors and was assumed, for the user.
    """

    model: torch.nn.Module
    format: str
    num_source_tensors: int
    notes: list = field(default_factory=list)


def convert(state_dict, extras=None, published=None, **fields):
    """Makes a model of a foreign state dict; its kind and sizes are those of the tensors.

    Args:
        state_dict: name → tensor, of any of `FORMATS`; float tensors become float32.
        extras: What else the file held, as `read_checkpoint` returns it; and as `config` the fields
            of transformers' configuration that lay beside it.
        published: `zoo.PublishedModel` that it is supposed to be.
        fields: Of `MAEConfig`, for what tensors don't tell: num_attention_heads,
            decoder_num_attention_heads, norm_pix_loss, layer_norm_eps.

    Returns:
        `Conversion`

    Raises:
        ValueError: unknown format; keys that are left over or missing, or of another shape, all of
            them named; values that are not finite; or it is not what `published`, or the
            configuration beside it, says.

    Example:

    >>> import timm
    >>> encoder = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    >>> convert(encoder.state_dict()).model.config.hidden_size
    192
    """
    _check_values(state_dict)
    name, renamed = _recognise(state_dict)
    notes, extras = [], dict(extras or {})
    of_transformers = name == "transformers vit_mae"
    if published or not of_transformers:
        extras.pop("config", None)
    if of_transformers and not (published or "config" in extras or "layer_norm_eps" in fields):
        fields["layer_norm_eps"] = 1e-12
        notes.append(
            "layer_norm_eps is taken to be 1e-12, transformers' default; no config.json lies "
            "beside the file"
        )
    config = _read_config(renamed, extras, published, fields, notes)
    if "classifier.weight" in renamed:
        model_class = MAEForImageClassification
        if (
            name == "facebookresearch or timm"
            and config.pooling == "cls"
            and not config.head_batch_norm
        ):
            notes.append(
                "the head is taken to be on the class token; of timm's global_pool='avg' with "
                "fc_norm=False there is no "
                "model here, and no tensor tells the two apart"
            )
    elif "decoder.mask_token" in renamed:
        model_class = MAEForPreTraining
    else:
        model_class = MAEModel
        renamed = {key.removeprefix("vit."): tensor for key, tensor in renamed.items()}
        notes.append(
            "the file has no decoder: it gives features, and can be fine-tuned, but reconstructs "
            "nothing"
        )
    with torch.device("meta"):
        model = model_class(config)
    _check_keys({key: tensor.shape for key, tensor in renamed.items()}, model)
    renamed = {
        key: tensor.float() if tensor.is_floating_point() else tensor
        for key, tensor in renamed.items()
    }
    model.load_state_dict(renamed, strict=True, assign=True)
    if published:
        check_published(model, published)
    return Conversion(
        model=model.eval(), format=name, num_source_tensors=len(state_dict), notes=notes
    )


def _recognise(state_dict):
    """(format, tensors under our names)"""
    for name, (mark, prefix, renames) in FORMATS.items():
        found = next((key for key in state_dict if key.endswith(mark)), None)
        if found is None:
            continue
        if found == mark:  # a bare encoder
            state_dict = {
                key if key.startswith("decoder.") else prefix + key: t
                for key, t in state_dict.items()
            }
        elif found != prefix + mark:
            where = found.removesuffix(mark)
            raise ValueError(
                f"the keys start with {where!r}, as {found!r}; take that off, it is no prefix of "
                f"{name}"
            )
        return name, rename(state_dict, renames)
    raise ValueError(
        f"the keys ({', '.join(list(state_dict)[:5])}, …) are none of a Vision Transformer of "
        f"{', '.join(FORMATS)}"
    )


def _check_values(tensors):
    """Raises ValueError unless all are numbers."""
    odd = [
        name
        for name, tensor in tensors.items()
        if tensor.layout != torch.strided
        or tensor.is_meta
        or not (tensor.is_floating_point() or "num_batches" in name)
    ]
    if odd:
        raise ValueError(
            f"tensors are sparse, without data or not of a floating-point type: {', '.join(odd)}"
        )
    odd = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if odd:
        raise ValueError(f"tensors hold values that are not finite: {', '.join(odd)}")


def _read_config(tensors, extras, published, given, notes):
    """The configuration, from tensors under our names."""
    shape = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    fields = _tower_fields(shape, "vit.layers.", "")
    projection = _shape(shape, "vit.embeddings.patch_embeddings.projection.weight", 4)
    fields["hidden_size"], fields["num_channels"], *patch = projection
    fields["patch_size"] = _one_or_two(patch)
    fields["image_size"] = _image_size(
        _shape(shape, "vit.embeddings.position_embeddings", 3), patch
    )
    fields["qkv_bias"] = "vit.layers.0.attention.q_proj.bias" in shape
    if "decoder.mask_token" in shape:
        fields |= _tower_fields(shape, "decoder.decoder_layers.", "decoder_")
        fields["decoder_hidden_size"] = _shape(shape, "decoder.mask_token", 3)[-1]
    if "classifier.weight" in shape:
        fields["pooling"] = "mean" if "fc_norm.weight" in shape else "cls"
        fields["head_batch_norm"] = "batch_norm.running_mean" in shape
        fields["num_labels"] = _shape(shape, "classifier.weight", 2)[0]
    beside = _fields_beside(extras.get("config", {}), fields)
    if "num_labels" in fields:
        names = _class_names(fields["num_labels"], extras, published, notes)
        if names:
            fields["id2label"], fields["label2id"] = (
                dict(enumerate(names)),
                {name: i for i, name in enumerate(names)},
            )
    untold = _untold_fields(fields, beside, extras, published, given, notes)
    try:
        return MAEConfig(**{**beside, **fields, **untold, **given})
    except ValueError as error:
        heads = (
            "; give --num_attention_heads and --decoder_num_attention_heads, which no tensor tells"
        )
        raise ValueError(str(error) + heads * ("heads" in str(error))) from error


def _tower_fields(shape, prefix, name):
    """Depth and MLP width of the encoder or of the decoder."""
    numbers = {
        int(found[1]) for key in shape if (found := re.match(re.escape(prefix) + r"(\d+)\.", key))
    }
    return {
        f"{name}num_hidden_layers": len(numbers),  # if one is skipped, the keys will say so
        f"{name}intermediate_size": _shape(shape, f"{prefix}0.mlp.fc1.weight", 2)[0],
    }


def _shape(shape, key, rank):
    if key not in shape:
        raise ValueError(f"a tensor is missing, in our names {key}")
    if len(shape[key]) != rank or 0 in shape[key]:
        raise ValueError(
            f"a tensor, in our names {key}, is {shape[key]}; it must have {rank} dimensions"
        )
    return shape[key]


def _fields_beside(config, told):
    """Those of transformers' fields that are ours too; what the tensors tell must be the same
    there."""
    if not isinstance(config, dict):
        raise ValueError(
            f"config.json beside the file holds a {type(config).__name__}; it must be a mapping of "
            "fields"
        )
    if (
        config and config.get("model_type") != MAEConfig.model_type
    ):  # what isn't written down has its default there
        config = {
            name: value for name, value in ViTMAEConfig().to_dict().items() if name not in told
        } | config
    beside = {
        name: value
        for name, value in config.items()
        if name in (*MAEConfig.__annotations__, "problem_type")
    }
    sides = ("image_size", "patch_size")  # one number, or two
    beside |= {
        name: _one_or_two(beside[name])
        for name in sides
        if isinstance(beside.get(name), list) and beside[name]
    }
    wrong = [
        f"{name} is {beside[name]}, and in the tensors {value}"
        for name, value in told.items()
        if beside.get(name, value) != value
    ]
    if wrong:
        raise ValueError(f"config.json beside the file is of another model: {'; '.join(wrong)}")
    return {name: value for name, value in beside.items() if name != "model_type"}


def _one_or_two(sides):
    return sides[0] if sides[0] == sides[-1] else list(sides)


def _image_size(table, patch):
    tokens = table[-2]
    side = round((tokens - 1) ** 0.5)
    if side * side != tokens - 1:
        raise ValueError(
            f"the position table has {tokens} tokens; it must have one, and as many as a square "
            "has patches"
        )
    return _one_or_two([side * p for p in patch])


def _class_names(num_labels, extras, published, notes):
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
    names = list(map(str, classes))
    count = Counter(names)  # ImageNet has two cranes, which would become one
    return [name if count[name] < 2 else f"{name} ({i})" for i, name in enumerate(names)]


def _noted_classes(extras):
    """Class names in transformers' configuration or in mmengine's notes, or None."""
    by_number = extras.get("config", {}).get("id2label")
    if isinstance(by_number, dict):
        if not all(str(number).isdecimal() for number in by_number):
            raise ValueError(
                f"config.json beside the file has id2label {by_number}; its keys must be numbers"
            )
        return [by_number[number] for number in sorted(by_number, key=int)]
    meta = extras.get("meta")
    if isinstance(meta, dict) and isinstance(meta.get("dataset_meta"), dict):
        meta = meta["dataset_meta"]
    classes = (meta.get("classes") or meta.get("CLASSES")) if isinstance(meta, dict) else None
    return classes if isinstance(classes, (list, tuple)) else None


def _untold_fields(fields, beside, extras, published, given, notes):
    """What no tensor tells: from the published model, else from what lies beside the tensors, else
    the usual."""
    if published:
        names = (
            "num_attention_heads",
            "decoder_num_attention_heads",
            "norm_pix_loss",
            "layer_norm_eps",
        )
        return {name: getattr(published.config, name) for name in names}
    known = {**beside, **given}
    untold = {}
    for prefix, otherwise in (("", fields["hidden_size"] // 64), ("decoder_", 16)):
        if prefix == "decoder_" and "decoder_hidden_size" not in fields:
            continue
        name, ours = f"{prefix}num_attention_heads", _named_size(fields, prefix)
        untold[name] = known.get(name) or (ours and getattr(ours, name)) or otherwise
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


def _named_size(fields, prefix):
    """The configuration of the named size whose encoder (or decoder) has these widths and depth, or
    None."""
    names = [
        f"{prefix}{name}" for name in ("hidden_size", "num_hidden_layers", "intermediate_size")
    ]
    sizes = (MAEConfig.from_size(size) for size in SIZES)
    return next((c for c in sizes if all(getattr(c, name) == fields[name] for name in names)), None)


def _trained_with_norm_pix_loss(extras):
    """As the training loop noted it: the authors' in `args`, mmpretrain's in the text of its
    configuration."""
    if isinstance(extras.get("args"), Inert):
        return getattr(extras["args"], "norm_pix_loss", None)
    meta = extras.get("meta")
    found = (
        re.search(r"norm_pix(?:el)?\s*=\s*(True|False)", str(meta.get("cfg")))
        if isinstance(meta, dict)
        else None
    )
    return found and found[1] == "True"


def _check_keys(found, model):
    wanted = {key: tensor.shape for key, tensor in model.state_dict().items()}
    problems = {
        "left over": [key for key in found if key not in wanted],
        "missing": [key for key in wanted if key not in found],
        "of another shape": [
            f"{key} {tuple(found[key])}, not {tuple(wanted[key])}"
            for key in wanted
            if key in found and found[key] != wanted[key]
        ],
    }
    if any(problems.values()):
        lines = [f"{what}: {', '.join(keys)}" for what, keys in problems.items() if keys]
        raise ValueError(
            f"the tensors are not those of a {type(model).__name__}; in our names, "
            + "; ".join(lines)
        )


def check_published(model, published):
    """Raises ValueError if a model isn't of the kind and size that a published model's name
    says."""
    config, expected = model.config, published.config
    towers = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    names = [*towers, "image_size", "patch_size", "num_channels", "layer_norm_eps"]
    if published.kind == "pretrain" and published.has_decoder:
        names += ["norm_pix_loss", *(f"decoder_{name}" for name in towers)]
    elif published.kind != "pretrain":
        names += ["num_labels", "pooling", "head_batch_norm"]
    pairs = [("the model", type(model).__name__, published.architecture)]
    if pairs[0][1] == pairs[0][2]:
        pairs += [(name, getattr(config, name), getattr(expected, name)) for name in names]
    wrong = [f"{name} is {found}, not {wanted}" for name, found, wanted in pairs if found != wanted]
    if wrong:
        raise ValueError(f"the tensors are not {published.name}: {', '.join(wrong)}")
