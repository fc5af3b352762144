"""Weights of transformers' own models, with and without their configuration."""

import json

import pytest
import torch
from helpers import GOLDEN, TINY, run_script
from safetensors.torch import load_file, save_file
from tiny_models import HEADS, make, write
from transformers import ViTConfig, ViTForImageClassification, ViTMAEConfig, ViTMAEForPreTraining

from hf_mae.conversion.checkpoint_files import read_checkpoint
from hf_mae.conversion.from_others import convert
from hf_mae.conversion.to_transformers import export
from hf_mae.models.loading import load_model


@pytest.mark.parametrize("spelling", ["old", "as transformers saves it", "as it is in memory"])
@torch.no_grad()
def test_vit_mae_and_back(spelling, tmp_path, golden):
    """Theirs → ours → theirs, through weights in each spelling of the keys."""
    model = convert(*read_checkpoint(GOLDEN / "facebook_mae.pth"), **HEADS).model
    _, processor = load_own_of(model, tmp_path / "own")
    export(model, processor, tmp_path / "native", "vit_mae")
    native = ViTMAEForPreTraining.from_pretrained(tmp_path / "native").eval()
    if spelling == "as it is in memory":
        save_file(
            {k: t.contiguous() for k, t in native.state_dict().items()},
            tmp_path / "native" / "model.safetensors",
        )
    elif spelling == "as transformers saves it":
        native.save_pretrained(tmp_path / "native")
    names = load_file(tmp_path / "native" / "model.safetensors")
    mark = {
        "old": "decoder_layers.0.attention.attention.query",
        "as it is in memory": "decoder_layers.0.attention.q_proj",
    }
    assert any(mark.get(spelling, "decoder_encoder.layer.0.") in name for name in names)
    tensors, extras = read_checkpoint(tmp_path / "native" / "model.safetensors")
    extras["config"] = json.loads((tmp_path / "native" / "config.json").read_text())
    again = convert(tensors, extras)
    golden = golden("facebook_mae")
    for side in (again.model, native):
        pred = side(golden["pixel_values"], noise=golden["noise"]).logits
        torch.testing.assert_close(pred, golden["pred"], rtol=0, atol=1e-5)
    assert again.model.config.norm_pix_loss is True  # as the authors' arguments said
    assert not again.notes


def load_own_of(model, folder):
    model.save_pretrained(folder)
    return load_model(folder)


def test_vit_mae_without_its_configuration():
    theirs = ViTMAEForPreTraining(ViTMAEConfig(**TINY))
    conversion = convert(theirs.state_dict(), **HEADS)
    assert conversion.model.config.layer_norm_eps == 1e-12
    assert any("layer_norm_eps" in note for note in conversion.notes)


@torch.no_grad()
def test_transformers_classifier_with_its_configuration():
    """Everything of its config.json that we have too is kept."""
    sizes = {k: v for k, v in TINY.items() if not k.startswith("decoder")}
    names = {0: "ill", 1: "well", 2: "?"}
    config = ViTConfig(
        **sizes, hidden_act="relu", layer_norm_eps=1e-5, id2label=names, problem_type=None
    )
    theirs = ViTForImageClassification(config).eval()
    beside = json.loads(config.to_json_string(use_diff=False))
    conversion = convert(theirs.state_dict(), {"config": beside})
    ours = conversion.model.config
    assert (ours.id2label, ours.label2id, ours.hidden_act) == (
        names,
        {"ill": 0, "well": 1, "?": 2},
        "relu",
    )
    assert (ours.num_attention_heads, ours.layer_norm_eps, ours.pooling, conversion.notes) == (
        3,
        1e-5,
        "cls",
        [],
    )
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(
        conversion.model(images).logits, theirs(images).logits, rtol=0, atol=1e-5
    )
    for contradiction, message in [
        ({"hidden_size": 96}, "hidden_size is 96, and in the tensors 48"),
        ({"image_size": [32, 64]}, "image_size is 32 x 64, .* and the position table has 16"),
        (
            {"num_hidden_layers": 7, "patch_size": 16},
            "num_hidden_layers is 7, and in the tensors 3; patch_size is 16",
        ),
    ]:
        with pytest.raises(
            ValueError, match=f"config.json beside the file is of another model: {message}"
        ):
            convert(theirs.state_dict(), {"config": {**beside, **contradiction}})
    assert (
        convert(
            theirs.state_dict(), {"config": {**beside, "image_size": [32, 32]}}
        ).model.config.image_size
        == 32
    )
    with pytest.raises(
        ValueError,
        match=r"config\.json beside the file holds a list; it must be a mapping of fields",
    ):
        convert(theirs.state_dict(), {"config": [1]})
    with pytest.raises(ValueError, match=r"id2label \{'a': 'ill'\}; its keys must be numbers"):
        convert(theirs.state_dict(), {"config": {**beside, "id2label": {"a": "ill"}}})


def test_what_a_configuration_leaves_out_is_transformers_default():
    theirs = ViTMAEForPreTraining(ViTMAEConfig(**TINY))
    beside = {
        k: v
        for k, v in theirs.config.to_dict().items()
        if k not in ("layer_norm_eps", "norm_pix_loss", "id2label")
    }
    conversion = convert(theirs.state_dict(), {"config": beside})
    assert (conversion.model.config.layer_norm_eps, conversion.model.config.norm_pix_loss) == (
        1e-12,
        False,
    )
    assert not conversion.notes
    for odd, message in {
        ("hidden_act", ("gelu",)): r"hidden_act is \('gelu',\); it must be one of",
        ("num_attention_heads", 5): "must be a multiple of num_attention_heads, which is 5",
        ("mask_ratio", None): "mask_ratio is None; it must be a number",
    }.items():
        with pytest.raises(ValueError, match=message):
            convert(theirs.state_dict(), {"config": {**beside, **dict([odd])}})


def test_mask_ratio_of_a_configuration_is_kept():
    theirs = ViTMAEForPreTraining(ViTMAEConfig(**TINY, mask_ratio=0.6, norm_pix_loss=True))
    config = convert(theirs.state_dict(), {"config": theirs.config.to_dict()}).model.config
    assert (config.mask_ratio, config.norm_pix_loss) == (0.6, True)


@torch.no_grad()
def test_a_published_folder(tmp_path):
    """Its root is the encoder, whose pooler is the identity; as a folder it is what has the
    decoder."""
    model = make("pretrain")
    write(model, tmp_path / "native")
    images = torch.randn(2, 3, 32, 32)
    for source, kind in (("native", "MAEForPreTraining"), ("native/model.safetensors", "MAEModel")):
        flags = [f"--checkpoint={tmp_path / source}", f"--output_dir={tmp_path / kind}"]
        assert f"model    {kind}, " in run_script("convert_checkpoint.py", *flags)
        converted, _ = load_model(tmp_path / kind)
        expected = model.vit(images).last_hidden_state
        found = converted.base_model(images).last_hidden_state
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    path = tmp_path / "native" / "model.safetensors"
    tensors, extras = read_checkpoint(path)
    tensors["pooler.dense.weight"] = torch.randn(48, 48)
    with pytest.raises(ValueError, match=r"left over: .*pooler\.dense\.weight"):
        convert(tensors, extras, **HEADS)
