"""A step that is compiled, or whose attention another kernel computes, is the same step."""

import contextlib

import pytest
import torch
from helpers import TINY
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from hf_mae import MAEConfig, MAEForPreTraining


# fields of the configuration, over the paper's
MODELS = [{}, {"decoder_type": "cross"}]
# as deep as there are kinds of blocks, for the compiler takes long
SHALLOW = {"num_hidden_layers": 1, "decoder_num_hidden_layers": 2}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def make_model(fields, **overrides):
    torch.manual_seed(0)
    return MAEForPreTraining(
        MAEConfig(**{**TINY, "norm_pix_loss": True, **fields, **overrides})
    ).train()


def make_batch(size):
    generator = torch.Generator().manual_seed(size)
    pixel_values = torch.randn(size, 3, 32, 32, generator=generator)
    return {"pixel_values": pixel_values, "noise": torch.rand(size, 16, generator=generator)}


def step(run, model, batch):
    """Loss and gradients."""
    model.zero_grad()
    loss = run(**batch).loss
    loss.backward()
    return loss.detach(), {name: value.grad for name, value in model.named_parameters()}


def assert_same_step(found, expected):
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-5)
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-5, msg=name)
    assert any(gradient.abs().max() > 1e-3 for gradient in expected[1].values())


@pytest.mark.parametrize("fields", MODELS, ids=str)
def test_compiled_once_for_an_epoch(fields):
    """And once more for all other sizes, when the last batch is a smaller one."""
    model, compiler = make_model(fields, **SHALLOW), CompileCounterWithBackend("inductor")
    compiled = torch.compile(model, fullgraph=True, backend=compiler)
    for _ in range(2):
        for size in (8, 8, 8, 5):
            batch = make_batch(size)
            assert_same_step(step(compiled, model, batch), step(model, model, batch))
        assert compiler.frame_count == 2
    assert_same_step(step(compiled, model, make_batch(3)), step(model, model, make_batch(3)))
    assert compiler.frame_count == 2
    assert not counters["graph_break"]


@pytest.mark.parametrize("fields", MODELS, ids=str)
def test_the_trainer_compiles_once(make_trainer, fields):
    """An epoch has whole batches only, and so a run of two has one graph."""
    losses = {}
    for backend in (None, "aot_eager"):
        trainer = make_trainer(
            config=make_model(fields, **SHALLOW).config,
            folder=str(backend),
            torch_compile=backend is not None,
            torch_compile_backend=backend,
            per_device_train_batch_size=512,
            num_train_epochs=2,
            logging_steps=1,
        )
        trainer.train()
        log = trainer.state.log_history
        losses[backend] = [entry["loss"] for entry in log if "loss" in entry]
        assert len(losses[backend]) >= 6
        assert counters["stats"]["unique_graphs"] == (0 if backend is None else 1)
    assert not counters["graph_break"]
    assert losses["aot_eager"] == pytest.approx(losses[None], rel=1e-5)


KERNELS = ["sdpa", "flash", "flex_attention"]


@contextlib.contextmanager
def only_flash():
    """No other kernel of scaled dot products may stand in."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        yield


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("fields", MODELS, ids=str)
def test_kernels_of_attention_agree(fields, kernel):
    wide = {"hidden_size": 96, "decoder_hidden_size": 128}  # a head has 32: others some refuse
    eager = make_model(fields, attn_implementation="eager", **wide)
    name = "sdpa" if kernel == "flash" else kernel
    model, batch = make_model(fields, attn_implementation=name, **wide), make_batch(4)
    model.load_state_dict(eager.state_dict())
    with only_flash() if kernel == "flash" else contextlib.nullcontext():
        if kernel == "flex_attention":  # on a CPU it has no backward pass
            with torch.no_grad():
                loss = model(**batch).loss
            assert loss.item() == pytest.approx(eager(**batch).loss.item(), rel=1e-5)
        else:
            assert_same_step(step(model, model, batch), step(eager, eager, batch))
