import shutil

import numpy as np
import pytest
import torch
from helpers import TINY
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTMAEModel,
)

from hf_mae import MAEConfig, MAEForPreTraining, MAEModel
from hf_mae.models.functional import (
    masked_losses,
    patch_statistics,
    patchify,
    pixel_target,
    unpatchify,
)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same_gradients(ours, expected):
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


# init and loading --------------------------------------------------------------------------------


def assert_paper_tables(model, golden):
    tables = dict(model.named_buffers())
    assert torch.equal(tables["vit.embeddings.position_embeddings"], golden["init_pos_embed"])
    assert torch.equal(tables["decoder.decoder_pos_embed"], golden["init_decoder_pos_embed"])
    assert not any("pos" in name for name, _ in model.named_parameters())


def test_position_tables_are_the_papers_everywhere(tiny_config, golden, tmp_path):
    golden = golden("facebook_mae")
    fresh = MAEForPreTraining(tiny_config)
    assert_paper_tables(fresh, golden)
    assert_paper_tables(AutoModelForPreTraining.from_config(tiny_config), golden)
    fresh.save_pretrained(tmp_path)
    loaded = MAEForPreTraining.from_pretrained(tmp_path).train()
    assert_paper_tables(loaded, golden)
    optimizer = torch.optim.SGD(loaded.parameters(), lr=1.0)
    loaded(torch.randn(2, 3, 32, 32), noise=torch.rand(2, 16)).loss.backward()
    optimizer.step()
    assert_paper_tables(loaded, golden)


def test_a_saved_table_wins_over_the_init(model, tmp_path):
    model.vit.embeddings.position_embeddings.add_(1.0)
    model.decoder.decoder_pos_embed.mul_(2.0)
    model.save_pretrained(tmp_path)
    loaded = MAEForPreTraining.from_pretrained(tmp_path)
    assert torch.equal(
        loaded.vit.embeddings.position_embeddings, model.vit.embeddings.position_embeddings
    )
    assert torch.equal(loaded.decoder.decoder_pos_embed, model.decoder.decoder_pos_embed)


def test_init_statistics():
    model = MAEForPreTraining(
        MAEConfig.from_size("small", num_hidden_layers=2, decoder_num_hidden_layers=1)
    )
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        values = parameter.detach().flatten()
        if name.endswith("_token"):
            assert values.std().item() == pytest.approx(0.02, rel=0.2), name
        elif "projection.bias" in name:
            assert values.abs().max().item() <= 1 / np.sqrt(768)
            assert values.std().item() > 0
        elif name.endswith("bias"):
            assert torch.equal(values, torch.zeros_like(values)), name
        elif "norm" in name:
            assert torch.equal(values, torch.ones_like(values)), name
        else:
            fan_out, fan_in = parameter.shape[0], parameter[0].numel()
            bound = np.sqrt(6 / (fan_in + fan_out))
            assert values.abs().max().item() <= bound * 1.0001, name
            assert values.std().item() == pytest.approx(bound / np.sqrt(3), rel=0.02), name


def test_auto_classes(model, tiny_config, tmp_path, inputs):
    assert type(AutoModel.from_config(tiny_config)) is MAEModel
    model.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(
        model.state_dict()
    )  # nothing is renamed on save
    for auto, kind in ((AutoModel, MAEModel), (AutoModelForPreTraining, MAEForPreTraining)):
        loaded, info = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is kind
        assert not any(info.values())
    assert torch.equal(loaded.eval()(**inputs).loss, model.eval()(**inputs).loss)


