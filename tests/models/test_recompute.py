"""What users put on or in the place of a model's modules is seen by every call of theirs."""

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from helpers import TINY
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
)
from torch.nn.utils import parametrize

from hf_mae import MAEConfig, MAEForImageClassification, MAEForPreTraining
from hf_mae.models import recompute


PROJECTION = "vit.embeddings.patch_embeddings.projection"
REPLACED = [
    PROJECTION,
    "vit.layers.0.layernorm_before",
    "vit.layers.0.layernorm_after",
    "vit.layers.0.attention",
    "vit.layers.0.attention.q_proj",
    "vit.layers.0.attention.k_proj",
    "vit.layers.0.attention.v_proj",
    "vit.layers.0.attention.o_proj",
    "vit.layers.0.mlp",
    "vit.layers.0.mlp.fc1",
    "vit.layers.0.mlp.activation_fn",
    "vit.layers.0.mlp.fc2",
]


@pytest.fixture
def many():
    """Enough tokens for the one product of queries, keys and values."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(12, 3, 32, 32, generator=generator)
    return {"pixel_values": images, "noise": torch.rand(12, 16, generator=generator)}


@pytest.fixture
def recomputed(monkeypatch):
    """How often something was to be computed again."""
    calls, original = [], recompute.recomputed

    def count(cheap, *tensors):
        calls.append(cheap)
        return original(cheap, *tensors)

    monkeypatch.setattr(recompute, "recomputed", count)
    return calls


def test_a_plain_model_recomputes(model, many, recomputed):
    layers = model.config.num_hidden_layers + model.config.decoder_num_hidden_layers
    model.train()(**many)
    assert len(recomputed) == 3 * layers - 1  # the last block's attention has few queries
    recomputed.clear()
    model.eval()(**many)
    with torch.no_grad():
        model.train()(**many)
    assert recomputed == []


# hooks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REPLACED)
def test_hooks_are_called(model, many, name):
    module, called = model.train().get_submodule(name), []
    module.register_forward_pre_hook(lambda *_: called.append("before"))
    module.register_forward_hook(lambda *_: called.append("after"))
    module.register_full_backward_pre_hook(lambda *_: called.append("before backward"))
    module.register_full_backward_hook(lambda *_: called.append("backward"))
    model(**many).loss.backward()
    assert called == ["before", "after", "before backward", "backward"]


@pytest.mark.parametrize("name", REPLACED)
def test_outputs_that_a_hook_changes_are_taken(model, many, name):
    """A pruned channel, say."""

    def halve(module, inputs, output):
        return (output[0] / 2, *output[1:]) if isinstance(output, tuple) else output / 2

    expected = model.train()(**many).loss
    handle = model.get_submodule(name).register_forward_hook(halve)
    assert (model(**many).loss - expected).abs() > 1e-6
    handle.remove()
    assert torch.equal(model(**many).loss, expected)


@pytest.mark.parametrize("training", [True, False])
def test_global_hooks_are_called(model, many, training):
    called = {"before": set(), "after": set(), "backward": set()}
    names = {module: name for name, module in model.named_modules()}
    handles = [
        register_module_forward_pre_hook(lambda module, *_: called["before"].add(names[module])),
        register_module_forward_hook(lambda module, *_: called["after"].add(names[module])),
        register_module_full_backward_hook(
            lambda module, *_: called["backward"].add(names[module])
        ),
    ]
    try:
        model.train(training)(**many).loss.backward()
    finally:
        [handle.remove() for handle in handles]
    assert all(set(REPLACED) <= seen for seen in called.values())


def test_attentions_and_hidden_states_are_captured_in_training(model, many):
    model.set_attn_implementation("eager")
    outputs = model.train()(**many, output_attentions=True, output_hidden_states=True)
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(12, 3, 5, 5)] * 3
    assert len(outputs.hidden_states) == 4
    plain = model.eval()(**many, output_attentions=True).attentions
    assert all(map(torch.equal, outputs.attentions, plain))


# what is put in the place of a module ------------------------------------------------------------


class Adapted(nn.Module):
    """A low-rank adapter in the place of a layer, as peft puts one."""

    def __init__(self, base, down, up):
        super().__init__()
        self.base_layer, self.down, self.up = base.requires_grad_(False), down, up

    @property
    def weight(self):
        return self.base_layer.weight

    @property
    def bias(self):
        return self.base_layer.bias

    def forward(self, inputs):
        return self.base_layer(inputs) + self.up(self.down(inputs))


def adapt(model, name):
    module = model.get_submodule(name)
    if isinstance(module, nn.Conv2d):
        down = nn.Conv2d(module.in_channels, 4, module.kernel_size, module.stride, bias=False)
        up = nn.Conv2d(4, module.out_channels, 1, bias=False)
    else:
        down = nn.Linear(module.in_features, 4, bias=False)
        up = nn.Linear(4, module.out_features, bias=False)
    model.set_submodule(name, Adapted(module, down, up))
    return up.weight.flatten(1) @ down.weight.flatten(1)


LINEARS = [name for name in REPLACED if name.endswith(("_proj", "fc1", "fc2"))]


@pytest.mark.parametrize("name", [PROJECTION, *LINEARS])
def test_adapters_take_part(model, many, name):
    merged, module = copy.deepcopy(model), model.get_submodule(name)
    change = adapt(model, name)
    with torch.no_grad():
        weight = merged.get_submodule(name).weight
        weight += change.reshape(module.weight.shape)
    loss = model.train()(**many).loss
    torch.testing.assert_close(loss, merged.train()(**many).loss)
    loss.backward()
    adapter = model.get_submodule(name)
    assert adapter.down.weight.grad.any()
    assert adapter.up.weight.grad.any()


@pytest.mark.parametrize("name", [PROJECTION, *LINEARS])
def test_parametrized_weights_take_part(model, many, name):
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    doubled = copy.deepcopy(model)
    with torch.no_grad():
        weight = doubled.get_submodule(name).weight
        weight *= 2
    parametrize.register_parametrization(model.get_submodule(name), "weight", Doubled())
    loss = model.train()(**many).loss
    torch.testing.assert_close(loss, doubled.train()(**many).loss)
    loss.backward()
    assert model.get_submodule(name).parametrizations.weight.original.grad.any()


def test_any_module_may_stand_there(model, many):
    """An MLP without the names of ours, and an activation that works in place."""
    layers = model.train().vit.layers
    layers[0].mlp = nn.Sequential(nn.Linear(48, 48), nn.Tanh())
    layers[1].mlp.activation_fn = nn.SiLU(inplace=True)
    expected = copy.deepcopy(model)
    expected.vit.layers[1].mlp.activation_fn = nn.SiLU()
    for each in (model, expected):
        each(**many).loss.backward()
    for ours, theirs in zip(model.parameters(), expected.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad)


class Int8(torch.Tensor):
    """A weight kept in 8 bits, which knows linear layers and nothing else, as torchao's do."""

    @staticmethod
    def __new__(cls, values, scale):
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=scale.dtype)

    def __init__(self, values, scale):
        self.values, self.scale = values, scale

    @classmethod
    def quantise(cls, weight):
        scale = weight.detach().abs().amax(dim=1, keepdim=True) / 127
        return cls((weight.detach() / scale).round().to(torch.int8), scale)

    def dequantise(self):
        return self.values * self.scale

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is F.linear:
            inputs, weight, *bias = args
            return F.linear(inputs, weight.dequantise(), *bias)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return cls(args[0].values, args[0].scale)
        raise NotImplementedError(func)


