# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""All that is to be known of a GPU, in one go: checks, speed, memory, profiles, input.

Each part is a process of its own with a time of its own: one that hangs or fails takes no other
with it. What a part finds is on the disk when it ends.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_mae.models.configuration_mae import own_fields

from .timing import environment, save_results


SCRIPTS = Path(__file__).parents[1]
SUMMARY = "gpu.json"
_BATCHES = {"base": 256, "large": 128, "huge": 64}  # of other sizes 16
_SHALLOW = {"num_hidden_layers": 1, "decoder_num_hidden_layers": 1}  # where a CPU tries it out


@dataclass(frozen=True)
class Part:
    """Something to find out.

    Attributes:
        name: Also that of its file of results.
        command: Words behind python.
        seconds: That it may take at most.
    """

    name: str
    command: list[str]
    seconds: float


def list_parts(args: argparse.Namespace) -> list[Part]:
    """Lists what is to be done, the most important first; `args` as for `gpu_benchmark`."""
    on_gpu, whole = args.device == "cuda", 60 * args.minutes
    shape = ["--device", args.device, "--image_size", str(args.image_size)]
    if on_gpu:
        shape.append("--bf16")
    first = [_measure(args, "gpu-checks", "checks", shape, 0.12 * whole)]
    looks, compiled = [], []
    for size in args.size:
        batch = _BATCHES.get(size, 16) if on_gpu else 2
        words = ["--size", size, "--batch", str(batch), *shape]
        train = [*words, "--rounds", "20" if on_gpu else "2", "--compare"]
        for decoder in _decoders():
            own = {**({} if on_gpu else _SHALLOW), **decoder}
            step = [*train, "--config_overrides", json.dumps(own)] if own else train
            name = "-".join([f"train-{args.device}", size, *decoder.values()])
            first.append(_measure(args, name, "train", step, 0.12 * whole))
            step = [*step, "--compile"]
            compiled.append(_measure(args, f"{name}-compiled", "train", step, 0.2 * whole))
        for look in ("profile", "largest"):
            name = f"{look}-{args.device}-{size}"
            looks.append(_measure(args, name, look, words, 0.08 * whole))
    photos = ["--compare", "--seconds", "5" if on_gpu else "1", "--rounds", "4"]
    looks.append(_measure(args, "input-gpu", "input", photos, 0.1 * whole))
    if on_gpu:
        tests = str(SCRIPTS.parent / "tests" / "test_gpu.py")
        looks.append(Part("tests", ["-m", "pytest", tests, "-q"], 0.2 * whole))
    return [*first, *looks, *compiled]  # a compiler takes long


def _decoders() -> list[dict[str, str]]:
    """What configurations may say of the decoder, the paper's first."""
    return [{}, {"decoder_type": "cross"}] if "decoder_type" in own_fields() else [{}]


def _measure(
    args: argparse.Namespace, name: str, what: str, words: list[str], seconds: float
) -> Part:
    """A part that writes a file of results: a command of benchmark.py, or one of gpu_parts.py."""
    begin = [str(SCRIPTS / "benchmark.py")]
    if what in ("checks", "profile", "largest"):
        begin = ["-m", "benchmarks.gpu_parts"]
    output = str(Path(args.output_dir, f"{name}.json").resolve())
    return Part(name, [*begin, what, *words, "--output", output], seconds)


def gpu_benchmark(args: argparse.Namespace) -> dict[str, Any]:
    """Does all parts, as far as the time goes; `args` are those of `scripts/benchmark.py gpu`.

    Returns:
        Part → how it ended, in how many seconds, and what it said last.
    """
    end, found = time.monotonic() + 60 * args.minutes, {}
    about = environment(args.device)
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    for part in list_parts(args):
        left = end - time.monotonic()
        found[part.name] = run_part(part, min(left, part.seconds))
        print(f"{part.name}: {found[part.name]['ended']}; {found[part.name]['said']}", flush=True)
        save_results(Path(args.output_dir, SUMMARY), found, **about)
    return found


def run_part(part: Part, seconds: float) -> dict[str, Any]:
    """Runs a part for so long at most: how it `ended`, `seconds`, and what it `said` last."""
    if seconds < 1:
        return {"ended": "left out, no time", "seconds": 0, "said": ""}
    folders = [str(SCRIPTS), str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, *part.command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    start = time.monotonic()
    try:
        said, errors = process.communicate(timeout=seconds)
        ended = "done" if process.returncode == 0 else f"failed (exit status {process.returncode})"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
        said, errors = process.communicate()
        ended = f"stopped after {seconds:.0f} s"
    took = time.monotonic() - start
    last = _last_line(said) if ended == "done" else _last_line(errors) or _last_line(said)
    return {"ended": ended, "seconds": round(took, 1), "said": last}


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else ""
