"""Every number has limits, and what doesn't apply or isn't installed is told before a run."""

import dataclasses
import math

import pytest
from helpers import TINY

from hf_mae import LinearProbeTrainer, MAEConfig, MAEForImageClassification
from hf_mae.training.argument_checks import LIMITS, Limits
from hf_mae.training.arguments import (
    FineTuningArguments,
    LinearProbeArguments,
    MAETrainingArguments,
)
from hf_mae.training.recipes import parse_recipe_and_flags


KINDS = [MAETrainingArguments, FineTuningArguments, LinearProbeArguments]
# checked by themselves, don't apply, or set by the launcher
OTHERS = {
    "crops_per_image",
    "data_seed",
    "local_rank",
    "max_steps",
    "neftune_noise_alpha",
    "warmup_epochs",
    "warmup_steps",
}


@pytest.fixture
def make(tmp_path):
    def make(kind=MAETrainingArguments, **options):
        return kind(output_dir=str(tmp_path), **{"report_to": "none", "use_cpu": True, **options})

    return make


def numbers_of(kind):
    """Names of its fields that are numbers."""
    names = []
    for each in dataclasses.fields(kind):
        words = str(each.type).replace("'", " ").replace("|", " ").split()
        if {"int", "float"} & set(words) and each.name not in OTHERS:
            names.append(each.name)
    return names


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_has_limits(kind):
    assert not set(numbers_of(kind)) - set(LIMITS)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_out_of_them_is_refused(kind, make):
    """And by name, whether it is given or set by a hyperparameter search."""
    found = make(kind)
    for name in numbers_of(kind):
        limits = LIMITS[name]
        before = getattr(found, name)
        beyond = (limits.low - 1, limits.high + 1, math.nan, math.inf, -math.inf, 1e300, 10**400)
        for value in beyond:
            with pytest.raises(ValueError, match=rf"^{name} is .*; it must be "):
                make(kind, **{name: value})
            setattr(found, name, value)
            with pytest.raises(ValueError, match=rf"^{name} is .*; it must be "):
                found.check()
        setattr(found, name, before)
    found.check()


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, 1e300, 10**400, "101%", "", "x"])
def test_a_warm_up_that_is_none(value, make):
    with pytest.raises(ValueError, match="^warmup_epochs is .*; it must be "):
        make(warmup_epochs=value)
    found = make()
    found.warmup_epochs = value
    with pytest.raises(ValueError, match="^warmup_epochs is .*; it must be "):
        found.check()


def test_limits_say_what_is_allowed(make):
    assert Limits(0, 1, below_high=True).describe(2) == "in [0, 1)"
    assert Limits(0, 1, above_low=True).describe(0) == "in (0, 1]"
    assert Limits(0, 9, above_low=True).describe(math.nan) == "positive"
    assert Limits(0, 1e6).describe(math.inf) == "at most 1,000,000"
    assert Limits(1, 9).describe(0) == "at least 1"
    with pytest.raises(ValueError, match="weight_decay is 'much'; it must be a number"):
        make(weight_decay="much")


@pytest.mark.parametrize("steps", [0, -2, -7, 10**30])
def test_max_steps(steps, make):
    assert make(max_steps=-1).max_steps == -1
    with pytest.raises(ValueError, match=f"max_steps is {steps}; it must be at least 1 .* or -1"):
        make(max_steps=steps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"remove_unused_columns": True}, "remove_unused_columns doesn't apply: our data sets"),
        ({"eval_do_concat_batches": False}, "eval_do_concat_batches doesn't apply: "),
        ({"data_seed": 3}, "data_seed doesn't apply: seed decides .*; it is 3, leave it out"),
        ({"neftune_noise_alpha": 1.0}, "neftune_noise_alpha doesn't apply"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy doesn't apply"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is 0.1, which doesn't apply"),
        ({"dataloader_persistent_workers": True}, "dataloader_persistent_workers needs workers"),
        ({"log_level": "loud"}, "log_level is 'loud'; it must be one of detail, debug"),
        ({"save_strategy": "often"}, "save_strategy is 'often'; it must be one of no, steps"),
        ({"optim": "nope"}, "optim is 'nope'; it must be one of adamw_torch"),
        ({"accelerator_config": "nope.json"}, "accelerator_config is 'nope.json', which is not"),
        ({"fsdp_config": "{"}, "fsdp_config is '{', which is not JSON"),
        ({"accelerator_config": '{"a": 1}'}, "unexpected keyword argument 'a'"),
        ({"deepspeed": '{"a": 1}'}, "deepspeed needs a package: pip install deepspeed"),
        ({"use_liger_kernel": True}, "use_liger_kernel needs a package: pip install liger"),
        ({"optim": "lomo"}, "optim is lomo: .*lomo_optim"),
        ({"optim": "galore_adamw"}, "optim is galore_adamw: .*galore_torch"),
        ({"optim_args": "x"}, "optim is adamw_torch_fused with optim_args 'x': "),
        ({"report_to": "wandb"}, "report_to is 'wandb', which is not installed"),
        ({"report_to": "paper"}, "report_to is 'paper', which transformers doesn't know"),
        ({"push_to_hub": True}, "push_to_hub needs a token that may write; run hf auth login"),
    ],
)
def test_what_does_not_apply_or_is_not_there(options, message, make, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("hf_mae.training.argument_checks.get_token", lambda: None)
    with pytest.raises(ValueError, match=message) as error:
        make(**options)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--adam_beta2=nan", "adam_beta2 is nan; it must be in [0, 1)"),
        ("--learning_rate=1e400", "learning_rate is inf; it must be at most 1,000,000"),
        ("--save_steps=0", "save_steps is 0.0; it must be positive"),
        ("--dataloader_num_workers=-1", "dataloader_num_workers is -1; it must be at least 0"),
        ("--num_train_epochs=inf", "num_train_epochs is inf; it must be at most 1,000,000"),
    ],
)
def test_flags_are_refused_in_a_line(flag, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_recipe_and_flags(
            (MAETrainingArguments,), ["--use_cpu", f"--output_dir={tmp_path}", flag]
        )
    shown = capsys.readouterr().err
    assert stopped.value.code == 2
    assert shown.endswith(f"error: {message}\n")
    assert len(shown.splitlines()) == 1


def test_a_batch_norm_needs_two_images(make):
    config = MAEConfig(**TINY, head_batch_norm=True, pooling="cls")
    model = MAEForImageClassification(config).freeze_encoder()
    args = make(LinearProbeArguments, per_device_train_batch_size=1, eval_strategy="no")
    with pytest.raises(ValueError, match="an update has 1 image, and the head's batch norm needs"):
        LinearProbeTrainer(model, args)
    args = make(
        LinearProbeArguments,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        eval_strategy="no",
    )
    LinearProbeTrainer(model, args)
