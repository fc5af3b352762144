import re

import pytest
import torch
from helpers import TINY
from PIL import Image
from timm.loss import SoftTargetCrossEntropy
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    pipeline,
)
from transformers.loss.loss_utils import ForSequenceClassificationLoss

from hf_mae import (
    MAEConfig,
    MAEForImageClassification,
    MAEForPreTraining,
    MAEImageProcessor,
    MAEModel,
)


PROBE = {"pooling": "cls", "head_batch_norm": True}


def classifier(**fields):
    torch.manual_seed(0)
    return MAEForImageClassification(MAEConfig(**{**TINY, "num_labels": 10, **fields}))


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(6, 3, 32, 32)


# the head ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fields", "std"), [({}, 2e-5), (PROBE, 0.01)])
def test_head_init(fields, std):
    model = classifier(
        **fields, hidden_size=768, num_attention_heads=12, num_labels=1000, num_hidden_layers=1
    )
    assert model.classifier.weight.std().item() == pytest.approx(std, rel=0.01)
    assert model.classifier.weight.mean().abs().item() < 0.01 * std
    assert not model.classifier.bias.any()


def test_what_the_head_sees(images):
    mean, probe = classifier().eval(), classifier(**PROBE).eval()
    for model in (mean, probe):  # nothing that could hide an error is 0 or 1
        for tensor in [
            *model.parameters(),
            *(b for n, b in model.named_buffers() if "running" in n),
        ]:
            tensor.data.uniform_(0.1, 1)
    tokens = mean.vit(images).last_hidden_state
    expected = nn.functional.layer_norm(
        tokens[:, 1:].mean(1), (48,), mean.fc_norm.weight, mean.fc_norm.bias, 1e-6
    )
    torch.testing.assert_close(mean(images).logits, mean.classifier(expected))
    assert isinstance(mean.vit.layernorm, nn.Identity)
    cls = probe.vit(images).last_hidden_state[:, 0]
    expected = (cls - probe.batch_norm.running_mean) / (probe.batch_norm.running_var + 1e-6).sqrt()
    torch.testing.assert_close(probe(images).logits, probe.classifier(expected))
    assert not list(probe.batch_norm.parameters())
    assert (probe.batch_norm.eps, isinstance(probe.vit.layernorm, nn.LayerNorm)) == (1e-6, True)


def test_batch_norm_by_the_statistics_of_a_larger_batch():
    """Two parts that are told what they are parts of are normalised and tracked as the whole."""
    torch.manual_seed(0)
    features = torch.randn(12, 48) * 3 + 1
    whole, parts = classifier(**PROBE), classifier(**PROBE)
    assert torch.equal(whole.classifier.weight, parts.classifier.weight)
    statistics = torch.stack([features.mean(0), features.var(0, unbiased=False)])
    expected = whole(features=features).logits
    given = [
        parts(features=part, batch_statistics=statistics.expand(len(part), -1, -1)).logits
        for part in features.split([4, 8])
    ]
    torch.testing.assert_close(torch.cat(given), expected)
    assert not parts.batch_norm.num_batches_tracked  # what was given is tracked by who knows it all
    parts.batch_norm.track(statistics, 12)
    for name, tensor in whole.batch_norm.state_dict().items():
        torch.testing.assert_close(parts.batch_norm.state_dict()[name], tensor)
    before = parts.batch_norm.running_var.clone()
    parts.batch_norm.track(statistics * torch.tensor([[1.0], [torch.inf]]), 12)
    assert torch.equal(parts.batch_norm.running_var, before)
    parts.eval()
    plain = parts(features=features).logits
    told = parts(features=features, batch_statistics=statistics.expand(12, -1, -1)).logits
    assert torch.equal(plain, told)


def test_every_parameter_is_trained(images):
    for fields in ({}, {"pooling": "cls"}, PROBE):
        model = classifier(**fields)
        nn.init.normal_(model.classifier.weight)
        model(images, labels=torch.arange(6)).loss.backward()
        assert not [
            name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()
        ]
        assert "vit.embeddings.position_embeddings" in dict(model.named_parameters())


def test_pixel_values_or_features(images):
    model = classifier().eval()
    torch.testing.assert_close(
        model(features=model.vit(images).pooler_output).logits, model(images).logits
    )
    for arguments in ({}, {"pixel_values": images, "features": torch.zeros(6, 48)}):
        with pytest.raises(ValueError, match="either pixel_values or features"):
            model(**arguments)


def test_a_config_is_left_alone():
    config = MAEConfig(**TINY)
    assert not MAEForImageClassification(config).config.final_norm
    assert config.final_norm
    # a pre-training model made by a classifier's configuration has its norm
    assert isinstance(MAEForPreTraining(classifier().config).vit.layernorm, nn.LayerNorm)


# the loss ----------------------------------------------------------------------------------------


