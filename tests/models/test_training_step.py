"""What the training step leaves out or does otherwise changes nothing: it equals the method written
out plainly."""

from collections import Counter

import pytest
import torch
from helpers import TINY
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from hf_mae import MAEConfig, MAEForPreTraining
from hf_mae.models import recompute
from hf_mae.models.functional import gather_tokens, patchify, pixel_target, take_patches


def plain_layer(layer, tokens):
    """One block: three projections, softmax attention and MLP of every token."""
    batch, count, width = tokens.shape
    normed = layer.layernorm_before(tokens)
    heads = width // layer.attention.head_dim
    query, key, value = (
        projection(normed).reshape(batch, count, heads, -1).permute(0, 2, 1, 3)
        for projection in (layer.attention.q_proj, layer.attention.k_proj, layer.attention.v_proj)
    )
    weights = (query @ key.mT / layer.attention.head_dim**0.5).softmax(dim=-1)
    tokens = tokens + layer.attention.o_proj(
        (weights @ value).permute(0, 2, 1, 3).reshape(batch, count, width)
    )
    mlp = layer.mlp
    return tokens + mlp.fc2(F.gelu(mlp.fc1(layer.layernorm_after(tokens))))


def plain_loss(model, pixel_values, noise):
    """All patches embedded, tokens put back in order, all decoded and predicted, the loss
    masked."""
    config, embeddings, decoder = model.config, model.vit.embeddings, model.decoder
    positions, decoder_positions = embeddings.position_embeddings, decoder.decoder_pos_embed
    embedded = embeddings.patch_embeddings.projection(pixel_values).flatten(2).mT + positions[:, 1:]
    ids_shuffle = noise.argsort(dim=1)
    ids_restore = ids_shuffle.argsort(dim=1)
    num_visible = int(config.num_patches * (1 - config.mask_ratio))
    visible = torch.stack([tokens[ids[:num_visible]] for tokens, ids in zip(embedded, ids_shuffle)])
    tokens = torch.cat(
        [(embeddings.cls_token + positions[:, :1]).expand(len(visible), -1, -1), visible], dim=1
    )
    for layer in model.vit.layers:
        tokens = plain_layer(layer, tokens)
    tokens = decoder.decoder_embed(model.vit.layernorm(tokens))
    hidden = decoder.mask_token.expand(len(tokens), config.num_patches - num_visible, -1)
    shuffled = torch.cat([tokens[:, 1:], hidden], dim=1)
    ordered = torch.stack([tokens[ids] for tokens, ids in zip(shuffled, ids_restore)])
    tokens = torch.cat([tokens[:, :1], ordered], dim=1) + decoder_positions
    for layer in decoder.decoder_layers:
        tokens = plain_layer(layer, tokens)
    predicted = decoder.decoder_pred(decoder.decoder_norm(tokens))[:, 1:]
    target = pixel_target(patchify(pixel_values, config.patch_hw), config.norm_pix_loss)
    mask = (ids_restore >= num_visible).to(predicted.dtype)
    return ((predicted - target).square().mean(dim=-1) * mask).sum() / mask.sum()


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(3)
    noise = torch.rand(12, 16, generator=generator)
    return torch.randn(12, 3, 32, 32, generator=generator, dtype=torch.float64), noise


@pytest.mark.parametrize(
    "overrides", [{}, {"norm_pix_loss": True}, {"qkv_bias": False}, {"mask_ratio": 0.4}], ids=str
)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_equals_the_plain_version(inputs, overrides, attention, monkeypatch):
    monkeypatch.setattr(
        torch.Tensor, "float", lambda tensor: tensor
    )  # what is deliberately float32: the loss, the softmax
    torch.manual_seed(0)
    config = MAEConfig(**{**TINY, "attn_implementation": attention, **overrides})
    model = MAEForPreTraining(config).double().train()
    with torch.no_grad():  # biases and norms that do something
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    pixel_values, noise = inputs
    expected = plain_loss(model, pixel_values, noise)
    plain = torch.autograd.grad(expected, list(model.parameters()))
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model.zero_grad()
        loss = model(pixel_values.contiguous(memory_format=memory_format), noise=noise).loss
        loss.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
        for (name, parameter), gradient in zip(model.named_parameters(), plain):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12, msg=name)


