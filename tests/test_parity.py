"""What the original codes compute on the golden checkpoints, to 1e-5."""

import pytest
import torch
from conftest import TINY

from hf_mae import MAEConfig, MAEForImageClassification, MAEForPreTraining
from hf_mae.conversion import FACEBOOK_RENAMES, MMPRETRAIN_RENAMES, rename


CASES = [("facebook_mae", FACEBOOK_RENAMES), ("mmpretrain_mae", MMPRETRAIN_RENAMES)]


@pytest.fixture(params=CASES, ids=[name for name, _ in CASES])
def case(request, golden):
    name, renames = request.param
    model = MAEForPreTraining(MAEConfig(**TINY)).eval()
    model.load_state_dict(rename(golden(f"{name}_weights"), renames), strict=True)
    return model, golden(name)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs.reshape(ours.shape), rtol=0, atol=1e-5)


@torch.no_grad()
def test_latent_mask_and_prediction(case):
    model, golden = case
    outputs = model(golden["pixel_values"], noise=golden["noise"])
    close(model.vit(golden["pixel_values"], noise=golden["noise"]).last_hidden_state, golden["latent"])
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
    if "features_unmasked" not in golden:  # the authors' pre-training model has no unmasked path: mask_ratio 0 is it
        expected = model.vit(golden["pixel_values"], noise=golden["noise"], mask_ratio=0.0).last_hidden_state
    else:
        expected = golden["features_unmasked"]
    close(model.vit(golden["pixel_values"]).last_hidden_state, expected)


@torch.no_grad()
def test_a_swapped_key_shows(case):
    """The golden cases see a wrong key: swapping two tensors is noticed."""
    model, golden = case
    layer = model.decoder.decoder_layers[0].attention
    layer.q_proj.weight.data, layer.k_proj.weight.data = layer.k_proj.weight.data, layer.q_proj.weight.data
    pred = model(golden["pixel_values"], noise=golden["noise"]).logits
    assert (pred - golden["pred"]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "renames", "fields"),
    [
        ("facebook_finetune", FACEBOOK_RENAMES, {}),
        ("mmpretrain_finetune", MMPRETRAIN_RENAMES, {}),
        ("mmpretrain_finetune_large_grid", MMPRETRAIN_RENAMES, {"image_size": 64}),
        ("mmpretrain_linear", MMPRETRAIN_RENAMES, {"pooling": "cls", "head_batch_norm": True}),
    ],
)
def test_classifiers(golden, name, renames, fields):
    weights, golden = golden(f"{name}_weights"), golden(name)
    model = MAEForImageClassification(MAEConfig(**{**TINY, **fields}, num_labels=10)).eval()
    model.load_state_dict(rename(weights, renames), strict=True)
    seen_by_head = []
    model.classifier.register_forward_pre_hook(lambda module, args: seen_by_head.append(args[0]))
    close(model(golden["pixel_values"]).logits, golden["logits"])
    close(seen_by_head[0], golden["pooled"])
    # features computed before give the same
    features = model.vit(golden["pixel_values"]).pooler_output
    close(model(features=features).logits, golden["logits"])
