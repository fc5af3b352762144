import json

import pytest
from conftest import GOLDEN

from hf_mae import MAEForPreTraining
from hf_mae.optimization import parameter_groups, scaled_learning_rate, warmup_cosine


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
        name for name in names.values() if name.endswith((".bias", "_token")) or "layernorm" in name or "_norm" in name
    }
