# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Files of weights that others may read: safetensors writes them for their owner alone."""

import os
import threading
from pathlib import Path


_lock = threading.Lock()


def share_weights(folder: str | os.PathLike) -> None:
    """Gives the safetensors files of a folder the permissions that other new files have.

    Example:

    >>> import tempfile
    >>> share_weights(tempfile.mkdtemp())
    """
    mode = 0o666 & ~_umask()
    for file in Path(folder).glob("*.safetensors"):
        if os.name == "posix" and file.stat().st_mode & 0o777 == 0o600:
            os.chmod(file, mode)


def _umask() -> int:
    with _lock:  # it can be read by setting it only
        umask = os.umask(0o077)
        os.umask(umask)
    return umask
