# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What every benchmark has in common: things timed turn about, ratios with their spread, results in
a file."""

import datetime
import json
import math
import os
import platform
import statistics
import time
from pathlib import Path

import torch

from hf_mae.versions import PACKAGES, version


def interleaved(works, rounds):
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
    seconds = {name: [] for name in works}
    for i in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work(i)
            seconds[name].append(time.perf_counter() - start)
    return {name: times[1:] for name, times in seconds.items()}


def ratios(slower, faster):
    """(median, least, greatest) of what one takes over what the other takes, round by round.

    Example:

    >>> ratios([2.0, 3.0, 4.0], [1.0, 1.0, 1.0])
    (3.0, 2.0, 4.0)
    """
    each = [a / b for a, b in zip(slower, faster)]
    return statistics.median(each), min(each), max(each)


def workers_needed(step_rate, images_per_second):
    """Worker processes that feed a step rate (images/s), each on a core of its own.

    Example:

    >>> workers_needed(step_rate=2500, images_per_second=900)
    3
    """
    return math.ceil(step_rate / images_per_second)


def environment(device="cpu", packages=()):
    """Date, hardware and versions, for a file of results."""
    found = {"date": datetime.date.today().isoformat(), "python": platform.python_version()}
    found["cpu"] = _cpu_name()
    found["cores"] = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found | {name: version(name) for name in (*PACKAGES, *packages)}


def _cpu_name():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def save_results(path, results, **about):
    """Writes results and what they were measured on as JSON."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(
        json.dumps({**about, "results": results}, indent=2) + "\n", encoding="utf-8"
    )
