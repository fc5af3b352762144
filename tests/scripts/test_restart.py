"""scripts/accelerate/restart.sh: what it starts again, and a run that goes on."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from helpers import (
    ROOT,
    TINY_FLAGS,
    kill_tree,
    run_script,
    script_command,
    script_environment,
    trace,
)
from safetensors.torch import load_file

from hf_mae.checkpoints import find_checkpoint


RESTART = ROOT / "scripts" / "accelerate" / "restart.sh"


def restart(command, cwd, retries=2, pause=0):
    return subprocess.Popen(
        ["bash", str(RESTART), *map(str, command)],
        cwd=cwd,
        env={**script_environment(2), "RETRIES": str(retries), "PAUSE": str(pause)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ends_with(*statuses):
    """A command that notes its arguments, and ends with these statuses, one after the other."""
    script = 'echo "$*" >> tries; set -- ' + " ".join(map(str, statuses))
    script += '; shift $(($(wc -l < tries) - 1)); exit "$1"'
    return ["sh", "-c", script, "sh"]


@pytest.mark.parametrize(
    ("statuses", "tries", "status"),
    [
        ((0,), 1, 0),
        ((1, 0), 2, 0),
        ((137, 1, 0), 3, 0),
        ((1, 1, 7, 0), 3, 7),
        *(((status, 0), 1, status) for status in (2, 129, 130, 138, 143)),
    ],
)
def test_what_is_started_again(statuses, tries, status, tmp_path):
    process = restart(ends_with(*statuses), tmp_path)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == status
    lines = (tmp_path / "tries").read_text().splitlines()
    assert lines == ["--resume_from_checkpoint last"] * tries
    assert stderr.count("again in 0 s") == tries - 1
    assert ("2 retries are used up" in stderr) == (status == 7)


def test_a_command_that_is_not_there(tmp_path):
    process = restart(["no_such_command"], tmp_path)
    assert process.wait(timeout=60) == 127


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"])
def test_a_signal_reaches_the_command_and_ends_the_loop(name, tmp_path):
    program = (
        "import signal, sys, time, pathlib\n"
        f"signal.signal(signal.{name}, lambda *_: (time.sleep(0.3), sys.exit(1)))\n"
        "pathlib.Path('ready').touch()\n"
        "time.sleep(60)"
    )
    process = restart([sys.executable, "-c", program], tmp_path)
    wait_until(lambda: (tmp_path / "ready").exists(), process)
    (tmp_path / "ready").unlink()
    process.send_signal(getattr(signal, name))
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "again" not in stderr
    assert not (tmp_path / "ready").exists()


def test_stopped_while_it_waits(tmp_path):
    process = restart(ends_with(1, 0), tmp_path, pause=60)
    wait_until(lambda: (tmp_path / "tries").exists(), process)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 143
    assert (tmp_path / "tries").read_text().count("\n") == 1


def wait_until(moment, process, seconds=180):
    deadline = time.monotonic() + seconds
    while not moment():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_rank_is_killed_and_the_run_goes_on(tmp_path):
    """Two processes of torchrun; one is killed. Losses and weights are those of a run that was left
    alone, bit for bit."""
    flags = [
        *TINY_FLAGS,
        "--dataset_name=digits",
        "--per_device_train_batch_size=8",
        "--max_steps=40",
        "--warmup_epochs=0.05",
        "--logging_steps=1",
        "--eval_strategy=no",
        "--save_strategy=steps",
        "--save_steps=10",
        "--disable_tqdm=true",
        "--report_to=none",
        "--use_cpu",
    ]
    whole, output = tmp_path / "whole", tmp_path / "killed"
    run_script("run_mae.py", *flags, "--output_dir", whole, processes=2)

    command = script_command("run_mae.py", *flags, "--output_dir", output, processes=2)
    process = restart(command, ROOT)
    try:
        wait_until(lambda: output.is_dir() and find_checkpoint(output), process)
        killed_after = int(find_checkpoint(output).name.split("-")[1])
        kill_rank(process, 1)
        _, stderr = process.communicate(timeout=300)
    finally:
        kill_tree(process)
    assert killed_after < 40
    assert process.returncode == 0, stderr
    assert stderr.count("again in 0 s") == 1
    assert trace(output) == trace(whole)
    ours, expected = (load_file(folder / "model.safetensors") for folder in (output, whole))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.items())


def kill_rank(launcher, rank):
    """Kills one of the processes that a launcher started, hard."""
    for child in psutil.Process(launcher.pid).children(recursive=True):
        if child.environ().get("RANK") == str(rank):
            os.kill(child.pid, signal.SIGKILL)
            return
    raise AssertionError(f"no rank {rank}")
