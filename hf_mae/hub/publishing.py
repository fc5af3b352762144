# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Publishing on the Hub: a native folder that was checked, its card, and one commit."""

import contextlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from huggingface_hub import HfApi, ModelCard
from jinja2 import UndefinedError
from PIL import Image
from sklearn.datasets import load_sample_images
from transformers import pipeline

from ..conversion.from_others import check_published
from ..conversion.provenance import output_checksum, same_checksum
from ..conversion.to_transformers import Export, export
from ..conversion.zoo import PublishedModel, published_model
from ..errors import NETWORK_ERRORS
from ..models.loading import load_model
from ..models.model_files import PRETRAINING_FOLDER
from ..models.modeling_base import MAEPreTrainedModel
from ..models.modeling_classification import MAEForImageClassification
from ..models.pictures import to_8_bits, to_pixels
from ..output_folder import (
    CARD_FILE,
    FACTS_FILE,
    PANEL_FILE,
    PROVENANCE_FILE,
    RECIPE_FILE,
    OutputFolder,
)
from .cards import (
    EXAMPLE_FILE,
    Card,
    Example,
    PlainCard,
    TrainingCard,
    ZooCard,
    file_address,
    load_training_card,
)


# what a recipe says of files here → what takes its place in the command on a card
_PLACES = {
    "train_dir": "path/to/images",
    "validation_dir": "path/to/held_out",
    "dataset_name": "path/to/dataset",
    "model_name_or_path": "path/to/model",
    "config_name": "path/to/model",
}
NO_LICENSE = (
    "nobody has said under which licence this may be used; give --license (apache-2.0, mit, "
    "cc-by-4.0, …: the Hub's names). Weights that started from others' carry their terms: the MAE "
    "authors' are cc-by-nc-4.0"
)


