"""Features equal the model's own, whatever folder it comes from and whatever lies between."""

import copy
import logging

import numpy as np
import pytest
import torch
from datasets import Image as DecodedImage
from tiny_models import make, save
from transformers import (
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

from hf_mae import MAEImageProcessor, export, extract_features, load_encoder
from hf_mae.data.sources import load_image_dataset
from hf_mae.inference.features import KINDS, FeatureExtractor, images_digest


@pytest.fixture(scope="module")
def digits():
    return load_image_dataset("digits", train_val_split=0, labels=True)["train"].select(range(20))


def features_of(model, processor, images, kind="mean", **options):
    found = extract_features(model, processor, images, kind, **options)
    return found.with_format("numpy")["features"][:]


def own_tokens(model, processor, images):
    """(B, 1 + N, D), by the model itself."""
    decoded = [row["image"]["bytes"] for row in images]
    pixel_values = processor(decoded, return_tensors="pt").pixel_values
    with torch.no_grad():
        return model.base_model(pixel_values).last_hidden_state


@pytest.mark.parametrize("kind", ["grey pretrain", "grey encoder", "grey mean", "grey probe"])
def test_features_are_slices_of_the_last_hidden_state(kind, digits):
    model = make(kind, drop_path_rate=0.5)
    processor = MAEImageProcessor.from_model_config(model.config)
    hidden = own_tokens(model, processor, digits).numpy()
    pooled = {"grey probe": "cls"}.get(kind, "mean")
    wanted = {"mean": hidden[:, 1:].mean(axis=1), "cls": hidden[:, 0], "patches": hidden[:, 1:]}
    model.train()  # which would drop layers
    for features in KINDS:
        found = extract_features(model, processor, digits, features, batch_size=7)
        assert found.column_names == ["name", "label", "label_name", "features"]
        values = found.with_format("numpy")["features"][:]
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, wanted[features], atol=1e-5)
    assert model.base_model.training
    assert found["label"][:] == digits["label"][:]
    assert found["label_name"][:] == [str(label) for label in digits["label"]]
    assert found["name"][:3] == ["row 0", "row 1", "row 2"]
    assert found.features["label"] == digits.features["label"]
    with torch.no_grad():
        pixel_values = torch.randn(3, 1, 32, 32)
        outputs = model.eval().base_model(pixel_values)
    hidden = outputs.last_hidden_state
    k_nn = hidden[:, 0] if pooled == "cls" else hidden[:, 1:].mean(dim=1)
    torch.testing.assert_close(outputs.pooler_output, k_nn)  # what the k-NN accuracy goes by


@pytest.mark.parametrize("kind", ["grey pretrain", "grey mean", "grey probe"])
def test_native_folders_and_lower_precision(kind, digits, tmp_path):
    model = make(kind)
    save(model, tmp_path / "own")
    # of pre-training models export sees to it that the crop is all of the image, and says so
    processor = MAEImageProcessor.from_model_config(model.config)
    processor.size = {"shortest_edge": 32}
    processor.save_pretrained(tmp_path / "own")
    export(model, processor, tmp_path / "native")
    wanted = features_of(*load_encoder(tmp_path / "own"), digits, "patches")
    hidden = own_tokens(model, processor, digits).numpy()
    np.testing.assert_allclose(wanted, hidden[:, 1:], atol=1e-5)
    encoder, its_processor = load_encoder(tmp_path / "native")
    assert not encoder.training
    np.testing.assert_allclose(
        features_of(encoder, its_processor, digits, "patches"), wanted, atol=1e-5
    )
    # weights of another type are read as they are, and all is computed in float32
    rounded = copy.deepcopy(model).bfloat16()
    save(rounded, tmp_path / "rounded")
    processor.save_pretrained(tmp_path / "rounded")
    rounded_encoder, processor = load_encoder(tmp_path / "rounded")
    assert rounded_encoder.dtype == torch.float32
    hidden = own_tokens(rounded.float(), processor, digits).numpy()
    found = features_of(rounded_encoder, processor, digits, "patches")
    np.testing.assert_allclose(found, hidden[:, 1:], atol=1e-5)
    assert abs(found - wanted).max() > 1e-4
    if kind != "grey pretrain":
        native = AutoModelForImageClassification.from_pretrained(tmp_path / "native")
        native.bfloat16().save_pretrained(tmp_path / "native")
        assert load_encoder(tmp_path / "native")[0].dtype == torch.float32
    # a model that is in another type when it is given computes in that, and answers in float32
    half = features_of(rounded_encoder.bfloat16(), processor, digits, "patches")
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, found, atol=0.2)


