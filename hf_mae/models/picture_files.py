# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""A picture's file → what it holds: PIL's image where PIL has a mode for it, else a raster.

PIL has no mode for colours of 16 bits, for other than 1, 3 or 4 bands, and for what is no picture
to it: DICOM, and NumPy's .npy. Files that it opens with fewer bits or bands than they have are read
by other libraries here, or refused; nothing is made up or left out.
"""

import contextlib
import importlib.util
import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from ..errors import DECODE_ERRORS


Range = tuple[float, float]  # the values of black and white

# endings of what is read without any extra
_ENDINGS = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
    *(".jp2", ".j2k", ".pbm", ".pgm", ".ppm", ".pnm", ".tga", ".npy"),
)
# ending → (module that reads it, the extra that brings that)
_READERS = {
    ".heic": ("pillow_heif", "heif"),
    ".heif": ("pillow_heif", "heif"),
    ".dcm": ("pydicom", "scientific"),
    ".dicom": ("pydicom", "scientific"),
}
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# (flip rows, flip columns, transpose): what turns the stored pixels of each orientation upright
ARRAY_TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (True, True, False),
    4: (True, False, False),
    5: (False, False, True),
    6: (True, False, True),
    7: (True, True, True),
    8: (False, True, True),
}


class Raster(NamedTuple):
    """What a file holds for which PIL has no mode.

    Attributes:
        values: (H, W, C), as in the file.
        value_range: What the file itself calls black and white, if it does.
        has_alpha: Whether the last band is transparency.
    """

    values: np.ndarray
    value_range: Range | None = None
    has_alpha: bool = False


def readable_endings() -> tuple[str, ...]:
    """Lists the endings, in lower case, of the files that can be read with what is installed."""
    installed = [
        ending for ending, (module, _) in _READERS.items() if importlib.util.find_spec(module)
    ]
    return (*_ENDINGS, *installed)


def extra_that_reads(ending: str) -> str | None:
    """Names this package's extra that reads files of an ending, or None if none does."""
    return _READERS[ending][1] if ending in _READERS else None


