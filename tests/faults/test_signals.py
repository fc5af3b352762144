"""Asked to stop: the step is finished, a checkpoint saved, a line says so, and the run goes on."""

import os
import signal
import subprocess
import time

import pytest
from campaign import (
    RESUME,
    SECONDS,
    STEPS,
    HungError,
    LostError,
    UnclearError,
    check_explained,
    flags,
    newest_step,
    resume,
)
from forked_scripts import ROOT, ForkedRun
from helpers import kill_tree, script_command, script_environment

from hf_mae.checkpoints import find_flaw


NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
MOMENTS = ("the first checkpoint", "a checkpoint half written", "the second checkpoint")
QUICK = [("SIGTERM", "the first checkpoint"), ("SIGUSR1", "a checkpoint half written")]


def has_come(moment, output):
    if moment == "the first checkpoint":
        return newest_step(output) >= 4
    if moment == "a checkpoint half written":
        return (output / "checkpoint-4" / "model.safetensors").exists()
    return newest_step(output) >= 8


def cases():
    made = []
    for name in NAMES:
        for moment in MOMENTS:
            marks = [] if (name, moment) in QUICK else [pytest.mark.campaign]
            made.append(pytest.param(name, moment, marks=marks, id=f"{name}-{moment}"))
    return made


def check_stopped(output, name, status, stderr):
    """Checks the end of a run that got a signal; nothing is asked of one that was over by then."""
    number = getattr(signal, name)
    if status == 0 and newest_step(output) == STEPS:
        return
    check_explained("run_mae.py", status, stderr)
    if status != 128 + number:
        raise UnclearError(f"status {status}, not {128 + number}\n{stderr}")
    if newest_step(output) == 0:
        raise LostError(f"no checkpoint\n{stderr}")
    if (output / "README.md").exists() or (output / "model.safetensors").exists():
        raise UnclearError("it leaves the papers of a finished run")


@pytest.mark.fault("a signal")
@pytest.mark.parametrize(("name", "moment"), cases())
def test_a_signal(name, moment, whole, tmp_path):
    output = tmp_path / "run"
    with ForkedRun("run_mae.py", flags(output)) as run:
        deadline = time.monotonic() + SECONDS
        while not (has_come(moment, output) or run.has_ended()):
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        os.kill(run.forks[0].pid, getattr(signal, name))
        try:
            status = run.wait(SECONDS)
        except TimeoutError as error:
            raise HungError(name) from error
        check_stopped(output, name, status, run.texts()[1])
    resume(output, whole)


@pytest.mark.fault("a signal to all processes of a job")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_to_the_whole_group(name, tmp_path):
    """As schedulers send it: to the workers that load images as well."""
    output = tmp_path / "run"
    arguments = [*flags(output), "--max_steps=4000", "--dataloader_num_workers=2"]
    process = subprocess.Popen(
        script_command("run_mae.py", *arguments),
        cwd=ROOT,
        env=script_environment(2),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + SECONDS
        while newest_step(output) < 8:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, getattr(signal, name))
        _, stderr = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise HungError(name) from error
    finally:
        kill_tree(process)
    check_stopped(output, name, process.returncode, stderr)
    newest = output / f"checkpoint-{newest_step(output)}"
    if find_flaw(newest):
        raise LostError(f"{newest}: {find_flaw(newest)}")


@pytest.mark.fault("a signal to torchrun")
@pytest.mark.campaign
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_to_torchrun(name, whole_of_two, tmp_path):
    """It hands the signal to its processes, and ends with a status of its own."""
    output = tmp_path / "run"
    process = subprocess.Popen(
        script_command("run_mae.py", *flags(output, 2), RESUME, processes=2),
        cwd=ROOT,
        env=script_environment(2),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + SECONDS
        while newest_step(output) < 4:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(getattr(signal, name))
        _, stderr = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise HungError(name) from error
    finally:
        kill_tree(process)
    assert process.returncode != 0 or newest_step(output) == STEPS
    if "run_mae.py: " not in stderr:
        raise UnclearError(stderr)
    resume(output, whole_of_two, processes=2)
