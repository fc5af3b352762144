import pytest
import torch
from helpers import TINY
from PIL import Image
from torch import nn
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    BitImageProcessor,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)

from hf_mae import MAEConfig, MAEForImageClassification, MAEForPreTraining, MAEImageProcessor
from hf_mae.data.class_names import match_classes
from hf_mae.data.transforms import ProcessorTransform
from hf_mae.inference.predictions import distinct_names, predict
from hf_mae.models.loading import load_classifier


@pytest.mark.parametrize("processor", [True, False])
def test_own_folder(tmp_path, photos, processor):
    model = MAEForImageClassification(MAEConfig(**TINY, num_labels=7)).eval()
    nn.init.normal_(model.classifier.weight)
    model.save_pretrained(tmp_path)
    if processor:
        MAEImageProcessor.from_model_config(model.config).save_pretrained(tmp_path)
    loaded, its_processor = load_classifier(tmp_path)
    assert not loaded.training
    photos[0].save(tmp_path / "photo.png")
    found = predict(loaded, its_processor, tmp_path / "photo.png")
    pixels = MAEImageProcessor.from_model_config(model.config)(
        photos[0], return_tensors="pt"
    ).pixel_values
    expected = model(pixels).logits[0].softmax(dim=0)
    assert [row["score"] for row in found] == pytest.approx(
        expected.sort(descending=True).values[:5].tolist(), abs=1e-5
    )
    assert [row["label"] for row in found] == [
        f"LABEL_{i}" for i in expected.argsort(descending=True)[:5].tolist()
    ]


@pytest.mark.parametrize("problem_type", ["regression", "multi_label_classification", None])
@pytest.mark.parametrize("num_labels", [1, 3])
def test_answers_follow_the_problem_type(tmp_path, photos, problem_type, num_labels):
    """As those of transformers' pipeline."""
    fields = {"num_labels": num_labels, "problem_type": problem_type}
    model = MAEForImageClassification(MAEConfig(**TINY, **fields)).eval()
    nn.init.normal_(model.classifier.weight)
    nn.init.constant_(model.classifier.bias, 7.0)
    processor = MAEImageProcessor.from_model_config(model.config)
    photos[0].save(tmp_path / "photo.png")
    classify = pipeline("image-classification", model, image_processor=processor)
    expected = {row["label"]: row["score"] for row in classify(photos[0])}
    found = predict(model, processor, tmp_path / "photo.png")
    assert {row["label"]: row["score"] for row in found} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("model_class", "config_class"),
    [(ViTForImageClassification, ViTConfig), (BeitForImageClassification, BeitConfig)],
)
def test_native_folder(tmp_path, photos, model_class, config_class):
    sizes = {
        name: TINY[name]
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    }
    model = model_class(config_class(**sizes, image_size=32, patch_size=8, num_labels=3)).eval()
    processor = BitImageProcessor(
        size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}, resample=3
    )
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    photos[0].save(tmp_path / "photo.png")
    found = predict(*load_classifier(tmp_path), tmp_path / "photo.png")
    with torch.no_grad():
        expected = model(**processor(photos[0], return_tensors="pt")).logits[0].softmax(dim=0)
    scores = {row["label"]: row["score"] for row in found}
    assert scores == pytest.approx({f"LABEL_{i}": expected[i].item() for i in range(3)}, abs=1e-4)


def test_what_is_no_classifier(tmp_path):
    MAEForPreTraining(MAEConfig(**TINY)).save_pretrained(tmp_path / "mae")
    with pytest.raises(
        ValueError,
        match="holds MAEForPreTraining, which is no classifier; run_finetune.py makes one",
    ):
        load_classifier(tmp_path / "mae")
    with pytest.raises(ValueError, match="nope/at/all is neither a folder here nor a Hub id"):
        load_classifier("nope/at/all")


def test_processor_transform_is_the_processor(photos):
    import numpy as np

    processor = MAEImageProcessor()
    expected = processor(photos[1], return_tensors="pt").pixel_values[0]
    assert torch.equal(ProcessorTransform(processor)(np.array(photos[1]))["pixel_values"], expected)
    grey = MAEImageProcessor(image_mean=[0.4], image_std=[0.2])
    array = np.array(photos[1].convert("L"))[:, :, None]
    expected = grey(Image.fromarray(array[:, :, 0]), return_tensors="pt").pixel_values[0]
    assert torch.equal(ProcessorTransform(grey)(array)["pixel_values"], expected)


def test_classes_are_matched_by_name():
    labels = {0: "dog", 1: "cat", 2: "cow"}
    assert match_classes(["cat", "cow", "dog"], labels) == [1, 2, 0]
    assert match_classes(["cow"], labels) == [2]
    assert match_classes(["cat", "cow"], {0: "LABEL_0", 1: "LABEL_1"}) == [0, 1]
    with pytest.raises(
        ValueError,
        match=r"doesn't know 1 of the data set's 2 classes, as 'hen'; it knows dog, cat, cow",
    ):
        match_classes(["cat", "hen"], labels)
    with pytest.raises(ValueError, match="doesn't know 3 of"):
        match_classes(["a", "b", "c"], {0: "LABEL_0", 1: "LABEL_1"})


def test_no_class_is_guessed():
    """However alike the names: two that are swapped are found, one that is unknown is an error."""
    names = [f"class {i}" for i in range(100)]
    swapped = dict(enumerate(names)) | {3: names[4], 4: names[3]}
    assert match_classes(names, swapped)[2:6] == [2, 4, 3, 5]
    with pytest.raises(
        ValueError, match="doesn't know 1 of the data set's 100 classes, as 'class 7'"
    ):
        match_classes(names, swapped | {7: "another"})


def test_broken_weights_predict_nothing(tmp_path, photos):
    model = MAEForImageClassification(MAEConfig(**TINY, num_labels=7)).eval()
    nn.init.constant_(model.classifier.bias, float("nan"))
    photos[0].save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match="logits are not finite"):
        predict(model, MAEImageProcessor.from_model_config(model.config), tmp_path / "photo.png")


def test_imagenets_spellings_are_one():
    from timm.data import ImageNetInfo

    from hf_mae.data.class_names import readable_names

    synsets = ImageNetInfo().label_names()
    ours = dict(enumerate(readable_names(synsets)))
    assert match_classes(synsets, ours) == list(range(1000))
    assert match_classes(synsets[500:], ours) == list(range(500, 1000))
    theirs = {
        number: name.split(" (")[0] for number, name in ours.items()
    }  # "crane" twice, as elsewhere
    assert match_classes(synsets, theirs) == list(range(1000))
    swapped = {**ours, 3: ours[4], 4: ours[3], 700: "spelt otherwise"}
    assert match_classes(synsets, swapped)[2:6] == [2, 4, 3, 5]
    assert match_classes(synsets, swapped)[700] == 700


def test_names_of_labels_are_told_apart():
    names = ["a", "a", "a (0)", "b", "b (3)"]
    config = MAEConfig(**TINY, num_labels=5, id2label=dict(enumerate(names)))
    distinct = distinct_names(config)
    assert len(set(distinct)) == 5
    assert distinct[2:] == ["a (0)", "b", "b (3)"]
