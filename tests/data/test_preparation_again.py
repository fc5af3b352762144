"""Prepared sets of sources and folders that aren't as they should be, or not what they were."""

import os

import pytest
from datasets import Dataset
from helpers import encoded
from PIL import Image

from hf_mae.data.preparation import prepare_dataset
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
