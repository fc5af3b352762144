"""The one door: what comes in, and what is refused by name."""

import json

import pytest
import torch
from helpers import TINY, script_error
from safetensors.torch import load_file, save_file
from tiny_models import make, save, write

from hf_mae import (
    MAEConfig,
    MAEForImageClassification,
    MAEForPreTraining,
    MAEImageProcessor,
    MAEModel,
)
from hf_mae.models.loading import (
    load_as,
    load_classifier,
    load_config,
    load_model,
    load_pretraining_model,
    load_processor,
)


LOADERS = [load_model, load_classifier, load_config, load_pretraining_model]


@pytest.mark.parametrize("load", LOADERS, ids=lambda load: load.__name__)
def test_what_is_no_model_is_named(load, tmp_path):
    with pytest.raises(ValueError, match="a/b/c is neither a folder here nor a Hub id"):
        load("a/b/c")
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"config\.json of .* holds no mapping of fields"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises((ValueError, OSError), match=r"config\.json"):
        load(tmp_path)


@pytest.mark.parametrize("model_class", [MAEModel, MAEForImageClassification])
def test_an_encoder_alone_is_no_pretraining_model(model_class, tmp_path):
    model_class(MAEConfig(**TINY)).save_pretrained(tmp_path)
    holds = f"is no pre-training model: it holds {model_class.__name__}, which has no decoder"
    with pytest.raises(ValueError, match=holds):
        load_pretraining_model(tmp_path)


def test_pretraining_model(tmp_path):
    """In float32, whatever it was saved in, and in evaluation mode."""
    MAEForPreTraining(MAEConfig(**TINY)).to(torch.bfloat16).save_pretrained(tmp_path)
    for model in (load_pretraining_model(tmp_path), load_model(tmp_path)[0]):
        assert isinstance(model, MAEForPreTraining)
        assert model.dtype == torch.float32
        assert not model.training


def test_load_as_changes_fields(tmp_path):
    MAEForPreTraining(MAEConfig(**TINY)).save_pretrained(tmp_path)
    model = load_as(MAEForPreTraining, tmp_path, image_size=48, mask_ratio=0.5)
    assert (model.config.image_size, model.config.mask_ratio) == (48, 0.5)
    assert load_config(tmp_path).image_size == 32


def test_a_model_of_ours_needs_no_processor_file(tmp_path):
    assert dict(load_processor(tmp_path, MAEConfig(**TINY)).crop_size)["height"] == 32
    with pytest.raises((ValueError, OSError)):
        load_processor(tmp_path)


@pytest.mark.parametrize(
    ("script", "rest"),
    [
        ("reconstruct.py", ["--output=x.png", "x.png"]),
        ("predict.py", ["x.png"]),
        ("run_eval.py", ["--dataset_name=digits", "--use_cpu"]),
    ],
)
def test_scripts_name_a_damaged_file_in_a_line(script, rest, tmp_path):
    """A download that was cut off."""
    model = MAEForPreTraining(MAEConfig(**TINY))
    if script != "reconstruct.py":
        model = MAEForImageClassification(MAEConfig(**TINY))
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    shown = script_error(script, f"--model_name_or_path={tmp_path}", *rest)
    assert shown.startswith(f"{script}: error: ")
    assert len(shown.splitlines()) == 1
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mae", "hidden_size": -1}))
    shown = script_error(script, f"--model_name_or_path={tmp_path}", *rest)
    assert shown.startswith(f"{script}: error: ")


# each kind of tensor of a folder, in our names and in native ones
TENSORS = [
    ("pretrain", "vit.layers.1.mlp.fc1.weight"),
    ("pretrain", "decoder.decoder_pos_embed"),
    ("pretrain", "decoder.mask_token"),
    ("encoder", "embeddings.cls_token"),
    ("mean", "vit.embeddings.position_embeddings"),
    ("mean", "fc_norm.weight"),
    ("probe", "classifier.bias"),
    ("probe", "batch_norm.running_var"),
]
NATIVE_TENSORS = [
    ("pretrain as vit", "encoder.layer.1.intermediate.dense.weight"),
    ("pretrain as vit_mae", "decoder.decoder_layers.0.output.dense.weight"),
    ("mean", "beit.encoder.layer.0.layernorm_after.bias"),
    ("probe", "vit.layernorm.weight"),
]


def damage(folder, what, name):
    """Takes one tensor out of a folder's weights, adds one beside it, or cuts a row off it."""
    tensors = load_file(folder / "model.safetensors")
    if what == "left over":
        tensors[f"{name}_of_another"] = tensors[name].clone()
    else:
        tensor = tensors.pop(name)
        if what == "of another shape":
            tensors[name] = tensor[..., :-1].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("what", ["missing", "left over", "of another shape"])
@pytest.mark.parametrize(("kind", "name"), TENSORS)
def test_wrong_tensors_are_named(kind, name, what, tmp_path):
    """A model with random weights in some place would be exported, and equal to itself."""
    folder = save(make(kind), tmp_path / "own")
    damage(folder, what, name)
    loaders = {"pretrain": load_pretraining_model, "encoder": load_model}
    for load in (load_model, loaders.get(kind, load_classifier)):
        with pytest.raises(ValueError, match=f"doesn't hold the tensors.*{what}: {name}"):
            load(folder)


