"""Folders of images: splits by their names, metadata, links, names in any bytes, and what is left
out."""

import contextlib
import itertools
import os
import tempfile
from pathlib import Path

import pytest
from helpers import TINY_FLAGS, decode, run_script
from PIL import Image

from hf_mae.data.folders import describe_left_out
from hf_mae.data.sources import load_evaluation_dataset, load_image_dataset
from hf_mae.data.split_names import split_of_folder


def paint(path, grey=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (grey, grey, grey)).save(path)


def fill(folder, *names, count=3):
    for name in names:
        for i in range(count):
            paint(folder / name / f"{i}.png", 10 * i)


def greys(dataset):
    return [int(decode(value, 3).mean()) for value in dataset["image"]]


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("train", "test"),
        ("Train", "Testing"),
        ("TRAIN", "Val"),
        ("train_images", "valid_images"),
        (" train ", " validation"),
        ("training set", "dev"),
        ("seg_train", "seg_test"),
        ("trainImages", "evaluation"),
        ("X_train", "X_test"),
        ("trainA", "testA"),
        ("my_train", "my_val"),
        ("train_cropped", "test_cropped"),
        ("training_v2", "testing_v2"),
        ("train-jpg", "val-jpg"),
        ("traindata", "testdata"),
        ("my train images", "my_validation"),
        ("train", "test_final"),
        ("train", "validate"),
        ("train", "tst"),
        ("train", "holdout"),
        ("train", "held_out"),
        ("Train", "Hold-Out set"),
        ("train", "unseen"),
        ("train", "query"),
    ],
)
def test_folders_that_are_splits(tmp_path, caplog, train, held_out):
    fill(tmp_path, f"{train}/cat", f"{train}/dog", f"{held_out}/dog", f"{held_out}/cat")
    paint(tmp_path / held_out / "cat" / "extra.png")
    for source in ({"train_dir": tmp_path}, {"dataset_name": str(tmp_path)}):
        for labels in (True, False):
            caplog.clear()
            splits = load_image_dataset(**source, labels=labels)
            assert splits.num_rows == {"train": 6, "validation": 7}
            assert f"train is {train}/" in caplog.text
            assert f"{held_out}/" in caplog.text
            if labels:
                assert splits["train"].features["label"].names == ["cat", "dog"]
    dataset, _ = load_evaluation_dataset(validation_dir=tmp_path)
    assert len(dataset) == 7


def test_splits_a_folder_further_down_and_beside_a_third(tmp_path):
    fill(tmp_path, "images/train", "images/val", "images/test", count=2)
    paint(tmp_path / "images" / "val" / "more.png")
    assert load_image_dataset(train_dir=tmp_path).num_rows == {"train": 2, "validation": 3}
    named = load_image_dataset(train_dir=tmp_path, validation_split="test")
    assert named.num_rows == {"train": 2, "validation": 2}


def test_held_out_images_without_labels_are_left_aside(tmp_path, caplog):
    fill(tmp_path, "train/cat", "train/dog", "test")
    splits = load_image_dataset(train_dir=tmp_path, labels=True, train_val_split=0)
    assert splits.num_rows == {"train": 6}
    assert "test is left aside, for its images have no labels" in caplog.text
    assert load_image_dataset(train_dir=tmp_path).num_rows == {"train": 6, "validation": 3}


@pytest.mark.parametrize(
    "classes",
    [
        *[("bus", "train", "tram"), ("control", "test"), ("test bench", "train station")],
        *[
            ("train", "train station"),
            ("seen", "unseen"),
            ("latest", "strain"),
            ("contest", "rain", "train"),
            ("devil", "val"),
        ],
    ],
)
def test_classes_that_are_called_like_splits(tmp_path, classes):
    fill(tmp_path, *classes)
    splits = load_image_dataset(train_dir=tmp_path, labels=True, train_val_split=0)
    assert splits["train"].features["label"].names == sorted(classes)
    assert len(splits["train"]) == 3 * len(classes)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train", "test", "bus"), "test/, train/, which are splits by their names, beside bus/"),
        (("train", "train_2", "val"), "several of them of one split"),
        (("trainA", "trainB", "testA", "testB"), "several of them of one split"),
        (("X_train", "X_test", "bus"), "X_test/, X_train/, which are splits by .* beside bus/"),
        (
            ("val", "test"),
            "validation, test, and nothing called train|val holds 3 images that lie in no",
        ),
    ],
)
def test_unclear_splits_are_refused(tmp_path, names, message):
    fill(tmp_path, *names)
    for labels in (True, False):
        with pytest.raises(ValueError, match=message):
            load_image_dataset(train_dir=tmp_path, labels=labels)


