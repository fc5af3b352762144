"""Shows a script's help at once: importing what it works with would take seconds.

The texts in help/ are what the scripts' own parsers say (`make help-texts`; a test compares them).
"""

import sys
from pathlib import Path


TEXTS = Path(__file__).with_name("help")
FLAGS = {"-h": "", "--help": "", "--help_all": "_all", "--help-all": "_all"}


def answer_help(script: str) -> None:
    """Prints the help that the command line asks for and ends; else returns.

    Args:
        script: The file that is run.
    """
    words = sys.argv[1:]
    if "--" in words:
        words = words[: words.index("--")]
    asked = [FLAGS[word] for word in words if word in FLAGS]
    if not asked:
        return
    name = Path(script).stem
    for text in (f"{name}_{words[0]}", f"{name}{asked[0]}"):  # of a command, of the script
        path = TEXTS / f"{text}.txt"
        if path.is_file():
            print(path.read_text(encoding="utf-8"), end="")
            sys.exit()
