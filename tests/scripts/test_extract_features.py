"""scripts/extract_features.py as its users start it: files, labels, faults, going on."""

import csv
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import load_dataset
from helpers import kill_tree, run_script, script_command, script_environment, script_error
from PIL import Image
from tiny_models import make, save

from hf_mae import extract_features, load_encoder, load_image_dataset


SCRIPT = "extract_features.py"


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    return save(make("grey pretrain"), tmp_path_factory.mktemp("grey") / "model")


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    return save(make("mean"), tmp_path_factory.mktemp("colour") / "model")


@pytest.fixture(scope="module")
def digits(grey, tmp_path_factory):
    """The features of 600 digits, written by one process, and all beside them."""
    folder = tmp_path_factory.mktemp("digits")
    images = load_image_dataset("digits", train_val_split=0, labels=True)["train"]
    images.select(range(600)).save_to_disk(folder / "images")
    arguments = ["--model_name_or_path", grey, "--dataset_name", folder / "images", "--use_cpu"]
    stdout = run_script(
        *(SCRIPT, *arguments, "--output", folder / "new" / "digits.parquet"),
        *("--index", folder / "digits.faiss", "--picture", folder / "pictures"),
    )
    assert f"{folder}/new/digits.parquet  mean features (600, 48), " in stdout
    return folder, arguments


def read(path):
    return load_dataset("parquet", data_files=str(path), split="train", cache_dir=path.parent)


def test_a_table_holds_names_labels_and_features(digits, grey):
    folder, _ = digits
    table = read(folder / "new" / "digits.parquet")
    wanted = load_image_dataset("digits", train_val_split=0, labels=True)["train"].select(
        range(600)
    )
    assert table.features["label"] == wanted.features["label"]
    assert table["label"][:] == wanted["label"][:]
    found = extract_features(*load_encoder(grey), wanted.select(range(300)))
    assert found.features == table.features
    features = table.with_format("numpy")["features"][:]
    assert features.shape == (600, 48)
    np.testing.assert_allclose(features[:300], found.with_format("numpy")["features"][:], atol=1e-5)
    frame = pd.read_parquet(folder / "new" / "digits.parquet")
    assert frame["name"][:2].tolist() == ["row 0", "row 1"]
    assert frame["label_name"].tolist() == [str(label) for label in wanted["label"]]
    np.testing.assert_array_equal(np.stack(frame["features"]), features)
    assert {path.name for path in (folder / "new").glob("digits*")} == {"digits.parquet"}
    names = {"patches.png", "map.png", "neighbours.png"}
    assert {path.name for path in (folder / "pictures").iterdir()} == names


def test_the_index_finds_the_nearest(digits):
    import faiss

    folder, _ = digits
    table = read(folder / "new" / "digits.parquet")
    features = torch.tensor(table.with_format("numpy")["features"][:])
    features = torch.nn.functional.normalize(features, dim=1)
    cosines, numbers = (features[:20] @ features.T).topk(7, dim=1)
    index = faiss.read_index(str(folder / "digits.faiss"))
    found_cosines, found = index.search(features[:20].numpy(), 7)
    np.testing.assert_allclose(found_cosines, cosines, atol=1e-5)
    assert (found == numbers.numpy()).mean() > 0.95  # but for ties
    table.load_faiss_index("features", folder / "digits.faiss")
    scores, near = table.get_nearest_examples("features", features[5].numpy(), k=2)
    assert near["name"][0] == "row 5"
    assert scores[0] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", ["mean", "patches"])
def test_an_array_equals_a_table_on_two_processes(kind, digits, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder, arguments = digits
    table = folder / "new" / "digits.parquet"
    if kind == "patches":
        table = tmp_path / "one.parquet"
        run_script(SCRIPT, *arguments, "--features=patches", "--output", table)
    arguments = [*arguments, "--features", kind]
    two = tmp_path / "two.parquet"
    stdout = run_script(SCRIPT, *arguments, "--output", two, processes=2)
    assert stdout.count("features (600, ") == 1
    assert two.read_bytes() == table.read_bytes()
    run_script(SCRIPT, *arguments, "--num_workers=1", "--output", tmp_path / "digits.npy")
    array = np.load(tmp_path / "digits.npy", mmap_mode="r")
    assert array.shape == ((600, 48) if kind == "mean" else (600, 16, 48))
    np.testing.assert_array_equal(array, read(table).with_format("numpy")["features"][:])
    with (tmp_path / "digits.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[:3] == [["row", "name", "label"], ["0", "row 0", "0"], ["1", "row 1", "1"]]
    assert len(rows) == 601


def test_a_folder_with_bad_images(colour, photo_folder, tmp_path):
    for number, name in enumerate(["b/1.png", "b/2.png", "a/1.png", "a/2.png", "b/3.png"]):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (50 * number, 100, 0)).save(path)
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / "photos" / name).write_bytes(b"\x89PNG no picture")
    arguments = ["--model_name_or_path", colour, "--use_cpu", "--output", tmp_path / "f.npy"]
    status, stdout, stderr = run_script(
        SCRIPT, *arguments, "--train_dir", tmp_path / "photos", check=False
    )
    assert status == 1
    assert "features (3, 48)" in stdout
    for name in ("a/1.png", "b/2.png"):
        assert f"extract_features.py: {tmp_path}/photos/{name} is left out: " in stderr
    assert stderr.endswith("extract_features.py: 2 of 5 images left out\n")
    assert "Traceback" not in stderr
    lines = (tmp_path / "f.csv").read_text().splitlines()
    wanted = [f"0,{tmp_path}/photos/a/2.png,a", f"1,{tmp_path}/photos/b/1.png,b"]
    assert lines == ["row,name,label", *wanted, f"2,{tmp_path}/photos/b/3.png,b"]
    # by name they have no labels, and come in the order that is given
    names = [tmp_path / "photos" / name for name in ("b/3.png", "b/2.png", "a")]
    status, _, stderr = run_script(SCRIPT, *arguments, *names, check=False)
    assert (status, stderr.count(" is left out: ")) == (1, 2)
    lines = (tmp_path / "f.csv").read_text().splitlines()
    wanted = [f"0,{tmp_path}/photos/b/3.png", f"1,{tmp_path}/photos/a/2.png"]
    assert lines == ["row,name", *wanted]
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "f.npy", "f.csv"}
    # a folder without classes has no labels, which is said
    flat = tmp_path / "photos" / "b"
    (flat / "2.png").unlink()
    status, _, stderr = run_script(SCRIPT, *arguments, "--train_dir", flat, check=False)
    assert status == 0
    assert "there are no labels: " in stderr