def test_classes_that_might_be_splits_are_said(tmp_path, caplog):
    fill(tmp_path, "train_raw", "test_cropped")
    for labels in (True, False):
        caplog.clear()
        load_image_dataset(train_dir=tmp_path, labels=labels, train_val_split=0)
        assert "test_cropped/, train_raw/ are taken together, as classes" in caplog.text


@pytest.mark.parametrize("form", ["{}", "X_{}", "{}_cropped"])
def test_splits_within_classes_are_said(tmp_path, caplog, form):
    ways = itertools.product(("cat", "dog"), ("train", "test"))
    fill(tmp_path, *(f"{name}/{form.format(split)}" for name, split in ways))
    splits = load_image_dataset(train_dir=tmp_path, labels=True, train_val_split=0)
    assert splits["train"].features["label"].names == ["cat", "dog"]
    assert "6 of the 12 images" in caplog.text


def test_names_of_splits():
    assert split_of_folder("train_val") == "train"
    assert split_of_folder("train-2017") == "train"
    assert split_of_folder("données de test") is None
    assert split_of_folder("contest") is None
    assert split_of_folder("data") is None


def test_file_names_make_no_splits(tmp_path):
    """Of a folder of images, that is: datasets takes train_1.png for all there is."""
    for name in ("train_1", "test-2", "val 3", "other"):
        paint(tmp_path / "cat" / f"{name}.png")
        paint(tmp_path / "dog" / f"{name}.png")
    for labels in (True, False):
        splits = load_image_dataset(str(tmp_path), labels=labels, train_val_split=0)
        assert splits.num_rows == {"train": 8}


