# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Model cards: a dataclass holds the figures and the metadata, templates/*.md say them in words."""

import abc
import dataclasses
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub import EvalResult, ModelCard, ModelCardData, hf_hub_url
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..conversion.zoo import KINDS, SOURCES, ZOO, PublishedModel
from ..models.configuration_mae import MAEConfig
from ..models.costs import count
from ..models.problem_types import MULTI_LABEL, REGRESSION
from ..output_folder import CURVES_FILE, FACTS_FILE, PANEL_FILE, OutputFolder


TAGS = ["masked-autoencoder", "mae", "vision"]
ORGANIZATION = "hf-mae"
EXAMPLE_FILE = "china.jpg"  # a photograph that scikit-learn ships
IMAGENET_HUB_ID = "ILSVRC/imagenet-1k"

# a name that a template misspells is an error, not an empty string
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters["quote"] = shlex.quote
_TEMPLATES.globals |= {
    "count": count,
    "curves_file": CURVES_FILE,
    "imagenet": IMAGENET_HUB_ID,
    "panel_file": PANEL_FILE,
    "paper": "[arXiv 2111.06377](https://arxiv.org/abs/2111.06377)",
}


def file_address(repo_id: str, name: str) -> str:
    """Gives the address of a file on the Hub, percent-encoded.

    Example:

    >>> file_address("org/birds", "examples/größte Möwe #1.png")
    'https://huggingface.co/org/birds/resolve/main/examples/gr%C3%B6%C3%9Fte%20M%C3%B6we%20%231.png'
    """
    return hf_hub_url(repo_id, name, endpoint="https://huggingface.co")


@dataclass(kw_only=True)
class Example:
    """A picture on a card, and what the model said of it.

    Attributes:
        src: Its address.
        title: What it is called.
        output: [{"label": …, "score": …}, …]; None if the model wasn't asked.
    """

    src: str
    title: str
    output: list[dict[str, Any]] | None = None

    @property
    def widget(self) -> dict[str, Any]:
        """The example as the Hub's metadata have it."""
        shown: dict[str, Any] = {"src": self.src, "example_title": self.title}
        if self.output:
            shown["output"] = self.output
        return shown


@dataclass(kw_only=True)
class Card(abc.ABC):
    """What every card says; subclasses fill in the rest.

    Attributes:
        folder: Where the model lies: the way to it here, or its Hub id.
        config: Its configuration.
        native: The native class, if the model lies there in transformers' own format, or None.
        native_pretraining: Whether encoder and decoder lie there too, in `pretraining/`.
        license: The Hub's name of the licence, or None where nobody has said.
        examples: Pictures for the Hub's widget.
        value_range: Values of black and white, if the image processor has them.
        bands: Numbers of the bands that the image processor takes, if it chooses.
    """

    template: ClassVar[str]

    folder: str
    config: MAEConfig
    native: str | None = None
    native_pretraining: bool = False
    license: str | None = None
    examples: list[Example] = field(default_factory=list)
    value_range: Sequence[float] | None = None
    bands: Sequence[int] | None = None

    @property
    @abc.abstractmethod
    def architecture(self) -> str:
        """The name of our class."""

    @property
    def is_classifier(self) -> bool:
        return self.architecture == "MAEForImageClassification"

    @property
    def has_decoder(self) -> bool:
        """Whether the model that lies there can fill in patches."""
        if self.native is None:
            return self.architecture == "MAEForPreTraining"
        return self.native_pretraining or self.native == "ViTMAEForPreTraining"

    @property
    def costs(self) -> tuple[int, int, int]:
        """Parameters, those of the encoder, and multiply-adds, counted on the model itself."""
        is_bare = self.architecture == "MAEForPreTraining" and not self.has_decoder
        architecture = "MAEModel" if is_bare else self.architecture
        parameters, encoder_parameters, multiply_adds = count(self.config, architecture)
        return parameters, encoder_parameters, multiply_adds

    @property
    def channels(self) -> str:
        """The number of channels in words."""
        number = self.config.num_channels
        return "1 channel" if number == 1 else f"{number} channels"

    @property
    def metadata_fields(self) -> dict[str, Any]:
        """The metadata's fields beside those of `Card`."""
        return {}

    @property
    def metadata(self) -> ModelCardData:
        """What the Hub reads of the card."""
        task = "image-classification" if self.is_classifier else "image-feature-extraction"
        widget = [example.widget for example in self.examples]
        return ModelCardData(
            license=self.license,
            library_name="transformers" if self.native else "hf_mae",
            pipeline_tag=task,
            tags=TAGS,
            widget=widget or None,
            **self.metadata_fields,
        )

    def render(self) -> ModelCard:
        """Writes the card by its template."""
        template = _TEMPLATES.get_template(self.template)
        return ModelCard(template.render(metadata=self.metadata.to_yaml(), card=self))


