"""The cross-attention decoder: as its paper's equations say, one patch at a time."""

import math
import re
from itertools import pairwise

import pytest
import torch
from helpers import TINY

from hf_mae import MAEConfig, MAEForImageClassification, MAEForPreTraining, MAEModel
from hf_mae.models.costs import training_flops
from hf_mae.models.functional import (
    masked_losses,
    patchify,
    pixel_target,
    sincos_position_table,
    take_patches,
)


CROSS = {**TINY, "decoder_type": "cross", "norm_pix_loss": True}


@pytest.fixture(params=[False, True], ids=["last layer", "mixed layers"])
def model(request):
    torch.manual_seed(0)
    model = MAEForPreTraining(MAEConfig(**CROSS, decoder_layer_mixing=request.param))
    for name, parameter in model.named_parameters():  # norms and biases that do something
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, float("norm" in name and "weight" in name), 0.1)
    return model


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return {"pixel_values": torch.rand(2, 3, 32, 32), "noise": torch.rand(2, 16)}


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same(ours, expected, atol=1e-5):
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=atol, msg=name)


# the slow one: vectors, and loops over blocks, heads, queries and keys ---------------------------


def normalised(vector, norm):
    mean = sum(vector) / len(vector)
    variance = sum((value - mean) ** 2 for value in vector) / len(vector)
    return (vector - mean) / math.sqrt(variance + norm.eps) * norm.weight + norm.bias


def mapped(vector, linear):
    return torch.stack([sum(row * vector) for row in linear.weight]) + linear.bias


def ask(attention, token, memory):
    """What one token takes from a memory of vectors."""
    query, width = mapped(token, attention.q_proj), attention.head_dim
    keys = [mapped(vector, attention.k_proj) for vector in memory]
    values = [mapped(vector, attention.v_proj) for vector in memory]
    heads = []
    for start in range(0, len(query), width):
        part = slice(start, start + width)
        scores = [math.exp(sum(query[part] * key[part]) / math.sqrt(width)) for key in keys]
        weighted = [score * value[part] for score, value in zip(scores, values)]
        heads.append(sum(weighted) / sum(scores))
    return mapped(torch.cat(heads), attention.o_proj)


def predict(decoder, layer_outputs, number):
    """One patch's pixels, from the encoder's vectors of one image."""
    table = sincos_position_table((4, 4), 32)[0]
    token = decoder.mask_token[0, 0] + table[1 + number]
    for index, block in enumerate(decoder.decoder_layers):
        memory = layer_outputs[-1]
        if decoder.layer_mixing is not None:
            weights, norm = decoder.layer_mixing.layer_weights[index], decoder.layer_mixing.norms
            memory = []
            for place in range(len(layer_outputs[0])):
                terms = [w * given[place] for w, given in zip(weights, layer_outputs)]
                memory.append(normalised(sum(terms), norm[index]))
        token = token + ask(block.attention, normalised(token, block.layernorm_before), memory)
        hidden = mapped(normalised(token, block.layernorm_after), block.mlp.fc1)
        hidden = torch.stack([x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in hidden])
        token = token + mapped(hidden, block.mlp.fc2)
    return mapped(normalised(token, decoder.decoder_norm), decoder.decoder_pred)


@torch.no_grad()
def test_parity_with_the_equations(model, inputs):
    model.double().eval()
    pixel_values = inputs["pixel_values"].double()
    outputs = model(pixel_values, inputs["noise"], output_hidden_states=True)
    encoded = model.vit(pixel_values, inputs["noise"], 0.75)
    layer_outputs = [*outputs.hidden_states[:-1], encoded.last_hidden_state]
    assert len(layer_outputs) == 4
    for image, number in ((0, 0), (0, 9), (1, 15)):
        of_image = [given[image] for given in layer_outputs]
        expected = predict(model.decoder, of_image, number)
        torch.testing.assert_close(outputs.logits[image, number], expected, rtol=0, atol=1e-10)


# what is asked ---------------------------------------------------------------------------------


def test_training_predicts_a_share_of_all_patches(model, inputs):
    predicted = {}
    model.decoder.decoder_pred.register_forward_hook(lambda *a: predicted.update(shape=a[2].shape))
    model.train()(**inputs)
    assert predicted["shape"] == (2, 4, 192)  # a quarter of 16; 12 are removed
    whole = model(**inputs, return_logits=True)
    assert predicted["shape"] == (2, 16, 192)
    model.eval()(**inputs)
    assert predicted["shape"] == (2, 16, 192)
    assert whole.logits.shape == (2, 16, 192)


def test_the_loss_is_that_of_the_patches_that_are_asked(model, inputs):
    whole = model.eval()(**inputs)
    target = pixel_target(patchify(inputs["pixel_values"], (8, 8)), True)
    torch.testing.assert_close(whole.loss, masked_losses(whole.logits, target, whole.mask).mean())
    removed = inputs["noise"].argsort(dim=1)[:, 4:]
    asked = model.decoder.choose(removed, 16)
    assert asked.tolist() == removed[:, [0, 3, 6, 9]].tolist()
    errors = [
        (whole.logits[image, number] - target[image, number]).square().mean()
        for image in range(2)
        for number in asked[image]
    ]
    loss = model.train()(**inputs).loss
    torch.testing.assert_close(loss, torch.stack(errors).mean(), rtol=0, atol=1e-6)
    assert (loss - whole.loss).abs() > 1e-3


