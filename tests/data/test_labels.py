"""Several labels an image, and values: in whatever columns they come."""

import io

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from hf_mae import MAEConfig
from hf_mae.data.augmentation import PairMixing
from hf_mae.data.labels import has_label, own_labels
from hf_mae.data.samples import ImageSamples, collate
from hf_mae.data.sources import load_evaluation_dataset, load_image_dataset
from hf_mae.data.transforms import CenterCropTransform


def image_bytes():
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), (1, 2, 3)).save(buffer, format="png")
    return {"bytes": buffer.getvalue(), "path": None}


def save(folder, **splits):
    """Saves splits of {column: (values, feature)}; returns the folder."""
    saved = DatasetDict()
    for name, columns in splits.items():
        number = len(next(iter(columns.values()))[0])
        values = {column: values for column, (values, _) in columns.items()}
        features = {column: feature for column, (_, feature) in columns.items()}
        saved[name] = Dataset.from_dict(
            {"image": [image_bytes()] * number, **values},
            features=Features({"image": ImageFeature(), **features}),
        )
    saved.save_to_disk(folder)
    return str(folder)


def load(name, **options):
    return load_image_dataset(name, labels=True, train_val_split=0, **options)


def batch(dataset):
    config = MAEConfig.from_size("tiny", image_size=32, patch_size=8)
    samples = ImageSamples(dataset, CenterCropTransform(config), 3, seed=0)
    return collate([samples[number] for number in range(len(samples))])["labels"]


NAMED = ([["b", "a"], [], ["c"]], List(Value("string")))
NUMBERS = ([[7, 10], [], [9]], List(Value("int64")))
FLOATS = ([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]], List(Value("float32"), length=3))
WHOLE = ([[1, 0, 1], [0, 0, 0], [0, 1, 0]], List(Value("int64")))
CLASSES = ([[0, 2], [], [1]], List(ClassLabel(names=["x", "y", "z"])))


@pytest.mark.parametrize(
    ("column", "names", "expected"),
    [
        (NAMED, ["a", "b", "c"], [[1, 1, 0], [0, 0, 0], [0, 0, 1]]),
        (NUMBERS, ["7", "9", "10"], [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
        (FLOATS, ["0", "1", "2"], FLOATS[0]),
        (WHOLE, ["0", "1", "2"], FLOATS[0]),
        (CLASSES, ["x", "y", "z"], FLOATS[0]),
    ],
)
def test_lists_of_labels(tmp_path, column, names, expected):
    train = load(save(tmp_path / "set", train={"labels": column}))["train"]
    assert train.features["label"] == List(ClassLabel(names=names))
    labels = batch(train)
    assert labels.dtype == torch.float32
    assert labels.tolist() == expected


def test_columns_of_0_and_1(tmp_path):
    columns = {
        "cat": ([1, 0, 1], Value("int64")),
        "dog": ([False, False, True], Value("bool")),
        "hen": ([0.0, 1.0, 0.0], Value("float64")),
        "label": (["x", "y", "z"], Value("string")),
    }
    folder = save(tmp_path / "set", train=columns, test=columns)
    splits = load(folder, label_column=["hen", "cat", "dog"])
    for split in splits.values():
        assert split.column_names == ["image", "label"]
        assert split.features["label"].feature.names == ["hen", "cat", "dog"]
        assert batch(split).tolist() == [[0, 1, 0], [1, 0, 0], [0, 1, 1]]
    held_out, _ = load_evaluation_dataset(folder, label_column=["dog", "cat"])
    assert batch(held_out).tolist() == [[0, 1], [0, 0], [1, 1]]


def test_labels_are_numbered_as_in_training(tmp_path):
    held_out = ([["c"], ["a", "c"]], List(Value("string")))
    folder = save(tmp_path / "set", train={"labels": NAMED}, test={"labels": held_out})
    assert batch(load(folder)["validation"]).tolist() == [[0, 0, 1], [1, 0, 1]]


def test_values(tmp_path):
    column = ([1.5, -2.0, 7.25], Value("float64"))
    train = load(save(tmp_path / "set", train={"age": column}), label_column="age")["train"]
    assert batch(train).tolist() == [1.5, -2.0, 7.25]
    assert batch(train).dtype == torch.float32


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (([["a"], None], List(Value("string"))), None, "1 of the 2 images of the train split have"),
        (([[0.5, 1.0]], List(Value("float32"))), None, "lists of float32; these must be 0 and 1"),
        (([[], []], List(Value("string"))), None, "no image of the train split has a label"),
        (([1.0, None], Value("float32")), None, "1 of the 2 images .* have no label, or no value"),
        (
            ([1.0, np.inf], Value("float32")),
            None,
            "1 of the 2 images .* have no label, or no value",
        ),
        (NAMED, ([["d"]], List(Value("string"))), "1 classes that training hasn't, as 'd'"),
        (WHOLE, ([[2, 0, 1]], List(Value("int64"))), "they must be 3 times 0 or 1"),
        (NAMED, (["a"], Value("string")), "they must be of one kind"),
    ],
)
def test_what_is_refused(tmp_path, train, test, message):
    splits = {"train": {"labels": train}} | ({"test": {"labels": test}} if test else {})
    with pytest.raises(ValueError, match=message):
        load(save(tmp_path / "set", **splits))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            ([1, -1, 1, -1], Value("int64")),
            r"without a label \(2 -1, of 4; .* name where -1 is a c",
        ),
        (([1, None, 2, -1], Value("int64")), r"\(1 null and 1 -1, of 4; -1 stands for none\)"),
        (([0, -1], ClassLabel(names=["a", "b"])), r"without a label \(1 -1, of 2"),
        ((["a", None], Value("string")), r"without a label \(1 null, of 2"),
        (([True, None], Value("bool")), r"without a label \(1 null, of 2"),
        (
            ([1.0, None, 2.0], Value("float64")),
            "1 of the 3 images of the train split have no label",
        ),
    ],
)
def test_images_without_a_label_are_counted(tmp_path, train, message):
    with pytest.raises(ValueError, match=message):
        load(save(tmp_path / "set", train={"label": train}))


