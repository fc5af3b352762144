import numpy as np
import pytest
from helpers import decode
from PIL import Image

from hf_mae.models import pictures
from hf_mae.models.pictures import array_to_pixels, image_to_array


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


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full((4, 4), 4000, np.uint16), "less than a sixteenth of their value range"),
        (np.linspace(-0.05, 1.3, 16).reshape(4, 4), "are clipped"),
        (np.full((4, 4), 50000, np.uint16), None),
        (np.linspace(0, 1, 16).reshape(4, 4), None),
    ],
)
def test_doubtful_values_are_said_once(values, said, monkeypatch):
    messages = []
    monkeypatch.setattr(pictures.logger, "warning_once", messages.append)
    array_to_pixels(values)
    assert len(messages) == (said is not None)
    assert said is None or said in messages[0]


def test_the_scale_is_not_each_image_s_own():
    """Reflectances a little outside are clipped; whole numbers are scaled by their depth."""
    ramp = np.linspace(0, 1, 64)[None]
    plain = array_to_pixels(ramp)[0, :, 0].astype(int)
    for top in (1.05, 1.9):
        found = array_to_pixels(ramp * top)[0, :, 0].astype(int)
        assert found.tolist() == np.clip(ramp[0] * top * 255, 0, 255).round().tolist()
    assert plain.tolist() == (ramp[0] * 255).round().tolist()
    eight = array_to_pixels((ramp * 255).round().astype(np.int32))[0, :, 0]
    assert eight.tolist() == (ramp[0] * 255).round().tolist()


def test_arrays_are_pictures_of_any_kind():
    rng = np.random.default_rng(0)
    fractions = rng.random((8, 8, 3))
    assert np.abs(decode(fractions, 3) - fractions * 255).max() <= 0.5
    assert (decode(np.full((8, 8, 3), 25_700), 3) == 100).all()  # of 16 bits
    colours = rng.integers(0, 256, (8, 8, 4), dtype=np.uint8)
    assert np.array_equal(decode(colours, 3), colours[..., :3])  # transparency is dropped
    assert np.array_equal(decode(colours[..., 0], 3), colours[..., [0, 0, 0]])