@dataclass(kw_only=True)
class PlainCard(Card):
    """The card of a model of which nothing is known but itself.

    Attributes:
        class_name: Of ours.
        source: Where its weights come from, a sentence; None if nobody knows.
    """

    template = "plain.md"

    class_name: str
    source: str | None = None

    @property
    def architecture(self) -> str:
        return self.class_name


@dataclass(kw_only=True)
class TrainingCard(Card):
    """The card of a freshly trained model; every figure is one that the run gave.

    Attributes:
        dataset: Name of what it was trained on.
        hub_dataset: Its Hub id, if it has one.
        base_model: Hub id of what it was trained from, if it has one.
        num_parameters: Parameters of the encoder and in all.
        num_train_images, num_held_out_images, epochs, steps, total_batch_size, learning_rate: The
            run.
        hardware: What it ran on.
        versions: Of the packages that it ran with.
        command: What repeats it.
        results: Name → value, on held-out images; empty without them.
        doubts: How far they can be trusted, where that isn't far, in sentences.
        verdict: Whether the model has learned anything, if that can be told.
        pictures: Files of the folder that the card shows, of `CURVES_FILE` and `PANEL_FILE`.
    """

    dataset: str
    hub_dataset: str | None = None
    base_model: str | None = None
    num_parameters: tuple[int, int]
    num_train_images: int
    num_held_out_images: int
    epochs: float
    steps: int
    total_batch_size: int
    learning_rate: float
    dropped_updates: int = 0
    hardware: str
    versions: str
    command: str
    results: dict[str, float] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    verdict: str | None = None
    pictures: list[str] = field(default_factory=list)

    @property
    def metadata_fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"datasets": [self.hub_dataset] if self.hub_dataset else None}
        if self.base_model:
            fields |= {"base_model": self.base_model, "base_model_relation": "finetune"}
        return fields

    def save_facts(self, folder: str | Path) -> None:
        """Keeps what the card says beside the model, for publishing to write it again."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "config"]
        facts = {name: getattr(self, name) for name in names}
        text = json.dumps({"card": type(self).__name__, **facts}, indent=2)
        Path(folder, FACTS_FILE).write_text(text + "\n", encoding="utf-8")


@dataclass(kw_only=True)
class PreTrainingCard(TrainingCard):
    """The card of a pre-trained model; `results` are predictor → held-out loss.

    Attributes:
        knn_accuracy: Of the features, if it was measured.
        rank_me: Of the held-out features, if there are held-out images.
    """

    template = "pretraining.md"

    knn_accuracy: float | None = None
    rank_me: float | None = None

    @property
    def architecture(self) -> str:
        return "MAEForPreTraining"


@dataclass(kw_only=True)
class ClassifierCard(TrainingCard):
    """The card of a classifier; `results` are metric → share, or error of a regression.

    Attributes:
        method: How it was trained, a sentence.
        started_from: The encoder's weights before, in words.
        label_columns: Columns of the labels, where they were named.
    """

    template = "classifier.md"

    method: str
    started_from: str
    label_columns: list[str] = field(default_factory=list)

    @property
    def architecture(self) -> str:
        return "MAEForImageClassification"

    @property
    def description(self) -> str:
        """What it answers, in words."""
        config: Any = self.config
        names = list(config.id2label.values())
        listed = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
        if config.problem_type == REGRESSION:
            return f"that predicts a value ({listed})"
        if config.problem_type == MULTI_LABEL:
            return f"with {len(names)} labels, each predicted by itself ({listed})"
        return f"with {len(names)} classes ({listed})"

    @property
    def evaluation_data(self) -> str:
        """The flags that name held-out images to run_eval.py."""
        columns = ""
        if self.label_columns:
            columns = f" --label_column {' '.join(map(shlex.quote, self.label_columns))}"
        if self.hub_dataset:
            return f"--dataset_name {self.hub_dataset}{columns}"
        if self.config.problem_type in (MULTI_LABEL, REGRESSION) or columns:
            return f"--dataset_name path/to/held_out{columns}"
        return "--validation_dir path/to/held_out"

    def written(self, value: float) -> str:
        """Writes a metric."""
        if self.config.problem_type == REGRESSION:
            return f"{value:.4g}"
        return f"{100 * value:.2f} %"

    @property
    def metadata_fields(self) -> dict[str, Any]:
        results = [
            EvalResult(
                task_type="image-classification",
                dataset_type=self.hub_dataset or self.dataset,
                dataset_name=self.dataset,
                metric_type=_metric_type(name),
                metric_name=name,
                metric_value=round(value, 5),
            )
            for name, value in self.results.items()
        ]
        name = self.folder if self.native else Path(self.folder).name
        measured = {"model_name": name, "eval_results": results} if results else {}
        return super().metadata_fields | measured


def _metric_type(name: str) -> str:
    """The name that the Hub has for a metric."""
    if "AUROC" in name:
        return "roc_auc"
    return {"mAP": "mean_average_precision", "mean absolute error": "mae"}.get(name, "accuracy")


# the names under which card.json keeps a card: they stay, whatever the classes are called
_TRAINING_CARDS = {"PreTrainingCard": PreTrainingCard, "ClassifierCard": ClassifierCard}


def load_training_card(
    written: OutputFolder, config: MAEConfig, **published: Any
) -> TrainingCard | None:
    """Makes the card of a folder again, with fields changed for publishing.

    Args:
        written: The folder.
        config: The configuration of its model.
        published: Fields of the card.

    Returns:
        The card; None if no training script wrote the folder.

    Raises:
        ValueError: what the script kept for the card is damaged.
    """
    if written.card_facts is None:
        return None
    facts = dict(written.card_facts)
    try:
        card_class = _TRAINING_CARDS[facts.pop("card")]
        return card_class(**{**facts, "config": config, **published})
    except (LookupError, TypeError) as error:
        raise ValueError(
            f"{written.path / FACTS_FILE} is damaged; without it the card says less, so delete it "
            f"to go on ({error})"
        ) from error


@dataclass(kw_only=True)
class ZooCard(Card):
    """The card of a published model; every figure on it is upstream's, or counted.

    Attributes:
        published: Its row of the table.
        source_sha256: Digest of the file that it was converted from, if it was.
        weights_are_upstreams: Whether upstream's figures are of these weights.
    """

    template = "zoo.md"

    published: PublishedModel
    source_sha256: str | None = None
    weights_are_upstreams: bool = True

    @classmethod
    def of(cls, published: PublishedModel, **fields: Any) -> "ZooCard":
        """Makes the card as it is before anybody converted the weights, or with fields changed."""
        facts: dict[str, Any] = {
            "folder": f"{ORGANIZATION}/{published.hub_name}",
            "config": published.config,
            "native": _native_architecture(published),
            "native_pretraining": published.kind == "pretrain" and published.has_decoder,
            "license": published.license,
            **fields,
        }
        if published.kind != "pretrain" and "examples" not in facts:
            address = file_address(facts["folder"], f"examples/{EXAMPLE_FILE}")
            example = Example(src=address, title="temple")
            facts["examples"] = [example]
        return cls(published=published, **facts)

    @property
    def architecture(self) -> str:
        return self.published.architecture

    @property
    def organization(self) -> str:
        """Whose models the card names."""
        return self.folder.rpartition("/")[0] or ORGANIZATION

    @property
    def source(self) -> dict[str, str]:
        """Who published it: `authors`, `url` and `license`."""
        return SOURCES[self.published.source]

    @property
    def below(self) -> PublishedModel | None:
        """The pre-trained model that a classifier starts from."""
        return ZOO.get(self.published.starts_from or "")

    @property
    def classifiers(self) -> list[PublishedModel]:
        """The published models that start from it, fine-tuned ones first."""
        found = [model for model in ZOO.values() if model.starts_from == self.published.name]
        return sorted(found, key=lambda model: KINDS.index(model.kind))

    @property
    def training_script(self) -> str:
        """The script of its kind of training."""
        scripts = {
            "pretrain": "run_mae.py",
            "finetune": "run_finetune.py",
            "linear_probe": "run_linear_probe.py",
        }
        return scripts[self.published.kind]

    @property
    def num_processes(self) -> int:
        """As many as the batch size of its recipe is written for."""
        return 32 if self.published.recipe == "finetune/vit-huge-50e-448px" else 8

    @property
    def metadata_fields(self) -> dict[str, Any]:
        published = self.published
        fields: dict[str, Any] = {"datasets": ["imagenet-1k"]}
        if self.below:
            fields["base_model"] = f"{self.organization}/{self.below.hub_name}"
            fields["base_model_relation"] = "finetune"
        if published.top1 and self.weights_are_upstreams:
            result = EvalResult(
                task_type="image-classification",
                dataset_type="imagenet-1k",
                dataset_name="ImageNet-1k",
                dataset_split="validation",
                metric_type="accuracy",
                metric_name=f"top-1 accuracy, as reported by {published.source}",
                metric_value=published.top1,
                source_name=published.source,
                source_url=self.source["url"],
            )
            fields |= {"model_name": published.hub_name, "eval_results": [result]}
        return fields


def _native_architecture(published: PublishedModel) -> str:
    """The class as which `export` writes it, in the root."""
    if published.kind == "pretrain":
        return "ViTModel"
    pools_mean = published.config.pooling == "mean"
    return "BeitForImageClassification" if pools_mean else "ViTForImageClassification"


def zoo_table() -> str:
    """Writes the published models as a Markdown table for docs/."""
    table = _TEMPLATES.get_template("zoo_table.md").render(models=ZOO.values())
    return table.rstrip("\n")