def test_all_that_are_removed_can_be_asked(inputs):
    torch.manual_seed(0)
    model = MAEForPreTraining(MAEConfig(**CROSS, prediction_ratio=1.0)).train()
    short, whole = model(**inputs), model(**inputs, return_logits=True)
    torch.testing.assert_close(short.loss, whole.loss, rtol=0, atol=1e-6)
    assert_same(gradients(model, short.loss), gradients(model, whole.loss), atol=1e-6)


def test_every_removed_patch_is_asked_equally_often():
    decoder = MAEForPreTraining(MAEConfig(**CROSS)).decoder
    torch.manual_seed(0)
    order = torch.rand(20000, 16).argsort(dim=1)
    asked = decoder.choose(order[:, 4:], 16)
    share = torch.bincount(asked.flatten(), minlength=16) / 20000
    # 20,000 draws of probability 1/4: standard deviation 0.003
    assert torch.allclose(share, torch.full((16,), 0.25), atol=0.015)
    assert decoder.choose(order[:, 14:], 16).shape == (20000, 2)  # no more than there are
    assert decoder.choose(torch.arange(48).view(1, 48), 64).shape == (1, 16)  # of a larger grid


def test_a_patch_doesnt_look_at_other_removed_ones(model, inputs):
    model.eval()
    torch.manual_seed(2)
    outputs = model(**inputs)
    changed = inputs["pixel_values"].clone()
    patches = take_patches(changed, (8, 8), torch.arange(16).expand(2, -1))
    patches = torch.where(outputs.mask.unsqueeze(-1).bool(), torch.rand_like(patches), patches)
    changed = patches.view(2, 4, 4, 8, 8, 3).permute(0, 5, 1, 3, 2, 4).reshape(2, 3, 32, 32)
    other = model(changed, inputs["noise"])
    assert torch.equal(other.logits, outputs.logits)
    assert other.loss != outputs.loss


# as any model -----------------------------------------------------------------------------------


def test_every_parameter_takes_part(model, inputs):
    model.train()(**inputs).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_what_is_computed_again_equals_what_is_kept(model, inputs):
    expected = gradients(model.train(), model(**inputs).loss)
    for module in model.modules():  # hooks: nothing is stood in for
        module.register_forward_hook(lambda *_: None)
    assert_same(gradients(model, model(**inputs).loss), expected)
    model.gradient_checkpointing_enable()
    assert_same(gradients(model, model(**inputs).loss), expected)


@pytest.mark.parametrize("training", [True, False])
def test_compiles_into_one_graph(model, inputs, training):
    model.train(training)
    expected = gradients(model, model(**inputs).loss)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same(gradients(model, compiled(**inputs).loss), expected)


def test_attention_back_ends_agree(model, inputs):
    expected = gradients(model.train(), model(**inputs).loss)
    model.set_attn_implementation("eager")
    assert_same(gradients(model, model(**inputs).loss), expected)


def test_is_saved_and_loaded(model, inputs, tmp_path):
    expected = model.eval()(**inputs)
    model.save_pretrained(tmp_path)
    loaded = MAEForPreTraining.from_pretrained(tmp_path).eval()
    assert loaded.config.decoder_type == "cross"
    assert loaded.config.prediction_ratio == 0.25
    assert torch.equal(loaded(**inputs).logits, expected.logits)
    encoder = MAEModel.from_pretrained(tmp_path).eval()
    features = encoder(inputs["pixel_values"]).last_hidden_state
    assert torch.equal(features, model.vit(inputs["pixel_values"]).last_hidden_state)
    classifier = MAEForImageClassification.from_pretrained(tmp_path, num_labels=3)
    assert classifier(inputs["pixel_values"]).logits.shape == (2, 3)
    larger = MAEForPreTraining.from_pretrained(tmp_path, image_size=64)
    larger(torch.rand(1, 3, 64, 64)).loss.backward()


@torch.no_grad()
def test_reconstructs_other_masks_and_sizes(model, inputs):
    model.eval()
    given = torch.zeros(2, 16)
    given[:, [2, 3, 6, 7]] = 1
    result = model.reconstruct(inputs["pixel_values"], bool_masked_pos=given)
    assert torch.equal(result.mask, given)
    visible = 1 - given.view(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    kept = visible.expand(-1, 3, -1, -1).bool()
    assert torch.equal(result.images[kept], inputs["pixel_values"][kept])
    assert model.reconstruct(inputs["pixel_values"], mask_ratio=0).images.shape == (2, 3, 32, 32)
    wide = torch.rand(1, 3, 40, 64)
    assert model(wide, interpolate_pos_encoding=True).logits.shape == (1, 40, 192)


def test_costs_less():
    costs = []
    for depth in (8, 4):
        config = MAEConfig(decoder_type="cross", decoder_num_hidden_layers=depth)
        costs.append(training_flops(MAEForPreTraining, config))
    costs.append(training_flops(MAEForPreTraining, MAEConfig()))
    assert costs[0] < 0.6 * costs[2]  # a step of ViT-Base
    assert all(a > b for a, b in pairwise(costs[:2]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decoder_type": "crossed"}, "decoder_type is 'crossed'; it must be one of self, cross"),
        ({"decoder_type": "cross", "prediction_ratio": 0}, "prediction_ratio is 0; it must be a n"),
        ({"decoder_type": "cross", "prediction_ratio": 1.5}, "prediction_ratio is 1.5; it must be"),
        ({"prediction_ratio": 0.5}, "prediction_ratio is 0.5, which is for a decoder_type 'cross'"),
        ({"decoder_layer_mixing": True}, "decoder_layer_mixing is True, which is for a decoder_ty"),
        ({"decoder_layer_mixing": "yes"}, "decoder_layer_mixing is 'yes'; it must be True or Fals"),
    ],
)
def test_impossible_fields(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MAEConfig(**{**TINY, **fields})
