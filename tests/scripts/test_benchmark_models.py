"""The benchmarks of training, inference, plans and recipes measure what they say they do."""

import json
import os
import signal
from argparse import Namespace
from functools import partial
from importlib.util import find_spec

import pytest
import torch
from benchmarks.models import (
    Inference,
    Multiplication,
    TrainingStep,
    _make,
    batch_flops,
    has_bf16,
    models_benchmark,
    peak_memory,
)
from benchmarks.peers import CLASSIFIERS, PRETRAINING
from benchmarks.plan import Plan
from benchmarks.quality import quality_plot, read_run
from helpers import TINY, run_script, script_error

from hf_mae import MAEConfig, MAEForImageClassification, MAEForPreTraining
from hf_mae.models.costs import training_flops


CPU = torch.device("cpu")
OTHERS = ("mmpretrain", "lightly", "stable-pretraining")
INSTALLED = [
    name for name in PRETRAINING if name not in OTHERS or find_spec(name.replace("-", "_"))
]


@pytest.fixture
def config():
    return MAEConfig(**TINY, norm_pix_loss=True)


@pytest.mark.parametrize("name", INSTALLED)
def test_a_step_trains(config, name):
    step = TrainingStep(name, config, 4, CPU)
    more = step.num_parameters / TrainingStep("hf_mae", config, 4, CPU).num_parameters
    assert 1 <= more < 1.02 if name == "stable-pretraining" else more == 1
    before = [parameter.clone() for parameter in step.model.parameters() if parameter.requires_grad]
    first = step.forward().item()
    for _ in range(30):
        step()
    after = [parameter for parameter in step.model.parameters() if parameter.requires_grad]
    assert not any(map(torch.equal, before, after))  # all of them are trained
    assert step.forward().item() < first


def test_transformers_model_has_its_positions(config):
    model = TrainingStep("transformers ViTMAE", config, 1, CPU).model
    ours = MAEForPreTraining(config)
    assert torch.equal(
        model.vit.embeddings.position_embeddings, ours.vit.embeddings.position_embeddings
    )
    assert torch.equal(model.decoder.decoder_pos_embed, ours.decoder.decoder_pos_embed)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_classify(config, name):
    work = Inference(name, config.changed(num_labels=7), 3, CPU)
    with torch.no_grad():
        assert work.forward().shape == (3, 7)
    assert not work.model.training


def test_the_beit_that_is_compared_is_the_same_model():
    """Otherwise than by export, which has its own tests: so many operations, so many parameters but
    the key's bias."""
    config = MAEConfig(num_labels=1000)
    ours, beit = (
        batch_flops(name, config, 1, Inference) for name in ("hf_mae", "transformers BEiT")
    )
    assert beit == pytest.approx(ours, rel=1e-6)
    assert batch_flops("timm ViT", config, 1, Inference) == pytest.approx(ours, rel=1e-6)


def test_operations_are_counted():
    config = MAEConfig.from_size("base", norm_pix_loss=True)
    # by hand: a product of (tokens, in) and (in, out) is 2 * tokens * in * out, and backward takes
    # two more
    tokens, masked, patch = 50, 147, 768
    layer = 2 * 12 * 768**2 * tokens + 4 * tokens**2 * 768
    whole = 2 * 12 * 512**2 * 197 + 4 * 197**2 * 512
    last = 2 * 512**2 * (2 * 197 + 10 * masked) + 4 * 197 * masked * 512
    rest = 2 * (49 * patch * 768 + tokens * 768 * 512 + masked * 512 * patch)
    expected = 3 * (12 * layer + 7 * whole + last + rest)
    no_gradient = 2 * 49 * patch * 768  # of the pixels
    assert batch_flops("hf_mae", config, 1, TrainingStep) == expected - no_gradient
    assert training_flops(MAEForPreTraining, config) == expected - no_gradient
    assert batch_flops("hf_mae", config, 8, TrainingStep) == 8 * (expected - no_gradient)
    for name in INSTALLED[1:]:
        over = batch_flops(name, config, 1, TrainingStep) / (expected - no_gradient)
        assert 1.015 < over < 1.04
    assert Multiplication(CPU).flops == 2 * 2048**3


def test_peak_memory_is_the_models(config):
    """A model takes four times its weights in training: weights, gradients and two moments."""
    large = MAEConfig(**{**TINY, "hidden_size": 768, "intermediate_size": 4096})
    parameters = 4 * TrainingStep("hf_mae", large, 1, torch.device("meta")).num_parameters
    assert 3.9 * parameters < peak_memory(TrainingStep, "hf_mae", large, 1, CPU) < 6 * parameters
    model = MAEForImageClassification(large)
    parameters = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert 0.9 * parameters < peak_memory(Inference, "hf_mae", large, 1, CPU) < 2.5 * parameters


