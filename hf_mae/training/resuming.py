# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Where a run starts from: one decision for all its processes, in a folder that it alone writes."""

import atexit
import contextlib
import re
import socket
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from accelerate.utils import broadcast_object_list, gather_object
from filelock import SoftFileLease, Timeout

from ..checkpoints import (
    content_digest,
    find_checkpoint,
    find_flaw,
    is_unfinished,
    numbered_checkpoints,
    read_facts,
)
from .arguments import ImageTrainingArguments


LOCK_FILE = "run.lock"
_SILENCE = 120  # seconds after which the holder of a lock is taken for gone
_held: list[SoftFileLease] = []  # to the end of the process


def resume_point(args: ImageTrainingArguments) -> str | None:
    """Finds the checkpoint that `--resume_from_checkpoint` (a folder, or "last") means.

    Process 0 decides, and keeps other runs away from the output folder until it ends; all others
    check that they see the same checkpoint.

    Returns:
        The folder, or None for a fresh start.

    Raises:
        ValueError: on every process, if another run writes the output folder; the checkpoint isn't
            whole, or none is; nothing is to be resumed and the output folder holds checkpoints; or
            a process sees another checkpoint than process 0, or none.
        OSError: on every process, if the output folder can't be written.
    """
    decision: list[Any] = [None, None]  # the checkpoint, an error
    if args.process_index == 0:
        try:
            _lock(Path(str(args.output_dir)))
            decision[0] = _choose(args)
        except (ValueError, OSError) as error:
            decision[1] = error
    broadcast_object_list(decision)
    checkpoint, error = decision
    if error is not None:
        raise error
    if checkpoint is not None:
        _check_all_see(checkpoint)
    return checkpoint


def _choose(args: ImageTrainingArguments) -> str | None:
    output_dir, wanted = str(args.output_dir), args.resume_from_checkpoint
    present = numbered_checkpoints(output_dir)
    if wanted is None and present:
        raise ValueError(
            f"output_dir {output_dir} already holds {present[0].name}; go on by "
            "--resume_from_checkpoint last, or name another folder"
        )
    if wanted is None:
        return None
    if wanted != "last":
        flaw = find_flaw(wanted)
        if flaw:
            raise ValueError(
                f"resume_from_checkpoint {wanted} is not a whole checkpoint (and not the word "
                f"'last'): {flaw}"
            )
        return str(wanted)
    newest = find_checkpoint(output_dir, tell=_tell)
    if newest is None and all(map(is_unfinished, present)):
        return None  # it was killed as it saved for the first time: no work is lost
    if newest is None:
        raise ValueError(
            f"output_dir {output_dir} holds {len(present)} checkpoints of which none is whole "
            f"({present[0].name}: {find_flaw(present[0])}); delete them to start over, or name "
            "another folder"
        )
    if read_facts(newest) is None:
        _tell(
            f"{newest} has no manifest, as those of earlier versions: its files are taken as they "
            "are, and whether the run is the same can't be checked"
        )
    return str(newest)


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _lock(output_dir: Path) -> None:
    """Keeps other runs away from a folder for as long as this process lives.

    A holder on this machine that is gone is noticed at once; one on another by its silence.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    file = output_dir / LOCK_FILE
    if file.is_file() and not file.stat().st_size and time.time() - file.stat().st_mtime > _SILENCE:
        file.unlink()  # the disk was full, or the machine lost power
    lock = SoftFileLease(file, lease_duration=_SILENCE, heartbeat_interval=_SILENCE / 8)
    if lock.is_lock_held_by_us:  # by an earlier run of this process
        return
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _wait_for(lock, file)
    _held.append(lock)
    atexit.register(lock.release)


def _wait_for(lock: SoftFileLease, file: Path) -> None:
    """Waits for the holder of a lock to be gone; ValueError if it isn't."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:  # it has just been given up
        lock.acquire(timeout=0)
        return
    match = re.search(r"^host=([^?\n]*)", text, re.MULTILINE)
    host = match[1] if match else "another host"
    holder = f"process {lock.pid} on {host}"
    held = f"output_dir {file.parent} is being written by another run ({holder})"
    try:
        if host == socket.gethostname():
            _remove_if_zombie(lock, file)
            lock.acquire(timeout=0)
            return
        _tell(f"{held}; waiting {_SILENCE} s to see whether it lives")
        lock.acquire(timeout=1.5 * _SILENCE)
    except Timeout as error:
        raise ValueError(f"{held}; wait for it, or name another folder") from error


def _remove_if_zombie(lock: SoftFileLease, file: Path) -> None:
    """Removes the lock of a process that has ended, and that nobody asked how.

    In a container whose first process doesn't collect orphans, a rank whose launcher was killed
    with it stays in the table of processes, where the lock's library takes it for alive.
    """
    found, pid = file.stat().st_ino, lock.pid
    if pid is None or not psutil.pid_exists(pid):
        return
    with contextlib.suppress(OSError, psutil.Error):
        is_zombie = psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        if is_zombie and file.stat().st_ino == found:
            file.unlink()


def _check_all_see(checkpoint: str) -> None:
    """Raises ValueError, on all processes, unless all have the same checkpoint there."""
    seen = gather_object([(socket.gethostname(), content_digest(checkpoint))])
    host, content = seen[0]
    for index, (other_host, other) in enumerate(seen):
        if other != content:
            found = "none" if not other else "another one of that name"
            raise ValueError(
                f"process {index} on {other_host} sees {found} where process 0 on {host} sees "
                f"{checkpoint}; give all hosts the same output folder, or copy the checkpoint to "
                "each"
            )
