# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Memory that a process has freed goes back to the system."""

import ctypes
import functools
from collections.abc import Callable


def return_free_memory() -> None:
    """Gives back what the C library keeps of freed blocks, for its process to use again.

    glibc keeps what lies below a block that is in use, which of a process that loads images is most
    of what it ever held; elsewhere nothing is done.
    """
    trim = _find_trim()
    if trim is not None:
        trim(0)


@functools.lru_cache
def _find_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return None
