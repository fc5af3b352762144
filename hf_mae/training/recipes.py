# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What a script is told: a YAML recipe, then flags that override it."""

import difflib
import json
import sys
from pathlib import Path

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool


class _Parser(HfArgumentParser):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for action in self._actions:
            if action.type is string_to_bool and action.nargs is None:  # --bf16 is --bf16 true
                action.nargs, action.const = "?", True

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")


def parse_recipe_and_flags(dataclass_types, argv=None):
    """Reads `[RECIPE.yaml] [--flag value …]`: the recipe's keys are the flags' names, and flags
    win.

    Args:
        dataclass_types: What the arguments are for; together they say which names there are.
        argv: By default the command line.

    Returns:
        An instance of each dataclass, and a dict of everything that was given (a recipe that
        repeats the run).

    Exits with status 2 and one line on stderr if a name is unknown or a value impossible.
    """
    parser = _Parser(
        dataclass_types, allow_abbrev=False, usage="%(prog)s [RECIPE.yaml] [--flag value …]"
    )
    argv = list(sys.argv[1:] if argv is None else argv)
    recipe = argv.pop(0) if argv and not argv[0].startswith("-") else None
    names = {action.dest for action in parser._actions}
    flags = (_recipe_flags(Path(recipe), names, parser) if recipe else []) + argv
    namespace, unknown = parser.parse_known_args(flags)
    if unknown:
        name = unknown[0].lstrip("-").split("=")[0]
        parser.error(f"unknown argument {unknown[0]!r}{_nearest(name, names, '--')}")
    options = (
        parser._option_string_actions.get(flag.split("=")[0])
        for flag in flags
        if flag.startswith("--")
    )
    named = {option.dest for option in options if option}
    given = {name: value for name, value in vars(namespace).items() if name in named}
    try:
        return *parser.parse_dict(vars(namespace), allow_extra_keys=True), given
    except ValueError as error:
        parser.error(str(error))


def save_recipe(given, path):
    """Writes what `parse_recipe_and_flags` was given as a recipe that repeats the run, to another
    output folder."""
    left_out = (
        "output_dir",
        "resume_from_checkpoint",
        "hub_token",
    )  # the recipe is published with the model
    recipe = {name: value for name, value in given.items() if name not in left_out}
    if "config_overrides" in recipe:
        recipe["config_overrides"] = yaml.safe_load(recipe["config_overrides"])
    Path(path).write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")


def _recipe_flags(path, names, parser):
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        parser.error(f"no recipe {path}; in {path.parent} there is {', '.join(there) or 'none'}")
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        parser.error(f"{path} is not YAML: {error}")
    if not isinstance(recipe, dict):
        parser.error(
            f"{path} holds {type(recipe).__name__}; a recipe is a mapping of flags to values"
        )
    flags = []
    for name, value in recipe.items():
        if name not in names:
            parser.error(f"{path}: unknown key {name!r}{_nearest(str(name), names, '')}")
        if value is None:
            continue
        if value is False and parser._option_string_actions[f"--{name}"].type is not string_to_bool:
            value = "no"  # what YAML took for a truth value is the name of a strategy
        values = value if isinstance(value, list) else [value]
        flags += [
            f"--{name}",
            *(item if isinstance(item, str) else json.dumps(item) for item in values),
        ]
    return flags


def _nearest(name, names, prefix):
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {prefix}{near[0]}?" if near else ""
