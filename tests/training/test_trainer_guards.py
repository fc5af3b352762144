"""What MAETrainer does about losses that are not finite and images that can't be decoded."""

import math
import traceback

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from helpers import TINY, logged_losses
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from hf_mae import MAEConfig, MAEForPreTraining
from hf_mae.checkpoints import find_checkpoint
from hf_mae.errors import BadImageError, NonFiniteLossError
from hf_mae.training.nonfinite import nonfinite_weights


class Poisoned(MAEForPreTraining):
    """Its loss is NaN where an image's noise is what the test says."""

    poison = None

    def forward(self, *args, noise=None, **kwargs):
        outputs = super().forward(*args, noise=noise, **kwargs)
        if self.training and any(torch.equal(row, self.poison) for row in noise):
            outputs.loss = outputs.loss * float("nan")
        return outputs


@pytest.fixture
def poisoned(make_trainer):
    def make(**arguments):
        model = Poisoned(MAEConfig(**TINY))
        trainer = make_trainer(model=model, max_steps=30, **arguments)
        order = np.random.default_rng([42, 0]).permutation(1617)
        number = int(order[3 * 64 + 5])  # of the fourth update
        model.poison = trainer.train_dataset[number]["noise"]
        return trainer, number

    return make


@pytest.mark.parametrize("accumulation", [1, 4])
def test_nonfinite_loss_stops_before_the_weights_are_touched(poisoned, make_trainer, accumulation):
    batch = {
        "per_device_train_batch_size": 64 // accumulation,
        "gradient_accumulation_steps": accumulation,
    }
    trainer, number = poisoned(**batch)
    initial = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    with pytest.raises(
        NonFiniteLossError, match=rf"step 4 is not finite .*\b{number}\b.*--nonfinite skip"
    ):
        trainer.train()
    clean = make_trainer(
        folder="clean", model=MAEForPreTraining(MAEConfig(**TINY)), **batch, max_steps=30
    )
    clean.model.load_state_dict(initial)
    clean.add_callback(StopAfter(3))
    clean.train()
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, clean.model.state_dict()[name]), name


class StopAfter(TrainerCallback):
    def __init__(self, steps):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.steps


def test_nonfinite_loss_can_be_skipped(poisoned):
    trainer, _ = poisoned(nonfinite="skip")
    before_fourth = {}

    class Remember(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step in (3, 4):
                before_fourth[state.global_step] = {
                    n: t.clone() for n, t in model.state_dict().items()
                }

    trainer.add_callback(Remember())
    trainer.train()
    assert all(
        torch.equal(tensor, before_fourth[4][name]) for name, tensor in before_fourth[3].items()
    )
    assert trainer.nonfinite.skipped == 1
    assert (
        logged_losses(trainer)[3] == logged_losses(trainer)[2]
    )  # in the log the last finite loss stands in
    assert trainer.state.log_history[-2]["nonfinite_skipped"] == 1
    assert trainer.state.global_step == 30
    assert all(torch.isfinite(tensor).all() for tensor in trainer.model.state_dict().values())
    assert logged_losses(trainer)[-1] < logged_losses(trainer)[0]


def spoil_gradients(trainer, steps, value=float("nan")):
    """Makes the gradient of some updates not finite, under a finite loss."""

    def spoil(gradient):
        if trainer.state.global_step + 1 in steps:
            gradient = gradient.clone()
            gradient[0] = value
        return gradient

    trainer.model.vit.layernorm.weight.register_hook(spoil)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch"])
def test_a_gradient_that_is_not_finite(make_trainer, value, optim):
    """1e30: its square is none that float32 holds, and AdamW keeps squares."""
    saving = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}
    trainer = make_trainer(optim=optim, **saving)
    spoil_gradients(trainer, {3}, value)
    with pytest.raises(NonFiniteLossError, match=r"step 3 is finite and its gradient is not; the "):
        trainer.train()
    assert nonfinite_weights(trainer.model) == []
    saved = load_file(trainer.output_dir / "checkpoint-2" / "model.safetensors")
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, saved[name]), name
    skipping = make_trainer(folder="skipping", optim=optim, nonfinite="skip", **saving)
    spoil_gradients(skipping, {3}, value)
    skipping.train()
    assert skipping.nonfinite.skipped == 1
    assert nonfinite_weights(skipping.model) == []
    assert len(set(logged_losses(skipping))) == 6


