"""Half an hour of training, evaluations and saves: memory and descriptors stay as they are."""

import time

import psutil
import pytest
from campaign import MODEL
from forked_scripts import ForkedRun


MINUTES = 30
# in MiB; the first evaluations take some 30, and glibc's heap in a worker settles after some images
GROWTH = 64


@pytest.mark.soak
@pytest.mark.fault("soak")
def test_half_an_hour(tmp_path):
    arguments = [
        *MODEL,
        "--dataset_name=digits",
        "--max_steps=1000000",
        "--per_device_train_batch_size=32",
        "--per_device_eval_batch_size=180",
        "--warmup_epochs=1",
        "--logging_steps=50",
        "--eval_strategy=steps",
        "--eval_steps=400",
        "--save_strategy=steps",
        "--save_steps=400",
        "--save_total_limit=2",
        "--dataloader_num_workers=2",
        "--disable_tqdm",
        "--use_cpu",
        f"--output_dir={tmp_path / 'run'}",
    ]
    seen = []
    with ForkedRun("run_mae.py", arguments) as run:
        end = time.monotonic() + 60 * MINUTES
        while time.monotonic() < end:
            time.sleep(10)
            assert not run.has_ended(), run.texts()[1]
            seen.append(measure(psutil.Process(run.forks[0].pid)))
    quarter = len(seen) // 4
    memory, descriptors = ([entry[i] for entry in seen] for i in range(2))
    early, late = memory[quarter : 2 * quarter], memory[-quarter:]
    assert max(late) - max(early) < GROWTH, memory
    assert max(descriptors[-quarter:]) <= max(descriptors[quarter : 2 * quarter]), descriptors
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) <= 3


def measure(process):
    """Private memory of a process and its workers in MiB, and its open descriptors."""
    family = [process, *process.children(recursive=True)]
    used = 0
    for member in family:
        try:
            used += member.memory_full_info().uss
        except psutil.NoSuchProcess:  # a worker at the end of an epoch
            continue
    return round(used / 2**20), process.num_fds()