@pytest.fixture
def vit_mae(tmp_path):
    """transformers' model, and its folder in each spelling of the keys."""
    torch.manual_seed(2)
    model = ViTMAEForPreTraining(ViTMAEConfig(**TINY)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    as_saved = tmp_path / "as_saved"
    model.save_pretrained(as_saved)
    saved = load_file(as_saved / "model.safetensors")
    spellings = {
        "as_4x": {
            name.replace("decoder_encoder.layer.", "decoder_layers."): tensor
            for name, tensor in saved.items()
        },
        "in_memory": {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
    }
    assert "vit.encoder.layer.0.attention.attention.query.weight" in spellings["as_4x"]
    assert "vit.layers.0.attention.q_proj.weight" in spellings["in_memory"]
    for name, state_dict in spellings.items():
        (tmp_path / name).mkdir()
        shutil.copy(as_saved / "config.json", tmp_path / name)
        save_file(state_dict, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    return model, tmp_path


@pytest.mark.parametrize("spelling", ["as_saved", "as_4x", "in_memory"])
@torch.no_grad()
def test_reads_vit_mae_folders(vit_mae, inputs, spelling, tmp_path, caplog):
    theirs, folder = vit_mae
    expected = theirs(**inputs)
    ours, info = MAEForPreTraining.from_pretrained(folder / spelling, output_loading_info=True)
    assert not any(info.values())
    assert ours.config.layer_norm_eps == 1e-12
    outputs = ours.eval()(**inputs)
    torch.testing.assert_close(outputs.logits, expected.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(outputs.loss, expected.loss, rtol=0, atol=1e-6)

    encoder, info = MAEModel.from_pretrained(folder / spelling, output_loading_info=True)
    assert not any(info.values())
    features = ViTMAEModel.from_pretrained(folder / "as_saved").eval()(**inputs).last_hidden_state
    torch.testing.assert_close(
        encoder.eval()(**inputs).last_hidden_state, features, rtol=0, atol=1e-5
    )
    assert "to instantiate a model of type" not in caplog.text

    ours.save_pretrained(tmp_path / "again")  # in our own format and names
    assert set(load_file(tmp_path / "again" / "model.safetensors")) == set(ours.state_dict())
    again = MAEForPreTraining.from_pretrained(tmp_path / "again").eval()
    assert torch.equal(again(**inputs).loss, outputs.loss)


def test_other_models_are_refused(tmp_path):
    from transformers import ViTConfig

    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="type 'vit'; MAEModel reads 'mae' and 'vit_mae'"):
        MAEModel.from_pretrained(tmp_path)


def test_configs_given_to_from_pretrained(model, vit_mae, inputs, tmp_path):
    model.eval().save_pretrained(tmp_path / "own")
    mine = MAEConfig(**{**TINY, "image_size": 64})
    loaded = MAEForPreTraining.from_pretrained(tmp_path / "own", config=mine)
    assert loaded.config.image_size == mine.image_size == 64
    by_path = MAEForPreTraining.from_pretrained(
        tmp_path / "own", config=str(tmp_path / "own")
    ).eval()
    assert torch.equal(by_path(**inputs).loss, model(**inputs).loss)
    theirs, folder = vit_mae
    read = MAEForPreTraining.from_pretrained(folder / "as_saved", config=theirs.config).eval()
    assert type(read.config) is MAEConfig
    torch.testing.assert_close(read(**inputs).loss, theirs(**inputs).loss)


# the encoder -------------------------------------------------------------------------------------


@torch.no_grad()
def test_features_are_ordered_and_repeatable(model, inputs):
    encoder = model.vit.eval()
    first, second = (encoder(inputs["pixel_values"]) for _ in range(2))
    assert torch.equal(first.last_hidden_state, second.last_hidden_state)
    assert first.mask is None
    assert first.ids_restore is None
    # with position tables off, moving a patch moves its token: tokens are in the patches' order
    encoder.embeddings.position_embeddings.zero_()
    patches = patchify(inputs["pixel_values"], (8, 8))
    order = torch.randperm(16)
    moved = encoder(unpatchify(patches[:, order], (8, 8), (32, 32))).last_hidden_state
    plain = encoder(inputs["pixel_values"]).last_hidden_state
    torch.testing.assert_close(moved[:, 1:], plain[:, 1:][:, order], rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pooling(tiny_config, inputs, pooling):
    tiny_config.pooling = pooling
    outputs = MAEModel(tiny_config).eval()(inputs["pixel_values"])
    tokens = outputs.last_hidden_state
    assert torch.equal(
        outputs.pooler_output, tokens[:, 1:].mean(1) if pooling == "mean" else tokens[:, 0]
    )


@torch.no_grad()
def test_only_visible_patches_are_embedded(model, inputs):
    sizes = []
    model.vit.embeddings.patch_embeddings.register_forward_hook(
        lambda m, args, out: sizes.append(out.shape)
    )
    hidden = model.eval()(**inputs).ids_restore
    assert sizes == [(2, 4, 48)]
    # and the removed ones can't matter
    changed = inputs["pixel_values"].clone()
    mask = unpatchify((hidden >= 4).unsqueeze(-1).expand(-1, -1, 192).float(), (8, 8), (32, 32))
    changed[mask.bool()] = 99.0
    expected = model.vit(**inputs).last_hidden_state
    assert torch.equal(model.vit(changed, noise=inputs["noise"]).last_hidden_state, expected)


@torch.no_grad()
def test_masks_as_asked(model, inputs):
    encoder, images, noise = model.vit.eval(), inputs["pixel_values"], inputs["noise"]
    assert encoder(images, noise=noise).mask.sum(1).tolist() == [12, 12]
    assert encoder(images, noise=noise, mask_ratio=0.5).mask.sum(1).tolist() == [8, 8]
    assert encoder(images, mask_ratio=0.5).last_hidden_state.shape == (2, 9, 48)
    given = torch.zeros(2, 16, dtype=torch.bool)
    given[0, :5] = given[1, 3:8] = True
    outputs = encoder(images, bool_masked_pos=given)
    assert torch.equal(outputs.mask, given.float())
    # its visible tokens are in natural order: the same as by a noise that says so
    by_noise = encoder(images, noise=given.float(), mask_ratio=5 / 16)
    assert torch.equal(outputs.last_hidden_state, by_noise.last_hidden_state)
    zero = encoder(images, noise=noise, mask_ratio=0.0)
    assert torch.equal(zero.last_hidden_state, encoder(images).last_hidden_state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise": torch.rand(1, 16)}, r"noise has shape \(1, 16\); expected .* \(2, 16\)"),
        ({"noise": torch.rand(2, 15)}, r"noise has shape \(2, 15\)"),
        ({"bool_masked_pos": torch.zeros(16)}, r"bool_masked_pos has shape \(16,\)"),
        ({"bool_masked_pos": torch.eye(2, 16).cumsum(1)}, r"masks \[16, 15\] patches; every image"),
        ({"bool_masked_pos": torch.ones(2, 16)}, "masks all 16 patches"),
        ({"mask_ratio": 1.0}, "mask_ratio is 1.0"),
        ({"mask_ratio": -0.5}, "mask_ratio is -0.5"),
        ({"mask_ratio": 0.95}, "of 16 patches none would stay visible"),
        ({"mask_ratio": 0.0}, "no patch is masked, so there is no loss"),
        ({"bool_masked_pos": torch.zeros(2, 16)}, "no patch is masked, so there is no loss"),
        ({"bool_masked_pos": torch.eye(2, 16), "mask_ratio": 0.5}, "bool_masked_pos is the mask"),
        ({"pixel_values": torch.rand(2, 1, 32, 32)}, r"expected \(batch, 3, height, width\)"),
        ({"pixel_values": torch.rand(3, 32, 32)}, r"shape \(3, 32, 32\)"),
        (
            {"pixel_values": torch.rand(2, 3, 64, 32)},
            "64 x 32 pixels and the model is for 32 x 32.*interpolate_pos",
        ),
        ({"pixel_values": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)}, "torch.uint8; normalise"),
        (
            {"pixel_values": torch.rand(2, 3, 36, 32), "interpolate_pos_encoding": True},
            "multiple of the patch, 8 x 8",
        ),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_errors(model, arguments, message, training):
    with pytest.raises(ValueError, match=message):
        model.train(training)(**{"pixel_values": torch.rand(2, 3, 32, 32), **arguments})


# pre-training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_training_computes_the_same_as_the_whole_decoder(model, inputs, norm_pix_loss):
    model.config.norm_pix_loss = norm_pix_loss
    model.train()
    short = model(**inputs)
    assert short.logits is None
    short_gradients = gradients(model, short.loss)
    whole = model(**inputs, return_logits=True)
    torch.testing.assert_close(short.loss, whole.loss, rtol=0, atol=1e-6)
    assert_same_gradients(short_gradients, gradients(model, whole.loss))
    # and as the definition says, from logits in natural order
    target = pixel_target(patchify(inputs["pixel_values"], (8, 8)), norm_pix_loss)
    torch.testing.assert_close(
        masked_losses(whole.logits, target, whole.mask).mean(), whole.loss, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_evaluation_gives_losses_and_their_target(model, inputs, norm_pix_loss):
    model.config.norm_pix_loss = norm_pix_loss
    outputs = model.eval()(**inputs)
    target = pixel_target(patchify(inputs["pixel_values"], (8, 8)), norm_pix_loss)
    assert torch.equal(outputs.target, target)
    expected = masked_losses(outputs.logits, target, outputs.mask)
    torch.testing.assert_close(outputs.losses, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(outputs.loss, outputs.losses.mean(), rtol=0, atol=1e-6)
    one_by_one = [
        model(inputs["pixel_values"][i : i + 1], noise=inputs["noise"][i : i + 1]).loss
        for i in range(2)
    ]
    torch.testing.assert_close(outputs.losses, torch.stack(one_by_one), rtol=0, atol=1e-6)
    for without in (model.train()(**inputs), model.eval()(**inputs, return_loss=False)):
        assert without.losses is None
        assert without.target is None


def test_training_computes_for_masked_tokens_only(model, inputs):
    sizes = {}

    def remember(name):
        return lambda module, args, output: sizes.update({name: output.shape})

    last = model.decoder.decoder_layers[-1]
    watched = {"query": last.attention.q_proj, "key": last.attention.k_proj, "mlp": last.mlp}
    watched |= {"norm": model.decoder.decoder_norm, "pred": model.decoder.decoder_pred}
    for name, module in watched.items():
        module.register_forward_hook(remember(name))
    model.train()(**inputs)
    assert {name: size[1] for name, size in sizes.items()} == {
        "query": 12,
        "key": 17,
        "mlp": 12,
        "norm": 12,
        "pred": 12,
    }


def test_every_parameter_takes_part(model, inputs):
    model.train()(**inputs).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_gradient_checkpointing(model, inputs):
    expected = gradients(model.train(), model(**inputs).loss)
    model.gradient_checkpointing_enable()
    calls = []
    model.vit.layers[0].layernorm_after.register_forward_hook(lambda *_: calls.append(1))
    assert_same_gradients(gradients(model, model(**inputs).loss), expected)
    assert len(calls) == 2  # forward, and again in backward


@pytest.mark.parametrize("training", [True, False])
def test_compiles_into_one_graph(model, inputs, training):
    model.train(training)
    expected = gradients(model, model(**inputs).loss)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same_gradients(gradients(model, compiled(**inputs).loss), expected)


def test_attention_back_ends_agree(model, inputs):
    model.set_attn_implementation("sdpa")
    expected = gradients(model, model(**inputs).loss)
    model.set_attn_implementation("eager")
    assert_same_gradients(gradients(model, model(**inputs).loss), expected)


def test_hidden_states_and_attentions(model, inputs):
    model.eval().set_attn_implementation("eager")
    outputs = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert [tuple(h.shape) for h in outputs.hidden_states] == [(2, 5, 48)] * 4
    assert [tuple(a.shape) for a in outputs.attentions] == [(2, 3, 5, 5)] * 3
    torch.testing.assert_close(outputs.attentions[0].sum(-1), torch.ones(2, 3, 5))
    last = model.vit(**inputs).last_hidden_state
    torch.testing.assert_close(model.vit.layernorm(outputs.hidden_states[-1]), last)
    assert model(**inputs).hidden_states is None
    assert isinstance(model(**inputs, return_dict=False), tuple)
    model.config.return_dict = False
    assert isinstance(model(**inputs), tuple)
    assert model.reconstruct(**inputs).images.shape == (2, 3, 32, 32)


@torch.no_grad()
@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_reconstruct(model, inputs, norm_pix_loss):
    model.eval().config.norm_pix_loss = norm_pix_loss
    result = model.reconstruct(**inputs)
    assert result.images.shape == inputs["pixel_values"].shape
    assert result.borrows_patch_statistics is norm_pix_loss
    removed = unpatchify(result.mask.unsqueeze(-1).expand(-1, -1, 192), (8, 8), (32, 32)).bool()
    assert torch.equal(result.images[~removed], inputs["pixel_values"][~removed])
    assert torch.equal(result.images[removed], result.predicted[removed])
    assert (result.images[removed] - inputs["pixel_values"][removed]).abs().mean() > 0.1
    predicted = patchify(result.predicted, (8, 8))
    logits = model(**inputs).logits
    if norm_pix_loss:
        mean, std = patch_statistics(patchify(inputs["pixel_values"], (8, 8)))
        logits = logits * std + mean
    torch.testing.assert_close(predicted, logits)
    assert torch.equal(
        model.reconstruct(inputs["pixel_values"], mask_ratio=0.0).images, inputs["pixel_values"]
    )
