import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from helpers import GOLDEN, ROOT, run_script
from huggingface_hub import ModelCard
from jinja2 import UndefinedError
from PIL import Image
from tiny_models import OLDEST, make, write

from hf_mae import MAEConfig, MAEForImageClassification, MAEForPreTraining, MAEImageProcessor
from hf_mae.conversion.zoo import ZOO
from hf_mae.hub.cards import (
    ClassifierCard,
    Example,
    PlainCard,
    PreTrainingCard,
    ZooCard,
    load_training_card,
    zoo_table,
)
from hf_mae.models.costs import count
from hf_mae.output_folder import OutputFolder


FACTS = {
    "folder": "xrays",
    "dataset": "chest-xrays",
    "config": MAEConfig.from_size("tiny", num_channels=1, norm_pix_loss=True),
    "num_parameters": (5_500_000, 6_543_210),
    "num_train_images": 12_345,
    "num_held_out_images": 678,
    "epochs": 12.5,
    "steps": 2_410,
    "total_batch_size": 64,
    "learning_rate": 3.75e-5,
    "hardware": "1 x NVIDIA H100",
    "versions": "Python 3.12.1, torch 2.15.0",
    "command": "accelerate launch scripts/run_mae.py arguments.yaml --output_dir runs/again",
    "results": {
        "this model": 0.51234,
        "mean of the visible patches": 1.25,
        "best constant patch per image": 0.98765,
    },
    "pictures": ["curves.png", "reconstructions.png"],
}
LABELS = {"id2label": {0: "ill", 1: "well"}, "label2id": {"ill": 0, "well": 1}}
CLASSIFIER_FACTS = {
    **FACTS,
    "config": MAEConfig.from_size("tiny", num_channels=1, **LABELS),
    "results": {"top-1 accuracy": 0.912346},
    "method": "It was trained whole (fine-tuning).",
    "started_from": "mae-xrays",
    "pictures": ["curves.png"],
}


def test_whole_card():
    assert (
        str(PreTrainingCard(**FACTS).render()) == (GOLDEN / "cards" / "pre-trained.md").read_text()
    )


def test_whole_card_of_a_published_classifier():
    published = {
        "folder": "org/xrays",
        "native": "BeitForImageClassification",
        "license": "apache-2.0",
        "hub_dataset": "org/chest-xrays",
        "base_model": "org/mae-xrays",
        "examples": [
            Example(src="https://a/b.png", title="b", output=[{"label": "ill", "score": 0.75}])
        ],
    }
    card = ClassifierCard(**{**CLASSIFIER_FACTS, **published}).render()
    assert str(card) == (GOLDEN / "cards" / "classifier.md").read_text()
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_value, result.metric_name) == (
        "chest-xrays",
        0.91235,
        "top-1 accuracy",
    )


def test_cards_without_held_out_images():
    nothing = {"num_held_out_images": 0, "results": {}, "pictures": []}
    for card in (
        PreTrainingCard(**{**FACTS, **nothing}),
        ClassifierCard(**{**CLASSIFIER_FACTS, **nothing}),
    ):
        text = str(card.render())
        assert "Results" not in text
        assert "](" not in text.split("## Training")[1].split("## Size")[0]
        assert "model-index" not in text


def test_k_nn_accuracy_is_shown_if_it_was_measured():
    line = "k-NN accuracy of the features (cosine, k=20): 81.23 %"
    assert line in str(PreTrainingCard(**FACTS, knn_accuracy=0.81234).render())
    assert "k-NN" not in str(PreTrainingCard(**FACTS).render())


@pytest.mark.parametrize(
    "card",
    [PreTrainingCard(**FACTS), ClassifierCard(**CLASSIFIER_FACTS)],
    ids=lambda c: type(c).__name__,
)
def test_facts_survive_the_folder(card, tmp_path):
    card.save_facts(tmp_path)
    written = OutputFolder.read(tmp_path)
    assert str(load_training_card(written, card.config).render()) == str(card.render())
    again = load_training_card(written, card.config, folder="org/name", license="mit").render()
    assert again.data.license == "mit"
    assert "org/name" in again.text
    (tmp_path / "elsewhere").mkdir()
    assert load_training_card(OutputFolder.read(tmp_path / "elsewhere"), card.config) is None
    for damage in ("{", '{"card": "Other"}', '{"card": "PreTrainingCard", "surplus": 1}', "[1]"):
        (tmp_path / "card.json").write_text(damage)
        with pytest.raises(
            ValueError,
            match=r"card\.json is damaged; without it the card says less, so delete it to go on",
        ):
            load_training_card(OutputFolder.read(tmp_path), card.config)


