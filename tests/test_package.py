"""What holds for the package as a whole."""

import ast
import graphlib
import importlib.metadata
import inspect
import os
import subprocess
import sys

import pytest
from helpers import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hf_mae


# the house, from the ground up; a room imports from itself and from what stands below it
GROUND = (
    "checkpoints",
    "errors",
    "file_names",
    "free_memory",
    "output_folder",
    "versions",
    "whole_files",
    "whole_numbers",
)
ROOMS = ("models", "data", "inference", "conversion", "hub", "training")
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
    """For machines that only load a model; it loads nothing that transformers' own wouldn't."""
    code = (
        "import sys\n"
        "for name in ('datasets', 'evaluate', 'sklearn', 'matplotlib', 'tensorboard', 'timm'): "
        "sys.modules[name] = None\n"
        "import torch, transformers\n"
        "from transformers import AutoModelForImageClassification, AutoModelForPreTraining\n"
        "from transformers import ViTImageProcessor, ViTImageProcessorPil, ViTMAEForPreTraining\n"
        "before = {name.split('.')[0] for name in sys.modules}\n"
        "import hf_mae\n"
        "print(hf_mae.MAEModel(hf_mae.MAEConfig.from_size('tiny'))(torch.rand(1, 3, 224, "
        "224)).last_hidden_state.shape)\n"
        "after = {name.split('.')[0] for name in sys.modules}\n"
        "print('new:', sorted(after - before - set(sys.stdlib_module_names)))\n"
        "print(hf_mae.load_model)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "[1, 197, 192]" in done.stdout, done.stderr
    assert "new: ['hf_mae']" in done.stdout
    assert "function load_model" in done.stdout, done.stderr


def test_public_names():
    assert hf_mae.__all__ == sorted(hf_mae.__all__)
    for name in hf_mae.__all__:
        value = getattr(hf_mae, name)
        assert value.__name__ == name
        assert value.__module__.startswith("hf_mae.")
        assert inspect.getdoc(value), name
        assert name in dir(hf_mae)
    with pytest.raises(AttributeError, match="has no attribute 'MAEForNothing'"):
        _ = hf_mae.MAEForNothing


def test_public_names_are_told_to_type_checkers():
    """What is imported lazily stands in a block for them too: the same names, the same modules."""
    tree = ast.parse((ROOT / "hf_mae" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    told = {}
    for statement in block.body:
        for alias in statement.names:
            told[alias.name] = f".{statement.module}"
    assert told == hf_mae._LAZY
    assert set(told) < set(hf_mae.__all__)


def test_dependencies_are_declared():
    """Every distribution that the package imports from stands in setup.py; in an extra only, what
    few need."""
    declared = set()
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())):
        if isinstance(node, ast.keyword) and node.arg == "install_requires":
            lines = [ast.literal_eval(line) for line in node.value.elts]
            declared = {canonicalize_name(Requirement(line).name) for line in lines}
    optional = {"faiss", "nvidia", "onnxruntime", "onnxscript"}
    distributions = importlib.metadata.packages_distributions()
    imported = set()
    for path in MODULES:
        imported |= third_party_modules(path)
    assert {"torch", "transformers", "numpy"} < imported
    undeclared = {
        module
        for module in imported - optional
        if not declared & {canonicalize_name(name) for name in distributions[module]}
    }
    assert not undeclared


def third_party_modules(path):
    """Top-level names of what a file imports from outside."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
    return names - set(sys.stdlib_module_names)


def test_public_signatures_are_annotated():
    missing = []
    for path in MODULES:
        for name, function in public_functions(ast.parse(path.read_text())):
            if unannotated(function):
                missing.append(f"{path.relative_to(ROOT)}: {name}")
    assert not missing, "\n".join(missing)


def public_functions(tree):
    """(name, node) of a module's functions and of its classes' methods, but for the private."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and is_public(node.name):
            yield node.name, node
        if isinstance(node, ast.ClassDef) and is_public(node.name):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and is_public(method.name):
                    yield f"{node.name}.{method.name}", method


def is_public(name):
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


def unannotated(function):
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [extra for extra in (arguments.vararg, arguments.kwarg) if extra]
    if every and every[0].arg in ("self", "cls"):
        every = every[1:]
    returns = function.returns is not None or function.name == "__init__"
    return not returns or any(argument.annotation is None for argument in every)


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def test_statements_read_straight_down():
    """At most one comprehension in a statement; no text or list times a condition."""
    found = []
    for path in [*MODULES, *(ROOT / "scripts").rglob("*.py")]:
        for statement in ast.walk(ast.parse(path.read_text())):
            if isinstance(statement, ast.stmt):
                parts = list(own_expressions(statement))
                comprehensions = sum(isinstance(part, COMPREHENSIONS) for part in parts)
                if comprehensions > 1 or any(map(is_repeated_literal, parts)):
                    found.append(f"{path.relative_to(ROOT)}:{statement.lineno}")
    assert not found, "\n".join(found)


def own_expressions(node):
    """The expressions of a statement, without those of statements in it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.stmt):
            yield child
            yield from own_expressions(child)


def is_repeated_literal(node):
    """Whether it is a text, list or tuple times anything but a number or a count."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)):
        return False
    sides = (node.left, node.right)
    counts = [ast.unparse(side).startswith(("len(", "num_")) for side in sides]
    numbers = [isinstance(side, ast.Constant) and isinstance(side.value, int) for side in sides]
    texts = [isinstance(side, ast.Constant) and isinstance(side.value, str) for side in sides]
    literals = [isinstance(side, (ast.JoinedStr, ast.List, ast.Tuple)) for side in sides]
    return (any(texts) or any(literals)) and not (any(numbers) or any(counts))


def test_pre_commit_runs_the_pinned_ruff():
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    (pin,) = [line for line in pins if line.startswith("ruff==")]
    assert f"rev: v{pin.removeprefix('ruff==')}\n" in (ROOT / ".pre-commit-config.yaml").read_text()


def test_docstring_examples_run():
    """The package's, and those of the benchmarks, which lie beside the scripts."""
    code = (
        "import doctest, importlib, sys, torch\n"
        "failed = tried = 0\n"
        "for name in sys.argv[1:]:\n"
        "    module = importlib.import_module(name)\n"
        "    result = doctest.testmod(module, extraglobs={'torch': torch})\n"
        "    failed, tried = failed + result.failed, tried + result.attempted\n"
        "print(tried, 'tried')\n"
        "sys.exit(failed)"
    )
    modules = [f"hf_mae.{dotted(path)}" for path in MODULES if path.stem != "__init__"]
    modules += ["hf_mae", "benchmarks.timing", "benchmarks.plan"]
    search = os.pathsep.join([str(ROOT), str(ROOT / "scripts")])
    done = subprocess.run(
        [sys.executable, "-c", code, *modules],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": search},
    )
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.split()[-2]) > 15
