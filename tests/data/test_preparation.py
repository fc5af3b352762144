"""Sets of every kind, prepared: what was in them is still there, whoever reads it."""

import csv
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import Array3D, ClassLabel, Dataset, DatasetDict, Features, List, Value
from helpers import decode, dicom, encoded
from PIL import Image

from hf_mae.data.preparation import prepare_dataset
from hf_mae.data.sources import load_every_split, load_image_dataset
from hf_mae.data.streaming import load_image_stream


EDGE = 24


def picture(number, size=(50, 40)):
    """A picture of its own: its number, and 20, is its red."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = number + 20, np.linspace(0, 255, size[0])
    return Image.fromarray(pixels)


def jpeg(number, **options):
    return encoded(picture(number, **options), "jpeg", quality=95, subsampling=0)


def write(file, number):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(jpeg(number))


def reds(dataset):
    """The numbers of the pictures, from their pixels."""
    numbers = []
    for row in dataset:
        pixels = decode(row["image"], 3)
        assert min(pixels.shape[:2]) == EDGE
        numbers.append(round(float(pixels[..., 0].mean())) - 20)
    return numbers


def names(dataset):
    return [row["image"]["path"] for row in dataset]


def prepare(output, **source):
    source.setdefault("shortest_edge", EDGE)
    return prepare_dataset(output, **source)


def read(folder):
    """Its splits by datasets' own loader, images undecoded."""
    loaded = datasets.load_dataset(str(folder))
    return {
        str(name): split.cast_column("image", datasets.Image(decode=False))
        for name, split in loaded.items()
    }


def rows_of_numbers(numbers, **columns):
    images = [{"bytes": jpeg(number), "path": f"{number}.jpg"} for number in numbers]
    return {"image": images, **columns}


# sources -----------------------------------------------------------------------------------------


def test_a_folder_of_classes_and_splits(tmp_path):
    source = tmp_path / "source"
    for number, (split, name) in enumerate(
        [("train", "cat"), ("train", "owl"), ("val", "owl"), ("test", "cat")]
    ):
        for i in range(2):
            write(source / split / name / f"{i} 100%é.v2.jpg", number * 20 + i * 10)
    prepared = prepare(tmp_path / "out", train_dir=source)
    assert {name: split.images for name, split in prepared.splits.items()} == {
        "train": 4,
        "validation": 2,
        "test": 2,
    }
    for loaded in (read(tmp_path / "out"), load_every_split(str(tmp_path / "out"))):
        assert reds(loaded["train"]) == [0, 10, 20, 30]
        assert names(loaded["test"]) == ["test/cat/0 100%é.v2.jpg", "test/cat/1 100%é.v2.jpg"]
        for split in loaded.values():
            assert split.features["label"] == ClassLabel(names=["cat", "owl"])
        assert loaded["validation"]["label"][:] == [1, 1]
    original = load_image_dataset(train_dir=source, labels=True)
    found = load_image_dataset(str(tmp_path / "out"), labels=True)
    assert found.num_rows == original.num_rows
    for split, dataset in original.items():
        assert found[split]["label"][:] == dataset["label"][:]


def test_a_split_without_labels_stays_and_is_left_aside_as_before(tmp_path, caplog):
    for i in range(4):
        write(tmp_path / "source" / "train" / f"class {i % 2}" / f"{i}.jpg", i)
        write(tmp_path / "source" / "test" / f"{i}.jpg", 50 + i)
    prepare(tmp_path / "out", train_dir=tmp_path / "source")
    loaded = read(tmp_path / "out")
    assert loaded["test"]["label"][:] == [None] * 4
    assert load_image_dataset(str(tmp_path / "out")).num_rows == {"train": 4, "validation": 4}
    splits = load_image_dataset(str(tmp_path / "out"), labels=True)
    assert splits.num_rows == {"train": 2, "validation": 2}
    assert "left aside, for its column 'label' is empty" in caplog.text


