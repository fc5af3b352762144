# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The proof of a conversion: what went in, what came out, and what the model computes, for anybody to check again."""

import torch

from .foreign_checkpoints import file_digest
from .modeling_classification import MAEForImageClassification
from .modeling_mae import MAEForPreTraining


PROOF_FILE = "conversion.json"


def proof(conversion, path, published):
    """What was converted into what.

    Args:
        conversion: `conversion.Conversion`.
        path: The foreign file.
        published: `zoo.PublishedModel`, or None.

    Returns:
        dict, to be written to `PROOF_FILE`.
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


@torch.no_grad()
def output_checksum(model):
    """What a model makes of an image of noise, in figures that any machine can check.

    The image and the mask are `torch.randn` and `torch.rand` on the CPU, seed 0.

    Returns:
        dict: `output` (what it is), `shape`, `mean`, `mean_absolute`, `first` (five values).
    """
    config, generator = model.config, torch.Generator().manual_seed(0)
    image = torch.randn(1, config.num_channels, *config.image_hw, generator=generator)
    noise = torch.rand(1, config.num_patches, generator=generator)
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
    if one["shape"] != other["shape"] or one["output"] != other["output"]:
        return False
    pairs = zip((one["mean"], one["mean_absolute"], *one["first"]), (other["mean"], other["mean_absolute"], *other["first"]))
    return all(abs(a - b) <= 1e-3 * one["mean_absolute"] for a, b in pairs)
