# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Model cards."""

import importlib.metadata
import platform
from dataclasses import dataclass, field

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .configuration_mae import MAEConfig


PACKAGES = ("hf-mae", "torch", "torchvision", "transformers", "accelerate", "datasets")

_TEMPLATE = """---
{{ card_data }}
---

# {{ card.title }}

{{ card.introduction }}

## Use

```python
{{ card.usage }}
```

## Training

{{ "{:,}".format(card.num_train_images) }} images of {{ card.dataset }}, {{ "{:g}".format(card.epochs) }} epochs
({{ "{:,}".format(card.steps) }} updates of {{ card.total_batch_size }} images), peak learning rate
{{ "{:g}".format(card.learning_rate) }}, on {{ card.hardware }}.
`arguments.yaml` in this folder repeats it:

```
{{ card.command }}
```

{% if card.results -%}
## Results

{{ card.results_table }}

{% endif -%}
## Versions

{{ card.versions }}
"""

_MAE = "[arXiv 2111.06377](https://arxiv.org/abs/2111.06377)"


@dataclass(kw_only=True)
class TrainingCard:
    """What the card of a freshly trained model says; every figure is one that the run gave.

    Attributes:
        folder: Where the model lies.
        dataset: Name of what it was trained on.
        config: Its configuration.
        num_parameters: Parameters of the encoder and in all.
        num_train_images, num_held_out_images, epochs, steps, total_batch_size, learning_rate: The run.
        hardware: What it ran on.
        command: What repeats it.
        results: Name → value, on held-out images; empty without them.
    """

    folder: str
    dataset: str
    config: MAEConfig
    num_parameters: tuple[int, int]
    num_train_images: int
    num_held_out_images: int
    epochs: float
    steps: int
    total_batch_size: int
    learning_rate: float
    hardware: str
    command: str
    results: dict = field(default_factory=dict)

    @property
    def model(self):
        """The model in a line."""
        (height, width), (p, q) = self.config.image_hw, self.config.patch_hw
        encoder, total = (f"{count / 1e6:.2f} M" for count in self.num_parameters)
        return (
            f"{total} parameters ({encoder} in the encoder), images of {height} x {width} pixels, patches of {p} x {q}, "
            f"{self.config.num_channels} channel{'s' * (self.config.num_channels > 1)}"
        )

    @property
    def versions(self):
        """Versions of what it was trained with."""
        return ", ".join([f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in PACKAGES)])

    def render(self):
        """The card, `huggingface_hub.ModelCard`."""
        return ModelCard.from_template(self.metadata, template_str=_TEMPLATE, card=self)


@dataclass(kw_only=True)
class PreTrainingCard(TrainingCard):
    """The card of a pre-trained model; `results` are predictor → held-out loss.

    Attributes:
        knn_accuracy: Of the features, if it was measured.
    """

    knn_accuracy: float | None = None

    @property
    def metadata(self):
        return ModelCardData(library_name="hf_mae", tags=["masked-autoencoder", "mae", "image-feature-extraction"])

    @property
    def title(self):
        return f"Masked Autoencoder pre-trained on {self.dataset}"

    @property
    def introduction(self):
        return (
            f"A Masked Autoencoder ({_MAE}): {self.model}.\n"
            f"It was trained without labels to fill in images of which {100 * self.config.mask_ratio:.0f} % was hidden."
        )

    @property
    def usage(self):
        return (
            "from hf_mae import MAEImageProcessor, MAEModel\n\n"
            f'processor, model = MAEImageProcessor.from_pretrained("{self.folder}"), '
            f'MAEModel.from_pretrained("{self.folder}")\n'
            'features = model(**processor(image, return_tensors="pt")).last_hidden_state  '
            "# class token, then patches in order"
        )

    @property
    def results_table(self):
        target = "patches normalised by their own mean and deviation" if self.config.norm_pix_loss else "normalised pixels"
        rows = [f"| {name} | {value:.4f} |" for name, value in self.results.items()]
        measured = self.knn_accuracy is not None
        knn = [f"k-NN accuracy of the features (cosine, k=20): {100 * self.knn_accuracy:.2f} %", ""] if measured else []
        return "\n".join(
            [
                f"On {self.num_held_out_images:,} held-out images, with fixed masks; mean squared error of",
                f"{target}.",
                "",
                "| predictor of the hidden patches | loss |",
                "|---|---|",
                *rows,
                "",
                *knn,
                "![Held-out images: original, masked, reconstructed](reconstructions.png)",
            ]
        )


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
    def metadata(self):
        results = [
            EvalResult(
                task_type="image-classification",
                dataset_type=self.dataset,
                dataset_name=self.dataset,
                metric_type="accuracy",
                metric_name=name,
                metric_value=round(value, 5),
            )
            for name, value in self.results.items()
        ]
        return ModelCardData(
            library_name="hf_mae",
            pipeline_tag="image-classification",
            tags=["masked-autoencoder", "mae"],
            model_name=self.folder if results else None,
            eval_results=results or None,
        )

    @property
    def title(self):
        return f"Classifier of {self.dataset} on a Masked Autoencoder's encoder"

    @property
    def introduction(self):
        names = list(self.config.id2label.values())
        shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
        return (
            f"A Vision Transformer with {len(names)} classes ({shown}): {self.model}.\n"
            f"{self.method} The encoder, that of a Masked Autoencoder ({_MAE}), started from {self.started_from}."
        )

    @property
    def usage(self):
        return (
            "import hf_mae\nfrom transformers import pipeline\n\n"
            f'pipeline("image-classification", "{self.folder}")("picture.jpg")'
        )

    @property
    def results_table(self):
        rows = [f"| {name} | {100 * value:.2f} % |" for name, value in self.results.items()]
        return "\n".join([f"On {self.num_held_out_images:,} held-out images.", "", "| metric | value |", "|---|---|", *rows])


def version(package):
    """The version of an installed package, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def hardware(device, num_processes):
    """The devices in words."""
    if device.type == "cuda":
        return f"{num_processes} x {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"{num_processes} process{'es' * (num_processes > 1)} of {threads} CPU thread{'s' * (threads > 1)}"
