"""What users of transformers do with a model beside calling it: load, compile, export, adapt."""

import os
import subprocess
import sys

import pytest
import torch
from helpers import ROOT, TINY
from peft import LoraConfig
from transformers import AutoBackbone, AutoModel, logging
from transformers.initialization import no_init_weights

from hf_mae import (
    MAEBackbone,
    MAEConfig,
    MAEForImageClassification,
    MAEForPreTraining,
    MAEModel,
)


MODELS = [MAEModel, MAEForPreTraining, MAEForImageClassification, MAEBackbone]
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
NOISE = torch.rand(2, 16, generator=torch.Generator().manual_seed(1))


def make(model_class, **fields):
    torch.manual_seed(0)
    return model_class(MAEConfig(**TINY, num_labels=3, **fields)).eval()


def arguments(model_class, batch=2):
    images, noise = IMAGES[:1].expand(batch, -1, -1, -1), NOISE[:1].expand(batch, -1)
    return (images, noise) if model_class is MAEForPreTraining else (images,)


def output(outputs):
    for name in ("logits", "last_hidden_state"):
        if outputs.get(name) is not None:
            return outputs[name]
    return outputs["feature_maps"][0]


@pytest.mark.parametrize("model_class", MODELS)
def test_the_type_to_load_in(model_class, tmp_path):
    make(model_class).to(torch.bfloat16).save_pretrained(tmp_path)
    for options in ({"dtype": "auto"}, {"torch_dtype": "auto"}, {}):
        assert model_class.from_pretrained(tmp_path, **options).dtype == torch.bfloat16
    for dtype in (torch.float32, torch.float16, "float32"):
        model = model_class.from_pretrained(tmp_path, dtype=dtype)
        wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        assert {parameter.dtype for parameter in model.parameters()} == {wanted}
        assert model.config.dtype == wanted


def test_weights_without_a_folder():
    model = make(MAEForPreTraining, norm_pix_loss=True)
    weights = model.state_dict()
    again = MAEForPreTraining.from_pretrained(None, config=model.config, state_dict=weights)
    assert torch.equal(again(IMAGES, NOISE).loss, model(IMAGES, NOISE).loss)


