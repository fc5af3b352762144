"""MNIST's files become a data set, whole or a few images of each class."""

import gzip

import numpy as np
import pytest
from datasets import load_from_disk
from helpers import run_script

from hf_mae.data.sources import load_image_dataset


@pytest.fixture
def idx_folder(tmp_path):
    """Sixty digits and twenty in MNIST's format; one file gzipped, the others not."""
    folder = tmp_path / "idx"
    folder.mkdir()
    rng = np.random.default_rng(0)
    arrays = {}
    for prefix, number in (("train", 60), ("t10k", 20)):
        images = rng.integers(0, 256, (number, 28, 20), dtype=np.uint8)
        labels = (np.arange(number) % 3).astype(np.uint8)
        arrays[prefix] = images, labels
        header = b"\0\0\x08\x03" + np.array([number, 28, 20], ">u4").tobytes()
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = b"\0\0\x08\x01" + np.array([number], ">u4").tobytes()
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(header + labels.tobytes())
        )
    return folder, arrays


def test_idx_to_dataset(idx_folder, tmp_path):
    folder, arrays = idx_folder
    stdout = run_script(
        "make/idx_to_dataset.py", "--idx_dir", folder, "--output_dir", tmp_path / "data"
    )
    assert "60 training and 20 test images" in stdout
    data = load_from_disk(tmp_path / "data")
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = arrays[prefix]
        assert data[split]["label"][:] == labels.tolist()
        assert data[split].features["label"].names == ["0", "1", "2"]
        assert all(
            np.array_equal(np.asarray(row["image"]), image)
            for row, image in zip(data[split], images)
        )
    loaded = load_image_dataset(str(tmp_path / "data"), labels=True)
    assert loaded.num_rows == {"train": 60, "validation": 20}


def test_few_images_of_each_class(idx_folder, tmp_path):
    folder, _ = idx_folder
    chosen = {}
    for seed in (0, 0, 1):
        output = tmp_path / f"data{len(chosen)}{seed}"
        flags = ["--images_per_class=4", f"--seed={seed}", "--class_names", "a", "b", "c"]
        run_script("make/idx_to_dataset.py", "--idx_dir", folder, "--output_dir", output, *flags)
        train = load_from_disk(output)["train"]
        assert np.bincount(train["label"][:]).tolist() == [4, 4, 4]
        pictures = [np.asarray(row["image"]).tobytes() for row in train]
        assert chosen.setdefault(seed, pictures) == pictures
    assert chosen[0] != chosen[1]


def test_damaged_idx_files(idx_folder, tmp_path):
    folder, _ = idx_folder
    file = folder / "train-images-idx3-ubyte"

    def error(*flags):
        flags = ["--idx_dir", folder, "--output_dir", tmp_path / "data", *flags]
        status, _, stderr = run_script("make/idx_to_dataset.py", *flags, check=False)
        assert status != 0
        assert "Traceback" not in stderr
        return stderr

    assert "images_per_class is 21; it must be from 1 to 20" in error("--images_per_class=21")
    assert "class_names are 2 and the labels have 3 classes" in error("--class_names", "a", "b")
    file.write_bytes(file.read_bytes()[:-1])
    assert "is not an IDX file of bytes, or is cut off" in error()
    file.unlink()
    assert "has no train-images-idx3-ubyte or train-images-idx3-ubyte.gz" in error()
