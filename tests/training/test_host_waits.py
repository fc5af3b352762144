"""In a training step the host starts work on the device, and asks for none of its results."""

import pytest
import torch
from helpers import TINY
from host_waits import HostWaitError, HostWaits
from transformers import TrainerCallback

from hf_mae import MAEConfig, MAEForPreTraining
from hf_mae.models.modeling_mae import MAEModel


# fields of the configuration, over the paper's
MODELS = [{}, {"drop_path_rate": 0.2}, {"attn_implementation": "eager"}]
MODELS += [{"decoder_type": "cross", "decoder_layer_mixing": True}, {"mask_strategy": "block"}]
MODES = ["fp32", "bf16"]

WAITS = {
    "item": lambda values: values.sum().item(),
    "tolist": lambda values: values.tolist(),
    "bool": lambda values: bool(values.sum() > 0),
    "float": lambda values: float(values.sum()),
    "cpu": lambda values: values.cpu(),
    "numpy": lambda values: values.detach().numpy(),
    "nonzero": lambda values: values.nonzero(),
    "where": lambda values: torch.where(values > 0),
    "boolean index": lambda values: values[values > 0],
    "boolean assignment": lambda values: values.detach().index_put_((values > 0,), values[0, 0]),
    "masked_select": lambda values: values.masked_select(values > 0),
    "unique": lambda values: values.unique(),
    "equal": lambda values: torch.equal(values, values),
    "allclose": lambda values: torch.allclose(values, values),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_what_waits_is_found(wait):
    values = torch.randn(3, 4)
    with pytest.raises(HostWaitError), HostWaits():
        wait(values)
    with HostWaits() as waits:
        waits.allowed(wait)(values)
        torch.where(values > 0, values, 0.0).softmax(dim=1)


def training_step(config, precision):
    torch.manual_seed(0)
    model = MAEForPreTraining(config).train()
    pixel_values, noise = torch.randn(4, 3, 32, 32), torch.rand(4, 16)
    with HostWaits():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(pixel_values, noise=noise).loss
        loss.backward()


@pytest.mark.parametrize("precision", MODES)
@pytest.mark.parametrize("fields", MODELS, ids=str)
def test_the_model_waits_for_nothing(fields, precision):
    training_step(MAEConfig(**TINY, **{"norm_pix_loss": True, **fields}), precision)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_wait_in_the_model_is_found(where, monkeypatch):
    pool = MAEModel._pool

    def waiting(self, hidden_states):
        if where == "forward":
            hidden_states.sum().item()
        else:
            hidden_states.register_hook(lambda gradient: gradient.sum().item() and None)
        return pool(self, hidden_states)

    monkeypatch.setattr(MAEModel, "_pool", waiting)
    with pytest.raises(HostWaitError):
        training_step(MAEConfig(**TINY), "fp32")


class Watch(TrainerCallback):
    """Watches from the start of each update to its end, but not where a batch is made."""

    def __init__(self):
        self.waits, self.updates = HostWaits(), 0

    def on_step_begin(self, *args, **kwargs):
        self.waits.__enter__()

    def on_step_end(self, *args, **kwargs):
        self.updates += self.waits.is_on
        self.waits.__exit__()


@pytest.fixture
def watched():
    """Puts a trainer under watch; the verdict on an update it may read, which is under way to the
    host since the update before."""
    watch = Watch()

    def start(trainer):
        trainer.add_callback(watch)
        guard = trainer.nonfinite
        guard.wait_for_verdict = watch.waits.allowed(guard.wait_for_verdict)
        return watch

    yield start
    watch.waits.__exit__()  # where an update was broken off


OPTIONS = [
    {},
    {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 32},
    {"nonfinite": "skip"},
    {"max_grad_norm": 1.0},
    {"bf16": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("fields", MODELS, ids=str)
def test_an_update_waits_for_nothing(make_trainer, watched, fields, options):
    config = MAEConfig(**TINY, **{"norm_pix_loss": True, **fields})
    trainer = make_trainer(config=config, max_steps=3, logging_steps=100, **options)
    watch = watched(trainer)
    trainer.train()
    assert watch.updates == trainer.state.global_step == 3


def test_a_dropped_update_waits_for_nothing(make_trainer, watched):
    trainer = make_trainer(max_steps=4, nonfinite="skip")
    watch, backward = watched(trainer), trainer.accelerator.backward

    def spoiled(loss, **kwargs):
        backward(loss * float("nan") if trainer.state.global_step == 1 else loss, **kwargs)

    trainer.accelerator.backward = spoiled
    trainer.train()
    assert watch.updates == 4
    assert trainer.nonfinite.skipped == 1


@pytest.mark.parametrize("kind", ["finetune", "probe"])
def test_an_update_of_a_classifier_waits_for_nothing(make_classifier_trainer, watched, kind):
    trainer = make_classifier_trainer(kind, max_steps=3, logging_steps=100)
    watch = watched(trainer)
    trainer.train()
    assert watch.updates == 3


def test_a_wait_in_an_update_is_found(make_trainer, watched, monkeypatch):
    trainer = make_trainer(max_steps=3)
    record = trainer.nonfinite.record_loss
    watched(trainer)
    monkeypatch.setattr(
        trainer.nonfinite, "record_loss", lambda loss, ids: record(loss, ids) + 0 * loss.item()
    )
    with pytest.raises(HostWaitError, match="item"):
        trainer.train()