@pytest.mark.parametrize("card", ["PreTrainingCard", "ClassifierCard"])
def test_a_card_of_earlier_versions_is_read(card, tmp_path):
    """card.json as they wrote it, under the names of the classes then."""
    facts = {"folder": "xrays", "native": None, "license": None, "examples": []}
    facts |= {"dataset": "chest-xrays", "hub_dataset": None, "base_model": None}
    facts |= {"num_parameters": [5_500_000, 6_543_210], "num_train_images": 12_345}
    facts |= {"num_held_out_images": 678, "epochs": 12.5, "steps": 2_410, "total_batch_size": 64}
    facts |= {"learning_rate": 3.75e-5, "hardware": "1 x NVIDIA H100", "versions": "torch 2.15.0"}
    facts |= {"command": "accelerate launch scripts/run_mae.py arguments.yaml"}
    facts |= {"results": {"a": 0.5}, "pictures": ["curves.png"]}
    own = {
        "PreTrainingCard": {"knn_accuracy": None},
        "ClassifierCard": {"method": "It was trained whole.", "started_from": "mae-xrays"},
    }
    (tmp_path / "card.json").write_text(json.dumps({"card": card, **facts, **own[card]}))
    loaded = load_training_card(OutputFolder.read(tmp_path), MAEConfig.from_size("tiny"))
    assert "12,345 images of chest-xrays, 12.5 epochs" in str(loaded.render())


def test_a_name_that_a_template_misspells_is_an_error():
    card = PreTrainingCard(**FACTS)
    del card.hardware
    with pytest.raises(UndefinedError, match="no attribute 'hardware'"):
        card.render()


@pytest.mark.parametrize("architecture", ["MAEForPreTraining", "MAEForImageClassification"])
def test_counts_are_those_of_a_real_model(architecture):
    config = MAEConfig.from_size("tiny", image_size=64, pooling="cls", head_batch_norm=True)
    model = {
        "MAEForPreTraining": MAEForPreTraining,
        "MAEForImageClassification": MAEForImageClassification,
    }[architecture](config)
    parameters = sum(
        tensor.numel() for name, tensor in model.state_dict().items() if "batch_norm" not in name
    )
    assert count(config, architecture)[:2] == (
        parameters,
        sum(t.numel() for t in model.vit.state_dict().values()),
    )


def test_the_zoos_cards_are_the_tables(tmp_path):
    """`make cards` leaves everything as it is."""
    pages = ["published-models.md", "input-and-speed.md"]
    (tmp_path / "docs").mkdir()
    for page in pages:
        shutil.copy(ROOT / "docs" / page, tmp_path / "docs")
    run_script("make/write_cards.py", tmp_path)
    written = {path.name: path.read_text() for path in (tmp_path / "model_cards").glob("*")}
    assert written == {path.name: path.read_text() for path in (ROOT / "model_cards").glob("*")}, (
        "make cards"
    )
    assert set(written) == {f"{model.hub_name}.md" for model in ZOO.values()}
    for page in pages:
        written = (tmp_path / "docs" / page).read_text()
        assert written == (ROOT / "docs" / page).read_text(), "make cards"
    assert zoo_table().count("\n") == 1 + len(ZOO)


