import shutil

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from helpers import TINY, decode, encoded

from hf_mae import MAEConfig
from hf_mae.data.class_names import readable_names
from hf_mae.data.sources import load_evaluation_dataset, load_image_dataset


@pytest.fixture
def config():
    return MAEConfig(**TINY)


def names(dataset):
    return {row["image"]["path"].rsplit("/", 1)[-1] for row in dataset}


def test_digits():
    splits = load_image_dataset("digits", train_val_split=0.1)
    assert splits.num_rows == {"train": 1617, "validation": 180}
    assert splits["train"].column_names == ["image"]
    array = decode(splits["train"][0]["image"], 1)
    assert array.shape == (32, 32, 1)
    assert array.std() > 50  # a real scan, not a blank


def test_folder_with_classes_nested(photo_folder):
    splits = load_image_dataset(train_dir=photo_folder, train_val_split=0.2)
    assert splits.num_rows == {"train": 48, "validation": 12}
    assert len(names(splits["train"]) | names(splits["validation"])) == 60
    again = load_image_dataset(train_dir=photo_folder, train_val_split=0.2)
    other = load_image_dataset(train_dir=photo_folder, train_val_split=0.2, seed=1)
    assert names(again["validation"]) == names(splits["validation"]) != names(other["validation"])


def test_folder_without_classes(photo_folder, tmp_path):
    for path in photo_folder.rglob("*.jpg"):
        shutil.copy(path, tmp_path / path.name)
    (tmp_path / "notes.txt").write_text("not an image")
    assert load_image_dataset(train_dir=tmp_path, train_val_split=0).num_rows == {"train": 60}


def test_files_are_numbered_by_name_not_by_the_disk(photo_folder, tmp_path):
    for path in sorted(photo_folder.rglob("*.jpg"), reverse=True):
        shutil.copy(path, tmp_path / path.name)
    (tmp_path / ".hidden.jpg").write_bytes(b"")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "0.jpg").write_bytes(b"")
    (tmp_path / "circle").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(photo_folder / "group0")
    for video in ("film.mpg", "plot.eps"):
        (tmp_path / video).write_bytes(b"")
    paths = [
        row["image"]["path"]
        for row in load_image_dataset(train_dir=tmp_path, train_val_split=0)["train"]
    ]
    assert paths == sorted(paths)
    assert len(paths) == 60 + 30


def test_a_class_may_be_called_test(photo_folder, tmp_path):
    for i, path in enumerate(sorted(photo_folder.rglob("*.jpg"))):
        target = tmp_path / ("test" if i % 2 else "train-station") / path.name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    assert load_image_dataset(train_dir=tmp_path, train_val_split=0).num_rows == {"train": 60}


def test_validation_dir_is_honoured(photo_folder, tmp_path):
    shutil.copy(next(photo_folder.rglob("000.jpg")), tmp_path / "mine.jpg")
    splits = load_image_dataset(train_dir=photo_folder, validation_dir=tmp_path)
    assert splits.num_rows == {"train": 60, "validation": 1}
    assert names(splits["validation"]) == {"mine.jpg"}
    assert load_image_dataset("digits", validation_dir=tmp_path).num_rows == {
        "train": 1797,
        "validation": 1,
    }


@pytest.fixture
def image_table(photos):
    rows = [
        {"bytes": encoded(photos[i % 2].resize((40 + i, 50))), "path": f"{i}.png"} for i in range(8)
    ]
    features = Features({"picture": ImageFeature(), "label": ClassLabel(names=["a", "b"])})
    return Dataset.from_dict({"picture": rows, "label": [0, 1] * 4}, features=features)


