import base64
import io
import re
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
import torch
from helpers import encoded
from PIL import Image
from torchvision import transforms
from transformers import AutoImageProcessor, BitImageProcessor, BitImageProcessorPil

from hf_mae import MAEConfig, MAEImageProcessor, MAEImageProcessorPil
from hf_mae.models.image_processing_mae import normalize_images


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def center_crop(image):
    """As transformers has it: torchvision rounds an odd margin, to the even number."""
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    return image.crop((left, top, left + 224, top + 224))


REFERENCE = transforms.Compose(
    [
        transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.Lambda(center_crop),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
)
BACKENDS = [MAEImageProcessor, MAEImageProcessorPil]


def difference(processor, image, rgb):
    """Mean difference to torchvision's transforms, in levels of 0 to 255."""
    ours = torch.as_tensor(processor(image, return_tensors="pt").pixel_values[0])
    return ((ours - REFERENCE(rgb)) * torch.tensor(STD).view(3, 1, 1) * 255).abs().mean().item()


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_torchvision_on_odd_sizes(backend, photos):
    processor, rng, worst = backend(), np.random.default_rng(0), 0.0
    for i in range(100):
        width, height = (int(side) for side in rng.integers(60, 640, 2))
        left, top = (
            int(rng.integers(photos[0].width - width + 1)),
            int(rng.integers(max(1, photos[0].height - height + 1))),
        )
        image = photos[i % 2].crop((left, top, left + width, min(photos[0].height, top + height)))
        worst = max(worst, difference(processor, image, image))
    assert worst < 0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_crop_is_never_off_by_one(backend):
    """A one-pixel chessboard survives no shift: every odd and even margin, and what is padded where
    the image is smaller, must be where transformers' own processor has it."""
    options = {"do_resize": False, "do_normalize": False, "do_rescale": False}
    options["crop_size"] = {"height": 32, "width": 32}
    processor, theirs = backend(**options), BitImageProcessor(**options)
    rows, columns = np.indices((80, 80))
    board = ((rows * 7 + columns * 13) % 256).astype(np.uint8)
    for height in range(27, 40):
        for width in range(27, 40):
            image = Image.fromarray(np.stack([board[:height, :width]] * 3, axis=-1))
            ours = np.asarray(processor(image, return_tensors="np").pixel_values)
            expected = np.asarray(theirs(image, return_tensors="np").pixel_values)
            assert np.array_equal(ours, expected), (height, width)


@pytest.mark.parametrize(
    ("backend", "native"),
    [(MAEImageProcessor, BitImageProcessor), (MAEImageProcessorPil, BitImageProcessorPil)],
)
def test_equals_transformers_own_on_odd_sizes(backend, native, photos):
    sizes = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
    theirs = native(**sizes, resample=3, image_mean=MEAN, image_std=STD)
    processor, rng = backend(), np.random.default_rng(1)
    for i in range(30):
        width, height = (int(side) for side in rng.integers(90, 420, 2))
        image = photos[i % 2].crop((0, 0, width, height))
        expected = torch.as_tensor(theirs(image, return_tensors="pt").pixel_values)
        ours = torch.as_tensor(processor(image, return_tensors="pt").pixel_values)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


# options of a call -------------------------------------------------------------------------------


OPTIONS = [
    {"do_center_crop": False},
    {"do_center_crop": False, "size": {"height": 40, "width": 60}},
    {"crop_size": {"height": 112, "width": 448}},
    {"crop_size": {"height": 448, "width": 112}, "size": {"shortest_edge": 200}},
    {"crop_size": 96, "size": {"shortest_edge": 100}, "resample": 2},
    {"do_resize": False},
    {"do_rescale": False},
    {"do_normalize": False},
    {"image_mean": [0.4], "image_std": [0.2]},
    {"image_mean": [0.4] * 4, "image_std": [0.2] * 4},
    {"image_mean": 0.5, "image_std": 0.25},
    {"do_convert_rgb": True},
    {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_call_s_options_are_the_constructor_s(backend, options, photos):
    """Also of very long images, of which only the middle is resized for a crop."""
    for image in (photos[0], photos[0].resize((2000, 60))):
        found = backend()(image, return_tensors="pt", **options).pixel_values
        expected = backend(**options)(image, return_tensors="pt").pixel_values
        assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected))
        plain = backend()(image, return_tensors="pt").pixel_values
        changes = options != {"do_convert_rgb": True}
        assert changes != torch.equal(torch.as_tensor(found), torch.as_tensor(plain))


@pytest.mark.parametrize("backend", BACKENDS)
def test_channels_are_converted_unless_a_call_forbids(backend):
    array = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    as_four = {"image_mean": [0.0] * 4, "image_std": [1.0] * 4}
    processor = backend(size={"shortest_edge": 40}, crop_size=40)
    for options in ({}, {"do_convert_rgb": False}):
        pixels = processor(array, return_tensors="pt", **as_four, **options).pixel_values
        assert pixels.shape == (1, 4, 40, 40)
    expected = array.transpose(2, 0, 1)[:, :, 5:45] / 255  # no transparency is multiplied in
    np.testing.assert_allclose(np.asarray(pixels[0]), expected, atol=1e-5)
    for image in (array, Image.fromarray(array)):
        with pytest.raises(ValueError, match="the image has 4 channels and image_mean 3; give"):
            processor(image, do_convert_rgb=False)
        raw = processor(image, do_convert_rgb=False, do_normalize=False, return_tensors="pt")
        assert raw.pixel_values.shape == (1, 4, 40, 40)
    grey = backend(image_mean=[0.4], image_std=[0.2])
    assert grey(array, return_tensors="pt").pixel_values.shape == (1, 1, 224, 224)
    with pytest.raises(ValueError, match="the image has 3 channels and image_mean 1; give"):
        grey(array, do_convert_rgb=True)
    with pytest.raises(ValueError, match="image_mean has 1 values and image_std 3; give both"):
        processor(array, image_mean=[0.5])
    with pytest.raises(ValueError, match="it must have height and width"):
        processor(array, crop_size={"shortest_edge": 40})


# one way in --------------------------------------------------------------------------------------


def ways_in(folder):
    """The same picture in every form: pairs of what is given and its mode."""
    rgb = np.asarray(Image.effect_noise((60, 40), 90).convert("RGB")).copy()
    rgb[..., 1] = 255 - rgb[..., 1]
    rgb[..., 2] = np.arange(40)[:, None] * 5
    grey = rgb[..., 0]
    alpha = np.dstack([rgb, np.where(grey > 100, 0, 255).astype(np.uint8)])
    pictures = {
        "RGB": Image.fromarray(rgb),
        "L": Image.fromarray(grey),
        "RGBA": Image.fromarray(alpha),
        "P": Image.fromarray(rgb).quantize(16),
        "CMYK": Image.fromarray(rgb).convert("CMYK"),
    }
    formats = {"png": ("RGB", "L", "RGBA", "P"), "bmp": ("RGB", "L", "P"), "tiff": tuple(pictures)}
    for suffix, modes in formats.items():
        for mode in modes:
            path = folder / f"{mode}.{suffix}"
            pictures[mode].save(path)
            yield str(path), pictures[mode]
            yield path, pictures[mode]
            yield path.read_bytes(), pictures[mode]
    text = base64.b64encode((folder / "RGB.png").read_bytes()).decode()
    yield text, pictures["RGB"]
    yield f"data:image/png;base64,{text}", pictures["RGB"]
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "deep.png")
    yield str(folder / "deep.png"), pictures["L"]
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "deep.tiff")
    yield folder / "deep.tiff", pictures["L"]
    for array, mode in ((rgb, "RGB"), (grey, "L"), (grey[..., None], "L"), (alpha, "RGBA")):
        arrays = [
            array,
            array.astype(np.uint16) * 257,
            array.astype(np.int64),
            array.astype(np.float32) / 255,
            array.astype(np.float64),
            (array / 255).astype(np.float16),
        ]
        for each in arrays:
            yield each, pictures[mode]
            yield torch.from_numpy(each), pictures[mode]
            if each.ndim == 3:
                yield np.moveaxis(each, -1, 0), pictures[mode]
        yield torch.from_numpy(array / 255).bfloat16(), pictures[mode]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_whatever_is_given_is_the_picture(backend, channels, tmp_path):
    statistics = {"image_mean": [0.4] * channels, "image_std": [0.25] * channels}
    processor = backend(size={"shortest_edge": 32}, crop_size=28, **statistics)
    given = list(ways_in(tmp_path))
    assert len(given) > 80
    for source, picture in given:
        expected = torch.as_tensor(processor(picture, return_tensors="pt").pixel_values)
        assert expected.shape == (1, channels, 28, 28)
        found = torch.as_tensor(processor(source, return_tensors="pt").pixel_values)
        # bfloat16 has 8 bits; a level is 1 / 255 / 0.25
        atol = 0.02 if getattr(source, "dtype", None) != torch.bfloat16 else 0.035
        torch.testing.assert_close(found, expected, rtol=0, atol=atol)
    sources = [source for source, _ in given]
    together = torch.as_tensor(processor(sources, return_tensors="pt").pixel_values)
    nested = processor([sources[:3], [sources[3:]]], return_tensors="pt").pixel_values
    assert torch.equal(torch.as_tensor(nested), together)
    assert together.shape == (len(given), channels, 28, 28)
    for i in (0, 11, len(given) - 1):
        alone = torch.as_tensor(processor(sources[i], return_tensors="pt").pixel_values)
        assert torch.equal(together[i], alone[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_both_back_ends_are_equal(channels, tmp_path):
    """But for the rounding of a level."""
    statistics = {"image_mean": [0.0] * channels, "image_std": [1.0] * channels}
    options = {"size": {"shortest_edge": 32}, "crop_size": 28, **statistics}
    ours, pil = MAEImageProcessor(**options), MAEImageProcessorPil(**options)
    for source, _ in ways_in(tmp_path):
        for scaled in (True, False):
            first = ours(source, do_rescale=scaled, return_tensors="pt").pixel_values
            second = pil(source, do_rescale=scaled, return_tensors="pt").pixel_values
            level = 1 / 255 if scaled or first.max() <= 1 else 1
            torch.testing.assert_close(
                first.float(), torch.as_tensor(second).float(), rtol=0, atol=1.01 * level
            )


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches(backend):
    batch = np.random.default_rng(0).integers(0, 256, (5, 3, 40, 50), dtype=np.uint8)
    expected = torch.as_tensor(backend()(list(batch), return_tensors="pt").pixel_values)
    for given in (batch, torch.from_numpy(batch), batch.transpose(0, 2, 3, 1), batch[None]):
        found = torch.as_tensor(backend()(given, return_tensors="pt").pixel_values)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_fractions_need_no_scaling(backend, photos):
    """As transformers' users say it: `do_rescale=False`, for what ToTensor made."""
    expected = torch.as_tensor(backend()(photos[0], return_tensors="pt").pixel_values)
    tensor = transforms.functional.to_tensor(photos[0])
    for scaled in (True, False):
        found = backend()(tensor, do_rescale=scaled, return_tensors="pt").pixel_values
        torch.testing.assert_close(torch.as_tensor(found), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.full((40, 50, 3), -3.0), "of float64 from -3 to -3, which don't tell what is black"),
        (np.full((40, 50, 3), 300.0), "values of float64 from 300 to 300"),
        (np.full((40, 50), -1000, np.int16), "values of int16 from -1000 to -1000"),
        (np.full((40, 50), 70000), "values of int64 from 70000 to 70000"),
        (np.full((40, 50, 3), np.nan), "not finite"),
        (np.full((40, 50, 3), 1j), "complex128 is no image; give numbers"),
        (np.zeros((40, 50, 12), np.uint8), "no image; give (height, width, 3) or (3, height"),
        (np.zeros((40, 0, 3), np.uint8), "it has no pixels"),
        (np.zeros(40, np.uint8), "an array of shape (40,) is no image"),
        ("no/such.png", "no/such.png is no file, no http address and no picture in base64"),
        ("..", ".. is a folder; name the pictures in it"),
        (b"not an image", "the file of 12 bytes is no picture that can be read"),
        ([[1, 2], [3, 4]], "a int is no image; give a path, an address, bytes, a PIL image"),
        (None, "a NoneType is no image"),
    ],
)
def test_what_is_no_image_is_refused(backend, given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        backend()(given)


def test_base64_is_no_name_of_a_file():
    """Although a name of its length is refused by the system."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (4, 4, 4)).save(buffer, "bmp")
    text = base64.b64encode(buffer.getvalue()).decode()
    assert 255 < len(text) < 4096
    assert max(map(len, text.split("/"))) > 255
    found = MAEImageProcessor()(text, return_tensors="pt").pixel_values
    expected = MAEImageProcessor()(Image.new("RGB", (16, 16), (4, 4, 4)), return_tensors="pt")
    assert torch.equal(found, expected.pixel_values)


def test_twelve_channels_are_not_made_three():
    array = np.zeros((40, 50, 12), np.uint8)
    with pytest.raises(ValueError, match="12 bands can't become one of 3; choose 3 of them"):
        MAEImageProcessor()(array, input_data_format="channels_last")


def test_an_address_is_fetched(tmp_path):
    Image.effect_noise((60, 40), 90).save(tmp_path / "noise.png")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/noise.png"
        found = MAEImageProcessor()(address, return_tensors="pt").pixel_values
        with pytest.raises(ValueError, match="answers 404"):
            MAEImageProcessor()(address + "x")
        server.shutdown()
    expected = MAEImageProcessor()(str(tmp_path / "noise.png"), return_tensors="pt").pixel_values
    assert torch.equal(found, expected)


# a model's own -----------------------------------------------------------------------------------


def test_fitted_to_a_model():
    config = MAEConfig.from_size("tiny", image_size=448, patch_size=16)
    own = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 2}
    fitted = MAEImageProcessor(**own).fitted_to(config)
    assert (fitted.size.shortest_edge, fitted.crop_size.height) == (512, 448)
    assert (list(fitted.image_mean), list(fitted.image_std)) == ([0.5] * 3, [0.25] * 3)
    assert fitted.resample == 2
    squashed = MAEImageProcessor(size={"height": 224, "width": 112}, do_center_crop=False, **own)
    tall = MAEConfig.from_size("tiny", image_size=(64, 96), patch_size=16)
    assert dict(squashed.fitted_to(tall).size) == {"height": 64, "width": 96}
    alike = MAEImageProcessor(image_mean=0.5, image_std=0.25).fitted_to(config)
    assert list(alike.image_mean) == [0.5] * 3
    with pytest.raises(ValueError, match="image_mean of the image processor has 1 channels, and"):
        MAEImageProcessor(image_mean=[0.5], image_std=[0.25]).fitted_to(config)
    with pytest.raises(ValueError, match="makes images of any size, and the model takes one"):
        MAEImageProcessor(do_center_crop=False).fitted_to(config)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_modes(backend, mode, photos):
    image = photos[0].convert(mode)
    assert difference(backend(), image, image.convert("RGB")) < 0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_transparent_palette(backend, photos):
    image = Image.open(io.BytesIO(encoded(photos[0].quantize(32), "gif", transparency=0)))
    assert difference(backend(), image, image.convert("RGB")) < 0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_sixteen_bits(backend, photos):
    grey = photos[0].convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    assert difference(backend(), deep, grey.convert("RGB")) < 0.5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(backend, orientation, photos):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = Image.open(io.BytesIO(encoded(photos[0], "png", exif=exif)))
    steps = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_270],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_90],
    }
    upright = photos[0]
    for step in steps[orientation]:
        upright = upright.transpose(step)
    assert difference(backend(), turned, upright) < 0.5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [1, 3, 12])
def test_any_channels_and_rectangles(backend, channels):
    config = MAEConfig.from_size("tiny", image_size=(64, 96), patch_size=16, num_channels=channels)
    processor = backend.from_model_config(config)
    array = np.random.default_rng(0).integers(0, 256, (130, 200, channels), dtype=np.uint8)
    last = torch.as_tensor(processor(array, return_tensors="pt").pixel_values)
    assert last.shape == (1, channels, 64, 96)
    first = processor(torch.from_numpy(array).permute(2, 0, 1), return_tensors="pt").pixel_values
    assert torch.equal(torch.as_tensor(first), last)
    back = processor.post_process_reconstruction(last)
    assert back.shape == (1, 64, 96, channels)
    assert back.dtype == np.uint8


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(60, 960), (200, 200), (500, 30)])
def test_rectangular_crops_cover(backend, size):
    """Undistorted, nothing padded, and 256/224 of the crop on the tighter side, whatever the
    image's shape."""
    processor = backend.from_model_config(
        MAEConfig.from_size("tiny", image_size=(32, 512), patch_size=16)
    )
    height, width = size
    scale = 256 / 224 * max(32 / height, 512 / width)
    rows = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    image = Image.fromarray(np.stack([rows.astype(np.uint8)] * 3, axis=-1))
    pixels = processor(
        image, return_tensors="np", do_rescale=False, do_normalize=False
    ).pixel_values
    pixels = np.asarray(pixels)[0, 0].astype(float)
    assert pixels.shape == (32, 512)
    share = min(1.0, 32 / (height * scale))  # of the rows that the crop shows
    assert pixels[-1].mean() - pixels[0].mean() == pytest.approx(255 * share, abs=12)
    assert pixels.std(axis=1).max() < 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_a_very_long_image_only_the_middle_is_resized(backend):
    line = Image.fromarray(np.linspace(0, 255, 20000).astype(np.uint8)[None])
    start = time.monotonic()
    pixels = backend()(line, return_tensors="np", do_rescale=False, do_normalize=False).pixel_values
    assert time.monotonic() - start < 5
    assert np.abs(np.asarray(pixels).astype(int) - 127).max() <= 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_post_process_undoes_the_normalisation(backend, photos):
    processor = backend()
    raw = processor(
        photos[1], return_tensors="np", do_rescale=False, do_normalize=False
    ).pixel_values[0]
    pixels = torch.as_tensor(processor(photos[1], return_tensors="pt").pixel_values)
    assert np.array_equal(
        processor.post_process_reconstruction(pixels)[0], np.asarray(raw).transpose(1, 2, 0)
    )
    # out of range: clipped, not wrapped
    assert processor.post_process_reconstruction(pixels + 100).min() == 255
    assert processor.post_process_reconstruction(pixels - 100).max() == 0


def test_device_normalisation_is_the_processors(photos):
    processor = MAEImageProcessor()
    raw = processor(photos, return_tensors="pt", do_rescale=False, do_normalize=False).pixel_values
    assert raw.dtype == torch.uint8
    expected = processor(photos, return_tensors="pt").pixel_values
    torch.testing.assert_close(normalize_images(raw, MEAN, STD), expected, rtol=0, atol=1e-5)


def test_round_trip(tmp_path):
    processor = MAEImageProcessor.from_model_config(
        MAEConfig.from_size("tiny", image_size=(64, 96), num_channels=1)
    )
    processor.save_pretrained(tmp_path)
    for backend, kind in (("torchvision", MAEImageProcessor), ("pil", MAEImageProcessorPil)):
        loaded = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
        assert type(loaded) is kind
        assert loaded.to_dict() == processor.to_dict()
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is MAEImageProcessor
