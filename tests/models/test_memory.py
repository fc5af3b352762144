"""What is foretold of a training step's memory is what it takes."""

import json
import subprocess
import sys

import pytest
import torch
from helpers import ROOT, TINY

from hf_mae import MAEConfig, MAEForImageClassification, MAEForPreTraining
from hf_mae.models import recompute
from hf_mae.models.memory import _Counted, largest_batch, needed_on_gpu, training_memory


# fields of the configuration, over a shallow small one's
MODELS = [{}, {"decoder_type": "cross"}]
SHALLOW = {"num_hidden_layers": 4, "decoder_num_hidden_layers": 2, "norm_pix_loss": True}

_MEASURE = """
import json, sys, torch
from benchmarks.models import TrainingStep, peak_memory
from hf_mae import MAEConfig
if __name__ == "__main__":
    config = MAEConfig.from_size("small", **json.loads(sys.argv[1]))
    print(peak_memory(TrainingStep, "hf_mae", config, int(sys.argv[2]), torch.device("cpu")))
"""


@pytest.mark.parametrize("batch_size", [4, 24])
@pytest.mark.parametrize("fields", MODELS, ids=str)
def test_what_a_cpu_takes(tmp_path, fields, batch_size):
    """Of a process that gives every freed block back at once: what glibc keeps is no tensor's."""
    fields = {**SHALLOW, **fields}
    script = tmp_path / "measure.py"
    script.write_text(_MEASURE)
    found = subprocess.run(
        [sys.executable, script, json.dumps(fields), str(batch_size)],
        env={
            "PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}",
            "MALLOC_MMAP_THRESHOLD_": "65536",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    measured = int(found.stdout)
    config = MAEConfig.from_size("small", **fields)
    predicted = training_memory(MAEForPreTraining, config, batch_size, on_cpu=True)
    assert predicted == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_tensors_without_content_count_as_those_with(bf16, kept, monkeypatch):
    config = MAEConfig.from_size("tiny", **SHALLOW)
    monkeypatch.setattr(recompute, "_keeps", kept)
    model = MAEForPreTraining(config).train()
    weights = 4 * sum(weight.numel() for weight in model.parameters())
    with _Counted() as counted:
        for tensor in [*model.parameters(), *model.buffers()]:
            counted._add(tensor.untyped_storage())
        images = torch.randn(8, 3, 224, 224)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(images).loss
        loss.backward()
    moments = 2 * weights
    predicted = training_memory(MAEForPreTraining, config, 8, bf16, on_cpu=not kept)
    assert predicted == pytest.approx(counted.peak + moments, rel=0.05)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("h200-base", {}),
        ("h100-80gb-hbm3-base", {}),
        ("h100-80gb-hbm3-base-cross", {"decoder_type": "cross"}),
    ],
)
def test_what_a_gpu_took(name, fields):
    """Measured by torch's own count on the GPU; it has the libraries' work space in it."""
    found = json.loads((ROOT / f"scripts/benchmarks/results/train-{name}.json").read_text())
    measured = found["results"]["256"]["models"]["hf_mae"]["peak_memory"]
    config = MAEConfig.from_size("base", norm_pix_loss=True, **fields)
    predicted = training_memory(MAEForPreTraining, config, 256, bf16=True)
    assert 0.96 * measured < predicted < measured
    assert measured < needed_on_gpu(predicted)


def test_classifiers():
    config = MAEConfig(**TINY, num_labels=5)
    weights = 4 * sum(weight.numel() for weight in MAEForImageClassification(config).parameters())
    whole = training_memory(MAEForImageClassification, config, 4)
    assert whole > 4 * weights
    probe = MAEConfig(**TINY, num_labels=5, pooling="cls", head_batch_norm=True)
    frozen = training_memory(
        MAEForImageClassification, probe, 4, prepare=lambda model: model.freeze_encoder()
    )
    assert weights < frozen < 0.5 * whole
    checkpointed = training_memory(
        MAEForImageClassification,
        config,
        64,
        prepare=lambda model: model.gradient_checkpointing_enable(),
    )
    assert checkpointed < 0.7 * training_memory(MAEForImageClassification, config, 64)


def test_the_largest_batch():
    config = MAEConfig(**TINY)

    def memory_of(batch_size):
        return training_memory(MAEForPreTraining, config, batch_size)

    limit = memory_of(20)
    found = largest_batch(memory_of, 256, limit)
    assert 18 <= found <= 20
    assert memory_of(found) <= limit
    assert largest_batch(memory_of, 16, limit) == 16
    assert largest_batch(memory_of, 256, memory_of(2) - 1) == 0
