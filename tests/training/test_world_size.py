"""Fewer processes than were asked for are refused, by the environment of real launchers."""

import subprocess
import sys

import pytest
from helpers import ROOT, TINY_FLAGS, script_environment

from hf_mae.training.world_size import check_world_size


FLAGS = [*TINY_FLAGS, "--dataset_name=digits", "--use_cpu", "--max_steps=1", "--warmup_epochs=0"]
FLAGS += ["--report_to=none", "--eval_strategy=no"]


def launch(options, tmp_path, **environment):
    """What `accelerate launch` of run_mae.py answers: (status, stdout, stderr)."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, "scripts/run_mae.py"]
    ran = subprocess.run(
        [*command, *FLAGS, f"--output_dir={tmp_path / 'run'}"],
        cwd=ROOT,
        env={**script_environment(2), **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stderr


def test_accelerate_that_starts_one_of_two_processes(tmp_path):
    status, stdout, stderr = launch(["--cpu", "--num_processes=2"], tmp_path)
    assert status != 0
    (line,) = [line for line in stderr.splitlines() if line.startswith("run_mae.py: error: ")]
    assert "asked for several processes" in line
    assert "torchrun --nproc_per_node N" in line
    assert "training images" not in stdout


def test_a_single_process_where_the_cluster_sets_a_port(tmp_path):
    options = ["--cpu", "--num_processes=1"]
    status, stdout, stderr = launch(options, tmp_path, MASTER_PORT="29507", SLURM_NTASKS="8")
    assert status == 0, stderr
    assert "training images" in stdout


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SLURM_STEP_NUM_TASKS": "8"}, r"8 processes were asked for \(SLURM_STEP_NUM_TASKS\)"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, r"2 processes were asked for \(WORLD_SIZE\), and one"),
        ({"PMI_SIZE": "4"}, "PMI_SIZE"),
    ],
)
def test_copies_that_know_nothing_of_each_other(environment, message):
    with pytest.raises(ValueError, match=message):
        check_world_size(1, environment)
    check_world_size(8, environment)


def test_a_torchrun_on_each_of_two_nodes():
    started_by_srun = {"WORLD_SIZE": "16", "RANK": "3", "SLURM_STEP_NUM_TASKS": "2"}
    check_world_size(16, {**started_by_srun, "MASTER_PORT": "29500"})