def test_blanks_of_a_held_out_split_are_counted(tmp_path):
    """Where they have made floats of whole numbers."""
    splits = {"train": ([1, 2], Value("int64")), "test": ([1.0, None], Value("float64"))}
    folder = save(tmp_path / "set", **{name: {"label": own} for name, own in splits.items()})
    with pytest.raises(ValueError, match="1 of the 2 images of the validation split have"):
        load(folder)


def test_true_and_false_are_two_classes(tmp_path):
    column = ([True, False, False], Value("bool"))
    splits = load(save(tmp_path / "set", train={"label": column}, test={"label": column}))
    for split in splits.values():
        assert split.features["label"] == ClassLabel(names=["False", "True"])
        assert split["label"][:] == [1, 0, 0]


@pytest.mark.parametrize(
    ("values", "feature"), [([1, -1], Value("int64")), ([1.0, None], Value("float32"))]
)
def test_a_column_of_several_says_0_or_1(tmp_path, values, feature):
    columns = {"cat": ([0, 1], Value("int64")), "dog": (values, feature)}
    with pytest.raises(ValueError, match=r"label_column 'dog' holds (-1|None) \(1 of 2 values"):
        load(save(tmp_path / "set", train=columns), label_column=["cat", "dog"])


def test_labels_of_images_that_others_stand_in_for():
    notes = {"index": torch.tensor([4, 5]), "bad_images": [(5, "-", "broken")]}
    several = own_labels({"labels": torch.ones(2, 3), **notes})
    assert several is not None
    assert has_label(several).tolist() == [True, False]
    value = own_labels({"labels": torch.tensor([-100.0, 3.0]), **notes})
    assert value is not None
    assert has_label(value).tolist() == [True, False]
    assert own_labels(notes) is None


def test_mixing_several_labels():
    """Each label gets the pair's shares, and is smoothed between having it and not."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(8, 1, 16, 16, generator=generator)
    labels = torch.randint(0, 2, (8, 5), generator=generator).float()
    seeds = list(range(8))
    shares = PairMixing(8, mixup=0.8, cutmix=1.0, label_smoothing=0.0)
    expected_images, weights = shares(images, torch.arange(8), seeds)  # (8, 8)
    mixing = PairMixing(5, mixup=0.8, cutmix=1.0, label_smoothing=0.1, multi_label=True)
    mixed, targets = mixing(images, labels, seeds)
    assert torch.equal(mixed, expected_images)
    torch.testing.assert_close(targets, weights @ (0.9 * labels + 0.05))
    assert not torch.allclose(targets, 0.9 * labels + 0.05, atol=0.05)
