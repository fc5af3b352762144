"""Every file to PIL's pixels, or counted as bad when PIL can't read it, by both back ends; whole or
in part."""

import io
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from datasets import Array3D, Dataset, Features, List, Value
from helpers import ROOT, TINY, decode, encoded
from PIL import Image, ImageOps
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as TF

from hf_mae import MAEConfig, MAEImageProcessor
from hf_mae.data.decoding import Jpeg, crop_pixels, host_decoder, open_image
from hf_mae.data.nvimagecodec import _nvimgcodec
from hf_mae.data.samples import ImageSamples, collate
from hf_mae.data.sources import load_image_dataset
from hf_mae.data.transforms import MaskedEvaluationTransform, PretrainingTransform
from hf_mae.errors import DECODE_ERRORS, ImageDecodeError
from hf_mae.models.pictures import Values, to_pixels


def pil(data, channels):
    """All pixels by PIL, None of a file that it can't read."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return to_pixels(Image.open(io.BytesIO(data)), channels)
    except DECODE_ERRORS:
        return None


def ours(data, channels, rng):
    """(box, its pixels) of a random crop, None of a file that can't be read."""
    try:
        with warnings.catch_warnings(action="ignore"):
            image = open_image({"bytes": data, "path": None}, channels, Values())
            height, width = (int(rng.integers(1, side + 1)) for side in image.shape[:2])
            top, left = (
                int(rng.integers(image.shape[0] - height + 1)),
                int(rng.integers(image.shape[1] - width + 1)),
            )
            return (top, left, height, width), crop_pixels(image, (top, left, height, width))
    except ImageDecodeError:
        return None


def assert_as_pil(data, channels, rng):
    """The same verdict, and the same pixels."""
    expected, found = pil(data, channels), ours(data, channels, rng)
    assert (expected is None) == (found is None)
    if found is not None:
        top, left, height, width = found[0]
        assert np.array_equal(found[1], expected[top : top + height, left : left + width])
    return expected is not None


@pytest.fixture(params=["nvimgcodec", "PIL"])
def back_end(request, monkeypatch):
    """Both of them."""
    if request.param == "PIL":
        monkeypatch.setattr("hf_mae.data.decoding.host_decoder", lambda process: None)
    else:
        assert _nvimgcodec(), "the tests' environment has it"
    return request.param


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_crops_of_jpegs_are_pils(mode, subsampling, channels, photos):
    rng = np.random.default_rng(0)
    for i in range(40):
        picture = (
            photos[i % 2]
            .convert(mode)
            .resize((int(rng.integers(1, 200)), int(rng.integers(1, 200))))
        )
        exif = Image.Exif()
        exif[0x0112] = i % 10  # all orientations, and two that there aren't
        options = {} if mode == "L" else {"subsampling": subsampling}
        options |= {
            "quality": int(rng.integers(5, 101)),
            "restart_marker_blocks": i % 3,
            "progressive": i % 7 == 0,
        }
        assert assert_as_pil(encoded(picture, "jpeg", exif=exif, **options), channels, rng)


def test_the_fast_path_is_taken(photos):
    calls = []
    decode_region = host_decoder(0)
    assert decode_region is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "hf_mae.data.decoding.host_decoder",
            lambda process: lambda *a, **k: calls.append(a) or decode_region(*a, **k),
        )
        image = open_image({"bytes": encoded(photos[0], "jpeg"), "path": None}, 3)
        assert isinstance(image, Jpeg)
        crop_pixels(image, (10, 20, 100, 120))
        patch.setattr("hf_mae.data.decoding.to_pixels", None)  # PIL isn't asked
        crop_pixels(image, (10, 20, 100, 120))
    assert [call[1] for call in calls] == [(10, 20, 100, 120)] * 2


