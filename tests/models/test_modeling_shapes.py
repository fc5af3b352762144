"""Any number of channels, any rectangle, other resolutions and precisions."""

import pytest
import torch
from helpers import TINY
from transformers import AutoModel

from hf_mae import MAEConfig, MAEForPreTraining


@pytest.mark.parametrize("channels", [1, 3, 12])
@pytest.mark.parametrize(("image", "patch"), [((32, 64), 8), ((48, 16), (8, 4)), (32, (16, 8))])
def test_any_shape_throughout(channels, image, patch, tmp_path):
    config = MAEConfig(
        **{**TINY, "image_size": image, "patch_size": patch, "num_channels": channels}
    )
    model = MAEForPreTraining(config)
    images, noise = torch.randn(2, channels, *config.image_hw), torch.rand(2, config.num_patches)
    loss = model(images, noise=noise).loss
    loss.backward()
    model.save_pretrained(tmp_path)
    loaded = MAEForPreTraining.from_pretrained(tmp_path).eval()
    outputs = loaded(images, noise=noise)
    assert outputs.logits.shape == (
        2,
        config.num_patches,
        config.patch_hw[0] * config.patch_hw[1] * channels,
    )
    torch.testing.assert_close(outputs.loss, loss)
    assert loaded.reconstruct(images, noise=noise).images.shape == images.shape
    assert loaded.vit(images).last_hidden_state.shape == (2, 1 + config.num_patches, 48)


@torch.no_grad()
def test_other_resolutions(model, inputs, tmp_path):
    model.eval()
    images, noise = torch.randn(2, 3, 64, 40), torch.rand(2, 40)
    by_call = model(images, noise=noise, interpolate_pos_encoding=True)
    assert by_call.logits.shape == (2, 40, 192)
    model.save_pretrained(tmp_path)
    loaded = MAEForPreTraining.from_pretrained(tmp_path, image_size=(64, 40)).eval()
    assert loaded.config.image_hw == (64, 40)
    assert loaded.decoder.decoder_pos_embed.shape == (1, 41, 32)
    torch.testing.assert_close(loaded(images, noise=noise).logits, by_call.logits)
    encoder = AutoModel.from_pretrained(tmp_path, image_size=64).eval()
    assert encoder(torch.randn(1, 3, 64, 64)).last_hidden_state.shape == (1, 65, 48)
    loaded.save_pretrained(tmp_path / "resized")
    again = MAEForPreTraining.from_pretrained(tmp_path / "resized").eval()
    assert torch.equal(again(images, noise=noise).logits, loaded(images, noise=noise).logits)
    # asked for and not needed, it changes nothing
    assert torch.equal(
        model(**inputs, interpolate_pos_encoding=True).logits, model(**inputs).logits
    )
    with pytest.raises(ValueError, match="image_size has height 30"):
        MAEForPreTraining.from_pretrained(tmp_path, image_size=30)


def test_low_precision(model, inputs):
    with torch.autocast("cpu", torch.bfloat16):
        autocast = model.train()(**inputs).loss
    assert autocast.dtype == torch.float32
    expected = model(**inputs).loss
    assert autocast.item() == pytest.approx(expected.item(), rel=0.02)
    model.to(torch.bfloat16)
    assert model(**inputs).loss.item() == pytest.approx(expected.item(), rel=0.05)


def test_drop_path_rises_linearly():
    config = MAEConfig(**{**TINY, "drop_path_rate": 0.2})
    model = MAEForPreTraining(config)
    assert [layer.drop_path_rate for layer in model.vit.layers] == pytest.approx([0.0, 0.1, 0.2])
    assert [layer.drop_path_rate for layer in model.decoder.decoder_layers] == [0.0, 0.0]
