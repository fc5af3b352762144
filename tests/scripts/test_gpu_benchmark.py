"""What `make gpu` does on a GPU runs through on a CPU, so that its first run there is no try."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from argparse import Namespace

import psutil
import pytest
import torch
from benchmarks.gpu import Part, gpu_benchmark, list_parts, run_part
from benchmarks.gpu_parts import CHECKS, PARTS, _check_close, own_seconds
from benchmarks.memory import foretell, memory_benchmark
from benchmarks.plan import RESULTS, measured_rate
from helpers import ROOT, TINY, kill_tree, run_script, script_environment, script_error
from make.write_cards import gpu_tables, memory_table
from torch.autograd import DeviceType

from hf_mae import MAEConfig


ARGUMENTS = {"device": "cpu", "image_size": 32, "size": ["tiny"]}


def test_parts_that_fail_or_hang_take_no_other_with_them():
    def run(code, seconds=60):
        return run_part(Part("a part", ["-c", code], seconds, is_fresh=True), seconds)

    assert run("print('well')")["said"] == "well"
    failed = run("raise ValueError('ill')")
    assert failed["ended"] == "failed (exit status 1)"
    assert failed["said"] == "ValueError: ill"
    start = time.monotonic()
    endless = "import os, time; print('begun', flush=True); os.fork(); time.sleep(600)"
    hung = run(endless, 15)
    assert hung["ended"] == "stopped after 15 s"
    assert hung["said"] == "begun"
    assert time.monotonic() - start < 60
    assert run("", 0.5)["ended"] == "left out, no time"


ENDLESS = """
from argparse import Namespace
from benchmarks import gpu

words = ["-c", "import time; time.sleep(900)"]
gpu.list_parts = lambda *_: [gpu.Part(name, words, 900, is_timed, True) for name in "ab"]
if __name__ == "__main__":
    gpu.gpu_benchmark(Namespace(minutes=15, device="cpu", output_dir="found"))
