import io
import time

import numpy as np
import pytest
import torch
from helpers import encoded
from PIL import Image
from torchvision import transforms
from transformers import AutoImageProcessor

from hf_mae import MAEConfig, MAEImageProcessor, MAEImageProcessorPil
from hf_mae.models.image_processing_mae import image_to_array, normalize_images


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
REFERENCE = transforms.Compose(
    [
        transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(224),
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
    """A one-pixel chessboard survives no shift: every odd and even margin must be cropped where
    torchvision does."""
    processor = backend(
        do_resize=False, do_normalize=False, do_rescale=False, crop_size={"height": 32, "width": 32}
    )
    crop = transforms.CenterCrop(32)
    rows, columns = np.indices((80, 80))
    board = ((rows * 7 + columns * 13) % 256).astype(np.uint8)
    for height in range(32, 44):
        for width in range(32, 44):
            image = Image.fromarray(np.stack([board[:height, :width]] * 3, axis=-1))
            ours = np.asarray(processor(image, return_tensors="np").pixel_values[0]).transpose(
                1, 2, 0
            )
            assert np.array_equal(ours, np.asarray(crop(image))), (height, width)


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


def test_damaged_exif_doesn_t_matter(photos):
    class Damaged(Image.Image):
        def getexif(self):
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "as in ImageNet's n04532106_1553")

    image = Damaged()
    image.__setstate__(photos[0].__getstate__())
    assert np.array_equal(image_to_array(image, 3), np.asarray(photos[0]))


def test_depths():
    values = np.array([[0, 128, 65535]], dtype=np.uint16)
    assert image_to_array(Image.fromarray(values), 1)[..., 0].tolist() == [[0, 0, 255]]
    assert (
        image_to_array(Image.fromarray(np.full((2, 2), 200, np.uint16)), 1).max() == 1
    )  # by depth, not by content
    assert image_to_array(Image.fromarray(values.astype(np.int32)), 1)[..., 0].tolist() == [
        [0, 0, 255]
    ]
    assert image_to_array(Image.fromarray(np.float32([[0, 0.5, 1]])), 1)[..., 0].tolist() == [
        [0, 128, 255]
    ]
    assert image_to_array(Image.fromarray(np.float32([[0, 90, 180]])), 3)[0, :, 2].tolist() == [
        0,
        90,
        180,
    ]
    with pytest.raises(ValueError, match="not finite"):
        image_to_array(Image.fromarray(np.float32([[0, np.nan]])), 1)
    with pytest.raises(ValueError, match="can't become 12 channels"):
        image_to_array(Image.new("RGB", (4, 4)), 12)


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
