"""Shards in tar files: formats of all kinds in one, their labels, and shards that were cut off."""

import bz2
import gzip
import io
import itertools
import json
import lzma
import os
import subprocess
import tarfile
import zipfile

import pytest
from helpers import TINY_FLAGS, decode, run_script
from PIL import Image

from hf_mae.data.sources import load_image_dataset
from hf_mae.data.streaming import load_image_stream


FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "JPEG": "JPEG", "tif": "TIFF"}


def picture(number, ending):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), (10 * number,) * 3).save(buffer, FORMATS[ending.split(".")[-1]])
    return buffer.getvalue()


def write_shard(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def sample(number, ending, **others):
    yield f"{number:03d}.{ending}", picture(number, ending)
    for kind, data in others.items():
        yield f"{number:03d}.{kind}", data


def mixed(folder, count=20, per_shard=8):
    """Shards of which each has every format; their pictures are of their numbers' greys."""
    endings = itertools.cycle(FORMATS)
    for first in range(0, count, per_shard):
        members = []
        for number in range(first, min(first + per_shard, count)):
            data = json.dumps({"caption": "a", "kind": ["x", "y"][number % 2]}).encode()
            cls = str(number % 3).encode()
            members += sample(number, next(endings), cls=cls, json=data)
        write_shard(folder / f"train-{first // per_shard:05d}.tar", members)
    return folder


def numbers(values):
    return [round(decode(value, 3).mean() / 10) for value in values]


def test_all_formats_are_read(tmp_path):
    mixed(tmp_path)
    train = load_image_dataset(str(tmp_path), labels=True, train_val_split=0)["train"]
    assert numbers(train["image"]) == list(range(20))
    assert train["label"][:] == [number % 3 for number in range(20)]
    by_name = load_image_dataset(
        str(tmp_path), labels=True, label_column="kind", train_val_split=0
    )["train"]
    assert by_name.features["label"].names == ["x", "y"]
    assert by_name["label"][:] == [number % 2 for number in range(20)]
    stream, _, _ = load_image_stream(str(tmp_path))
    assert stream.num_shards == 3
    assert numbers(row["image"] for row in stream) == list(range(20))


def test_one_shard_and_shards_that_a_readme_describes(tmp_path):
    mixed(tmp_path / "data")
    one = load_image_dataset(str(tmp_path / "data" / "train-00001.tar"), train_val_split=0)
    assert numbers(one["train"]["image"]) == list(range(8, 16))
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
        "    path: data/*.tar\n---\n"
    )
    train = load_image_dataset(str(tmp_path), train_val_split=0)["train"]
    assert numbers(train["image"]) == list(range(20))
    stream, _, _ = load_image_stream(str(tmp_path))
    assert numbers(row["image"] for row in stream) == list(range(20))


def test_names_of_classes_and_splits(tmp_path):
    for split, classes in {"train": ("cat", "dog"), "val": ("dog", "cat")}.items():
        members = []
        for number in range(6):
            members += sample(number, "png", cls=classes[number % 2].encode())
        write_shard(tmp_path / f"{split}.tar", members)
    splits = load_image_dataset(str(tmp_path), labels=True)
    assert splits["train"]["label"][:] == [0, 1] * 3
    assert splits["validation"]["label"][:] == [1, 0] * 3


def test_several_images_a_sample(tmp_path):
    members = []
    for number in range(4):
        members += sample(number, "png")
        members.append((f"{number:03d}.left.png", picture(number + 10, "png")))
    write_shard(tmp_path / "0.tar", members)
    with pytest.raises(
        ValueError, match=r"has another image, 000.png; name the ending .* by image"
    ):
        load_image_dataset(str(tmp_path))
    for column, first in {"png": 0, "left.png": 10}.items():
        train = load_image_dataset(str(tmp_path), image_column=column, train_val_split=0)["train"]
        assert numbers(train["image"]) == list(range(first, first + 4))
        stream, _, _ = load_image_stream(str(tmp_path), image_column=column)
        assert numbers(row["image"] for row in stream) == list(range(first, first + 4))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("0.txt", b"a")], "none of the first 1 samples of .*0.tar has an image"),
        ([*sample(0, "png", json=b"{")], "0.tar: 000.json: Expecting property name"),
    ],
)
def test_shards_that_cannot_be_used_say_so(tmp_path, members, message):
    write_shard(tmp_path / "0.tar", members)
    with pytest.raises(ValueError, match=message):
        load_image_dataset(str(tmp_path))


@pytest.mark.parametrize(
    ("first", "last", "names"),
    [
        ("cat", "747", ["747", "cat"]),
        ("747", "cat", ["747", "cat"]),
        ("007", "12", ["007", "12"]),
        ("12", "007", ["007", "12"]),
        ("10", "9", ["9", "10"]),
        ("-1", "NA", ["-1", "NA"]),
    ],
)
@pytest.mark.parametrize("ending", ["cls", "txt"])
def test_labels_stay_as_they_are_written(tmp_path, first, last, names, ending):
    members = []
    for number in range(60):
        members += sample(number, "png", **{ending: (first if number < 55 else last).encode()})
    write_shard(tmp_path / "0.tar", members)
    dataset = load_image_dataset(
        str(tmp_path), labels=True, label_column=ending, train_val_split=0
    )["train"]
    assert dataset.features["label"].names == names
    assert dataset.features["label"].int2str(dataset["label"][:]) == [first] * 55 + [last] * 5


