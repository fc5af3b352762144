"""What a model makes of images of which it sees a part: masks, pictures, scripts/reconstruct.py."""

import numpy as np
import pytest
import torch
from helpers import ROOT, TINY, run_script, script_error
from PIL import Image, ImageDraw
from tiny_models import make, save

import hf_mae
from hf_mae import MAEConfig, MAEForPreTraining, MAEImageProcessor, plot_reconstructions
from hf_mae.inference.reconstructions import (
    draw_masks,
    read_mask,
    reconstruct_images,
    reconstruction_panel,
)
from hf_mae.models.functional import baseline_losses, patchify, pixel_target


SAMPLE = ROOT / "samples" / "fashion-mnist-mae"
BAG, PULLOVER = SAMPLE / "bag.png", SAMPLE / "pullover.png"


def pictures(figure):
    return [np.asarray(axis.images[0].get_array()) for axis in figure.axes]


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


@pytest.fixture
def processor(tiny_config):
    return MAEImageProcessor.from_model_config(tiny_config)


@pytest.fixture
def half_white(tmp_path):
    """Its upper half is white, not quite to the border of a patch."""
    picture = Image.new("RGB", (200, 100))
    ImageDraw.Draw(picture).rectangle((0, 0, 200, 47), fill="white")
    picture.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


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
    assert titles(figure) == ["original", "masked", "reconstructed", "pasted"]
    original, masked, drawn, pasted = pictures(figure)
    assert original.shape == ((32, 48, 3) if channels == 3 else (32, 48))
    grey = (masked == 128).all(axis=-1) if channels == 3 else masked == 128
    mask = model(pixels, noise=noise).mask.reshape(4, 6).numpy()
    removed = np.kron(mask, np.ones((8, 8))).astype(bool)
    assert grey[removed].all()
    assert np.array_equal(masked[~removed], original[~removed])
    assert np.array_equal(pasted[~removed], original[~removed])
    assert np.array_equal(pasted[removed], drawn[removed])
    assert not np.array_equal(pasted[removed], original[removed])
    assert not np.array_equal(drawn[~removed], original[~removed])
    assert ("the original's" in figure.get_supxlabel()) is norm_pix_loss


