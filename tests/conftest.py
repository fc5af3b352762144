import gc
import os
import shutil
import signal
import tempfile

from loopback_hub import ADDRESS


# no test reaches out to a network, nor to what earlier runs left: read when the Hub's client is
# imported, here and in the processes that are started
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_ENDPOINT"] = ADDRESS
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf_home")
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ.pop("HF_TOKEN", None)
# several workers share the cores: with more threads each, they would wait for each other
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


import numpy as np
import pytest
import torch
from helpers import GOLDEN, QUIET, TINY
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_sample_images

from hf_mae import MAEConfig, MAEForImageClassification, MAEForPreTraining, MAEImageProcessor
from hf_mae.data.samples import ImageSamples
from hf_mae.data.sources import load_image_dataset
from hf_mae.data.transforms import (
    CenterCropTransform,
    FineTuningTransform,
    LinearProbeTransform,
    MaskedEvaluationTransform,
    PretrainingTransform,
)
from hf_mae.training.arguments import (
    FineTuningArguments,
    LinearProbeArguments,
    MAETrainingArguments,
)
from hf_mae.training.classification import FineTuningTrainer, LinearProbeTrainer
from hf_mae.training.pretraining import MAETrainer


def pytest_configure():
    # a shell has its background jobs ignore these, and what is started from here would, too
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_unconfigure():
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def _thaw():
    """Scripts that are run in a test's process freeze what is there; it becomes garbage again."""
    yield
    gc.unfreeze()


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


@pytest.fixture(scope="session")
def digits():
    return load_image_dataset("digits", train_val_split=0.1)


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

    def make(
        train=None,
        validation=None,
        folder="run",
        model=None,
        config=None,
        on_bad_image="skip",
        **arguments,
    ):
        defaults = {**QUIET, "per_device_train_batch_size": 64, "base_learning_rate": 2e-3}
        args = MAETrainingArguments(output_dir=str(tmp_path / folder), **{**defaults, **arguments})
        torch.manual_seed(0)
        model = model or MAEForPreTraining(config or MAEConfig(**TINY))
        config = model.config
        train, validation = train or digits["train"], validation or digits["validation"]
        trainer = MAETrainer(
            model,
            args,
            ImageSamples(
                train, PretrainingTransform(config), config.num_channels, args.seed, on_bad_image
            ),
            ImageSamples(
                validation,
                MaskedEvaluationTransform(config),
                config.num_channels,
                args.seed,
                on_bad_image,
            ),
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
    """A trainer on the labelled digits: `kind` is "finetune" or "probe", `fields` are of the
    configuration."""

    def make(kind="finetune", train=None, validation=None, folder="run", fields=None, **arguments):
        fields = {**TINY, "num_channels": 1, "num_labels": 10, **(fields or {})}
        torch.manual_seed(0)
        if kind == "finetune":
            model = MAEForImageClassification(MAEConfig(**fields))
            trainer_class, args_class, transform_class = (
                FineTuningTrainer,
                FineTuningArguments,
                FineTuningTransform,
            )
            defaults = {"per_device_train_batch_size": 64, "base_learning_rate": 4e-3}
        else:
            model = MAEForImageClassification(
                MAEConfig(**fields, pooling="cls", head_batch_norm=True)
            ).freeze_encoder()
            trainer_class, args_class, transform_class = (
                LinearProbeTrainer,
                LinearProbeArguments,
                LinearProbeTransform,
            )
            defaults = {"per_device_train_batch_size": 64, "learning_rate": 1.0}
        args = args_class(output_dir=str(tmp_path / folder), **{**QUIET, **defaults, **arguments})
        options = (args.auto_augment, args.random_erasing) if kind == "finetune" else ()
        train, validation = (
            train or labelled_digits["train"],
            validation or labelled_digits["validation"],
        )
        trainer = trainer_class(
            model,
            args,
            ImageSamples(train, transform_class(model.config, *options), 1, args.seed),
            ImageSamples(validation, CenterCropTransform(model.config), 1, args.seed),
            MAEImageProcessor.from_model_config(model.config),
        )
        made.append(trainer)
        return trainer

    return make
