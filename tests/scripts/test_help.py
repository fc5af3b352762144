"""Every script says what it can be told."""

import re

import pytest
from helpers import ROOT, run_script


SCRIPTS = ROOT / "scripts"
FOUND = sorted([*SCRIPTS.glob("*.py"), *SCRIPTS.glob("make/*.py")])
COMMANDS = {"benchmark.py": ("input", "train", "infer", "plan", "quality")}
OF_TRAINING = ["--model_name_or_path", "--config_overrides", "--train_dir", "--on_bad_image"]
OF_TRAINING += ["--base_learning_rate", "--num_train_epochs", "--output_dir", "--bf16"]


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
def test_help(path):
    name = str(path.relative_to(SCRIPTS))
    shown = run_script(name, "--help")  # which asserts status 0
    assert shown.startswith(f"usage: {path.name}")
    assert "Traceback" not in shown
    for command in COMMANDS.get(name, ()):
        shown += run_script(name, command, "--help")
    source = path.read_text()
    flags = re.findall(r'add_argument\(\s*"(--\w+)"', source)
    if "parse_recipe_and_flags" in source:
        flags += OF_TRAINING
    for flag in flags:
        assert re.search(rf"{flag}\b", shown), flag


def test_all_scripts_are_found():
    assert {"run_mae.py", "publish.py", "write_cards.py"} <= {path.name for path in FOUND}
