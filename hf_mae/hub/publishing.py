# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Publishing on the Hub: a native folder that was checked, its card, and one commit."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from sklearn.datasets import load_sample_images
from transformers import pipeline

from ..conversion.from_others import check_published
from ..conversion.provenance import load_provenance, output_checksum, same_checksum
from ..conversion.to_transformers import export
from ..conversion.zoo import published_model
from ..errors import NETWORK_ERRORS
from ..models.image_processing_mae import image_to_array
from ..models.loading import load_model
from ..output_folder import CURVES_FILE, FACTS_FILE, PANEL_FILE, PROVENANCE_FILE, RECIPE_FILE
from .cards import Example, PlainCard
from .training_cards import TrainingCard, load_training_card
from .zoo_cards import EXAMPLE, ZooCard


@dataclass
class Publication:
    """What is about to be published.

    Attributes:
        folder: Where it lies, complete.
        card: Its `huggingface_hub.ModelCard`.
        architecture: The native class.
        differences: Output → greatest difference of the native model from ours.
    """

    folder: Path
    card: ModelCard
    architecture: str
    differences: dict

    @property
    def files(self):
        """Name in the repository → size in bytes."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in paths}


def prepare(source, repo_id, folder, license=None, widget_images=(), with_reconstructions=False):
    """Makes the folder that is published: native model, processor, card, plots and recipe.

    Args:
        source: A folder that one of our scripts wrote.
        repo_id: Hub id of what it becomes.
        folder: Empty folder to write to.
        license: Hub's name of the licence; else that of the published model or of the card in
            `source`.
        widget_images: Image files for a classifier's widget; published models have one of their
            own.
        with_reconstructions: Whether to show held-out images that the run drew; they may be nobody
            else's business.

    Returns:
        `Publication`

    Raises:
        ValueError: there is no licence; or the model, or its native form, doesn't compute what it
            should.
        OSError: something is missing.
    """
    source, folder = Path(source), Path(folder)
    if not source.is_dir():
        raise ValueError(f"model_name_or_path {source} is no folder here")
    provenance = load_provenance(source)
    published = published_model(provenance["name"]) if provenance.get("name") else None
    license = _license_of(source, published, license)
    model, processor = load_model(source)
    if provenance and not same_checksum(provenance["outputs"], output_checksum(model)):
        raise ValueError(
            f"{source / PROVENANCE_FILE} says what the converted model computes, and this one computes "
            "something else: its "
            "weights were changed or damaged since; convert it again, or delete the file if you "
            "trained it further"
        )
    if published:
        check_published(model, published)
    result = export(model, processor, folder)
    architecture = result.pop("architecture")
    for name in (PROVENANCE_FILE, CURVES_FILE, *[PANEL_FILE] * with_reconstructions):
        if (source / name).is_file():
            shutil.copy(source / name, folder / name)
    examples = _examples(folder, repo_id, published, widget_images, architecture)
    facts = {"folder": repo_id, "native": architecture, "license": license, "examples": examples}
    card = _card(source, model, published, provenance, facts)
    if (source / RECIPE_FILE).is_file():
        (folder / RECIPE_FILE).write_text(
            _public_recipe(source / RECIPE_FILE, card), encoding="utf-8"
        )
    card = (
        _render_training_card(card, source, folder)
        if isinstance(card, TrainingCard)
        else card.render()
    )
    card.save(folder / "README.md")
    return Publication(folder, card, architecture, result)


def _render_training_card(card, source, folder):
    """With the pictures that are published."""
    try:
        card.pictures = [name for name in card.pictures if (folder / name).is_file()]
        return card.render()
    except (TypeError, LookupError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{source / FACTS_FILE} is damaged: no card can be made of it ({error})"
        ) from error


def _public_recipe(path, card):
    """The recipe of a run, without tokens, and without the way to files: that is nobody else's
    business."""
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        kept = {name: value for name, value in recipe.items() if "token" not in name}
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no recipe; mend it, or delete it to go on ({error})"
        ) from error
    # anything else with a slash is a way to something here
    hub_ids = [card.hub_dataset, card.base_model] if isinstance(card, TrainingCard) else []
    return yaml.safe_dump(
        {name: _without_folders(value, hub_ids) for name, value in kept.items()}, sort_keys=False
    )


def _without_folders(value, hub_ids):
    if isinstance(value, dict):
        return {name: _without_folders(part, hub_ids) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_folders(part, hub_ids) for part in value]
    if not isinstance(value, str) or value in hub_ids:
        return value
    if value.lstrip().startswith(("{", "[")):
        return _without_folders(yaml.safe_load(value), hub_ids)
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1]


def _license_of(source, published, given):
    if published and published.url:
        if given and given != published.license:
            raise ValueError(
                f"license is {given!r}; {published.name} is published under {published.license}, "
                "and stays so: leave it out"
            )
        return published.license
    readme = source / "README.md"
    try:
        license = given or (readme.is_file() and ModelCard.load(readme).data.license)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f"{readme} has metadata that can't be read; mend it, or give --license: {error}"
        ) from error
    if not license:
        raise ValueError(
            "nobody has said under which licence this may be used; give --license (apache-2.0, "
            "mit, cc-by-4.0, …: the Hub's "
            "names). Weights that started from others' carry their terms: the MAE authors' are "
            "cc-by-nc-4.0"
        )
    return license


def _examples(folder, repo_id, published, images, architecture):
    """Copies the pictures of the widget into the folder, and asks the native model."""
    if not architecture.endswith("ForImageClassification"):
        if images:
            raise ValueError(
                "widget images are for classifiers; the Hub has no widget for features"
            )
        return []
    target = folder / "examples"
    if published and not images:
        target.mkdir()
        Image.fromarray(load_sample_images().images[0]).save(target / EXAMPLE)
        images = [target / EXAMPLE]
    classify = pipeline("image-classification", model=str(folder)) if images else None
    examples = []
    for image in map(Path, images):
        target.mkdir(exist_ok=True)
        shown = image if image.parent == target else _copy_of_pixels(image, target)
        with Image.open(shown) as picture:
            found = classify(picture, top_k=5)
        output = [{"label": guess["label"], "score": round(guess["score"], 4)} for guess in found]
        src = f"https://huggingface.co/{repo_id}/resolve/main/examples/{shown.name}"
        examples.append(
            Example(src=src, title="temple" if shown.name == EXAMPLE else shown.stem, output=output)
        )
    return examples


def _copy_of_pixels(image, folder):
    """Writes an image's pixels, upright, and nothing else: a photograph's file also says where and
    when it was taken."""
    path = folder / f"{image.stem}.png"
    if path.exists():
        raise ValueError(f"two widget images are called {image.stem}; give them different names")
    with Image.open(image) as picture:
        Image.fromarray(image_to_array(picture, num_channels=3)).save(path)
    return path


def _card(source, model, published, provenance, facts):
    if published:
        # upstream's figures belong to its file, whose digest was checked; under a name without a
        # file come any weights
        theirs = published.digest is not None
        return ZooCard.of(
            published,
            **facts,
            source_sha256=provenance["source_sha256"],
            weights_are_upstreams=theirs,
        )
    trained = load_training_card(source, model.config, **facts)
    if trained:
        return trained
    origin = None
    if provenance:
        origin = (
            f"Converted from `{provenance['source_file']}` ({provenance['source_format']}, SHA-256 "
            f"{provenance['source_sha256']})."
        )
    return PlainCard(config=model.config, class_name=type(model).__name__, source=origin, **facts)


def upload(publication, repo_id, public=False):
    """Puts it on the Hub in one commit, as a private repository unless `public`; may be repeated.

    Returns:
        Address of the repository.

    Raises:
        ValueError: the repository is there, public, and `public` wasn't asked for; the Hub doesn't
            know the licence, or finds something else wrong with the card.
        huggingface_hub.errors.HfHubHTTPError: the Hub refuses.
    """
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
        commit_message=f"{publication.architecture}, with its card",
        delete_patterns="*",  # what an earlier upload left would be loaded, or shown, beside it
    )
    if is_private and public:
        api.update_repo_settings(repo_id, private=False)
    return commit.repo_url


def base_is_missing(card):
    """Whether the Hub doesn't have what a card says that the model was trained from."""
    try:
        return bool(card.data.base_model) and not HfApi().repo_exists(card.data.base_model)
    except NETWORK_ERRORS:
        return False  # nobody knows