def read_picture(data: bytes) -> Image.Image | Raster | np.ndarray:
    """Opens a file of any format that is read.

    Args:
        data: The file.

    Returns:
        PIL's image, not decoded yet and not turned; or, of what PIL would change, a raster; or of
        a .npy file of three sides the array.

    Raises:
        ValueError: it holds more than can be read, or needs a library that isn't installed.
        One of `errors.DECODE_ERRORS`: it is damaged, or no picture.

    Example:

    >>> buffer = io.BytesIO()
    >>> np.save(buffer, np.zeros((40, 30), np.uint16))
    >>> read_picture(buffer.getvalue()).values.shape
    (40, 30, 1)
    """
    if data.startswith(_TIFF_STARTS):
        return _read_tiff(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[24:25] == b"\x10":
        return _read_deep_png(data)
    if data.startswith(b"\x93NUMPY"):
        return _read_npy(data)
    if data[128:132] == b"DICM":
        return _read_dicom(data)
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        _import("pillow_heif", "heif", "HEIC and HEIF files").register_heif_opener()
    picture = Image.open(io.BytesIO(data))
    if picture.format == "JPEG2000":
        return _read_jpeg2000(picture, data)
    if picture.format == "PPM":
        return _read_ppm(picture)
    if picture.mode.startswith("I") or picture.mode == "F":
        return Raster(np.asarray(upright(picture))[..., None])
    return picture


def _import(module: str, extra: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f'{what} are read by {module}: pip install "hf-mae[{extra}]" ({error})'
        ) from error


# orientation -------------------------------------------------------------------------------------


def exif_orientation(picture: Image.Image) -> int:
    """Reads a picture's orientation: 1 to 8; 1, which is upright, where damaged data don't say.

    PIL's own `exif_transpose` fails on more of them.
    """
    with contextlib.suppress(*DECODE_ERRORS, AttributeError):
        return picture.getexif().get(0x0112, 1)
    return 1


def upright(picture: Image.Image) -> Image.Image:
    """Decodes a picture and turns it by its orientation."""
    picture.load()
    turn = _TRANSPOSES.get(exif_orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def _upright_values(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turns (H, W, C)."""
    flip_rows, flip_columns, transpose = ARRAY_TURNS.get(orientation, ARRAY_TURNS[1])
    if flip_rows:
        values = values[::-1]
    if flip_columns:
        values = values[:, ::-1]
    return values.swapaxes(0, 1) if transpose else values


# formats of which PIL reads a part ---------------------------------------------------------------


def check_whole(picture: Image.Image) -> None:
    """Raises ValueError if PIL has opened a file with fewer bits or bands than it has."""
    is_cut = isinstance(picture, TiffImageFile) and not _is_plain(picture, picture.n_frames)
    if isinstance(picture, PngImageFile) and picture.tile:
        is_cut = str(picture.tile[0][3]).endswith(";16B")
    if is_cut and not (picture.mode.startswith("I") or picture.mode == "F"):
        raise ValueError(
            f"PIL reads a part of this {picture.format} file's bits or bands; give its path or "
            "bytes instead"
        )


def _read_deep_png(data: bytes) -> Raster:
    """A PNG of 16 bits, of which PIL keeps 8 where it has several bands."""
    picture = Image.open(io.BytesIO(data))
    if picture.mode.startswith("I"):
        return Raster(np.asarray(upright(picture))[..., None])
    codecs = _import("imagecodecs", "scientific", "PNG files with colours of 16 bits")
    values = _upright_values(codecs.png_decode(data), exif_orientation(picture))
    return Raster(values, has_alpha=values.shape[2] in (2, 4))


def _read_jpeg2000(picture: Image.Image, data: bytes) -> Image.Image | Raster:
    start = data.find(b"\xff\x4f\xff\x51")  # of the code stream
    bits = (data[start + 42] & 0x7F) + 1  # of its first band
    if bits <= 8:
        return picture
    _refuse_lost_bits(picture, bits, single="I;16")
    values = np.asarray(picture) >> (16 - bits)  # PIL shifts them up
    return Raster(values[..., None])


def _read_ppm(picture: Any) -> Image.Image | Raster:
    options: Any = picture.tile[0][3]
    white = options[1] if isinstance(options, tuple) else 65535
    if picture.mode == "F":
        return Raster(np.asarray(picture)[..., None])
    if picture.mode == "1" or white <= 255 or options == picture.mode:
        return picture
    _refuse_lost_bits(picture, white.bit_length(), single="I")
    values = np.asarray(picture) * (white / 65535)  # PIL scales them to 16 bits
    return Raster(values.round().astype(np.uint16)[..., None], (0, white))


def _refuse_lost_bits(picture: Image.Image, bits: int, single: str) -> None:
    if picture.mode != single:
        raise ValueError(
            f"PIL reads 8 of the {bits} bits of a {picture.format} file of several bands; make it "
            "a PNG or TIFF of 16 bits"
        )


def _read_npy(data: bytes) -> Raster | np.ndarray:
    values = np.load(io.BytesIO(data), allow_pickle=False)
    return Raster(values[..., None]) if values.ndim == 2 else values


# TIFF --------------------------------------------------------------------------------------------


_DEEP_MODES = {("I;16", 16, 1), ("I;16B", 16, 1), ("I", 16, 2), ("I", 32, 2), ("F", 32, 3)}


def _read_tiff(data: bytes) -> Image.Image | Raster:
    """A TIFF: by PIL if it is a plain picture, else by tifffile.

    PIL makes three bands of five or six, four of three and an invented one, and the first page of
    many.
    """
    picture = _open_tiff(data)
    if picture is not None and _is_plain(picture):
        return picture
    try:
        tifffile = _import("tifffile", "scientific", "TIFF files of such bands, bits or pages")
    except ValueError:
        if picture is not None and _is_single_band(picture):
            return Raster(np.asarray(upright(picture))[..., None])
        raise
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        series = file.series[0]
        if picture is not None and len(series) == 1 and _is_plain(picture, pages=len(file.pages)):
            return picture  # the other pages are its miniatures
        return _raster_of(series)


def _open_tiff(data: bytes) -> TiffImageFile | None:
    with contextlib.suppress(*DECODE_ERRORS):
        picture = Image.open(io.BytesIO(data))
        return picture if isinstance(picture, TiffImageFile) else None
    return None


def _tag(picture: TiffImageFile, number: int, default: int) -> tuple[int, ...]:
    values = picture.tag_v2.get(number, default)
    return values if isinstance(values, tuple) else (values,)


def _is_plain(picture: TiffImageFile, pages: int = 1) -> bool:
    """Whether PIL reads all bits and bands of the first page, and there are no others."""
    bands, photometric = _tag(picture, 277, 1)[0], _tag(picture, 262, 1)[0]
    alpha = _tag(picture, 338, 0)[0] in (1, 2)
    has_its_bands = bands in (1, 3) or (bands == 4 and photometric == 5)
    has_its_bands = has_its_bands or (bands in (2, 4) and alpha)
    return max(_tag(picture, 258, 1)) <= 8 and has_its_bands and picture.n_frames == pages


def _is_single_band(picture: TiffImageFile) -> bool:
    """Whether PIL reads it whole, as one deep band."""
    kind = (picture.mode, _tag(picture, 258, 1)[0], _tag(picture, 339, 1)[0])
    is_one = _tag(picture, 277, 1)[0] == 1 and picture.n_frames == 1
    return kind in _DEEP_MODES and is_one and _tag(picture, 262, 1)[0] == 1


def _raster_of(series: Any) -> Raster:
    """The first series of a file read by tifffile; what isn't height or width becomes bands."""
    page = series.keyframe
    kind = page.photometric.name
    if kind not in ("MINISWHITE", "MINISBLACK", "RGB", "LINEAR_RAW"):
        raise ValueError(
            f"it is a TIFF of {page.bitspersample} bits whose values mean {kind}; give it as grey "
            "values or colours"
        )
    most = 2 * (Image.MAX_IMAGE_PIXELS or series.size)  # as PIL has it for its own
    if page.imagewidth * page.imagelength > most:
        raise ValueError(f"it is a TIFF of {page.imagewidth} x {page.imagelength} pixels")
    values = series.asarray()
    rows, columns = series.axes.index("Y"), series.axes.index("X")
    values = np.moveaxis(values, (rows, columns), (0, 1))
    values = values.reshape(*values.shape[:2], -1)  # (H, W, C)
    if kind == "MINISWHITE":
        values = _inverted(values)
    orientation = page.tags.get(274)
    values = _upright_values(values, int(orientation.value) if orientation else 1)
    has_alpha = len(series) == 1 and any(extra.value in (1, 2) for extra in page.extrasamples)
    return Raster(values, has_alpha=has_alpha)


def _inverted(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind != "u":
        raise ValueError(f"it is a TIFF of {values.dtype} whose least value is white; invert it")
    return np.iinfo(values.dtype).max - values


# DICOM -------------------------------------------------------------------------------------------


def _read_dicom(data: bytes) -> Raster:
    """A DICOM file: its values after rescale slope and intercept, black the lowest.

    What it calls black and white is its first window or, for want of that, all that its bits hold.
    """
    pydicom = _import("pydicom", "scientific", "DICOM files")
    slide = pydicom.dcmread(io.BytesIO(data))
    stored = importlib.import_module("pydicom.pixels").pixel_array(slide)
    kind = slide.PhotometricInterpretation
    if slide.SamplesPerPixel == 3:
        if stored.ndim != 3:
            raise ValueError(f"it is a DICOM file of {len(stored)} frames of colours; give frames")
        return Raster(stored)
    if not kind.startswith("MONOCHROME"):
        raise ValueError(f"it is a DICOM file of kind {kind}; MONOCHROME and RGB can be read")
    slope = float(slide.get("RescaleSlope", 1) or 1)
    intercept = float(slide.get("RescaleIntercept", 0) or 0)
    bits = int(slide.BitsStored)
    first = -(2 ** (bits - 1)) if slide.PixelRepresentation else 0
    low, high = sorted((first * slope + intercept, (first + 2**bits - 1) * slope + intercept))
    values = stored
    if (slope, intercept) != (1, 0):
        values = stored * np.float32(slope) + np.float32(intercept)
    black, white = _window(slide) or (low, high)
    if kind == "MONOCHROME1":  # the lowest is white
        values = low + high - values.astype(np.float32)
        black, white = low + high - white, low + high - black
    values = values[..., None] if values.ndim == 2 else np.moveaxis(values, 0, -1)  # of frames
    return Raster(values, (black, white))


def _window(slide: Any) -> Range | None:
    """The first window of a file: (black, white)."""
    center, width = slide.get("WindowCenter"), slide.get("WindowWidth")
    if center is None or width is None:
        return None
    center, width = float(np.atleast_1d(center)[0]), float(np.atleast_1d(width)[0])
    if slide.get("VOILUTFunction", "LINEAR") == "LINEAR" and width > 1:
        center, width = center - 0.5, width - 1  # so is it defined for whole numbers
    return (center - width / 2, center + width / 2) if width > 0 else None
