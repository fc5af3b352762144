"""Models that the tests of conversion, export and publishing make, and where they put them."""

from pathlib import Path

import torch
from helpers import ROOT, TINY

from hf_mae import (
    MAEConfig,
    MAEForImageClassification,
    MAEForPreTraining,
    MAEImageProcessor,
    MAEModel,
)
from hf_mae.conversion.to_transformers import export


# the oldest transformers that reads our native folders
OLDEST = ROOT / ".venv" / "transformers-4.57"
# heads of the golden cases, which no tensor tells
# what no tensor tells of the golden cases, whose positions are random
HEADS = {"num_attention_heads": 3, "decoder_num_attention_heads": 4, "image_size": 32}
NAMES = {i: f"kind {i}" for i in range(10)}
LABELS = {"id2label": NAMES, "label2id": {name: i for i, name in NAMES.items()}}


def shaken(model):
    """With no parameter at the value that it starts from: a key left out shows."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(
                    torch.randn_like(tensor).abs()
                    if "running_var" in name
                    else torch.randn_like(tensor) * 0.1
                )
    return model.eval()


def make(kind, image_size=32, patch_size=8, **fields):
    if kind.startswith("grey "):
        kind, fields = kind.removeprefix("grey "), {**fields, "num_channels": 1}
    config = MAEConfig(**{**TINY, "image_size": image_size, "patch_size": patch_size, **fields})
    if kind.startswith("pretrain"):
        return shaken(MAEForPreTraining(config))
    if kind == "encoder":
        return shaken(MAEModel(config))
    head = {"mean": {}, "probe": {"pooling": "cls", "head_batch_norm": True}}[kind]
    return shaken(MAEForImageClassification(MAEConfig(**{**config.to_dict(), **LABELS, **head})))


def save(model, folder):
    """Our own format; returns the folder."""
    model.save_pretrained(folder)
    MAEImageProcessor.from_model_config(model.config).save_pretrained(folder)
    return Path(folder)


def write(model, folder, as_=None):
    """The native format; returns the processor and what `export` says."""
    processor = MAEImageProcessor.from_model_config(model.config)
    return processor, export(model, processor, folder, as_)


def upstream_tensors(path):
    """Random tensors under the names and in the shapes that mmpretrain's own model of this size
    has."""
    shapes = {}
    for line in path.read_text().splitlines():
        name, shape = line.split("\t")
        shapes[name] = [int(side) for side in shape.split()]
    torch.manual_seed(0)
    # overlapping pieces of one block: the biggest model costs no memory
    block = torch.randn(6_600_000) * 0.02
    tensors = {}
    for i, (name, shape) in enumerate(shapes.items()):
        size = torch.Size(shape).numel()
        tensors[name] = block[17 * i :][:size].view(shape)
    if "neck.bn.running_var" in tensors:
        tensors["neck.bn.running_var"] = tensors["neck.bn.running_var"].abs() + 0.5
        tensors["neck.bn.num_batches_tracked"] = torch.tensor(7)
    return tensors
