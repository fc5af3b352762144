"""What holds for the package as a whole."""

import ast
import graphlib
import subprocess
import sys

import pytest
from helpers import ROOT


# the house, from the ground up; a room imports from itself and from what stands below it
GROUND = ("errors", "output_folder", "versions")
ROOMS = ("models", "data", "conversion", "hub", "training")
LEVELS = [GROUND, ["models"], ["data"], ["inference", "conversion"], ["hub"], ["training"]]
LEVELS.append(["__init__"])
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
MODULES = sorted((ROOT / "hf_mae").rglob("*.py"))


def dotted(path):
    """A module's name below hf_mae."""
    return ".".join(path.relative_to(ROOT / "hf_mae").with_suffix("").parts)


def imported_modules(path):
    """Dotted names below hf_mae of what a file of the package imports."""
    package = path.relative_to(ROOT / "hf_mae").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) + 1 - node.level]
            names = [node.module] if node.module else [name.name for name in node.names]
            yield from (".".join([*base, name]) for name in names)
        if isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module.split(".")[0] != "hf_mae", f"{path}: import it relatively"
        if isinstance(node, ast.Import):
            assert not any(name.name.split(".")[0] == "hf_mae" for name in node.names), path


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    room = path.relative_to(ROOT / "hf_mae").parts[0].removesuffix(".py")
    for name in imported_modules(path):
        other = name.split(".")[0]
        inside = (other == room and room in ROOMS) or (room in GROUND and other in GROUND)
        assert inside or LEVEL_OF[other] < LEVEL_OF[room], f"{path.name} imports {name}"


def test_no_circles():
    graph = {dotted(path): set(imported_modules(path)) for path in MODULES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_files_and_functions_stay_short():
    """Functions are counted without their docstrings."""
    for path in [*MODULES, *(ROOT / "scripts").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        text = path.read_text()
        assert text.count("\n") <= 500, path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                first = node.body[1] if ast.get_docstring(node) and node.body[1:] else node.body[0]
                assert node.end_lineno - first.lineno < 60, f"{path.name}: {node.name}"


def test_the_model_imports_without_the_data_libraries():
    """For machines that only load a model."""
    code = (
        "import sys\n"
        "for name in ('datasets', 'evaluate', 'sklearn', 'matplotlib', 'tensorboard'): "
        "sys.modules[name] = None\n"
        "import torch, hf_mae\n"
        "print(hf_mae.MAEModel(hf_mae.MAEConfig.from_size('tiny'))(torch.rand(1, 3, 224, "
        "224)).last_hidden_state.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "[1, 197, 192]" in done.stdout, done.stderr


def test_the_readmes_example_runs(tmp_path, monkeypatch):
    from PIL import Image

    from hf_mae import MAEConfig, MAEForPreTraining, MAEImageProcessor

    config = MAEConfig.from_size("tiny", image_size=32, patch_size=4, num_channels=1)
    MAEForPreTraining(config).save_pretrained(tmp_path / "runs" / "demo")
    MAEImageProcessor.from_model_config(config).save_pretrained(tmp_path / "runs" / "demo")
    Image.new("L", (40, 30), 200).save(tmp_path / "digit.png")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec((ROOT / "README.md").read_text().split("```python")[1].split("```")[0], names)
    assert names["features"].last_hidden_state.shape == (1, 65, 192)
    assert names["result"].images.shape == (1, 1, 32, 32)


def test_docstring_examples_run():
    code = (
        "import doctest, importlib, sys, torch\n"
        "failed = tried = 0\n"
        "for name in sys.argv[1:]:\n"
        "    module = importlib.import_module(f'hf_mae.{name}')\n"
        "    result = doctest.testmod(module, extraglobs={'torch': torch})\n"
        "    failed, tried = failed + result.failed, tried + result.attempted\n"
        "print(tried, 'tried')\n"
        "sys.exit(failed)"
    )
    modules = [dotted(path) for path in MODULES if path.stem != "__init__"]
    done = subprocess.run(
        [sys.executable, "-c", code, *modules], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.split()[-2]) > 15
