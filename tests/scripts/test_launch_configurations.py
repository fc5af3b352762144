"""scripts/accelerate/*.yaml and slurm.sh, started as far as CPUs go."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from helpers import ROOT, TINY_FLAGS, kill_tree, run_script, trace

from hf_mae.checkpoints import find_checkpoint


FOLDER = ROOT / "scripts" / "accelerate"
ACCELERATE = str(Path(sys.executable).parent / "accelerate")
CONFIGURATIONS = sorted(
    path for path in FOLDER.glob("*.yaml") if "apiVersion" not in path.read_text()
)
RUN = [
    *TINY_FLAGS,
    "--dataset_name=digits",
    "--warmup_epochs=0.05",
    "--base_learning_rate=4e-3",
    "--max_steps=6",
    "--logging_steps=1",
    "--eval_strategy=no",
    "--save_strategy=no",
    "--disable_tqdm=true",
    "--report_to=none",
    "--use_cpu",
]

# what a process of a launch is told
TELL = """
import json, os
print("told " + json.dumps(dict(os.environ)) + chr(10), end="", flush=True)
"""

# FSDP on a machine without an accelerator: accelerate would make it DDP
SHARDED = """
import runpy, sys
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from hf_mae.training.trainer import ImageTrainer

create, train = ImageTrainer.create_accelerator_and_postprocess, ImageTrainer.train

def create_sharded(trainer):
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_HPU
    create(trainer)

def train_and_tell(trainer, *args, **kwargs):
    result = train(trainer, *args, **kwargs)
    version = trainer.accelerator.state.fsdp_plugin.fsdp_version
    kinds = {type(parameter).__name__ for parameter in trainer.model_wrapped.parameters()}
    print(f"sharded {version} {sorted(kinds)}" + chr(10), end="", flush=True)
    return result

ImageTrainer.create_accelerator_and_postprocess = create_sharded
ImageTrainer.train = train_and_tell
sys.argv[0] = "run_mae.py"
sys.path.insert(0, "scripts")  # as python does
runpy.run_path("scripts/run_mae.py", run_name="__main__")
"""


def launch(configuration, *arguments):
    """The command that starts a script by a configuration."""
    return [ACCELERATE, "launch", "--config_file", str(FOLDER / configuration), *arguments]


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def run_all(*commands, seconds=300, **environment):
    """Runs commands beside each other to their ends: what all of them printed."""
    started = []
    for command in commands:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
    try:
        texts = [process.communicate(timeout=seconds)[0] for process in started]
    finally:
        for process in started:
            kill_tree(process)
    for process, text in zip(started, texts):
        assert process.returncode == 0, text
    return "".join(texts)


def told_by(configuration, tmp_path, *arguments):
    """What each process of a launch is told, by rank."""
    program = tmp_path / "program.py"
    program.write_text(TELL)
    text = run_all(launch(configuration, *arguments, str(program)))
    told = [json.loads(line[5:]) for line in text.splitlines() if line.startswith("told ")]
    return sorted(told, key=lambda process: int(process.get("RANK", 0)))


@pytest.fixture(scope="module")
def losses_of_one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    run_script("run_mae.py", *RUN, "--per_device_train_batch_size=32", "--output_dir", folder)
    losses = [loss for _, loss in trace(folder)]
    assert len(losses) == 6
    return losses


def losses_in(folder):
    return [loss for _, loss in trace(folder)]


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_every_key_is_accelerates(path):
    """Its own reader refuses keys that it doesn't know."""
    written = yaml.safe_load(path.read_text())
    read = load_config_from_file(str(path))
    for name, value in written.items():
        found = getattr(read, name)
        assert getattr(found, "value", found) == value, name
    assert f"--config_file scripts/accelerate/{path.name}" in path.read_text()
    assert read.mixed_precision == "no"  # the recipe's bf16 decides


def test_no_configuration_is_left_out():
    assert {path.stem for path in CONFIGURATIONS} == {
        *("cpu", "one_gpu", "eight_gpus", "two_nodes", "fsdp2", "deepspeed_zero2")
    }


def test_one_gpu(tmp_path):
    (process,) = told_by("one_gpu.yaml", tmp_path)
    assert process["CUDA_VISIBLE_DEVICES"] == "0"
    assert process.get("WORLD_SIZE", "1") == "1"


def test_eight_gpus(tmp_path):
    processes = told_by("eight_gpus.yaml", tmp_path)
    assert [process["LOCAL_RANK"] for process in processes] == [*"01234567"]
    assert {process["WORLD_SIZE"] for process in processes} == {"8"}
    assert {process["ACCELERATE_MIXED_PRECISION"] for process in processes} == {"no"}