@pytest.mark.parametrize("model", ZOO.values(), ids=lambda model: model.hub_name)
def test_metadata_of_the_zoo(model):
    path = ROOT / "model_cards" / f"{model.hub_name}.md"
    metadata = yaml.safe_load(path.read_text().split("---\n")[1])
    data = ModelCard.load(path).data
    assert metadata["library_name"] == "transformers"
    assert (
        metadata["license"]
        == {"mmpretrain": "apache-2.0", "facebookresearch": "cc-by-nc-4.0"}[model.source]
    )
    assert metadata["datasets"] == ["imagenet-1k"]
    assert "masked-autoencoder" in metadata["tags"]
    text = path.read_text()
    for heading in (
        "Use",
        "Training",
        "Evaluation",
        "Size",
        "Limits",
        "Whose weights, and licence",
        "Citation",
    ):
        assert f"\n## {heading}\n" in text
    if model.kind == "pretrain":
        assert metadata["pipeline_tag"] == "image-feature-extraction"
        assert "model-index" not in metadata
        assert "base_model" not in metadata
    else:
        assert metadata["pipeline_tag"] == "image-classification"
        assert metadata["base_model"] == f"hf-mae/{ZOO[model.starts_from].hub_name}"
        assert metadata["base_model_relation"] == "finetune"
        (result,) = data.eval_results
        assert (result.metric_value, result.source_name) == (model.top1, model.source)
        assert "as reported by" in result.metric_name
        assert result.source_url.startswith("https://github.com/")
        assert metadata["widget"][0]["src"].endswith(
            f"{model.hub_name}/resolve/main/examples/china.jpg"
        )
    assert (model.url or "without the weights") in text
    assert (model.digest or ":").split(":")[1] in text


def test_published_figures_on_the_cards():
    text = str(ZooCard.of(ZOO["mae_vit-huge-p16_8xb512-amp-coslr-1600e_in1k"]).render())
    assert "657.07 M parameters, 630.76 M of them in the encoder" in text
    assert "167.40 G multiply-adds" in text
    assert (
        "| "
        "[vit-huge-p14-mae-in1k-448px](https://huggingface.co/hf-mae/vit-huge-p14-mae-in1k-448px) "
        "| 87.3 |" in text
    )


def blocks_of_python(card):
    return re.findall(r"```python\n(.*?)```", str(card.render()), flags=re.S)


@pytest.mark.parametrize("transformers", ["pinned", "4.57"])
def test_grey_models_code_for_plain_transformers(transformers, tmp_path):
    """As it stands on the card, in a process without hf_mae, on grey pictures and on others."""
    if transformers == "4.57" and not OLDEST.is_dir():
        pytest.skip("make oldest-transformers installs it")
    code = f"import os, sys\nsys.modules['hf_mae'] = None\nos.chdir({str(tmp_path)!r})\n"
    for kind in ("pretrain", "mean", "encoder"):
        model = make(f"grey {kind}")
        _, result = write(model, tmp_path / kind)
        card = PlainCard(
            folder=str(tmp_path / kind),
            native=result.architecture,
            config=model.config,
            class_name=type(model).__name__,
        )
        assert "It was trained on grey pictures" in str(card.render())
        for mode in ("L", "RGB"):
            code += f"os.symlink('{mode}.jpg', 'picture.jpg')\n"
            code += f"{blocks_of_python(card)[0]}\nos.unlink('picture.jpg')\n"
    for mode in ("L", "RGB"):
        Image.new(mode, (60, 40), "gray").save(tmp_path / f"{mode}.jpg")
    path = {"PYTHONPATH": str(OLDEST)} if transformers == "4.57" else {}
    environment = {**os.environ, **path}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
@pytest.mark.parametrize("kind", ["pretrain", "mean", "encoder"])
def test_our_own_code_takes_any_channels(kind, channels, tmp_path, monkeypatch):
    model = make(kind, num_channels=channels)
    model.save_pretrained(tmp_path / "own")
    MAEImageProcessor.from_model_config(model.config).save_pretrained(tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (60, 40), "red").save("picture.jpg")
    np.save("picture.npy", np.zeros((40, 60, channels), np.uint8))
    card = PlainCard(
        folder=str(tmp_path / "own"), config=model.config, class_name=type(model).__name__
    )
    (block,) = blocks_of_python(card)
    exec(block, names := {})
    if channels == 5:
        assert "picture.npy" in block
    if kind == "mean" and channels == 5:
        assert names["logits"].shape == (1, 10)
    elif kind != "mean":
        assert names["features"].shape == (1, 17, 48)
