"""What is held out: every class in both parts, the same for a seed; and names of classes."""

import itertools
import unicodedata
from collections import Counter

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, List, Value
from PIL import Image

from hf_mae.data.sources import load_evaluation_dataset, load_image_dataset
from hf_mae.data.splits import hold_out, share_out


def table(labels, feature=None):
    data = Dataset.from_dict({"number": list(range(len(labels)))})
    return data if feature is None else data.add_column("label", labels, feature=feature)


def classes(*counts):
    """Images class by class, as folders come."""
    names = [f"class{number}" for number in range(len(counts))]
    return table(np.repeat(np.arange(len(counts)), counts).tolist(), ClassLabel(names=names))


def counts_of(split):
    return Counter(split["label"][:])


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("share", [0.02, 0.05, 0.2, 0.34, 0.9, 0.99])
def test_every_class_is_in_both_parts(share):
    data = classes(57, 3, 2, 400)
    for seed in range(20):
        splits = hold_out(data, share, seed)
        for split in splits.values():
            assert set(counts_of(split)) == {0, 1, 2, 3}
        numbers = splits["train"]["number"][:] + splits["validation"]["number"][:]
        assert sorted(numbers) == list(range(462))


def test_sizes_are_as_near_to_the_share_as_can_be():
    assert share_out(np.array([50, 30, 20]), 10).tolist() == [5, 3, 2]
    assert share_out(np.array([10, 10, 10]), 4).tolist() == [2, 1, 1]  # 1.33 each
    assert share_out(np.array([14, 26]), 4).tolist() == [1, 3]  # 1.4 and 2.6
    assert share_out(np.array([90, 2, 2, 2, 2, 2]), 10).tolist() == [5, 1, 1, 1, 1, 1]
    assert share_out(np.array([2, 2, 2]), 1).tolist() == [1, 1, 1]
    assert share_out(np.array([2, 2, 6]), 9).tolist() == [1, 1, 5]
    assert share_out(np.array([1, 0, 5]), 1).tolist() == [0, 0, 1]
    rng = np.random.default_rng(0)
    for _ in range(200):
        counts = rng.integers(0, 40, rng.integers(2, 12)) + 2
        total = int(rng.integers(1, counts.sum()))
        numbers = share_out(counts, total)
        wanted = counts * total / counts.sum()
        assert ((numbers >= 1) & (numbers < counts)).all()
        if total >= len(counts) and total <= (counts - 1).sum():
            assert numbers.sum() == total
            free = (numbers > 1) & (numbers < counts - 1)  # that nothing but the share decides
            assert (abs(numbers - wanted)[free] < 2).all()


def test_digits_keep_their_sizes():
    for share, sizes in ((0.05, (1707, 90)), (0.1, (1617, 180)), (0.3, (1258, 539))):
        splits = load_image_dataset("digits", train_val_split=share, labels=True)
        assert (len(splits["train"]), len(splits["validation"])) == sizes
        held_out, train = counts_of(splits["validation"]), counts_of(splits["train"])
        for digit in range(10):
            assert abs(held_out[digit] - share * (held_out[digit] + train[digit])) < 1


def test_the_seed_alone_decides():
    data = classes(30, 30)
    one, again, other = (hold_out(data, 0.2, seed)["validation"] for seed in (1, 1, 2))
    assert one["number"][:] == again["number"][:]
    assert set(one["number"][:]) != set(other["number"][:])
    assert one["label"][:] != sorted(one["label"][:])  # class by class no more


@pytest.mark.parametrize("labels", [None, [i / 7 for i in range(50)]])
def test_images_without_classes_are_held_out_at_random(labels):
    """As datasets does it."""
    data = table([0] * 50) if labels is None else table(labels, Value("float32"))
    splits, expected = hold_out(data, 0.2, 3), data.train_test_split(10, seed=3)
    assert splits["train"]["number"][:] == expected["train"]["number"][:]
    assert splits["validation"]["number"][:] == expected["test"]["number"][:]


def test_what_classes_cannot_have_is_said(caplog):
    splits = hold_out(classes(20, 1, 2, 1), 0.05, seed=0)
    assert counts_of(splits["validation"]) == {0: 1, 2: 1}
    assert counts_of(splits["train"]) == {0: 19, 1: 1, 2: 1, 3: 1}
    (single, size) = warnings_of(caplog)
    assert single == ("2 of 4 classes have a single image, which stays in training: class1, class3")
    assert size == (
        "2 images are held out, not the 1 of train_val_split, so that every class has one"
    )
    caplog.clear()
    assert len(hold_out(classes(2, 2), 0.9, seed=0)["validation"]) == 2
    assert "so that every class keeps one to train on" in warnings_of(caplog)[0]
    caplog.clear()
    hold_out(classes(20, 20), 0.2, seed=0)
    assert not warnings_of(caplog)
    with pytest.raises(ValueError, match="no image can be held out, as each has a class to itself"):
        hold_out(classes(1, 1, 1), 0.2, seed=0)


