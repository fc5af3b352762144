"""What plain transformers, the pinned and the oldest, makes of an exported folder, is what we make
of the model."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT, TINY, run_script, script_error
from PIL import Image
from tiny_models import NAMES, OLDEST, make, save, shaken, write
from transformers import ViTConfig, ViTModel, pipeline

from hf_mae import (
    MAEConfig,
    MAEForImageClassification,
    MAEForPreTraining,
    MAEImageProcessor,
    load_classifier,
    predict,
)
from hf_mae.conversion.to_transformers import export
from hf_mae.models.loading import load_model


SHAPES = [(224, 16), (224, 14), (448, 14)]
KINDS = ["pretrain", "mean", "probe", "encoder", "pretrain as vit"]
CASES = [(kind, *shape) for kind in KINDS for shape in SHAPES] + [
    (f"grey {kind}", 224, 16) for kind in KINDS
]


@pytest.fixture(scope="module")
def cases(tmp_path_factory, photos):
    """(kind, shape) → folder, what we compute; every folder is written once."""
    root, cases = tmp_path_factory.mktemp("native"), {}
    for kind, image_size, patch_size in CASES:
        model = make(kind, image_size, patch_size, norm_pix_loss=image_size == 448)
        name = f"{kind.replace(' ', '-')}-{image_size}-{patch_size}"
        folder = root / name
        processor, _ = write(model, folder, kind.endswith("pretrain as vit"))
        edge = (
            processor.size.shortest_edge
        )  # already of the edge's length: PIL and torchvision resize a bit apart
        picture = photos[0].resize((round(edge * 1.5), edge))
        (picture.convert("L") if kind.startswith("grey") else picture).save(root / f"{name}.png")
        inputs = {"pixel_values": torch.randn(2, model.config.num_channels, image_size, image_size)}
        if kind.endswith("pretrain"):
            inputs["noise"] = torch.rand(2, model.config.num_patches)
        elif kind.startswith("grey"):  # plain transformers takes these as RGB
            inputs["pixel_values"] = inputs["pixel_values"].expand(-1, 3, -1, -1)
        torch.save(inputs, root / f"{name}.pt")
        cases[kind, image_size, patch_size] = (
            folder,
            model,
            processor,
            inputs,
            root / f"{name}.png",
        )
    return cases


def requests_for(kind, folder, image):
    inputs = str(folder) + ".pt"
    what = {
        "pretrain": ["AutoModel", "AutoModelForPreTraining"],
        "mean": ["AutoModelForImageClassification", "image-classification"],
        "probe": ["AutoModelForImageClassification", "image-classification"],
        "encoder": ["AutoModel", "image-feature-extraction"],
        "pretrain as vit": ["AutoModel", "image-feature-extraction"],
    }[kind.removeprefix("grey ")]
    for do in what:
        yield {
            "do": do,
            "folder": str(folder),
            **({"image": str(image)} if "-" in do else {"inputs": inputs}),
        }


@pytest.fixture(scope="module", params=["pinned", "4.57"])
def answers(request, cases, tmp_path_factory):
    """(case, what) → what plain transformers answers."""
    requests, keys = [], []
    for case, (folder, _, _, _, image) in cases.items():
        for asked in requests_for(case[0], folder, image):
            requests.append(asked)
            keys.append((*case, asked["do"]))
    # without decoder, mask or shuffling: ordered features of a pre-training folder
    folder, _, _, inputs, _ = cases["pretrain", 224, 16]
    torch.save({"pixel_values": inputs["pixel_values"]}, f"{folder}.plain.pt")
    requests.append({"do": "ViTModel", "folder": str(folder), "inputs": f"{folder}.plain.pt"})
    keys.append(("ViTModel",))
    environment = dict(os.environ)
    if request.param == "4.57":
        if not OLDEST.is_dir():
            pytest.skip("make oldest-transformers installs it")
        environment["PYTHONPATH"] = str(OLDEST)
    path = tmp_path_factory.mktemp("answers") / "requests.json"
    path.write_text(json.dumps(requests))
    command = [sys.executable, str(ROOT / "tests" / "native_process.py"), str(path)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=path.parent, timeout=300
    )
    assert done.returncode == 0, done.stderr
    version, *found = torch.load(f"{path}.out")
    assert version["version"].startswith("4.57" if request.param == "4.57" else "5.")
    return dict(zip(keys, found))


def close(ours, theirs):
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", [case for case in CASES if case[0].endswith("pretrain")], ids=str)
@torch.no_grad()
def test_pre_training(cases, answers, case):
    _, model, _, inputs, _ = cases[case]
    ours, found = model(**inputs), answers[(*case, "AutoModelForPreTraining")]
    assert (found["class"], found["missing"]) == ("ViTMAEForPreTraining", [])
    close(ours.loss, found["loss"])
    close(ours.logits, found["logits"])
    latent = answers[(*case, "AutoModel")]
    assert latent["class"] == "ViTMAEModel"
    close(model.vit(**inputs).last_hidden_state, latent["last_hidden_state"])


@torch.no_grad()
def test_ordered_features_of_a_pre_training_folder(cases, answers):
    _, model, _, inputs, _ = cases["pretrain", 224, 16]
    close(
        model.vit(inputs["pixel_values"]).last_hidden_state,
        answers["ViTModel",]["last_hidden_state"],
    )


@pytest.mark.parametrize(
    "case", [case for case in CASES if case[0].endswith(("mean", "probe"))], ids=str
)
@torch.no_grad()
def test_classifiers(cases, answers, case):
    _, model, processor, inputs, image = cases[case]
    found = answers[(*case, "AutoModelForImageClassification")]
    native = "Beit" if case[0].endswith("mean") else "ViT"
    assert (found["class"], found["missing"]) == (f"{native}ForImageClassification", [])
    close(model(inputs["pixel_values"][:, : model.config.num_channels]).logits, found["logits"])
    probabilities = model(**processor(Image.open(image), return_tensors="pt")).logits.softmax(
        dim=1
    )[0]
    theirs = answers[(*case, "image-classification")]
    close(probabilities, torch.tensor([theirs[name] for name in NAMES.values()]))


@pytest.mark.parametrize(
    "case", [case for case in CASES if case[0].endswith(("encoder", "as vit"))], ids=str
)
@torch.no_grad()
def test_bare_encoders(cases, answers, case):
    _, model, processor, inputs, image = cases[case]
    encoder = getattr(model, "vit", model)
    found = answers[(*case, "AutoModel")]
    assert (found["class"], found["missing"]) == ("ViTModel", [])
    ours = encoder(inputs["pixel_values"][:, : model.config.num_channels]).last_hidden_state
    close(ours, found["last_hidden_state"])
    close(ours[:, 0], found["pooler_output"])  # the class token, not a random projection of it
    features = encoder(**processor(Image.open(image), return_tensors="pt")).last_hidden_state
    close(features, answers[(*case, "image-feature-extraction")])


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("mean", {"qkv_bias": False}),
        ("probe", {"qkv_bias": False}),
        ("pretrain", {"qkv_bias": False}),
        ("mean", {"num_channels": 1}),
        ("pretrain", {"num_channels": 1, "norm_pix_loss": True}),
        ("probe", {"num_channels": 1, "pooling": "cls", "head_batch_norm": True}),
        ("probe", {"pooling": "cls", "head_batch_norm": False}),
        ("mean", {"head_batch_norm": True}),
        (
            "mean",
            {
                "layer_norm_eps": 1e-3,
                "hidden_act": "relu",
                "drop_path_rate": 0.3,
                "hidden_dropout_prob": 0.2,
            },
        ),
        ("pretrain", {"mask_ratio": 0.5, "layer_norm_eps": 1e-12}),
    ],
    ids=str,
)
def test_every_kind_of_configuration(kind, fields, tmp_path):
    """`export` itself compares; here it has to agree."""
    config = MAEConfig(**{**TINY, **fields, "num_labels": 10})
    model = shaken((MAEForPreTraining if kind == "pretrain" else MAEForImageClassification)(config))
    _, result = write(model.train(), tmp_path)
    assert model.training
    assert result.differences
    assert all(difference < 1e-5 for difference in result.differences.values())


def test_the_check_notices_a_wrong_weight(tmp_path, monkeypatch):
    def broken(tensors, folder, really=export.__globals__["save_torch_state_dict"]):
        name = "vit.encoder.layer.1.output.dense.bias"
        tensors[name] = tensors[name] + 0.1 * torch.eye(48)[7]
        really(tensors, folder)

    monkeypatch.setattr("hf_mae.conversion.to_transformers.save_torch_state_dict", broken)
    with pytest.raises(
        ValueError, match="gives other (loss|logits) than ours: they differ by .*don't use it"
    ):
        write(make("pretrain"), tmp_path)


@pytest.mark.parametrize(
    "fields", [{"image_size": (32, 64)}, {"patch_size": (8, 16), "image_size": 32}], ids=str
)
def test_rectangles_stay_ours(fields, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"(image|patch)_size is \d+ x \d+; transformers' own models take squares only",
    ):
        write(make("pretrain", **fields), tmp_path)


def test_other_channels_stay_ours(tmp_path):
    with pytest.raises(
        ValueError,
        match="num_channels is 4; transformers' own image processors take 1 and 3: this one stays",
    ):
        write(make("pretrain", num_channels=4), tmp_path)


@pytest.mark.parametrize("kind", ["mean", "grey mean", "grey pretrain"])
def test_the_check_notices_another_processor(kind, tmp_path, monkeypatch):
    really = export.__globals__["_native_processor"]

    def brighter(processor, num_channels):
        native = really(processor, num_channels)
        native.image_mean = [mean + 1e-3 for mean in native.image_mean]
        return native

    monkeypatch.setattr("hf_mae.conversion.to_transformers._native_processor", brighter)
    with pytest.raises(
        ValueError,
        match="transformers' image processor makes other pixels of a picture than ours; don't",
    ):
        write(make(kind), tmp_path)


@pytest.mark.parametrize(
    "damage", ["{", "[1]", '{"size": {"longest_edge": 37}}', '{"image_mean": [0.5]}']
)
def test_a_damaged_processor_is_no_missing_one(damage, tmp_path):
    make("mean").save_pretrained(tmp_path / "own")
    (tmp_path / "own" / "preprocessor_config.json").write_text(damage)
    flags = [f"--model_name_or_path={tmp_path / 'own'}", f"--output_dir={tmp_path / 'out'}"]
    assert re.search(
        r"(preprocessor_config|valid JSON|image processor)", script_error("export.py", *flags)
    )
    (tmp_path / "own" / "preprocessor_config.json").unlink()
    assert load_model(tmp_path / "own")[1].crop_size.height == 32
    (tmp_path / "own" / "config.json").write_text("[]")
    assert "config.json" in script_error("export.py", *flags)


def test_anothers_pooler_is_not_dropped(tmp_path):
    ViTModel(
        ViTConfig(**{k: v for k, v in TINY.items() if not k.startswith("decoder")})
    ).save_pretrained(tmp_path / "vit")
    with pytest.raises(
        ValueError,
        match="holds a ViTModel of another's, with a trained pooler, which ours don't have",
    ):
        load_model(tmp_path / "vit")


def test_a_mean_pool_classifier_has_no_bare_encoder(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"no final norm \(a mean-pool classifier's.*export the pre-trained model below it",
    ):
        write(make("mean"), tmp_path, bare_encoder=True)
    write(make("probe"), tmp_path, bare_encoder=True)


def test_the_processor_is_the_folders_own(tmp_path):
    model = make("mean")
    model.save_pretrained(tmp_path / "own")
    MAEImageProcessor(
        size={"shortest_edge": 40},
        crop_size={"height": 32, "width": 32},
        image_mean=[0.1, 0.2, 0.3],
    ).save_pretrained(tmp_path / "own")
    run_script(
        "export.py", f"--model_name_or_path={tmp_path / 'own'}", f"--output_dir={tmp_path / 'out'}"
    )
    written = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert (written["image_processor_type"], written["size"]) == (
        "BitImageProcessor",
        {"shortest_edge": 40},
    )
    assert written["image_mean"] == [0.1, 0.2, 0.3]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"]["3"] == "kind 3"
    # and a native folder can be exported again, if we can read it
    model = make("pretrain")
    write(model, tmp_path / "native")
    again, _ = load_model(tmp_path / "native")
    assert write(again, tmp_path / "again")[1].architecture == "ViTMAEForPreTraining"
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "native" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("image_size", [32, 224])
def test_a_published_classifier_s_pipeline_on_odd_sizes(image_size, photos, tmp_path):
    """transformers' pipeline() and ours crop and resize at the same pixels, however odd."""
    model = make("mean", image_size=image_size, patch_size=image_size // 4)
    write(model, tmp_path / "native")
    save(model, tmp_path / "own")
    classify = pipeline("image-classification", str(tmp_path / "native"))
    ours = load_classifier(tmp_path / "own")
    rng = np.random.default_rng(0)
    sizes = [(100, 147), (147, 100), *rng.integers(33, 420, (198 if image_size == 32 else 20, 2))]
    path = tmp_path / "photo.jpg"
    for i, (width, height) in enumerate(sizes):
        left, top = (int(rng.integers(5)) for _ in range(2))
        photos[i % 2].crop((left, top, left + int(width), top + int(height))).save(path)
        expected = {row["label"]: row["score"] for row in classify(str(path), top_k=10)}
        found = {row["label"]: row["score"] for row in predict(*ours, path, top_k=10)}
        assert found == pytest.approx(expected, abs=1e-5), (width, height)


def test_script_says_what_is_wrong(tmp_path):
    make("mean").save_pretrained(tmp_path / "own")
    write(make("mean"), tmp_path / "beit")
    for source, target, message in [
        (
            tmp_path / "own",
            tmp_path / "own",
            "is the model's own folder, which would be overwritten",
        ),
        (
            tmp_path / "beit",
            tmp_path / "out",
            "holds BeitForImageClassification; there must be one of MAEForPreTraining",
        ),
        (tmp_path / "missing", tmp_path / "out", "missing"),
        (tmp_path / "own", tmp_path / "own" / "config.json", "File exists"),
    ]:
        assert message in script_error(
            "export.py", f"--model_name_or_path={source}", f"--output_dir={target}"
        )