@dataclass
class Publication:
    """What is about to be published.

    Attributes:
        folder: Where it lies, complete.
        card: Its card.
        exported: Its native classes, and how near they are to ours.
        license: The Hub's name of the licence, or None.
    """

    folder: Path
    card: ModelCard
    exported: Export
    license: str | None = None

    @property
    def files(self) -> dict[str, int]:
        """Name in the repository → size in bytes."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in paths}


def prepare(
    source: str | Path,
    repo_id: str,
    folder: str | Path,
    license: str | None = None,
    widget_images: Sequence[str | Path] = (),
    with_reconstructions: bool = False,
    as_: Literal["vit", "vit_mae"] | None = None,
    license_later: bool = False,
) -> Publication:
    """Makes the folder that is published: native model, processor, card, plots and recipe.

    Args:
        source: A folder that one of our scripts wrote.
        repo_id: Hub id of what it becomes.
        folder: Empty folder to write to.
        license: The Hub's name of the licence; else that of the published model, or the one that
            was stated in `source`.
        widget_images: Image files for a classifier's widget; published models have one of their
            own.
        with_reconstructions: Whether to show held-out images that the run drew; they may be nobody
            else's business.
        as_: Of a pre-training model, "vit" (the encoder) or "vit_mae" (encoder and decoder) alone;
            by default both.
        license_later: Whether it is enough that the licence is named when it is published.

    Raises:
        ValueError: there is no licence; or the model, or its native form, doesn't compute what it
            should.
        OSError: something is missing.
    """
    folder = Path(folder)
    written = OutputFolder.read(source)
    published = _find_published(written)
    license = _choose_license(written, published, license)
    if license is None and not license_later:
        raise ValueError(NO_LICENSE)
    model, processor = load_model(written.path)
    _check_model(model, written, published)
    if as_ and isinstance(model, MAEForImageClassification):
        raise ValueError(
            f"as is {as_!r}, which is for pre-training models, and {written.path} holds a "
            "classifier; leave it out"
        )
    exported = export(model, processor, folder, as_)
    hidden = () if with_reconstructions else (PANEL_FILE,)
    pictures = [name for name in written.pictures if name not in hidden]
    for name in pictures:
        shutil.copy(written.path / name, folder / name)
    if written.provenance and as_ != "vit":  # it says what the whole model computes
        shutil.copy(written.path / PROVENANCE_FILE, folder / PROVENANCE_FILE)
    examples = _make_examples(folder, repo_id, published, widget_images, exported.architecture)
    facts = {"folder": repo_id, "native": exported.architecture}
    facts |= {"native_pretraining": PRETRAINING_FOLDER in exported.architectures}
    facts |= {"license": license, "examples": examples}
    card = _make_card(written, published, model, facts)
    _write_public_recipe(written, card, folder)
    rendered = _render(card, written, pictures)
    rendered.save(folder / CARD_FILE)
    return Publication(folder, rendered, exported, license)


def _find_published(written: OutputFolder) -> PublishedModel | None:
    """The published model whose weights were converted, as their provenance says."""
    if not written.provenance or not written.provenance["name"]:
        return None
    return published_model(written.provenance["name"])


def _choose_license(
    written: OutputFolder, published: PublishedModel | None, given: str | None
) -> str | None:
    if published and published.url:
        if given and given != published.license:
            raise ValueError(
                f"license is {given!r}; {published.name} is published under {published.license}, "
                "and stays so: leave it out"
            )
        return published.license
    return given or written.stated_license()


def _check_model(
    model: MAEPreTrainedModel, written: OutputFolder, published: PublishedModel | None
) -> None:
    """Raises ValueError unless a converted model computes what its provenance says, and is of the
    size that its name says."""
    provenance = written.provenance
    if provenance and not same_checksum(provenance["outputs"], output_checksum(model)):
        raise ValueError(
            f"{written.path / PROVENANCE_FILE} says what the converted model computes, and this "
            "one computes something else: its weights were changed or damaged since; convert it "
            "again, or delete the file if you trained it further"
        )
    if published:
        check_published(model, published)


def _make_examples(
    folder: Path,
    repo_id: str,
    published: PublishedModel | None,
    images: Sequence[str | Path],
    architecture: str,
) -> list[Example]:
    """Copies the pictures of the widget into the folder, and asks the native model of each."""
    if not architecture.endswith("ForImageClassification"):
        if images:
            raise ValueError(
                "widget images are for classifiers; the Hub has no widget for features"
            )
        return []
    if not images and not published:
        return []
    target = folder / "examples"
    target.mkdir()
    shown = [_copy_pixels(Path(image), target) for image in images]
    if not shown:
        shown = [target / EXAMPLE_FILE]
        Image.fromarray(load_sample_images().images[0]).save(shown[0])
    classify = pipeline("image-classification", model=str(folder))
    examples = []
    for path in shown:
        with Image.open(path) as picture:
            found = classify(picture, top_k=5)
        output = [{"label": guess["label"], "score": round(guess["score"], 4)} for guess in found]
        src = file_address(repo_id, f"examples/{path.name}")
        title = "temple" if path.name == EXAMPLE_FILE else path.stem
        examples.append(Example(src=src, title=title, output=output))
    return examples


def _copy_pixels(image: Path, folder: Path) -> Path:
    """Writes an image's pixels, upright, and nothing else.

    A photograph's file also says where and when it was taken.
    """
    path = folder / f"{image.stem}.png"
    if path.exists():
        raise ValueError(f"two widget images are called {image.stem}; give them different names")
    with Image.open(image) as picture:
        Image.fromarray(to_8_bits(to_pixels(picture, num_channels=3))).save(path)
    return path


def _make_card(
    written: OutputFolder,
    published: PublishedModel | None,
    model: MAEPreTrainedModel,
    facts: dict[str, Any],
) -> Card:
    """The card of a published model, of a trained one, or of any other."""
    provenance = written.provenance
    if published and provenance:
        # upstream's figures belong to its file, whose digest was checked; under a name without a
        # file come any weights
        return ZooCard.of(
            published,
            **facts,
            source_sha256=provenance["source_sha256"],
            weights_are_upstreams=published.digest is not None,
        )
    trained = load_training_card(written, model.config, **facts)
    if trained:
        trained.command = _public_command(trained, written)
        return trained
    origin = None
    if provenance:
        origin = (
            f"Converted from `{provenance['source_file']}` ({provenance['source_format']}, SHA-256 "
            f"{provenance['source_sha256']})."
        )
    return PlainCard(config=model.config, class_name=type(model).__name__, source=origin, **facts)


def _public_command(card: TrainingCard, written: OutputFolder) -> str:
    """What repeats the run from the published recipe, in which the way to files is left out."""
    (script,) = re.findall(r"scripts/\S+\.py", card.command)[:1] or ["scripts/run_mae.py"]
    lines = [
        f"hf download {card.folder} {RECIPE_FILE} --local-dir .",
        f"accelerate launch {script} {RECIPE_FILE} --output_dir runs/again",
    ]
    hub_ids = [card.hub_dataset, card.base_model, "digits"]
    for name, place in _PLACES.items():
        value = (written.recipe or {}).get(name)
        if value and value not in hub_ids:
            lines[-1] += f" \\\n    --{name} {place}"
    return "\n".join(lines)


def _write_public_recipe(written: OutputFolder, card: Card, folder: Path) -> None:
    """Writes the recipe of a run without tokens, and without the way to files.

    That way is nobody else's business.
    """
    if written.recipe is None:
        return
    kept = {name: value for name, value in written.recipe.items() if "token" not in name}
    # anything else with a slash is a way to something here
    hub_ids = [card.hub_dataset, card.base_model] if isinstance(card, TrainingCard) else []
    public = _without_folders(kept, hub_ids)
    (folder / RECIPE_FILE).write_text(yaml.safe_dump(public, sort_keys=False), encoding="utf-8")


def _without_folders(value: Any, hub_ids: list[str | None]) -> Any:
    if isinstance(value, dict):
        return {name: _without_folders(part, hub_ids) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_folders(part, hub_ids) for part in value]
    if not isinstance(value, str) or value in hub_ids:
        return value
    if value.lstrip().startswith(("{", "[")):
        with contextlib.suppress(yaml.YAMLError):
            return _without_folders(yaml.safe_load(value), hub_ids)
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1]


def _render(card: Card, written: OutputFolder, pictures: list[str]) -> ModelCard:
    """Writes the card, with the pictures that are published."""
    if not isinstance(card, TrainingCard):
        return card.render()
    try:
        card.pictures = [name for name in card.pictures if name in pictures]
        return card.render()
    except (TypeError, LookupError, AttributeError, ValueError, UndefinedError) as error:
        raise ValueError(
            f"{written.path / FACTS_FILE} is damaged: no card can be made of it ({error})"
        ) from error


def upload(publication: Publication, repo_id: str, public: bool = False) -> str:
    """Puts it on the Hub in one commit, as a private repository unless `public`.

    Returns:
        Address of the repository.

    Raises:
        ValueError: the repository is there, public, and `public` wasn't asked for; the Hub doesn't
            know the licence, or finds something else wrong with the card.
        ConnectionError: the Hub refuses, or can't be reached.
    """
    try:
        return _commit(publication, repo_id, public)
    except NETWORK_ERRORS as error:
        raise ConnectionError(f"{error}; nothing is lost: the same command tries again") from error


def _commit(publication: Publication, repo_id: str, public: bool) -> str:
    publication.card.validate()
    api = HfApi()
    api.create_repo(repo_id, private=not public, exist_ok=True)
    is_private = api.model_info(repo_id).private
    if not is_private and not public:
        raise ValueError(
            f"{repo_id} is there already, and public: what is uploaded, everybody sees; say so by "
            "--public"
        )
    commit = api.upload_folder(
        repo_id=repo_id,
        folder_path=publication.folder,
        commit_message=f"{', '.join(publication.exported.architectures.values())}, with its card",
        delete_patterns="*",  # what an earlier upload left would be loaded, or shown, beside it
    )
    if is_private and public:
        api.update_repo_settings(repo_id, private=False)
    return str(commit.repo_url)


def missing_base_model(card: ModelCard) -> str | None:
    """What a card says that the model was trained from, if the Hub doesn't have it."""
    base_model = card.data.to_dict().get("base_model")
    if not base_model:
        return None
    try:
        return None if HfApi().repo_exists(base_model) else base_model
    except NETWORK_ERRORS:
        return None  # nobody knows
