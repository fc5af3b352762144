# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Ours → programs that run without this package: ONNX, and torch.export's.

An encoder becomes a function from pixel_values to `last_hidden_state` and `pooler_output`, a
classifier to `logits`. Batches may have any size, and so may images, in whole patches: positions
are interpolated.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..models.modeling_base import MAEPreTrainedModel
from ..models.modeling_classification import MAEForImageClassification
from ..models.modeling_mae import MAEModel
from .comparison import check_differences, relative_difference


TOLERANCE = 1e-4
FILES = {"onnx": "model.onnx", "torch": "model.pt2"}
_BATCHES = (1, 2, 5)  # that a program is tried on


class _FromImages(nn.Module):
    """A model as a function of images alone."""

    def __init__(self, model: MAEPreTrainedModel):
        super().__init__()
        self.model = model
        self.names = ["last_hidden_state", "pooler_output"]
        if isinstance(model, MAEForImageClassification):
            self.names = ["logits"]

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(pixel_values, interpolate_pos_encoding=True, return_dict=True)
        return tuple(outputs[name] for name in self.names)


def export_program(model: MAEPreTrainedModel, folder: str | Path, kind: str) -> dict[str, float]:
    """Writes a model as a program, runs that and compares.

    Args:
        model: `MAEForImageClassification`, `MAEModel` or `MAEForPreTraining`, whose encoder it is
            then.
        folder: Where to; the file is `FILES[kind]`.
        kind: "onnx", which needs the extra `onnx`, or "torch", for `torch.export.load`.

    Returns:
        Output → its greatest difference from ours, relative to 1 or the greatest output, over
        several batches and image sizes.

    Raises:
        ValueError: a package that "onnx" needs is missing; or, having been written, the program
            differs by more than 1e-4.

    Example:

    >>> from hf_mae import MAEConfig, MAEModel
    >>> model = MAEModel(MAEConfig.from_size("tiny", image_size=32, patch_size=8))
    >>> list(export_program(model, "/tmp/program", "torch"))
    ['last_hidden_state', 'pooler_output']
    """
    whole = model
    if not isinstance(model, MAEForImageClassification):
        whole = cast(MAEModel, model.base_model)
    was_training = model.training
    function = _FromImages(whole.eval())
    config = whole.config
    images = torch.zeros(2, config.num_channels, *config.image_hw)  # for their shape
    path = Path(folder, FILES[kind])
    path.parent.mkdir(parents=True, exist_ok=True)
    write = _write_onnx if kind == "onnx" else _write_torch
    run = write(function, images, path)
    differences = _compare(function, run, images)
    model.train(was_training)
    check_differences(differences, TOLERANCE, str(path))
    return differences


def _export(function: _FromImages, images: Tensor) -> ExportedProgram:
    p, q = function.model.config.patch_hw
    sizes = {0: Dim("batch"), 2: p * Dim("rows", min=1), 3: q * Dim("columns", min=1)}
    return torch.export.export(function, (images,), dynamic_shapes=(sizes,), strict=False)


def _write_torch(function: _FromImages, images: Tensor, path: Path) -> Callable[[Tensor], Any]:
    torch.export.save(_export(function, images), path)
    return torch.export.load(path).module()


def _write_onnx(function: _FromImages, images: Tensor, path: Path) -> Callable[[Tensor], Any]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 # torch's exporter needs it
    except ImportError as error:
        raise ValueError(
            f"{error.name} isn't installed, which ONNX needs: pip install 'hf-mae[onnx]'"
        ) from error
    program = torch.onnx.export(
        _export(function, images),
        input_names=["pixel_values"],
        output_names=function.names,
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # as by torch's older exporter
    program.save(path)
    session = onnxruntime.InferenceSession(path)

    def run(images: Tensor) -> list[Tensor]:
        found = session.run(function.names, {"pixel_values": images.numpy()})
        return [torch.from_numpy(output) for output in found]

    return run


@torch.no_grad()
def _compare(
    function: _FromImages, run: Callable[[Tensor], Any], images: Tensor
) -> dict[str, float]:
    """Output → its greatest difference, in several batches, the last of larger images."""
    differences = dict.fromkeys(function.names, 0.0)
    generator = torch.Generator().manual_seed(0)
    height, width = images.shape[2:]
    p, q = function.model.config.patch_hw
    for batch in _BATCHES:
        if batch == _BATCHES[-1]:
            height, width = height + p, width + 2 * q
        images = torch.randn(batch, images.shape[1], height, width, generator=generator)
        for name, ours, theirs in zip(function.names, function(images), run(images), strict=True):
            differences[name] = max(differences[name], relative_difference(ours, theirs))
    return differences
