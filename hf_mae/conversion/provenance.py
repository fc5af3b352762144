# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Provenance of a conversion: what went in, what came out, and what the model computes."""

import json
from pathlib import Path
from typing import Any

import torch

from ..models.masking import seeded_noise
from ..models.modeling_base import MAEPreTrainedModel
from ..models.modeling_classification import MAEForImageClassification
from ..models.modeling_mae import MAEForPreTraining
from ..output_folder import PROVENANCE_FILE
from .checkpoint_files import file_digest
from .from_others import Conversion
from .zoo import PublishedModel


def provenance(
    conversion: Conversion, path: Path, published: PublishedModel | None
) -> dict[str, Any]:
    """Says what was converted into what, for anybody to check again.

    Args:
        conversion: What became of the file.
        path: The foreign file.
        published: What it is supposed to be.

    Returns:
        Facts for `save_provenance`.

    Raises:
        ValueError: the model's outputs aren't finite.
    """
    tensors = conversion.model.state_dict().values()
    return {
        "name": published.name if published else None,
        "source_file": path.name,
        "source_format": conversion.format,
        "source_sha256": file_digest(path),
        "source_tensors": conversion.num_source_tensors,
        "architecture": type(conversion.model).__name__,
        "tensors": len(tensors),
        "parameters": sum(tensor.numel() for tensor in tensors),
        "outputs": output_checksum(conversion.model),
    }


def save_provenance(facts: dict[str, Any], folder: str | Path) -> None:
    """Writes the provenance beside the model."""
    text = json.dumps(facts, indent=2, allow_nan=False)
    Path(folder, PROVENANCE_FILE).write_text(text + "\n", encoding="utf-8")


@torch.no_grad()
def output_checksum(model: MAEPreTrainedModel) -> dict[str, Any]:
    """Says what a model makes of an image of noise, in figures that any machine can check.

    The image and the mask are `torch.randn` and `torch.rand` on the CPU, seed 0.

    Returns:
        `output` (what it is), `shape`, `mean`, `mean_absolute` and `first` (five values).

    Raises:
        ValueError: the output isn't finite.
    """
    config = model.config
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, config.num_channels, *config.image_hw, generator=generator)
    noise = seeded_noise(1, config.num_patches, generator)  # (1, N), after the images
    was_training = model.training
    model.eval()
    if isinstance(model, MAEForImageClassification):
        name, output = "logits", model(images).logits
    elif isinstance(model, MAEForPreTraining):
        name, output = "logits", model(images, noise=noise).logits
    else:
        name, output = "last_hidden_state", model(images).last_hidden_state
    model.train(was_training)
    output = output.double()
    if not output.isfinite().all():
        raise ValueError(
            f"the model's {name} of a fixed input are not all finite: its weights are of no use"
        )
    return {
        "input": "torch.randn and, for the mask, torch.rand; torch.Generator().manual_seed(0)",
        "output": name,
        "shape": list(output.shape),
        "mean": output.mean().item(),
        "mean_absolute": output.abs().mean().item(),
        "first": output.flatten()[:5].tolist(),
    }


def same_checksum(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two checksums are of the same function, as far as float32 goes between machines."""
    try:
        if one["shape"] != other["shape"] or one["output"] != other["output"]:
            return False
        tolerance = 1e-3 * one["mean_absolute"]
        pairs = zip(_figures(one), _figures(other), strict=True)
        return all(abs(a - b) <= tolerance for a, b in pairs)
    except (LookupError, TypeError, ValueError):  # one isn't a checksum
        return False


def _figures(checksum: dict[str, Any]) -> list[float]:
    return [checksum["mean"], checksum["mean_absolute"], *checksum["first"]]
