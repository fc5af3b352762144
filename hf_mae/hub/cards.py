# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What every model card has in common: a dataclass says what is on it, one template writes it."""

import abc
from dataclasses import dataclass, field

from huggingface_hub import ModelCard, ModelCardData

from ..models.configuration_mae import MAEConfig
from ..models.costs import count


TAGS = ["masked-autoencoder", "mae", "vision"]

_TEMPLATE = """---
{{ card_data }}
---

# {{ card.title }}

{{ card.introduction }}
{% for heading, text in card.sections.items() if text %}
## {{ heading }}

{{ text }}
{% endfor %}"""

MAE = "[arXiv 2111.06377](https://arxiv.org/abs/2111.06377)"
CITATION = """```bibtex
@Article{MaskedAutoencoders2021,
  author  = {Kaiming He and Xinlei Chen and Saining Xie and Yanghao Li and Piotr Doll{\\'a}r and Ross Girshick},
  journal = {arXiv:2111.06377},
  title   = {Masked Autoencoders Are Scalable Vision Learners},
  year    = {2021},
}
```"""


@dataclass(kw_only=True)
class Example:
    """A picture on a card, and what the model said of it: [{"label": …, "score": …}, …], None if it
    wasn't asked."""

    src: str
    title: str
    output: list | None = None

    @property
    def widget(self):
        return {
            "src": self.src,
            "example_title": self.title,
            **({"output": self.output} if self.output else {}),
        }


@dataclass(kw_only=True)
class Card(abc.ABC):
    """What every card says. Subclasses fill in the rest.

    Attributes:
        folder: Where the model lies: its name here, or its Hub id.
        config: Its configuration.
        native: Whether it lies there in transformers' own format: the native architecture, or None.
        license: Hub's name of the licence, or None where nobody has said.
        examples: Pictures for the Hub's widget.
    """

    folder: str
    config: MAEConfig
    native: str | None = None
    license: str | None = None
    examples: list = field(default_factory=list)

    @property
    @abc.abstractmethod
    def architecture(self):
        """Name of our class."""

    @property
    def is_classifier(self):
        return self.architecture == "MAEForImageClassification"

    @property
    def data(self):
        """The metadata's fields beside those of `Card`."""
        return {}

    @property
    def metadata(self):
        kind = "image-classification" if self.is_classifier else "image-feature-extraction"
        return ModelCardData(
            license=self.license,
            library_name="transformers" if self.native else "hf_mae",
            pipeline_tag=kind,
            tags=TAGS,
            widget=[example.widget for example in self.examples] or None,
            **self.data,
        )

    @property
    @abc.abstractmethod
    def sections(self):
        """Heading → text, None where there is nothing to say."""

    def render(self):
        """The card, `huggingface_hub.ModelCard`."""
        return ModelCard.from_template(self.metadata, template_str=_TEMPLATE, card=self)

    @property
    def usage(self):
        """Code for plain transformers and for hf_mae, as Markdown."""
        own = self._own_code.format(
            folder=self.folder, **(_ANY if self._opens_pictures else _ARRAYS)
        )
        if not self.native:
            return own
        plain = {"ViTModel": _NATIVE_ENCODER, "ViTMAEForPreTraining": _NATIVE_FEATURES}.get(
            self.native, _NATIVE_CLASSIFIER
        )
        grey = self.config.num_channels == 1
        opened = _GREY if grey and self.native == "ViTMAEForPreTraining" else _RGB
        plain = plain.format(folder=self.folder, **opened) + f"\n\n{_GREY_PICTURES}" * grey
        return f"With plain transformers, 4.57 or newer:\n\n{plain}\n\nWith hf_mae:\n\n{own}"

    @property
    def _opens_pictures(self):
        return self.config.num_channels in (1, 3, 4)

    @property
    def _own_code(self):
        if not self.is_classifier:
            return _OWN_PRETRAINED if self.native == "ViTMAEForPreTraining" else _OWN_FEATURES
        if self.native:
            return _OWN_PREDICTION
        return _OWN_CLASSIFIER if self._opens_pictures else _OWN_LOGITS

    @property
    def licence(self):
        return f"{self.license}; as its publisher says." if self.license else None

    @property
    def size(self):
        """Parameters and work, counted on the model itself."""
        parameters, in_encoder, work = count(self.config, self.architecture)
        (height, width), (p, q) = self.config.image_hw, self.config.patch_hw
        channels = f"{self.config.num_channels} channel{'s' * (self.config.num_channels > 1)}"
        encoder = (
            f", {in_encoder / 1e6:.2f} M of them in the encoder" if in_encoder < parameters else ""
        )
        whole = "" if self.is_classifier else ", of which nothing is masked"
        return (
            f"{parameters / 1e6:.2f} M parameters{encoder} (position tables included); "
            f"{work / 1e9:.2f} G multiply-adds for "
            f"one image{whole}: {height} x {width} pixels in {channels}, "
            f"patches of {p} x {q}."
        )


