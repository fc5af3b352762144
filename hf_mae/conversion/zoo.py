# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The table of published models, zoo.csv: mmpretrain's 24 and the paper's authors' 12.

Digests and accuracies are upstream's: mmpretrain's come from its model zoo, the authors' from
their README.md and FINETUNE.md; the authors' files with a decoder are named in their issues 3 and
8. mmpretrain calls ViT-Huge's pre-training p16, too; its patches are of 14 pixels.
"""

import csv
import importlib.resources
from dataclasses import dataclass
from typing import Any

from ..models.configuration_mae import MAEConfig
from ..models.near_names import nearest_names


SOURCES = {
    "mmpretrain": {
        "authors": "the MMPreTrain authors (OpenMMLab)",
        "url": "https://github.com/open-mmlab/mmpretrain/tree/main/configs/mae",
        "license": "apache-2.0",
    },
    "facebookresearch": {
        "authors": "the MAE paper's authors (Meta AI)",
        "url": "https://github.com/facebookresearch/mae",
        "license": "cc-by-nc-4.0",
    },
}
KINDS = ("pretrain", "finetune", "linear_probe")


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A model that its authors published, or published results of: a row of zoo.csv.

    Attributes:
        name: Its name upstream.
        hub_name: Ours, on the Hub.
        source: Key of `SOURCES`.
        kind: "pretrain", "finetune" or "linear_probe".
        size: Key of `configuration_mae.SIZES`.
        image_size: Pixels.
        epochs: Of this stage; None if its authors don't say.
        recipe: File below scripts/recipes without its ending; None if there is none.
        url: The upstream file; None if its authors published results only.
        digest: "sha256:" or "md5:" and the first digits, as upstream gives them; None if it
            doesn't.
        top1: ImageNet-1k top-1 accuracy in % as reported upstream.
        starts_from: Upstream name of the pre-trained model below a classifier.
        has_decoder: Of a pre-trained model, whether the file holds the decoder.
        norm_pix_loss: Whether the target of pre-training was normalised patches.
    """

    name: str
    hub_name: str
    source: str
    kind: str
    size: str
    image_size: int
    epochs: int | None
    recipe: str | None
    url: str | None
    digest: str | None
    top1: float | None
    starts_from: str | None
    has_decoder: bool
    norm_pix_loss: bool

    @property
    def license(self) -> str:
        """The Hub's name of the licence."""
        return SOURCES[self.source]["license"]

    @property
    def architecture(self) -> str:
        """The name of the class that holds it."""
        if self.kind != "pretrain":
            return "MAEForImageClassification"
        return "MAEForPreTraining" if self.has_decoder else "MAEModel"

    @property
    def config(self) -> MAEConfig:
        """Its configuration."""
        fields: dict[str, Any] = {"image_size": self.image_size}
        if self.kind == "pretrain":
            fields["norm_pix_loss"] = self.norm_pix_loss
        else:
            fields["num_labels"] = 1000
        if self.kind == "linear_probe":
            fields.update(pooling="cls", head_batch_norm=True)
        return MAEConfig.from_size(self.size, **fields)


# how a cell of these columns is read; the others are text, and an empty cell is None
_READERS = {
    "image_size": int,
    "epochs": int,
    "top1": float,
    "has_decoder": {"true": True, "false": False}.__getitem__,
    "norm_pix_loss": {"true": True, "false": False}.__getitem__,
}


def _read_row(row: dict[str, str]) -> PublishedModel:
    fields: dict[str, Any] = {}
    for column, cell in row.items():
        read = _READERS.get(column, str)
        fields[column] = read(cell) if cell else None
    return PublishedModel(**fields)


def _read_table() -> dict[str, PublishedModel]:
    path = importlib.resources.files("hf_mae.conversion") / "zoo.csv"
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    models = map(_read_row, rows)
    return {model.name: model for model in models}


ZOO = _read_table()


def published_model(name: str) -> PublishedModel:
    """Finds a published model by its upstream or Hub name.

    Raises:
        ValueError: there is none; the message names those that are called nearly so, or all.

    Example:

    >>> published_model("mae-vit-huge").name
    'mae_vit-huge-p16_8xb512-amp-coslr-1600e_in1k'
    """
    for model in ZOO.values():
        if name in (model.name, model.hub_name):
            return model
    hub_names = [model.hub_name for model in ZOO.values()]
    near = nearest_names(name, [*hub_names, *ZOO], count=3)
    if near:
        raise ValueError(
            f"no published model is called {name!r}; did you mean {' or '.join(near)}? "
            "convert_checkpoint.py --list shows all"
        )
    raise ValueError(f"no published model is called {name!r}; there are {', '.join(hub_names)}")