def test_it_is_killed_and_goes_on(digits, tmp_path):
    folder, arguments = digits
    output = tmp_path / "digits.parquet"
    command = script_command(SCRIPT, *arguments, "--batch_size=8", "--output", output)
    process = subprocess.Popen(command, env=script_environment(), stderr=subprocess.DEVNULL)
    first = tmp_path / "digits.parquet.parts" / "000001.parquet"
    for _ in range(6000):
        if first.exists() or process.poll() is not None:
            break
        time.sleep(0.01)
    kill_tree(process)
    assert first.exists()
    assert not output.exists()
    # another model's parts would be other answers
    other = save(make("grey encoder"), tmp_path / "other")
    refused = [other if argument == arguments[1] else argument for argument in arguments]
    status, _, stderr = run_script(SCRIPT, *refused, "--output", output, check=False)
    assert status == 1
    assert "holds parts of answers with other model; remove it" in stderr
    status, _, stderr = run_script(SCRIPT, *arguments, "--output", output, check=False)
    assert status == 0, stderr
    assert "of 600 images" in stderr
    found, wanted = read(output), read(folder / "new" / "digits.parquet")
    for column in ("name", "label"):
        assert found[column][:] == wanted[column][:]
    found, wanted = (table.with_format("numpy")["features"][:] for table in (found, wanted))
    np.testing.assert_allclose(found, wanted, atol=1e-5)  # of batches of 8, some of them
    assert list(tmp_path.glob("*.parts")) == []


def test_what_is_refused(grey, tmp_path, monkeypatch):
    output = ["--output", tmp_path / "f.parquet", "--use_cpu"]
    model = ["--model_name_or_path", grey]
    digits = "--dataset_name=digits"
    mine = tmp_path / "mine.csv"
    mine.write_text("file_name,label\na.png,0\n")
    array = ["--output", tmp_path / "mine.npy", "--use_cpu"]
    missing = ["--model_name_or_path", tmp_path / "no" / "model"]
    for arguments, message in {
        # before the model is loaded
        (*missing, digits, "--output", "f.csv"): "f.csv must end in .parquet or .npy",
        (*missing, digits, *output, "--index=f", "--features=patches"): "--index has a vector",
        (*missing, digits, *output, "--index", tmp_path): "is a folder; name a file",
        (*missing, digits, *output, "--picture", __file__): "is a file; name a folder",
        (*missing, *output): "give either IMAGE …, or --train_dir, or --dataset_name",
        (*missing, digits, "a.png", *output): "give either IMAGE",
        (*missing, "a.png", "--split=train", *output): "--split is for --dataset_name",
        (*missing, digits, *output): "is neither a folder here nor a Hub id",
        # what would be written over
        (
            *missing,
            digits,
            *output,
            "--index",
            tmp_path / "f.parquet",
        ): "is read or written already",
        (*missing, "--dataset_name", mine, *array): "mine.csv, where the names",
        (
            *missing,
            "--dataset_name",
            mine,
            "--output",
            mine.with_suffix(".parquet"),
            "--index",
            mine,
        ): ("mine.csv is read or written already"),
        (*missing, digits, "--output", "/proc/f.npy"): "nothing can be written in /proc",
        (*model, tmp_path / "gone.png", *output): "none of the 1 images can be read",
        (*model, digits, "--split=test", *output): "split is 'test'; the data set has train",
        (*model, digits, "--label_column=kind", *output): "label_column is 'kind'; the data set",
        (*model, "--train_dir", tmp_path / "no", *output): "is not a folder",
        (*model, tmp_path, *output): "holds no images",
    }.items():
        assert message in script_error(SCRIPT, *arguments), arguments
    monkeypatch.setitem(sys.modules, "faiss", None)
    arguments = (*missing, digits, *output, "--index", tmp_path / "f.faiss")
    assert "pip install 'hf-mae[search]'" in script_error(SCRIPT, *arguments)
    assert not list(tmp_path.glob("f.*"))
    assert mine.read_text() == "file_name,label\na.png,0\n"
