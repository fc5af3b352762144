"""Writes scripts/help/: what the scripts' parsers say to --help, for scripts/early_help.py.

python scripts/make/write_help.py [FOLDER]
"""

import argparse
import contextlib
import io
import os
import runpy
import sys
from pathlib import Path


SCRIPTS = Path(__file__).parents[1]
COLUMNS = 100
COMMANDS = {"benchmark": ("input", "train", "infer", "memory", "gpu", "plan", "quality")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=SCRIPTS / "help",
        help="where the texts go (default: scripts/help)",
    )
    folder = parser.parse_args().folder
    folder.mkdir(exist_ok=True)
    for name, text in help_texts().items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")


def help_texts() -> dict[str, str]:
    """The help of all scripts: name of its file, without the ending → text."""
    sys.path.insert(0, str(SCRIPTS))  # as python does where a script is run
    texts = {}
    for path in sorted(SCRIPTS.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "answer_help(__file__)" not in source:
            continue
        texts[path.stem] = help_of(path, "--help")
        for command in COMMANDS.get(path.stem, ()):
            texts[f"{path.stem}_{command}"] = help_of(path, command, "--help")
        if "parse_recipe_and_flags" in source:
            texts[f"{path.stem}_all"] = help_of(path, "--help_all")
    return texts


def help_of(path: Path, *words: str) -> str:
    """What a script prints when its command line holds these words."""
    os.environ["COLUMNS"] = str(COLUMNS)  # argparse's width
    os.environ["NO_COLOR"] = "1"
    sys.argv = [str(path), *words]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        runpy.run_path(str(path))["main"]()
    return printed.getvalue()


if __name__ == "__main__":
    main()
