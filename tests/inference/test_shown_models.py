"""What scripts/app.py shows of models, without the page."""

import base64
import io
import re

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image
from tiny_models import make, save

from hf_mae import predict
from hf_mae.inference.shown_models import (
    OWN,
    Asked,
    as_html,
    choose_masks,
    describe,
    draw_canvas,
    draw_pictures,
    label_value,
    load_shown,
    toggle_patch,
)


SAMPLE = ROOT / "samples" / "fashion-mnist-mae"
BAG = str(SAMPLE / "bag.png")


@pytest.fixture(scope="module")
def sample():
    return load_shown(SAMPLE)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One of each kind, of another patch grid than the sample's: 4 x 4."""
    base = tmp_path_factory.mktemp("models")
    kinds = ("pretrain", "encoder", "mean", "probe")
    return {kind: save(make(kind), base / kind) for kind in kinds}


def asked(kind="random", ratio=0.75, seeds=(0,), own=None):
    return Asked(BAG, kind, ratio, seeds, own)


def captions(shown, asked):
    return [caption for _, caption in draw_pictures(shown, asked)]


OF_ALL = ["what the model sees", "features of its patches"]


def test_every_kind_of_model_is_shown(sample, folders):
    drawn = ["masked, seed 0", "reconstructed", "pasted"]
    assert captions(sample, asked()) == [*drawn, *OF_ALL]
    assert captions(load_shown(folders["pretrain"]), asked()) == [*drawn, *OF_ALL]
    for kind in ("encoder", "mean", "probe"):
        assert captions(load_shown(folders[kind]), asked()) == OF_ALL
    assert sample.name == "fashion-mnist-mae"


def test_each_seed_has_its_pictures(sample):
    pictures = draw_pictures(sample, asked("block", seeds=(4, 5)))
    first_of_rows = [caption for _, caption in pictures[::3]]
    assert first_of_rows == ["masked, seed 4", "masked, seed 5", "what the model sees"]
    assert not np.array_equal(pictures[0][0], pictures[3][0])
    assert not np.array_equal(pictures[2][0], pictures[5][0])


def test_the_slider_hides_as_many_in_blocks_as_at_random(sample):
    for ratio, hidden in ((0.0, 0), (0.5, 25), (0.95, 47)):
        for kind in ("random", "block"):
            (mask,) = choose_masks(sample, asked(kind, ratio))
            assert mask.shape == (7, 7)
            assert mask.sum() == hidden


def test_the_features_have_a_colour_a_patch(sample):
    colours, _ = draw_pictures(sample, asked())[-1]
    assert colours.shape == (28, 28, 3)
    blocks = colours.reshape(7, 4, 7, 4, 3)
    assert np.array_equal(blocks, np.broadcast_to(blocks[:, :1, :, :1], blocks.shape))
    assert len(np.unique(blocks[:, 0, :, 0].reshape(-1, 3), axis=0)) > 30


def test_a_click_turns_one_patch():
    hidden = np.zeros((7, 7), bool)
    corners = {(0, 0): (0, 0), (0.99, 0): (0, 6), (0, 0.99): (6, 0), (1, 1): (6, 6)}
    for point, place in corners.items():
        changed = toggle_patch(hidden, point)
        assert changed[place]
        assert changed.sum() == 1
        assert not toggle_patch(changed, point).any()
    assert not hidden.any()  # it isn't changed itself
    all_but_one = ~toggle_patch(hidden, (0, 0))
    with pytest.raises(ValueError, match="one patch has to stay visible"):
        toggle_patch(all_but_one, (0, 0))


def test_the_canvas_has_the_mask_that_is_said(sample):
    canvas, hidden = draw_canvas(sample, asked())
    assert canvas.shape == (336, 336)
    squares = canvas.reshape(7, 48, 7, 48)[:, 12:36, :, 12:36]
    assert np.array_equal((squares == 128).all(axis=(1, 3)), hidden)
    said = describe(sample, hidden)
    assert said.startswith("37 of 49 patches are hidden. norm_pix_loss: ")


def test_ones_own_mask_is_carried_over_to_other_grids(sample, folders):
    own = np.zeros((7, 7), bool)
    own[:, :4] = True
    assert choose_masks(sample, asked(OWN, own=own))[0] is own
    assert captions(sample, asked(OWN, own=own))[0] == "masked"
    (other,) = choose_masks(load_shown(folders["pretrain"]), asked(OWN, own=own))
    assert other[:, :2].all()
    assert not other[:, 3].any()
    nothing = np.zeros((7, 7), bool)
    with pytest.raises(ValueError, match="the mask hides nothing"):
        choose_masks(load_shown(folders["pretrain"]), asked(OWN, own=nothing))


def test_labels_are_those_that_predict_names(folders):
    shown = load_shown(folders["mean"])
    assert shown.is_classifier
    found = predict(shown.model, shown.processor, BAG)
    assert label_value(shown, BAG) == {answer["label"]: answer["score"] for answer in found}


def test_a_regression_is_shown_as_values(tmp_path):
    shown = load_shown(save(make("mean", problem_type="regression"), tmp_path))
    best = predict(shown.model, shown.processor, BAG)[0]
    said = label_value(shown, BAG)
    assert said.startswith(f"{best['label']} {best['score']:.4g}, kind ")
    assert said.count(", ") == 4


def test_pictures_lie_in_the_page_itself(sample):
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    text = as_html([(image, 'a "<b>"')])
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), image)
    assert "<figcaption>a &quot;&lt;b&gt;&quot;</figcaption>" in text