def test_cpu(tmp_path, losses_of_one):
    command = launch("cpu.yaml", "scripts/run_mae.py", *RUN)
    command += ["--per_device_train_batch_size=16", f"--output_dir={tmp_path / 'run'}"]
    text = run_all(command)
    assert "32 = 16 a process * 2 processes * 1 accumulated" in text
    assert losses_in(tmp_path / "run") == pytest.approx(losses_of_one, abs=1e-5)


def test_two_nodes(tmp_path, losses_of_one):
    """Two launchers on this machine."""
    where = ["--num_processes=2", "--main_process_ip=127.0.0.1"]
    where.append(f"--main_process_port={free_port()}")
    script = ["scripts/run_mae.py", *RUN, "--per_device_train_batch_size=16"]
    script.append(f"--output_dir={tmp_path / 'run'}")
    commands = []
    for rank in range(2):
        commands.append(launch("two_nodes.yaml", *where, f"--machine_rank={rank}", *script))
    text = run_all(*commands)
    assert "32 = 16 a process * 2 processes * 1 accumulated" in text
    assert losses_in(tmp_path / "run") == pytest.approx(losses_of_one, abs=1e-5)


def test_fsdp2(tmp_path, losses_of_one):
    program = tmp_path / "program.py"
    program.write_text(SHARDED)
    command = launch("fsdp2.yaml", "--num_processes=2", str(program), *RUN)
    command += ["--per_device_train_batch_size=16", f"--output_dir={tmp_path / 'run'}"]
    text = run_all(command)
    assert text.count("sharded 2 ['DTensor']") == 2
    assert losses_in(tmp_path / "run") == pytest.approx(losses_of_one, abs=1e-5)


def test_deepspeed(tmp_path):
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed isn't installed; its configuration is read, not run")
    assert len(told_by("deepspeed_zero2.yaml", tmp_path, "--num_processes=2")) == 2


# what srun and scontrol do on a single machine, for slurm.sh
SRUN = """#!/bin/bash
shift  # --wait
for ((rank = 0; rank < SLURM_NTASKS; rank++)); do
    SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" &
    tasks+=($!)
    echo $! >> "$TASKS"
done
highest=0
for task in "${tasks[@]}"; do
    wait "$task"
    status=$?
    highest=$((status > highest ? status : highest))
done
exit $highest
"""
SCONTROL = """#!/bin/bash
case $1 in
show) echo 127.0.0.1 ;;
requeue) echo "$2" >> "$REQUEUED" ;;
esac
"""


@pytest.fixture
def slurm(tmp_path):
    """The environment of a job of two tasks on this machine."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": str(free_port()),  # of which slurm.sh makes the port
        "SLURM_JOB_NODELIST": "here",
        "SLURM_NTASKS": "2",
        "TASKS": str(tmp_path / "tasks"),
        "REQUEUED": str(tmp_path / "requeued"),
    }


def test_slurm(slurm, tmp_path):
    """USR1 before the time is up: put back into the queue, and started again it goes on."""
    script = ["scripts/run_mae.py", *RUN, "--per_device_train_batch_size=16", "--max_steps=24"]
    script += ["--save_strategy=steps", "--save_steps=6"]
    run_script("run_mae.py", *script[1:], "--output_dir", tmp_path / "whole", processes=2)
    output = tmp_path / "run"
    command = ["bash", str(FOLDER / "slurm.sh"), *script, f"--output_dir={output}"]
    job = subprocess.Popen(command, cwd=ROOT, env=slurm, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 300
        while not (output.is_dir() and find_checkpoint(output)):
            assert job.poll() is None, job.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for task in Path(slurm["TASKS"]).read_text().split():
            os.kill(int(task), signal.SIGUSR1)
        _, stderr = job.communicate(timeout=300)
    finally:
        kill_tree(job)
    assert job.returncode == 128 + signal.SIGUSR1, stderr
    assert "Traceback" not in stderr
    assert Path(slurm["REQUEUED"]).read_text() == f"{slurm['SLURM_JOB_ID']}\n"
    assert not (output / "README.md").exists()

    Path(slurm["REQUEUED"]).unlink()
    done = subprocess.run(command, cwd=ROOT, env=slurm, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "resuming checkpoint-" in done.stdout
    assert not Path(slurm["REQUEUED"]).exists()
    assert trace(output) == trace(tmp_path / "whole")