def test_two_classes_may_link_to_one_place(tmp_path):
    fill(tmp_path, "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "set").mkdir()
    for name in ("a", "b"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "elsewhere")
    splits = load_image_dataset(train_dir=tmp_path / "set", labels=True, train_val_split=0)
    assert splits["train"].features["label"].names == ["a", "b"]
    assert splits["train"]["label"][:] == [0, 0, 0, 1, 1, 1]
    without = load_image_dataset(train_dir=tmp_path / "set", train_val_split=0)
    assert without.num_rows == {"train": 3}  # each image once


def test_a_folder_that_cannot_be_read_is_named():
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "set"
        fill(root, "cat", "dog/deep")
        for closed in (root / "dog" / "deep", root / "dog", root):
            closed.chmod(0)
            os.chmod(folder, 0o755)
            for source in ({"train_dir": root}, {"dataset_name": str(root)}):
                for labels in (True, False):
                    with as_nobody(), pytest.raises(ValueError, match=f"{closed} can't be read"):
                        load_image_dataset(**source, labels=labels)
            closed.chmod(0o755)


@contextlib.contextmanager
def as_nobody():
    """As root may read all there is."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


# what is left out --------------------------------------------------------------------------------


def test_what_is_left_out_is_counted(tmp_path):
    fill(tmp_path, "cat", "dog", count=4)
    for i in range(3):
        (tmp_path / "cat" / f"{i}.XYZ").write_bytes(b"")
    (tmp_path / "notes").write_bytes(b"")
    (tmp_path / ".hidden.txt").write_bytes(b"")
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "1.mov").write_bytes(b"")
    expected = "5 files left out: 3 .xyz, 1 without an ending, 1 .mov"
    splits = load_image_dataset(train_dir=tmp_path)
    assert describe_left_out(splits["train"]) == expected
    splits = load_image_dataset(train_dir=tmp_path, labels=True)
    assert describe_left_out(splits["train"]) == f"{expected}; no image in phone/"
    dataset, _ = load_evaluation_dataset(validation_dir=tmp_path)
    assert describe_left_out(dataset) == f"{expected}; no image in phone/"
    assert describe_left_out(load_image_dataset("digits")["train"]) is None


def test_classes_in_two_unicode_forms_are_not_called_empty(tmp_path, caplog):
    fill(tmp_path, "caf\u00e9", "cafe\u0301", "tea", "empty/none")
    for path in (tmp_path / "empty" / "none").iterdir():
        path.unlink()
    dataset = load_image_dataset(train_dir=tmp_path, labels=True, train_val_split=0)["train"]
    assert dataset.features["label"].names == ["caf\u00e9", "tea"]
    assert describe_left_out(dataset) == "no image in empty/"
    assert "are one class with it: caf\u00e9" in caplog.text


def test_what_is_left_out_beside_splits(tmp_path):
    fill(tmp_path, "train", "test")
    (tmp_path / "labels.csv").write_text("a,b\n")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "1.xyz").write_bytes(b"")
    splits = load_image_dataset(train_dir=tmp_path)
    assert describe_left_out(splits["train"]) == "2 files left out: 1 .csv, 1 .xyz"
    assert describe_left_out(splits["validation"]) is None


def test_the_plan_says_what_is_left_out(tmp_path):
    fill(tmp_path / "train_set", "a", "b", count=4)
    fill(tmp_path / "other", "a", count=4)
    (tmp_path / "train_set" / "1.xyz").write_bytes(b"")
    (tmp_path / "other" / "a" / "2.mov").write_bytes(b"")
    folders = {"train_dir": tmp_path / "train_set", "validation_dir": tmp_path / "other"}
    flags = [f"--{name}={folder}" for name, folder in folders.items()]
    quick = ["--num_train_epochs=1", "--warmup_epochs=0", "--per_device_train_batch_size=4"]
    quick += ["--use_cpu=true", "--report_to=none", "--save_strategy=no", "--disable_tqdm=true"]
    out = run_script("run_mae.py", *flags, *TINY_FLAGS, *quick, f"--output_dir={tmp_path}/run")
    expected = "train: 1 file left out: 1 .xyz; held out: 1 file left out: 1 .mov"
    assert f"  others  {expected}" in out


# metadata ----------------------------------------------------------------------------------------


def test_metadata_holds_the_labels(tmp_path):
    fill(tmp_path, ".", "sub", count=3)
    rows = ["0.png,x,1", "1.png,y,2", "sub/0.png,y,3", "sub/2.png,x,4"]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label,size", *rows, "no.png,x,5"]))
    for source in ({"train_dir": tmp_path}, {"dataset_name": str(tmp_path)}):
        splits = load_image_dataset(**source, labels=True, train_val_split=0)
        dataset = splits["train"]
        assert greys(dataset) == [0, 10, 0, 20]
        assert dataset.features["label"].int2str(dataset["label"][:]) == ["x", "y", "y", "x"]
        note = describe_left_out(dataset) or ""
        assert "2 images left out, which metadata.csv doesn't name" in note
        assert "1 rows of metadata.csv left out" in note
    sizes = load_image_dataset(
        train_dir=tmp_path, labels=True, label_column="size", train_val_split=0
    )
    assert sizes["train"].features["label"].names == ["1", "2", "3", "4"]
    held_out, _ = load_evaluation_dataset(validation_dir=tmp_path, label_column="size")
    assert held_out["label"][:] == [0, 1, 2, 3]


def test_metadata_of_each_folder_and_of_splits(tmp_path):
    fill(tmp_path, "train", "test", count=2)
    (tmp_path / "train" / "metadata.jsonl").write_text(
        '{"file_name": "0.png", "label": "x"}\n{"file_name": "1.png", "label": "y"}\n'
    )
    (tmp_path / "test" / "metadata.csv").write_text("file_name,label\n1.png,x\n0.png,y\n")
    splits = load_image_dataset(train_dir=tmp_path, labels=True)
    assert splits["train"]["label"][:] == [0, 1]
    assert splits["validation"]["label"][:] == [1, 0]


def test_metadata_without_labels(tmp_path, caplog):
    fill(tmp_path, "cat", "dog", count=2)
    names = [f"{name}/{i}.png,7" for name in ("cat", "dog") for i in range(2)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,width", *names]))
    splits = load_image_dataset(train_dir=tmp_path, labels=True, train_val_split=0)
    assert splits["train"].features["label"].names == ["cat", "dog"]
    assert "metadata.csv has no column of labels by its name" in caplog.text
    unlabelled = load_image_dataset(train_dir=tmp_path)
    assert describe_left_out(unlabelled["train"]) == "1 file left out: 1 .csv"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\n0.png,x\n", "needs a column file_name, .*; it has name, label"),
        ("file_name,label\nother/0.png,x\n", "names none of its 3 images, as 0.png"),
        ("file_name,size\n0.png,1\n1.png,2\n", "no column has labels; name one by label_column"),
    ],
)
def test_metadata_that_is_of_no_use(tmp_path, text, message):
    fill(tmp_path, ".")
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_image_dataset(train_dir=tmp_path, labels=True)


def write_metadata(folder, *lines):
    (folder / "metadata.csv").write_text("\n".join(lines))


def test_metadata_names_splits(tmp_path, caplog):
    fill(tmp_path, ".")
    write_metadata(
        tmp_path, "file_name,label,split", "0.png,x,train", "1.png,y,train", "2.png,x,test"
    )
    for labels in (True, False):
        caplog.clear()
        splits = load_image_dataset(train_dir=tmp_path, labels=labels)
        assert {name: greys(split) for name, split in splits.items()} == {
            "train": [0, 10],
            "validation": [20],
        }
        assert "splits by the column 'split' of train_dir" in caplog.text
    held_out, _ = load_evaluation_dataset(validation_dir=tmp_path)
    assert greys(held_out) == [20]
    write_metadata(tmp_path, "file_name,label,split", "0.png,x,train", "1.png,y,", "2.png,x,test")
    for labels in (True, False):
        with pytest.raises(ValueError, match="'split' names train, test in some rows, and '' in 1"):
            load_image_dataset(train_dir=tmp_path, labels=labels)


def test_metadata_names_splits_of_folders_that_are_classes(tmp_path):
    fill(tmp_path, "cat", "dog", count=2)
    rows = [f"{name}/{i}.png,{split}" for name in ("cat", "dog") for i, split in enumerate("ab")]
    lines = [row.replace(",a", ",train").replace(",b", ",val") for row in rows]
    write_metadata(tmp_path, "file_name,Split", *lines)
    splits = load_image_dataset(train_dir=tmp_path, labels=True)
    assert [greys(split) for split in splits.values()] == [[0, 0], [10, 10]]
    assert splits["validation"].features["label"].names == ["cat", "dog"]


def test_labels_in_metadata_stay_as_they_are_written(tmp_path):
    fill(tmp_path, "a", "b", count=2)
    write_metadata(tmp_path / "a", "file_name,label", "0.png,007", "1.png,NA")
    write_metadata(tmp_path / "b", "file_name,label", "0.png,8", "1.png,8")
    dataset = load_image_dataset(train_dir=tmp_path, labels=True, train_val_split=0)["train"]
    assert dataset.features["label"].int2str(dataset["label"][:]) == ["007", "NA", "8", "8"]


def test_two_rows_of_one_image(tmp_path):
    fill(tmp_path, ".")
    lines = ["file_name,label", "0.png,x", "1.png,y", "2.png,x"]
    write_metadata(tmp_path, *lines, "./0.png,x")
    splits = load_image_dataset(train_dir=tmp_path, labels=True, train_val_split=0)
    assert splits.num_rows == {"train": 3}
    write_metadata(tmp_path, *lines, "0.png,y")
    with pytest.raises(ValueError, match="has two rows of one image that differ, .*0.png.* 'x'"):
        load_image_dataset(train_dir=tmp_path, labels=True)


def test_metadata_in_one_of_several_folders(tmp_path, caplog):
    fill(tmp_path, "a", "b", count=2)
    write_metadata(tmp_path / "a", "file_name,note", "0.png,x")
    dataset = load_image_dataset(train_dir=tmp_path, labels=True, train_val_split=0)["train"]
    assert dataset.features["label"].int2str(dataset["label"][:]) == ["a", "a", "b", "b"]
    assert "metadata.csv has no column of labels" in caplog.text
    write_metadata(tmp_path / "a", "file_name,label", "0.png,x", "1.png,y")
    with pytest.raises(ValueError, match="and 2 others, as .*b/0.png, have no metadata"):
        load_image_dataset(train_dir=tmp_path, labels=True)


# names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["file", "class", "root"])
def test_names_that_are_not_utf8(tmp_path, where):
    odd = os.fsdecode(b"caf\xe9")
    root = tmp_path / (odd if where == "root" else "set")
    fill(root, odd if where == "class" else "apple", "pear")
    if where == "file":
        os.rename(root / "apple" / "1.png", root / "apple" / f"{odd}.png")
    splits = load_image_dataset(train_dir=root, labels=True, train_val_split=0)
    dataset = splits["train"]
    assert sorted(greys(dataset)) == [0, 0, 10, 10, 20, 20]
    names = dataset.features["label"].names
    assert names == (["caf\\xe9", "pear"] if where == "class" else ["apple", "pear"])
    assert len(load_image_dataset(str(root), labels=True, train_val_split=0)["train"]) == 6


@pytest.mark.parametrize("name", ["[D] set (1)", "what? a*b", "ü 日本"])
def test_folders_of_any_name(tmp_path, name):
    fill(tmp_path / name, "[a]", "b?*")
    for source in ({"train_dir": tmp_path / name}, {"dataset_name": str(tmp_path / name)}):
        splits = load_image_dataset(**source, labels=True, train_val_split=0)
        assert splits["train"].features["label"].names == ["[a]", "b?*"]
        assert len(splits["train"]) == 6


def test_a_bad_image_with_such_a_name_is_listed(tmp_path):
    odd = os.fsdecode(b"caf\xe9.png")
    fill(tmp_path / "set", ".", count=150)
    (tmp_path / "set" / odd).write_bytes(b"no image")
    flags = [f"--train_dir={tmp_path}/set", "--train_val_split=0", *TINY_FLAGS]
    quick = ["--num_train_epochs=1", "--warmup_epochs=0", "--per_device_train_batch_size=151"]
    quick += ["--use_cpu=true", "--report_to=none", "--save_strategy=no", "--disable_tqdm=true"]
    run_script("run_mae.py", *flags, *quick, f"--output_dir={tmp_path}/run")
    listed = (tmp_path / "run" / "bad_images.tsv").read_text(encoding="utf-8")
    assert "caf\\xe9.png" in listed


def test_a_whole_run_on_such_names(tmp_path):
    """Where even the folder is called so: plan, card and recipe name it."""
    folder = tmp_path / os.fsdecode(b"d\xe9p")
    fill(folder, "a", os.fsdecode(b"\xe9"), count=4)
    quick = ["--num_train_epochs=1", "--warmup_epochs=0", "--per_device_train_batch_size=4"]
    quick += ["--use_cpu=true", "--report_to=none", "--save_strategy=no", "--disable_tqdm=true"]
    arguments = [f"--train_dir={folder}", *TINY_FLAGS, *quick, f"--output_dir={tmp_path}/run"]
    out = run_script("run_finetune.py", *arguments)
    assert "(d\\xe9p)" in out
    assert "d\\xe9p" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
