import errno
import os

import pytest
import torch
from safetensors import SafetensorError

from hf_mae.errors import TRAINING_ERRORS, BadImageError, NonFiniteLossError, reported_as


@pytest.mark.parametrize(
    "error", [ValueError("a\nb"), OSError("a\nb"), SafetensorError("a\nb"), BadImageError("a\nb")]
)
def test_what_the_user_can_mend_is_a_line(error):
    with pytest.raises(SystemExit) as exit_status, reported_as("script.py"):
        raise error
    assert exit_status.value.code == "script.py: error: a b"


def test_a_mistake_keeps_its_traceback():
    with pytest.raises(TypeError), reported_as("script.py"):
        raise TypeError
    with pytest.raises(ValueError), reported_as("script.py", TRAINING_ERRORS):  # noqa: PT011
        raise ValueError
    with pytest.raises(SystemExit), reported_as("script.py", TRAINING_ERRORS):
        raise NonFiniteLossError


def test_what_cant_be_looked_at_doesnt_hide_the_error():
    def kept():
        raise OSError(errno.EMFILE, "Too many open files", "runs/digits")

    with pytest.raises(SystemExit) as end, reported_as("run_mae.py", kept=kept):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "the disk is full; make room" in str(end.value)
    assert "couldn't be looked at ([Errno 24] Too many open files: 'runs/digits')" in str(end.value)


def give_and_end(queue):
    queue.put(torch.ones(1000))
    queue.close()
    queue.join_thread()
    os._exit(9)


def test_a_loader_that_ends_before_its_batch_is_taken():
    """What it had in shared memory is asked of a process that is no more."""
    context = torch.multiprocessing.get_context("fork")
    queue = context.Queue()
    loader = context.Process(target=give_and_end, args=(queue,))
    loader.start()
    loader.join()
    with pytest.raises(SystemExit) as end, reported_as("run_mae.py"):
        queue.get(timeout=10)
    assert "a process that loads images was killed" in str(end.value)


def test_a_connection_of_another_kind_is_another_process():
    with pytest.raises(SystemExit) as end, reported_as("run_mae.py"):
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
    assert "another process of this run has ended" in str(end.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gone/optimizer.pt", "a file or folder isn't there, or no more"),
        ("file/optimizer.pt", "a file or folder isn't there, or no more"),
        ("folder", "there is a folder in the place of a file; move it away"),
        (f"{300 * 'n'}.pt", "the name is too long here; name another"),
    ],
)
def test_where_torch_cant_save(name, said, tmp_path):
    """It gives no number."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(SystemExit) as end, reported_as("run_mae.py", TRAINING_ERRORS):
        torch.save(torch.zeros(1000), tmp_path / name)
    assert f"run_mae.py: error: {said}" in str(end.value)


def test_where_torch_cant_load(tmp_path):
    """As earlier versions of transformers ask for."""
    torch.save(torch.zeros(1), tmp_path / "optimizer.pt")
    with pytest.raises(SystemExit) as end, reported_as("run_mae.py", TRAINING_ERRORS):
        torch.load(tmp_path / "optimizer.pt", map_location=torch.device("cpu", 0))
    assert "this version of transformers can't resume a run of several" in str(end.value)
