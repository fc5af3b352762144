# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What a script is told: a YAML recipe, then flags that override it."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from ..models.near_names import nearest_names
from .command_line import OneLineParser
from .help import short_help, whole_help
from .other_words import hint


# what another run doesn't repeat, or must not be published with the model
_NOT_IN_RECIPE = ("output_dir", "resume_from_checkpoint", "allow_changed", "hub_token")

# script → the folder of its own recipes
_RECIPES_OF = {
    "run_mae": "pretrain",
    "run_finetune": "finetune",
    "run_linear_probe": "linear_probe",
}


class _OneOfEachKey(yaml.SafeLoader):
    """Reads YAML as `yaml.safe_load` does, but for a key that comes twice: that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} comes twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """Reads YAML.

    Raises:
        ValueError: it isn't YAML, or has a key twice.
    """
    try:
        return yaml.load(text, _OneOfEachKey)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


class _Parser(OneLineParser, HfArgumentParser):
    def __init__(self, dataclass_types: Any, **options: Any):
        super().__init__(dataclass_types, allow_abbrev=False, add_help=False, **options)
        for action in self._actions:
            if action.type is string_to_bool and action.nargs is None:  # --bf16 is --bf16 true
                action.nargs = "?"
                action.const = True
        for flags in (("-h", "--help"), ("--help_all", "--help-all")):
            self.add_argument(*flags, action=_HelpAction)

    def format_help(self) -> str:
        return short_help(self, self.dataclass_types)


class _HelpAction(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        whole = "--help_all" in self.option_strings
        text = whole_help(parser, parser.dataclass_types) if whole else parser.format_help()
        print(text, end="")
        parser.exit()


def parse_recipe_and_flags(
    dataclass_types: Sequence[type],
    argv: Sequence[str] | None = None,
    description: str = "",
) -> tuple[Any, ...]:
    """Reads `[RECIPE.yaml] [--flag value …]`; flags win over the recipe, wherever it stands.

    The recipe's keys are the flags' names. Exits with status 2 and one line on stderr if a name is
    unknown or a value impossible.

    Args:
        dataclass_types: What the arguments are for; together they say which names there are.
        argv: By default the command line.
        description: What the script does, for its help; of several lines the first counts.

    Returns:
        An instance of each dataclass, and a dict of all arguments that are explicit in recipe or
        flags: a recipe that repeats the run, for `save_recipe`.

    Example:

    >>> types = (ModelArguments, DataArguments, MAETrainingArguments)  # doctest: +SKIP
    >>> model_args, data_args, args, explicit_args = parse_recipe_and_flags(types)  # doctest: +SKIP
    """
    parser = _Parser(
        dataclass_types,
        description=description.partition("\n")[0],
        usage="%(prog)s [RECIPE.yaml] [--flag value …]",
    )
    recipe, flags = _take_recipe(sys.argv[1:] if argv is None else argv, parser)
    if recipe is not None:
        recipe_flags = _recipe_flags(Path(recipe), parser)
        flags = recipe_flags + _warmup_flags(recipe_flags, flags, parser) + flags
    namespace, unknown = parser.parse_known_args(flags)
    if unknown:
        parser.error(_describe_unknown(unknown, _argument_names(parser)))
    values = vars(namespace)
    explicit_names = _explicit_names(flags, parser)
    explicit_args = {name: value for name, value in values.items() if name in explicit_names}
    try:
        return *parser.parse_dict(values, allow_extra_keys=True), explicit_args
    except ValueError as error:
        parser.error(str(error))


def save_recipe(explicit_args: dict[str, Any], path: str | Path) -> None:
    """Writes a recipe that repeats a run to another output folder.

    Args:
        explicit_args: What `parse_recipe_and_flags` found in recipe and flags.
        path: YAML file.
    """
    recipe = {name: value for name, value in explicit_args.items() if name not in _NOT_IN_RECIPE}
    if "config_overrides" in recipe:
        recipe["config_overrides"] = read_yaml(recipe["config_overrides"])
    recipe = json.loads(json.dumps(recipe))  # what is chosen from a list as the text that it was
    Path(path).write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")


def _argument_names(parser: _Parser) -> set[str]:
    return {action.dest for action in parser._actions} - {argparse.SUPPRESS}


def _take_recipe(words: Sequence[str], parser: _Parser) -> tuple[str | None, list[str]]:
    """Takes the recipe from among the words of the command line, wherever it stands.

    Returns:
        The first word, if it is no flag, or one that no flag needs and that looks like a recipe,
        else None; and all others.
    """
    recipes, flags = [], []
    needed, takes_more = 0, False  # values of the flag before
    for place, word in enumerate(words):
        if word.startswith("--"):
            needed, takes_more = _values_of(word, parser)
        elif needed:
            needed -= 1
        elif (place == 0 and word[:1] != "-") or _looks_like_recipe(word, takes_more):
            recipes.append(word)
            continue
        flags.append(word)
    if len(recipes) > 1:
        parser.error(f"there are {len(recipes)} recipes, {' and '.join(recipes)}; give one")
    return (recipes[0] if recipes else None), flags


def _values_of(flag: str, parser: _Parser) -> tuple[int, bool]:
    """How many values a flag needs behind it, and whether it may take more."""
    action = parser._option_string_actions.get(flag)
    if action is None:
        return 0, "=" not in flag
    return 1 if action.nargs in (None, "+") else 0, action.nargs in ("+", "?")


def _looks_like_recipe(word: str, may_be_value: bool) -> bool:
    is_yaml = Path(word).suffix.lower() in (".yaml", ".yml")
    return is_yaml or (not may_be_value and Path(word).is_file())


def _describe_unknown(unknown: Sequence[str], names: Iterable[str]) -> str:
    """Names all words that nobody knows, and what was meant by each.

    Args:
        unknown: Flags, with their values behind them, and stray words.
        names: Of the arguments that there are.
    """
    flags: list[list[str]] = []
    for word in unknown:
        if word.startswith("-") or not flags:
            flags.append([word])
        else:
            flags[-1].append(word)
    hints = []
    for flag, *values in flags:
        meant = hint(flag, set(names), prefix="--") if flag.startswith("-") else ""
        hints.append(f"unknown argument {' '.join([flag, *values])!r}{meant}")
    return "; ".join(hints)


def _explicit_names(flags: Sequence[str], parser: _Parser) -> set[str]:
    """Names of the arguments that flags are of; `--no_bf16` is of `bf16`."""
    names = set()
    for flag in flags:
        action = parser._option_string_actions.get(flag.split("=")[0])
        if flag.startswith("--") and action is not None:
            names.add(action.dest)
    return names


def _recipe_flags(path: Path, parser: _Parser) -> list[str]:
    """Reads a recipe as the flags that say the same."""
    names = _argument_names(parser)
    flags = []
    recipe = _read_recipe(path, parser)
    unknown = [name for name in recipe if name not in names]
    if unknown:
        hints = [f"unknown key {name!r}{hint(str(name), names)}" for name in unknown]
        parser.error(f"{path}: {'; '.join(hints)}")
    for name, value in recipe.items():
        if value is None:
            continue
        if value is False and parser._option_string_actions[f"--{name}"].type is not string_to_bool:
            value = "no"  # what YAML took for a truth value is the name of a strategy
        action = parser._option_string_actions[f"--{name}"]
        if isinstance(value, list) and len(value) != 1 and action.nargs in (None, "?"):
            parser.error(f"{path}: {name} is {value}; it takes one value")
        flags.append(f"--{name}")
        for item in value if isinstance(value, list) else [value]:
            flags.append(item if isinstance(item, str) else _as_json(path, name, item, parser))
    return flags


def _warmup_flags(recipe_flags: Sequence[str], flags: Sequence[str], parser: _Parser) -> list[str]:
    """Keeps a recipe's share of warm-up where flags make its run longer or shorter."""
    ours = _explicit_names(flags, parser)
    theirs = _explicit_names(recipe_flags, parser)
    if "warmup_epochs" in ours or not ours & {"num_train_epochs", "max_steps"}:
        return []
    if not {"warmup_epochs", "num_train_epochs"} <= theirs:  # it says no share
        return []
    recipe, _ = parser.parse_known_args(recipe_flags)
    try:
        share = float(recipe.warmup_epochs) / recipe.num_train_epochs
    except (ValueError, ZeroDivisionError):  # a share already, or wrong, which is said later
        return []
    return ["--warmup_epochs", f"{100 * share:.4g}%"]