@pytest.mark.parametrize("file_format", ["parquet", "webdataset"])
def test_metadata_of_a_folder(tmp_path, file_format):
    source = tmp_path / "source"
    for i in range(3):
        write(source / f"{'ab'[i % 2]}" / f"{i}.jpg", i * 10)
    lines = "file_name,age,code\na/0.jpg,0.5,007\nb/1.jpg,1.25,08\na/2.jpg,2.0,9\n"
    (source / "metadata.csv").write_text(lines)
    (source / "notes.txt").write_text("x")
    prepared = prepare(tmp_path / "out", train_dir=source, file_format=file_format)
    assert prepared.left_out == ["1 file left out: 1 .txt"]
    loaded = load_every_split(str(tmp_path / "out"))["train"]
    assert reds(loaded) == [0, 20, 10]
    assert loaded["code"][:] == ["007", "9", "08"]
    by_age = load_image_dataset(
        str(tmp_path / "out"), label_column="age", labels=True, train_val_split=0
    )
    assert by_age["train"]["label"][:] == [0.5, 2.0, 1.25]
    by_class = load_image_dataset(
        str(tmp_path / "out"), label_column="label", labels=True, train_val_split=0
    )
    assert by_class["train"].features["label"].names == ["a", "b"]
    assert by_class["train"]["label"][:] == [0, 0, 1]


def test_a_table_of_paths(tmp_path):
    with (tmp_path / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "split", "cat", "dog"])
        for i in range(4):
            write(tmp_path / "photos" / f"{i}.jpg", i * 10)
            table.writerow([f"photos/{i}.jpg", "train" if i < 3 else "val", i % 2, 1])
    prepared = prepare(
        tmp_path / "out", dataset_name=str(tmp_path / "table.csv"), label_column=["cat", "dog"]
    )
    assert list(prepared.splits) == ["train", "validation"]
    loaded = read(tmp_path / "out")
    assert names(loaded["train"]) == ["photos/0.jpg", "photos/1.jpg", "photos/2.jpg"]
    assert loaded["train"].features["label"] == List(ClassLabel(names=["cat", "dog"]))
    assert loaded["train"]["label"][:] == [[1], [0, 1], [1]]
    assert reds(loaded["validation"]) == [30]


KINDS = {
    "classes": (ClassLabel(names=["owl", "cat"]), [0, 1, 1]),
    "several": (List(ClassLabel(names=["owl", "cat", "ant"])), [[0, 2], [], [1]]),
    "values": (Value("float32"), [0.25, -1.5, 7.0]),
    "texts": (Value("string"), ["NA", "007", "é"]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file_format", ["parquet", "webdataset"])
def test_labels_of_every_kind(tmp_path, kind, file_format):
    """Here of tables with embedded images, and of what save_to_disk has saved."""
    feature, labels = KINDS[kind]
    features = Features({"image": datasets.Image(), "label": feature, "id": Value("int64")})
    rows = rows_of_numbers([10, 20, 30], label=labels, id=[7, 8, 9])
    dataset = Dataset.from_dict(rows, features=features)
    (tmp_path / "table").mkdir()
    dataset.to_parquet(tmp_path / "table" / "part.parquet")
    DatasetDict({"train": dataset, "extra": dataset}).save_to_disk(tmp_path / "saved")
    for source in ("table", "saved"):
        out = tmp_path / f"{source} out"
        prepare(out, dataset_name=str(tmp_path / source), file_format=file_format)
        original = load_image_dataset(
            str(tmp_path / source), label_column="label", labels=True, train_val_split=0
        )
        found = load_image_dataset(str(out), label_column="label", labels=True, train_val_split=0)
        if file_format == "parquet":
            assert read(out)["train"].features["label"] == feature
            assert found["train"].features["label"] == original["train"].features["label"]
        assert said(found["train"]) == said(original["train"])
        loaded = load_every_split(str(out))
        assert list(loaded) == (["train"] if source == "table" else ["train", "extra"])
        for split in loaded.values():
            assert split["id"][:] == [7, 8, 9]
            assert reds(split) == [10, 20, 30]


def said(dataset):
    """Labels by their names."""
    feature = dataset.features["label"]
    if isinstance(feature, List):
        return [{feature.feature.names[number] for number in row} for row in dataset["label"][:]]
    if isinstance(feature, ClassLabel):
        return [feature.names[number] for number in dataset["label"][:]]
    return dataset["label"][:]


def test_tar_shards(tmp_path):
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for i, ending in enumerate(["jpg", "png", "jpg"]):
            data = jpeg(i * 10) if ending == "jpg" else encoded(picture(i * 10))
            for name, content in ((f"x/{i}.{ending}", data), (f"x/{i}.cls", b"%d" % (i % 2))):
                about = tarfile.TarInfo(name)
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))
    for streaming in (False, True):
        out = tmp_path / f"out {streaming}"
        prepare(out, dataset_name=str(tmp_path / "train-0.tar"), streaming=streaming)
        loaded = read(out)["train"]
        assert names(loaded) == ["x/0.jpg", "x/1.png", "x/2.jpg"]
        assert list(map(int, loaded["cls"][:])) == [0, 1, 0]
        assert reds(loaded) == [0, 10, 20]


