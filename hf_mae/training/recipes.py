# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What a script is told: a YAML recipe, then flags that override it."""

import difflib
import json
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool


# what another run doesn't repeat, or must not be published with the model
_NOT_IN_RECIPE = ("output_dir", "resume_from_checkpoint", "allow_changed", "hub_token")


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


class _Parser(HfArgumentParser):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for action in self._actions:
            if action.type is string_to_bool and action.nargs is None:  # --bf16 is --bf16 true
                action.nargs = "?"
                action.const = True

    def error(self, message: str) -> NoReturn:
        line = " ".join(message.split())
        self.exit(2, f"{self.prog}: error: {line}\n")
        raise AssertionError("exit returned")


def parse_recipe_and_flags(
    dataclass_types: Sequence[type], argv: Sequence[str] | None = None
) -> tuple[Any, ...]:
    """Reads `[RECIPE.yaml] [--flag value …]`; flags win over the recipe.

    The recipe's keys are the flags' names. Exits with status 2 and one line on stderr if a name is
    unknown or a value impossible.

    Args:
        dataclass_types: What the arguments are for; together they say which names there are.
        argv: By default the command line.

    Returns:
        An instance of each dataclass, and a dict of all arguments that are explicit in recipe or
        flags: a recipe that repeats the run, for `save_recipe`.

    Example:

    >>> types = (ModelArguments, DataArguments, MAETrainingArguments)  # doctest: +SKIP
    >>> model_args, data_args, args, explicit_args = parse_recipe_and_flags(types)  # doctest: +SKIP
    """
    parser = _Parser(
        dataclass_types, allow_abbrev=False, usage="%(prog)s [RECIPE.yaml] [--flag value …]"
    )
    flags = list(sys.argv[1:] if argv is None else argv)
    if flags and not flags[0].startswith("-"):
        recipe = flags.pop(0)
        recipe_flags = _recipe_flags(Path(recipe), parser)
        flags = recipe_flags + _warmup_flags(recipe_flags, flags, parser) + flags
    namespace, unknown = parser.parse_known_args(flags)
    if unknown:
        name = unknown[0].lstrip("-").split("=")[0]
        hint = _did_you_mean(name, _argument_names(parser), prefix="--")
        parser.error(f"unknown argument {unknown[0]!r}{hint}")
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
    return {action.dest for action in parser._actions}


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
    for name, value in _read_recipe(path, parser).items():
        if name not in names:
            hint = _did_you_mean(str(name), names, prefix="")
            parser.error(f"{path}: unknown key {name!r}{hint}")
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
    if "warmup_epochs" in ours or not ours & {"num_train_epochs", "max_steps"}:
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
        others = sorted(other.name for other in path.parent.glob("*.yaml"))
        parser.error(f"no recipe {path}; in {path.parent} there is {', '.join(others) or 'none'}")
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


def _did_you_mean(name: str, names: Collection[str], prefix: str) -> str:
    """Hints at the name that is nearest; empty if none is near."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {prefix}{near[0]}?" if near else ""