def damaged(data, rng, count):
    """Files with bits turned and with ends cut off or added."""
    for place in rng.integers(0, len(data), count):
        yield data[:place]
    for _ in range(count):
        turned = bytearray(data)
        for place in rng.integers(0, len(data), int(rng.integers(1, 4))):
            turned[place] ^= 1 << int(rng.integers(8))
        yield bytes(turned)
    yield from (
        b"",
        data[:-1],
        data[:-2],
        data + b"more",
        data[:-2] + b"more",
        data[: len(data) // 2] + data,
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"mode": "CMYK"}, {"mode": "L"}],
    ids=str,
)
def test_damaged_jpegs(options, photos, capfd):
    """Cut off at 200 places, and as often with bits turned: PIL's pixels or PIL's verdict, and a
    quiet terminal."""
    rng, options = np.random.default_rng(1), dict(options)
    picture = photos[0].resize((90, 70)).convert(options.pop("mode", "RGB"))
    good = [
        assert_as_pil(data, 3, rng)
        for data in damaged(encoded(picture, "jpeg", **options), rng, 200)
    ]
    assert 20 < sum(good) < len(good) - 200 + 20
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "name",
    ["YCCK", "16 bits", "animated", "wrong extension", "EXIF-bad", "arithmetic", "no size", "bomb"],
)
def test_odd_files(name, photos, back_end, tmp_path):
    picture, rng = photos[0].resize((90, 70)), np.random.default_rng(2)
    if name == "arithmetic":
        data = encoded(picture, "jpeg").replace(b"\xff\xc0", b"\xff\xc9")  # says so, and isn't
    elif name == "no size":
        at = (data := bytearray(encoded(picture, "jpeg"))).index(b"\xff\xc0")
        data[at + 5 : at + 9] = bytes(4)
    elif name == "bomb":
        at = (data := bytearray(encoded(picture, "jpeg"))).index(b"\xff\xc0")
        data[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    elif name == "EXIF-bad":
        data = encoded(picture, "jpeg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xffgarbage")
    elif name == "16 bits":
        data = encoded(
            Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257), "png"
        )
    elif name == "animated":
        data = encoded(picture, "gif", save_all=True, append_images=[photos[1].resize((90, 70))])
    elif name == "YCCK":
        data = encoded(picture.convert("CMYK"), "jpeg")
        assert b"Adobe" in data
    else:
        data = encoded(picture, "png")
        (tmp_path / "a.jpg").write_bytes(data)
        assert decode({"bytes": None, "path": str(tmp_path / "a.jpg")}, 3).shape == (70, 90, 3)
    for _ in range(5):
        good = assert_as_pil(bytes(data), 3, rng)
    assert good == (name not in ("no size", "bomb"))


def test_no_file_hangs_or_kills(photos):
    """A process of its own reads what the others were spared: huge sides, loops, nothing."""
    at = (data := bytearray(encoded(photos[0].resize((90, 70)), "jpeg"))).index(b"\xff\xc0")
    hostile = [
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff" * 1000,
        b"\xff\xd8" + b"\xff\xe1\x00\x00" * 5000,
        bytes(1000),
    ]
    for sides in (
        b"\x00\x00\x00\x00",
        b"\xff\xff\xff\xff",
        b"\x30\x00\x20\x00",
        b"\x00\x01\xff\xff",
    ):
        data[at + 5 : at + 9] = sides
        hostile.append(bytes(data))
    code = (
        "import sys, hf_mae.data.decoding as D\n"
        f"for data in {hostile!r}:\n"
        "    try: image = D.open_image({'bytes': data, 'path': None}, 3); D.crop_pixels(image, (0, "
        "0, *image.shape[:2]))\n"
        "    except D.ImageDecodeError as error: print(error)\n"
        "print('end')"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.stdout.endswith("end\n"), done.stderr
    assert done.returncode == 0
    assert time.perf_counter() - start < 110


def samples_of(folder, **options):
    images = load_image_dataset(train_dir=folder, train_val_split=0)["train"]
    return ImageSamples(images, PretrainingTransform(MAEConfig(**TINY)), 3, seed=4, **options)


def test_a_sample_is_the_same_by_every_back_end_and_number_of_workers(photo_folder, monkeypatch):
    dataset, numbers = samples_of(photo_folder), list(range(40, 100))
    batches = [collate([dataset[number] for number in numbers])]
    for workers in (1, 2):
        loader = DataLoader(dataset, 15, sampler=numbers, num_workers=workers, collate_fn=collate)
        parts = list(loader)
        batches.append(
            {
                name: torch.cat([part[name] for part in parts])
                for name in ("images", "noise", "index")
            }
        )
    monkeypatch.setattr("hf_mae.data.decoding.host_decoder", lambda process: None)
    batches.append(collate([dataset[number] for number in numbers]))
    for batch in batches[1:]:
        for name in ("images", "noise", "index"):
            assert torch.equal(batch[name], batches[0][name])


def test_resized_crops_are_pils(photos):
    """To a level, as PIL resizes the same crop, bicubic and antialiased, but for very few values.

    torchvision's weights have 16 bits, PIL's 32: of the values, less than one in ten thousand is
    more than a level off, most of them where a side is enlarged.
    """
    rng, image = (
        np.random.default_rng(0),
        open_image({"bytes": encoded(photos[0], "jpeg"), "path": None}, 3),
    )
    whole = Image.open(io.BytesIO(encoded(photos[0], "jpeg")))
    differences = []
    for _ in range(60):
        height, width = int(rng.integers(20, 427)), int(rng.integers(20, 640))
        top, left = int(rng.integers(427 - height)), int(rng.integers(640 - width))
        pixels = torch.from_numpy(crop_pixels(image, (top, left, height, width))).permute(2, 0, 1)
        resized = TF.resize(pixels, [64, 64], TF.InterpolationMode.BICUBIC, antialias=True)
        expected = whole.crop((left, top, left + width, top + height)).resize(
            (64, 64), Image.Resampling.BICUBIC
        )
        difference = np.abs(resized.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected))
        differences.append(difference)
        assert difference.max() <= 16
    assert (np.stack(differences) > 1).mean() < 2e-4


