"""Shows a script's help at once, as importing what it works with takes seconds; starts it sooner.

The texts in help/ are what the scripts' own parsers say (`make help-texts`; a test compares them).
"""

import atexit
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


TEXTS = Path(__file__).with_name("help")
FLAGS = {"-h": "", "--help": "", "--help_all": "_all", "--help-all": "_all"}


def answer_help(script: str) -> None:
    """Prints the help that the command line asks for and ends; else returns, for imports to come.

    Garbage isn't collected until `start`: the objects that are imported would be looked through
    again and again.

    Args:
        script: The file that is run.
    """
    gc.disable()
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


def start(main: Callable[[], None]) -> None:
    """Runs a script's main function, once all is imported; garbage is looked for beside that."""
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)
    try:
        main()
    except SystemExit as end:
        if end.code and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            _leave(end.code)
        raise


def _leave(code: str | int) -> NoReturn:
    """Ends one process of several that has failed, at once.

    Threads that still wait for the other processes could abort it (status 134) while Python ends.
    """
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    atexit._run_exitfuncs()  # ends processes that load images, too
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
