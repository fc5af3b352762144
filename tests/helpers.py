"""What several tests need: the golden cases, tiny models, and scripts as their users start them."""

import contextlib
import io
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from forked_scripts import ROOT, TIMEOUT_SECONDS, run_forked

from hf_mae.data.decoding import open_image, whole_pixels
from hf_mae.models.pictures import Values
from hf_mae.training import resuming


GOLDEN = Path(__file__).parent / "golden"

# the shape of the golden cases
TINY = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 192,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 128,
}
_OTHERS = {name: value for name, value in TINY.items() if name not in ("image_size", "patch_size")}
TINY_FLAGS = ["--image_size=32", "--patch_size=8", f"--config_overrides={json.dumps(_OTHERS)}"]


def encoded(image, fmt="png", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=fmt, **options)
    return buffer.getvalue()


def dicom(values, bits=16, signed=False, kind="MONOCHROME2", **fields):
    """A DICOM file of values (H, W), or frames, or (H, W, 3) of kind RGB."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    slide = pydicom.Dataset()
    slide.file_meta = meta
    slide.SOPClassUID, slide.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    slide.PhotometricInterpretation = kind
    is_colour = kind == "RGB"
    slide.SamplesPerPixel = 3 if is_colour else 1
    if is_colour:
        slide.PlanarConfiguration = 0
    elif values.ndim == 3:
        slide.NumberOfFrames = len(values)
    slide.Rows, slide.Columns = values.shape[:2] if is_colour else values.shape[-2:]
    slide.BitsAllocated = values.dtype.itemsize * 8
    slide.BitsStored, slide.HighBit = bits, bits - 1
    slide.PixelRepresentation = int(signed)
    slide.PixelData = values.tobytes()
    for name, value in fields.items():
        setattr(slide, name, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, slide, enforce_file_format=True)
    return buffer.getvalue()


def decode(value, num_channels):
    """What an image column holds → all its pixels (H, W, C)."""
    return whole_pixels(open_image(value, num_channels, Values()))


def script_command(name, *arguments, processes=1):
    """How a user starts a script, on this Python."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [
        sys.executable,
        *(launch if processes > 1 else []),
        str(ROOT / "scripts" / name),
        *map(str, arguments),
    ]


def script_environment(processes=1):
    return {**os.environ, "OMP_NUM_THREADS": "1"} if processes > 1 else dict(os.environ)


def run_fresh(name, arguments, processes=1):
    """Runs a script to its end, as a user starts it: (status, stdout, stderr)."""
    process = subprocess.Popen(
        script_command(name, *arguments, processes=processes),
        cwd=ROOT,
        env=script_environment(processes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        kill_tree(process)
        raise
    return process.returncode, stdout, stderr


def run_script(name, *arguments, processes=1, check=True, fresh=False):
    """Runs a script to its end; returns stdout, or with `check=False` (status, stdout, stderr).

    It is a fork that finds the package imported, or with `fresh` a new Python or torchrun.
    """
    run = run_fresh if fresh else run_forked
    status, stdout, stderr = run(name, list(map(str, arguments)), processes)
    if not check:
        return status, stdout, stderr
    assert status == 0, f"exit status {status}\n{stdout}\n{stderr}"
    return stdout


def script_error(name, *arguments):
    """What a script that refuses its arguments says, in this process (starting one takes
    seconds)."""
    stderr = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(stderr):
        patch.setattr("sys.argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
    for lock in resuming._held:  # of an output folder, as if the process had ended
        lock.release()
    assert caught.value.code
    text = stderr.getvalue() if isinstance(caught.value.code, int) else caught.value.code
    assert "error: " in text
    return text


def train_jobs(jobs, processes):
    """Trains jobs of `elastic_runs.py` in so many processes: name → report."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "jobs.json")
        file.write_text(json.dumps(jobs))
        stdout = run_script("../tests/elastic_runs.py", file, processes=processes)
    lines = [line for line in stdout.splitlines() if line.startswith("[")]
    return dict(map(json.loads, lines))


def kill_tree(process):
    """Kills a process that hasn't ended yet and all that it started, hard (torchrun's children are
    in sessions of their own)."""
    family = [process]
    if process.poll() is None:
        family += psutil.Process(process.pid).children(recursive=True)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def trace(output_dir, key="loss"):
    """What a run logged: (step, value) pairs."""
    history = json.loads((Path(output_dir) / "trainer_state.json").read_text())["log_history"]
    return [(entry["step"], entry[key]) for entry in history if key in entry]


# trainers log every step, on the CPU
QUIET = {
    "max_steps": 6,
    "warmup_epochs": 0,
    "logging_steps": 1,
    "eval_strategy": "no",
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}


def logged_losses(trainer):
    """The loss of every step that a trainer logged."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