def test_large_photographs_at_reduced_scale(photos, back_end):
    """A crop that begins anywhere is where it is at full scale: noise of 20 pixels' blocks
    tells."""
    blocks = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    picture, exif = (
        Image.fromarray(blocks).resize((4000, 3000), Image.Resampling.NEAREST),
        Image.Exif(),
    )
    for orientation in (1, 6):
        exif[0x0112] = orientation
        image = open_image(
            {"bytes": encoded(picture, "jpeg", quality=95, exif=exif), "path": None}, 3
        )
        height, width, _ = image.shape
        assert (height, width) == ((3000, 4000) if orientation == 1 else (4000, 3000))
        for box in (
            (104, 104, 1800, 1800),
            (100, 103, 1801, 1799),
            (height - 900, width - 905, 900, 905),
        ):
            reduced, full = crop_pixels(image, box, (224, 224)), crop_pixels(image, box)
            assert (reduced.shape, full.shape) == ((224, 224, 3), (box[2], box[3], 3))
            expected = np.asarray(
                Image.fromarray(full).resize((224, 224), Image.Resampling.BICUBIC)
            )
            assert (
                np.abs(reduced.astype(int) - expected).mean() < 10
            )  # 20 to 30 where it is half a pixel off
    assert crop_pixels(image, (0, 0, 447, 2000), (224, 224)).shape == (
        447,
        2000,
        3,
    )  # not twice the target
    assert crop_pixels(image, (0, 0, 448, 2000), (224, 224)).shape == (224, 224, 3)
    grey = open_image({"bytes": encoded(picture.convert("L"), "jpeg"), "path": None}, 1)
    assert crop_pixels(grey, (5, 5, 900, 900), (224, 112)).shape == (224, 112, 1)
    small = open_image({"bytes": encoded(photos[0], "jpeg"), "path": None}, 3)
    assert crop_pixels(small, (0, 0, 400, 600), (32, 32)).shape == (400, 600, 3)


def test_several_crops_of_a_large_photograph(photos, tmp_path):
    photos[0].resize((3200, 2400)).save(tmp_path / "a.jpg")
    one, two = samples_of(tmp_path), samples_of(tmp_path, crops_per_image=2)
    samples = two.__getitems__([0, 1])
    assert torch.equal(samples[0]["images"], one[0]["images"])
    assert not torch.equal(samples[1]["images"], samples[0]["images"])


def test_orientation_in_exif_data_that_pil_cannot_write(photos, back_end):
    """The tag of the camera's maker has a number for a name: PIL reads the orientation and fails to
    write the rest."""
    entries = [(0x010F, 5, 1, (38).to_bytes(4, "big")), (0x0112, 3, 1, b"\x00\x06\x00\x00")]
    exif = b"Exif\x00\x00MM\x00*" + (8).to_bytes(4, "big") + len(entries).to_bytes(2, "big")
    for tag, kind, count, value in entries:
        exif += tag.to_bytes(2, "big") + kind.to_bytes(2, "big") + count.to_bytes(4, "big") + value
    exif += bytes(4) + (7).to_bytes(4, "big") + (2).to_bytes(4, "big")
    picture = photos[0].resize((90, 70))
    data, plain = encoded(picture, "jpeg", exif=exif), encoded(picture, "jpeg")
    with pytest.raises((AttributeError, TypeError, ValueError, KeyError)):
        ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    for progressive in (False, True):
        data = encoded(picture, "jpeg", exif=exif, progressive=progressive)
        image = open_image({"bytes": data, "path": None}, 3)
        assert image.shape == (90, 70, 3)
        turned = np.asarray(Image.open(io.BytesIO(plain)).transpose(Image.Transpose.ROTATE_270))
        assert np.array_equal(crop_pixels(image, (10, 5, 60, 50)), turned[10:70, 5:55])


