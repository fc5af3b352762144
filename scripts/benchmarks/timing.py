# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What every benchmark shares: work timed in turns, ratios with their spread, a file of results."""

import datetime
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hf_mae.versions import PACKAGES, version


def interleaved(
    works: Mapping[str, Callable[[int], object]], rounds: int
) -> dict[str, list[float]]:
    """Times several pieces of work in turns, so that a machine that slows down slows all of them.

    Args:
        works: Name → function of the round's number.
        rounds: How often each is run; one more at the start isn't counted.

    Returns:
        Name → seconds of each round.

    Example:

    >>> works = {"sum": lambda i: sum(range(100)), "len": lambda i: len("abc")}
    >>> sorted(interleaved(works, rounds=3))
    ['len', 'sum']
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for i in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work(i)
            seconds[name].append(time.perf_counter() - start)
    return {name: times[1:] for name, times in seconds.items()}


def ratios(slower: Sequence[float], faster: Sequence[float]) -> tuple[float, float, float]:
    """(median, least, greatest) of what one takes over what the other takes, round by round.

    Example:

    >>> ratios([2.0, 3.0, 4.0], [1.0, 1.0, 1.0])
    (3.0, 2.0, 4.0)
    """
    each = [a / b for a, b in zip(slower, faster)]
    return statistics.median(each), min(each), max(each)


def workers_needed(step_rate: float, images_per_second: float) -> int:
    """Worker processes that feed a step rate (images/s), each on a core of its own.

    Example:

    >>> workers_needed(step_rate=2500, images_per_second=900)
    3
    """
    return math.ceil(step_rate / images_per_second)


def environment(
    device: torch.device | str = "cpu", packages: Iterable[str] = ()
) -> dict[str, str | int | None]:
    """Date, hardware and versions, for a file of results.

    Args:
        device: What was measured; a GPU is named.
        packages: Distributions to name beside those that hf_mae always names.
    """
    found: dict[str, str | int | None] = {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "cpu": _cpu_name(),
        "cores": _usable_cores(),
    }
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    for name in (*PACKAGES, *packages):
        found[name] = version(name)
    return found


def _usable_cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor()


def save_results(path: str | os.PathLike[str], results: object, **about: object) -> None:
    """Writes results and what they were measured on as JSON.

    Args:
        path: The file; its folder is made.
        results: What JSON can hold.
        about: Further fields, as the command and those of `environment`.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {**about, "results": results}
    Path(path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def plural(count: int, noun: str, ending: str = "s") -> str:
    """A number and its noun.

    Example:

    >>> plural(1, "worker"), plural(2, "worker")
    ('1 worker', '2 workers')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{ending}"
