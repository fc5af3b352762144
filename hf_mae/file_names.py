# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""File names that aren't UTF-8, as archives from elsewhere leave them, in text and back."""

import io
import os
import re
import sys


_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


def printable(name: str | os.PathLike) -> str:
    """Spells a file name in UTF-8: bytes that aren't, as `\\xe9`.

    Example:

    >>> print(printable(os.fsdecode(b"caf\\xe9.png")))
    caf\\xe9.png
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def find_file(text: str) -> str:
    """Finds the file that `printable` spelt: the name as it stands if there is such a file.

    Example:

    >>> find_file("no/such.png")
    'no/such.png'
    """
    if "\\x" not in text or os.path.exists(text):
        return text
    name = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), os.fsencode(text))
    return os.fsdecode(name)


def one_line(text: str) -> str:
    """Spells what would end a line or move the cursor, in a name, as `\\n` or `\\x1b`.

    Example:

    >>> one_line("new\\nline.png")
    'new\\\\nline.png'
    """
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def print_any_name() -> None:
    """Has standard output write by escapes what its encoding lacks, rather than stop."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
