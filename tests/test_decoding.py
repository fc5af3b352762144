import io
import warnings

import numpy as np
import pytest
import torch
from conftest import TINY, decode, encoded
from datasets import Array3D, Dataset, Features
from PIL import Image

from hf_mae import MAEConfig
from hf_mae.data import ImageDraws
from hf_mae.decoding import ImageDecodeError
from hf_mae.transforms import HeldOutTransform, PretrainingTransform


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


def test_twelve_channels():
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
    with pytest.raises(ImageDecodeError):
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
            except ImageDecodeError:
                continue
            assert array.ndim == 3  # damage that PIL reads through


def test_animated_and_truncated_in_memory(photos):
    buffer = io.BytesIO()
    frames = [photo.resize((40, 30)) for photo in photos]
    frames[0].save(buffer, format="gif", save_all=True, append_images=frames[1:])
    assert decode({"bytes": buffer.getvalue(), "path": None}, 3).shape == (30, 40, 3)
