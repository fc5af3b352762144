"""The encoder's feature maps, and transformers' heads on them."""

import pytest
import torch
from helpers import TINY
from transformers import (
    AutoBackbone,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from hf_mae import (
    MAEBackbone,
    MAEConfig,
    MAEForImageClassification,
    MAEForPreTraining,
    MAEModel,
)


@pytest.mark.parametrize("model_class", [MAEForPreTraining, MAEModel])
@torch.no_grad()
def test_the_last_map_is_the_encoders_output(model_class, tmp_path):
    torch.manual_seed(0)
    model = model_class(MAEConfig(**TINY)).eval()
    model.save_pretrained(tmp_path)
    backbone = MAEBackbone.from_pretrained(tmp_path, out_indices=[1, 3]).eval()
    images = torch.randn(2, 3, 32, 32)
    first, last = backbone(images).feature_maps
    assert first.shape == last.shape == (2, 48, 4, 4)
    expected = model.base_model(images).last_hidden_state[:, 1:]
    assert torch.equal(last.flatten(2).transpose(1, 2), expected)
    assert not torch.equal(first, last)


@torch.no_grad()
def test_any_size_of_images():
    backbone = MAEBackbone(MAEConfig(**TINY)).eval()
    assert backbone(torch.randn(1, 3, 50, 33)).feature_maps[0].shape == (1, 48, 7, 5)
    whole = torch.randn(1, 3, 56, 40)
    whole[..., 50:, :] = 0
    whole[..., 33:] = 0
    found = [backbone(images).feature_maps[0] for images in (whole, whole[..., :50, :33])]
    assert torch.equal(*found)  # padded by zeros, below and on the right


@torch.no_grad()
def test_pyramid():
    config = MAEConfig(**TINY, simple_feature_pyramid=True)
    backbone = AutoBackbone.from_config(config).eval()
    assert isinstance(backbone, MAEBackbone)
    maps = backbone(torch.randn(2, 3, 32, 64)).feature_maps
    assert [tuple(found.shape) for found in maps] == [
        (2, 256, 16, 32),
        (2, 256, 8, 16),
        (2, 256, 4, 8),
        (2, 256, 2, 4),
    ]
    assert backbone.channels == [256] * 4
    one = AutoBackbone.from_config(
        MAEConfig(**TINY, simple_feature_pyramid=True, out_features=["p3"])
    )
    assert len(one(torch.randn(1, 3, 32, 32)).feature_maps) == 1


def test_which_maps_survives_the_folder(tmp_path):
    for given in ({}, {"out_indices": [0, 2]}, {"simple_feature_pyramid": True}):
        config = MAEConfig(**TINY, **given)
        config.save_pretrained(tmp_path)
        again = MAEConfig.from_pretrained(tmp_path)
        assert again.to_dict() == config.to_dict()
        assert again.out_features == config.out_features
    assert "out_features" not in MAEConfig(**TINY).to_dict()  # the default says nothing
    assert MAEConfig(**TINY).changed(num_hidden_layers=1).out_features == ["stage1"]
    with pytest.raises(ValueError, match="out_features must be a subset of stage_names"):
        MAEConfig(**TINY, out_features=["stage9"])


def test_a_mask2former_trains_a_step():
    backbone = MAEConfig(**TINY, simple_feature_pyramid=True)
    config = Mask2FormerConfig(
        backbone_config=backbone,
        hidden_dim=32,
        feature_size=32,
        mask_feature_size=32,
        num_queries=4,
        encoder_layers=1,
        decoder_layers=2,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        num_attention_heads=4,
        num_labels=2,
        train_num_points=16,
    )
    torch.manual_seed(0)
    model = Mask2FormerForUniversalSegmentation(config).train()
    masks = torch.zeros(1, 2, 64, 64)
    masks[0, 0, :32], masks[0, 1, 32:] = 1, 1
    outputs = model(
        torch.randn(1, 3, 64, 64), mask_labels=list(masks), class_labels=[torch.tensor([0, 1])]
    )
    outputs.loss.backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert any("vit.layers.0.attention.q_proj" in name for name in trained)
    assert any("pyramid" in name for name in trained)


def test_heads_keep_the_backbones_configuration(tmp_path):
    backbone = MAEConfig(**TINY, out_indices=[0, 1, 2, 3])
    config = UperNetConfig(backbone_config=backbone, hidden_size=32, use_auxiliary_head=False)
    model = UperNetForSemanticSegmentation(config).eval()
    model.save_pretrained(tmp_path)
    again = UperNetForSemanticSegmentation.from_pretrained(tmp_path).eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        found, expected = again(images).logits, model(images).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_classifiers_native_folder_is_a_beit_backbone(tmp_path):
    """Of a mean-pool classifier, whose encoder has no norm at its end."""
    from tiny_models import make, write
    from transformers import BeitBackbone

    model = make("mean")
    assert isinstance(model, MAEForImageClassification)
    write(model, tmp_path / "native")
    model.save_pretrained(tmp_path / "own")
    theirs = BeitBackbone.from_pretrained(tmp_path / "native", out_indices=[1, 3]).eval()
    ours = MAEBackbone.from_pretrained(tmp_path / "own", out_indices=[1, 3]).eval()
    images = torch.randn(2, 3, 32, 32)
    for our_map, their_map in zip(
        ours(images).feature_maps, theirs(images).feature_maps, strict=True
    ):
        torch.testing.assert_close(our_map, their_map, rtol=0, atol=1e-5)
