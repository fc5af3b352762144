"""Prepared sets of sources and folders that aren't as they should be, or not what they were."""

import io
from unittest.mock import Mock

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from helpers import encoded
from PIL import Image

from hf_mae.data.labels import describe_label_column
from hf_mae.data.preparation import prepare_dataset
from hf_mae.data.prepared_folder import alone
from hf_mae.data.shrinking import shrink_image
from hf_mae.data.sources import load_every_split


def write(file, size=(30, 40), file_format="jpeg"):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encoded(Image.new("RGB", size, (90, 60, 30)), file_format))


def prepare(output, **source):
    return prepare_dataset(output, shortest_edge=24, **source)


def with_metadata(folder, ending):
    for number in range(3):
        write(folder / f"{number}.jpg")
    rows = {"file_name": [f"{number}.jpg" for number in range(3)], "age": [7, 8, 9]}
    table = Dataset.from_dict(rows)
    file = folder / f"metadata{ending}"
    table.to_csv(file, index=False) if ending == ".csv" else table.to_json(file)


@pytest.mark.parametrize("name", ["photos", "./photos", "sub/../photos"])
@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_metadata_of_a_folder_with_a_relative_name(tmp_path, monkeypatch, ending, name):
    with_metadata(tmp_path / "photos", ending)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    found = load_every_split(train_dir=name)["train"]
    assert found["age"][:] == [7, 8, 9]
    prepare("out", train_dir=name)
    prepared = load_every_split("out")["train"]
    assert prepared["age"][:] == [7, 8, 9]


@pytest.mark.parametrize("file_format", ["parquet", "webdataset"])
@pytest.mark.parametrize("streaming", [False, True])
def test_no_column_holds_the_way_to_the_source(tmp_path, file_format, streaming):
    with_metadata(tmp_path / "photos", ".csv")
    write(tmp_path / "photos" / "masks" / "0.jpg")
    rows = {"image": ["0.jpg", "1.jpg"], "mask": ["masks/0.jpg", "masks/1.jpg"]}
    Dataset.from_dict(rows).to_csv(tmp_path / "photos" / "pairs.csv", index=False)
    table = str(tmp_path / "photos" / "pairs.csv")
    options = {"file_format": file_format}
    prepare(tmp_path / "pairs", dataset_name=table, streaming=streaming, **options)
    assert load_every_split(str(tmp_path / "pairs"))["train"]["mask"][:] == rows["mask"]
    if streaming:
        return
    (tmp_path / "photos" / "pairs.csv").unlink()
    prepare(tmp_path / "out", train_dir=tmp_path / "photos", **options)
    names = load_every_split(str(tmp_path / "out"))["train"]["file_name"][:]
    assert names == ["0.jpg", "1.jpg", "2.jpg"]


# what has changed, or is damaged -----------------------------------------------------------------


def table(file, count):
    file.parent.mkdir(parents=True, exist_ok=True)
    images = []
    for number in range(count):
        data = encoded(Image.new("RGB", (30, 40), (number * 9, 60, 30)), "jpeg")
        images.append({"bytes": data, "path": f"{number}.jpg"})
    features = Features({"image": ImageFeature()})
    Dataset.from_dict({"image": images}, features=features).to_parquet(file)


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_stream_of_other_files_is_refused(tmp_path, monkeypatch, is_finished):
    source = tmp_path / "source"
    table(source / "train.parquet", 6)
    options = {"dataset_name": str(source), "streaming": True, "images_per_shard": 2}
    if is_finished:
        prepare(tmp_path / "out", **options)
        assert prepare(tmp_path / "out", **options).was_finished
    else:
        stop(tmp_path / "out", monkeypatch, 3, **options)
    table(source / "train.parquet", 5)
    with pytest.raises(ValueError, match="out is of another preparation: the images or their"):
        prepare(tmp_path / "out", **options)


def stop(output, monkeypatch, after, **options):
    """Prepares a set until so many images are read."""
    update = Mock(side_effect=[None] * after + [KeyboardInterrupt])
    with monkeypatch.context() as patch:
        patch.setattr("tqdm.tqdm.update", update)
        with pytest.raises(KeyboardInterrupt):
            prepare(output, **options)


@pytest.fixture
def photos(tmp_path):
    for number in range(6):
        write(tmp_path / "photos" / f"{number}.jpg")
    return tmp_path / "photos"