def test_what_stands_in_for_a_projection_is_asked():
    """As adapters do, which keep the old weight as their own."""

    class Doubled(torch.nn.Linear):
        def forward(self, tokens):
            return 2 * super().forward(tokens)

    torch.manual_seed(0)
    attention = MAEForPreTraining(MAEConfig(**TINY)).train().vit.layers[0].attention
    tokens = torch.randn(2, 24, 48)
    with torch.no_grad():
        attention.o_proj.bias.zero_()

    def attend():
        return attention(torch.nn.LayerNorm(48)(tokens))[0]

    mixed = attend()
    attention.v_proj.__class__ = Doubled
    torch.testing.assert_close(attend(), 2 * mixed)
    attention.v_proj.__class__ = torch.nn.Linear
    attention.v_proj.register_forward_hook(lambda module, inputs, output: 3 * output)
    torch.testing.assert_close(attend(), 3 * mixed)


def test_backward_hooks_are_called():
    layer = MAEForPreTraining(MAEConfig(**TINY)).train().vit.layers[0]
    names = ["layernorm_before", "layernorm_after", "attention.q_proj", "mlp.fc1", "mlp.fc2"]
    called = []
    for name in names:
        layer.get_submodule(name).register_full_backward_hook(
            lambda *args, name=name: called.append(name)
        )
    layer(torch.randn(2, 24, 48, requires_grad=True)).sum().backward()
    assert sorted(called) == sorted(names)


def everything_kept(cheap, inputs, weights, biases):
    return recompute.project(cheap(*inputs), weights, biases)


def gradients_both_ways(loss, parameters, monkeypatch):
    """With recomputing and without, of the same draws."""
    parameters, found = list(parameters), []
    for kept in (False, True):
        with monkeypatch.context() as patch:
            if kept:
                patch.setattr(recompute, "recomputed", everything_kept)
            torch.manual_seed(1)
            found.append(torch.autograd.grad(loss(), parameters))
    return found


@pytest.mark.parametrize(
    "name", ["layernorm_before", "layernorm_after", "attention.v_proj", "mlp.fc1", "mlp.fc2"]
)
def test_a_forward_of_its_own_is_called_once(name, monkeypatch):
    """As libraries put one in an instance's place, here with dropout."""
    layer = MAEForPreTraining(MAEConfig(**TINY)).train().vit.layers[0]
    module, tokens = layer.get_submodule(name), torch.randn(2, 24, 48)
    plain, calls = module.forward, []
    module.forward = lambda tokens: calls.append(name) or F.dropout(plain(tokens), 0.5)
    both = gradients_both_ways(
        lambda: layer(tokens).square().sum(), layer.parameters(), monkeypatch
    )
    assert all(map(torch.equal, *both))
    assert len(calls) == 2


def test_weights_that_are_lent(monkeypatch):
    """The module has its own again when the backward pass comes."""
    layer, tokens = (
        MAEForPreTraining(MAEConfig(**TINY)).train().vit.layers[0],
        torch.randn(2, 24, 48),
    )
    lent = {
        name: torch.randn_like(value).requires_grad_() for name, value in layer.named_parameters()
    }

    def loss():
        return torch.func.functional_call(layer, lent, (tokens,)).square().sum()

    assert all(map(torch.equal, *gradients_both_ways(loss, lent.values(), monkeypatch)))


