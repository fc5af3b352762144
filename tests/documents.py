"""The blocks of code in README.md, docs/ and model cards, and how each of their lines is run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from forked_scripts import ROOT, run_forked
from helpers import TINY_FLAGS


# lines that can't run here, by what they hold, and why
NOT_RUN = {
    "make ": "makes environments from a package index, or is the campaign of make faults",
    "pip install ": "needs a package index",
    "git clone ": "needs a network",
    "https://": "needs a network; tests/scripts/test_predict.py has a server",
    "convert_checkpoint.py --name ": "fetches 2.6 GB; tests/conversion/ converts golden files",
    "--repo_id ORG/NAME --license mit": "uploads; tests/hub/test_loopback_hub.py does, without",
    "scripts/app.py ": "serves until it is stopped; tests/scripts/test_app.py tries it",
    "restart.sh accelerate launch …": "is an outline; tests/scripts/test_restart.py runs it",
}
# what makes a line short that holds this, behind what it says; the rest runs word for word
_TRAINING = [
    "--max_steps=1",
    "--warmup_epochs=0",
    "--use_cpu",
    "--report_to=none",
    "--dataloader_num_workers=0",
    "--per_device_train_batch_size=2",
    "--gradient_accumulation_steps=1",
]
SHORT = {
    "run_mae.py": _TRAINING,
    "run_finetune.py": _TRAINING,
    "run_linear_probe.py": _TRAINING,
    "run_eval.py": ["--use_cpu"],
    "predict.py": ["--use_cpu"],
    "extract_features.py": ["--use_cpu"],
    "publish.py": ["--license=mit"],
    "recipes/pretrain/mae-vit": TINY_FLAGS,
    # as many epochs as it has sizes
    "56px-budget": ["--max_steps=8", "--per_device_train_batch_size=40"],
    "idx_to_dataset.py": ["--images_per_class=4"],
    "convert_checkpoint.py": ["--num_attention_heads=3", "--image_size=32"],
}
REPLACED = {
    "num_train_epochs=20, warmup_epochs=2": "max_steps=2, warmup_epochs=0, use_cpu=True, "
    "report_to='none'",
    "/usr/share/datasets/fashion-mnist": "fashion-mnist-idx",
}
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A block of code: what is behind its fence, and where."""

    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}, line {self.line}"


def blocks_of(document):
    text = document.read_text(encoding="utf-8")
    for fence in _FENCE.finditer(text):
        language, code = fence.groups()
        yield Block(document, text.count("\n", 0, fence.start()) + 1, language, code)


def command_lines(block):
    """The commands of a block in words, without comments; what is continued is one."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if shlex.split(line, comments=True):
            yield " ".join(line.split())


def why_not_run(line):
    """The entry of NOT_RUN that is about a line, or None."""
    return next((part for part in NOT_RUN if part in line), None)


def run_line(line, folder):
    """Runs a line in a folder of stand-ins, as a shell there would; (status, output)."""
    for told, instead in REPLACED.items():
        line = line.replace(told, instead)
    words = shlex.split(line, comments=True)
    if words[0] == "export":
        return 0, ""
    if "|" in words:
        return _run_in_a_shell(line, folder)
    # launching is tested in tests/scripts/test_launch_configurations.py: here it is one process
    script = next(word for word in words if word.endswith(".py"))
    launched = words[: words.index(script)]
    assert launched == ["python"] or launched[:2] == ["accelerate", "launch"], line
    assert (ROOT / script).is_file(), line
    arguments = words[words.index(script) + 1 :]
    for part, flags in SHORT.items():
        arguments += flags if part in line else []
    _make_room(arguments, folder)
    script = script.removeprefix("scripts/")
    status, stdout, stderr = run_forked(script, arguments, folder=folder)
    return status, stdout + stderr


def _run_in_a_shell(line, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def _make_room(arguments, folder):
    """Takes away the stand-in where a line writes what it stands for."""
    for flag in ("--output_dir", "--output"):
        if flag in arguments:
            path = folder / arguments[arguments.index(flag) + 1]
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
