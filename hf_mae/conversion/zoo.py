# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The table of published models: mmpretrain's 24 and the paper's authors' own. Every other place
reads it."""

from dataclasses import dataclass

from ..models.configuration_mae import MAEConfig


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
_MMPRETRAIN = "https://download.openmmlab.com/mmselfsup/1.x/mae/"
_FACEBOOK = "https://dl.fbaipublicfiles.com/mae/"


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A model that its authors published, or published results of.

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
    image_size: int = 224
    epochs: int | None
    recipe: str | None
    url: str | None
    digest: str | None
    top1: float | None = None
    starts_from: str | None = None
    has_decoder: bool = True
    norm_pix_loss: bool = True

    @property
    def license(self):
        return SOURCES[self.source]["license"]

    @property
    def architecture(self):
        """Name of the class that holds it."""
        if self.kind != "pretrain":
            return "MAEForImageClassification"
        return "MAEForPreTraining" if self.has_decoder else "MAEModel"

    @property
    def config(self):
        """Its `MAEConfig`."""
        fields = {"image_size": self.image_size}
        if self.kind == "pretrain":
            fields["norm_pix_loss"] = self.norm_pix_loss
        else:
            fields["num_labels"] = 1000
        if self.kind == "linear_probe":
            fields.update(pooling="cls", head_batch_norm=True)
        return MAEConfig.from_size(self.size, **fields)


def _mmpretrain_pretraining_name(size, epochs):
    # ViT-Huge, too, is called p16 here; its patches are of 14 pixels
    return f"mae_vit-{size}-p16_8xb512-amp-coslr-{epochs}e_in1k"


def _mmpretrain_pretraining(size, epochs, path):
    return PublishedModel(
        name=_mmpretrain_pretraining_name(size, epochs),
        hub_name=f"mae-vit-{size}" + _epochs_unless_1600(epochs),
        source="mmpretrain",
        kind="pretrain",
        size=size,
        epochs=epochs,
        recipe=f"pretrain/mae-vit-{size}-{epochs}e",
        url=_MMPRETRAIN + path,
        digest=_digest(path),
    )


def _mmpretrain_classifier(kind, size, pretrain_epochs, top1, path=None, image_size=224):
    patch = 14 if size == "huge" else 16
    epochs = 90 if kind == "linear_probe" else 100 if size == "base" else 50
    batch = {"finetune": "8xb128", "linear_probe": "8xb2048-linear"}[kind]
    pixels = ""
    if image_size != 224:
        batch, pixels = "32xb8", f"-{image_size}px"
    linear = "-linear" * (kind == "linear_probe")
    return PublishedModel(
        name=f"vit-{size}-p{patch}_mae-{pretrain_epochs}e-pre_{batch}-coslr-{epochs}e_in1k{pixels}",
        hub_name=f"vit-{size}-p{patch}-mae{_epochs_unless_1600(pretrain_epochs)}{linear}-in1k{pixels}",
        source="mmpretrain",
        kind=kind,
        size=size,
        image_size=image_size,
        epochs=epochs,
        recipe=f"{kind}/vit-{size}-{epochs}e{pixels}",
        url=path and _MMPRETRAIN + path,
        digest=path and _digest(path),
        top1=top1,
        starts_from=_mmpretrain_pretraining_name(size, pretrain_epochs),
    )


def _facebook_pretraining(size, folder, name, suffix, digest=None, **facts):
    facts = {"epochs": 1600, "recipe": f"pretrain/mae-vit-{size}-1600e", **facts}
    return PublishedModel(
        name=name,
        hub_name=f"mae-vit-{size}-facebook{suffix}",
        source="facebookresearch",
        kind="pretrain",
        size=size,
        url=f"{_FACEBOOK}{folder}/{name}.pth",
        digest=digest,
        **facts,
    )


def _facebook_classifier(size, patch, epochs, top1, digest):
    return PublishedModel(
        name=f"mae_finetuned_vit_{size}",
        hub_name=f"vit-{size}-p{patch}-mae-facebook-in1k",
        source="facebookresearch",
        kind="finetune",
        size=size,
        epochs=epochs,
        recipe=f"finetune/vit-{size}-{epochs}e",
        url=f"{_FACEBOOK}finetune/mae_finetuned_vit_{size}.pth",
        digest=digest,
        top1=top1,
        starts_from=f"mae_pretrain_vit_{size}",
    )


def _epochs_unless_1600(epochs):
    """The paper's main schedule goes without saying."""
    return "" if epochs == 1600 else f"-{epochs}e"


def _digest(path):
    """mmpretrain's file names end in the first digits of their SHA-256."""
    return "sha256:" + path.removesuffix(".pth").rsplit("-", 1)[1]