def test_int8_weights_train_what_is_left(model, many):
    expected = copy.deepcopy(model)
    for name, module in model.vit.named_modules():
        if isinstance(module, nn.Linear):
            module.weight = nn.Parameter(Int8.quantise(module.weight), requires_grad=False)
            plain = expected.vit.get_submodule(name)
            plain.weight = nn.Parameter(module.weight.dequantise(), requires_grad=False)
    for each in (model, expected):
        each.train()(**many).loss.backward()
    gradients = dict(expected.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, gradients[name].grad, msg=name)


@pytest.mark.parametrize("biased", [["q_proj"], ["v_proj"], ["q_proj", "v_proj"]])
def test_biases_of_some_projections(many, biased, recomputed):
    """BEiT's keys have none, say."""
    torch.manual_seed(0)
    model = MAEForPreTraining(MAEConfig(**TINY, qkv_bias=False))
    for layer in model.vit.layers:
        for name in biased:
            layer.attention.get_submodule(name).bias = nn.Parameter(torch.randn(48))
    expected = copy.deepcopy(model)
    model.train()(**many).loss.backward()
    assert recomputed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recompute, "are_plain", lambda *modules: False)
        expected.train()(**many).loss.backward()
    for ours, theirs in zip(model.parameters(), expected.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad)