def test_losses(images):
    model = classifier().eval()
    nn.init.normal_(model.classifier.weight)
    logits, hard = model(images).logits, torch.tensor([3, 1, 4, 1, 5, 9])
    soft = torch.rand(6, 10).softmax(dim=1)
    assert model(images, labels=hard).loss.item() == pytest.approx(
        nn.CrossEntropyLoss()(logits, hard).item(), rel=1e-6
    )
    expected = SoftTargetCrossEntropy()(logits, soft).item()
    assert model(images, labels=soft).loss.item() == pytest.approx(expected, rel=1e-6)
    assert model.config.problem_type is None  # else the next loss would be another
    model.config.problem_type = "multi_label_classification"
    several = (soft > 0.1).float()
    expected = nn.BCEWithLogitsLoss()(logits, several).item()
    assert model(images, labels=several).loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("problem_type", [None, "regression", "multi_label_classification"])
@pytest.mark.parametrize("num_labels", [1, 3])
def test_losses_are_those_of_transformers(images, problem_type, num_labels):
    """Of whatever floats: what transformers' own loss makes of them, and of the configuration."""
    torch.manual_seed(0)
    model = classifier(num_labels=num_labels, problem_type=problem_type).eval()
    nn.init.normal_(model.classifier.weight)
    labels = torch.randint(0, 2, (6, num_labels)).float()
    labels[0] = 0
    theirs = MAEConfig(**TINY, num_labels=num_labels, problem_type=problem_type)
    outputs = model(images, labels=labels)
    expected = ForSequenceClassificationLoss(labels, outputs.logits, theirs)
    assert outputs.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert model.config.problem_type == theirs.problem_type


@pytest.mark.parametrize(
    ("labels", "fields"),
    [
        (torch.zeros(6, 10, dtype=torch.long), {}),
        (torch.zeros(6), {}),
        (torch.zeros(6), {"problem_type": "multi_label_classification"}),
        (torch.zeros(6, 4), {"problem_type": "regression"}),
        (torch.zeros(6, 2), {"num_labels": 1}),
    ],
)
def test_labels_of_another_shape_are_refused(images, labels, fields):
    """Squared errors would be spread over what doesn't fit."""
    with pytest.raises(ValueError, match=re.escape(f"of shape {tuple(labels.shape)};")):
        classifier(**fields)(images, labels=labels)


# drop path ---------------------------------------------------------------------------------------


def test_drop_path_keeps_expectation(images):
    """Of each residual branch: a sample has all of it, scaled up, or none; the mean is what
    evaluation has."""
    layer = classifier(num_hidden_layers=2, drop_path_rate=0.4).vit.layers[1]
    tokens = torch.randn(1, 17, 48).expand(4000, -1, -1)
    nn.init.zeros_(layer.mlp.fc2.weight)  # leaves one branch of the two
    whole = layer.eval()(tokens[:1])[0] - tokens[0]
    sampled = layer.train()(tokens) - tokens
    kept = sampled.flatten(1).abs().sum(1) > 0
    assert kept.float().mean().item() == pytest.approx(0.6, abs=0.03)
    torch.testing.assert_close(sampled[kept][0], whole / 0.6)
    torch.testing.assert_close(sampled.mean(0), whole * kept.float().mean() / 0.6)


def test_drop_path_follows_its_noise(images):
    """Which branches of which samples are left out is the caller's to say."""
    model = classifier(num_hidden_layers=2, drop_path_rate=0.5).train()
    noise = torch.full((6, 2, 2), 0.9)
    noise[2, 1, 0] = noise[4, 1, 1] = (
        0.1  # of the second layer: attention of sample 2, MLP of sample 4
    )
    noise[:, 0] = 0.0  # of the first, whose rate is 0: no matter
    layer, tokens = model.vit.layers[1], torch.randn(6, 17, 48)
    with torch.no_grad():
        mixed = tokens + 2 * layer.attention(layer.layernorm_before(tokens))[0]
        mixed[2] = tokens[2]
        expected = mixed + 2 * layer.mlp(layer.layernorm_after(mixed))
        expected[4] = mixed[4]
    torch.testing.assert_close(layer(tokens, drop_path_noise=noise[:, 1]), expected)
    nn.init.normal_(model.classifier.weight)
    outputs = [model(images, drop_path_noise=noise).logits for _ in range(2)]
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], model(images, drop_path_noise=1 - noise).logits)


def test_drop_path_stays_out_of_evaluation(images):
    with_drop, without = classifier(drop_path_rate=0.9).eval(), classifier().eval()
    without.load_state_dict(with_drop.state_dict())
    assert torch.equal(with_drop(images).logits, without(images).logits)
    with_drop.train()
    assert not torch.equal(with_drop(images).logits, without(images).logits)


# a frozen encoder --------------------------------------------------------------------------------


