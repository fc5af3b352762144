"""The newest of two checkpoints is damaged: that is said, and the older one is used."""

import os
import shutil

import pytest
from campaign import (
    RESUME,
    DifferentError,
    LostError,
    UnclearError,
    check_explained,
    draw,
    finish,
    flags,
    resume,
)


FILES = (
    "config.json",
    "model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "preprocessor_config.json",
    "training_args.bin",
    "manifest.json",
)
QUICK = [("model.safetensors", "a bit flipped"), ("optimizer.pt", "gone")]
QUICK += [("trainer_state.json", "half"), ("scheduler.pt", "zeros")]


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 4
    path.write_bytes(content)


def half(path):
    os.truncate(path, path.stat().st_size // 2)


def zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def longer(path):
    with path.open("ab") as stream:
        stream.write(b"\0" * 64)


DAMAGES = {
    "gone": lambda path: path.unlink(),
    "half": half,
    "empty": lambda path: os.truncate(path, 0),
    "zeros": zeros,
    "a bit flipped": flip_a_bit,
    "longer": longer,
}


def cases():
    made = []
    for file in FILES:
        for damage in DAMAGES:
            if (file, damage) == ("manifest.json", "gone"):
                continue  # earlier versions wrote none: it is used, and that is said
            marks = [] if (file, damage) in QUICK else [pytest.mark.campaign]
            made.append(pytest.param(file, damage, marks=marks, id=f"{file}-{damage}"))
    return made


@pytest.fixture
def stopped(whole, tmp_path):
    """The folder of a run that was killed after its last checkpoint."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("checkpoint-8", "checkpoint-12"):
        shutil.copytree(whole / name, folder / name)
    return folder


@pytest.mark.fault("newest checkpoint damaged")
@pytest.mark.parametrize(("file", "damage"), cases())
def test_the_older_one_is_used(file, damage, stopped, whole):
    DAMAGES[damage](stopped / "checkpoint-12" / file)
    stdout, stderr = resume(stopped, whole)
    if "resuming checkpoint-8" not in stdout:
        raise DifferentError(f"the older one isn't used\n{stdout}")
    if "checkpoint-12" not in stderr:
        raise UnclearError(f"it isn't said which is passed over\n{stderr}")


@pytest.mark.fault("no whole checkpoint left")
@pytest.mark.parametrize("damage", ["gone", "half"])
def test_none_is_whole(damage, stopped):
    """An error that names both, and no run from the start over their folders."""
    for name in ("checkpoint-8", "checkpoint-12"):
        DAMAGES[damage](stopped / name / "trainer_state.json")
    status, _, stderr = finish("run_mae.py", [*flags(stopped), RESUME])
    if status == 0:
        raise LostError("everything is trained again without a word")
    check_explained("run_mae.py", status, stderr)
    if "checkpoint-8" not in stderr or "checkpoint-12" not in stderr:
        raise UnclearError(stderr)


@pytest.mark.fault("several files damaged")
@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(6))
def test_several_files_are_damaged(seed, stopped, whole):
    for file, damage in draw(seed, [(f, d) for f in FILES for d in DAMAGES if d != "gone"], 3):
        DAMAGES[damage](stopped / "checkpoint-12" / file)
    stdout, stderr = resume(stopped, whole)
    if "resuming checkpoint-8" not in stdout or "checkpoint-12" not in stderr:
        raise UnclearError(f"{stdout}\n{stderr}")


@pytest.mark.fault("names that only look like checkpoints")
@pytest.mark.parametrize("name", ["checkpoint-12-backup", "checkpoint-²", "checkpoint-"])
def test_other_folders_are_no_checkpoints(name, stopped, whole):
    shutil.move(stopped / "checkpoint-12", stopped / name)
    stdout, _ = resume(stopped, whole)
    if "resuming checkpoint-8" not in stdout:
        raise DifferentError(stdout)
