# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Model cards."""

import importlib.metadata
import platform
from dataclasses import dataclass, field

import torch
from huggingface_hub import ModelCard, ModelCardData

from .configuration_mae import MAEConfig


PACKAGES = ("hf-mae", "torch", "torchvision", "transformers", "accelerate", "datasets")

_TEMPLATE = """---
{{ card_data }}
---

# Masked Autoencoder pre-trained on {{ card.dataset }}

A Masked Autoencoder ([arXiv 2111.06377](https://arxiv.org/abs/2111.06377)): {{ card.model }}.
It was trained without labels to fill in images of which {{ "%.0f" % (100 * card.config.mask_ratio) }} % was hidden.

## Use

```python
from hf_mae import MAEImageProcessor, MAEModel

processor, model = MAEImageProcessor.from_pretrained("{{ card.folder }}"), MAEModel.from_pretrained("{{ card.folder }}")
features = model(**processor(image, return_tensors="pt")).last_hidden_state  # class token, then patches in order
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

On {{ card.num_held_out_images }} held-out images, with fixed masks; mean squared error of
{{ "patches normalised by their own mean and deviation" if card.config.norm_pix_loss else "normalised pixels" }}.

| predictor of the hidden patches | loss |
|---|---|
{% for name, value in card.results.items() -%}
| {{ name }} | {{ "%.4f" % value }} |
{% endfor %}
![Held-out images: original, masked, reconstructed](reconstructions.png)

{% endif -%}
## Versions

{{ card.versions }}
"""


@dataclass
class TrainingCard:
    """What the card of a freshly pre-trained model says; every figure is one that the run gave.

    Attributes:
        folder: Where the model lies.
        dataset: Name of what it was trained on.
        config: Its configuration.
        num_parameters: Parameters of the encoder and in all.
        num_train_images, num_held_out_images, epochs, steps, total_batch_size, learning_rate: The run.
        hardware: What it ran on.
        command: What repeats it.
        results: Predictor → held-out loss; empty without held-out images.
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
        data = ModelCardData(library_name="hf_mae", tags=["masked-autoencoder", "mae", "image-feature-extraction"])
        return ModelCard.from_template(data, template_str=_TEMPLATE, card=self)


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