def test_frozen_encoder(images):
    model = classifier(**PROBE, drop_path_rate=0.5, hidden_dropout_prob=0.5).freeze_encoder()
    model.eval().train()
    assert model.training
    assert model.batch_norm.training
    assert not any(module.training for module in model.vit.modules())
    assert torch.equal(model.vit(images).pooler_output, model.vit(images).pooler_output)
    seen = []
    model.vit.register_forward_hook(lambda *args: seen.append(torch.is_grad_enabled()))
    model(images, labels=torch.arange(6)).loss.backward()
    assert seen == [False]
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        "classifier.weight",
        "classifier.bias",
    }


# loading -----------------------------------------------------------------------------------------


@pytest.fixture
def pretrained(tmp_path):
    torch.manual_seed(0)
    model = MAEForPreTraining(MAEConfig(**TINY))
    model.save_pretrained(tmp_path / "pretrained")
    return model, tmp_path / "pretrained"


@pytest.mark.parametrize("fields", [{}, PROBE])
def test_from_a_pre_training_folder(pretrained, fields, images):
    source, folder = pretrained
    model = MAEForImageClassification.from_pretrained(folder, num_labels=7, **fields)
    expected, ours = source.vit.state_dict(), model.vit.state_dict()
    assert set(expected) - set(ours) == (
        set() if fields else {"layernorm.weight", "layernorm.bias"}
    )
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.items())
    assert model(images).logits.shape == (6, 7)
    assert model.vit.embeddings.position_embeddings.requires_grad
    if fields:
        assert torch.equal(model.batch_norm.running_var, torch.ones(48))
        assert not model.batch_norm.running_mean.any()
    assert 0 < model.classifier.weight.std() < 0.02


def test_the_head_is_said_to_be_new_once(pretrained, caplog):
    """By transformers' report; what is left behind on purpose is not in it."""
    MAEForImageClassification.from_pretrained(pretrained[1], num_labels=7)
    shown = caplog.text
    assert shown.count("classifier.weight") == 1
    assert "newly initialized" in shown
    assert "decoder" not in shown
    assert "vit." not in shown


def test_from_vit_mae(tmp_path, images):
    names = [name for name in TINY if name in ViTMAEConfig().to_dict()]
    theirs = ViTMAEForPreTraining(
        ViTMAEConfig(**{name: TINY[name] for name in names}, layer_norm_eps=1e-6)
    )
    theirs.save_pretrained(tmp_path / "native")
    model = MAEForImageClassification.from_pretrained(
        tmp_path / "native", num_labels=7, pooling="cls"
    ).eval()
    encoder = MAEModel.from_pretrained(tmp_path / "native", pooling="cls").eval()
    torch.testing.assert_close(model.vit(images).pooler_output, encoder(images).pooler_output)
    layer = theirs.state_dict()
    weight = next(
        tensor
        for name, tensor in layer.items()
        if "layers.2." in name and name.endswith("fc1.weight") and "vit" in name
    )
    assert torch.equal(model.vit.layers[2].mlp.fc1.weight, weight)


def test_another_image_size(pretrained, tmp_path):
    model = MAEForImageClassification.from_pretrained(
        pretrained[1], num_labels=7, image_size=(48, 64)
    )
    table = model.vit.embeddings.position_embeddings
    assert table.shape == (1, 1 + 6 * 8, 48)
    assert isinstance(table, nn.Parameter)
    assert table.requires_grad
    assert table.is_leaf
    nn.init.normal_(model.classifier.weight)
    model(torch.randn(2, 3, 48, 64), labels=torch.tensor([1, 2])).loss.backward()
    assert table.grad.any()
    model.save_pretrained(tmp_path / "saved")
    again = MAEForImageClassification.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.vit.embeddings.position_embeddings, table)
    expected = MAEModel.from_pretrained(
        pretrained[1], image_size=(48, 64)
    ).embeddings.position_embeddings
    assert torch.equal(table, expected)


def test_saved_and_loaded(tmp_path, images):
    for name, fields in (("mean", {}), ("probe", PROBE)):
        model = classifier(**fields).eval()
        if fields:
            model.batch_norm.running_var.uniform_(0.5, 2)
        model.save_pretrained(tmp_path / name)
        again = AutoModelForImageClassification.from_pretrained(tmp_path / name)
        assert isinstance(again, MAEForImageClassification)
        assert torch.equal(again(images).logits, model(images).logits)
        encoder = MAEModel.from_pretrained(tmp_path / name)
        assert torch.equal(encoder(images).pooler_output, model.vit(images).pooler_output)


def test_pipeline(tmp_path, photos):
    model = classifier(
        id2label={0: "temple", 1: "flower"}, label2id={"temple": 0, "flower": 1}, num_labels=2
    ).eval()
    nn.init.normal_(model.classifier.weight)
    processor = MAEImageProcessor.from_model_config(model.config)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    found = pipeline("image-classification", str(tmp_path))(photos[0])
    expected = model(**processor(photos[0], return_tensors="pt")).logits[0].softmax(dim=0)
    assert {row["label"]: row["score"] for row in found} == pytest.approx(
        {"temple": expected[0].item(), "flower": expected[1].item()}, abs=1e-6
    )
    assert isinstance(photos[0], Image.Image)
