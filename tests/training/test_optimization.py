import json

import pytest
import torch
from helpers import GOLDEN
from timm.optim import Lars

from hf_mae import MAEConfig, MAEForImageClassification, MAEForPreTraining
from hf_mae.models.key_names import FACEBOOK_RENAMES, rename
from hf_mae.training.optimization import (
    lars_groups,
    layer_decay_groups,
    parameter_groups,
    scaled_learning_rate,
    warmup_cosine,
)


@pytest.mark.parametrize("name", ["pretrain_300e", "finetune_100e"])
def test_schedule_equals_the_authors(name):
    golden = json.loads((GOLDEN / "facebook_lr_schedules.json").read_text())[name]
    ours = [
        golden["lr"]
        * warmup_cosine(
            step,
            golden["steps_per_epoch"],
            golden["epochs"],
            golden["warmup_epochs"],
            golden["min_lr"] / golden["lr"],
        )
        for step in range(len(golden["lr_at_step"]))
    ]
    assert ours == pytest.approx(golden["lr_at_step"], rel=1e-12, abs=1e-18)


def test_schedule_ends():
    assert warmup_cosine(300, 10, 30, 5, 0.1) == pytest.approx(0.1)
    assert warmup_cosine(400, 10, 30, 5, 0.1) == pytest.approx(0.1)
    assert warmup_cosine(0, 10, 30, 0) == 1.0


def test_paper_learning_rate():
    assert scaled_learning_rate(1.5e-4, 4096) == pytest.approx(2.4e-3)


def test_only_matrices_decay(tiny_config):
    model = MAEForPreTraining(tiny_config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decay, rest = parameter_groups(model, 0.05)
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.05, 0.0)
    decayed, spared = ({names[id(p)] for p in group["params"]} for group in (decay, rest))
    assert decayed | spared == set(names.values())
    assert spared == {
        name
        for name in names.values()
        if name.endswith((".bias", "_token")) or "layernorm" in name or "_norm" in name
    }


def test_layer_decay_equals_the_authors_name_for_name():
    golden = json.loads((GOLDEN / "facebook_vit_base_layer_decay_0.65.json").read_text())
    with torch.device("meta"):
        model = MAEForImageClassification(MAEConfig())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ours = {
        names[id(parameter)]: (group["lr_scale"], group["weight_decay"])
        for group in layer_decay_groups(model, weight_decay=0.05, layer_decay=0.65)
        for parameter in group["params"]
    }
    expected = {}
    for name, values in golden.items():
        for ours_name in rename({name: torch.zeros(3)}, FACEBOOK_RENAMES):
            expected[ours_name] = (
                pytest.approx(values["lr_scale"], rel=1e-12),
                values["weight_decay"],
            )
    assert ours == expected
    assert len(ours) == len(names) == 200


def test_layer_decay_groups_hold_each_parameter_once(tiny_config):
    model = MAEForImageClassification(tiny_config)
    groups = layer_decay_groups(model, 0.05, 0.5)
    parameters = [parameter for group in groups for parameter in group["params"]]
    assert len(parameters) == len(set(map(id, parameters))) == len(list(model.parameters()))
    assert sorted({group["lr_scale"] for group in groups}) == [
        0.5**depth for depth in (4, 3, 2, 1, 0)
    ]


def test_layer_decay_of_a_wrapped_model(tiny_config):
    model = MAEForImageClassification(tiny_config)
    compiled = torch.compile(model)
    assert all(name.startswith("_orig_mod.") for name, _ in compiled.named_parameters())
    plain, wrapped = (layer_decay_groups(m, 0.05, 0.5) for m in (model, compiled))
    assert [(g["lr_scale"], len(g["params"])) for g in wrapped] == [
        (g["lr_scale"], len(g["params"])) for g in plain
    ]


def test_lars_against_a_loop():
    """The authors' LARS: the trust ratio for matrices, plain momentum for biases."""
    torch.manual_seed(0)
    config = MAEConfig.from_size(
        "tiny", num_hidden_layers=1, num_labels=5, pooling="cls", head_batch_norm=True
    )
    model = MAEForImageClassification(config).freeze_encoder()
    groups = lars_groups(model, weight_decay=0.0)
    assert [[tuple(p.shape) for p in group["params"]] for group in groups] == [[(5, 192)], [(5,)]]
    optimizer = Lars(groups, lr=2.0, momentum=0.9)
    weights = {
        "weight": model.classifier.weight.detach().clone(),
        "bias": model.classifier.bias.detach().clone(),
    }
    momenta = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    for step in range(4):
        for name, weight in weights.items():
            gradient = torch.randn_like(weight) * 10 ** (step - 2)
            getattr(model.classifier, name).grad = gradient.clone()
            if name == "weight":
                gradient *= 0.001 * weight.norm() / gradient.norm()
            momenta[name] = 0.9 * momenta[name] + gradient
            weights[name] = weight - 2.0 * momenta[name]
        optimizer.step()
        for name, weight in weights.items():
            torch.testing.assert_close(
                getattr(model.classifier, name).detach(), weight, rtol=1e-5, atol=1e-7
            )
