# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What goes wrong, by name, and the one place that tells the user of it."""

import struct
import zlib

from huggingface_hub.errors import HfHubHTTPError
from PIL import Image


# what the Hub's client raises when the network fails, whichever HTTP library it uses
NETWORK_ERRORS = HfHubHTTPError.__bases__

# what PIL raises on files that are cut off, damaged or hostile
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class ImageDecodeError(RuntimeError):
    """A file can't be decoded."""


class BadImageError(RuntimeError):
    """An image can't be decoded, or too many can't."""


class NonFiniteLossError(RuntimeError):
    """The loss of an update is NaN or infinite."""
