# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Cards of models that somebody trained with our scripts: every figure is one that the run gave."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import EvalResult

from ..output_folder import CURVES_FILE, FACTS_FILE, PANEL_FILE
from .cards import CITATION, MAE, Card


@dataclass(kw_only=True)
class TrainingCard(Card):
    """What the card of a freshly trained model says; every figure is one that the run gave.

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
    hardware: str
    versions: str
    command: str
    results: dict = field(default_factory=dict)
    pictures: list = field(default_factory=list)

    @property
    def model(self):
        """The model in a line."""
        (height, width), (p, q) = self.config.image_hw, self.config.patch_hw
        encoder, total = (f"{count / 1e6:.2f} M" for count in self.num_parameters)
        return (
            f"{total} parameters ({encoder} in the encoder), images of {height} x {width} pixels, "
            f"patches of {p} x {q}, "
            f"{self.config.num_channels} channel{'s' * (self.config.num_channels > 1)}"
        )

    @property
    def data(self):
        fields = {"datasets": [self.hub_dataset] if self.hub_dataset else None}
        if self.base_model:
            fields |= {"base_model": self.base_model, "base_model_relation": "finetune"}
        return fields

    @property
    def training(self):
        curves = (
            f"\n\n![Losses over the epochs]({CURVES_FILE})" if CURVES_FILE in self.pictures else ""
        )
        return (
            f"{self.num_train_images:,} images of {self.dataset}, {self.epochs:g} epochs\n"
            f"({self.steps:,} updates of {self.total_batch_size} images), peak learning rate\n"
            f"{self.learning_rate:g}, on {self.hardware}.\n"
            f"`arguments.yaml` in this folder repeats it:\n\n```\n{self.command}\n```{curves}"
        )

    @property
    def sections(self):
        return {
            "Use": self.usage,
            "Training": self.training,
            "Results": self.results_table if self.results else None,
            "Evaluation": self.evaluation,
            "Size": self.size,
            "Limits": self.limits,
            "Licence": self.licence,
            "Citation": CITATION,
            "Versions": self.versions,
        }

    @property
    def limits(self):
        return (
            f"It knows what {self.dataset} looks like. On other images, from other cameras or "
            "scanners or of other people, "
            "measure it before you rely on it."
        )

    def save_facts(self, folder):
        """Keeps what the card says beside the model, for publishing to write it again."""
        facts = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "config"
        }
        text = json.dumps({"card": type(self).__name__, **facts}, indent=2)
        Path(folder, FACTS_FILE).write_text(text + "\n", encoding="utf-8")


@dataclass(kw_only=True)
class PreTrainingCard(TrainingCard):
    """The card of a pre-trained model; `results` are predictor → held-out loss.

    Attributes:
        knn_accuracy: Of the features, if it was measured.
    """

    knn_accuracy: float | None = None

    @property
    def architecture(self):
        return "MAEForPreTraining"

    @property
    def title(self):
        return f"Masked Autoencoder pre-trained on {self.dataset}"

    @property
    def introduction(self):
        return (
            f"A Masked Autoencoder ({MAE}): {self.model}.\n"
            "It was trained without labels to fill in images of which "
            f"{100 * self.config.mask_ratio:.0f} % was hidden."
        )

    @property
    def evaluation(self):
        return (
            "Pictures of what it fills in, and a linear classifier on its frozen features:\n\n```\n"
            f"python scripts/reconstruct.py --model_name_or_path {self.folder} --output out.png "
            "IMAGE …\n"
            f"python scripts/run_linear_probe.py --model_name_or_path {self.folder} "
            "--cache_features "
            "--train_dir path/to/labelled --output_dir runs/probe\n```"
        )

    @property
    def results_table(self):
        target = (
            "patches normalised by their own mean and deviation"
            if self.config.norm_pix_loss
            else "normalised pixels"
        )
        rows = [f"| {name} | {value:.4f} |" for name, value in self.results.items()]
        measured = self.knn_accuracy is not None
        knn = (
            [f"k-NN accuracy of the features (cosine, k=20): {100 * self.knn_accuracy:.2f} %", ""]
            if measured
            else []
        )
        panel = (
            [f"![Held-out images: original, masked, reconstructed]({PANEL_FILE})"]
            if PANEL_FILE in self.pictures
            else []
        )
        return "\n".join(
            [
                f"On {self.num_held_out_images:,} held-out images, with fixed masks; mean squared "
                "error of",
                f"{target}.",
                "",
                "| predictor of the hidden patches | loss |",
                "|---|---|",
                *rows,
                "",
                *knn,
                *panel,
            ]
        ).rstrip()


@dataclass(kw_only=True)
class ClassifierCard(TrainingCard):
    """The card of a classifier; `results` are metric → share.

    Attributes:
        method: How it was trained, a sentence.
        started_from: The encoder's weights before, in words.
    """

    method: str
    started_from: str

    @property
    def architecture(self):
        return "MAEForImageClassification"

    @property
    def data(self):
        results = [
            EvalResult(
                task_type="image-classification",
                dataset_type=self.hub_dataset or self.dataset,
                dataset_name=self.dataset,
                metric_type="accuracy",
                metric_name=name,
                metric_value=round(value, 5),
            )
            for name, value in self.results.items()
        ]
        return {
            **super().data,
            "model_name": self.folder if results else None,
            "eval_results": results or None,
        }

    @property
    def title(self):
        return f"Classifier of {self.dataset} on a Masked Autoencoder's encoder"

    @property
    def introduction(self):
        names = list(self.config.id2label.values())
        shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
        return (
            f"A Vision Transformer with {len(names)} classes ({shown}): {self.model}.\n"
            f"{self.method} The encoder, that of a Masked Autoencoder ({MAE}), started from "
            f"{self.started_from}."
        )

    @property
    def evaluation(self):
        data = (
            f"--dataset_name {self.hub_dataset}"
            if self.hub_dataset
            else "--validation_dir path/to/held_out"
        )
        return f"```\npython scripts/run_eval.py --model_name_or_path {self.folder} {data}\n```"

    @property
    def results_table(self):
        rows = [f"| {name} | {100 * value:.2f} % |" for name, value in self.results.items()]
        return "\n".join(
            [
                f"On {self.num_held_out_images:,} held-out images.",
                "",
                "| metric | value |",
                "|---|---|",
                *rows,
            ]
        )


def load_training_card(source, config, **published):
    """The card of a folder that one of the training scripts wrote, with fields changed for
    publishing; None if none did.

    Raises:
        ValueError: what the script kept for it is damaged.
    """
    path = Path(source, FACTS_FILE)
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        card_class = {c.__name__: c for c in (PreTrainingCard, ClassifierCard)}[facts.pop("card")]
        return card_class(**{**facts, "config": config, **published})
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged; without it the card says less, so delete it to go on ({error})"
        ) from error
