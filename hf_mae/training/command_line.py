# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Parsers of command lines that say in one line what is wrong, and what was meant."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from ..models.near_names import did_you_mean
from .other_words import hint


class OneLineParser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` that ends with status 2 and one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        line = " ".join(message.split())
        self.exit(2, f"{self.prog}: error: {line}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            allowed = [str(choice) for choice in action.choices]
            name = action.option_strings[0].lstrip("-") if action.option_strings else action.dest
            self.error(
                f"{name} is {str(value)!r}; it must be one of {', '.join(allowed)}"
                f"{did_you_mean(str(value), allowed)}"
            )


class CommandLine(OneLineParser):
    """The parser of scripts that take flags and names, and no recipe.

    Flags that it doesn't know are named first of all: what is missing is often what they mean.

    Example:

    >>> import contextlib, sys
    >>> parser = CommandLine(prog="predict.py")
    >>> _ = parser.add_argument("--model_name_or_path", required=True)
    >>> with contextlib.redirect_stderr(sys.stdout), contextlib.suppress(SystemExit):
    ...     parser.parse_args(["--weights", "runs/mine"])
    predict.py: error: unknown argument '--weights'; did you mean --model_name_or_path?
    """

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **{"allow_abbrev": False, **options})

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        words = sys.argv[1:] if args is None else list(args)
        self._refuse(self._unknown_flags(words))
        namespace, strays = super().parse_known_args(words, namespace)
        self._refuse(strays)
        return namespace, []

    def _unknown_flags(self, words: Iterable[str]) -> list[str]:
        """Flags that there aren't; behind a command its own parser looks for them."""
        unknown = []
        for word in words:
            if word == "--" or (self._subparsers and not word.startswith("-")):
                break
            is_flag = word[:1] == "-" and word != "-"
            if not is_flag or self._negative_number_matcher.match(word):
                continue
            if word.partition("=")[0] not in self._option_string_actions:
                unknown.append(word)
        return unknown

    def _refuse(self, unknown: Sequence[str]) -> None:
        """Ends if there is a word that nobody knows, and says what was meant by each."""
        flags, names = [], {}  # flags, and what is named without one → how the help writes it
        for action in self._actions:
            flags += [flag.lstrip("-") for flag in action.option_strings]
            if not action.option_strings and action.choices is None:
                names[action.dest] = action.metavar
        said = []
        for word in unknown:
            meant = hint(word, [*flags, *names], prefix="--") if word.startswith("-") else ""
            for name, place in names.items():
                if meant == f"; did you mean --{name}?":
                    meant = f"; {name} are named without a flag: {self.prog} {place} …"
            said.append(f"unknown argument {word!r}{meant}")
        if said:
            self.error("; ".join(said))
