"""Every script says what it can be told, at once."""

import importlib.metadata
import re
import runpy
import subprocess
import sys
import time

import pytest
from helpers import ROOT


SCRIPTS = ROOT / "scripts"
MAKERS = sorted(SCRIPTS.glob("make/*.py"))
FOUND = sorted(path for path in SCRIPTS.glob("*.py") if path.name != "early_help.py")
TRAINING = ("run_mae", "run_finetune", "run_linear_probe")
COMMANDS = {"benchmark": ("input", "train", "infer", "memory", "gpu", "plan", "quality")}
HELPS = [(path.stem,) for path in FOUND]
HELPS += [("benchmark", command) for command in COMMANDS["benchmark"]]
GROUPS = ["Model", "Data", "Training", "Output"]


def text_of(name):
    return (SCRIPTS / "help" / f"{name}.txt").read_text(encoding="utf-8")


def test_the_texts_are_what_the_parsers_say():
    """The longer ones have transformers' own words, which are those of the pinned version."""
    write_help = runpy.run_path(str(SCRIPTS / "make" / "write_help.py"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("COLUMNS", "NO_COLOR"):
            patch.setenv(name, "")
        patch.setattr(sys, "argv", list(sys.argv))
        patch.setattr(sys, "path", list(sys.path))
        texts = write_help["help_texts"]()
    written = {path.stem for path in (SCRIPTS / "help").glob("*.txt")}
    assert written == set(texts), "run make help-texts"
    pins = (ROOT / "constraints.txt").read_text()
    pinned = f"transformers=={importlib.metadata.version('transformers')}" in pins
    for name, text in texts.items():
        if pinned or not name.endswith("_all"):
            assert text.split() == text_of(name).split(), "run make help-texts"


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_help_is_there_at_once(words):
    """In less than a second, of which Python's start is a part, and without what takes longer."""
    name, *command = words
    code = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print('torch' in sys.modules, 'hf_mae' in sys.modules))\n"
        f"sys.path.insert(0, {str(SCRIPTS)!r})\n"
        f"sys.argv = [{name + '.py'!r}, *{command!r}, '--help']\n"
        f"runpy.run_path({str(SCRIPTS / (name + '.py'))!r}, run_name='__main__')"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        if seconds[-1] < 1:
            break
    assert (done.returncode, done.stderr) == (0, "")
    *shown, modules = done.stdout.splitlines()
    assert modules == "False False"
    assert shown == text_of("_".join(words)).splitlines()
    assert shown[0].startswith(f"usage: {name}.py")
    assert len(shown) < 80
    assert max(map(len, shown)) <= 100
    assert min(seconds) < 1


@pytest.mark.parametrize("path", MAKERS, ids=lambda path: path.name)
def test_help_of_the_makers(path):
    start = time.perf_counter()
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {path.name}")
    assert time.perf_counter() - start < 3  # importing the package takes longer


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
def test_every_flag_is_in_the_help(path):
    shown = "".join(text_of("_".join(words)) for words in HELPS if words[0] == path.stem)
    flags = re.findall(r'add_argument\(\s*"(--\w+)"', path.read_text())
    for flag in flags:
        assert re.search(rf"{flag}\b", shown), flag


@pytest.mark.parametrize("name", TRAINING)
def test_help_of_training(name):
    shown = text_of(name).splitlines()
    titles = [line.rstrip(":") for line in shown if re.fullmatch(r"\w.*:", line)]
    middle = "Masking and loss" if name == "run_mae" else "Augmentation and loss"
    assert titles == [*GROUPS[:2], middle, *GROUPS[2:]]
    flags = [line.split()[0] for line in shown if line.startswith("  --")]
    assert len(flags) == len(set(flags)) == sum(line.startswith("  ") for line in shown)
    assert {"--size", "--train_dir", "--num_train_epochs", "--output_dir"} < set(flags)
    assert "  --size tiny|small|base|large|huge   Of a new model [base]" in shown
    assert not [line for line in shown[1:] if line.count("[") > 1 or "default" in line]


@pytest.mark.parametrize("name", TRAINING)
def test_all_flags_of_training(name):
    """Each once, without its spellings, ours apart from transformers'."""
    shown = text_of(f"{name}_all")
    flags = re.findall(r"^  --(\S+)", shown, re.M)
    assert len(flags) == len(set(flags)) > 120
    assert not [flag for flag in flags if "-" in flag or flag.startswith("no_")]
    assert "(--train-dir)" in shown
    assert "--no_dataloader_pin_memory" in shown
    ours, theirs = shown.split("\nOf transformers' TrainingArguments:\n")
    assert "  --train_dir DIR\n" in ours
    assert "  --output_dir DIR\n" in theirs
    assert shown.count("(default") < len(flags)
    assert "(default: None)" not in shown
    for text in re.split(r"^  --", shown, flags=re.M):
        assert len(re.findall(r"\(default|Defaults to", text)) <= 1, text
    short = re.findall(r"^  --(\S+)", text_of(name), re.M)
    assert set(short) < set(flags)


def test_all_scripts_are_found():
    assert {"run_mae.py", "publish.py"} <= {path.name for path in FOUND}
    assert {"write_cards.py", "write_help.py"} <= {path.name for path in MAKERS}


@pytest.mark.parametrize(
    ("script", "heavy"),
    [("predict", {"timm", "sklearn", "matplotlib"}), ("reconstruct", {"timm", "datasets"})],
)
def test_scripts_that_answer_import_what_they_need(script, heavy):
    code = f"import sys; sys.path.insert(0, 'scripts'); import {script}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert heavy.isdisjoint(run.stdout.split())
