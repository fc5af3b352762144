"""The one door: what comes in, and what is refused by name."""

import json

import pytest
import torch
from helpers import TINY, script_error

from hf_mae import MAEConfig, MAEForImageClassification, MAEForPreTraining, MAEModel
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
    with pytest.raises(ValueError, match=r"is no pre-training model: it lacks \d+ weights, as dec"):
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
