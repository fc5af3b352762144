# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""A picture's file → what it holds: PIL's image where PIL has a mode for it, else a raster.

PIL has no mode for colours of 16 bits, for other than 1, 3 or 4 bands, and for what is no picture
to it: DICOM, and NumPy's .npy. Files that it opens with fewer bits or bands than they have are read
by other libraries here, or refused; nothing is made up or left out.
"""

import contextlib
import importlib.util
import io
import re
import sys
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from ..errors import DECODE_ERRORS
from .orientation import exif_orientation, upright, upright_values
from .picture_size import MAX_IMAGE_PIXELS, check_shape, check_size, open_by_pil


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
# in the text of PNG and TIFF files, of prepared sets: the values of black and white
_STATED_RANGE = re.compile(r"value range: (\S+) to (\S+)")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class Raster(NamedTuple):
    """What a file holds for which PIL has no mode.

    Attributes:
        values: (H, W, C), as in the file; of an array (H, W), (H, W, C) or (C, H, W).
        value_range: What the file itself calls black and white, if it does.
        is_colour: Whether the bands are grey or red, green and blue.
        has_alpha: Whether the last band is transparency.
        missing: Where (H, W, C) the file says that there is no value, if it does.
        is_array: Whether the channels of `values` may be first.
    """

    values: np.ndarray
    value_range: Range | None = None
    is_colour: bool = False
    has_alpha: bool = False
    missing: np.ndarray | None = None
    is_array: bool = False


def state_range(value_range: Range) -> str:
    """Says which values are black and white, in words that `stated_range` reads.

    Example:

    >>> stated_range(state_range((-1000, 1000)))
    (-1000.0, 1000.0)
    """
    low, high = map(float, value_range)
    return f"value range: {low!r} to {high!r}"


def stated_range(text: Any) -> Range | None:
    """Reads what `state_range` has written; None of any other text."""
    match = _STATED_RANGE.fullmatch(str(text))
    return (float(match[1]), float(match[2])) if match else None


def readable_endings() -> tuple[str, ...]:
    """Lists the endings, in lower case, of the files that can be read with what is installed."""
    installed = [
        ending for ending, (module, _) in _READERS.items() if importlib.util.find_spec(module)
    ]
    return (*_ENDINGS, *installed)


def extra_that_reads(ending: str) -> str | None:
    """Names this package's extra that reads files of an ending, or None if none does."""
    return _READERS[ending][1] if ending in _READERS else None


