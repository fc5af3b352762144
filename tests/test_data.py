import io
import shutil
import warnings

import numpy as np
import pytest
import torch
from conftest import TINY, encoded
from datasets import Array3D, ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from PIL import Image
from scipy import stats

from hf_mae import MAEConfig
from hf_mae.data import (
    BadImageError,
    DrawSampler,
    HeldOutTransform,
    ImageDraws,
    PretrainingTransform,
    collate,
    decode,
    load_image_dataset,
    random_crop_box,
)
from hf_mae.image_processing_mae import DECODE_ERRORS


@pytest.fixture
def config():
    return MAEConfig(**TINY)


def names(dataset):
    return {row["image"]["path"].rsplit("/", 1)[-1] for row in dataset}


# loading --------------------------------------------------------------------------------------------------------------


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
    paths = [row["image"]["path"] for row in load_image_dataset(train_dir=tmp_path, train_val_split=0)["train"]]
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
    assert load_image_dataset("digits", validation_dir=tmp_path).num_rows == {"train": 1797, "validation": 1}


@pytest.fixture
def image_table(photos):
    rows = [{"bytes": encoded(photos[i % 2].resize((40 + i, 50))), "path": f"{i}.png"} for i in range(8)]
    features = Features({"picture": ImageFeature(), "label": ClassLabel(names=["a", "b"])})
    return Dataset.from_dict({"picture": rows, "label": [0, 1] * 4}, features=features)


def test_saved_by_datasets_and_parquet(image_table, tmp_path):
    image_table.save_to_disk(tmp_path / "table")
    DatasetDict(train=image_table, val=image_table.select(range(3))).save_to_disk(tmp_path / "dict")
    (tmp_path / "parquet").mkdir()
    image_table.to_parquet(tmp_path / "parquet" / "train-00000.parquet")
    image_table.to_parquet(tmp_path / "one.parquet")
    expected = [decode(row, 3) for row in image_table.cast_column("picture", ImageFeature(decode=False))["picture"]]
    for name, rows in {"table": (8, 0), "dict": (8, 3), "parquet": (8, 0), "one.parquet": (8, 0)}.items():
        splits = load_image_dataset(str(tmp_path / name), train_val_split=0)
        assert splits.num_rows == {"train": rows[0]} | ({"validation": rows[1]} if rows[1] else {}), name
        assert splits["train"].column_names == ["image"]
        assert all(np.array_equal(decode(row["image"], 3), e) for row, e in zip(splits["train"], expected))
    by_name = load_image_dataset(str(tmp_path / "dict"), train_split="val", image_column="picture", train_val_split=0)
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
        image_table.select(range(rows)).rename_column("picture", "image").to_parquet(tmp_path / "data" / f"{name}.parquet")
    assert load_image_dataset(str(tmp_path)).num_rows == {"train": 7, "validation": 2}
    assert load_image_dataset(str(tmp_path), validation_split="test").num_rows == {"train": 7, "validation": 5}


@pytest.mark.parametrize("only", ["test", "validation", "data"])
def test_the_only_split_is_not_validated_on_itself(image_table, tmp_path, only):
    DatasetDict({only: image_table}).save_to_disk(tmp_path / "one")
    splits = load_image_dataset(str(tmp_path / "one"), train_val_split=0.25)
    assert splits.num_rows == {"train": 6, "validation": 2}
    assert not names(splits["train"]) & names(splits["validation"])


