"""What goes wrong around a run: a line that says what, what is still there, and what to do."""

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import psutil
import pytest
from helpers import ROOT, TINY_FLAGS, kill_tree, run_script, script_command, script_environment
from PIL import Image

from hf_mae.checkpoints import find_checkpoint


RUN = [
    *TINY_FLAGS,
    *("--dataset_name=digits", "--per_device_train_batch_size=16", "--warmup_epochs=0"),
    *("--use_cpu", "--report_to=none", "--disable_tqdm=true", "--eval_strategy=no"),
    *("--save_strategy=steps", "--save_steps=2", "--logging_steps=1"),
]
ENDLESS = [*RUN, "--max_steps=100000", "--save_total_limit=2"]
GO_ON = re.compile(r"checkpoint-\d+ is whole: go on by --resume_from_checkpoint last")


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of so many bytes; skips where that takes more rights."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def line_of(status, stderr, script="run_mae.py"):
    """The one line that a script has ended with, status 1 and no traceback."""
    assert status == 1, stderr
    stderr = stderr.partition("Exception ignored in: <function _MultiProcessingDataLoader")[0]
    assert "Traceback" not in stderr, stderr
    lines = [line for line in stderr.splitlines() if f"{script}: error: " in line]
    assert len(lines) == 1, stderr
    return lines[0]


def disturb(flags, moment, disturbance, processes=1, limits=None, script="run_mae.py"):
    """Runs a script, does something when `moment()` is true; (status, stderr) once it ends."""
    with tempfile.TemporaryFile("w+") as stderr:  # a pipe that nobody reads would hold it up
        process = subprocess.Popen(
            script_command(script, *flags, processes=processes),
            cwd=ROOT,
            env={**script_environment(processes), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            preexec_fn=limits,
        )
        try:
            deadline = time.monotonic() + 300
            while not moment():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            disturbance(process)
            process.wait(timeout=300)
        finally:
            kill_tree(process)
        stderr.seek(0)
        return process.returncode, stderr.read()


def has_checkpoint(folder, number=2):
    """Whether there is a checkpoint of so many updates or more that was written to its end."""

    def is_there():
        newest = find_checkpoint(folder)
        return newest is not None and int(newest.name.split("-")[1]) >= number

    return is_there


@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_ends_in_a_line_and_the_run_goes_on_once_there_is_room(processes, tmp_path):
    flags = [*RUN, "--max_steps=12", "--output_dir", tmp_path / "disk" / "run"]
    with small_disk(tmp_path / "disk", "3m") as disk:
        status, _, stderr = run_script("run_mae.py", *flags, processes=processes, check=False)
        if processes == 1:
            line = line_of(status, stderr)
        else:
            assert status == 1
            assert "Traceback" not in stderr, stderr
            lines = [line for line in stderr.splitlines() if " error: " in line]
            line = next(line for line in lines if "make room" in line)
            assert all("another process" in other for other in lines if other != line)
        assert "disk" in line
        assert GO_ON.search(line)
        subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)
        again = [*flags, "--resume_from_checkpoint=last"]
        assert "resuming checkpoint-" in run_script("run_mae.py", *again, processes=processes)
        assert (disk / "run" / "model.safetensors").is_file()