def test_a_folder_that_holds_an_adapter_alone(tmp_path):
    make(MAEForPreTraining).save_pretrained(tmp_path / "base")
    model = MAEModel.from_pretrained(tmp_path / "base")
    model.add_adapter(LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "config.json").exists()
    expected = model.eval()(IMAGES).last_hidden_state
    plain = MAEModel.from_pretrained(tmp_path / "base")(IMAGES).last_hidden_state
    assert not torch.allclose(plain, expected)
    again = MAEModel.from_pretrained(tmp_path / "adapter").eval()
    torch.testing.assert_close(again(IMAGES).last_hidden_state, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("model_class", MODELS)
@torch.no_grad()
def test_a_batch_is_never_frozen(model_class):
    """Into an exported, compiled or traced program; a batch of another size is right there too."""
    model = make(model_class)
    inputs = arguments(model_class)
    batch = torch.export.Dim("batch")
    dynamic = tuple({0: batch} for _ in inputs)
    exported = torch.export.export(model, inputs, dynamic_shapes=dynamic).module()
    programs = [exported, torch.compile(model, fullgraph=True, dynamic=True, backend="eager")]
    for program in programs:
        for size in (1, 2, 5):
            found = program(*arguments(model_class, size))
            expected = output(model(*arguments(model_class, size)))
            torch.testing.assert_close(output(found), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("model_class", [MAEModel, MAEForImageClassification])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@torch.no_grad()
def test_a_traced_batch_is_never_frozen(model_class):
    model = make(model_class)
    traced = torch.jit.trace(model, (IMAGES,), strict=False)
    for size in (1, 5):
        images = IMAGES[:1].expand(size, -1, -1, -1)
        torch.testing.assert_close(output(traced(images)), output(model(images)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("model_class", [MAEModel, MAEForPreTraining])
@torch.no_grad()
def test_a_given_mask_compiles_into_one_graph(model_class):
    model = make(model_class)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for removed in (8, 12):
        mask = torch.zeros(2, 16, dtype=torch.bool)
        mask[:, :removed] = True
        expected = output(model(IMAGES, bool_masked_pos=mask))
        found = output(compiled(IMAGES, bool_masked_pos=mask))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    mask[0, 0] = False
    with pytest.raises(RuntimeError, match="different numbers of patches"):
        compiled(IMAGES, bool_masked_pos=mask)


@torch.no_grad()
def test_masks_are_the_same_in_an_exported_program():
    """Equal numbers among the noise keep the patches' order there too."""
    model = make(MAEForPreTraining)
    noise = (NOISE * 4).floor() / 4
    program = torch.export.export(model, (IMAGES, noise)).module()
    ours, theirs = model(IMAGES, noise), program(IMAGES, noise)
    assert torch.equal(ours.mask, theirs.mask)
    assert torch.equal(ours.ids_restore, theirs.ids_restore)


@pytest.mark.parametrize("model_class", MODELS)
def test_positions_are_there_without_initialisation(model_class):
    with no_init_weights():
        model = model_class(MAEConfig(**TINY))
    expected = make(model_class)
    for name in ("embeddings.position_embeddings", "decoder.decoder_pos_embed"):
        for (found, table), other in zip(
            model.state_dict().items(), expected.state_dict().values(), strict=True
        ):
            if found.endswith(name):
                assert torch.equal(table, other)


@pytest.mark.parametrize("model_class", MODELS)
@torch.no_grad()
def test_attention_weights(model_class, caplog):
    """Of an implementation that doesn't compute them, they are eager's for that call."""
    model, eager = make(model_class), make(model_class)
    eager.set_attn_implementation("eager")
    expected = eager(*arguments(model_class), output_attentions=True).attentions
    logging.enable_propagation()
    logging.logging.Logger.warning_once.cache_clear()  # it may have been said in another test
    outputs = model(*arguments(model_class), output_attentions=True)
    assert len(outputs.attentions) == 3
    for ours, other in zip(outputs.attentions, expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-6)
        torch.testing.assert_close(ours.sum(-1), torch.ones(ours.shape[:-1]), rtol=0, atol=1e-5)
    assert "for such calls it is 'eager'" in caplog.text
    assert model(*arguments(model_class)).attentions is None


def test_autobackbone():
    assert isinstance(AutoBackbone.from_config(MAEConfig(**TINY)), MAEBackbone)


TRAVELS = """
import sys, torch
sys.modules["hf_mae"] = None
from transformers import {auto}
model = {auto}.from_pretrained({folder!r}, trust_remote_code=True).eval()
images, expected = torch.load({inputs!r})
found = model(images)
torch.testing.assert_close(found[{name!r}], expected, rtol=0, atol=1e-6)
print(type(model).__module__)
"""


@pytest.mark.parametrize(
    ("model_class", "auto", "name"),
    [
        (MAEModel, "AutoModel", "last_hidden_state"),
        (MAEForImageClassification, "AutoModelForImageClassification", "logits"),
    ],
)
def test_the_code_travels(model_class, auto, name, tmp_path):
    """With register_for_auto_class: the folder loads where the package isn't installed."""
    code = (
        f"import torch\nfrom hf_mae import MAEConfig, {model_class.__name__} as Model\n"
        f"MAEConfig.register_for_auto_class()\nModel.register_for_auto_class({auto!r})\n"
        f"model = Model(MAEConfig(**{TINY!r})).eval()\n"
        f"model.save_pretrained({str(tmp_path / 'model')!r})\n"
        "images = torch.randn(2, 3, 32, 32)\n"
        f"torch.save((images, model(images).{name}.detach()), {str(tmp_path / 'inputs.pt')!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    script = TRAVELS.format(
        auto=auto, folder=str(tmp_path / "model"), inputs=str(tmp_path / "inputs.pt"), name=name
    )
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd="/", env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("transformers_modules.")


def test_automodel_of_our_own_folder(tmp_path):
    make(MAEForPreTraining).save_pretrained(tmp_path)
    assert isinstance(AutoModel.from_pretrained(tmp_path), MAEModel)