def test_threads(photos):
    image = encoded(photos[0], "jpeg")
    expected = pil(image, 3)

    def crop(top):
        found = crop_pixels(open_image({"bytes": image, "path": None}, 3), (top, 20, 200, 300))
        return np.array_equal(found, expected[top : top + 200, 20:320])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(crop, list(range(100)) * 3))


def test_several_crops_of_one_decode(photo_folder, monkeypatch):
    dataset = samples_of(photo_folder, crops_per_image=4)
    opened = []
    really = open_image
    monkeypatch.setattr(
        "hf_mae.data.samples.open_image", lambda *args: opened.append(args) or really(*args)
    )
    first = (60 + 7) * 4  # epoch 1, image 7
    samples = dataset.__getitems__([first, first + 1, first + 2, first + 3, first + 4])
    assert len(opened) == 2
    assert [s["index"] for s in samples] == [7, 7, 7, 7, 8]
    for name in ("images", "noise"):
        assert len({s[name].contiguous().numpy().tobytes() for s in samples}) == 5
    for number, sample in zip(range(first, first + 5), samples):
        assert torch.equal(dataset[number]["images"], sample["images"])
    alone = samples_of(photo_folder)[60 + 7]
    assert torch.equal(
        alone["images"], samples[0]["images"]
    )  # the first crop is that of one crop an image


def test_without_the_codec(tmp_path):
    """Where it isn't installed, PIL decodes."""
    code = (
        "import sys; sys.modules['nvidia'] = None\n"
        "import hf_mae.data.decoding as D, io\n"
        "from PIL import Image\n"
        "buffer = io.BytesIO(); Image.new('RGB', (60, 40), 'red').save(buffer, 'jpeg')\n"
        "image = D.open_image({'bytes': buffer.getvalue(), 'path': None}, 3)\n"
        "print(D.host_decoder(0), D.crop_pixels(image, (1, 2, 30, 40)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "None (30, 40, 3)\n", done.stderr


def test_importing_the_codec_is_silent():
    code = "import hf_mae.data.decoding as D; assert D.host_decoder(0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_mode_to_any_channels(mode, channels, photos):
    grey = np.asarray(photos[0].convert("L").resize((30, 20)))
    deep = {"I;16": grey.astype(np.uint16) * 257, "F": grey.astype(np.float32)}
    image = (
        Image.fromarray(deep[mode]) if mode in deep else photos[0].resize((30, 20)).convert(mode)
    )
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
    for transform in (PretrainingTransform, MaskedEvaluationTransform):
        sample = ImageSamples(dataset, transform(config), 12, seed=0)[3]
        assert sample["images"].shape == (12, 32, 32)
        assert sample["images"].dtype == torch.uint8


@pytest.mark.parametrize("layout", ["last", "first"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("nested", [False, True])
def test_arrays_of_any_type_and_layout(dtype, layout, nested):
    """The column's type says how deep they are: a dark image of 16 bits isn't taken for one of 8,
    though a row of the data set is but lists of numbers."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 40, 4), dtype=np.uint8)
    pixels[1] = 0
    scale = {"uint8": 1, "uint16": 257, "float32": np.float32(1 / 255)}[dtype]
    arrays = pixels * np.array(scale, dtype)
    if dtype == "uint16":
        arrays[1] = 200
    shape, stored = (32, 40, 4), arrays
    if layout == "first":
        shape, stored = (4, 32, 40), arrays.transpose(0, 3, 1, 2)
    feature = List(List(List(Value(dtype)))) if nested else Array3D(shape, dtype)
    dataset = Dataset.from_dict({"image": stored.tolist()}, features=Features({"image": feature}))
    config = MAEConfig(**{**TINY, "num_channels": 4, "image_size": (32, 40)})
    processor = MAEImageProcessor.from_model_config(config)
    processor.do_resize = False
    if dtype == "uint16":
        processor.value_range = (0, 65535)
    samples = ImageSamples(dataset, MaskedEvaluationTransform(config, processor), 4, seed=0)
    np.testing.assert_allclose(samples[0]["images"].permute(1, 2, 0), pixels[0], atol=1e-4)
    dark = 200 / 257 if dtype == "uint16" else 0
    assert samples[1]["images"].max() == pytest.approx(dark)


@pytest.mark.parametrize(
    "value",
    [
        np.full((8, 8, 3), np.nan),
        np.full((8, 8, 3), 70_000),
        np.full((8, 8, 3), -1),
        np.zeros((8, 8, 7), dtype=np.uint8),
        np.zeros(8, dtype=np.uint8),
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
    for fmt in (
        "jpeg",
        "png",
        "gif",
        "webp",
        "tiff",
        "bmp",
        "avif",
        "dds",
        "jpeg2000",
        "tga",
        "ppm",
    ):
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
