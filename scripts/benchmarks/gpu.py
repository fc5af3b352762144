# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""All that is to be known of a GPU, in one go: checks, speed, memory, profiles, input.

Each part is a process of its own with a time of its own: one that hangs or fails takes no other
with it. What a part finds is on the disk when it ends. What isn't timed, tests and compilers, runs
side by side before the rest.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_mae.models.configuration_mae import own_fields

from .timing import environment, save_results


SCRIPTS = Path(__file__).parents[1]
SUMMARY = "gpu.json"
_BATCHES = {"base": 256, "large": 128, "huge": 64}  # of other sizes 16
_SHALLOW = {"num_hidden_layers": 1, "decoder_num_hidden_layers": 1}  # where a CPU tries it out
_SIDE_BY_SIDE = 8


@dataclass(frozen=True)
class Part:
    """Something to find out.

    Attributes:
        name: Also that of its file of results.
        command: Words behind python.
        seconds: That it may take at most.
        is_timed: Whether it must be alone.
        is_fresh: Whether it starts a python of its own, and not where the model's libraries, whose
            import takes long, are imported already.
    """

    name: str
    command: list[str]
    seconds: float
    is_timed: bool = True
    is_fresh: bool = False


def list_parts(args: argparse.Namespace, where: str) -> list[Part]:
    """Lists what is to be done, the most important first.

    Args:
        args: As for `gpu_benchmark`.
        where: The device's name, which is part of the results'.
    """
    where = re.sub(r"[^a-z0-9]+", "-", where.lower().removeprefix("nvidia "))
    on_gpu, whole = args.device == "cuda", 60 * args.minutes
    shape = ["--device", args.device, "--image_size", str(args.image_size)]
    if on_gpu:
        shape.append("--bf16")
    untimed = [_measure(args, f"checks-{where}", "checks", shape, 0.2 * whole, is_timed=False)]
    if on_gpu:
        words = ["-m", "pytest", str(SCRIPTS.parent / "tests" / "test_gpu.py"), "-q"]
        untimed.append(Part("tests", words, 0.3 * whole, is_timed=False, is_fresh=True))
    trains, compiled, looks = [], [], []
    for size in args.size:
        batch = _BATCHES.get(size, 16) if on_gpu else 2
        words = ["--size", size, "--batch", str(batch), *shape]
        for decoder in _decoders():
            own = {**({} if on_gpu else _SHALLOW), **decoder}
            step = [*words, "--config_overrides", json.dumps(own)] if own else words
            label = "-".join([where, size, *decoder.values()])
            untimed.extend(_compiling(args, label, step, 0.4 * whole, peer=not decoder))
            train = [*step, "--rounds", "20" if on_gpu else "2", "--compare"]
            trains.append(_measure(args, f"train-{label}", "train", train, 0.1 * whole))
            looks.append(_measure(args, f"profile-{label}", "profile", step, 0.1 * whole))
            for what, command in (("train", train), ("profile", step)):
                name = f"{what}-{label}-compiled"
                compiled.append(_measure(args, name, what, [*command, "--compile"], 0.2 * whole))
        looks.append(_measure(args, f"largest-{where}-{size}", "largest", words, 0.1 * whole))
    photos = ["--compare", "--seconds", "5" if on_gpu else "1", "--rounds", "4"]
    looks.append(_measure(args, f"input-{where}", "input", photos, 0.1 * whole))
    return [*untimed, *trains, *looks, *compiled]


def _decoders() -> list[dict[str, str]]:
    """What configurations may say of the decoder, the paper's first."""
    return [{}, {"decoder_type": "cross"}] if "decoder_type" in own_fields() else [{}]


def _compiling(
    args: argparse.Namespace, label: str, words: list[str], seconds: float, peer: bool
) -> list[Part]:
    """Compiles ours, and transformers' if it is asked for: torch keeps what it made."""
    models = {"": "hf_mae", "-transformers": "transformers ViTMAE"} if peer else {"": "hf_mae"}
    return [
        _measure(
            args,
            f"compiling-{label}{ending}",
            "compiling",
            [*words, "--model", model],
            seconds,
            is_timed=False,
        )
        for ending, model in models.items()
    ]


def _measure(
    args: argparse.Namespace,
    name: str,
    what: str,
    words: list[str],
    seconds: float,
    is_timed: bool = True,
) -> Part:
    """A part that writes a file of results: a command of benchmark.py, or one of gpu_parts.py."""
    begin = [str(SCRIPTS / "benchmark.py")]
    if what in ("checks", "compiling", "profile", "largest"):
        begin = ["-m", "benchmarks.gpu_parts"]
    output = str(Path(args.output_dir, f"{name}.json").resolve())
    return Part(name, [*begin, what, *words, "--output", output], seconds, is_timed)


def gpu_benchmark(args: argparse.Namespace) -> dict[str, Any]:
    """Does all parts, as far as the time goes; `args` are those of `scripts/benchmark.py gpu`.

    Returns:
        Part → how it ended, in how many seconds, and what it said last.
    """
    end, found = time.monotonic() + 60 * args.minutes, {}
    about = environment(args.device)
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)

    def run(part: Part) -> None:
        found[part.name] = run_part(part, min(end - time.monotonic(), part.seconds))
        print(f"{part.name}: {found[part.name]['ended']}; {found[part.name]['said']}", flush=True)
        save_results(Path(args.output_dir, SUMMARY), found, **about)

    parts = list_parts(args, str(about.get("gpu", args.device)))
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool, _none_left_running():
        list(pool.map(run, [part for part in parts if not part.is_timed]))
        for part in parts:
            if part.is_timed:
                run(part)
    return found


@contextlib.contextmanager
def _none_left_running() -> Iterator[None]:
    """Ends with an interruption what it has started, too."""
    try:
        yield
    finally:
        for process in multiprocessing.active_children():
            _kill(process)


def _kill(process: Any) -> None:
    """With the processes that it started, once they are a group of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def run_part(part: Part, seconds: float) -> dict[str, Any]:
    """Runs a part for so long at most: how it `ended`, `seconds`, and what it `said` last."""
    if seconds < 1:
        return {"ended": "left out, no time", "seconds": 0, "said": ""}
    folders = [str(SCRIPTS), str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")]
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch, stream) for stream in ("stdout", "stderr")]
        for file in files:
            file.touch()
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(["benchmarks.gpu_parts"])
        process = forks.Process(target=_run, args=(part, os.pathsep.join(folders), *files))
        start = time.monotonic()
        process.start()
        process.join(seconds)
        ended = "done" if process.exitcode == 0 else f"failed (exit status {process.exitcode})"
        if process.exitcode is None:
            ended = f"stopped after {seconds:.0f} s"
            _kill(process)
            process.join()
        took = time.monotonic() - start
        said, errors = (file.read_text(errors="replace") for file in files)
    last = _last_line(said) if ended == "done" else _last_line(errors) or _last_line(said)
    return {"ended": ended, "seconds": round(took, 1), "said": last}


def _run(part: Part, folders: str, *files: Path) -> None:
    os.setsid()
    for stream, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY), stream)
    os.environ["PYTHONPATH"] = folders
    if part.is_fresh:
        os.execv(sys.executable, [sys.executable, *part.command])
    sys.path[:0] = folders.split(os.pathsep)
    if part.command[0] == "-m":
        _, module, *words = part.command
        sys.argv = [module, *words]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = part.command
        runpy.run_path(part.command[0], run_name="__main__")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else ""