def test_a_file_that_is_larger_than_allowed(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    flags = [*ENDLESS, "--output_dir", tmp_path / "run"]
    status, stderr = disturb(flags, lambda: True, lambda process: None, limits=limit)
    line = line_of(status, stderr)
    assert "ulimit -f" in line
    assert "no whole checkpoint" in line


@pytest.mark.parametrize("report_to", ["none", "tensorboard"])
def test_an_output_folder_that_vanishes(report_to, tmp_path):
    """The checkpoints may be gone and the folder too; TensorBoard's file isn't written anew."""
    output = tmp_path / "run"
    flags = [*ENDLESS, "--output_dir", output, f"--report_to={report_to}"]

    def take_away(process):
        while not output.is_file():  # which the run may have made again meanwhile
            with contextlib.suppress(OSError):
                output.rename(tmp_path / f"away-{time.monotonic_ns()}")  # all of it at once
                output.touch(exist_ok=False)  # a file in its place

    status, stderr = disturb(flags, has_checkpoint(output), take_away)
    line = line_of(status, stderr)
    assert str(output) in line
    assert "start again" in line


VANISHES = """
import pathlib, runpy, sys

name, folder = sys.argv[1:3]

def vanish(event, args):
    path = pathlib.Path(str(args[0])) if event == "open" else None
    if path and path.name == name and path.is_relative_to(folder) and path.parent.is_dir():
        pathlib.Path(folder).rename(folder + "-away")

sys.addaudithook(vanish)
sys.argv = sys.argv[3:]
sys.path[0] = str(pathlib.Path(sys.argv[0]).parent)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("moment", ["trainer_state.json", "arguments.yaml"])
def test_an_output_folder_that_vanishes_as_a_file_is_opened(moment, tmp_path):
    """In the first checkpoint, or when the model has been trained: nothing is said to be there."""
    (tmp_path / "vanishes.py").write_text(VANISHES)
    output = tmp_path / "run"
    script = [moment, output, ROOT / "scripts" / "run_mae.py"]
    flags = [*script, *RUN, "--max_steps=2", "--output_dir", output]
    status, _, stderr = run_script(tmp_path / "vanishes.py", *flags, check=False)
    line = line_of(status, stderr)
    assert f"there is no whole checkpoint in {output}, so start again" in line
    assert (tmp_path / "run-away" / "model.safetensors").is_file() == (moment == "arguments.yaml")


NAMES_THREADS = """
import atexit, contextlib, pathlib, runpy, sys

def name_threads():
    names = [file.read_text().strip() for file in pathlib.Path("/proc/self/task").glob("*/comm")]
    print("threads:", *sorted(names), file=sys.stderr)

atexit.register(name_threads)
sys.argv = sys.argv[1:]
sys.path[0] = str(pathlib.Path(sys.argv[0]).parent)
with contextlib.suppress(SystemExit):  # torchrun ends the others at once when one fails
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="lists a process' threads")
@pytest.mark.parametrize("is_stopped", [False, True])
def test_no_communication_outlives_a_run(is_stopped, tmp_path):
    """Its threads would now and then abort a process whose work is done."""
    (tmp_path / "names_threads.py").write_text(NAMES_THREADS)
    output = tmp_path / "run"
    flags = [*(ENDLESS if is_stopped else [*RUN, "--max_steps=4"]), "--output_dir", output]

    def stop(process):
        for rank in psutil.Process(process.pid).children() if is_stopped else []:
            rank.terminate()

    moment = has_checkpoint(output) if is_stopped else lambda: True
    arguments = [ROOT / "scripts" / "run_mae.py", *flags]
    script = tmp_path / "names_threads.py"
    _, text = disturb(arguments, moment, stop, processes=2, script=script)
    assert ("stopped by SIGTERM" in text) == is_stopped
    listed = [line for line in text.splitlines() if line.startswith("threads:")]
    assert len(listed) == 2, text
    assert not any("gloo" in line for line in listed)


FAILS = """
import atexit, os, sys
from early_help import start

class Aborts:
    def __del__(self):
        os.abort()

aborts = Aborts()
atexit.register(print, "ended in order")

def main():
    print("begun")
    sys.exit("run_mae.py: error: too small")

start(main)
"""


@pytest.mark.parametrize(("processes", "status"), [("1", -signal.SIGABRT), ("2", 1)])
def test_what_is_left_of_a_process_of_several_cant_abort_it(processes, status, tmp_path):
    """As threads that wait for the other processes do when the run has failed."""
    path = tmp_path / "fails.py"
    path.write_text(FAILS)
    environment = {**os.environ, "WORLD_SIZE": processes, "PYTHONPATH": str(ROOT / "scripts")}
    command = [sys.executable, path]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == status
    assert run.stderr.startswith("run_mae.py: error: too small\n")
    if processes == "2":
        assert run.stdout == "begun\nended in order\n"


