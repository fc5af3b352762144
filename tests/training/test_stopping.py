"""What a run that is asked to stop does with the workers of its data loader."""

import functools
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from torch.utils.data import DataLoader

from hf_mae.training.stopping import start_worker


pytestmark = pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="needs sigwaitinfo")


def test_a_worker_outlives_a_schedulers_sigterm():
    start = functools.partial(start_worker, None)
    loader = DataLoader(range(64), num_workers=1, persistent_workers=True, worker_init_fn=start)
    first = iter(loader)
    next(first)
    (worker,) = [
        child
        for child in psutil.Process().children()
        if child.pid in {process.pid for process in first._workers}
    ]
    subprocess.run(["kill", str(worker.pid)], check=True)
    assert len(list(first)) == 63
    assert len(list(loader)) == 64  # it is the same worker, after more than a moment
    assert worker.is_running()
    os.kill(worker.pid, signal.SIGTERM)  # of its owner
    worker.wait(10)


@pytest.mark.parametrize("ends", ["", "raise SystemExit(3)"])
def test_workers_end_with_their_owner(ends):
    code = f"""
import functools
from torch.utils.data import DataLoader
from hf_mae.training.stopping import start_worker

if __name__ == "__main__":
    start = functools.partial(start_worker, None)
    loader = DataLoader(range(8), num_workers=2, persistent_workers=True, worker_init_fn=start)
    kept = iter(loader)
    next(kept)
    print("read", flush=True)
    {ends}
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "read\n"
    start = time.monotonic()
    assert process.wait(60) == (3 if ends else 0)
    assert time.monotonic() - start < 20