def test_skipping_stops_after_some_in_a_row(make_trainer):
    trainer = make_trainer(max_steps=20, nonfinite="skip", max_skipped=3)
    spoil_gradients(trainer, {2, 3, 5, 6, 8, 9, 10, 11})
    with pytest.raises(NonFiniteLossError, match=r"step 10 .* 3 updates in a row were dropped"):
        trainer.train()
    assert trainer.nonfinite.skipped == 7


@pytest.mark.parametrize("nonfinite", ["raise", "skip"])
def test_weights_that_are_not_finite_are_not_saved_and_not_denied(make_trainer, nonfinite):
    saving = {"save_strategy": "steps", "save_steps": 1}
    trainer = make_trainer(nonfinite=nonfinite, **saving)
    spoiled = trainer.model.decoder.decoder_norm.weight
    trainer.add_callback(At(3, lambda: spoiled.data.fill_(float("nan"))))
    with pytest.raises(NonFiniteLossError, match=r"after step 3 weights are not finite .*norm"):
        trainer.train()
    assert find_checkpoint(trainer.output_dir).name == "checkpoint-2"
    with pytest.raises(NonFiniteLossError, match="weights are not finite"):
        trainer.save_model()
    assert not (trainer.output_dir / "model.safetensors").exists()
    from_such = make_trainer(
        folder="other", model=trainer.model, nonfinite=nonfinite, max_skipped=3
    )
    with pytest.raises(NonFiniteLossError, match="the weights were not finite before it"):
        from_such.train()


class At(TrainerCallback):
    """Does something at the end of a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


@pytest.fixture
def with_bad(digits):
    def make(count, total=400):
        rows = list(digits["train"].select(range(total))["image"])
        for i in range(count):
            rows[37 * i + 5] = {
                "bytes": rows[37 * i + 5]["bytes"][:50],
                "path": f"scan\t{37 * i + 5}.png",  # with a tab, as the list has between columns
            }
        return Dataset.from_dict(
            {"image": rows}, features=Features({"image": ImageFeature(decode=False)})
        )

    return make


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_listed(make_trainer, with_bad, tmp_path, workers):
    trainer = make_trainer(
        train=with_bad(4),
        max_steps=15,
        dataloader_num_workers=workers,
        save_strategy="steps",
        save_steps=8,
    )
    trainer.train()
    lines = (tmp_path / "run" / "bad_images.tsv").read_text().splitlines()
    assert sorted(line.split("\t")[:3] for line in lines) == sorted(
        ["train", str(i), rf"scan\t{i}.png"] for i in (5, 42, 79, 116)
    )
    assert all(math.isfinite(loss) for loss in logged_losses(trainer))
    if not workers:  # a resumed run knows them
        again = make_trainer(train=with_bad(4), max_steps=20)
        again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-8"))
        assert (tmp_path / "run" / "bad_images.tsv").read_text().splitlines() == lines


def test_more_than_one_percent_bad_stops(make_trainer, with_bad, tmp_path):
    trainer = make_trainer(train=with_bad(5), max_steps=60)
    with pytest.raises(
        BadImageError, match=r"5 of 400 train images .* more than 1%; .*bad_images.tsv lists them"
    ):
        trainer.train()
    assert trainer.state.global_step <= 7  # all were seen by the end of the first epoch
    assert len((tmp_path / "run" / "bad_images.tsv").read_text().splitlines()) == 5


def test_bad_images_can_stop_at_once(make_trainer, with_bad):
    with pytest.raises(BadImageError, match=r"image \d+ \(scan\t\d+.png\) can't be decoded"):
        make_trainer(train=with_bad(1), on_bad_image="raise", max_steps=15).train()


class ScalarReads(TorchDispatchMode):
    """Counts what makes the host wait for a value of the device, and says where."""

    def __init__(self):
        super().__init__()
        self.places = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if (
            func is torch.ops.aten._local_scalar_dense.default
            or func is torch.ops.aten.nonzero.default
        ):
            self.places.append("".join(traceback.format_stack(limit=6)[:-2]))
        return func(*args, **(kwargs or {}))


def test_an_update_waits_for_no_value(make_trainer):
    reads = {}
    for steps in (5, 15):
        trainer = make_trainer(
            max_steps=steps, logging_steps=100, folder=f"steps{steps}", eval_strategy="no"
        )
        with ScalarReads() as counted:
            trainer.train()
        reads[steps] = counted.places
    assert len(reads[15]) == len(reads[5]), reads[15][-1]
