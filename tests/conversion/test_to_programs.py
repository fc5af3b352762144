"""Programs run without the package, for any batch and image size."""

import subprocess
import sys

import pytest
import torch
from helpers import TINY, run_script, script_error
from tiny_models import make, save

from hf_mae import MAEConfig, MAEForImageClassification, MAEForPreTraining, MAEModel
from hf_mae.conversion.to_programs import export_program


RECTANGLE = {"image_size": (32, 64), "patch_size": (8, 4), "num_channels": 1}


@pytest.mark.parametrize("kind", ["onnx", "torch"])
@pytest.mark.parametrize(
    ("model_class", "fields"),
    [
        (MAEModel, {}),
        (MAEForPreTraining, RECTANGLE),
        (MAEForImageClassification, {"num_labels": 3, "qkv_bias": False}),
        (MAEForImageClassification, {"pooling": "cls", "head_batch_norm": True}),
    ],
)
def test_a_program_is_the_model(model_class, fields, kind, tmp_path):
    """Compared over three batches, the last of larger images."""
    torch.manual_seed(0)
    model = model_class(MAEConfig(**{**TINY, **fields})).train()
    if model_class is MAEForImageClassification:
        model.reset_head(std=1.0)
    differences = export_program(model, tmp_path, kind)
    is_classifier = model_class is MAEForImageClassification
    assert list(differences) == (
        ["logits"] if is_classifier else ["last_hidden_state", "pooler_output"]
    )
    assert max(differences.values()) < 1e-4
    assert model.training


def test_it_is_compared_before_anybody_is_told(tmp_path, monkeypatch):
    model = MAEModel(MAEConfig(**TINY))
    load = torch.export.load

    def changed(path):
        program = load(path)
        with torch.no_grad():
            program.state_dict["model.layernorm.weight"].mul_(1.01)
        return program

    monkeypatch.setattr("torch.export.load", changed)
    with pytest.raises(ValueError, match=r"model\.pt2 gives other last_hidden_state than ours"):
        export_program(model, tmp_path, "torch")


def test_the_script(tmp_path):
    """What it writes runs in a process that can't import the package."""
    folder = save(make("mean"), tmp_path / "own")
    flags = ["--model_name_or_path", folder, "--output_dir", tmp_path / "out"]
    printed = run_script("export.py", *flags, "--to", "onnx")
    assert "model.onnx" in printed
    assert "logits: equal to ours" in printed
    code = (
        "import sys; sys.modules['hf_mae'] = None\n"
        "import numpy, onnxruntime\n"
        f"session = onnxruntime.InferenceSession({str(tmp_path / 'out' / 'model.onnx')!r})\n"
        "images = numpy.zeros((7, 3, 32, 40), numpy.float32)\n"
        "print(session.run(['logits'], {'pixel_values': images})[0].shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "(7, 10)", done.stderr
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()
    pretrained = save(make("pretrain"), tmp_path / "pretrain")
    flags = ["--model_name_or_path", pretrained, "--output_dir", tmp_path / "torch"]
    assert "it is the encoder alone" in run_script("export.py", *flags, "--to", "torch")
    assert "leave it out with --to onnx" in script_error(
        "export.py", *flags, "--to", "onnx", "--as", "vit"
    )
