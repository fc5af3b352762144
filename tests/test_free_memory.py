"""What is freed goes back to the system, also in processes that load images."""

import ctypes
import subprocess
import sys
from functools import partial

import psutil
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from helpers import encoded
from torch.utils.data import DataLoader

from hf_mae import ImageSamples, MAEConfig, PretrainingTransform
from hf_mae.data.samples import collate
from hf_mae.training.stopping import start_worker


needs_glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library keeps nothing, or is other"
)


@needs_glibc
def test_freed_blocks_below_one_in_use_go_back():
    code = """
import psutil
from hf_mae.free_memory import return_free_memory
blocks = [bytes([1]) * 100_000 for _ in range(2000)]  # 190 MiB
del blocks[:-1]
before = psutil.Process().memory_info().rss
return_free_memory()
print(before - psutil.Process().memory_info().rss)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) > 150 * 2**20


@needs_glibc
def test_a_process_that_loads_photographs_keeps_none_of_them(photos, monkeypatch):
    picture = photos[0].resize((2400, 1800))
    rows = [{"bytes": encoded(picture, "jpeg", quality=88), "path": None}] * 48
    features = Features({"image": ImageFeature(decode=False)})
    dataset = Dataset.from_dict({"image": rows}, features=features)
    samples = ImageSamples(dataset, PretrainingTransform(MAEConfig()), 3, seed=0)

    def own_memory():
        loader = DataLoader(
            samples,
            batch_size=4,
            num_workers=1,
            prefetch_factor=1,
            collate_fn=collate,
            worker_init_fn=partial(start_worker, None),
        )
        batches = iter(loader)
        for _ in range(10):
            next(batches)
        return psutil.Process(batches._workers[0].pid).memory_full_info().uss

    given_back = own_memory()
    monkeypatch.setattr("hf_mae.data.samples.return_free_memory", lambda: None)
    assert given_back < 0.7 * own_memory()