@pytest.mark.parametrize("change", [5, 55])
def test_json_of_two_kinds_is_refused(tmp_path, change):
    members = []
    for number in range(60):
        label = 1 if number < change else "one"
        members += sample(number, "png", json=json.dumps({"label": label}).encode())
    write_shard(tmp_path / "0.tar", members)
    with pytest.raises(ValueError, match="label is 'one' in a sample|several kinds in one field"):
        load_image_dataset(str(tmp_path), labels=True)


@pytest.mark.parametrize(
    ("pack", "kind"),
    [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz"), (None, "zip file")],
)
def test_shards_that_are_compressed_are_named(tmp_path, pack, kind):
    archive = tmp_path / "0.tar"
    write_shard(archive, sample(0, "png"))
    if pack:
        archive.write_bytes(pack(archive.read_bytes()))
    else:
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("0.png", picture(0, "png"))
    for load in (load_image_dataset, load_image_stream):
        with pytest.raises(ValueError, match=f"0.tar is no plain tar file but .*{kind}; .* unpack"):
            load(str(tmp_path))


# links -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [".", "*"])
@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_links_to_files_before_them_are_followed(tmp_path, start, link):
    folder = tmp_path / "files" / "sub"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.png").write_bytes(picture(number, "png"))
        (folder / f"{number}.cls").write_text("cat")
    source = folder / "1.png" if link is os.link else "1.png"
    link(source, folder / "3.png")
    link(folder / "1.cls" if link is os.link else "../sub/1.cls", folder / "3.cls")
    archive = tmp_path / "0.tar"
    names = sorted(f"sub/{path.name}" for path in folder.iterdir())
    ways = names if start == "*" else [f"./{name}" for name in names]
    subprocess.run(["tar", "cf", archive, *ways], cwd=tmp_path / "files", check=True)
    dataset = load_image_dataset(str(archive), labels=True, train_val_split=0)["train"]
    assert numbers(dataset["image"]) == [0, 1, 2, 1]
    assert dataset.features["label"].names == ["cat"]
    assert numbers(row["image"] for row in load_image_stream(str(archive))[0]) == [0, 1, 2, 1]


@pytest.mark.parametrize("target", ["b.png", "/elsewhere/a.png"])
def test_links_to_nothing_before_them_are_refused_by_name(tmp_path, target):
    archive = tmp_path / "0.tar"
    write_shard(archive, [*sample(0, "png")])
    with tarfile.open(archive, "a") as tar:
        for name in ("README", "a.png"):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    for load in (load_image_dataset, load_image_stream):
        with pytest.raises(ValueError, match="0.tar: a.png: it is a link to a file that doesn't"):
            load(str(archive))


# cut off -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("shard", [0, 1, 2])
def test_a_shard_that_was_cut_off_is_named(tmp_path, share, shard):
    path = mixed(tmp_path) / f"train-{shard:05d}.tar"
    with tarfile.open(path) as tar:
        end = tar.getmembers()[-1].offset_data
    path.write_bytes(path.read_bytes()[: int(share * end) // 512 * 512 + 100])
    for load in (load_image_dataset, load_image_stream):
        with pytest.raises(ValueError, match=f"train-{shard:05d}.tar is cut off or damaged after"):
            load(str(tmp_path))


def test_a_shard_that_ends_with_a_file(tmp_path, caplog):
    path = mixed(tmp_path) / "train-00001.tar"
    with tarfile.open(path) as tar:
        end = tar.getmembers()[6].offset
    path.write_bytes(path.read_bytes()[:end])
    train = load_image_dataset(str(tmp_path), train_val_split=0)["train"]
    assert numbers(train["image"]) == [*range(10), *range(16, 20)]
    assert "train-00001.tar has no mark at its end" in caplog.text
    assert "after 009.json" in caplog.text


def test_a_shard_that_is_damaged_inside(tmp_path):
    path = mixed(tmp_path) / "train-00001.tar"
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        start = tar.getmembers()[6].offset
    data[start : start + 512] = b"x" * 512
    path.write_bytes(data)
    with pytest.raises(ValueError, match="train-00001.tar is cut off or damaged after 009.json"):
        load_image_dataset(str(tmp_path))


def test_streams_stop_at_a_cut_shard_and_at_resume(tmp_path):
    mixed(tmp_path / "shards")
    flags = ["--streaming=true", f"--dataset_name={tmp_path}/shards", "--epoch_samples=20"]
    flags += ["--per_device_train_batch_size=4", "--warmup_epochs=0", "--use_cpu=true"]
    flags += ["--report_to=none", "--disable_tqdm=true", f"--output_dir={tmp_path}/run"]
    flags += [*TINY_FLAGS, "--save_strategy=steps", "--save_steps=2"]
    run_script("run_mae.py", *flags, "--num_train_epochs=1")
    path = tmp_path / "shards" / "train-00002.tar"
    path.write_bytes(path.read_bytes()[:3000])
    cut = {"again": [], "run": ["--resume_from_checkpoint=last"]}
    for name, more in cut.items():
        output_dir = f"--output_dir={tmp_path}/{name}"
        arguments = [*flags, "--num_train_epochs=2", output_dir, *more]
        status, _, stderr = run_script("run_mae.py", *arguments, check=False)
        assert status == 1
        assert "train-00002.tar is cut off or damaged after" in stderr
        assert "Traceback" not in stderr
