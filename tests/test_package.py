"""What holds for the package as a whole."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT


# imports go only up this list; a module may import those before it
ORDER = [
    *("configuration_mae", "flops", "functional", "image_processing_mae", "optimization", "modeling_outputs", "zoo"),
    *("foreign_checkpoints", "layers", "modeling_mae", "modeling_classification", "decoding", "image_datasets"),
    *("transforms", "data", "streaming", "metrics", "inference", "training_arguments", "arguments", "checkpoints"),
    *("conversion", "proof", "export", "visualization", "cards", "training_cards", "zoo_cards", "hub", "benchmarks"),
    *("benchmark_input", "benchmark_peers", "benchmark_models", "benchmark_plan", "benchmark_quality", "nonfinite"),
    *("base_trainer", "trainer", "runs", "__init__"),
]
MODULES = sorted((ROOT / "hf_mae").glob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_go_one_way(path):
    allowed = ORDER[: ORDER.index(path.stem)]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            imported = [node.module] if node.module else [name.name for name in node.names]
            assert set(imported) <= set(allowed), f"{path.name} imports {imported}"
        if isinstance(node, (ast.Import, ast.ImportFrom)) and not getattr(node, "level", 0):
            names = [name.name for name in node.names] + [getattr(node, "module", None) or ""]
            assert not any(name.split(".")[0] == "hf_mae" for name in names), path.name


def test_files_and_functions_stay_short():
    for path in [*MODULES, *(ROOT / "scripts").glob("*.py"), *(ROOT / "tests").glob("*.py")]:
        text = path.read_text()
        assert text.count("\n") <= 400, path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno - node.lineno <= 60, f"{path.name}: {node.name}"


def test_the_model_imports_without_the_data_libraries():
    """For machines that only load a model."""
    code = (
        "import sys\n"
        "for name in ('datasets', 'evaluate', 'sklearn', 'matplotlib', 'tensorboard'): sys.modules[name] = None\n"
        "import torch, hf_mae\n"
        "print(hf_mae.MAEModel(hf_mae.MAEConfig.from_size('tiny'))(torch.rand(1, 3, 224, 224)).last_hidden_state.shape)"
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
    modules = [path.stem for path in MODULES if path.stem != "__init__"]
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.split()[-2]) > 15
