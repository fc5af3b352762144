"""What a file holds is what is read, or it is refused: against the values that were written."""

import io
import subprocess
import sys

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
from helpers import encoded
from PIL import Image

from hf_mae import MAEImageProcessor
from hf_mae.models.picture_files import extra_that_reads, read_picture, readable_endings
from hf_mae.models.pictures import Values, picture_values, to_pixels


RNG = np.random.default_rng(0)


def tiff(values, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def values_of(data, num_channels=None, bands=None):
    return picture_values(read_picture(data), num_channels, bands)[0]


# TIFF --------------------------------------------------------------------------------------------


KINDS = {"uint8": 200, "uint16": 4096, "int16": 3000, "int32": 70000, "float32": 1.05}


def noise(shape, dtype):
    top = {**KINDS, "int8": 100, "float64": 3}[dtype]
    values = RNG.random(shape) * top - (0 if dtype.startswith("u") else top / 3)
    return values.astype(dtype)


def tiff_of(values, layout):
    """A file of (H, W, C) in one of many forms."""
    bands = values.shape[2]
    planes = np.moveaxis(values, 2, 0)
    contiguous = {"photometric": "minisblack", "planarconfig": "contig" if bands > 1 else None}
    if layout == "interleaved":
        return tiff(values, **contiguous)
    if layout == "planes":
        separate = "separate" if bands > 1 else None
        return tiff(planes, photometric="minisblack", planarconfig=separate)
    if layout == "pages":
        return tiff(planes, photometric="minisblack")
    if layout == "RGB":
        extra = ["unspecified"] * (bands - 3)
        return tiff(values, photometric="rgb", planarconfig="contig", extrasamples=extra or None)
    if layout == "LZW":
        return tiff(values, predictor=True, compression="lzw", **contiguous)
    return tiff(values, tile=(16, 16), bigtiff=True, **contiguous)


@pytest.mark.parametrize("dtype", [*KINDS, "int8", "float64"])
@pytest.mark.parametrize("layout", ["interleaved", "planes", "pages", "RGB", "LZW", "tiles"])
def test_every_band_of_a_tiff_is_there(dtype, layout):
    """Also those that PIL drops (five become three), makes up, or takes for pages."""
    for bands in (3, 4, 5, 12) if layout == "RGB" else (1, 2, 3, 4, 5, 12):
        values = noise((40, 33, bands), dtype)
        data = tiff_of(values, layout)
        found = values_of(data, num_channels=bands if bands != 2 else None)
        assert found.shape == values.shape
        assert np.array_equal(found, values)
        if bands > 4:
            with pytest.raises(ValueError, match=f"{bands} bands can't become one of 3; choose 3"):
                values_of(data, num_channels=3)
            assert np.array_equal(values_of(data, 3, bands=(5, 3, 2)), values[..., [4, 2, 1]])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_transparency_of_a_tiff_is_no_band(dtype):
    values = noise((40, 33, 4), dtype)
    data = tiff(values, photometric="rgb", extrasamples=["unassalpha"])
    assert np.array_equal(values_of(data, 3), values[..., :3])
    assert np.array_equal(values_of(data, 4), values)
    grey = tiff(values[..., :2], photometric="minisblack", extrasamples=["unassalpha"])
    assert np.array_equal(values_of(grey, 1), values[..., :1])


def test_pages_of_colours_and_miniatures():
    pages = noise((3, 40, 33, 3), "uint8")
    data = tiff(pages, photometric="rgb")
    assert np.array_equal(values_of(data, 3, bands=(4, 5, 6)), pages[1])
    with pytest.raises(ValueError, match="9 bands can't become one of 3"):
        values_of(data, 3)
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(pages[0], photometric="rgb")
        file.write(pages[0, ::2, ::2].copy(), photometric="rgb", subfiletype=1)
    assert np.array_equal(values_of(buffer.getvalue(), 3), pages[0])


def test_least_values_may_be_white():
    values = noise((40, 33), "uint16")
    assert np.array_equal(values_of(tiff(values, photometric="miniswhite"))[..., 0], 65535 - values)
    assert np.array_equal(
        values_of(tiff(values.astype(np.uint8), photometric="miniswhite"))[..., 0],
        255 - values.astype(np.uint8),
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_tiff(orientation):
    values = noise((40, 33, 5), "uint16")
    data = tiff(values, planarconfig="contig", extratags=[(274, 3, 1, orientation, True)])
    eight = tiff(values.astype(np.uint8)[..., 0], extratags=[(274, 3, 1, orientation, True)])
    expected = values_of(eight)[..., 0]  # PIL's
    assert np.array_equal(values_of(data).astype(np.uint8)[..., 0], expected)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_packed_bits_and_white_that_is_least(bits):
    values = RNG.integers(0, 2**bits, (40, 33)).astype(np.uint16)
    plain = read_picture(tiff(values, bitspersample=bits))
    assert plain.value_range == (0, 2**bits - 1)
    assert np.array_equal(plain.values[..., 0], values)
    inverse = read_picture(tiff(values, bitspersample=bits, photometric="miniswhite"))
    assert np.array_equal(inverse.values[..., 0], 2**bits - 1 - values)


def test_pages_that_are_no_bands():
    """Masks and smaller pictures of the same are passed over, wherever they stand; others aren't
    left out in silence."""
    colours = noise((40, 33, 3), "uint8")
    small, mask = colours[::2, ::2].copy(), np.ones((40, 33), bool)
    for dtype in (np.uint8, np.uint16):
        for order in (("whole", "mask", "small"), ("small", "whole")):
            buffer = io.BytesIO()
            with tifffile.TiffWriter(buffer) as file:
                for name in order:
                    if name == "whole":
                        file.write(colours.astype(dtype), photometric="rgb")
                    elif name == "small":
                        file.write(small.astype(dtype), photometric="rgb", subfiletype=1)
                    else:
                        file.write(mask, photometric="mask", subfiletype=4)
            assert np.array_equal(values_of(buffer.getvalue(), 3), colours)
    for others in ([colours[:20, :20, 0].copy()], [colours[..., 0].astype(np.uint16)]):
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as file:
            for page in (colours[..., 0].copy(), *others):
                file.write(page)
        with pytest.raises(ValueError, match="TIFF of 2 pictures of different kinds"):
            read_picture(buffer.getvalue())


@pytest.mark.parametrize(
    ("nodata", "dtype"), [("-9999", "float32"), ("nan", "float32"), ("0", "uint16")]
)
def test_nodata_of_geotiffs_is_black(nodata, dtype):
    values = (RNG.random((40, 33, 2)) * 800 + 100).astype(dtype)
    values[:10, :, 1] = float(nodata)
    tags = [(42113, "s", 0, nodata, True)]
    raster = read_picture(
        tiff(values, planarconfig="contig", photometric="minisblack", extratags=tags)
    )
    array, _ = picture_values(raster)
    assert array.min() >= 100  # what a sample of the data set sees
    pixels = to_pixels(raster, values=Values(value_range=(0, 1000)))
    assert (pixels[:10, :, 1] == 0).all()
    np.testing.assert_allclose(pixels[10:], values[10:] * 0.255, atol=1e-3)


def test_bombs_are_refused():
    data = bytearray(tiff(noise((40, 33), "uint16")))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        for tag in (256, 257):
            place = file.pages[0].tags[tag].valueoffset
            data[place : place + 4] = (60_000).to_bytes(4, "little")
    with pytest.raises(
        ValueError, match="60,000 x 60,000 pixels, and max_image_pixels is 100,000,000"
    ):
        read_picture(bytes(data))


def test_a_tiff_of_other_colours_is_refused():
    data = tiff(noise((40, 33, 4), "uint16"), photometric="separated")
    with pytest.raises(ValueError, match="TIFF of 16 bits whose values mean SEPARATED"):
        read_picture(data)


def test_pictures_opened_by_others():
    """PIL has dropped bands of them already."""
    for data in (
        tiff(noise((40, 33, 5), "uint8"), photometric="rgb"),
        tiff(noise((40, 33, 3), "uint16"), photometric="rgb"),
        deep_png(noise((40, 33, 3), "uint16")),
    ):
        with pytest.raises(ValueError, match="PIL reads a part of this"):
            MAEImageProcessor()(Image.open(io.BytesIO(data)))
    plain = Image.open(io.BytesIO(tiff(noise((40, 33, 3), "uint8"), photometric="rgb")))
    assert MAEImageProcessor()(plain, return_tensors="pt").pixel_values.shape == (1, 3, 224, 224)


# other files -------------------------------------------------------------------------------------


def deep_png(values):
    """A PNG of 16 bits: torchvision writes none, so it is put together by hand."""
    import struct
    import zlib

    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = values.astype(">u2").tobytes()
    length = width * channels * 2
    lines = b"".join(b"\0" + rows[i * length : (i + 1) * length] for i in range(height))

    def chunk(name, body):
        check = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_png_of_16_bits(channels):
    values = noise((40, 33, channels), "uint16") * 16
    data = deep_png(values)
    colours = {1: 1, 2: 1, 3: 3, 4: 3}[channels]
    assert np.array_equal(values_of(data, colours), values[..., :colours])
    assert np.allclose(
        to_pixels(read_picture(data), colours), values[..., :colours] * (255 / 65535)
    )
    if channels == 4:
        assert np.array_equal(values_of(data, 4), values)


@pytest.mark.parametrize("white", [255, 1000, 4095, 65535])
def test_pgm(white):
    values = RNG.integers(0, white + 1, (40, 33)).astype(np.uint16)
    body = values.astype(np.uint8 if white < 256 else ">u2").tobytes()
    data = b"P5 33 40 %d\n" % white + body
    assert np.array_equal(values_of(data)[..., 0], values)
    assert np.allclose(to_pixels(read_picture(data))[..., 0], values * (255 / white), atol=1e-3)
    if white > 255:
        with pytest.raises(ValueError, match="PIL reads 8 of the 1[026] bits of a PPM file"):
            read_picture(b"P6 33 40 %d\n" % white + body * 3)


def test_jpeg_2000():
    for low, high, shape in ((0, 4096, (40, 33)), (-500, 500, (40, 33)), (0, 1024, (40, 33, 3))):
        values = RNG.integers(low, high, shape).astype(np.int16 if low < 0 else np.uint16)
        bits = {4096: 12, 1024: 10}.get(high)
        data = imagecodecs.jpeg2k_encode(values, level=0, bitspersample=bits)
        assert np.array_equal(values_of(data).squeeze(), values)
    colours = Image.effect_noise((40, 33), 90).convert("RGB")
    data = encoded(colours, "jpeg2000", irreversible=False)
    assert np.array_equal(values_of(data, 3), np.asarray(colours))


def test_heic_and_avif_of_10_bits():
    """PIL and pillow_heif would keep 8."""
    rows, columns = np.mgrid[:64, :64]
    ramp = (rows * 64 + columns) // 4
    values = np.dstack([ramp, ramp, ramp]).astype(np.uint16)
    avif = imagecodecs.avif_encode(values, level=100, bitspersample=10)
    buffer = io.BytesIO()
    deep = pillow_heif.from_bytes("RGB;16", (64, 64), (values * 64).astype("<u2").tobytes())
    deep.save(buffer, quality=100)
    for data in (avif, buffer.getvalue()):
        raster = read_picture(data)
        assert raster.value_range == (0, 1023)
        assert np.abs(raster.values.astype(int) - values).max() < 12
        assert len(np.unique(to_pixels(raster, 3))) > 300


@pytest.mark.parametrize("shape", [(40, 33), (40, 33, 5), (5, 40, 33), (40, 33, 1)])
@pytest.mark.parametrize("dtype", KINDS)
def test_npy(shape, dtype):
    values = noise(shape, dtype)
    buffer = io.BytesIO()
    np.save(buffer, values)
    bands = 5 if 5 in shape else 1
    expected = np.moveaxis(values, 0, -1) if shape[0] == 5 else values.reshape(40, 33, -1)
    assert np.array_equal(values_of(buffer.getvalue(), bands), expected)
    assert np.array_equal(values_of(buffer.getvalue(), 1, bands=(bands,)), expected[..., -1:])


def test_npy_of_objects_is_refused():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        read_picture(buffer.getvalue())


def test_heic_and_avif(photos):
    pillow_heif.register_heif_opener()
    for kind in ("heif", "avif"):
        data = encoded(photos[0], kind, quality=95)
        found = values_of(data, 3).astype(int)
        assert np.abs(found - np.asarray(photos[0])).mean() < 4


def test_endings():
    assert {".tif", ".npy", ".dcm", ".heic", ".avif"} <= set(readable_endings())
    assert (extra_that_reads(".heic"), extra_that_reads(".dcm")) == ("heif", "scientific")
    assert extra_that_reads(".docx") is None


# without the libraries ---------------------------------------------------------------------------


def test_without_the_extras(tmp_path):
    """What PIL reads whole is read; the rest names what to install."""
    grey = noise((40, 33), "uint16")
    (tmp_path / "grey.tif").write_bytes(tiff(grey))
    (tmp_path / "bands.tif").write_bytes(tiff(noise((40, 33, 5), "uint8"), photometric="rgb"))
    (tmp_path / "ct.dcm").write_bytes(bytes(128) + b"DICM")
    pillow_heif.register_heif_opener()  # and what writes such files
    heic = encoded(Image.new("RGB", (64, 64)), "heif")
    (tmp_path / "phone.heic").write_bytes(heic)
    np.save(tmp_path / "grey.npy", grey)
    code = (
        "import sys\n"
        "for name in ('tifffile', 'pydicom', 'pillow_heif'): sys.modules[name] = None\n"
        "import numpy as np\n"
        "from hf_mae.models.pictures import open_picture\n"
        "grey = open_picture('grey.tif').values[..., 0]\n"
        "print(np.array_equal(grey, np.load('grey.npy')))\n"
        "for name in ('bands.tif', 'ct.dcm', 'phone.heic'):\n"
        "    try: open_picture(name)\n"
        "    except ValueError as error: print(error)\n"
        "from hf_mae.data.image_files import describe_files, read_contents\n"
        "from pathlib import Path\n"
        "print(describe_files(read_contents(Path('.')).others))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "True", done.stderr
    for line, name, extra in zip(
        lines[1:4], ("tifffile", "pydicom", "pillow_heif"), ("scientific", "scientific", "heif")
    ):
        assert f'are read by {name}: pip install "hf-mae[{extra}]"' in line
    left_out = (
        '2 files left out: 1 .dcm, 1 .heic; pip install "hf-mae[heif,scientific]" to read them'
    )
    assert lines[4:] == [left_out]
