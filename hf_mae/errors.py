# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What goes wrong, by name, and the one place that tells the user of it."""

import contextlib
import errno
import os
import re
import signal
import struct
import sys
import threading
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType

from huggingface_hub import get_token
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image
from safetensors import SafetensorError
from transformers.utils import logging


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

# of these, what can come up in training; any other error in there, but for what `explain` knows, is
# a mistake of ours
TRAINING_ERRORS = (BadImageError, NonFiniteLossError)

_MEMORY_OF_WORKERS = (
    "lower --dataloader_num_workers (--num_workers), --per_device_train_batch_size or "
    "--max_image_pixels"
)
_MORE_FILES = "raise the limit (ulimit -n), or lower --dataloader_num_workers (--num_workers)"
# what an operating system answers → what to do
_BY_NUMBER = {
    errno.ENOSPC: "the disk is full; make room",
    errno.EDQUOT: "the quota is used up; make room",
    errno.EFBIG: "no larger file is allowed here; raise the limit (ulimit -f)",
    errno.EROFS: "the folder is read-only; name another, or make it writable",
    errno.EACCES: "that isn't allowed to you; change the permissions, or name another place",
    errno.EPERM: "that isn't allowed to you; change the permissions, or name another place",
    errno.ENOENT: "a file or folder isn't there, or no more",
    errno.EEXIST: "there is a file in the place of a folder; move it away",
    errno.ENOTDIR: "there is a file in the place of a folder; move it away",
    errno.EISDIR: "there is a folder in the place of a file; move it away",
    errno.ENAMETOOLONG: "the name is too long here; name another",
    errno.EMFILE: f"too many files are open; {_MORE_FILES}",
    errno.ENFILE: f"too many files are open; {_MORE_FILES}",
    errno.ENOMEM: f"memory is used up; {_MEMORY_OF_WORKERS}",
}
_KILLED_LOADER = (
    f"a process that loads images was killed, probably for want of memory; {_MEMORY_OF_WORKERS}"
)
# what libraries say of the same, and of other processes → what has happened, and what to do; what
# they said follows it
_BY_TEXT = {
    r"^Parent directory .* does not exist": _BY_NUMBER[errno.ENOENT],
    r"inline_container\.cc|PytorchStreamWriter failed writing": (
        "a file couldn't be written to its end, as it is when a disk or quota is full or no larger "
        "file is allowed (ulimit -f); make room"
    ),
    r"received \d+ items of ancdata|Too many open files": f"too many files are open; {_MORE_FILES}",
    r"out of shared memory|unable to (?:mmap|write to file|open shared memory)": (
        "shared memory, which brings images from one process to another, is used up; enlarge "
        "/dev/shm (docker run --shm-size), or lower --dataloader_num_workers (--num_workers)"
    ),
    r"(?i)CUDA.* out of memory|HIP out of memory|CUBLAS_STATUS_ALLOC_FAILED": (
        "the GPU's memory is used up; lower --per_device_train_batch_size (--batch_size), and to "
        "train the same raise --gradient_accumulation_steps by as much"
    ),
    r"restore data location .*tagged with cpu:0": (  # up to 5.17 at least
        "this version of transformers can't resume a run of several processes on CPUs; update it"
    ),
    r"is killed by signal|exited unexpectedly": _KILLED_LOADER,
    r"can't allocate memory|Cannot allocate memory": f"memory is used up; {_MEMORY_OF_WORKERS}",
    r"Timed out waiting|Watchdog caught collective operation timeout|wait timeout after": (
        "another process of this run didn't answer within --ddp_timeout; look at its host"
    ),
    r"GLHF|Connection (?:closed|reset) by (?:peer|remote peer)|Broken pipe|"
    r"ncclRemoteError|NCCL communicator was aborted|Socket closed|failed to recv, got 0 bytes": (
        "another process of this run has ended; its own line says why"
    ),
}
_OF_LIBRARIES = (RuntimeError, OSError, EOFError, SafetensorError, MemoryError)
_OS_NUMBER = re.compile(r"\[Errno (\d+)\]|\(os error (\d+)\)")
_OS_WORDS = {os.strerror(number): number for number in _BY_NUMBER}  # where no number is said
_OBJECT = re.compile(r"<\S+ object at 0x[0-9a-f]+>")  # PIL names a file so, anew each time
_LONGEST = 300


def explain(error: Exception) -> str | None:
    """Says what has happened and what to do about it, of errors that the surroundings make.

    These are files and folders, disks, memory, and other processes; what a process that loads
    images has raised is told from the data loader's report of it.

    Returns:
        A sentence; None of any other error.

    Example:

    >>> explain(OSError(28, "No space left on device", "checkpoint-8"))
    "the disk is full; make room ([Errno 28] No space left on device: 'checkpoint-8')"
    >>> explain(RuntimeError("shapes differ")) is None
    True
    """
    if not isinstance(error, _OF_LIBRARIES):
        return None
    said = own_words(error)
    if _was_handed_over(error):
        return f"{_KILLED_LOADER} ({_shortened(said) or type(error).__name__})"
    number = _os_number(error, said)
    if number in _BY_NUMBER and not isinstance(error, ConnectionError):
        return f"{_BY_NUMBER[number]} ({_shortened(said)})"
    text = f"{error} {error.__cause__ or ''}"
    for pattern, sentence in _BY_TEXT.items():
        if re.search(pattern, text):
            return f"{sentence} ({_shortened(said)})"
    if isinstance(error, MemoryError):
        return f"memory is used up; {_MEMORY_OF_WORKERS}"
    return said if isinstance(error, OSError | SafetensorError) else None