_NATIVE_CLASSIFIER = """```python
from transformers import pipeline

pipeline("image-classification", "{folder}")("picture.jpg")
```"""
_NATIVE_FEATURES = """```python
{imports}
from transformers import AutoImageProcessor, AutoModelForPreTraining, ViTModel

inputs = AutoImageProcessor.from_pretrained("{folder}")({picture}, return_tensors="pt")
features = ViTModel.from_pretrained("{folder}", add_pooling_layer=False)(**inputs).last_hidden_state  # nothing masked
loss = AutoModelForPreTraining.from_pretrained("{folder}")(**inputs).loss  # of what it fills in, masked at random
```"""
_NATIVE_ENCODER = """```python
{imports}
from transformers import AutoImageProcessor, AutoModel

inputs = AutoImageProcessor.from_pretrained("{folder}")({picture}, return_tensors="pt")
features = AutoModel.from_pretrained("{folder}")(**inputs).last_hidden_state  # class token, then patches in order
```"""
_OWN_FEATURES = """```python
{imports}
from hf_mae import MAEImageProcessor, MAEModel

inputs = MAEImageProcessor.from_pretrained("{folder}")({picture}, return_tensors="pt")
features = MAEModel.from_pretrained("{folder}")(**inputs).last_hidden_state  # class token, then patches in order
```"""
_OWN_PRETRAINED = """```python
{imports}
from hf_mae import MAEForPreTraining, MAEImageProcessor, MAEModel

inputs = MAEImageProcessor.from_pretrained("{folder}")({picture}, return_tensors="pt")
features = MAEModel.from_pretrained("{folder}")(**inputs).last_hidden_state  # class token, then patches in order
pictures = MAEForPreTraining.from_pretrained("{folder}").reconstruct(**inputs).images  # hides most of it, fills it in
```"""
_OWN_CLASSIFIER = """```python
import hf_mae
from transformers import pipeline

pipeline("image-classification", "{folder}")("picture.jpg")
```"""
_OWN_LOGITS = """```python
{imports}
from hf_mae import MAEForImageClassification, MAEImageProcessor

inputs = MAEImageProcessor.from_pretrained("{folder}")({picture}, return_tensors="pt")
logits = MAEForImageClassification.from_pretrained("{folder}")(**inputs).logits
```"""
_OWN_PREDICTION = """```
python scripts/predict.py --model_name_or_path {folder} picture.jpg
```"""
# how the code opens a picture: as it is, in the channels that plain transformers is given, or an
# array of any channels
_ANY = {"imports": "from PIL import Image", "picture": 'Image.open("picture.jpg")'}
_RGB = {**_ANY, "picture": 'Image.open("picture.jpg").convert("RGB")'}
_GREY = {
    "imports": "import numpy as np\nfrom PIL import Image",
    "picture": 'np.array(Image.open("picture.jpg").convert("L"))[..., None]',
}
_ARRAYS = {"imports": "import numpy as np", "picture": 'np.load("picture.npy")'}
_GREY_PICTURES = (
    "It was trained on grey pictures; of one in colour it sees the luminance. Plain transformers "
    "clips pictures of 16 bits: "
    "scale them to 8 first (hf_mae does)."
)


@dataclass(kw_only=True)
class PlainCard(Card):
    """The card of a model of which nothing is known but itself.

    Attributes:
        class_name: Of ours.
        source: Where its weights come from, a sentence; None if nobody knows.
    """

    class_name: str
    source: str | None = None

    @property
    def architecture(self):
        return self.class_name

    @property
    def title(self):
        return self.folder.rpartition("/")[2]

    @property
    def introduction(self):
        what = {
            "MAEForPreTraining": "A Masked Autoencoder",
            "MAEModel": "The encoder of a Masked Autoencoder",
        }
        return (
            f"{what.get(self.class_name, 'A classifier on the encoder of a Masked Autoencoder')} "
            f"({MAE})."
        )

    @property
    def sections(self):
        return {
            "Use": self.usage,
            "Origin": self.source,
            "Size": self.size,
            "Licence": self.licence,
            "Citation": CITATION,
        }
