# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What goes wrong, by name, and the one place that tells the user of it."""

import contextlib
import os
import signal
import struct
import sys
import zlib
from collections.abc import Iterator

from huggingface_hub import get_token
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image
from safetensors import SafetensorError


# what the Hub's client raises when the network fails, whichever HTTP library it uses
NETWORK_ERRORS: tuple[type[Exception], ...] = HfHubHTTPError.__bases__  # pyright: ignore[reportAssignmentType]

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
    """The loss or gradient of an update, or a weight, is NaN or infinite."""


class Stopped(KeyboardInterrupt):
    """It was asked to stop.

    Args:
        message: What is kept; empty where another process says so.
        number: The signal that asked.
    """

    def __init__(self, message: str, number: signal.Signals = signal.SIGINT):
        super().__init__(message)
        self.number = number


# what is for the user to mend: a value, a file, an image, the network
USER_ERRORS = (
    ValueError,
    OSError,
    SafetensorError,
    BadImageError,
    NonFiniteLossError,
    *NETWORK_ERRORS,
)

# of these, what can come up in training; any other error in there is a mistake of ours
TRAINING_ERRORS = (BadImageError, NonFiniteLossError)


@contextlib.contextmanager
def reported_as(script: str, errors: tuple[type[Exception], ...] = USER_ERRORS) -> Iterator[None]:
    """Ends the program with status 1 and one line on stderr where the user can mend what is wrong.

    The user's Hub token is left out of the line. Ctrl-C ends it with a line and status 130, other
    signals that `Stopped` tells of with 128 and their number, and without a line a reader who
    closes the pipe, as `head` does, with 141.

    Args:
        script: Its name, which starts the line.
        errors: What the user can mend; any other error keeps its traceback.

    Example:

    >>> with reported_as("predict.py"):
    ...     raise ValueError("no such model")
    Traceback (most recent call last):
    SystemExit: predict.py: error: no such model
    """
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left to print goes nowhere
        sys.exit(128 + 13)  # SIGPIPE, which not all systems have
    except errors as error:
        message = " ".join(str(error).splitlines())
        token = get_token()
        if token:  # whoever put it there
            message = message.replace(token, "(token)")
        sys.exit(f"{script}: error: {message}")
    except Stopped as stop:
        if str(stop):
            print(f"{script}: {stop}", file=sys.stderr)
        sys.exit(128 + stop.number)
    except KeyboardInterrupt as stop:
        print(f"{script}: {str(stop) or 'stopped'}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)  # as shells have it
