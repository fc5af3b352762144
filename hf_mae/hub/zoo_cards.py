# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Cards of the published models, and the table of them; every figure on them is upstream's, or
counted."""

from dataclasses import dataclass

from huggingface_hub import EvalResult

from ..conversion.zoo import KINDS, SOURCES, ZOO, PublishedModel
from ..models.costs import count
from .cards import CITATION, MAE, Card, Example


ORGANIZATION = "hf-mae"
EXAMPLE = "china.jpg"  # a photograph that scikit-learn ships
IMAGENET_HUB_ID = "ILSVRC/imagenet-1k"
_SCRIPTS = {
    "pretrain": "run_mae.py",
    "finetune": "run_finetune.py",
    "linear_probe": "run_linear_probe.py",
}
_PROCESSES = {"finetune/vit-huge-50e-448px": 32}


@dataclass(kw_only=True)
class ZooCard(Card):
    """The card of a published model.

    Attributes:
        published: Its row of the table.
        source_sha256: Digest of the file that it was converted from, if it was.
        weights_are_upstreams: Whether upstream's figures are of these weights.
    """

    published: PublishedModel
    source_sha256: str | None = None
    weights_are_upstreams: bool = True

    @classmethod
    def of(cls, published, **fields):
        """The card as it is before anybody converted the weights, or with fields changed."""
        native = {
            "MAEForPreTraining": "ViTMAEForPreTraining",
            "MAEModel": "ViTModel",
            "MAEForImageClassification": f"{'Beit' if published.config.pooling == 'mean' else 'ViT'}ForImageClassification",
        }[published.architecture]
        facts = {
            "folder": f"{ORGANIZATION}/{published.hub_name}",
            "config": published.config,
            "native": native,
            "license": published.license,
        }
        if published.kind != "pretrain":
            src = f"https://huggingface.co/{fields.get('folder', facts['folder'])}/resolve/main/examples/{EXAMPLE}"
            facts["examples"] = [Example(src=src, title="temple")]
        return cls(published=published, **{**facts, **fields})

    @property
    def architecture(self):
        return self.published.architecture

    @property
    def below(self):
        """The pre-trained model that a classifier starts from, or None."""
        return ZOO.get(self.published.starts_from)

    @property
    def organization(self):
        return self.folder.rpartition("/")[0] or ORGANIZATION

    @property
    def source(self):
        return SOURCES[self.published.source]

    @property
    def title(self):
        what = {
            "pretrain": "Masked Autoencoder",
            "finetune": "fine-tuned classifier",
            "linear_probe": "linear probe",
        }
        name = f"ViT-{self.published.size.title()}/{self.config.patch_hw[0]}"
        at = f" at {self.published.image_size} px" * (self.published.image_size != 224)
        return f"{name}, {what[self.published.kind]}{at}, ImageNet-1k ({self.published.source})"

    @property
    def introduction(self):
        decoder = (
            "encoder and decoder"
            if self.published.has_decoder
            else "the encoder alone, without its decoder"
        )
        epochs = f" for {self.published.epochs} epochs" if self.published.epochs else ""
        target = (
            "patches normalised by their own mean and deviation"
            if self.published.norm_pix_loss
            else "plain pixels"
        )
        what = {
            "pretrain": f"A Masked Autoencoder ({MAE}), {decoder}, trained{epochs} without "
            "labels on ImageNet-1k to fill in "
            f"images of which 75 % was hidden; its targets were {target}.",
            "finetune": "A Vision Transformer that tells ImageNet-1k's thousand classes, "
            "pre-trained as a Masked "
            f"Autoencoder ({MAE}) and then fine-tuned{epochs}, on the mean of the patch tokens.",
            "linear_probe": "A linear classifier of ImageNet-1k's thousand classes, "
            f"trained{epochs} on the frozen class "
            f"token of a Masked Autoencoder ({MAE}). It measures the features; fine-tuned models "
            "classify better.",
        }
        return what[self.published.kind]

    @property
    def data(self):
        fields = {"datasets": ["imagenet-1k"]}
        if self.below:
            fields["base_model"] = f"{self.organization}/{self.below.hub_name}"
            fields["base_model_relation"] = "finetune"
        if self.published.top1 and self.weights_are_upstreams:
            fields["model_name"] = self.published.hub_name
            fields["eval_results"] = [
                EvalResult(
                    task_type="image-classification",
                    dataset_type="imagenet-1k",
                    dataset_name="ImageNet-1k",
                    dataset_split="validation",
                    metric_type="accuracy",
                    metric_name=f"top-1 accuracy, as reported by {self.published.source}",
                    metric_value=self.published.top1,
                    source_name=self.published.source,
                    source_url=self.source["url"],
                )
            ]
        return fields

    @property
    def sections(self):
        return {
            "Use": self.usage,
            "Results": self.results,
            "Training": self.training,
            "Evaluation": self.evaluation,
            "Size": self.size,
            "Limits": self.limits,
            "Whose weights, and licence": self.origin,
            "Citation": CITATION,
            "Picture": "The example is a photograph by danielbuechele (CC BY 2.0), from "
            "scikit-learn."
            if self.examples
            else None,
        }

    @property
    def results(self):
        reported = (
            f"as reported by [{self.published.source}]({self.source['url']}), not measured again"
        )
        if self.is_classifier and not self.weights_are_upstreams:
            theirs = f"reports {self.published.top1:g} % for its own, which it didn't publish"
            return f"These weights were not measured; {self.published.source} {theirs}."
        if self.is_classifier:
            return f"ImageNet-1k top-1 accuracy: {self.published.top1:g} %, {reported}."
        rows = [m for m in ZOO.values() if m.starts_from == self.published.name]
        if not rows:
            return None
        lines = [
            f"| [{m.hub_name}](https://huggingface.co/{self.organization}/{m.hub_name}) | "
            f"{m.top1:g} |"
            for m in sorted(rows, key=lambda m: KINDS.index(m.kind))
        ]
        head = f"ImageNet-1k top-1 accuracy in % of classifiers that start from it, {reported}:"
        return "\n".join([head, "", "| classifier | top-1 |", "|---|---|", *lines])

    @property
    def training(self):
        if self.published.recipe is None:
            return "Its authors don't say for how many epochs it was trained, or how."
        name, kind = self.published.recipe, self.published.kind
        start = (
            f" \\\n    --model_name_or_path {self.organization}/{self.below.hub_name}"
            if self.below
            else ""
        )
        launch = f"accelerate launch --num_processes {_PROCESSES.get(name, 8)}"
        command = (
            f"{launch} scripts/{_SCRIPTS[kind]} scripts/recipes/{name}.yaml"
            f"{start} \\\n    --dataset_name {IMAGENET_HUB_ID} --output_dir runs/{self.published.hub_name}"
        )
        theirs = ""
        if self.published.source == "facebookresearch" and kind == "pretrain":
            theirs = " (its authors trained it by TensorFlow on TPUs, and converted it)"
        return f"hf_mae's recipe `{name}` is of the same training{theirs}:\n\n```\n{command}\n```"

    @property
    def evaluation(self):
        if self.is_classifier:
            command = (
                f"python scripts/run_eval.py --model_name_or_path {self.folder} --dataset_name "
                f"{IMAGENET_HUB_ID}"
            )
            return f"With hf_mae, on the 50,000 validation images:\n\n```\n{command}\n```"
        recipe = {"base": "linear_probe/vit-base-90e", "large": "linear_probe/vit-large-90e"}.get(
            self.published.size
        )
        recipe, script = (
            (recipe, "run_linear_probe.py")
            if recipe
            else ("finetune/vit-huge-50e", "run_finetune.py")
        )
        command = (
            f"accelerate launch --num_processes 8 scripts/{script} scripts/recipes/{recipe}.yaml "
            "\\\n"
            f"    --model_name_or_path {self.folder} --dataset_name {IMAGENET_HUB_ID} --output_dir "
            "runs/evaluation"
        )
        return f"By the accuracy of a classifier on it:\n\n```\n{command}\n```"

    @property
    def limits(self):
        lines = [
            "- It has seen ImageNet-1k's photographs only, with what that set over- and "
            "under-represents."
        ]
        if self.is_classifier:
            lines.append(
                "- It gives each image one of ImageNet's thousand classes, whatever is on it."
            )
            return "\n".join(lines)
        if self.native == "ViTMAEForPreTraining":
            lines.append(
                "- `AutoModel` makes a `ViTMAEModel` of it, which hides 75 % of the patches and "
                "shuffles the rest. For "
                "features use `ViTModel`, as above (it warns of the other model type and of the "
                "decoder's weights, which it "
                "leaves aside), or hf_mae's `MAEModel`."
            )
            if self.published.norm_pix_loss:
                lines.append(
                    "- It predicts normalised patches: pictures made of them borrow each patch's "
                    "brightness and contrast "
                    "from the original, and without that look like noise."
                )
        else:
            lines.append(
                "- Without a decoder it fills nothing in; in plain transformers its "
                "`pooler_output` is the class token."
            )
        lines.append(
            "- Its features are for a classifier to be trained on them; they are not aligned with "
            "words."
        )
        return "\n".join(lines)

    @property
    def origin(self):
        published, url = self.published, self.source["url"]
        name = f"`{published.name}`"
        if published.url:
            text = (
                f"The weights are those of {self.source['authors']}, published as "
                f"[{name}]({published.url})"
            )
            text += f" ({published.digest.replace(':', ' ')}…)" if published.digest else ""
            text += ". hf_mae's `convert_checkpoint.py` converts them, and refuses if a tensor is left over, missing or of "
            text += "another shape."
        else:
            authors = self.source["authors"]
            text = (
                f"{authors[0].upper()}{authors[1:]} published this result, as {name}, without the "
                "weights. Whoever "
                "publishes some under this name says where they come from."
            )
        if self.source_sha256:
            text += f" The converted file's SHA-256 is {self.source_sha256}."
        licence = {
            "apache-2.0": "Apache-2.0",
            "cc-by-nc-4.0": "CC-BY-NC 4.0, which forbids commercial use",
        }
        whose = f"as for all of [{published.source}]({url})'s models"
        whose = whose if self.license == published.license else "as its publisher says"
        return f"{text}\n\nLicence: {licence.get(self.license, self.license)}, {whose}."


def zoo_table():
    """The published models as a Markdown table for the README."""
    lines = [
        "| name | kind | parameters | multiply-adds | top-1 | recipe | card |",
        "|---|---|---|---|---|---|---|",
    ]
    for model in ZOO.values():
        parameters, _, work = count(model.config, model.architecture)
        top1 = f"{model.top1:g}" if model.top1 else ""
        recipe = f"`{model.recipe}`" if model.recipe else ""
        weights = "" if model.url else " (results only)"
        cells = (
            f"`{model.hub_name}`{weights}",
            model.kind.replace("_", " "),
            f"{parameters / 1e6:.2f} M",
            f"{work / 1e9:.2f} G",
            top1,
            recipe,
            f"[card](model_cards/{model.hub_name}.md)",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