@pytest.mark.parametrize("command", ["train", "infer"])
def test_the_script(tmp_path, command):
    batches = ["1", "3"] if command == "train" else ["2"]
    flags = [
        "--size",
        "tiny",
        "--image_size",
        "32",
        "--batch",
        *batches,
        "--rounds",
        "2",
        "--compare",
    ]
    if has_bf16(CPU):
        flags.append("--bf16")
    output = run_script("benchmark.py", command, *flags, "--output", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert {"date", "cpu", "torch", "timm", "transformers", "command"} <= set(found)
    for batch in batches:
        models = found["results"][batch]["models"]
        assert set(models) == set(INSTALLED if command == "train" else CLASSIFIERS)
        for name, measured in models.items():
            assert len(measured["seconds"]) == 2
            assert 0 < measured["share_of_product_rate"] < 1, name
            assert measured["flops"] > 0
    assert "hf_mae over transformers" in output
    if command == "train" and len(INSTALLED) < 4:
        assert "not installed" in output


def _too_large(config):
    raise torch.OutOfMemoryError


def _ended(config):
    os.kill(os.getpid(), signal.SIGKILL)


def _refused(config):
    torch.empty(2**60)


class _Steps(TrainingStep):
    models = {
        "hf_mae": PRETRAINING["hf_mae"],
        "too large": _too_large,
        "ended": _ended,
        "refused": _refused,
    }


class _OursIsTooLarge(TrainingStep):
    models = {"hf_mae": _too_large, "lightly": PRETRAINING["hf_mae"]}


def test_too_little_memory_for_one_of_them(config, capsys):
    works, memory = _make(_Steps.models, config, 2, _Steps, (CPU,))
    assert list(works) == list(memory) == ["hf_mae"]
    said = capsys.readouterr().out
    assert all(
        f"batch 2, {name}: out of memory" in said for name in ("too large", "ended", "refused")
    )
    with pytest.raises(torch.OutOfMemoryError):
        _make(_OursIsTooLarge.models, config, 2, _OursIsTooLarge, (CPU,))


def test_too_little_memory_for_a_batch(monkeypatch, capsys):
    """Those before and after it are measured; on a CPU too, where torch's error is of no kind of
    its own."""
    memory = iter([2**20, None, 2**20])
    monkeypatch.setattr(
        "benchmarks.models.peak_memory", lambda *args: next(memory) or torch.empty(2**60)
    )
    options = {
        "device": "cpu",
        "size": "tiny",
        "image_size": 32,
        "bf16": False,
        "compile": False,
        "compare": False,
    }
    results = models_benchmark(Namespace(command="infer", batch=[1, 2, 3], rounds=1, **options))
    assert list(results) == [1, 3]
    assert "batch 2: out of memory\n" in capsys.readouterr().out


def test_compiled_for_each_batch(config, monkeypatch):
    """Not for any batch, once there were two: such code is slower."""
    batches = []

    def backend(graph, inputs):
        assert all(
            isinstance(part, torch.Tensor) for part in inputs
        )  # no number that stands for a batch
        batches.extend(len(part) for part in inputs if part.shape[1:] == (3, 32, 32))
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    for batch in (2, 3):
        TrainingStep("hf_mae", config, batch, CPU, False, True)()
    assert batches == [2, 3]


def test_wrong_flags():
    if not has_bf16(CPU):
        assert "this CPU has no instructions for bfloat16" in script_error(
            "benchmark.py", "infer", "--bf16"
        )
    assert "--batch is 0; it must be positive" in script_error(
        "benchmark.py", "train", "--batch", "8", "0"
    )
    assert "size is 'giant'; it must be one of" in script_error(
        "benchmark.py", "infer", "--size", "giant"
    )
    assert "must be NAME=RUN" in script_error("benchmark.py", "quality", "runs/standard")
    assert "no trainer_state.json" in script_error(
        "benchmark.py", "quality", "standard=runs/nothing"
    )
    if not torch.cuda.is_available():
        assert "no CUDA" in script_error("benchmark.py", "train", "--device", "cuda")


def test_plan():
    plan = Plan("base", epochs=100, gpus=4, step_rate=1000, input_rate=300, images=1_440_000)
    assert (plan.hours, plan.gpu_hours, plan.workers_needed, plan.bottleneck) == (
        10,
        40,
        4,
        "training",
    )
    starved = Plan(
        "base", epochs=100, gpus=4, step_rate=1000, input_rate=250, workers=2, images=1_440_000
    )
    assert (starved.hours, starved.bottleneck) == (20, "input")
    assert "training waits for input" in str(starved)
    assert Plan("base", 1, 1, 1000, 250, workers=4).bottleneck == "training"


def test_plan_of_a_published_run():
    """ViT-L, 800 epochs on 64 V100: 42 hours, of a rate that was published for another model and
    another card.

    520 images/s is mmpretrain's ViT-B on an A100, of 312 TFLOP/s at most in half precision; a V100
    has 125.
    """
    base, large = (
        training_flops(MAEForPreTraining, MAEConfig.from_size(size)) for size in ("base", "large")
    )
    rate = 520 * base / large * 125 / 312
    plan = Plan("large", epochs=800, gpus=64, step_rate=rate, input_rate=300)
    assert plan.hours == pytest.approx(42, rel=0.15)


def write_run(folder, entries):
    folder.mkdir()
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": entries}))
    return folder


def test_quality(tmp_path):
    end = {"step": 9, "train_runtime": 120.0, "train_samples_per_second": 50.0, "total_flos": 3e12}
    runs = []
    for number, loss in enumerate((0.5, 0.4)):
        entries = [
            {"step": 5, "loss": 1.0, "samples": 640},
            end,
            {"step": 9, "eval_loss": loss, "eval_knn_accuracy": 0.7},
        ]
        runs.append(write_run(tmp_path / f"run{number}", entries))
    assert read_run(runs[1]) == {
        "seconds": 120.0,
        "samples": 1152,
        "training_flops": 3e12,
        "loss": 0.4,
        "knn_accuracy": 0.7,
    }
    figure = quality_plot({"standard": [read_run(runs[0])], "budget": [read_run(runs[1])]})
    assert [line.get_ydata()[0] for line in figure.axes[0].lines] == [0.5, 0.4]
    output = run_script(
        "benchmark.py",
        "quality",
        f"standard={runs[0]}",
        f"budget={runs[1]}",
        "--plot",
        tmp_path / "q.png",
    )
    assert "| budget | 2.0 | 1,152 | 3.0 | 0.4000 | 70.0% |" in output
    assert (tmp_path / "q.png").stat().st_size > 5000
    for run, accuracy in zip(runs, (0.6, 0.8)):
        entries = [{"eval_top1_accuracy": accuracy}, end]  # as with evaluations on the way
        write_run(run.with_name(f"{run.name}-probe"), entries)
    words = (f"standard={runs[0]},{runs[1]}", "--classifiers", "probe", "--cost", "training_flops")
    output = run_script("benchmark.py", "quality", *words, "--plot", tmp_path / "seeds.png")
    both = "0.4500 (0.4000 to 0.5000) | 70.0% (70.0% to 70.0%) | 70.0% (60.0% to 80.0%) |"
    assert f"| standard | 2.0 | 1,152 | 3.0 | {both}" in output
    seeds = [read_run(run, ["probe"]) for run in runs]
    longer = {**seeds[0], "samples": 2000, "training_flops": 6e12}
    figure = quality_plot({"standard": [longer, *seeds]}, ["probe"], "training_flops")
    means, first, second = figure.axes[2].lines
    assert means.get_xydata().tolist() == [[3, 0.7], [6, 0.6]]
    assert first.get_xydata().tolist() == [[3, 0.6], [3, 0.8]]
    assert second.get_xydata().tolist() == [[6, 0.6]]
    write_run(tmp_path / "run0-100", [end])
    with pytest.raises(ValueError, match="run0-100 has no accuracy"):
        read_run(runs[0], ["100"])
    during = [{"step": 5, "eval_loss": 1.0}, end, {"step": 9, "eval_loss": 0.3}]
    with pytest.raises(ValueError, match="expected one evaluation"):
        read_run(write_run(tmp_path / "during", during))
    resumed = [{**end, "resumed_from_step": 3}, {"step": 9, "eval_loss": 0.3}]
    with pytest.raises(ValueError, match="was resumed"):
        read_run(write_run(tmp_path / "resumed", resumed))
    short = write_run(tmp_path / "short", [end, {"step": 9, "eval_loss": 0.3}])
    assert "logged nothing" in script_error(
        "benchmark.py", "quality", f"standard={short},{runs[0]}"
    )