def test_the_sample_fills_in_what_it_never_saw():
    """The model that lies in samples/, on images that it wasn't trained on: better than any
    constant patch."""
    model = MAEForPreTraining.from_pretrained(SAMPLE).eval()
    processor = MAEImageProcessor.from_pretrained(SAMPLE)
    images = [Image.open(SAMPLE / f"{name}.png") for name in ("ankle-boot", "bag", "pullover")]
    pixels = processor(images, return_tensors="pt").pixel_values
    noise = torch.rand(3, 49, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = model(pixels, noise=noise)
    target = pixel_target(patchify(pixels, (4, 4)), model.config.norm_pix_loss)
    _, best_constant = baseline_losses(target, outputs.mask)
    assert outputs.loss < 0.85 * best_constant.mean()
    removed = outputs.mask.bool()
    pasted = reconstruct_images(model, processor, pixels, removed).pasted
    originals = processor.post_process_reconstruction(pixels)
    error = np.abs(pasted.astype(float) - originals).mean()
    greyed = np.abs(reconstruct_images(model, processor, pixels, removed).masked - 1.0 * originals)
    assert error < greyed.mean() / 3


def test_images_of_any_kind_and_several_seeds(model, processor):
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    model.train()
    figure = plot_reconstructions(model, processor, [str(BAG), PULLOVER, photo], seeds=[3, 4])
    assert model.training
    row = ["original", "masked, seed 3", "reconstructed", "pasted"]
    assert titles(figure) == [*row, "masked, seed 4", "reconstructed", "pasted", *[""] * 14]
    again = plot_reconstructions(model, processor, Image.open(BAG), seeds=[4])
    # the first image of a batch has the same mask, whatever comes behind it
    assert np.array_equal(pictures(again)[1], pictures(figure)[4])
    assert not np.array_equal(pictures(figure)[1], pictures(figure)[4])


def test_block_masks_hide_as_many_patches(model):
    config = model.config
    for ratio, hidden in ((None, 12), (0.5, 8), (0.3, 5)):
        for kind in ("random", "block"):
            assert draw_masks(model, 7, kind, ratio, 0).sum(dim=1).tolist() == [hidden] * 7
    assert draw_masks(model, 7, "block", None, 0).shape == (7, config.num_patches)


def test_a_mask_of_ones_own(model, processor, half_white):
    figure = plot_reconstructions(model, processor, [BAG, PULLOVER], mask=half_white)
    for masked in (pictures(figure)[1], pictures(figure)[5]):
        assert (masked[:16] == 128).all()
        assert not (masked[16:] == 128).all(axis=-1).all()
    assert titles(figure)[:4] == ["original", "masked", "reconstructed", "pasted"]
    with pytest.raises(ValueError, match="several seeds can't be given beside it"):
        plot_reconstructions(model, processor, BAG, mask=half_white, seeds=[0, 1])


def test_masks_of_any_depth_and_transparency(tmp_path):
    drawn = np.zeros((8, 8), np.uint16)
    drawn[4:, :4] = 65535
    expected = [[False, False], [True, False]]
    Image.fromarray(drawn).save(tmp_path / "deep.png")
    Image.fromarray(drawn > 0).save(tmp_path / "one_bit.png")
    clear = Image.new("RGBA", (8, 8), (255, 255, 255, 0))  # white, and not to be seen
    clear.paste("white", (0, 4, 4, 8))
    clear.save(tmp_path / "clear.png")
    for name in ("deep", "one_bit", "clear"):
        assert read_mask(tmp_path / f"{name}.png", (2, 2)).tolist() == expected, name


@pytest.mark.parametrize(
    ("make_mask", "message"),
    [
        (lambda path: Image.new("L", (20, 20)).save(path), "hides nothing: of the 4 x 4 patches"),
        (lambda path: Image.new("L", (20, 20), 255).save(path), "hides everything: of the 4 x 4"),
        (lambda path: path.write_text("no picture"), "mask.png is no picture that can be read"),
        (lambda path: path.write_bytes(BAG.read_bytes()[:200]), "the mask can't be read: "),
        (lambda path: None, "mask.png is no file, no http address"),
    ],
    ids=["black", "white", "text", "cut off", "missing"],
)
def test_masks_that_are_none(make_mask, message, tmp_path):
    make_mask(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=message) as caught:
        read_mask(tmp_path / "mask.png", (4, 4))
    assert "\n" not in str(caught.value)
    assert " at 0x" not in str(caught.value)


def test_what_has_no_decoder_is_refused(processor):
    with pytest.raises(ValueError, match="a MAEForImageClassification has no decoder"):
        plot_reconstructions(make("mean"), processor, BAG)


# scripts/reconstruct.py --------------------------------------------------------------------------


def reconstruct(*flags):
    return ["reconstruct.py", f"--model_name_or_path={SAMPLE}", *flags]


def test_script_draws_masks_and_seeds_into_a_new_folder(tmp_path, half_white):
    wide, narrow = tmp_path / "new" / "a" / "wide.png", tmp_path / "narrow.png"
    flags = [BAG, PULLOVER, "--mask=block", "--seed", 0, 1]
    assert run_script(*reconstruct(f"--output={wide}", *flags)) == f"2 images in {wide}\n"
    run_script(*reconstruct(f"--output={narrow}", f"--mask={half_white}", BAG, PULLOVER))
    width = {path: Image.open(path).width for path in (wide, narrow)}
    assert width[wide] * 4 == width[narrow] * 7
    assert np.asarray(Image.open(narrow)).std() > 30


def test_script_draws_what_the_function_draws(tmp_path):
    run_script(*reconstruct(f"--output={tmp_path / 'script.png'}", BAG, "--mask=block", "--seed=5"))
    model, processor = hf_mae.load_model(SAMPLE)
    figure = plot_reconstructions(model, processor, BAG, mask="block", seeds=[5])
    figure.savefig(tmp_path / "function.png", dpi=120)
    ours, theirs = (Image.open(tmp_path / f"{name}.png") for name in ("script", "function"))
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output=out", BAG], "output is out; its ending says what is written and must be one"),
        (["--output=out.xyz", BAG], "output is out.xyz; its ending"),
        (["--output=/proc/out.png", BAG], "nothing can be written in /proc"),
        ([f"--output={BAG}", BAG], "bag.png is one of the images; name another file"),
        (["--output=x.png", BAG, "--mask=m.png", "--seed=1"], "--seed draws a mask, and --mask"),
        (["--output=x.png", "--seed", "1", BAG], "is a file; images come before --seed"),
        (["--output=x.png", BAG, "--seed=-1"], "it must be a whole number from 0"),
    ],
    ids=str,
)
def test_script_refuses(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = script_error(*reconstruct(*flags))
    assert message in said
    assert not list(tmp_path.iterdir())


def test_script_refuses_masks_before_it_computes(half_white, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    half_white.write_bytes(b"")
    said = script_error(*reconstruct("--output=x.png", BAG, "--mask=blck"))
    assert said == (
        "reconstruct.py: error: mask is 'blck'; it must be random, block or a picture; did you "
        "mean block?"
    )
    said = script_error(*reconstruct("--output=x.png", BAG, f"--mask={half_white}"))
    assert said.startswith("reconstruct.py: error: the mask can't be read: ")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("kind", ["mean", "probe", "encoder"])
def test_script_refuses_models_without_a_decoder(kind, tmp_path):
    save(make(kind), tmp_path / "model")
    arguments = [f"--model_name_or_path={tmp_path / 'model'}", f"--output={tmp_path / 'x.png'}"]
    said = script_error("reconstruct.py", *arguments, BAG)
    assert "has no decoder" in said
    assert len(said.splitlines()) == 1
