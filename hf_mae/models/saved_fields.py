# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What a configuration may say, before anything is made of it: kinds of values, and sizes."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers.image_utils import PILImageResampling


# ten times the classes of the largest public sets of images
_MOST_LABELS = 1_000_000
# the largest vision transformer that was trained has 48 layers and 22e9 parameters (arXiv
# 2302.05442); four times as many fill the memory of a machine of eight GPUs
_MOST_LAYERS = 10_000
_MOST_PARAMETERS = 10**11
# a picture of 16,384 pixels a side in patches of 16
_MOST_PATCHES = 1024 * 1024

# of a side that images are resized to, or cut out
_MOST_PIXELS = 32_768
# of means, deviations and values of pixels; float32 ends at 3e38
_LARGEST_NUMBER = 1e30

_PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


def check_fields(fields: Mapping[str, Any]) -> None:
    """Checks those fields of a configuration, of any model, that transformers takes as they are.

    Raises:
        ValueError: a value is of the wrong kind, or a size is such as no machine can hold.
    """
    _check_kinds(fields, _KINDS)
    if "num_labels" in fields and fields["num_labels"] is None and not fields.get("id2label"):
        raise ValueError("num_labels is None; it must be a whole number")
    check_sizes(fields)


def check_processor_fields(fields: Mapping[str, Any]) -> None:
    """Checks those fields of an image processor, of any model, that are taken as they are.

    Raises:
        ValueError: a value is of the wrong kind, or a size is such as no picture has.
    """
    _check_kinds(fields, _PROCESSOR_KINDS)
    for switch, name in _NEEDS:
        if fields.get(switch) and name in fields and fields[name] is None:
            raise ValueError(f"{name} is None, which {switch} needs; give it, or set that to false")


def _check_kinds(
    fields: Mapping[str, Any], kinds: Mapping[str, tuple[Callable[[Any], bool], str]]
) -> None:
    for name, (is_possible, allowed) in kinds.items():
        value = fields.get(name)
        if value is not None and not is_possible(value):
            raise ValueError(f"{name} is {_short(value)}; it must be {allowed}")


def check_sizes(fields: Mapping[str, Any]) -> None:
    """Checks that a transformer of these fields can be held by some machine; cheap.

    Args:
        fields: Of which those that are missing, or of another kind, count as nothing.

    Raises:
        ValueError: it has more layers, patches or parameters than any.
    """
    patch_height, patch_width = _sides(fields.get("patch_size"))
    height, width = _sides(fields.get("image_size"))
    patches = (height // max(patch_height, 1)) * (width // max(patch_width, 1))
    if patch_height and patches > _MOST_PATCHES:
        raise ValueError(
            f"image_size {fields['image_size']} in patches of {fields['patch_size']} makes "
            f"{patches:,} patches; there may be {_MOST_PATCHES:,}"
        )
    parameters = patch_height * patch_width * _whole(fields, "num_channels")
    parameters *= _whole(fields, "hidden_size")
    for part in ("", "decoder_"):
        layers = _whole(fields, f"{part}num_hidden_layers")
        hidden, inner = (
            _whole(fields, f"{part}hidden_size"),
            _whole(fields, f"{part}intermediate_size"),
        )
        if layers > _MOST_LAYERS:
            raise ValueError(
                f"{part}num_hidden_layers is {layers}; it must be at most {_MOST_LAYERS:,}"
            )
        parameters += layers * (4 * hidden * hidden + 2 * hidden * inner) + patches * hidden
    if parameters > _MOST_PARAMETERS:
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_channels")
        sizes = [f"{name} {fields[name]}" for name in (*names, "patch_size") if name in fields]
        raise ValueError(
            f"{', '.join(sizes)} ask for a model of {parameters:.1e} parameters; no machine holds "
            f"more than {_MOST_PARAMETERS:.0e}"
        )


def _whole(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    return value if isinstance(value, int) and value > 0 else 0


def _sides(value: Any) -> tuple[int, int]:
    """Height and width in a field, (0, 0) if there are none."""
    sides = value if isinstance(value, (list, tuple)) else [value]
    whole = [side for side in sides if isinstance(side, int) and side > 0]
    return (whole[0], whole[-1]) if whole else (0, 0)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


def _is_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_name, value))


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_numbered(value: Any) -> bool:
    """Whether this maps 0, 1, 2, …, perhaps as text, to names."""
    if not isinstance(value, Mapping) or len(value) > _MOST_LABELS:
        return False
    numbers = {str(key) for key in value}
    return numbers == set(map(str, range(len(value)))) and all(map(_is_name, value.values()))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_LABELS


