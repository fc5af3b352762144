"""What pip installs is whole: a wheel, built from the checkout, works away from it."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from helpers import ROOT


# runs where no checkout is; its arguments: the checkout, for a file of weights and a script, and
# the folder that pip installed to
USE = """
import runpy, sys
from pathlib import Path

import hf_mae
from hf_mae.conversion.checkpoint_files import read_checkpoint

checkout, target = map(Path, sys.argv[1:])
assert Path(hf_mae.__file__).parent == target / "hf_mae", hf_mae.__file__

state_dict, extras = read_checkpoint(checkout / "tests" / "golden" / "mmpretrain_mae.pth")
heads = {"num_attention_heads": 3, "decoder_num_attention_heads": 4, "image_size": 32}
model = hf_mae.convert(state_dict, extras, **heads).model
processor = hf_mae.MAEImageProcessor.from_model_config(model.config)
print(hf_mae.export(model, processor, "native"))

sys.argv = ["write_cards.py", "."]
runpy.run_path(str(checkout / "scripts" / "make" / "write_cards.py"), run_name="__main__")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, for setuptools leaves files beside the sources."""
    checkout, folder = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    shutil.copytree(
        ROOT / "hf_mae", checkout / "hf_mae", ignore=shutil.ignore_patterns("__pycache__")
    )
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, checkout)
    (built,) = folder.glob("hf_mae-*.whl")
    return built


def pip(command, *arguments):
    subprocess.run(
        [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", "--no-index", *arguments],
        check=True,
    )


def test_every_file_travels(wheel):
    files = [path for path in (ROOT / "hf_mae").rglob("*") if path.is_file()]
    wanted = {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".pyc"}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == wanted
    assert "hf_mae/py.typed" in found


def test_installed_it_converts_exports_and_writes_cards(wheel, tmp_path):
    target, folder = tmp_path / "target", tmp_path / "elsewhere"
    pip("install", "--target", target, wheel)
    folder.mkdir()
    shutil.copytree(ROOT / "docs", folder / "docs")
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "-c", USE, ROOT, target],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "ViTMAEForPreTraining" in done.stdout
    assert (folder / "native" / "model.safetensors").is_file()
    written = {path.name: path.read_text() for path in (folder / "model_cards").iterdir()}
    assert written == {path.name: path.read_text() for path in (ROOT / "model_cards").iterdir()}
