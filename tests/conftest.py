import os


os.environ["HF_HUB_OFFLINE"] = "1"  # no test reaches out to a network; read when the hub's client is imported

import contextlib
import io
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_sample_images

from hf_mae import MAEConfig, MAEForImageClassification, MAEForPreTraining, MAEImageProcessor
from hf_mae.data import ImageDraws
from hf_mae.decoding import open_image, whole_pixels
from hf_mae.image_datasets import load_image_dataset
from hf_mae.trainer import FineTuningTrainer, LinearProbeTrainer, MAETrainer
from hf_mae.training_arguments import FineTuningArguments, LinearProbeArguments, MAETrainingArguments
from hf_mae.transforms import (
    CentreCropTransform,
    FineTuningTransform,
    HeldOutTransform,
    LinearProbeTransform,
    PretrainingTransform,
)


ROOT = Path(__file__).parent.parent
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
TINY_FLAGS = [
    "--image_size=32",
    "--patch_size=8",
    f"--config_overrides={json.dumps({k: v for k, v in TINY.items() if k not in ('image_size', 'patch_size')})}",
]


@pytest.fixture
def tiny_config():
    return MAEConfig(**TINY)


@pytest.fixture
def model(tiny_config):
    torch.manual_seed(0)
    return MAEForPreTraining(tiny_config)


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return {"pixel_values": torch.randn(2, 3, 32, 32), "noise": torch.rand(2, 16)}


@pytest.fixture
def golden():
    return lambda name: load_file(GOLDEN / f"{name}.safetensors")


@pytest.fixture(scope="session")
def photos():
    """Two real photographs."""
    return [Image.fromarray(image) for image in load_sample_images().images]


@pytest.fixture(scope="session")
def photo_folder(photos, tmp_path_factory):
    """60 real JPEG files in three classes, nested, of odd sizes and several modes."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(60):
        photo = photos[i % 2]
        width, height = (int(side) for side in rng.integers(40, 300, 2))
        left, top = int(rng.integers(photo.width - width)), int(rng.integers(photo.height - height))
        crop = photo.crop((left, top, left + width, top + height))
        path = folder / f"group{i % 2}" / f"class{i % 3}" / f"{i:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        crop.convert({0: "L", 1: "CMYK"}.get(i % 7, "RGB")).save(path)
    return folder


def encoded(image, fmt="png", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=fmt, **options)
    return buffer.getvalue()


def decode(value, num_channels):
    """What an image column holds → all its pixels (H, W, C)."""
    return whole_pixels(open_image(value, num_channels))


def script_command(name, *arguments, processes=1):
    """How a user starts a script, on this Python."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [sys.executable, *(launch if processes > 1 else []), str(ROOT / "scripts" / name), *map(str, arguments)]


def script_environment(processes=1):
    return {**os.environ, "OMP_NUM_THREADS": "1"} if processes > 1 else dict(os.environ)


def run_script(name, *arguments, processes=1, check=True):
    """Runs a script to its end; returns stdout, or with `check=False` (status, stdout, stderr)."""
    process = subprocess.Popen(
        script_command(name, *arguments, processes=processes),
        cwd=ROOT,
        env=script_environment(processes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        kill_tree(process)
        raise
    if not check:
        return process.returncode, stdout, stderr
    assert process.returncode == 0, f"exit status {process.returncode}\n{stdout}\n{stderr}"
    return stdout


def script_error(name, *arguments):
    """What a script that refuses its arguments says, in this process (starting one takes seconds)."""
    stderr = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(stderr):
        patch.setattr("sys.argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
    assert caught.value.code
    text = stderr.getvalue() if isinstance(caught.value.code, int) else caught.value.code
    assert "error: " in text
    return text


def kill_tree(process):
    """Kills a process and all that it started, hard (torchrun's children are in sessions of their own)."""
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def trace(output_dir, key="loss"):
    """What a run logged: (step, value) pairs."""
    history = json.loads((Path(output_dir) / "trainer_state.json").read_text())["log_history"]
    return [(entry["step"], entry[key]) for entry in history if key in entry]


@pytest.fixture(scope="session")
def digits():
    return load_image_dataset("digits", train_val_split=0.1)


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


@pytest.fixture
def made():
    trainers = []
    yield trainers
    for trainer in trainers:  # else the garbage collector waits 5 seconds for each worker
        iterator = getattr(trainer.callback_handler.train_dataloader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()


@pytest.fixture
def make_trainer(digits, tmp_path, made):
    """A pre-training trainer on the digits."""

    def make(train=None, validation=None, folder="run", model=None, config=None, on_bad_image="skip", **arguments):
        defaults = {**QUIET, "per_device_train_batch_size": 64, "base_learning_rate": 2e-3}
        args = MAETrainingArguments(output_dir=str(tmp_path / folder), **{**defaults, **arguments})
        torch.manual_seed(0)
        model = model or MAEForPreTraining(config or MAEConfig(**TINY))
        config = model.config
        train, validation = train or digits["train"], validation or digits["validation"]
        trainer = MAETrainer(
            model,
            args,
            ImageDraws(train, PretrainingTransform(config), config.num_channels, args.seed, on_bad_image),
            ImageDraws(validation, HeldOutTransform(config), config.num_channels, args.seed, on_bad_image),
            MAEImageProcessor.from_model_config(config),
        )
        made.append(trainer)
        return trainer

    return make


@pytest.fixture(scope="session")
def labelled_digits():
    return load_image_dataset("digits", train_val_split=0.1, labels=True)


@pytest.fixture
def make_classifier_trainer(labelled_digits, tmp_path, made):
    """A trainer on the labelled digits: `kind` is "finetune" or "probe", `fields` are of the configuration."""

    def make(kind="finetune", train=None, validation=None, folder="run", fields=None, **arguments):
        fields = {**TINY, "num_channels": 1, "num_labels": 10, **(fields or {})}
        torch.manual_seed(0)
        if kind == "finetune":
            model = MAEForImageClassification(MAEConfig(**fields))
            trainer_class, args_class, transform_class = FineTuningTrainer, FineTuningArguments, FineTuningTransform
            defaults = {"per_device_train_batch_size": 64, "base_learning_rate": 4e-3}
        else:
            model = MAEForImageClassification(MAEConfig(**fields, pooling="cls", head_batch_norm=True)).freeze_encoder()
            trainer_class, args_class, transform_class = LinearProbeTrainer, LinearProbeArguments, LinearProbeTransform
            defaults = {"per_device_train_batch_size": 64, "learning_rate": 1.0}
        args = args_class(output_dir=str(tmp_path / folder), **{**QUIET, **defaults, **arguments})
        options = (args.auto_augment, args.random_erasing) if kind == "finetune" else ()
        train, validation = train or labelled_digits["train"], validation or labelled_digits["validation"]
        trainer = trainer_class(
            model,
            args,
            ImageDraws(train, transform_class(model.config, *options), 1, args.seed),
            ImageDraws(validation, CentreCropTransform(model.config), 1, args.seed),
            MAEImageProcessor.from_model_config(model.config),
        )
        made.append(trainer)
        return trainer

    return make


def logged_losses(trainer):
    """The loss of every step that a trainer logged."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