"""


@pytest.mark.parametrize("is_timed", [False, True])
def test_an_interruption_ends_what_runs(is_timed, tmp_path):
    script = tmp_path / "endless.py"
    script.write_text(f"is_timed = {is_timed}{ENDLESS}")
    process = subprocess.Popen(
        [sys.executable, script],
        cwd=tmp_path,
        env=script_environment(1) | {"PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}"},
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 300
        while len(parts := _parts_of(psutil.Process(process.pid))) < (1 if is_timed else 2):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)
        assert not psutil.wait_procs(parts, timeout=60)[1]
    finally:
        kill_tree(process)


def _parts_of(process):
    """What a server that forks has forked."""
    forks = []
    for child in process.children():
        with contextlib.suppress(psutil.Error):
            forks += child.children(recursive=True)
    return forks


def test_the_parts():
    args = Namespace(
        device="cuda", image_size=224, size=["base", "huge"], minutes=25, output_dir="o"
    )
    parts = {part.name: part for part in list_parts(args, "NVIDIA H100 80GB HBM3")}
    where = "h100-80gb-hbm3"
    assert {f"checks-{where}", f"profile-{where}-huge-cross", "tests"} <= set(parts)
    assert "--bf16" in parts[f"train-{where}-base"].command
    assert parts[f"train-{where}-huge"].command.count("64") == 1
    assert "--compile" in parts[f"train-{where}-base-cross-compiled"].command
    assert f"compiling-{where}-base-transformers" in parts
    assert f"compiling-{where}-base-cross-transformers" not in parts  # it is the same model
    # whatever is timed is alone, after all that isn't
    timed = [part.is_timed for part in parts.values()]
    assert timed == sorted(timed)
    assert all(0 < part.seconds <= 25 * 60 for part in parts.values())


@pytest.mark.parametrize("name", [name for name in CHECKS if name != "compiled"])
def test_checks(name):
    """That of a compiled step takes a minute; it is in the slow test."""
    found = CHECKS[name](MAEConfig(**TINY, norm_pix_loss=True), torch.device("cpu"))
    assert "loss" in found


def test_a_check_can_fail():
    assert "off by 1.0e-01" in _check_close("loss", 1.1, 1, 0.2)
    for found in (1.3, float("nan")):
        with pytest.raises(ValueError, match="loss is .* and should be 1.000"):
            _check_close("loss", found, 1, 0.2)


@pytest.mark.parametrize("part", ["profile", "largest"])
def test_parts_of_the_model(part):
    options = {"size": "tiny", "batch": 2, "bf16": False, "compile": False, "config_overrides": {}}
    args = Namespace(**{**ARGUMENTS, **options})
    found = PARTS[part](args)
    if part == "profile":
        assert sum(kernel["share"] for kernel in found["kernels"]) <= 1
        assert found["kernels"][0]["share"] > 0.02
        assert found["seconds"] > 0
    else:
        assert found["tried"][2]["images_per_second"] > 0


def test_needs_no_data_libraries(tmp_path):
    """As on a machine where neither they nor a network are."""
    code = (
        "import runpy, sys\n"
        "for name in ('datasets', 'evaluate', 'sklearn'): sys.modules[name] = None\n"
        "import benchmarks.gpu, benchmarks.memory, benchmarks.plan\n"
        "runpy.run_module('benchmarks.gpu_parts', run_name='__main__')\n"
    )
    words = ["largest", "--device", "cpu", "--image_size", "32", "--batch", "2"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--output", tmp_path / "found.json"],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "found.json").read_text())["results"]["foretold"] == 2


def test_a_profile_of_a_gpu_counts_its_kernels_once():
    def event(key, device, on_gpu, on_cpu, is_mine=False):
        return Namespace(
            key=key,
            count=3,
            device_type=device,
            self_device_time_total=on_gpu,
            self_cpu_time_total=on_cpu,
            is_user_annotation=is_mine,
        )

    events = [
        event("aten::mm", DeviceType.CPU, 4e6, 1e6),
        event("gemm", DeviceType.CUDA, 4e6, 0),
        event("copy", DeviceType.CUDA, 1e6, 0),
        event("Optimizer.step", DeviceType.CUDA, 5e6, 0, is_mine=True),
        event("aten::copy_", DeviceType.CPU, 1e6, 2e6),
    ]
    assert own_seconds(events, on_gpu=True) == [(4, 3, "gemm"), (1, 3, "copy")]
    assert own_seconds(events, on_gpu=False) == [(2, 3, "aten::copy_"), (1, 3, "aten::mm")]


@pytest.mark.slow
def test_everything(tmp_path, capsys):
    found = gpu_benchmark(Namespace(**ARGUMENTS, minutes=20, output_dir=str(tmp_path)))
    assert json.loads((tmp_path / "gpu.json").read_text())["results"] == found
    for name, part in found.items():
        assert part["ended"] == "done", f"{name}: {part}"
        assert (tmp_path / f"{name}.json").is_file()


def test_tables(tmp_path):
    assert gpu_tables(tmp_path) == "It has not been run whole on a GPU yet."
    about = {"gpu": "NVIDIA H100", "torch": "2.11.0", "date": "2026-11-26"}
    part = {"ended": "done", "seconds": 12.4, "said": "a | b"}
    (tmp_path / "gpu.json").write_text(json.dumps({**about, "results": {"checks": part}}))
    kernel = {"name": "gemm", "share": 0.5, "calls": 3}
    found = {"seconds": 0.5, "idle_share": 0.25, "kernels": [kernel]}
    (tmp_path / "profile-base.json").write_text(json.dumps({"results": found}))
    text = gpu_tables(tmp_path)
    assert text.startswith("NVIDIA H100, torch 2.11.0, 2026-11-26:")
    assert "| checks | done | 12 | a / b |" in text
    assert "0.5000 s a step, of which the device is\nidle for 25%" in text
    assert "| `gemm` | 50.0% | 3 |" in text


def test_memory(tmp_path):
    found = foretell(MAEConfig(**TINY), [4, 8], bf16=True)
    assert found["bytes"][4] < found["bytes"][8]
    assert 0 < found["largest"][8] <= found["largest"][80]
    args = Namespace(size=["tiny"], image_size=32, batch=[2, 4])
    (tmp_path / "memory.json").write_text(json.dumps({"results": memory_benchmark(args)}))
    lines = memory_table(tmp_path / "memory.json").splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| tiny | bf16 | 1.1 |")


def test_a_plan_takes_no_other_models_rate(tmp_path):
    source = RESULTS / "train-h200-base.json"
    (tmp_path / source.name).write_text(source.read_text())
    other = json.loads(source.read_text())
    other["command"] += """ --config_overrides '{"decoder_type": "cross"}'"""
    for measured in other["results"].values():
        measured["models"]["hf_mae"]["images_per_second"] = 99_999
    (tmp_path / "train-h200-base-cross.json").write_text(json.dumps(other))
    assert measured_rate("base", "NVIDIA H200", tmp_path).source == source.name


def test_a_plan_says_how_its_rate_was_measured():
    rate = measured_rate("base", "NVIDIA H100 80GB HBM3")
    assert rate.compiled
    assert "4,103 images/s in bf16, compiled (--torch_compile), at batch 256" in str(rate)


def test_a_plan_of_a_measured_gpu():
    rate = measured_rate("base", "NVIDIA H200")
    assert (rate.batch, rate.bf16) == (256, True)
    assert rate.images_per_second == pytest.approx(3531, abs=1)
    words = ["plan", "--epochs=400", "--gpus=8", "--input_rate=851"]
    said = run_script("benchmark.py", *words, "--size=base", "--gpu_name=NVIDIA H200")
    assert "5.0 hours" in said
    assert "3,531 images/s in bf16 at batch 256, measured without input" in said
    assert "GiB of each GPU at that batch, foretold" in said
    error = script_error("benchmark.py", *words, "--size=large", "--gpu_name=NVIDIA H200")
    assert "large on NVIDIA H200 wasn't measured, only base on NVIDIA H100 80GB HBM3, " in error
