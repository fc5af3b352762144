# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The output folder of a run: the names of its files, and what they say."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load


RECIPE_FILE = "arguments.yaml"  # what repeats the run
CARD_FILE = "README.md"
FACTS_FILE = "card.json"  # what the card says
PROVENANCE_FILE = "conversion.json"  # where converted weights come from
PANEL_FILE = "reconstructions.png"
CURVES_FILE = "curves.png"
BAD_IMAGES_FILE = "bad_images.tsv"
STREAM_FILE = "stream.json"  # of a checkpoint


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


def append_new_lines(file: Path, lines: Iterable[str]) -> None:
    """Appends those lines that a file, which need not be there, doesn't have yet."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+", encoding="utf-8") as stream:
        stream.seek(0)
        known = set(stream)
        stream.writelines(line for line in lines if line not in known)
