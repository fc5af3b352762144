# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Whether the files of a saved model are what they say; what isn't is told by name."""

import contextlib
import json
import os
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from .network import NETWORK_ERRORS


# what transformers, torch and safetensors end in over files that are damaged or need a package
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RuntimeError,  # RecursionError, too
    SafetensorError,
    StrictDataclassError,  # of transformers' own configurations
    TypeError,
    pickle.UnpicklingError,
    struct.error,
)


@contextlib.contextmanager
def told_of(source: str | os.PathLike | None) -> Iterator[None]:
    """Turns whatever reading a model's files ends in into an error that names them.

    Args:
        source: File, folder or Hub id that is read.

    Raises:
        ValueError: it is damaged.
        OSError: it can't be read.
    """
    try:
        yield
    except NETWORK_ERRORS:
        raise
    except OSError as error:
        if error.strerror is None or str(source) in str(error):  # transformers' own words
            raise
        raise OSError(f"{source} can't be read: {error}") from error
    except ValueError as error:
        if str(source) in str(error):
            raise
        raise ValueError(f"{source}: {error}") from error
    except _DAMAGE as error:
        raise ValueError(
            f"{source} can't be used, it is damaged or another's: {type(error).__name__}: {error}"
        ) from error


def check_weights(folder: str | os.PathLike) -> None:
    """Checks that the safetensors files in a folder are whole; only their headers are read.

    Raises:
        ValueError: one is damaged, missing, or lies outside the folder.
        OSError: one can't be read.
    """
    folder = Path(folder)
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    names = [SAFE_WEIGHTS_NAME]
    if not (folder / SAFE_WEIGHTS_NAME).is_file():
        if not index.is_file():
            return  # what else there can be, transformers knows
        names = _files_of(index)
    for name in names:
        file = folder / name
        if not file.is_file():
            raise ValueError(f"{index} names {name}, which isn't there")
        with told_of(file), safe_open(file, framework="pt") as weights:
            if (weights.metadata() or {}).get("format") != "pt":
                raise ValueError(
                    "its metadata doesn't say that its format is pt; save it by safetensors' "
                    'save_file with metadata={"format": "pt"}'
                )


def _files_of(index: Path) -> list[str]:
    """Names the files that hold the tensors, by the index of a model in several."""
    with told_of(index):
        fields = json.loads(index.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise ValueError("it holds no mapping")
        places, metadata = fields.get("weight_map"), fields.get("metadata")
        if not (isinstance(places, dict) and places and isinstance(metadata, dict)):
            raise ValueError(
                "its weight_map and metadata must be mappings, and the first not empty"
            )
        for name in places.values():
            if not isinstance(name, str) or name != Path(name).name:
                raise ValueError(f"it names {name!r}, which is no file beside it")
    return sorted(set(places.values()))


def check_finite(model: nn.Module, source: str | os.PathLike) -> None:
    """Checks that every number of a model that was loaded is finite.

    Raises:
        ValueError: some are NaN or infinite, as those of a run that failed.
    """
    broken = []
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or torch.isfinite(tensor.sum()):  # which is soon done
            continue
        if not torch.isfinite(tensor).all():  # else the sum was too large
            broken.append(name)
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise ValueError(
            f"{source} has weights that are not finite, in {', '.join(broken[:3])}{more}; the "
            "training that made it failed: take an older checkpoint"
        )
