"""Tables of images: every type that Arrow has for bytes and text, paths beside the table, any
name."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Array2D, Array3D, Dataset, Features, List, Value
from helpers import decode, encoded
from PIL import Image

from hf_mae.data.samples import array_dtype
from hf_mae.data.sources import load_evaluation_dataset, load_image_dataset
from hf_mae.data.streaming import load_image_stream


LABELS = ["cat", "dog"] * 3
STRUCT = pa.struct([("bytes", pa.large_binary()), ("path", pa.string_view())])


@pytest.fixture(scope="module")
def files():
    return [encoded(Image.new("RGB", (8, 8), (20 * i, 0, 0))) for i in range(6)]


@pytest.fixture
def pictures(files, tmp_path):
    """The files in a folder."""
    (tmp_path / "set" / "img").mkdir(parents=True)
    for i, data in enumerate(files):
        (tmp_path / "set" / "img" / f"{i}.png").write_bytes(data)
    return tmp_path / "set"


def reds(values):
    return [int(decode(value, 3)[..., 0].mean()) for value in values]


def write_table(table, path):
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".jsonl":
        table.to_json(path)
    else:
        table.to_csv(path, sep="\t" if path.suffix == ".tsv" else ",")


def check(source, **options):
    """The six pictures in their order, with their labels."""
    dataset = load_image_dataset(str(source), labels=True, train_val_split=0, **options)["train"]
    assert reds(dataset["image"]) == [0, 20, 40, 60, 80, 100]
    assert dataset.features["label"].int2str(dataset["label"][:]) == LABELS


@pytest.mark.parametrize(
    "kind",
    [pa.binary(), pa.large_binary(), pa.binary_view(), STRUCT],
    ids=["binary", "large_binary", "binary_view", "struct"],
)
@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_types_of_bytes_and_labels(files, tmp_path, kind, text):
    values = [{"bytes": data, "path": None} for data in files] if kind == STRUCT else files
    table = pa.table({"image": pa.array(values, kind), "label": pa.array(LABELS, text)})
    pq.write_table(table, tmp_path / "train.parquet")
    check(tmp_path)
    check(tmp_path / "train.parquet")
    stream, _, _ = load_image_stream(str(tmp_path))
    assert reds([row["image"] for row in stream]) == [0, 20, 40, 60, 80, 100]
    with pa.ipc.new_stream(str(tmp_path / "one.arrow"), table.schema) as writer:
        writer.write_table(table)
    check(tmp_path / "one.arrow")


@pytest.mark.parametrize("dtype", ["large_binary", "binary_view"])
def test_types_that_datasets_has_saved(files, tmp_path, dtype):
    features = Features({"image": Value(dtype), "label": Value("large_string")})
    saved = Dataset.from_dict({"image": files, "label": LABELS}, features=features)
    saved.save_to_disk(tmp_path / "saved")
    check(tmp_path / "saved")


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), "struct"], ids=str
)
@pytest.mark.parametrize("start", ["", "img/", "whole"])
def test_paths_in_parquet(pictures, kind, start):
    folder = {"": pictures / "img", "img/": pictures, "whole": pictures}[start]
    way = f"{pictures}/img/" if start == "whole" else start
    paths = [f"{way}{i}.png" for i in range(6)]
    column = pa.array([{"bytes": None, "path": path} for path in paths], STRUCT)
    if kind != "struct":
        column = pa.array(paths, kind)
    pq.write_table(pa.table({"image": column, "label": LABELS}), folder / "train.parquet")
    check(folder / "train.parquet")
    stream, _, _ = load_image_stream(str(folder / "train.parquet"))
    assert reds([row["image"] for row in stream]) == [0, 20, 40, 60, 80, 100]


@pytest.mark.parametrize("column", ["image", "file_name", "path"])
@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl"])
def test_text_that_names_files_beside_it(pictures, ending, column, monkeypatch):
    rows = [{column: f"img/{i}.png", "label": label} for i, label in enumerate(LABELS)]
    separator = "\t" if ending == "tsv" else ","
    lines = [separator.join(row.values()) for row in [{column: column, "label": "label"}, *rows]]
    texts = {"json": json.dumps(rows), "jsonl": "\n".join(map(json.dumps, rows))}
    (pictures / f"list.{ending}").write_text(texts.get(ending, "\n".join(lines)))
    check(pictures / f"list.{ending}")
    check(pictures)  # not as one class called img
    monkeypatch.chdir(pictures.parent)
    check("set")
    held_out, _ = load_evaluation_dataset(f"set/list.{ending}")
    assert len(held_out) == 6


def test_a_table_that_changes_is_read_anew(pictures):
    table = pictures / "list.csv"
    for count in (4, 5):
        lines = [f"img/{i}.png,{LABELS[i]}\n" for i in range(count)]
        table.write_text("image,label\n" + "".join(lines))
        splits = load_image_dataset(str(table), labels=True, train_val_split=0)
        assert splits.num_rows == {"train": count}


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_tables_of_several_folders_each_start_from_their_own(pictures, ending, caplog):
    for name in ("a", "b"):
        (pictures / name / "img").mkdir(parents=True)
        for i in range(3):
            number = i + (3 if name == "b" else 0)
            os.rename(pictures / "img" / f"{number}.png", pictures / name / "img" / f"{i}.png")
        labels = LABELS[3:] if name == "b" else LABELS[:3]
        rows = {"image": [f"img/{i}.png" for i in range(3)], "label": labels}
        for part in (slice(0, 2), slice(2, 3)):
            own = Dataset.from_dict({name: column[part] for name, column in rows.items()})
            write_table(own, pictures / name / f"list_{part.start}.{ending}")
    check(pictures)
    stream, _, _ = load_image_stream(str(pictures))
    assert stream.num_shards == 4
    assert reds([row["image"] for row in stream]) == [0, 20, 40, 60, 80, 100]
    shards = [list(stream.shard(4, number)) for number in range(4)]
    assert [len(shard) for shard in shards] == [2, 1, 2, 1]
    assert "left out" not in caplog.text


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_streams_of_tables_that_name_files_beside_them(pictures, ending):
    rows = {"image": [f"img/{i}.png" for i in range(6)], "label": LABELS}
    write_table(Dataset.from_dict(rows), pictures / f"list.{ending}")
    for source in (pictures, pictures / f"list.{ending}"):
        stream, _, _ = load_image_stream(str(source))
        assert reds([row["image"] for row in stream]) == [0, 20, 40, 60, 80, 100]


def test_tables_of_several_folders_with_other_columns_are_refused(pictures):
    for name, value in {"a": "1", "b": "x"}.items():
        (pictures / name).mkdir()
        row = {"image": "../img/0.png", "size": {"x": value} if value == "x" else 1}
        (pictures / name / "list.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match="list.jsonl and tables in other folders have columns of"):
        load_image_dataset(str(pictures))


def test_tables_that_cannot_be_used_say_so(pictures):
    (pictures / "list.csv").write_text("image,label\nimgs/0.png,1\nimgs/1.png,1\n")
    with pytest.raises(ValueError, match="'imgs/0.png' and other names of which none is a file"):
        load_image_dataset(str(pictures / "list.csv"))
    for text in (b"image,label\n", b"", b"image,label\ncaf\xe9.png,1\n"):
        (pictures / "other.csv").write_bytes(text)
        with pytest.raises(ValueError, match="other.csv can't be read: "):
            load_image_dataset(str(pictures / "other.csv"))
    (pictures / "other.csv").unlink()
    (pictures / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="cut.parquet can't be read: "):
        load_image_dataset(str(pictures / "cut.parquet"))
    (pictures / "cut.parquet").unlink()
    (pictures / "empty.csv").write_text("image,label\n")
    check_images = load_image_dataset(str(pictures), train_val_split=0)  # the list names none
    assert check_images.num_rows == {"train": 6}


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ("007 7 012 7 7 007", "007 012 7"),
        ("1 2 10 1 2 10", "1 2 10"),
        ("NA None cat nan null cat", "NA None cat nan null"),
        ("True False true False True False", "False True"),
        ("0x1 12 1 1 1 1", "0x1 1 12"),
        ("1e5f 2e5 1 1 1 1", "1 1e5f 2e5"),
        ("+1 -1 -1 +1 -1 +1", "+1 -1"),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_labels_in_text_stay_as_they_are_written(pictures, values, names, ending):
    separator = {"csv": ",", "tsv": "\t"}[ending]
    rows = [f"img/{i}.png{separator}{value}" for i, value in enumerate(values.split())]
    for folder, own in {"a": rows[:3], "b": rows[3:]}.items():
        (pictures / folder).mkdir()
        lines = [f"image{separator}label", *(f"../{row}" for row in own)]
        (pictures / folder / f"list.{ending}").write_text("\n".join(lines))
    dataset = load_image_dataset(str(pictures), labels=True, train_val_split=0)["train"]
    assert reds(dataset["image"]) == [0, 20, 40, 60, 80, 100]
    feature = dataset.features["label"]
    assert set(feature.names) == set(names.split())
    if "rue" not in values:  # in any spelling
        assert feature.int2str(dataset["label"][:]) == values.split()


def test_values_in_text(pictures):
    for value in ("0.5", "-1e-3", "3", " 4.", ".25", "1E2"):
        rows = [f"img/{i}.png,{value if i else 0.5}\n" for i in range(6)]
        (pictures / "list.csv").write_text("image,age\n" + "".join(rows))
        splits = load_image_dataset(
            str(pictures), labels=True, label_column="age", train_val_split=0
        )
        assert splits["train"]["label"][:] == pytest.approx([0.5] + [float(value)] * 5)


@pytest.mark.parametrize("blank", ["", "NA", "nan"])
@pytest.mark.parametrize("value", ["3", "3.5"])
def test_numbers_that_are_missing_are_counted(pictures, blank, value):
    rows = [f"img/{i}.png,{value if i else blank}\n" for i in range(6)]
    (pictures / "list.csv").write_text("image,label\n" + "".join(rows))
    with pytest.raises(ValueError, match="1 of the 6 images of the train split have no label, or"):
        load_image_dataset(str(pictures), labels=True, label_column="label")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_column_that_names_splits(pictures, ending, caplog):
    rows = {
        "image": [f"img/{i}.png" for i in range(6)],
        "label": LABELS,
        "split": ["Train", "train", "val", "train", "TEST", "test"],
    }
    write_table(Dataset.from_dict(rows), pictures / f"list.{ending}")
    for source in (pictures, pictures / f"list.{ending}"):
        caplog.clear()
        splits = load_image_dataset(str(source), labels=True)
        assert reds(splits["train"]["image"]) == [0, 20, 60]
        assert reds(splits["validation"]["image"]) == [40]
        assert "train has 3, validation has 1, test has 2" in caplog.text
        caplog.clear()
        load_image_stream(str(source))
        assert "the column 'split' makes no splits of a stream" in caplog.text
    named = load_image_dataset(str(pictures), labels=True, label_column="split", train_val_split=0)
    assert len(named["train"]) == 6


# names of files ----------------------------------------------------------------------------------


def write(file, files, labels=True):
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {"image": files, "label": LABELS} if labels else {"image": files}
    pq.write_table(pa.table(columns), file)


@pytest.mark.parametrize("name", ["[D_DATA] set (1)", "what? a*b", "{a,b}", "ü 日本"])
def test_folders_of_any_name(files, tmp_path, name):
    write(tmp_path / name / "train-[0]*.parquet", files)
    check(tmp_path / name)
    check(tmp_path / name / "train-[0]*.parquet")
    stream, _, _ = load_image_stream(str(tmp_path / name))
    assert len(list(stream)) == 6
    features = Features({"image": Value("binary"), "label": Value("string")})
    saved = Dataset.from_dict({"image": files, "label": LABELS}, features=features)
    saved.save_to_disk(tmp_path / name / "saved")
    check(tmp_path / name / "saved")


@pytest.mark.parametrize(
    ("names", "rows", "said"),
    [
        (["train.parquet", "Test set.parquet"], (6, 6), "train is train.parquet, test is Test set"),
        (["a/train/0.parquet", "a/val/0.parquet"], (6, 6), "validation is a/val/0.parquet"),
        (["mnist-train-0.parquet", "mnist-test-0.parquet"], (6, 6), "test is mnist-test-0"),
        (["train_station.parquet", "airport.parquet"], (12, 0), "taken for one data set"),
        (["contest-0.parquet", "contest-1.parquet"], (12, 0), ""),
    ],
)
def test_splits_by_the_names_of_files_are_said(files, tmp_path, caplog, names, rows, said):
    for name in names:
        write(tmp_path / name, files)
    splits = load_image_dataset(str(tmp_path), labels=True, train_val_split=0)
    assert splits.num_rows == {"train": rows[0]} | ({"validation": rows[1]} if rows[1] else {})
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)


def test_a_split_beside_files_of_none_is_refused(files, tmp_path):
    write(tmp_path / "train.parquet", files)
    write(tmp_path / "more.parquet", files)
    with pytest.raises(ValueError, match="train.parquet, which is a split by its name, and more"):
        load_image_dataset(str(tmp_path))
    check(tmp_path / "train.parquet")


def test_a_held_out_table_without_labels_is_left_aside(files, tmp_path, caplog):
    write(tmp_path / "train.parquet", files)
    write(tmp_path / "test.parquet", files, labels=False)
    check(tmp_path)
    assert "left aside, for it has no column 'label'" in caplog.text
    assert load_image_dataset(str(tmp_path)).num_rows == {"train": 6, "validation": 6}


# nothing is written beside the input -------------------------------------------------------------


def listing(folder):
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


@pytest.mark.parametrize("kind", ["saved", "parquet", "csv", "images"])
@pytest.mark.parametrize("label", ["name", "value"])
def test_nothing_is_written_beside_the_input(files, pictures, kind, label):
    labels = LABELS if label == "name" else [0.5 * i for i in range(6)]
    table = Dataset.from_dict({"image": files, "label": labels})
    folder = pictures / "data"
    folder.mkdir()
    if kind == "saved":
        table.save_to_disk(folder)
    elif kind == "parquet":
        table.to_parquet(folder / "train.parquet")
    elif kind == "csv":
        rows = [f"../img/{i}.png,{value}\n" for i, value in enumerate(labels)]
        (folder / "train.csv").write_text("image,label\n" + "".join(rows))
    else:
        os.rename(pictures / "img", folder / "img")
    before = listing(folder)
    splits = load_image_dataset(str(folder), labels=kind != "images", train_val_split=0.3)
    assert splits.num_rows == {"train": 4, "validation": 2}
    assert listing(folder) == before


# arrays ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
@pytest.mark.parametrize("kind", ["lists", "arrays"])
@pytest.mark.parametrize("shape", [(16, 12), (16, 12, 3), (3, 16, 12)], ids=str)
@pytest.mark.parametrize("column", ["image", "scan"])
def test_columns_of_arrays(tmp_path, dtype, kind, shape, column):
    """What the table holds is what a data set and a stream give."""
    arrays = np.arange(6 * np.prod(shape)).reshape(6, *shape).astype(dtype) % 251
    feature = {2: Array2D, 3: Array3D}[len(shape)](shape, dtype)
    if kind == "lists":
        feature = Value(dtype)
        for _ in shape:
            feature = List(feature)
    features = Features({column: feature, "label": Value("string")})
    table = Dataset.from_dict({column: arrays.tolist(), "label": LABELS}, features=features)
    table.to_parquet(tmp_path / "train.parquet")
    table.to_parquet(tmp_path / "test.parquet")
    named = column if len(shape) == 2 and kind == "lists" and column == "scan" else None
    splits = load_image_dataset(str(tmp_path), labels=True, image_column=named)
    stream, held_out, _ = load_image_stream(str(tmp_path), image_column=named)
    assert held_out is not None
    for rows in (*splits.values(), stream, held_out):
        found = np.array([np.asarray(row["image"]) for row in rows])
        assert np.array_equal(found, arrays)
        assert array_dtype(rows) == dtype


def test_lists_that_are_no_images_are_refused(tmp_path):
    table = Dataset.from_dict({"image": [[1.0, 2.0]], "boxes": [[[1.0, 2.0], [3.0, 4.0]]]})
    table.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="image_column 'image' holds no images but List"):
        load_image_dataset(str(tmp_path))
    table.remove_columns("image").to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="no column has images; name one by image_column"):
        load_image_dataset(str(tmp_path))