def test_digits_stay_as_they_are(tmp_path):
    prepare(tmp_path / "out", dataset_name="digits", shortest_edge=32)
    found = load_image_dataset(str(tmp_path / "out"), labels=True)
    original = load_image_dataset("digits", labels=True)
    assert found.num_rows == original.num_rows
    assert found["train"].features["label"] == original["train"].features["label"]
    for number in (0, 700, 1706):
        assert found["train"][number] == original["train"][number]


def test_arrays_and_deep_files(tmp_path):
    bands = np.arange(40 * 50 * 5).reshape(40, 50, 5).astype(np.float32)
    features = Features({"image": Array3D((40, 50, 5), "float32"), "label": Value("int64")})
    dataset = Dataset.from_dict({"image": [bands, bands + 1], "label": [1, 2]}, features=features)
    dataset.save_to_disk(tmp_path / "arrays")
    prepared = prepare(tmp_path / "out", dataset_name=str(tmp_path / "arrays"))
    assert prepared.splits["train"].special == 2
    first = load_every_split(str(tmp_path / "out"))["train"][0]["image"]
    shrunk = np.load(io.BytesIO(first["bytes"]))
    assert (shrunk.shape, shrunk.dtype) == ((24, 30, 5), np.float32)

    scans = tmp_path / "scans"
    scans.mkdir()
    deep = np.linspace(0, 65535, 2000).reshape(40, 50).astype(np.uint16)
    Image.fromarray(deep).save(scans / "0.png")
    Image.fromarray(deep).save(scans / "1.tif")
    (scans / "2.dcm").write_bytes(dicom(deep // 16, 12))
    np.save(scans / "3.npy", deep)
    prepare(tmp_path / "deep", train_dir=scans)
    values = []
    for row in load_every_split(str(tmp_path / "deep"))["train"]:
        values.append(decode(row["image"], 1))
    for other in values:
        assert other.shape == (24, 30, 1)
    assert np.array_equal(values[0], values[1])
    assert np.array_equal(values[0], values[3])
    assert np.abs(values[2] - values[0]).max() < 0.2  # by the 12 bits that it has


def test_names_that_are_no_utf8(tmp_path):
    source = os.fsencode(tmp_path / "source")
    os.mkdir(source)
    for name in (b"caf\xe9.jpg", b"caf.jpg"):
        Path(os.fsdecode(source + b"/" + name)).write_bytes(jpeg(90))
    for file_format in ("parquet", "webdataset"):
        out = tmp_path / file_format
        prepare(out, train_dir=os.fsdecode(source), file_format=file_format)
        loaded = load_every_split(str(out))["train"]
        found = names(loaded) if file_format == "parquet" else loaded["file_name"][:]
        assert found == ["caf.jpg", "caf\\xe9.jpg"]


def test_keys_of_names_that_differ_in_their_endings(tmp_path):
    (tmp_path / "source").mkdir()
    for name in ("a.jpg", "a.png", "a.b.jpg", "a_b.jpg"):
        (tmp_path / "source" / name).write_bytes(jpeg(5))
    prepare(tmp_path / "out", train_dir=tmp_path / "source", file_format="webdataset")
    with tarfile.open(tmp_path / "out" / "data" / "train-00000.tar") as tar:
        images = [name for name in tar.getnames() if not name.endswith(".json")]
    assert images == [
        "a_b-000000000.jpg",
        "a-000000001.jpg",
        "a-000000002.jpg",
        "a_b-000000003.jpg",
    ]


def test_classes_that_a_later_split_alone_has(tmp_path, caplog):
    for split, name in (("train", "cat"), ("train", "owl"), ("val", "ant"), ("val", "owl")):
        write(tmp_path / "source" / split / name / "0.jpg", 3)
    prepare(tmp_path / "out", train_dir=tmp_path / "source")
    loaded = read(tmp_path / "out")
    assert loaded["train"].features["label"].names == ["cat", "owl", "ant"]
    assert loaded["validation"]["label"][:] == [2, 1]
    assert "1 classes of the column 'label' aren't in the first split: ant" in caplog.text


def test_a_validation_dir_beside(tmp_path):
    for i in range(2):
        write(tmp_path / "a" / f"class {i}" / "x.jpg", i * 10)
        write(tmp_path / "b" / f"class {i}" / "y.jpg", 50 + i * 10)
    prepare(tmp_path / "out", train_dir=tmp_path / "a", validation_dir=tmp_path / "b")
    loaded = read(tmp_path / "out")
    assert names(loaded["validation"]) == ["class 0/y.jpg", "class 1/y.jpg"]
    assert reds(loaded["validation"]) == [50, 60]
    assert loaded["validation"]["label"][:] == [0, 1]


def test_a_prepared_set_is_streamed(tmp_path):
    for i in range(5):
        write(tmp_path / "source" / f"{i}.jpg", i * 10)
    for file_format in ("parquet", "webdataset"):
        out = tmp_path / file_format
        options = {"file_format": file_format, "images_per_shard": 2}
        prepare(out, train_dir=tmp_path / "source", **options)
        train, validation, rows = load_image_stream(str(out))
        assert train.num_shards == 3
        assert reds(train) == [0, 10, 20, 30, 40]
        assert validation is None
        assert rows == (5 if file_format == "parquet" else None)


def test_other_columns_of_files_are_left_out_and_said(tmp_path, caplog):
    features = Features({"image": datasets.Image(), "mask": datasets.Image()})
    rows = rows_of_numbers([10], mask=[{"bytes": jpeg(1), "path": None}])
    Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "source")
    prepare(tmp_path / "out", dataset_name=str(tmp_path / "source"), image_column="image")
    assert "the columns mask are left out" in caplog.text
    assert list(read(tmp_path / "out")["train"].features) == ["image"]


# the same bytes, whatever happens ----------------------------------------------------------------


@pytest.fixture
def source(tmp_path):
    """Twelve images of two classes, two of them bad."""
    folder = tmp_path / "source"
    for i in range(12):
        write(folder / f"class {i % 2}" / f"{i:02d}.jpg", i * 10)
    (folder / "class 0" / "04.jpg").write_bytes(jpeg(0)[:400])
    (folder / "class 1" / "11.jpg").write_bytes(b"no image")
    return folder


def content(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(Path(folder).rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize("file_format", ["parquet", "webdataset"])
def test_any_number_of_processes_writes_the_same_bytes(tmp_path, source, file_format):
    options = {"train_dir": source, "file_format": file_format, "images_per_shard": 5}
    one = prepare(tmp_path / "one", **options)
    two = prepare(tmp_path / "two", num_proc=2, **options)
    assert one.splits == two.splits
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert len(list((tmp_path / "one" / "data").iterdir())) == 3
    lines = (tmp_path / "one" / "bad_images.tsv").read_text().splitlines()
    assert [line.split("\t")[:3] for line in lines] == [
        ["train", "2", "class 0/04.jpg"],
        ["train", "11", "class 1/11.jpg"],
    ]
    assert one.splits["train"].images == 10
    assert one.splits["train"].source_bytes > one.splits["train"].bytes


class StopError(Exception):
    pass


@pytest.mark.parametrize("file_format", ["parquet", "webdataset"])
@pytest.mark.parametrize("after", [3, 5, 8, 12])
def test_what_stopped_goes_on(tmp_path, source, monkeypatch, file_format, after):
    options = {"train_dir": source, "file_format": file_format, "images_per_shard": 4}
    prepare(tmp_path / "whole", **options)
    monkeypatch.setattr("tqdm.tqdm.update", _stop_after(after))
    with pytest.raises(StopError):
        prepare(tmp_path / "out", **options)
    assert not (tmp_path / "out" / "preparation.json").exists()
    monkeypatch.undo()
    seen = []
    monkeypatch.setattr("tqdm.tqdm.update", lambda bar, number: seen.append(number))
    prepared = prepare(tmp_path / "out", **options)
    assert seen[0] == (after - 1) // 4 * 4  # the images of finished shards
    assert not prepared.was_finished
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    again = prepare(tmp_path / "out", **options)
    assert again.was_finished
    assert again.splits["train"].images == prepared.splits["train"].images


def _stop_after(count):
    done = [0]

    def update(bar, number):
        done[0] += number
        if done[0] == count:
            raise StopError

    return update


def test_a_stream_goes_on(tmp_path, monkeypatch):
    rows = rows_of_numbers(range(9), label=list(range(9)))
    features = Features({"image": datasets.Image(), "label": Value("int64")})
    (tmp_path / "source").mkdir()
    table = Dataset.from_dict(rows, features=features)
    table.to_parquet(tmp_path / "source" / "train.parquet")
    options = {"dataset_name": str(tmp_path / "source"), "streaming": True, "images_per_shard": 3}
    prepare(tmp_path / "whole", **options)
    assert read(tmp_path / "whole")["train"]["label"][:] == list(range(9))
    monkeypatch.setattr("tqdm.tqdm.update", _stop_after(5))
    with pytest.raises(StopError):
        prepare(tmp_path / "out", **options)
    monkeypatch.undo()
    prepare(tmp_path / "out", **options)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


# refusals ----------------------------------------------------------------------------------------


def test_another_preparation_in_the_same_folder(tmp_path, source):
    out = tmp_path / "out"
    prepare(out, train_dir=source)
    with pytest.raises(ValueError, match="shortest_edge is 30, and was 24; name another folder"):
        prepare(out, train_dir=source, shortest_edge=30)
    shutil.copytree(source, tmp_path / "other")
    with pytest.raises(ValueError, match="train_dir is .*other, and was .*source"):
        prepare(out, train_dir=tmp_path / "other")
    write(source / "class 0" / "02.jpg", 200)
    with pytest.raises(ValueError, match="the images or their labels have changed since"):
        prepare(out, train_dir=source)


def test_places_that_are_refused(tmp_path, source):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    cases = {
        source / "out": "lies in .*source, which is read",
        source: "lies in .*source, which is read",
        tmp_path / "full": "isn't empty; name a new folder",
        tmp_path / "file": "is a file; name a folder",
        tmp_path / "a[1]": "brackets",
    }
    for output, message in cases.items():
        with pytest.raises(ValueError, match=message):
            prepare(output, train_dir=source)
    assert not (tmp_path / "a[1]").exists()


def test_values_that_are_refused(tmp_path, source):
    cases = [
        ({"shortest_edge": 0}, "shortest_edge is 0; it must be at least 1"),
        ({"num_proc": 10**6}, "num_proc is 1000000; it must be at most 4,096"),
        ({"quality": 101}, "quality is 101; it must be from 1 to 100"),
        ({"file_format": "zip"}, "file_format is 'zip'; it must be one of parquet, webdataset"),
        ({"num_proc": 0}, "num_proc is 0"),
        ({"dataset_name": "digits"}, "give either dataset_name or train_dir"),
        ({"streaming": True}, "train_dir can't be taken from a stream"),
        ({"label_column": ["cat"]}, "label_column is 'cat'"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            prepare(tmp_path / "out", **{"train_dir": source, **options})
    with pytest.raises(ValueError, match="give dataset_name, train_dir or validation_dir"):
        prepare(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_of_which_none_can_be_read(tmp_path):
    (tmp_path / "source").mkdir()
    for i in range(3):
        (tmp_path / "source" / f"{i}.jpg").write_bytes(b"no")
    with pytest.raises(ValueError, match="none of the 3 images can be read, as 0.jpg: "):
        prepare(tmp_path / "out", train_dir=tmp_path / "source")


def test_columns_of_different_kinds(tmp_path):
    one = Dataset.from_dict(rows_of_numbers([10], about=[[1]]))
    other = Dataset.from_dict(rows_of_numbers([10], about=["x"]))
    DatasetDict({"train": one, "test": other}).save_to_disk(tmp_path / "source")
    with pytest.raises(ValueError, match="the column 'about' is .* in one split and .* in another"):
        prepare(tmp_path / "out", dataset_name=str(tmp_path / "source"), image_column="image")


def test_the_folder_says_what_it_holds(tmp_path, source):
    prepare(tmp_path / "out", train_dir=source)
    about = json.loads((tmp_path / "out" / "preparation.json").read_text())
    assert about["facts"]["shortest_edge"] == EDGE
    assert about["splits"]["train"]["images"] == 10
    assert "- train: 10 images" in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out" / ".preparing").exists()
