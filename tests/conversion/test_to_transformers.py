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
    MAEModel,
    load_classifier,
    predict,
)
from hf_mae.conversion.to_transformers import export
from hf_mae.models.loading import load_model


SHAPES = [(224, 16), (224, 14), (448, 14)]
KINDS = ["pretrain", "mean", "probe", "encoder", "pretrain as vit", "pretrain as vit_mae"]
# those with features in the root
ENCODERS = ("pretrain", "encoder", "as vit")
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
        _, _, as_ = kind.partition(" as ")
        write(model, folder, as_ or None)
        processor = MAEImageProcessor.from_pretrained(folder)
        # already of the edge's length: PIL and torchvision resize a bit apart
        edge = processor.size.shortest_edge
        picture = photos[0].resize((round(edge * 1.5), edge))
        (picture.convert("L") if kind.startswith("grey") else picture).save(root / f"{name}.png")
        images = torch.randn(2, model.config.num_channels, image_size, image_size)
        noise = torch.rand(2, model.config.num_patches)
        inputs = {"pixel_values": images}
        if kind.startswith("grey") and as_ != "vit_mae":  # plain transformers takes these as RGB
            inputs["pixel_values"] = images.expand(-1, 3, -1, -1)
        torch.save(inputs, root / f"{name}.pt")
        torch.save({"pixel_values": images, "noise": noise}, root / f"{name}.masked.pt")
        inputs["noise"] = noise
        cases[kind, image_size, patch_size] = (
            folder,
            model,
            processor,
            inputs,
            root / f"{name}.png",
        )
    return cases


def requests_for(kind, folder, image):
    features = [{"do": "AutoModel"}, {"do": "image-feature-extraction"}]
    classes = [{"do": "AutoModelForImageClassification"}, {"do": "image-classification"}]
    whole = {"do": "AutoModelForPreTraining"}
    asked = {
        "pretrain": [
            *features,
            {**whole, "subfolder": "pretraining"},
            {"do": "run_image_classification"},
        ],
        "mean": classes,
        "probe": classes,
        "encoder": features,
        "pretrain as vit": features,
        "pretrain as vit_mae": [whole],
    }[kind.removeprefix("grey ")]
    for request in asked:
        request["folder"] = str(folder)
        if request["do"] == "AutoModelForPreTraining":
            request["inputs"] = f"{folder}.masked.pt"
        elif request["do"].startswith("Auto"):
            request["inputs"] = f"{folder}.pt"
        elif request["do"].startswith("image-"):
            request["image"] = str(image)
        yield request


@pytest.fixture(scope="module", params=["pinned", "4.57"])
def answers(request, cases, tmp_path_factory):
    """(case, what) → what plain transformers answers."""
    requests, keys = [], []
    for case, (folder, _, _, _, image) in cases.items():
        for asked in requests_for(case[0], folder, image):
            requests.append(asked)
            keys.append((*case, asked["do"]))
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


@pytest.mark.parametrize(
    "case", [case for case in CASES if case[0].endswith(("pretrain", "as vit_mae"))], ids=str
)
@torch.no_grad()
def test_pre_training(cases, answers, case):
    folder, model, _, inputs, _ = cases[case]
    images = inputs["pixel_values"][:, : model.config.num_channels]
    found = answers[(*case, "AutoModelForPreTraining")]
    assert (found["class"], found["missing"]) == ("ViTMAEForPreTraining", [])
    for whole in (model, MAEForPreTraining.from_pretrained(folder).eval()):
        ours = whole(images, noise=inputs["noise"])
        close(ours.loss, found["loss"])
        close(ours.logits, found["logits"])


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
    pixel_values = processor(Image.open(image), return_tensors="pt").pixel_values
    logits = model(pixel_values[:, : model.config.num_channels]).logits
    probabilities = logits.softmax(dim=1)[0]
    theirs = answers[(*case, "image-classification")]
    close(probabilities, torch.tensor([theirs[name] for name in NAMES.values()]))


@pytest.mark.parametrize("case", [case for case in CASES if case[0].endswith(ENCODERS)], ids=str)
@torch.no_grad()
def test_encoders(cases, answers, case):
    """Ordered features of every patch, from the root, with no flag."""
    folder, model, processor, inputs, image = cases[case]
    encoder = getattr(model, "vit", model)
    found = answers[(*case, "AutoModel")]
    assert (found["class"], found["missing"]) == ("ViTModel", [])
    images = inputs["pixel_values"]
    ours = encoder(images[:, : model.config.num_channels]).last_hidden_state
    close(ours, found["last_hidden_state"])
    close(ours[:, 0], found["pooler_output"])  # the class token, not a random projection of it
    close(MAEModel.from_pretrained(folder).eval()(images).last_hidden_state, ours)
    pixel_values = processor(Image.open(image), return_tensors="pt").pixel_values
    features = encoder(pixel_values[:, : model.config.num_channels]).last_hidden_state
    close(features, answers[(*case, "image-feature-extraction")])