def _as_json(path: Path, name: str, value: Any, parser: _Parser) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # a date, bytes, a set, a loop
        parser.error(
            f"{path}: {name} is {value!r}, which YAML reads as {type(value).__name__}; quote it if "
            "it is text"
        )


def _read_recipe(path: Path, parser: _Parser) -> dict[Any, Any]:
    if not path.is_file():
        parser.error(f"no recipe {path}; {_describe_recipes(path)}")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        parser.error(f"{path} can't be read: {error.strerror}")
    except UnicodeDecodeError as error:
        parser.error(f"{path} is not UTF-8: {error}; save it as UTF-8")
    try:
        recipe = read_yaml(text)
    except ValueError as error:
        parser.error(f"{path} is not YAML: {error}")
    if not isinstance(recipe, dict):
        parser.error(
            f"{path} holds {type(recipe).__name__}; a recipe is a mapping of flags to values"
        )
    return recipe


def _describe_recipes(path: Path) -> str:
    """Says which recipes there are, those first whose names are nearest to that of `path`."""
    script = Path(sys.argv[0]).resolve()
    own = script.with_name("recipes") / _RECIPES_OF.get(script.stem, "")
    found = {}  # of one name, that of this script
    for folder in (own, script.with_name("recipes"), path.parent):
        below = "**/*.yaml" if script.with_name("recipes") in (folder, folder.parent) else "*.yaml"
        for other in sorted(folder.glob(below)):
            found.setdefault(other.stem, Path(os.path.relpath(other)))
    near = [str(found[name]) for name in nearest_names(path.stem, found, count=3)]
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there is {', '.join(map(str, found.values())) or 'none beside it'}"