def test_saved_by_datasets_and_parquet(image_table, tmp_path):
    image_table.save_to_disk(tmp_path / "table")
    DatasetDict(train=image_table, val=image_table.select(range(3))).save_to_disk(tmp_path / "dict")
    (tmp_path / "parquet").mkdir()
    image_table.to_parquet(tmp_path / "parquet" / "train-00000.parquet")
    image_table.to_parquet(tmp_path / "one.parquet")
    expected = [
        decode(row, 3)
        for row in image_table.cast_column("picture", ImageFeature(decode=False))["picture"]
    ]
    for name, rows in {
        "table": (8, 0),
        "dict": (8, 3),
        "parquet": (8, 0),
        "one.parquet": (8, 0),
    }.items():
        splits = load_image_dataset(str(tmp_path / name), train_val_split=0)
        assert splits.num_rows == {"train": rows[0]} | (
            {"validation": rows[1]} if rows[1] else {}
        ), name
        assert splits["train"].column_names == ["image"]
        assert all(
            np.array_equal(decode(row["image"], 3), e) for row, e in zip(splits["train"], expected)
        )
    by_name = load_image_dataset(
        str(tmp_path / "dict"), train_split="val", image_column="picture", train_val_split=0
    )
    assert by_name.num_rows == {"train": 3}


def test_shards_laid_out_as_on_the_hub(image_table, tmp_path):
    """As ILSVRC/imagenet-1k: data/SPLIT-00000-of-0000N.parquet, with an unlabelled test split."""
    (tmp_path / "data").mkdir()
    for name, rows in {
        "train-00000-of-00002": 4,
        "train-00001-of-00002": 3,
        "validation-00000-of-00001": 2,
        "test-00000-of-00001": 5,
    }.items():
        image_table.select(range(rows)).rename_column("picture", "image").to_parquet(
            tmp_path / "data" / f"{name}.parquet"
        )
    assert load_image_dataset(str(tmp_path)).num_rows == {"train": 7, "validation": 2}
    assert load_image_dataset(str(tmp_path), validation_split="test").num_rows == {
        "train": 7,
        "validation": 5,
    }


@pytest.mark.parametrize("only", ["test", "validation", "data"])
def test_the_only_split_is_not_validated_on_itself(image_table, tmp_path, only):
    DatasetDict({only: image_table}).save_to_disk(tmp_path / "one")
    splits = load_image_dataset(str(tmp_path / "one"), train_val_split=0.25)
    assert splits.num_rows == {"train": 6, "validation": 2}
    assert not names(splits["train"]) & names(splits["validation"])


def test_plain_bytes_in_a_parquet_file(image_table, tmp_path):
    raw = [
        row["bytes"]
        for row in image_table.cast_column("picture", ImageFeature(decode=False))["picture"]
    ]
    Dataset.from_dict({"png": raw}).to_parquet(tmp_path / "raw.parquet")
    splits = load_image_dataset(str(tmp_path / "raw.parquet"), train_val_split=0)
    assert decode(splits["train"][3]["image"], 3).shape == (50, 43, 3)