@pytest.mark.parametrize("what", ["missing", "left over", "of another shape"])
@pytest.mark.parametrize(("kind", "name"), NATIVE_TENSORS)
def test_wrong_tensors_of_native_folders_are_named(kind, name, what, tmp_path):
    write(make(kind), tmp_path / "native", kind.partition(" as ")[2] or None)
    damage(tmp_path / "native", what, name)
    load = load_model if "as" in kind else load_classifier
    with pytest.raises(ValueError, match=f"doesn't hold the tensors.*{what}: "):
        load(tmp_path / "native")


@pytest.mark.parametrize("what", ["missing", "left over"])
def test_the_pooler_of_a_native_encoder_is_whole(what, tmp_path):
    """Ours has none; transformers would make a random one."""
    write(make("encoder"), tmp_path)
    damage(tmp_path, what, "pooler.dense.bias")
    with pytest.raises(ValueError, match=rf"{what}: pooler\.dense\.bias"):
        load_model(tmp_path)


@pytest.mark.parametrize("script", ["export.py", "publish.py"])
def test_scripts_refuse_wrong_tensors(script, tmp_path):
    folder = save(make("pretrain"), tmp_path / "own")
    damage(folder, "missing", "vit.layers.2.attention.q_proj.bias")
    flags = {"export.py": [f"--output_dir={tmp_path / 'out'}"]}
    rest = flags.get(script, ["--repo_id=org/a", "--license=mit", "--dry_run"])
    shown = script_error(script, f"--model_name_or_path={folder}", *rest)
    assert "missing: vit.layers.2.attention.q_proj.bias. It is damaged" in shown
    assert not (tmp_path / "out").exists()


def test_only_a_head_may_be_new(tmp_path):
    """And only where one is wanted."""
    folder = save(make("pretrain"), tmp_path / "pretrain")
    load_as(MAEForImageClassification, folder, num_labels=3)
    damage(folder, "of another shape", "vit.layers.0.mlp.fc2.weight")
    with pytest.raises(ValueError, match=r"of another shape: vit\.layers\.0.*\(48, 191\), not"):
        load_as(MAEForImageClassification, folder, num_labels=3)
    classifier = save(make("mean"), tmp_path / "mean")
    assert load_as(MAEForImageClassification, classifier, num_labels=3).config.num_labels == 3
    load_as(MAEForImageClassification, classifier, pooling="cls", head_batch_norm=True)
    damage(classifier, "missing", "classifier.weight")
    with pytest.raises(ValueError, match=r"missing: classifier\.weight"):
        load_as(MAEForImageClassification, classifier)
    with pytest.raises(ValueError, match="no pre-training model: it lacks"):
        load_as(MAEForPreTraining, classifier)


@pytest.mark.parametrize("kind", ["pretrain", "grey pretrain"])
@torch.no_grad()
def test_the_decoder_is_found_below_the_encoder(kind, tmp_path, monkeypatch):
    """In a folder here, and without a word to a network."""
    monkeypatch.setattr("hf_mae.models.model_files.hf_hub_download", None)
    model = make(kind)
    write(model, tmp_path)
    images = torch.randn(2, model.config.num_channels, 32, 32)
    noise = torch.rand(2, 16)
    ours = model(images, noise=noise).logits
    doors = {
        "class": MAEForPreTraining.from_pretrained,
        "load_model": lambda folder: load_model(folder)[0],
        "load_as": lambda folder: load_as(MAEForPreTraining, folder),
        "load_pretraining_model": load_pretraining_model,
        "explicit": lambda folder: MAEForPreTraining.from_pretrained(folder / "pretraining"),
    }
    for name, load in doors.items():
        logits = load(tmp_path).eval()(images, noise=noise).logits
        torch.testing.assert_close(logits, ours, rtol=0, atol=1e-5, msg=name)
    assert load_config(tmp_path).decoder_hidden_size == 32
    assert load_config(tmp_path).num_channels == model.config.num_channels
    found, processor = load_model(tmp_path)
    assert len(processor.image_mean) == found.config.num_channels
    assert isinstance(load_processor(tmp_path, found.config), MAEImageProcessor)
    # the root is what others read
    assert MAEModel.from_pretrained(tmp_path).config.architectures == ["ViTModel"]
    assert load_as(MAEForImageClassification, tmp_path, num_labels=2).config.num_channels == 3


def test_a_given_subfolder_wins(tmp_path):
    write(make("pretrain"), tmp_path)
    another = make("pretrain", num_hidden_layers=2)
    save(another, tmp_path / "another")
    found = MAEForPreTraining.from_pretrained(tmp_path, subfolder="another")
    assert found.config.num_hidden_layers == 2
    assert MAEForPreTraining.from_pretrained(tmp_path).config.num_hidden_layers == 3