def _mmpretrain_models():
    b, h = "mae_vit-base-p16_8xb512-fp16-coslr", "mae_vit-huge-p16_8xb512-fp16-coslr-1600e_in1k"
    large = "mae_vit-large-p16_8xb512-fp16-coslr"
    pretraining, classifier = _mmpretrain_pretraining, _mmpretrain_classifier
    yield pretraining(
        "base",
        300,
        f"{b}-300e_in1k/mae_vit-base-p16_8xb512-coslr-300e-fp16_in1k_20220829-c2cf66ba.pth",
    )
    yield pretraining(
        "base",
        400,
        f"{b}-400e_in1k/mae_vit-base-p16_8xb512-coslr-400e-fp16_in1k_20220825-bc79e40b.pth",
    )
    yield pretraining(
        "base",
        800,
        f"{b}-800e_in1k/mae_vit-base-p16_8xb512-coslr-800e-fp16_in1k_20220825-5d81fbc4.pth",
    )
    yield pretraining("base", 1600, f"{b}-1600e_in1k/{b}-1600e_in1k_20220825-f7569ca2.pth")
    yield pretraining("large", 400, f"{large}-400e_in1k/{large}-400e_in1k_20220825-b11d0425.pth")
    yield pretraining("large", 800, f"{large}-800e_in1k/{large}-800e_in1k_20220825-df72726a.pth")
    yield pretraining("large", 1600, f"{large}-1600e_in1k/{large}-1600e_in1k_20220825-cc7e98c9.pth")
    yield pretraining("huge", 1600, f"{h}/{h}_20220916-ff848775.pth")
    finetuned = "vit-base-p16_ft-8xb128-coslr-100e_in1k"
    yield classifier("finetune", "base", 300, 83.10)
    yield classifier("finetune", "base", 400, 83.30)
    yield classifier("finetune", "base", 800, 83.30)
    yield classifier(
        "finetune",
        "base",
        1600,
        83.50,
        f"{b}-1600e_in1k/{finetuned}/{finetuned}_20220825-cf70aa21.pth",
    )
    yield classifier("linear_probe", "base", 300, 60.80)
    yield classifier("linear_probe", "base", 400, 62.50)
    yield classifier("linear_probe", "base", 800, 65.10)
    yield classifier("linear_probe", "base", 1600, 67.10)
    yield classifier("finetune", "large", 400, 85.20)
    yield classifier("finetune", "large", 800, 85.40)
    yield classifier("finetune", "large", 1600, 85.70)
    yield classifier("linear_probe", "large", 400, 70.70)
    yield classifier("linear_probe", "large", 800, 73.70)
    yield classifier("linear_probe", "large", 1600, 75.50)
    finetuned, at_448 = (
        "vit-huge-p16_ft-8xb128-coslr-50e_in1k",
        "vit-huge-p16_ft-32xb8-coslr-50e_in1k-448",
    )
    yield classifier(
        "finetune", "huge", 1600, 86.90, f"{h}/{finetuned}/{finetuned}_20220916-0bfc9bfd.pth"
    )
    yield classifier(
        "finetune",
        "huge",
        1600,
        87.30,
        f"{h}/{at_448}/{at_448}_20220916-95b6a0ce.pth",
        image_size=448,
    )


def _facebook_models():
    # digests and accuracies: README.md and FINETUNE.md there; the files with a decoder are named in
    # its issues 3 and 8
    encoders = {"base": "md5:8cad7c", "large": "md5:b8b06e", "huge": "md5:9bdbb0"}
    for size, digest in encoders.items():
        name = f"mae_pretrain_vit_{size}"
        yield _facebook_pretraining(size, "pretrain", name, "-encoder", digest, has_decoder=False)
        yield _facebook_pretraining(size, "pretrain", f"{name}_full", "")
        pixels = {"norm_pix_loss": False, "epochs": None, "recipe": None}
        yield _facebook_pretraining(
            size, "visualize", f"mae_visualize_vit_{size}", "-pixels", **pixels
        )
    yield _facebook_classifier("base", 16, 100, 83.664, "md5:1b25e9")
    yield _facebook_classifier("large", 16, 50, 85.952, "md5:51f550")
    yield _facebook_classifier("huge", 14, 50, 86.928, "md5:2541f2")


ZOO = {model.name: model for model in (*_mmpretrain_models(), *_facebook_models())}


def published_model(name):
    """The model of this upstream or Hub name.

    Raises:
        ValueError: there is none; the message lists them.

    Example:

    >>> published_model("mae-vit-huge").name
    'mae_vit-huge-p16_8xb512-amp-coslr-1600e_in1k'
    """
    by_name = {**ZOO, **{model.hub_name: model for model in ZOO.values()}}
    if name not in by_name:
        raise ValueError(
            f"no published model is called {name!r}; there are "
            f"{', '.join(m.hub_name for m in ZOO.values())}"
        )
    return by_name[name]
