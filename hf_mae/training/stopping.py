# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Signals that ask a run to stop: it finishes the update, saves a checkpoint and ends."""

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import psutil

from ..errors import handling


# a terminal's, a scheduler's, and those of a machine that is shut down
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
_ONE_KEYSTROKE = 1.0  # seconds in which a launcher sends on what the terminal sent already


class StopRequest:
    """Whether this process was asked to stop.

    That is by a signal of `STOP_SIGNALS` or, under torchrun or accelerate, by the end of the
    launcher, whom nobody else would tell. A second Ctrl-C raises KeyboardInterrupt at once.

    Attributes:
        received: The signal, or None.
    """

    def __init__(self):
        self.received: signal.Signals | None = None
        self._at = 0.0
        self._process, self._parent = os.getpid(), os.getppid()
        launchers = ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION")
        self._is_launched = any(name in os.environ for name in launchers)
        if self._is_launched and self._parent == 1 and not _is_launcher(1):
            self._parent = 0  # it was gone before

    @property
    def is_asked(self) -> bool:
        """Whether it was asked to stop."""
        return self.received is not None or self._launcher_is_gone()

    @property
    def reason(self) -> str:
        """What asked, in words."""
        if self.received is not None:
            return f"by {self.received.name}"
        return "with its launcher" if self._launcher_is_gone() else "with another process"

    @property
    def signal(self) -> signal.Signals:
        """What the exit status tells of: the signal, or SIGTERM where there was none."""
        return self.received or signal.SIGTERM

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Takes note of signals instead of ending by them.

        What is ignored, as SIGHUP under nohup, stays so. Only the main thread can listen.
        """
        with handling(STOP_SIGNALS, self._take_note):
            yield

    def _take_note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a data loader's worker, which its owner ends
            return
        elapsed = time.monotonic() - self._at
        if number == signal.SIGINT and self.received == number and elapsed > _ONE_KEYSTROKE:
            raise KeyboardInterrupt
        if self.received is None:
            self.received, self._at = signal.Signals(number), time.monotonic()

    def _launcher_is_gone(self) -> bool:
        return self._is_launched and os.getppid() != self._parent


def _is_launcher(process: int) -> bool:
    words = " ".join(psutil.Process(process).cmdline())
    return "torch" in words or "accelerate" in words


def start_worker(initialise: Callable[[int], None] | None, number: int) -> None:
    """Starts a data loader's worker that lasts until a run which is asked to stop has stopped.

    What its owner had is left out of its garbage collections, which would copy all of that.

    Schedulers send SIGTERM to all processes of a job; a worker obeys that of its owner alone, and
    torch ends it when its owner is gone.

    Args:
        initialise: What else is done at its start.
        number: The worker's.
    """
    gc.freeze()
    if hasattr(signal, "sigwaitinfo"):  # of Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_await_owner, daemon=True).start()
    if initialise is not None:
        initialise(number)


def _await_owner() -> None:
    """Ends this process at its owner's SIGTERM."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
