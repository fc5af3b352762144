# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The output folder of a run: the names of its files, what they say, where to go on from."""

import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import metadata_load


if TYPE_CHECKING:  # takes seconds to import
    from transformers import TrainingArguments


RECIPE_FILE = "arguments.yaml"  # what repeats the run
CARD_FILE = "README.md"
FACTS_FILE = "card.json"  # what the card says
PROVENANCE_FILE = "conversion.json"  # where converted weights come from
PANEL_FILE = "reconstructions.png"
CURVES_FILE = "curves.png"
BAD_IMAGES_FILE = "bad_images.tsv"
STREAM_FILE = "stream.json"  # of a checkpoint
BALANCE_FILE = "class_balance.json"  # of a checkpoint, where classes are weighted or sampled


@dataclass(frozen=True, kw_only=True)
class OutputFolder:
    """What the files beside a model say: plain data, read once.

    Attributes:
        path: The folder.
        provenance: Of converted weights; None for others.
        card_facts: What a training script kept for the card; None if none wrote the folder.
        recipe: The arguments of the run; None if there are none.
        pictures: Those of `CURVES_FILE` and `PANEL_FILE` that are there.
    """

    path: Path
    provenance: dict[str, Any] | None
    card_facts: dict[str, Any] | None
    recipe: dict[str, Any] | None
    pictures: tuple[str, ...]

    @classmethod
    def read(cls, path: str | Path) -> "OutputFolder":
        """Reads a folder that one of our scripts wrote.

        Raises:
            ValueError: there is no such folder, or a file in it is damaged.

        Example:

        >>> import tempfile
        >>> OutputFolder.read(tempfile.mkdtemp()).pictures
        ()
        """
        path = Path(path)
        if not path.is_dir():
            raise ValueError(f"model_name_or_path {path} is no folder here")
        pictures = [name for name in (CURVES_FILE, PANEL_FILE) if (path / name).is_file()]
        return cls(
            path=path,
            provenance=_read_provenance(path / PROVENANCE_FILE),
            card_facts=_read_card_facts(path / FACTS_FILE),
            recipe=_read_recipe(path / RECIPE_FILE),
            pictures=tuple(pictures),
        )

    def stated_license(self) -> str | None:
        """The Hub's name of the licence that somebody stated in the folder, or None.

        That is card.json's, else the one in the metadata of README.md: no script of ours writes a
        licence there, so that it is what the user wrote. README.md is read only when this asks, so
        that a damaged one harms nobody who knows the licence.

        Raises:
            ValueError: the metadata of README.md can't be read.
        """
        facts = self.card_facts or {}
        if facts.get("license"):
            return facts["license"]
        readme = self.path / CARD_FILE
        if not readme.is_file():
            return None
        try:
            metadata = metadata_load(readme) or {}
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(
                f"{readme} has metadata that can't be read; mend it, or give --license: {error}"
            ) from error
        return metadata.get("license")


def _read_provenance(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    damaged = (
        f"{path} is damaged; convert the model again, or delete the file if you trained it further"
    )
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{damaged} ({error})") from error
    wanted = ("name", "source_file", "source_format", "source_sha256", "outputs")
    missing = [name for name in wanted if not isinstance(facts, dict) or name not in facts]
    if missing:
        raise ValueError(f"{damaged} (it lacks {', '.join(missing)})")
    return facts


def _read_card_facts(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(facts, dict):
            raise ValueError(f"it holds a {type(facts).__name__}, no mapping")
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged; without it the card says less, so delete it to go on ({error})"
        ) from error
    return facts


def _read_recipe(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(recipe, dict) or not all(isinstance(name, str) for name in recipe):
            raise ValueError("it must be a mapping of names")
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(
            f"{path} is no recipe; mend it, or delete it to go on ({error})"
        ) from error
    return recipe


def find_checkpoint(output_dir: str | Path) -> Path | None:
    """Finds the newest whole checkpoint in a folder.

    Those that a killed run left half written are passed over.
    """
    numbered = []
    for path in Path(output_dir).glob("checkpoint-*"):
        number = path.name.split("-")[1]
        if number.isdecimal():
            numbered.append((int(number), path))
    for _, path in sorted(numbered, reverse=True):
        if is_whole_checkpoint(path):
            return path
    return None


def is_whole_checkpoint(folder: str | Path) -> bool:
    """Whether a checkpoint was written to its end.

    The Trainer writes `trainer_state.json` last.
    """
    folder = Path(folder)
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    states = [*folder.glob("*.pt"), *folder.glob("*.pth")]
    return bool(states) and all(map(zipfile.is_zipfile, states))


def resume_point(args: "TrainingArguments") -> str | None:
    """Finds the checkpoint that `--resume_from_checkpoint` (a folder, or "last") means.

    Returns:
        The folder, or None for a fresh start.

    Raises:
        ValueError: the folder holds no whole checkpoint; or nothing is to be resumed and the output
            folder holds some.
    """
    wanted = args.resume_from_checkpoint
    newest = find_checkpoint(str(args.output_dir))
    if wanted is None and newest is not None:
        raise ValueError(
            f"output_dir {args.output_dir} already holds {newest.name}; go on by "
            "--resume_from_checkpoint last, or name another folder"
        )
    if wanted in (None, "last"):
        return str(newest) if newest else None
    if not is_whole_checkpoint(wanted):
        raise ValueError(
            f"resume_from_checkpoint {wanted} is not a whole checkpoint (and not the word 'last')"
        )
    return str(wanted)


def append_new_lines(file: Path, lines: Iterable[str]) -> None:
    """Appends those lines that a file, which need not be there, doesn't have yet."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+", encoding="utf-8") as stream:
        stream.seek(0)
        known = set(stream)
        stream.writelines(line for line in lines if line not in known)
