"""Pictures of features show what is in them, for labels of every kind."""

import logging

import numpy as np
import pytest
import torch
from accelerate import PartialState
from datasets import ClassLabel, List
from PIL import Image
from tiny_models import make

from hf_mae import MAEImageProcessor
from hf_mae.data.sources import load_image_dataset
from hf_mae.inference.feature_pictures import (
    Tile,
    components_as_colours,
    draw_features,
    feature_map,
    first_of_each_class,
    nearest,
    tile_panel,
)
from hf_mae.inference.features import FeatureExtractor
from hf_mae.inference.parts import compute_parts


NAMES = ["patches.png", "map.png", "neighbours.png"]


@pytest.fixture(scope="module")
def digits():
    return load_image_dataset("digits", train_val_split=0, labels=True)["train"].select(range(40))


@pytest.fixture
def computed(tmp_path):
    """The features of a data set, in parts of 16 images."""

    def compute(dataset, kind="mean"):
        model = make("grey encoder")
        processor = MAEImageProcessor.from_model_config(model.config)
        extractor = FeatureExtractor(model, processor, dataset, kind)
        parts = extractor.parts(tmp_path / "parts")
        parts.rows = 16
        compute_parts(parts, extractor.samples, extractor, 8, 0, PartialState(cpu=True))
        return parts, extractor

    return compute


def test_components_are_colours():
    """Of three directions in the features, the widest is red, then green, then blue."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(8, 3)))[0].T  # (3, D)
    shares = rng.uniform(size=(2, 200, 3))
    patches = (shares * [9, 3, 1]) @ directions + 5
    colours = components_as_colours(patches)
    assert colours.dtype == np.uint8
    assert (colours.min(), colours.max()) == (0, 255)
    for channel in range(3):
        pairs = np.corrcoef(colours[..., channel].ravel(), shares[..., channel].ravel())
        assert abs(pairs[0, 1]) > 0.95
    # whichever way the components are found to point
    turned = components_as_colours(patches[::-1, ::-1])[::-1, ::-1].astype(int)
    assert abs(turned - colours).max() <= 1
    one = components_as_colours(np.ones((1, 1, 8)))  # nothing varies, and there is one component
    assert one.tolist() == [[[0, 0, 0]]]


def test_nearest_is_brute_force(digits, computed):
    parts, extractor = computed(digits, "patches")
    with torch.no_grad():
        pixel_values = torch.stack(
            [extractor.samples[number]["pixel_values"] for number in range(40)]
        )
        vectors = extractor.encode(pixel_values)[:, 1:].mean(dim=1)
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    cosines, numbers = (vectors[[3, 30]] @ vectors.T).topk(5, dim=1)
    found_cosines, found = nearest(parts, 7 * vectors[[3, 30]].numpy(), 5)
    assert found.tolist() == numbers.tolist()
    np.testing.assert_allclose(found_cosines, cosines, atol=1e-5)


def test_first_of_each_class():
    classes = np.array([2, 2, 0, 2, 0, 1])
    assert first_of_each_class(classes, 9).tolist() == [2, 5, 0, 4, 1, 3]


def as_lists(digits):
    feature = List(ClassLabel(names=["cat", "dog"]))
    lists = [[[0], [0, 1], []][number % 3] for number in range(len(digits))]
    return digits.remove_columns("label").add_column("label", lists, feature=feature)


LABELS = {
    "lists": as_lists,
    "none": lambda digits: digits.remove_columns("label"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_pictures_are_drawn(kind, digits, computed, tmp_path):
    draw_features(*computed(LABELS[kind](digits)), tmp_path / "new" / "pictures")
    for name in NAMES:
        picture = np.asarray(Image.open(tmp_path / "new" / "pictures" / name).convert("RGB"))
        assert min(picture.shape[:2]) > 200
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_few_images(digits, computed, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="hf_mae"):
        draw_features(*computed(digits.select([0])), tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {"patches.png", "neighbours.png"}


def test_many_classes_and_the_legend():
    rng = np.random.default_rng(0)
    classes = [f"kind {number % 23}" for number in range(100)]  # 0 to 7 are commoner
    figure = feature_map(rng.normal(size=(100, 8)), 5000, classes)
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert len(shown) == 21
    assert shown[0] == "3 more classes"
    assert {f"kind {number}" for number in range(8)} < set(shown)
    assert figure.axes[0].get_title() == "t-SNE of the features of 100 of 5,000 images"


def test_names_are_shown_as_they_are(digits, computed, tmp_path):
    rng = np.random.default_rng(0)
    names = ["_hidden", "$a_{b$c", "$"]
    figure = feature_map(rng.normal(size=(30, 8)), 30, names * 10)
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == set(names)
    named = digits.cast_column("label", ClassLabel(names=[f"$a_{{{i}$c" for i in range(10)]))
    draw_features(*computed(named), tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_values_are_a_scale():
    rng = np.random.default_rng(0)
    figure = feature_map(rng.normal(size=(20, 8)), 20, values=np.arange(20) / 4)
    _, scale = figure.axes
    assert scale.get_ylim() == (0, 4.75)
    assert scale.get_ylabel() == "label"


def test_a_panel_marks_tiles():
    image = np.zeros((8, 16, 3), np.uint8)
    figure = tile_panel([[Tile(image, "query"), Tile(image, "x" * 50, "red")]] * 2, "title")
    first, second = figure.axes[:2]
    assert not first.spines["top"].get_visible()
    assert second.spines["top"].get_edgecolor() == (1, 0, 0, 1)
    assert len(second.get_title()) == 18