def _is_dtype(value: Any) -> bool:
    dtype = getattr(torch, value, None) if isinstance(value, str) else value
    return isinstance(dtype, torch.dtype) and dtype.is_floating_point


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and _is_finite(value)


def _is_finite(value: float) -> bool:
    return abs(value) <= _LARGEST_NUMBER


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST_PIXELS


def _each(is_possible: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether a value, or each in a list of them, is possible."""

    def are_possible(value: Any) -> bool:
        values = value if isinstance(value, (list, tuple)) else [value]
        return bool(values) and all(map(is_possible, values))

    return are_possible


def _are_sides(value: Any) -> bool:
    """Whether this is a size in one of transformers' ways: a side, sides, or sides by name."""
    if isinstance(value, Mapping):
        value = [side for side in value.values() if side is not None]
    return _each(_is_side)(value)


def _is_range(value: Any) -> bool:
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_number, value))
    return is_pair and value[0] < value[1]


def _is_numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_side, value))


def _is_filter(value: Any) -> bool:
    return isinstance(value, int) and value in list(PILImageResampling)


def _is_problem_type(value: Any) -> bool:
    return isinstance(value, str) and value in _PROBLEM_TYPES


# field → what it must be, where it is given
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model_type": (_is_name, "a name"),
    "architectures": (_is_names, "a list of names"),
    "num_labels": (_is_count, f"a whole number up to {_MOST_LABELS:,}"),
    "id2label": (_is_numbered, "a mapping of the numbers from 0 up to names"),
    "label2id": (_is_mapping, "a mapping of names to numbers"),
    "problem_type": (_is_problem_type, f"one of {', '.join(_PROBLEM_TYPES)}"),
    "dtype": (_is_dtype, "the name of a type of torch's with a point, as float32"),
    "torch_dtype": (_is_dtype, "the name of a type of torch's with a point, as float32"),
    "quantization_config": (_is_mapping, "a mapping"),
    "return_dict": (_is_switch, "True or False"),
    "output_attentions": (_is_switch, "True or False"),
    "output_hidden_states": (_is_switch, "True or False"),
}

_SWITCH = (_is_switch, "True or False")
_SIDES = (_are_sides, f"made of whole numbers from 1 to {_MOST_PIXELS:,}")
_PROCESSOR_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "do_resize": _SWITCH,
    "do_center_crop": _SWITCH,
    "do_rescale": _SWITCH,
    "do_normalize": _SWITCH,
    "size": _SIDES,
    "crop_size": _SIDES,
    "resample": (_is_filter, "the number of one of PIL's filters, as 3"),
    "rescale_factor": (_is_positive, "a positive number"),
    "image_mean": (_each(_is_number), "a number, or a list of them"),
    "image_std": (_each(_is_positive), "a positive number, or a list of them"),
    "value_range": (_is_range, "the values of black and white, the lower first"),
    "bands": (_is_numbers, "a list of whole numbers from 1 up"),
}
# switch → what is needed where it is on
_NEEDS = (
    ("do_resize", "size"),
    ("do_resize", "resample"),
    ("do_center_crop", "crop_size"),
    ("do_rescale", "rescale_factor"),
    ("do_normalize", "image_mean"),
    ("do_normalize", "image_std"),
)
