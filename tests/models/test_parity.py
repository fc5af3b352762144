"""What the original codes compute on the golden checkpoints, to 1e-5."""

import pytest
import torch
from helpers import GOLDEN

from hf_mae.conversion.checkpoint_files import read_checkpoint
from hf_mae.conversion.from_others import convert


def converted(name):
    """The model of a golden checkpoint, as its authors' code wrote it."""
    return convert(
        *read_checkpoint(GOLDEN / f"{name}.pth"),
        num_attention_heads=3,
        decoder_num_attention_heads=4,
        image_size=64 if name.endswith("large_grid") else 32,
    ).model


@pytest.fixture(params=["facebook_mae", "mmpretrain_mae"])
def case(request, golden):
    return converted(request.param), golden(request.param)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs.reshape(ours.shape), rtol=0, atol=1e-5)


@torch.no_grad()
def test_latent_mask_and_prediction(case):
    model, golden = case
    outputs = model(golden["pixel_values"], noise=golden["noise"])
    close(
        model.vit(golden["pixel_values"], noise=golden["noise"]).last_hidden_state, golden["latent"]
    )
    close(outputs.logits, golden["pred"])
    assert torch.equal(outputs.mask, golden["mask"])
    assert torch.equal(outputs.ids_restore, golden["ids_restore"])


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_losses(case, norm_pix_loss, training):
    model, golden = case
    model.config.norm_pix_loss = norm_pix_loss
    outputs = model.train(training)(golden["pixel_values"], noise=golden["noise"])
    close(outputs.loss, golden["loss_norm_pix" if norm_pix_loss else "loss_pix"])


@torch.no_grad()
def test_unmasked_features(case):
    model, golden = case
    if (
        "features_unmasked" not in golden
    ):  # the authors' pre-training model has no unmasked path: mask_ratio 0 is it
        expected = model.vit(
            golden["pixel_values"], noise=golden["noise"], mask_ratio=0.0
        ).last_hidden_state
    else:
        expected = golden["features_unmasked"]
    close(model.vit(golden["pixel_values"]).last_hidden_state, expected)


@torch.no_grad()
def test_a_swapped_key_shows(case):
    """The golden cases see a wrong key: swapping two tensors is noticed."""
    model, golden = case
    layer = model.decoder.decoder_layers[0].attention
    layer.q_proj.weight.data, layer.k_proj.weight.data = (
        layer.k_proj.weight.data,
        layer.q_proj.weight.data,
    )
    pred = model(golden["pixel_values"], noise=golden["noise"]).logits
    assert (pred - golden["pred"]).abs().max() > 1e-3


@torch.no_grad()
def test_encoder_without_decoder(golden):
    encoder, golden = converted("facebook_mae_encoder_only"), golden("facebook_mae")
    close(
        encoder(golden["pixel_values"], noise=golden["noise"]).last_hidden_state, golden["latent"]
    )


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [
        "facebook_finetune",
        "mmpretrain_finetune",
        "mmpretrain_finetune_large_grid",
        "mmpretrain_linear",
    ],
)
def test_classifiers(golden, name):
    model, golden = converted(name), golden(name)
    seen_by_head = []
    model.classifier.register_forward_pre_hook(lambda module, args: seen_by_head.append(args[0]))
    close(model(golden["pixel_values"]).logits, golden["logits"])
    close(seen_by_head[0], golden["pooled"])
    # features computed before give the same
    features = model.vit(golden["pixel_values"]).pooler_output
    close(model(features=features).logits, golden["logits"])