def test_wrong_names_list_what_is_there(image_table, photo_folder, tmp_path):
    Dataset.from_dict(
        {"a": image_table["picture"], "b": image_table["picture"]},
        features=Features({"a": ImageFeature(), "b": ImageFeature()}),
    ).save_to_disk(tmp_path / "two")
    (tmp_path / "whole" / "train").mkdir(parents=True)
    (tmp_path / "whole" / "val").mkdir()
    (tmp_path / "empty").mkdir()
    cases = [
        ({"train_dir": tmp_path / "nope"}, "nope is not a folder; in .* there is .*two/"),
        ({"train_dir": tmp_path / "empty"}, "holds no images; in it there is nothing"),
        ({"train_dir": tmp_path / "whole"}, "holds no images; in it there is train/, val/"),
        (
            {"train_dir": photo_folder, "validation_dir": tmp_path / "nope"},
            "validation_dir .*nope is not a folder",
        ),
        (
            {"dataset_name": "digits", "train_split": "trian"},
            "train_split is 'trian'; the data set has train; did you mean train?",
        ),
        (
            {"dataset_name": "digits", "validation_split": "val"},
            "validation_split is 'val'; the data set has train",
        ),
        (
            {"dataset_name": "digits", "image_column": "img"},
            "image_column is 'img'; the data set has image, label",
        ),
        ({"dataset_name": str(tmp_path / "two")}, "several columns have images .a, b."),
        (
            {"dataset_name": "digits", "image_column": "label"},
            "image_column 'label' holds no images but ClassLabel",
        ),
        ({"dataset_name": "digits", "train_dir": photo_folder}, "not both"),
        ({}, "either dataset_name or train_dir"),
        ({"dataset_name": "digits", "train_val_split": 1.5}, "train_val_split is 1.5"),
        (
            {"dataset_name": "no/such"},
            "'no/such' is not a folder or table here, nor 'digits'",
        ),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            load_image_dataset(**arguments)


# labels ------------------------------------------------------------------------------------------


def pairs(dataset):
    """Class name of each file name."""
    names = dataset.features["label"].names
    return {row["image"]["path"].rsplit("/", 1)[-1]: names[row["label"]] for row in dataset}


def test_a_folders_classes_are_its_first_folders(photo_folder):
    splits = load_image_dataset(train_dir=photo_folder, train_val_split=0.2, labels=True)
    assert splits["train"].column_names == ["image", "label"]
    for split in splits.values():
        assert split.features["label"].names == ["group0", "group1"]
        assert all(name == f"group{int(file[:3]) % 2}" for file, name in pairs(split).items())
        assert split["label"][:].count(0) == split["label"][:].count(1)


def test_validation_classes_are_the_training_ones(photo_folder, tmp_path):
    """A folder of held-out images may lack classes: the numbers stay those of training."""
    group = tmp_path / "held_out" / "group1"
    shutil.copytree(photo_folder / "group1", group)
    splits = load_image_dataset(
        train_dir=photo_folder, validation_dir=tmp_path / "held_out", labels=True
    )
    assert splits["validation"].features["label"].names == ["group0", "group1"]
    assert set(splits["validation"]["label"]) == {1}
    shutil.copytree(group, tmp_path / "held_out" / "zebra")
    with pytest.raises(
        ValueError, match=r"1 classes that training hasn't, as 'zebra'; it has group0, group1"
    ):
        load_image_dataset(
            train_dir=photo_folder, validation_dir=tmp_path / "held_out", labels=True
        )


def test_images_in_no_class(photo_folder, tmp_path):
    shutil.copytree(photo_folder, tmp_path / "mixed")
    shutil.copy(photo_folder / "group0" / "class0" / "000.jpg", tmp_path / "mixed" / "loose.jpg")
    with pytest.raises(
        ValueError,
        match=r"holds 1 images that lie in no class, as loose.jpg; each class needs a folder",
    ):
        load_image_dataset(train_dir=tmp_path / "mixed", labels=True)
    assert load_image_dataset(train_dir=tmp_path / "mixed").num_rows["train"] == 58


def labelled(photos, labels, **columns):
    files = [
        {"bytes": encoded(photos[i % 2].resize((40, 30))), "path": f"{i}.png"}
        for i in range(len(labels))
    ]
    return Dataset.from_dict({"photo": files, "kind": labels, **columns}).cast_column(
        "photo", ImageFeature()
    )


@pytest.mark.parametrize(
    ("train", "validation", "expected"),
    [
        (["b", "a", "c", "a"], ["c", "a"], ["a", "b", "c"]),
        ([10, 2, 30, 2], [30, 10], ["2", "10", "30"]),
    ],
)
def test_labels_that_are_no_class_label(photos, tmp_path, train, validation, expected):
    splits = DatasetDict(train=labelled(photos, train), test=labelled(photos, validation))
    splits.save_to_disk(tmp_path / "data")
    loaded = load_image_dataset(str(tmp_path / "data"), label_column="kind", labels=True)
    for split, values in (("train", train), ("validation", validation)):
        feature = loaded[split].features["label"]
        assert feature.names == expected
        assert feature.int2str(loaded[split]["label"][:]) == [str(value) for value in values]


def test_class_labels_of_another_order(photos, tmp_path):
    train = labelled(photos, [0, 1, 2]).cast_column("kind", ClassLabel(names=["a", "b", "c"]))
    test = labelled(photos, [0, 1, 1]).cast_column("kind", ClassLabel(names=["c", "a"]))
    for name, split in (("train", train), ("test", test)):
        (tmp_path / "data").mkdir(exist_ok=True)
        split.save_to_disk(tmp_path / "data" / name)
    (tmp_path / "data" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    loaded = load_image_dataset(str(tmp_path / "data"), labels=True)
    assert loaded["validation"]["label"][:] == [2, 0, 0]
    alone, split = load_evaluation_dataset(str(tmp_path / "data"))
    assert split == "test"
    assert (alone.features["label"].names, alone["label"][:]) == (["c", "a"], [0, 1, 1])


def test_wrong_labels(photos, tmp_path):
    data = labelled(photos, [0, 1, -1], other=[0, 1, 2], score=[0.5, 1.0, 2.0])
    both = data.cast_column("kind", ClassLabel(names=["a", "b"])).cast_column(
        "other", ClassLabel(names=["x", "y", "z"])
    )
    Dataset.from_dict({"photo": data["photo"], "label": ["a", None, "b"]}).save_to_disk(
        tmp_path / "gaps"
    )
    data.save_to_disk(tmp_path / "plain")
    both.save_to_disk(tmp_path / "both")
    cases = [
        (
            "plain",
            None,
            "no column has labels; name one by label_column: the data set has photo, kind, other, "
            "score",
        ),
        ("plain", "photo", "label_column 'photo' holds .*; it must be one class an image"),
        ("plain", "nope", "label_column is 'nope'; the data set has photo, kind"),
        ("both", None, "several columns have labels .kind, other."),
        ("both", "kind", "the train split has images without a label"),
        ("gaps", None, "the train split has images without a label"),
    ]
    for name, column, message in cases:
        with pytest.raises(ValueError, match=message):
            load_image_dataset(
                str(tmp_path / name),
                image_column="photo",
                label_column=column,
                labels=True,
                train_val_split=0,
            )


def test_evaluation_split(photos, photo_folder, tmp_path):
    data = labelled(photos, ["a", "b", "a", "b"])
    splits = DatasetDict(train=data, val=data.select([0, 1, 2]), test=data.select([0]))
    splits.save_to_disk(tmp_path / "data")

    def load(**arguments):
        return load_evaluation_dataset(label_column="kind", **arguments)

    DatasetDict(train=data, extra=data).save_to_disk(tmp_path / "no_held_out")
    for split, found, number in ((None, "val", 3), ("test", "test", 1), ("train", "train", 4)):
        dataset, its_split = load(dataset_name=str(tmp_path / "data"), split=split)
        assert (its_split, len(dataset)) == (found, number)
    digits, split = load_evaluation_dataset("digits")
    assert (len(digits), split) == (1797, "train")
    folder, split = load_evaluation_dataset(validation_dir=photo_folder)
    assert (pairs(folder)["000.jpg"], split) == ("group0", None)
    with pytest.raises(ValueError, match="the data set has train, extra; name one by split"):
        load(dataset_name=str(tmp_path / "no_held_out"))
    with pytest.raises(
        ValueError, match="split is for dataset_name; it says nothing about validation_dir"
    ):
        load_evaluation_dataset(validation_dir=photo_folder, split="train")
    with pytest.raises(
        ValueError, match="split is 'tset'; the data set has train, val, test; did you mean test"
    ):
        load(dataset_name=str(tmp_path / "data"), split="tset")
    with pytest.raises(ValueError, match="either dataset_name or validation_dir"):
        load()


def test_readable_names_of_imagenet():
    from timm.data import ImageNetInfo

    synsets = ImageNetInfo().label_names()
    names = readable_names(synsets)
    assert len(set(names)) == 1000
    assert names[0] == "tench, Tinca tinca"
    assert names[:3] == readable_names(synsets[:3])
    assert readable_names(["n01440764", "mine"]) == ["n01440764", "mine"]
    assert readable_names(["cat", "dog"]) == ["cat", "dog"]
