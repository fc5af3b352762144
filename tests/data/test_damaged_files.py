"""Files of data sets that are cut off, empty, damaged or gone: the error names the file."""

import io
import json
import tarfile
import zipfile

import datasets
import pyarrow as pa
import pytest
from datasets import Dataset, Features, Value
from PIL import Image
from transformers.utils import logging

from hf_mae import ImageSamples, ImageStream, MAEConfig, PretrainingTransform
from hf_mae.data.samples import BatchShape
from hf_mae.data.sources import load_image_dataset
from hf_mae.data.streaming import load_image_stream
from hf_mae.errors import BadImageError


ROWS = 20
DAMAGES = {
    "empty": lambda data: b"",
    "cut off": lambda data: data[: len(data) * 3 // 5 + 7],
    "zeros": lambda data: data[: len(data) // 6] + bytes(len(data) // 6) + data[len(data) // 3 :],
}


def picture(number):
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (number, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


def rows(bad=()):
    files = []
    for number in range(ROWS):
        data = b"no picture" if number in bad else picture(number)
        files.append({"bytes": data, "path": None})
    features = Features({"image": datasets.Image(decode=False), "label": Value("int64")})
    return Dataset.from_dict({"image": files, "label": [*range(ROWS)]}, features=features)


def write_shard(file, bad=()):
    table = rows(bad)
    if file.suffix == ".parquet":
        table.to_parquet(file, batch_size=5)
    elif file.suffix == ".arrow":
        with pa.OSFile(str(file), "wb") as out, pa.ipc.new_stream(out, table.data.schema) as writer:
            for batch in table.data.table.to_batches(max_chunksize=5):
                writer.write_batch(batch)
    elif file.suffix == ".jsonl":
        lines = []
        for number in range(ROWS):
            (file.parent / f"{file.stem}-{number}.png").write_bytes(picture(number))
            lines.append(json.dumps({"file_name": f"{file.stem}-{number}.png"}) + "\n")
        file.write_text("".join(lines))
    else:
        with tarfile.open(file, "w") as tar:
            for number, row in enumerate(table):
                info = tarfile.TarInfo(f"{file.stem}-{number:03}.png")
                info.size = len(row["image"]["bytes"])
                tar.addfile(info, io.BytesIO(row["image"]["bytes"]))


def shards(folder, kind):
    """A data set of three shards, and the second."""
    folder.mkdir()
    for number in range(3):
        write_shard(folder / f"train-{number}{kind}")
    return folder, folder / f"train-1{kind}"


def read_stream(stream):
    config = MAEConfig.from_size("tiny", image_size=32, patch_size=8)
    transform = PretrainingTransform(config)
    samples = ImageStream(stream, transform, 3, seed=0, epoch_samples=3 * ROWS, shuffle_buffer=10)
    samples.sampler(BatchShape(4, 1, 1, 0, 0))
    found = []
    for first in range(0, 6 * ROWS, 4):
        found += samples.__getitems__(list(range(first, first + 4)))
    return found


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", [".parquet", ".arrow", ".tar"])
def test_a_damaged_shard_is_named(kind, damage, tmp_path):
    folder, file = shards(tmp_path / "set", kind)
    stream, _, _ = load_image_stream(str(folder))  # before the damage
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(ValueError, match=rf"set/train-1\{kind} ") as caught:
        load_image_dataset(str(folder))
    assert "or one of" not in str(caught.value)
    with pytest.raises(BadImageError, match=rf"set/train-1\{kind} .*copy it anew, or take it out"):
        read_stream(stream)


@pytest.mark.parametrize("kind", [".parquet", ".arrow", ".tar", ".jsonl"])
def test_a_shard_that_vanishes_is_named(kind, tmp_path):
    folder, file = shards(tmp_path / "set", kind)
    stream, _, _ = load_image_stream(str(folder))
    file.unlink()
    with pytest.raises(BadImageError, match=rf"set/train-1\{kind} can't be read"):
        read_stream(stream)


def test_a_shard_that_was_emptied_is_said(tmp_path, caplog):
    folder, file = shards(tmp_path / "set", ".jsonl")
    stream, _, _ = load_image_stream(str(folder))
    file.write_bytes(b"")
    logging.enable_propagation()
    try:
        read_stream(stream)
    finally:
        logging.disable_propagation()
    assert f"there are no rows in {file}" in caplog.text


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_save_to_disk_is_named(damage, tmp_path):
    rows().save_to_disk(tmp_path / "set", num_shards=2)
    file = tmp_path / "set" / "data-00001-of-00002.arrow"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(ValueError, match=f"{file} can't be read: "):
        load_image_dataset(str(tmp_path / "set"))


@pytest.mark.parametrize("damage", ["empty", "cut off"])
def test_a_damaged_zip_file_is_named(damage, tmp_path):
    file = tmp_path / "images.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(ROWS):
            archive.writestr(f"a/{number}.png", picture(number))
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(ValueError, match=f"{file} can't be read: "):
        load_image_dataset(str(tmp_path))


@pytest.mark.parametrize("kind", [".parquet", ".tar"])
def test_bad_images_of_shards_are_named_by_file_and_row(kind, tmp_path):
    folder, file = shards(tmp_path / "set", kind)
    write_shard(file, bad=[7])
    own = "row 7" if kind == ".parquet" else "train-1-007.png"
    names = {
        name
        for sample in read_stream(load_image_stream(str(folder))[0])
        for _, name, _ in sample["bad_images"]
    }
    assert names == {f"{file} {own}"}

    images = load_image_dataset(str(folder), train_val_split=0)["train"]
    images = images.shuffle(seed=1)  # a part of it keeps the table's rows
    config = MAEConfig.from_size("tiny", image_size=32, patch_size=8)
    samples = ImageSamples(images, PretrainingTransform(config), 3, seed=0)
    found = set()
    for sample in samples.__getitems__(list(range(len(images)))):
        found |= {name for _, name, _ in sample["bad_images"]}
    assert found == {f"{file} row 7" if kind == ".parquet" else own}


def test_a_bad_image_of_a_saved_set_is_named_by_its_folder_and_row(tmp_path):
    rows(bad=[3]).save_to_disk(tmp_path / "set")
    images = load_image_dataset(str(tmp_path / "set"), train_val_split=0)["train"]
    config = MAEConfig.from_size("tiny", image_size=32, patch_size=8)
    samples = ImageSamples(images, PretrainingTransform(config), 3, seed=0, on_bad_image="raise")
    with pytest.raises(BadImageError, match=rf"image 3 \({tmp_path / 'set'} row 3\)"):
        samples[3]