def content(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.parametrize("file_format", ["parquet", "webdataset"])
def test_a_finished_set_that_is_damaged_is_refused(tmp_path, photos, file_format):
    out = tmp_path / "out"
    options = {"train_dir": photos, "images_per_shard": 2, "file_format": file_format}
    prepare(out, **options)
    shard = sorted((out / "data").iterdir())[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{shard.name} has .* bytes, and had .*; delete"):
        prepare(out, **options)
    shard.unlink()
    with pytest.raises(ValueError, match=f"{shard.name} is missing, which was finished; delete"):
        prepare(out, **options)


@pytest.mark.parametrize("damage", ["shard missing", "shard cut", "note empty"])
def test_damaged_shards_of_a_run_that_stopped_are_written_anew(
    tmp_path, photos, monkeypatch, caplog, damage
):
    options = {"train_dir": photos, "images_per_shard": 2}
    prepare(tmp_path / "whole", **options)
    out = tmp_path / "out"
    stop(out, monkeypatch, 6, **options)
    shard = out / "data" / "train-00000.parquet"
    if damage == "note empty":
        (out / ".preparing" / "train-00000.json").write_text("")
    elif damage == "shard cut":
        shard.write_bytes(shard.read_bytes()[:9])
    else:
        shard.unlink()
    prepare(out, **options)
    assert "train-00000" in caplog.text
    assert "written anew" in caplog.text
    assert content(out) == content(tmp_path / "whole")


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_damaged_beginning_is_named(tmp_path, photos, monkeypatch, text):
    out = tmp_path / "out"
    stop(out, monkeypatch, 2, train_dir=photos)
    (out / ".preparing" / "begun.json").write_text(text)
    with pytest.raises(ValueError, match=r"begun.json is damaged.*; delete output_dir .*out"):
        prepare(out, train_dir=photos)


def test_one_run_at_a_time(tmp_path, photos):
    out = tmp_path / "out"
    with alone(out), pytest.raises(ValueError, match="out is being written by another run; wait"):
        prepare(out, train_dir=photos)
    prepare(out, train_dir=photos)
    assert not (out / ".preparing").exists()
    assert prepare(out, train_dir=photos).was_finished


# names and sizes ---------------------------------------------------------------------------------


def test_names_of_several_lines_stay_one(tmp_path, photos):
    (photos / "a\tb\nc.jpg").write_bytes(b"no image")
    prepare(tmp_path / "out", train_dir=photos)
    lines = (tmp_path / "out" / "bad_images.tsv").read_text().splitlines()
    assert [line.split("\t")[2] for line in lines] == [r"a\tb\nc.jpg"]
    assert describe_label_column(ClassLabel(names=["a\nb", "c"])) == r"2 classes: a\nb, c"


def test_a_picture_longer_than_jpeg_can_say(capfd):
    data = encoded(Image.new("RGB", (70000, 30), (90, 60, 30)), "png")
    shrunk = shrink_image({"bytes": data, "path": None}, shortest_edge=29, quality=90)
    assert shrunk.ending == ".png"
    assert Image.open(io.BytesIO(shrunk.data)).size == (29 * 70000 // 30, 29)
    array = np.zeros((30, 70000, 3), np.uint8)
    assert shrink_image(array, shortest_edge=29, quality=90).ending == ".png"
    assert capfd.readouterr().err == ""


def test_kinds_of_images_in_tar_shards_are_said(tmp_path, photos):
    out = tmp_path / "out"
    prepared = prepare(out, train_dir=photos, file_format="webdataset")
    assert prepared.splits["train"].describe_mixture() is None
    write(photos / "6.png", file_format="png", size=(20, 20))
    prepared = prepare(tmp_path / "mixed", train_dir=photos, file_format="webdataset")
    mixture = prepared.splits["train"].describe_mixture()
    assert mixture is not None
    assert mixture.startswith(".jpg, .png files in .tar shards")
    assert mixture in (tmp_path / "mixed" / "README.md").read_text()
    found = load_every_split(str(tmp_path / "mixed"))["train"]
    assert [row["image"]["path"] for row in found][-1].endswith(".png")
    assert all(row["image"]["bytes"] for row in found)
    table = prepare(tmp_path / "table", train_dir=photos)
    assert table.splits["train"].describe_mixture() is None