# offloading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [MAEForPreTraining, MAEForImageClassification])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("where", ["cpu", "disk"])
@torch.no_grad()
def test_offloaded_models_compute_the_same(kind, training, where, many, tmp_path):
    torch.manual_seed(0)
    model = kind(MAEConfig(**TINY)).train(training)
    inputs = many if kind is MAEForPreTraining else {"pixel_values": many["pixel_values"]}
    key = "loss" if kind is MAEForPreTraining else "logits"
    expected = model(**inputs)[key]
    if where == "cpu":
        cpu_offload(model, execution_device="cpu")
    else:
        disk_offload(model, tmp_path, execution_device="cpu")
    assert model.get_submodule(PROJECTION).weight.is_meta
    torch.testing.assert_close(model(**inputs)[key], expected)


# torch.func --------------------------------------------------------------------------------------


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    model = MAEForImageClassification(MAEConfig(**TINY, num_labels=5)).train()
    nn.init.normal_(model.classifier.weight)
    return model


def test_functional_gradients_are_autograds(classifier, many):
    images, labels = many["pixel_values"], torch.arange(12) % 5
    classifier(images, labels=labels).loss.backward()
    parameters = {name: value.detach() for name, value in classifier.named_parameters()}

    def loss(parameters, images, labels):
        return torch.func.functional_call(classifier, parameters, (images, labels)).loss

    found = torch.func.grad(loss)(parameters, images, labels)
    for name, parameter in classifier.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, msg=name)
    # of each image on its own
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(
        parameters, images.unsqueeze(1), labels.unsqueeze(1)
    )
    for name, parameter in classifier.named_parameters():
        torch.testing.assert_close(each[name].mean(dim=0), parameter.grad, msg=name)


def test_models_of_one_batch_side_by_side(classifier, many):
    """torch.func.vmap over weights, and autograd's own backward pass behind it."""
    models = [classifier, copy.deepcopy(classifier)]
    stacked, _ = torch.func.stack_module_state(models)

    def logits(parameters):
        return torch.func.functional_call(classifier, parameters, (many["pixel_values"],)).logits

    torch.func.vmap(logits)(stacked).square().sum().backward()
    classifier(many["pixel_values"]).logits.square().sum().backward()
    for name, parameter in classifier.named_parameters():
        torch.testing.assert_close(
            stacked[name].grad[0], parameter.grad, rtol=1e-4, atol=1e-4, msg=name
        )


# gradients ---------------------------------------------------------------------------------------


ACTIVATIONS = ["gelu", "gelu_pytorch_tanh", "silu", "relu"]


def outputs_of(layer, tokens):
    """A layer's loss and gradients, of tokens and weights."""
    inputs = [tokens.clone().requires_grad_(), *layer.parameters()]
    loss = layer(inputs[0]).float().square().mean()
    return loss, torch.autograd.grad(loss, [tensor for tensor in inputs if tensor.requires_grad])


def layer_of(activation, **fields):
    torch.manual_seed(0)
    config = MAEConfig(**{**TINY, "hidden_act": activation, **fields})
    layer = MAEForPreTraining(config).train().vit.layers[0]
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.2)
    return layer


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("low", ["autocast", "weights", None])
@pytest.mark.parametrize("frozen", ["", "attention", "norm", "bias"])
def test_gradients_are_those_of_what_is_kept(activation, low, frozen, monkeypatch):
    layer, tokens = layer_of(activation), torch.randn(2, 24, 48)
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(not frozen or frozen not in name)
    if low == "weights":
        layer, tokens = layer.bfloat16(), tokens.bfloat16()
    found = []
    for stands_in in (True, False):
        if not stands_in:
            monkeypatch.setattr(
                recompute,
                "recomputed",
                lambda cheap, *rest: recompute.project(cheap(*rest[0]), *rest[1:]),
            )
        with torch.autocast("cpu", torch.bfloat16, enabled=low == "autocast"):
            found.append(outputs_of(layer, tokens))
    (loss, gradients), (expected_loss, expected) = found
    assert torch.equal(loss, expected_loss)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("activation", ACTIVATIONS[:3])
def test_gradients_of_gradients(activation):
    """As a penalty on gradients needs them."""
    layer = layer_of(activation, hidden_size=12, intermediate_size=4).double()
    norm, mlp = layer.layernorm_after, layer.mlp
    tokens = torch.randn(1, 3, 12, dtype=torch.float64, requires_grad=True)

    def run(tokens, *weights):
        (hidden,) = recompute.norm_and_project(norm, [mlp.fc1], tokens)
        return recompute.activate_and_project(mlp.activation_fn, mlp.fc2, hidden)

    inputs = [tokens, *mlp.parameters(), *norm.parameters()]
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)