@pytest.mark.parametrize("case", [("pretrain", 224, 14), ("grey pretrain", 224, 16)], ids=str)
def test_a_classifier_starts_from_the_root(answers, case):
    """In transformers' own example, whose crop is what the processor resizes to."""
    found = answers[(*case, "run_image_classification")]
    assert found["class"] == "ViTForImageClassification"
    assert found["losses"][-1] < 0.5 * found["losses"][0]


@pytest.mark.parametrize("kind", ["pretrain", "grey pretrain", "encoder", "mean"])
def test_sizes_of_the_processor(kind, tmp_path):
    """The model's where it is for training; a classifier's margin stays."""
    _, result = write(make(kind), tmp_path)
    for place in result.architectures:
        written = json.loads((tmp_path / place / "preprocessor_config.json").read_text())
        edge = 37 if kind == "mean" else 32
        assert written["size"] == {"shortest_edge": edge}
        assert written["crop_size"] == {"height": 32, "width": 32}
    assert bool(result.notes) == (kind != "mean")


def test_one_of_the_two_alone(tmp_path):
    model = make("pretrain")
    save(model, tmp_path / "own")
    flags = [f"--model_name_or_path={tmp_path / 'own'}"]
    for as_, native in (("vit", "ViTModel"), ("vit_mae", "ViTMAEForPreTraining")):
        folder = tmp_path / as_
        printed = run_script("export.py", *flags, f"--as={as_}", f"--output_dir={folder}")
        assert f"{native} in {folder}" in printed
        assert json.loads((folder / "config.json").read_text())["architectures"] == [native]
        assert not (folder / "pretraining").exists()
    printed = run_script("export.py", *flags, f"--output_dir={tmp_path / 'both'}")
    assert "ViTModel in " in printed
    assert f"ViTMAEForPreTraining in {tmp_path / 'both' / 'pretraining'}" in printed
    assert "note: the image processor resizes to {'shortest_edge': 32}" in printed
    # a decoder of another's is not left below
    assert "pretraining is there already" in script_error(
        "export.py", *flags, "--as=vit", f"--output_dir={tmp_path / 'both'}"
    )
    with pytest.raises(ValueError, match="a MAEModel, without a decoder; 'vit_mae' is for pre-"):
        write(make("encoder"), tmp_path / "none", "vit_mae")
    with pytest.raises(ValueError, match="as_ is 'beit'; it must be 'vit', 'vit_mae' or None"):
        write(model, tmp_path / "none", "beit")


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
        ("pretrain", {"mask_strategy": "block"}),
        ("pretrain", {"decoder_type": "cross", "decoder_layer_mixing": True}),
        ("mean", {"decoder_type": "cross", "mask_strategy": "block", "mask_block_size": 2}),
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
    said = " ".join(result.notes)
    keeps_decoder = config.decoder_type == "self"
    assert ("no cross-attention decoder" in said) == (kind == "pretrain" and not keeps_decoder)
    blocks = kind == "pretrain" and config.mask_strategy == "block"
    assert ("was trained with mask_strategy 'block' isn't kept" in said) == blocks


@pytest.mark.parametrize(
    ("as_", "outputs"), [(None, "last_hidden_state"), ("vit_mae", "loss|logits")]
)
def test_the_check_notices_a_wrong_weight(as_, outputs, tmp_path, monkeypatch):
    def broken(tensors, folder, really=export.__globals__["save_torch_state_dict"]):
        (name,) = [name for name in tensors if name.endswith("encoder.layer.1.output.dense.bias")]
        tensors[name] = tensors[name] + 0.1 * torch.eye(48)[7]
        really(tensors, folder)

    monkeypatch.setattr("hf_mae.conversion.to_transformers.save_torch_state_dict", broken)
    with pytest.raises(
        ValueError, match=f"gives other ({outputs}) than ours: they differ by .*don't use it"
    ):
        write(make("pretrain"), tmp_path, as_)


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
        write(make("mean"), tmp_path, "vit")
    write(make("probe"), tmp_path, "vit")


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
    _, result = write(again, tmp_path / "again")
    for place in result.architectures:
        weights = [tmp_path / name / place / "model.safetensors" for name in ("native", "again")]
        assert weights[0].read_bytes() == weights[1].read_bytes()


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