def test_plain_bytes_in_a_parquet_file(image_table, tmp_path):
    raw = [row["bytes"] for row in image_table.cast_column("picture", ImageFeature(decode=False))["picture"]]
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
        ({"train_dir": tmp_path / "whole"}, "holds whole splits: train/, val/"),
        ({"train_dir": photo_folder, "validation_dir": tmp_path / "nope"}, "validation_dir .*nope is not a folder"),
        ({"dataset_name": "digits", "train_split": "trian"}, "train_split is 'trian'; the data set has train"),
        ({"dataset_name": "digits", "validation_split": "val"}, "validation_split is 'val'; the data set has train"),
        ({"dataset_name": "digits", "image_column": "img"}, "image_column is 'img'; the data set has image, label"),
        ({"dataset_name": str(tmp_path / "two")}, "several columns have images .a, b."),
        ({"dataset_name": "digits", "image_column": "label"}, "image_column 'label' holds no images but ClassLabel"),
        ({"dataset_name": "digits", "train_dir": photo_folder}, "not both"),
        ({}, "either dataset_name or train_dir"),
        ({"dataset_name": "digits", "train_val_split": 1.5}, "train_val_split is 1.5"),
        ({"dataset_name": "no/such"}, "'no/such' is not a folder or parquet file here, nor 'digits'"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            load_image_dataset(**arguments)


# decoding -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_mode_to_any_channels(mode, channels, photos):
    grey = np.asarray(photos[0].convert("L").resize((30, 20)))
    deep = {"I;16": grey.astype(np.uint16) * 257, "F": grey.astype(np.float32)}
    image = Image.fromarray(deep[mode]) if mode in deep else photos[0].resize((30, 20)).convert(mode)
    array = decode({"bytes": encoded(image, "tiff"), "path": None}, channels)
    assert array.shape == (20, 30, channels)
    assert array.dtype == np.uint8
    if mode in deep:
        assert np.abs(array[..., 0].astype(int) - grey).max() <= 1


def test_twelve_channels(config):
    config = MAEConfig(**{**TINY, "num_channels": 12})
    arrays = np.random.default_rng(0).integers(0, 256, (5, 50, 40, 12), dtype=np.uint8)
    features = Features({"image": Array3D((50, 40, 12), "uint8")})
    dataset = Dataset.from_dict({"image": list(arrays)}, features=features)
    assert np.array_equal(decode(dataset[2]["image"], 12), arrays[2])
    for transform in (PretrainingTransform, HeldOutTransform):
        sample = ImageDraws(dataset, transform(config), 12, seed=0)[3]
        assert sample["pixel_values"].shape == (12, 32, 32)
        assert sample["pixel_values"].dtype == torch.uint8


@pytest.mark.parametrize(
    "value",
    [
        np.random.default_rng(0).random((8, 8, 3)),  # floats, which would become zeros
        np.full((8, 8, 3), 300),
        np.full((8, 8, 3), -1),
        np.zeros((8, 8, 4), dtype=np.uint8),
        np.zeros((8, 8), dtype=np.uint8),
        np.zeros((0, 8, 3), dtype=np.uint8),
        {"bytes": None, "path": None},
        {"bytes": b"", "path": None},
        {"bytes": None, "path": "/nope.png"},
    ],
    ids=range(9),
)
def test_values_that_are_no_image(value):
    with pytest.raises(DECODE_ERRORS):
        decode(value, 3)


def test_damaged_files_raise_what_is_expected(photos):
    rng = np.random.default_rng(0)
    for fmt in ("jpeg", "png", "gif", "webp", "tiff", "bmp", "avif", "dds", "jpeg2000", "tga", "ppm"):
        whole = encoded(photos[0].resize((64, 48)), fmt)
        for i in range(40):
            data = bytearray(whole[: int(rng.integers(len(whole)))] if i % 2 else whole)
            for position in rng.integers(0, max(1, len(data)), 5 * (i % 2 == 0)):
                data[position] ^= 0xFF
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    array = decode({"bytes": bytes(data), "path": None}, 3)
            except DECODE_ERRORS:
                continue
            assert array.ndim == 3  # damage that PIL reads through


# draws ----------------------------------------------------------------------------------------------------------------


def test_crop_boxes_are_torchvisions_distribution():
    from torchvision.transforms import RandomResizedCrop

    rng, image = np.random.default_rng(0), torch.zeros(3, 300, 400)
    ours = np.array([random_crop_box(300, 400, rng) for _ in range(4000)], dtype=float)
    torch.manual_seed(0)
    theirs = np.array([RandomResizedCrop.get_params(image, (0.2, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)], dtype=float)
    for column in range(4):
        # two samples of one distribution differ so much once in a million times
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-6
    areas, aspects = ours[:, 2] * ours[:, 3] / 120000, ours[:, 3] / ours[:, 2]
    assert areas.min() > 0.19
    assert areas.max() <= 1
    assert aspects.min() > 0.74
    assert aspects.max() < 1.35


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (500, 1), (3, 2), (2000, 10)])
def test_crop_boxes_of_odd_images(height, width):
    rng = np.random.default_rng(0)
    for _ in range(50):
        top, left, h, w = random_crop_box(height, width, rng)
        assert 0 <= top <= top + h <= height
        assert 0 <= left <= left + w <= width
        assert h > 0
        assert w > 0


def test_training_crop_is_torchvisions_resize(config, photos):
    """The crop of a draw, cut and resized by PIL, bicubic and antialiased."""
    array = np.array(photos[0])
    transform, flips = PretrainingTransform(config), 0
    for i in range(40):
        sample = transform(array, np.random.default_rng(i))
        rng = np.random.default_rng(i)
        top, left, height, width = random_crop_box(*array.shape[:2], rng)
        expected = photos[0].crop((left, top, left + width, top + height)).resize((32, 32), Image.Resampling.BICUBIC)
        expected = np.asarray(expected).astype(int)
        if rng.random() < 0.5:
            expected, flips = expected[:, ::-1], flips + 1
        assert np.abs(sample["pixel_values"].permute(1, 2, 0).numpy() - expected).max() <= 1
    assert 8 < flips < 32


