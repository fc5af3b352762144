import numpy as np
import pytest
import torch
from helpers import ROOT, TINY
from PIL import Image

from hf_mae import MAEConfig, MAEForPreTraining, MAEImageProcessor
from hf_mae.models.functional import baseline_losses, patchify, pixel_target
from hf_mae.training.visualization import reconstruction_panel


@pytest.mark.parametrize(("channels", "norm_pix_loss"), [(3, False), (1, True), (12, True)])
def test_panel_shows_what_was_removed(channels, norm_pix_loss):
    config = MAEConfig(
        **{**TINY, "image_size": (32, 48), "num_channels": channels, "norm_pix_loss": norm_pix_loss}
    )
    model = MAEForPreTraining(config).eval()
    processor = MAEImageProcessor.from_model_config(config)
    array = np.random.default_rng(0).integers(0, 256, (60, 70, channels), dtype=np.uint8)
    pixels = processor(array, return_tensors="pt").pixel_values
    noise = torch.rand(1, config.num_patches)
    figure = reconstruction_panel(model, processor, pixels, noise)
    original, masked, filled = (axis.images[0].get_array() for axis in figure.axes)
    assert [axis.get_title() for axis in figure.axes] == ["original", "masked", "reconstructed"]
    assert original.shape == ((32, 48, 3) if channels == 3 else (32, 48))
    grey = (masked == 128).all(axis=-1) if channels == 3 else masked == 128
    removed = np.kron(
        model(pixels, noise=noise).mask.reshape(4, 6).numpy(), np.ones((8, 8))
    ).astype(bool)
    assert grey[removed].all()
    assert np.array_equal(masked[~removed], original[~removed])
    assert np.array_equal(filled[~removed], original[~removed])
    assert not np.array_equal(filled[removed], original[removed])
    assert ("the original's" in figure.get_supxlabel()) is norm_pix_loss


def test_the_sample_fills_in_what_it_never_saw():
    """The model that lies in samples/, on images that it wasn't trained on: better than any
    constant patch."""
    folder = ROOT / "samples" / "fashion-mnist-mae"
    model = MAEForPreTraining.from_pretrained(folder).eval()
    processor = MAEImageProcessor.from_pretrained(folder)
    images = [Image.open(folder / f"{name}.png") for name in ("ankle-boot", "bag", "pullover")]
    pixels = processor(images, return_tensors="pt").pixel_values
    noise = torch.rand(3, 49, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = model(pixels, noise=noise)
    target = pixel_target(patchify(pixels, (4, 4)), model.config.norm_pix_loss)
    _, best_constant = baseline_losses(target, outputs.mask)
    assert outputs.loss < 0.85 * best_constant.mean()
    assert (
        np.asarray(
            reconstruction_panel(model, processor, pixels, noise).axes[0].images[0].get_array()
        ).std()
        > 20
    )