def lists(rows, num_labels):
    names = [f"label{number}" for number in range(num_labels)]
    return table(rows, List(ClassLabel(names=names)))


def label_counts(split, num_labels):
    counts = Counter(itertools.chain.from_iterable(map(set, split["label"][:])))
    return [counts[label] for label in range(num_labels)]


def test_every_label_is_in_both_parts():
    rng = np.random.default_rng(0)
    rates = np.array([0.9, 0.5, 0.1, 0.02, 0.01])
    rows = [np.flatnonzero(rng.random(5) < rates).tolist() for _ in range(400)]
    rows += [[0, 3, 4], [3, 4], [], []]
    data = lists(rows, 5)
    for seed in range(10):
        splits = hold_out(data, 0.1, seed)
        assert splits.num_rows == {"train": 364, "validation": 40}
        held_out = np.array(label_counts(splits["validation"], 5))
        there = np.array(label_counts(data, 5))
        assert (held_out >= 1).all()
        assert (held_out < there).all()
        assert abs(held_out - 0.1 * there).max() <= 4


def test_a_label_that_cannot_be_held_out_is_said(caplog):
    """Both images of label 0 are the only ones of another label."""
    rows = [[0, 1], [0, 2], *([3] for _ in range(18))]
    splits = hold_out(lists(rows, 4), 0.1, seed=0)
    assert label_counts(splits["validation"], 4) == [0, 0, 0, 2]
    single, alone = warnings_of(caplog)
    assert "2 of 4 classes have a single image, which stays in training: label1, label2" in single
    assert "1 of 4 labels have no held-out image" in alone
    assert alone.endswith("label0")


# names -------------------------------------------------------------------------------------------

NAMES = ["café", "naïve", "Ångström"]


def folder(path, names, images=3):
    for name in names:
        for number in range(images):
            (path / name).mkdir(parents=True, exist_ok=True)
            Image.new("L", (16, 16), 10 * number).save(path / name / f"{len(name)}-{number}.png")
    return path


def in_form(form):
    return [unicodedata.normalize(form, name) for name in NAMES]


def test_folders_of_other_forms_are_the_same_classes(tmp_path):
    mac = folder(tmp_path / "mac", in_form("NFD"))
    linux = folder(tmp_path / "linux", in_form("NFC"))
    for train, held_out in ((mac, linux), (linux, mac)):
        splits = load_image_dataset(train_dir=train, validation_dir=held_out, labels=True)
        for split in splits.values():
            assert split.features["label"].names == sorted(in_form("NFC"))
    held_out, _ = load_evaluation_dataset(validation_dir=mac)
    assert held_out.features["label"].names == sorted(in_form("NFC"))


def test_both_forms_in_a_folder_are_one_class(tmp_path, caplog):
    both = folder(tmp_path, [*in_form("NFD"), *in_form("NFC"), "tea"])
    data = load_image_dataset(train_dir=both, labels=True, train_val_split=0)["train"]
    assert data.features["label"].names == sorted([*NAMES, "tea"])
    assert set(counts_of(data).values()) == {3, 6}
    assert "3 of the 7 folders" in caplog.text
    assert "are one class with it: " in caplog.text


@pytest.mark.parametrize("kind", ["names", "feature", "lists"])
def test_both_forms_in_a_column_are_one_class(tmp_path, caplog, kind):
    pictures = [f"{folder(tmp_path / 'pictures', ['a'])}/a/1-0.png"] * 6
    names = [*in_form("NFD"), *in_form("NFC")]
    labels, feature = names, Value("string")
    if kind == "feature":
        labels, feature = list(range(6)), ClassLabel(names=names)
    if kind == "lists":
        labels, feature = [[name, "tea"] for name in names], List(Value("string"))
    data = Dataset.from_dict({"image": pictures}).add_column("label", labels, feature=feature)
    data.save_to_disk(tmp_path / "set")
    train = load_image_dataset(str(tmp_path / "set"), labels=True, train_val_split=0)["train"]
    feature = train.features["label"]
    found = feature.feature.names if kind == "lists" else feature.names
    assert set(found) - {"tea"} == set(NAMES)
    assert "3 of the" in caplog.text
    rows = train["label"][:]
    first, second = rows[:3], rows[3:]
    assert first == second


def test_names_that_are_near_are_said_and_stay_apart(tmp_path, caplog):
    near = folder(tmp_path, ["cat", "Cat", "cat ", "dog"])
    data = load_image_dataset(train_dir=near, labels=True, train_val_split=0)["train"]
    assert data.features["label"].num_classes == 4
    said = [line for line in warnings_of(caplog) if "case or blanks" in line]
    assert len(said) == 1
    assert "'Cat' and 'cat', 'Cat' and 'cat '" in said[0]