def test_draws_follow_from_seed_epoch_and_index(config, photo_folder):
    dataset = load_image_dataset(train_dir=photo_folder, train_val_split=0)["train"]

    def draw(number, seed=0):
        return ImageDraws(dataset, PretrainingTransform(config), 3, seed)[number]

    first, again, next_epoch, other_seed = draw(7), draw(7), draw(67), draw(7, seed=1)
    for key in ("pixel_values", "noise"):
        assert torch.equal(first[key], again[key])
        assert not torch.equal(first[key], next_epoch[key])
        assert not torch.equal(first[key], other_seed[key])
    assert first["index"] == next_epoch["index"] == 7
    torch.manual_seed(0)
    np.random.seed(0)
    assert torch.equal(draw(7)["noise"], first["noise"])


def test_held_out_transform_is_the_processor(config, photo_folder):
    from hf_mae import MAEImageProcessor

    dataset = load_image_dataset(train_dir=photo_folder, train_val_split=0)["train"]
    draws = ImageDraws(dataset, HeldOutTransform(config), 3, seed=0)
    processor = MAEImageProcessor.from_model_config(config)
    for i in range(10):
        image = Image.open(dataset[i]["image"]["path"])
        expected = processor(image, return_tensors="pt", do_rescale=False, do_normalize=False).pixel_values[0]
        assert torch.equal(draws[i]["pixel_values"], expected)


def test_sampler():
    sampler = DrawSampler(length=10, seed=3, num_draws=8)
    orders = []
    for epoch in range(3):
        sampler.epoch = epoch
        numbers = list(sampler)
        assert len(numbers) == len(sampler) == len(set(numbers)) == 8
        assert all(epoch * 10 <= number < epoch * 10 + 10 for number in numbers)
        orders.append([number % 10 for number in numbers])
        assert list(sampler) == numbers
    assert orders[0] != orders[1] != orders[2]


# bad images -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def half_bad(photo_folder, tmp_path):
    for i, path in enumerate(sorted(photo_folder.rglob("*.jpg"), key=lambda path: path.name)[:20]):
        data = path.read_bytes()
        (tmp_path / path.name).write_bytes(data[: len(data) // 3] if i % 2 else data)
    return load_image_dataset(train_dir=tmp_path, train_val_split=0)["train"]


def test_bad_images_are_replaced_and_named(config, half_bad):
    draws = ImageDraws(half_bad, PretrainingTransform(config), 3, seed=0)
    batch = collate([draws[i] for i in range(20)])
    again = collate([draws[i] for i in range(20)])
    assert torch.equal(batch["pixel_values"], again["pixel_values"])
    assert batch["bad_images"] == again["bad_images"]
    bad = {path.rsplit("/", 1)[-1] for _, path, _ in batch["bad_images"]}
    assert bad == {row["image"]["path"].rsplit("/", 1)[-1] for i, row in enumerate(half_bad) if i % 2}
    assert {index for index, _, _ in batch["bad_images"]} == set(range(1, 20, 2))
    assert batch["index"].tolist() == list(range(20))
    # other epochs replace by other images
    epochs = [draws[20 * epoch + 1]["pixel_values"] for epoch in range(6)]
    assert len({image.numpy().tobytes() for image in epochs}) == 6


def test_bad_images_can_raise(config, half_bad):
    draws = ImageDraws(half_bad, PretrainingTransform(config), 3, seed=0, on_bad_image="raise")
    draws[0]
    with pytest.raises(BadImageError, match=r"image 1 \(.*\.jpg\) can't be decoded"):
        draws[1]
    with pytest.raises(ValueError, match="on_bad_image is 'ignore'; it must be 'skip' or 'raise'"):
        ImageDraws(half_bad, PretrainingTransform(config), 3, seed=0, on_bad_image="ignore")


def test_nothing_but_bad_images_ends(config):
    features = Features({"image": ImageFeature(decode=False)})
    dataset = Dataset.from_dict({"image": [{"bytes": b"no image", "path": None}] * 5}, features=features)
    with pytest.raises(BadImageError, match="100 images in a row"):
        ImageDraws(dataset, PretrainingTransform(config), 3, seed=0)[0]


def test_errors_cross_process_borders(config, half_bad):
    draws = ImageDraws(half_bad, PretrainingTransform(config), 3, seed=0, on_bad_image="raise")
    loader = torch.utils.data.DataLoader(draws, batch_size=4, collate_fn=collate, num_workers=1)
    with pytest.raises(BadImageError, match="image 1 .*can't be decoded"):
        list(loader)


def test_animated_and_truncated_in_memory(photos):
    buffer = io.BytesIO()
    frames = [photo.resize((40, 30)) for photo in photos]
    frames[0].save(buffer, format="gif", save_all=True, append_images=frames[1:])
    assert decode({"bytes": buffer.getvalue(), "path": None}, 3).shape == (30, 40, 3)