def test_a_file_in_the_place_of_a_checkpoint(tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    (output / "checkpoint-4").touch()
    flags = [*RUN, "--max_steps=6", "--output_dir", output]
    status, _, stderr = run_script("run_mae.py", *flags, check=False)
    line = line_of(status, stderr)
    assert "checkpoint-4" in line
    assert "move it away" in line
    assert "checkpoint-2 is whole" in line


def test_a_read_only_output_folder(tmp_path):
    """Read-only from the start, or from a moment on."""
    flags = [*RUN, "--max_steps=6", "--output_dir", tmp_path / "disk" / "run"]
    with small_disk(tmp_path / "disk", "60m") as disk:
        (disk / "run").mkdir()
        (disk / "run" / "bad_images.tsv").touch()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        status, _, stderr = run_script("run_mae.py", *flags, check=False)
        assert "read-only" in line_of(status, stderr).lower()
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)

        def make_read_only(process):
            # by a mount of its own, made elsewhere, in which no file is open for writing
            made = tmp_path / "read-only"
            made.mkdir()
            subprocess.run(["mount", "--bind", str(disk), str(made)], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", str(made)], check=True)
            subprocess.run(["mount", "--bind", str(made), str(disk)], check=True)
            subprocess.run(["umount", str(made)], check=True)

        flags = [*ENDLESS, "--output_dir", disk / "run"]
        status, stderr = disturb(flags, has_checkpoint(disk / "run", 4), make_read_only)
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
        line = line_of(status, stderr)
        assert "read-only" in line.lower()
        assert GO_ON.search(line)


def test_a_worker_that_is_killed(tmp_path):
    def kill_worker(process):
        workers = psutil.Process(process.pid).children(recursive=True)
        loaders = [each for each in workers if "resource_tracker" not in " ".join(each.cmdline())]
        os.kill(loaders[-1].pid, signal.SIGKILL)

    output = tmp_path / "run"
    flags = [*ENDLESS, "--output_dir", output, "--dataloader_num_workers=2"]
    status, stderr = disturb(flags, has_checkpoint(output), kill_worker)
    line = line_of(status, stderr)
    assert "--dataloader_num_workers" in line
    assert "memory" in line
    assert GO_ON.search(line)


def test_one_of_two_processes_that_is_killed(tmp_path):
    def kill_rank(process):
        ranks = psutil.Process(process.pid).children()
        ranks[-1].kill()

    output = tmp_path / "run"
    flags = [*ENDLESS, "--output_dir", output]
    status, stderr = disturb(flags, has_checkpoint(output), kill_rank, processes=2)
    assert status == 1
    assert 'run_mae.py", line' not in stderr, stderr  # the launcher has a traceback of its own
    assert "another process of this run has ended" in stderr or "SIGTERM" in stderr


def test_too_many_open_files(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    flags = [*ENDLESS, "--output_dir", tmp_path / "run", "--dataloader_num_workers=24"]
    status, stderr = disturb(flags, lambda: True, lambda process: None, limits=limit)
    assert "ulimit -n" in line_of(status, stderr)


def test_what_a_worker_raises_is_its_last_line(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(40):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(images / f"{number:02}.png")
    (images / "07.png").write_bytes(b"no picture")
    flags = [flag for flag in RUN if flag != "--dataset_name=digits"]
    flags += ["--train_dir", images, "--max_steps=3", "--dataloader_num_workers=2"]
    flags += ["--train_val_split=0", "--on_bad_image=raise", "--output_dir", tmp_path / "run"]
    status, _, stderr = run_script("run_mae.py", *flags, check=False)
    line = line_of(status, stderr)
    assert re.search(r"error: image 7 \(\S+07\.png\) can't be decoded: ", line)


def test_images_that_vanish_are_bad_ones(tmp_path):
    images, output = tmp_path / "images", tmp_path / "run"
    images.mkdir()
    for number in range(40):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(images / f"{number:02}.png")
    flags = [flag for flag in ENDLESS if flag != "--dataset_name=digits"]
    flags += ["--train_dir", images, "--train_val_split=0", "--output_dir", output]
    status, stderr = disturb(flags, has_checkpoint(output), lambda process: shutil.rmtree(images))
    assert "can't be decoded" in line_of(status, stderr)
    assert "No such file" in line_of(status, stderr) or "bad_images.tsv" in line_of(status, stderr)


def test_what_cant_be_written_after_training_doesnt_lose_the_model(tmp_path):
    output = tmp_path / "run"
    (output / "curves.png").mkdir(parents=True)
    flags = [*RUN, "--max_steps=2", "--output_dir", output]
    status, _, stderr = run_script("run_mae.py", *flags, check=False)
    line = line_of(status, stderr)
    assert "curves.png" in line
    assert f"the trained model is in {output}" in line
    (output / "curves.png").rmdir()
    run_script("run_mae.py", *flags, "--resume_from_checkpoint=last")
    assert (output / "curves.png").is_file()
    assert (output / "README.md").is_file()
