"""Scripts in forks of a process that has imported the package already: importing takes seconds.

A fork stands for `python scripts/NAME …` or, several of them, for what torchrun starts. What tests
real starts, of python, torchrun and accelerate, starts them itself. What reads the environment when
it is imported (the Hub's client) has read that of the tests, but for whether it may ask the Hub.
"""

import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
import time
from pathlib import Path

import torch
from huggingface_hub import constants


ROOT = Path(__file__).parent.parent
# for a machine that is several times slower than the slowest it was tried on
TIMEOUT_SECONDS = 1800

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "hf_mae.hub.publishing",
        "hf_mae.training.classification",
        "hf_mae.training.pretraining",
        "hf_mae.training.run",
        "sklearn.datasets",
        "torch.utils.tensorboard",
        "transformers.pipelines",
    ]
)


def run_forked(name, arguments, processes=1, folder=ROOT):
    """Runs scripts/NAME to its end, in one process or several: (status, stdout, stderr)."""
    with ForkedRun(name, arguments, processes, folder) as run:
        return run.wait(), *run.texts()


class ForkedRun:
    """scripts/NAME in one process or several, started; what is left of it is killed at the end."""

    def __init__(self, name, arguments, processes=1, folder=ROOT):
        port = _free_port()
        ranks = [_rank_environment(rank, processes, port) for rank in range(processes)]
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name, stream) for stream in ("stdout", "stderr")]
        for file in self._files:
            file.touch()
        self.forks = []
        for rank in ranks:
            told = (name, arguments, rank, folder, *self._files)
            fork = _FORKS.Process(target=_run, args=told)
            fork.start()
            self.forks.append(fork)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self._folder.cleanup()

    def texts(self):
        """What it wrote so far to stdout and stderr."""
        return [file.read_text(errors="replace") for file in self._files]

    def has_ended(self):
        return all(fork.exitcode is not None for fork in self.forks)

    def kill(self):
        """Kills its processes, hard."""
        for fork in self.forks:
            fork.kill()
            fork.join()

    def wait(self, seconds=TIMEOUT_SECONDS):
        """The first status that isn't 0, or 0; when one process fails the others are ended.

        Raises:
            TimeoutError: it takes longer.
        """
        running = list(self.forks)
        deadline = time.monotonic() + seconds
        while running:
            left = max(deadline - time.monotonic(), 0)
            ready = multiprocessing.connection.wait([fork.sentinel for fork in running], left)
            if not ready:
                raise TimeoutError(f"the script didn't end within {seconds} s")
            ended = [fork for fork in running if fork.sentinel in ready]
            running = [fork for fork in running if fork not in ended]
            for fork in ended:
                fork.join()
            if any(fork.exitcode for fork in ended):
                break
        failed = [fork.exitcode for fork in self.forks if fork.exitcode]
        self.kill()
        return failed[0] if failed else 0


def _rank_environment(rank, processes, port):
    """This process' environment and, for one of several, what torchrun adds."""
    if processes == 1:
        return dict(os.environ)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}
    numbers |= {"LOCAL_WORLD_SIZE": processes, "MASTER_PORT": port}
    told = {name: str(value) for name, value in numbers.items()}
    return {**os.environ, "MASTER_ADDR": "127.0.0.1", **told}


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _run(name, arguments, environment, folder, out, err):
    script = ROOT / "scripts" / name
    # data loaders' workers start as they do from a shell: by the first of these
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    constants.HF_HUB_OFFLINE = environment["HF_HUB_OFFLINE"] != "0"
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    if "RANK" in environment:
        torch.set_num_threads(1)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))  # as python does
    runpy.run_path(str(script), run_name="__main__")