def test_images_by_name(photo_folder, tmp_path, caplog):
    model = make("encoder")
    processor = MAEImageProcessor.from_model_config(model.config)
    files = sorted(str(path) for path in photo_folder.rglob("*.jpg"))[:5]
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"\xff\xd8 no picture")
    given = [files[3], damaged, files[0], tmp_path / "nowhere.png", files[4]]
    with caplog.at_level(logging.WARNING, logger="hf_mae"):
        found = extract_features(model, processor, given, "cls", batch_size=2, num_workers=1)
    assert found.column_names == ["name", "features"]
    assert found["name"][:] == [files[3], files[0], files[4]]
    alone = features_of(model, processor, [files[0]], "cls")
    np.testing.assert_allclose(found.with_format("numpy")["features"][1], alone[0], atol=1e-5)
    none = extract_features(model, processor, [damaged])
    assert (len(none), none.column_names) == (0, ["name", "features"])


def test_data_sets_of_others(digits):
    """Decoded images, labels that are names, and columns that nobody asked for."""
    model = make("grey encoder")
    processor = MAEImageProcessor.from_model_config(model.config)
    names = [f"kind {label % 3}" for label in digits["label"]]
    plain = digits.cast_column("image", DecodedImage()).remove_columns("label")
    plain = plain.add_column("label", names).add_column("other", names)
    found = extract_features(model, processor, plain)
    assert found["label_name"][:] == names
    assert found.features["label"].names == ["kind 0", "kind 1", "kind 2"]
    wanted = features_of(model, processor, digits)
    np.testing.assert_array_equal(found.with_format("numpy")["features"][:], wanted)
    with pytest.raises(ValueError, match="there is no column image; the data set has label, other"):
        extract_features(model, processor, plain.remove_columns("image"))


def test_what_has_no_features(digits, tmp_path):
    model = make("grey encoder")
    processor = MAEImageProcessor.from_model_config(model.config)
    with pytest.raises(ValueError, match="features is 'max'; it must be one of mean, cls, patches"):
        extract_features(model, processor, digits, "max")
    with torch.no_grad():
        model.layers[0].attention.q_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="features are not finite; its weights are broken"):
        extract_features(model, processor, digits)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=2)
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"\(ResNetModel\) has no patches"):
        extract_features(*load_encoder(tmp_path), digits)


def test_parts_know_whose_they_are(digits, tmp_path):
    """Whether a stopped run may go on: with the same model, processor, kind, names and labels."""
    model = make("grey encoder")
    processor = MAEImageProcessor.from_model_config(model.config)

    def about(model=model, processor=processor, images=digits, kind="mean"):
        return FeatureExtractor(model, processor, images, kind).about()

    assert about() == about(copy.deepcopy(model), images=digits.select(range(20)))
    shaken = copy.deepcopy(model)
    shaken.layernorm.bias.data[0] += 1
    other_processor = MAEImageProcessor.from_model_config(model.config)
    other_processor.image_mean = [0.1]
    reversed_digits = digits.select(range(19, -1, -1))
    for other in (
        about(shaken),
        about(processor=other_processor),
        about(images=reversed_digits),
        about(kind="cls"),
    ):
        assert other != about()
    assert images_digest(reversed_digits) != images_digest(digits)
    # of all patches a part has fewer images
    large = make("encoder", image_size=2048, patch_size=8, num_hidden_layers=1)
    processor = MAEImageProcessor.from_model_config(large.config)
    assert FeatureExtractor(large, processor, digits).parts(tmp_path).rows == 256
    assert FeatureExtractor(large, processor, digits, "patches").parts(tmp_path).rows == 10
