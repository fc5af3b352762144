# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Provenance of a conversion: what went in, what came out, and what the model computes, for anybody
to check again."""

import json
from pathlib import Path

import torch

from ..models.masking import seeded_noise
from ..models.modeling_classification import MAEForImageClassification
from ..models.modeling_mae import MAEForPreTraining
from ..output_folder import PROVENANCE_FILE
from .checkpoint_files import file_digest


def provenance(conversion, path, published):
    """What was converted into what.

    Args:
        conversion: `conversion.Conversion`.
        path: The foreign file.
        published: `zoo.PublishedModel`, or None.

    Returns:
        dict, for `save_provenance`.
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


def save_provenance(facts, folder):
    """Writes it beside the model."""
    Path(folder, PROVENANCE_FILE).write_text(
        json.dumps(facts, indent=2, allow_nan=False) + "\n", encoding="utf-8"
    )


def load_provenance(folder):
    """The provenance kept in a folder, {} if there is none.

    Raises:
        ValueError: the file is damaged.
    """
    path = Path(folder, PROVENANCE_FILE)
    if not path.is_file():
        return {}
    damaged = (
        f"{path} is damaged; convert the model again, or delete the file if you trained it further"
    )
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{damaged} ({error})") from error
    wanted = ("name", "source_file", "source_format", "source_sha256", "outputs")
    missing = [name for name in wanted if not isinstance(facts, dict) or name not in facts]
    if missing:
        raise ValueError(f"{damaged} (it lacks {', '.join(missing)})")
    return facts


@torch.no_grad()
def output_checksum(model):
    """What a model makes of an image of noise, in figures that any machine can check.

    The image and the mask are `torch.randn` and `torch.rand` on the CPU, seed 0.

    Returns:
        dict: `output` (what it is), `shape`, `mean`, `mean_absolute`, `first` (five values).

    Raises:
        ValueError: the output isn't finite.
    """
    config, generator = model.config, torch.Generator().manual_seed(0)
    image = torch.randn(1, config.num_channels, *config.image_hw, generator=generator)
    noise = seeded_noise(1, config.num_patches, generator)  # after the image, of one generator
    training = model.training
    model.eval()
    if isinstance(model, MAEForImageClassification):
        what, output = "logits", model(image).logits
    elif isinstance(model, MAEForPreTraining):
        what, output = "logits", model(image, noise=noise).logits
    else:
        what, output = "last_hidden_state", model(image).last_hidden_state
    model.train(training)
    output = output.double()
    if not output.isfinite().all():
        raise ValueError(
            f"the model's {what} of a fixed input are not all finite: its weights are of no use"
        )
    return {
        "input": "torch.randn and, for the mask, torch.rand; torch.Generator().manual_seed(0)",
        "output": what,
        "shape": list(output.shape),
        "mean": output.mean().item(),
        "mean_absolute": output.abs().mean().item(),
        "first": output.flatten()[:5].tolist(),
    }


def same_checksum(one, other):
    """Whether two checksums are of the same function: as far as float32 goes on another machine."""
    try:
        if one["shape"] != other["shape"] or one["output"] != other["output"]:
            return False
        figures = [(c["mean"], c["mean_absolute"], *c["first"]) for c in (one, other)]
        return all(abs(a - b) <= 1e-3 * one["mean_absolute"] for a, b in zip(*figures, strict=True))
    except (LookupError, TypeError, ValueError):  # one isn't a checksum
        return False