def read_picture(data: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image | Raster:
    """Opens a file of any format that is read.

    Args:
        data: The file.
        max_pixels: As many are decoded at most, as `open_by_pil` says.

    Returns:
        PIL's image, not decoded yet and not turned; or, of what PIL would change, a raster.

    Raises:
        ValueError: it holds more than can be read, or than is allowed, or needs a library that
            isn't installed.
        One of `errors.DECODE_ERRORS`: it is damaged, or no picture.

    Example:

    >>> buffer = io.BytesIO()
    >>> np.save(buffer, np.zeros((40, 30), np.uint16))
    >>> read_picture(buffer.getvalue()).values.shape
    (40, 30)
    """
    if data.startswith(_TIFF_STARTS):
        return _read_tiff(data, max_pixels)
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[24:25] == b"\x10":
        return _read_deep_png(data, max_pixels)
    if data.startswith(b"\x93NUMPY"):
        return _read_array(data, max_pixels)
    if data[128:132] == b"DICM" or _is_bare_dicom(data):
        return _read_dicom(data, max_pixels)
    if data[4:8] == b"ftyp":
        return _read_heif(data, max_pixels)
    picture = open_by_pil(data, max_pixels)
    if picture.format == "JPEG2000":
        return _read_jpeg2000(picture, data)
    if picture.format == "PPM":
        return _read_ppm(picture)
    return raster_of_band(picture) if has_deep_band(picture) else picture


def _import(module: str, extra: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f'{what} are read by {module}: pip install "hf-mae[{extra}]" ({error})'
        ) from error


def _read_array(data: bytes, max_pixels: int) -> Raster:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    reads = {(1, 0): np.lib.format.read_array_header_1_0}
    shape, _, _ = reads.get(version, np.lib.format.read_array_header_2_0)(file)
    check_shape(max_pixels, shape)
    return Raster(np.load(io.BytesIO(data), allow_pickle=False), is_array=True)


# formats of which PIL reads a part ---------------------------------------------------------------


def has_deep_band(picture: Image.Image) -> bool:
    """Whether PIL reads a picture as one band of more than 8 bits."""
    return picture.mode.startswith("I") or picture.mode == "F"


def raster_of_band(picture: Image.Image) -> Raster:
    """Decodes a picture of one band, with all its bits."""
    return Raster(np.asarray(upright(picture))[..., None])


def check_whole(picture: Image.Image) -> None:
    """Raises ValueError if PIL has opened several bands with fewer bits or bands than there are."""
    is_cut = isinstance(picture, TiffImageFile) and not _is_plain(picture, among_others=True)
    if isinstance(picture, PngImageFile) and picture.tile:
        is_cut = str(picture.tile[0][3]).endswith(";16B")
    if is_cut:
        raise ValueError(
            f"PIL reads a part of this {picture.format} file's bits or bands; give its path or "
            "bytes instead"
        )


def _read_deep_png(data: bytes, max_pixels: int) -> Raster:
    """A PNG of 16 bits, of which PIL keeps 8 where it has several bands."""
    picture = open_by_pil(data, max_pixels)
    value_range = stated_range(picture.info.get("Description"))
    if has_deep_band(picture):
        return raster_of_band(picture)._replace(value_range=value_range)
    codecs = _import("imagecodecs", "scientific", "PNG files with colours of 16 bits")
    values = upright_values(codecs.png_decode(data), exif_orientation(picture))
    return Raster(values, value_range, is_colour=True, has_alpha=values.shape[2] in (2, 4))


def _read_heif(data: bytes, max_pixels: int) -> Image.Image | Raster:
    """A HEIC, HEIF or AVIF file; PIL keeps 8 bits of more."""
    start = data.find(b"av1C")
    if start >= 0:  # AVIF: its third byte says how deep it is
        picture = open_by_pil(data, max_pixels)
        if not data[start + 6] & 0x40:
            return picture
        codecs = _import("imagecodecs", "scientific", "AVIF files of more than 8 bits")
        values, bits = codecs.avif_decode(data), 12 if data[start + 6] & 0x20 else 10
    else:
        heif = _import("pillow_heif", "heif", "HEIC and HEIF files")
        heif.register_heif_opener()
        picture = open_by_pil(data, max_pixels)
        file = heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
        bits = file.info["bit_depth"]
        if bits <= 8:
            return picture
        values = np.asarray(file) >> (16 - bits)  # it shifts them up
    values = values.reshape(*values.shape[:2], -1)
    has_alpha = values.shape[2] in (2, 4)
    return Raster(values, (0, 2**bits - 1), is_colour=True, has_alpha=has_alpha)


def _read_jpeg2000(picture: Image.Image, data: bytes) -> Image.Image | Raster:
    """A JPEG 2000 file; of more than 8 bits, or with a sign, PIL shifts and cuts the values."""
    start = data.find(b"\xff\x4f\xff\x51")  # of the code stream
    depth = data[start + 42]  # of its first band: a sign, and the bits but one
    if depth < 8:
        return picture
    codecs = _import("imagecodecs", "scientific", "JPEG 2000 files of more than 8 bits")
    values = codecs.jpeg2k_decode(data)
    is_colour = picture.mode in ("RGB", "RGBA", "LA")
    values = values.reshape(*values.shape[:2], -1)
    return Raster(values, is_colour=is_colour, has_alpha=picture.mode in ("RGBA", "LA"))


def _read_ppm(picture: Any) -> Image.Image | Raster:
    options: Any = picture.tile[0][3]
    white = options[1] if isinstance(options, tuple) else 65535
    if picture.mode == "F":
        return raster_of_band(picture)
    if picture.mode == "1" or white <= 255 or options == picture.mode:
        return picture
    if picture.mode != "I":
        raise ValueError(
            f"PIL reads 8 of the {white.bit_length()} bits of a PPM file of several bands; make it "
            "a PNG or TIFF of 16 bits"
        )
    values = np.asarray(picture) * (white / 65535)  # PIL scales them to 16 bits
    return Raster(values.round().astype(np.uint16)[..., None], (0, white))


# TIFF --------------------------------------------------------------------------------------------


_ALPHAS = (1, 2)  # of ExtraSamples; 0 is a band like any other
_DEEP_MODES = {("I;16", 16, 1), ("I;16B", 16, 1), ("I", 16, 2), ("I", 32, 2), ("F", 32, 3)}


def _read_tiff(data: bytes, max_pixels: int) -> Image.Image | Raster:
    """A TIFF: by PIL if it is a plain picture, else by tifffile.

    PIL makes three bands of five or six, four of three and an invented one, and the first page of
    many.
    """
    picture = _open_tiff(data)
    if picture is not None:
        check_size(max_pixels, picture.height, picture.width)
        if _is_plain(picture):
            return picture
    try:
        tifffile = _import("tifffile", "scientific", "TIFF files of such bands, bits or pages")
    except ValueError:
        if picture is not None and _is_single_band(picture):
            return raster_of_band(picture)
        raise
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        series = _find_series(file)
        is_first = series.keyframe is file.pages[0] and len(series) == 1
        if picture is not None and is_first and _is_plain(picture, among_others=True):
            return picture
        return _raster_of(series, max_pixels)


def _find_series(file: Any) -> Any:
    """Finds the picture of a file: its pages but for masks, and pictures of it that are smaller.

    Raises:
        ValueError: it holds several.
    """
    wholes = []
    for series in file.series:
        if not (series.keyframe.is_reduced or series.keyframe.is_mask):
            wholes.append(series)
    if len(wholes) != 1:
        shapes = [" x ".join(map(str, series.shape)) for series in wholes]
        raise ValueError(
            f"it is a TIFF of {len(wholes)} pictures of different kinds ({', '.join(shapes)}); "
            "give a file each"
        )
    return wholes[0]


def _open_tiff(data: bytes) -> TiffImageFile | None:
    with contextlib.suppress(*DECODE_ERRORS):
        picture = open_by_pil(data, sys.maxsize)
        return picture if isinstance(picture, TiffImageFile) else None
    return None


def _tag(picture: TiffImageFile, number: int, default: int) -> tuple[int, ...]:
    values = picture.tag_v2.get(number, default)
    return values if isinstance(values, tuple) else (values,)


def _is_plain(picture: TiffImageFile, among_others: bool = False) -> bool:
    """Whether PIL reads all bits and bands of the first page, and it is the only one."""
    bands, photometric = _tag(picture, 277, 1)[0], _tag(picture, 262, 1)[0]
    has_alpha = _tag(picture, 338, 0)[0] == 2
    has_its_bands = bands in (1, 3) or (bands == 4 and photometric == 5)
    has_its_bands = has_its_bands or (bands in (2, 4) and has_alpha)
    has_its_bits = max(_tag(picture, 258, 1)) <= 8 and max(_tag(picture, 339, 1)) == 1
    return has_its_bits and has_its_bands and (among_others or _count_pages(picture) == 1)


def _count_pages(picture: TiffImageFile) -> int:
    """Counts the pages; 0 where PIL fails on one of them, as on masks."""
    with contextlib.suppress(*DECODE_ERRORS):
        return picture.n_frames
    return 0


def _is_single_band(picture: TiffImageFile) -> bool:
    """Whether PIL reads it whole, as one deep band."""
    kind = (picture.mode, _tag(picture, 258, 1)[0], _tag(picture, 339, 1)[0])
    is_one = _tag(picture, 277, 1)[0] == 1 and _count_pages(picture) == 1
    return kind in _DEEP_MODES and is_one and _tag(picture, 262, 1)[0] == 1


def _raster_of(series: Any, max_pixels: int) -> Raster:
    """The first series of a file read by tifffile; what isn't height or width becomes bands."""
    page = series.keyframe
    kind = page.photometric.name
    if kind not in ("MINISWHITE", "MINISBLACK", "RGB", "LINEAR_RAW"):
        raise ValueError(
            f"it is a TIFF of {page.bitspersample} bits whose values mean {kind}; give it as grey "
            "values or colours"
        )
    num_bands = series.size // (page.imagelength * page.imagewidth)
    check_size(max_pixels, page.imagelength, page.imagewidth, num_bands)
    values = series.asarray()
    rows, columns = series.axes.index("Y"), series.axes.index("X")
    values = np.moveaxis(values, (rows, columns), (0, 1))
    values = values.reshape(*values.shape[:2], -1)  # (H, W, C)
    missing = _find_missing(values, page.nodata) if 42113 in page.tags else None
    bits = page.bitspersample
    if kind == "MINISWHITE":
        if values.dtype.kind != "u":
            raise ValueError(
                f"it is a TIFF of {values.dtype} whose least value is white; invert it"
            )
        values = (2**bits - 1) - values
    orientation = page.tags.get(274)
    turn = int(orientation.value) if orientation else 1
    packed_range = (0, 2**bits - 1) if bits % 8 else None  # of 12 bits
    return Raster(
        upright_values(values, turn),
        value_range=stated_range(page.description) or packed_range,
        is_colour=len(series) == 1 and kind == "RGB",
        has_alpha=len(series) == 1 and any(extra in _ALPHAS for extra in page.extrasamples),
        missing=None if missing is None else upright_values(missing, turn),
    )


def _find_missing(values: np.ndarray, nodata: float) -> np.ndarray:
    return np.isnan(values) if np.isnan(nodata) else values == nodata


# DICOM -------------------------------------------------------------------------------------------


def _is_bare_dicom(data: bytes) -> bool:
    """Whether a file starts with DICOM's first elements, without the preamble."""
    return data[:4] in (b"\2\0\0\0", b"\2\0\1\0", b"\x08\0\0\0", b"\x08\0\5\0", b"\x08\0\x16\0")


def _read_dicom(data: bytes, max_pixels: int) -> Raster:
    """A DICOM file: its values after rescale slope and intercept, black the lowest.

    What it calls black and white is its first window or, for want of that and of a rescaling, all
    that its bits hold.
    """
    pydicom = _import("pydicom", "scientific", "DICOM files")
    slide = pydicom.dcmread(io.BytesIO(data), force=True)
    try:
        return _raster_of_dicom(slide, max_pixels)
    except (AttributeError, NotImplementedError) as error:  # pydicom's: elements, compressions
        raise ValueError(f"it is a DICOM file without a readable picture: {error}") from error


def _raster_of_dicom(slide: Any, max_pixels: int) -> Raster:
    pixels = importlib.import_module("pydicom.pixels")
    num_bands = slide.SamplesPerPixel * int(slide.get("NumberOfFrames") or 1)
    check_size(max_pixels, slide.Rows, slide.Columns, num_bands)
    stored = pixels.pixel_array(slide)
    kind = slide.PhotometricInterpretation
    if slide.SamplesPerPixel == 3:
        if stored.ndim != 3:
            raise ValueError(
                f"it is a DICOM file of {len(stored)} pictures in colour; give one each"
            )
        return Raster(stored, is_colour=True)
    if not kind.startswith("MONOCHROME"):
        raise ValueError(f"it is a DICOM file of kind {kind}; MONOCHROME and RGB can be read")
    rescaling = _find_group(slide, "PixelValueTransformationSequence")
    values = pixels.apply_modality_lut(stored, rescaling)
    is_rescaled = "RescaleSlope" in rescaling or "ModalityLUTSequence" in rescaling
    first = -(2 ** (slide.BitsStored - 1)) if slide.PixelRepresentation else 0
    ends = np.array([first, first + 2**slide.BitsStored - 1])
    value_range = _window(_find_group(slide, "FrameVOILUTSequence"))
    if value_range is None and not is_rescaled:
        value_range = (float(ends[0]), float(ends[1]))
    if kind == "MONOCHROME1":  # the lowest is white
        ends = pixels.apply_modality_lut(ends.astype(stored.dtype), rescaling)
        mirror = float(ends[0]) + float(ends[1])
        values = mirror - values.astype(np.float32)
        if value_range is not None:
            value_range = (mirror - value_range[1], mirror - value_range[0])
    missing = _find_padding(slide, stored)
    if stored.ndim == 3:  # frames, which are bands
        values, missing = np.moveaxis(values, 0, -1), np.moveaxis(missing, 0, -1)
    shape = (*values.shape[:2], -1)
    missing = missing.reshape(shape) if missing.any() else None
    values = values.reshape(shape)
    return Raster(
        values.astype(np.float32) if is_rescaled else values, value_range, missing=missing
    )


def _find_group(slide: Any, name: str) -> Any:
    """Finds the data set with a functional group of all frames; without such it is the file's own.

    Raises:
        ValueError: frames have different ones.
    """
    groups = [slide.get("SharedFunctionalGroupsSequence") or []]
    groups.append(slide.get("PerFrameFunctionalGroupsSequence") or [])
    found = []
    for frame in (*groups[0], *groups[1]):
        if name in frame and frame[name].value[0] not in found:
            found.append(frame[name].value[0])
    if len(found) > 1:
        raise ValueError(f"it is a DICOM file whose frames differ in {name}; give a file a frame")
    return found[0] if found else slide


def _find_padding(slide: Any, stored: np.ndarray) -> np.ndarray:
    """Where the stored values are those around the picture."""
    padding = slide.get("PixelPaddingValue")
    if padding is None:
        return np.zeros(stored.shape, bool)
    low, high = sorted((padding, slide.get("PixelPaddingRangeLimit", padding)))
    return (stored >= low) & (stored <= high)


def _window(slide: Any) -> Range | None:
    """The first window of a file: (black, white)."""
    center, width = slide.get("WindowCenter"), slide.get("WindowWidth")
    if center is None or width is None:
        return None
    center, width = float(np.atleast_1d(center)[0]), float(np.atleast_1d(width)[0])
    if slide.get("VOILUTFunction", "LINEAR") == "LINEAR" and width > 1:
        center, width = center - 0.5, width - 1  # so is it defined for whole numbers
    return (center - width / 2, center + width / 2) if width > 0 else None
