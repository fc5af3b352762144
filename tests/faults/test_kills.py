"""SIGKILL at any moment: the run goes on as if nothing had happened, bit for bit."""

import random
import shutil
import time

import pytest
from campaign import RESUME, STEPS, draw, flags, kill_at, newest_step, resume


# files of a checkpoint as they appear, and of the folder at the end; a name that a version doesn't
# write is passed over, and the run killed at its end
SAVED = (
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "manifest.json",
)
AT_THE_END = ("model.safetensors", "arguments.yaml", "curves.png", "README.md", "card.json")
FIRST_SAVE = ["checkpoint-4", "checkpoint-4/model.safetensors", "checkpoint-4/trainer_state.json"]
POINTS = [*FIRST_SAVE, *(f"checkpoint-8/{name}" for name in SAVED), *AT_THE_END]
QUICK = ["checkpoint-4/model.safetensors", "checkpoint-8/model.safetensors"]
QUICK += ["checkpoint-8/trainer_state.json", "curves.png"]


def marked(values, quick):
    """Parameters; those that aren't in the quick half belong to the campaign."""
    made = []
    for value in values:
        marks = [] if value in quick else [pytest.mark.campaign]
        made.append(pytest.param(value, marks=marks))
    return made


@pytest.mark.fault("SIGKILL when a file appears")
@pytest.mark.parametrize("point", marked(POINTS, QUICK))
def test_killed_when_a_file_appears(point, whole, tmp_path):
    output = tmp_path / "run"
    kill_at("run_mae.py", flags(output), (output / point).exists)
    resume(output, whole)


@pytest.mark.fault("SIGKILL in a rotation")
def test_killed_when_an_old_checkpoint_goes(whole, tmp_path):
    """The oldest of three is being removed."""
    output = tmp_path / "run"
    old = output / "checkpoint-4"

    def some_are_gone():
        return newest_step(output) == STEPS and len(list(old.glob("*"))) < len(SAVED) - 1

    kill_at("run_mae.py", flags(output), some_are_gone)
    resume(output, whole)


@pytest.mark.fault("SIGKILL at random")
@pytest.mark.parametrize("seed", marked(range(25), [0]))
def test_killed_at_random(seed, whole, tmp_path):
    """Up to three times, a random time after the first step, or before."""
    output = tmp_path / "run"
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 3)):
        kill_at("run_mae.py", [*flags(output), RESUME], some_time_after(output, rng))
    resume(output, whole)


def some_time_after(output, rng):
    """True a random time after a step that is drawn, as far as saves show it."""
    step = rng.choice([0, 0, 4, 8, STEPS])
    delay = rng.uniform(0, 1.5 if step else 8)
    since = []

    def moment():
        if not since and newest_step(output) >= step:
            since.append(time.monotonic())
        return bool(since) and time.monotonic() - since[0] > delay

    return moment


@pytest.mark.fault("SIGKILL of two processes")
@pytest.mark.campaign
@pytest.mark.parametrize("point", draw(0, POINTS, 6))
def test_two_processes_killed(point, whole_of_two, tmp_path):
    output = tmp_path / "run"
    kill_at("run_mae.py", flags(output, 2), (output / point).exists, processes=2)
    resume(output, whole_of_two, processes=2)


@pytest.mark.fault("SIGKILL and the folder moved")
def test_the_folder_is_moved(whole, tmp_path):
    """What goes on elsewhere, as jobs that are moved to another machine do."""
    kill_at("run_mae.py", flags(tmp_path / "a"), (tmp_path / "a" / "checkpoint-8").exists)
    shutil.move(tmp_path / "a", tmp_path / "b")
    resume(tmp_path / "b", whole)
