"""prepare_dataset.py as its users start it: killed and started again, and what is trained on it."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers import ROOT, TINY_FLAGS, run_script, script_command, script_error
from PIL import Image

from hf_mae.data import prepared_folder


def paint(folder, count, size=(64, 48)):
    rng = np.random.default_rng(0)
    for i in range(count):
        file = folder / f"class {i % 2}" / f"{i:03d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(file, quality=95)


def content(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(Path(folder).rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize("file_format", ["parquet", "webdataset"])
def test_training_on_a_prepared_set(tmp_path, file_format):
    paint(tmp_path / "photos", 24)
    (tmp_path / "photos" / "class 0" / "bad.jpg").write_bytes(b"no")
    out = tmp_path / "out"
    flags = ["--shortest_edge=40", f"--format={file_format}", "--num_proc=2"]
    shown = run_script(
        "prepare_dataset.py", f"--train_dir={tmp_path / 'photos'}", f"--output_dir={out}", *flags
    )
    assert "24 images, 24 of them resized; " in shown
    assert "label: 2 classes: class 0, class 1" in shown
    assert f"1 images that can't be read, listed in {out / 'bad_images.tsv'}" in shown
    assert f"--dataset_name {out}" in shown
    common = [f"--dataset_name={out}", "--use_cpu", "--report_to=none", "--max_steps=2"]
    common += ["--per_device_train_batch_size=4", "--warmup_epochs=0"]
    run_script("run_mae.py", *common, f"--output_dir={tmp_path / 'run'}", *TINY_FLAGS)
    assert not (tmp_path / "run" / "bad_images.tsv").exists()
    shown = run_script(
        "run_finetune.py",
        *common,
        f"--model_name_or_path={tmp_path / 'run'}",
        f"--output_dir={tmp_path / 'classifier'}",
        "--train_val_split=0.25",
    )
    assert "top-1" in shown


def test_killed_amid_and_started_again(tmp_path):
    paint(tmp_path / "photos", 120, size=(640, 480))
    flags = [f"--train_dir={tmp_path / 'photos'}", "--shortest_edge=100", "--images_per_shard=20"]
    out = tmp_path / "out"
    command = script_command("prepare_dataset.py", *flags, f"--output_dir={out}", "--num_proc=2")
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while not (out / ".preparing" / "train-00001.json").exists():
        assert process.poll() is None
        time.sleep(0.005)
    family = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive, "workers outlive the process that they worked for"
    assert not (out / "preparation.json").exists()
    finished = {file.name: file.stat().st_mtime_ns for file in (out / "data").iterdir()}
    assert 2 <= len(finished) < 6

    run_script("prepare_dataset.py", *flags, f"--output_dir={out}", "--num_proc=1")
    for name, changed in finished.items():
        assert (out / "data" / name).stat().st_mtime_ns == changed
    run_script("prepare_dataset.py", *flags, f"--output_dir={tmp_path / 'whole'}")
    assert content(out) == content(tmp_path / "whole")
    shown = run_script("prepare_dataset.py", *flags, f"--output_dir={out}")
    assert "it was prepared already" in shown
    message = script_error(
        "prepare_dataset.py", *flags, f"--output_dir={out}", "--shortest_edge=50"
    )
    assert "shortest_edge is 50, and was 100; name another folder" in message


def test_what_is_refused_in_a_line(tmp_path):
    paint(tmp_path / "photos", 2)
    source = f"--train_dir={tmp_path / 'photos'}"
    cases = {
        (source, f"--output_dir={tmp_path / 'photos' / 'out'}"): "which is read; name a folder",
        (source, f"--output_dir={tmp_path / 'out'}", "--quality=0"): "from 1 to 100",
        (f"--output_dir={tmp_path / 'out'}",): "give dataset_name, train_dir or validation_dir",
        (f"--train_dir={tmp_path / 'no'}", f"--output_dir={tmp_path / 'out'}"): "is not a folder",
        (source, "--output_dir=/proc/out"): "output_dir /proc/out can't be written",
    }
    for flags, message in cases.items():
        error = script_error("prepare_dataset.py", *flags)
        assert message in error
        assert error.count("\n") <= 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_is_said_in_a_line(tmp_path, monkeypatch):
    paint(tmp_path / "photos", 30)
    flags = [f"--train_dir={tmp_path / 'photos'}", f"--output_dir={tmp_path / 'out'}"]
    monkeypatch.setattr(prepared_folder.Target, "partial", lambda *_: Path("/dev/full"))
    for file_format in ("parquet", "webdataset"):
        error = script_error(
            "prepare_dataset.py", *flags, f"--format={file_format}", "--num_proc=1"
        )
        assert "can't be written: " in error
        assert "No space left on device" in error
        assert "the same command goes on" in error
        left = {file.name for file in (tmp_path / "out").rglob("*") if file.is_file()}
        assert left <= {"begun.json", ".lock"}
        shutil.rmtree(tmp_path / "out")