def _was_handed_over(error: Exception) -> bool:
    """Whether an error comes of taking a batch over from a process that is no more."""
    if not isinstance(error, (ConnectionError, FileNotFoundError, EOFError)):
        return False
    files = (frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(Path(file).parent.name == "multiprocessing" for file in files)


def own_words(error: Exception) -> str:
    """What an error says, in one line; of a data loader's process without the traceback.

    Example:

    >>> own_words(OSError("cannot identify image file <_io.BytesIO object at 0x7f4a348a35b0>"))
    'cannot identify image file'
    """
    text = str(error)
    if " in DataLoader worker process " in text.partition("\n")[0]:
        starts = re.finditer(rf"^(?:[\w.]+\.)?{type(error).__name__}: ", text, re.MULTILINE)
        text = text[max((start.end() for start in starts), default=0) :]
    return " ".join(_OBJECT.sub("", text).split())


def _os_number(error: Exception, said: str) -> int | None:
    number = getattr(error, "errno", None)
    match = _OS_NUMBER.search(said)
    if number is None and match is not None:
        number = int(match[1] or match[2])
    return number or _OS_WORDS.get(said.rpartition("strerror: ")[2])


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


@contextlib.contextmanager
def reported_as(
    script: str,
    errors: tuple[type[Exception], ...] = USER_ERRORS,
    kept: Callable[[], str] | None = None,
) -> Iterator[None]:
    """Ends the program with status 1 and one line on stderr where the user can mend what is wrong.

    The user's Hub token is left out of the line. Ctrl-C ends it with a line and status 130, other
    signals with a line and 128 and their number, and without a line a reader who
    closes the pipe, as `head` does, with 141.

    Args:
        script: Its name, which starts the line.
        errors: What the user can mend, beside what `explain` knows; any other error keeps its
            traceback.
        kept: Says what is still there, which ends the line; where the same trouble keeps it from
            looking, the line says so.

    Example:

    >>> with reported_as("predict.py"):
    ...     raise ValueError("no such model")
    Traceback (most recent call last):
    SystemExit: predict.py: error: no such model
    """
    logging.disable_progress_bar()  # of shards that are written, which take a moment
    try:
        with _threads_report_as(script), _stopped_by_signals():
            yield
    except Exception as error:
        if isinstance(error, BrokenPipeError) and not _was_handed_over(error):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left to print goes nowhere
            sys.exit(128 + 13)  # SIGPIPE, which not all systems have
        message = explain(error)
        if message is None and isinstance(error, errors):
            message = own_words(error)
        if message is None:
            raise
        if kept is not None:
            message += f"; {_said_by(kept)}"
        sys.exit(f"{script}: error: {_without_token(message)}")
    except Stopped as stop:
        if str(stop):
            print(f"{script}: {stop}", file=sys.stderr)
        sys.exit(128 + stop.number)
    except KeyboardInterrupt as stop:
        print(f"{script}: {str(stop) or 'stopped'}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)  # as shells have it


def _said_by(kept: Callable[[], str]) -> str:
    try:
        return kept()
    except OSError as error:
        return f"what is still there couldn't be looked at ({own_words(error)})"


@contextlib.contextmanager
def handling(
    names: Iterable[str], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Has a function called at signals, in the main thread; elsewhere nothing is done.

    What is ignored, as SIGHUP under nohup, stays so, and not all systems have all signals.

    Args:
        names: Of the signals.
        handler: Called with the signal's number and the frame.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in names:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Has what would end the process without a word raise `Stopped`, in the main thread."""
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:  # not of those that load images, which their owner ends
            name = signal.Signals(number)
            raise Stopped(f"stopped by {name.name}", name)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    with handling(("SIGTERM", "SIGHUP", "SIGUSR1"), stop):
        yield


@contextlib.contextmanager
def _threads_report_as(script: str) -> Iterator[None]:
    """Has other threads, as TensorBoard's, say in a line what `explain` knows."""
    hook = threading.excepthook

    def report(args: threading.ExceptHookArgs) -> None:
        error = args.exc_value
        message = explain(error) if isinstance(error, Exception) else None
        if message is None:
            hook(args)
        else:
            print(f"{script}: {_without_token(message)}", file=sys.stderr)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = hook


def _without_token(message: str) -> str:
    try:
        token = get_token()  # whoever put it there
    except OSError:  # as when too many files are open
        token = None
    return message.replace(token, "(token)") if token else message