def test_what_draws_is_not_drawn_again(monkeypatch):
    """An adapter with dropout in the place of a layer: its gradient is of the draw that the loss
    was of."""

    class Dropped(torch.nn.Linear):
        def forward(self, tokens):
            return F.dropout(super().forward(F.dropout(tokens, 0.5)), 0.5)

    torch.manual_seed(0)
    layer = MAEForPreTraining(MAEConfig(**TINY)).train().vit.layers[0]
    tokens = torch.randn(2, 5, 48)
    layer.mlp.fc2.__class__ = Dropped

    def loss():
        return layer(tokens).square().sum()

    assert all(map(torch.equal, *gradients_both_ways(loss, layer.parameters(), monkeypatch)))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(32, 32), (24, 56)])
def test_patches_are_taken_from_the_images(memory_format, size):
    images = torch.randn(4, 3, *size).contiguous(memory_format=memory_format)
    patches = patchify(images, (8, 4))
    ids = torch.rand(4, patches.shape[1]).argsort(dim=1)[:, :5]
    assert torch.equal(take_patches(images, (8, 4), ids), gather_tokens(patches, ids))


class Calls(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    """Counts floating-point operations of products, as FlopCounterMode does, whose global hooks
    would turn recomputing off."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.overloadpacket in flop_registry:
            self.total += flop_registry[func.overloadpacket](*args, **kwargs, out_val=result)
        return result


def test_patches_of_decoded_images_are_copied_once():
    images = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    ids = torch.rand(4, 16).argsort(dim=1)[:, :5]
    with Calls() as calls:
        take_patches(images, (8, 8), ids)
    assert calls.counts["index"] == 1
    assert not {"clone", "copy_", "_to_copy", "gather"} & set(calls.counts)


def test_queries_keys_and_values_are_one_product():
    layer = MAEForPreTraining(MAEConfig(**TINY)).train().vit.layers[0]

    def products(count):
        with Calls() as calls:
            layer(torch.randn(2, count, 48))
        return calls.counts["addmm"]

    assert products(24) == 4  # with the attention's output and the MLP's two
    assert products(23) == 6  # fewer tokens than the weights have rows
    with torch.no_grad():
        assert products(24) == 6


def test_the_optimizer_is_fused(make_trainer):
    trainer = make_trainer()
    trainer.train()
    optimizer = trainer.optimizer.optimizer
    assert isinstance(optimizer, torch.optim.AdamW)
    assert all(group["fused"] for group in optimizer.param_groups)
    assert optimizer.found_inf.item() == 0  # the guard tells it on the device


def test_the_model_says_which_patches_its_features_are_of():
    model = MAEForPreTraining(MAEConfig(**TINY)).vit
    outputs = model(torch.randn(2, 3, 32, 32), noise=torch.rand(2, 16), mask_ratio=0.75)
    assert torch.equal(outputs.mask.gather(1, outputs.ids_shuffle[:, :4]), torch.zeros(2, 4))
    assert model(torch.randn(2, 3, 32, 32)).ids_shuffle is None


def kept_bytes(model, pixel_values, noise):
    """What the forward pass keeps for the backward one, without the parameters; operations of both;
    gradients."""
    kept = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.zero_grad()
    with Operations() as operations:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(pixel_values, noise=noise).loss
        loss.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    return sum(kept.values()), operations.total, gradients


def test_activations_are_not_kept(monkeypatch):
    config = MAEConfig.from_size("tiny", num_hidden_layers=6)
    torch.manual_seed(0)
    model = MAEForPreTraining(config).train()
    pixel_values, noise = torch.randn(8, 3, 224, 224), torch.rand(8, 196)
    few, flops, gradients = kept_bytes(model, pixel_values, noise)
    monkeypatch.setattr(recompute, "recomputed", everything_kept)
    many, plain_flops, expected = kept_bytes(model, pixel_values, noise)
    assert few < 0.7 * many
    assert flops == plain_flops  # no product is computed twice
    with FlopCounterMode(display=False) as counter:
        model(pixel_values, noise=noise).loss.backward()
    assert flops == counter.get_total_flops()
    assert all(map(torch.equal, gradients, expected))
