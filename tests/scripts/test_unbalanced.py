"""Folders of classes of unequal size, by the scripts: what is held out, balanced and said."""

import json

import numpy as np
import pytest
import torch
import yaml
from helpers import TINY_FLAGS, run_script, script_error, trace
from PIL import Image
from safetensors.torch import load_file


QUIET = ["--report_to=none", "--disable_tqdm=true", "--use_cpu=true"]
FLAGS = [*TINY_FLAGS, *QUIET, "--num_channels=1", "--save_strategy=no", "--warmup_epochs=0"]
FLAGS += ["--train_val_split=0.2"]
SIZES = {"dog": 60, "cat": 25, "hen": 6, "owl": 1}


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """92 grey pictures, each class of its own brightness."""
    folder = tmp_path_factory.mktemp("animals") / "animals"
    rng = np.random.default_rng(0)
    for number, (name, size) in enumerate(SIZES.items()):
        (folder / name).mkdir(parents=True)
        for i in range(size):
            pixels = 70 * number + rng.integers(0, 40, (24, 24))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def weighted(animals, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weighted") / "run"
    flags = [*FLAGS, "--train_dir", animals, "--class_weights=balanced", "--num_train_epochs=2"]
    flags += ["--per_device_train_batch_size=8", "--learning_rate=1e-3"]
    return folder, run_script("run_finetune.py", *flags, "--output_dir", folder)


def test_the_plan_counts_classes_and_weighs_them(weighted):
    """Of 92 images 18 are held out: 12, 5 and 1."""
    _, stdout = weighted
    assert "74 training images, 18 held out (animals)" in stdout
    assert "classes dog 48, cat 20, hen 5, owl 1\n" in stdout
    assert "from 0.385 times (dog) to 18.5 times (owl)" in stdout
    assert "note    of 18 held-out images figures are rough" in stdout


def test_what_the_accuracy_is_worth_is_said(weighted):
    folder, stdout = weighted
    end = stdout.split("A linear head was")[-1].split("It was trained whole")[-1]
    assert "balanced accuracy" in end
    (doubt,) = [line for line in end.splitlines() if "Wilson interval" in line]
    assert doubt.startswith("The top-1 accuracy is of 18 images: with 95 % confidence")
    card = (folder / "README.md").read_text()
    assert doubt in card
    assert "| balanced accuracy |" in card
    assert "weighed classes by inverse frequency (`class_weights`)" in card
    assert json.loads((folder / "card.json").read_text())["doubts"] == [doubt]
    recipe = yaml.safe_load((folder / "arguments.yaml").read_text())
    assert recipe["class_weights"] == "balanced"


def test_an_evaluation_says_it_too(weighted, animals, tmp_path):
    few = tmp_path / "few"
    for name in ("dog", "cat"):
        (few / name).mkdir(parents=True)
        for i in range(5):
            (few / name / f"{i}.png").write_bytes((animals / name / f"{i}.png").read_bytes())
    arguments = ["--model_name_or_path", weighted[0], "--validation_dir", few, "--use_cpu"]
    output = tmp_path / "results.json"
    stdout = run_script("run_eval.py", *arguments, "--output", output)
    results = json.loads(output.read_text())
    low, high = results["top1_interval_95"]
    assert low < results["top1_accuracy"] <= high
    assert results["largest_class_share"] == 0.5
    (doubt,) = results["doubts"]
    assert f"is of 10 images: with 95 % confidence it is between {low:.1%} and {high:.1%}" in doubt
    assert doubt in stdout.splitlines()
    assert f"balanced_accuracy {results['balanced_accuracy']:.2%}" in stdout


@pytest.mark.parametrize("balance", ["--class_weights=balanced", "--class_sampling=balanced"])
def test_two_processes_equal_one(animals, tmp_path, balance):
    """With mixing and all augmentation; and with workers, and accumulated."""
    flags = [*FLAGS, "--train_dir", animals, balance, "--max_steps=6", "--logging_steps=1"]
    flags += ["--learning_rate=1e-3"]
    sizes = ["--per_device_train_batch_size=24"]
    run_script("run_finetune.py", *flags, *sizes, "--output_dir", tmp_path / "one")
    sizes = ["--per_device_train_batch_size=6", "--gradient_accumulation_steps=2"]
    sizes += ["--dataloader_num_workers=1"]
    run_script("run_finetune.py", *flags, *sizes, "--output_dir", tmp_path / "two", processes=2)
    ours, expected = trace(tmp_path / "two"), trace(tmp_path / "one")
    assert len(ours) == 6
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in expected], abs=1e-5)


def test_a_probe_of_balanced_samples_repeats(animals, tmp_path):
    flags = [*FLAGS, "--train_dir", animals, "--class_sampling=balanced", "--cache_features"]
    flags += ["--num_train_epochs=3", "--per_device_train_batch_size=8"]
    stdout = run_script("run_linear_probe.py", *flags, "--output_dir", tmp_path / "run")
    assert "samples 18 of each class an epoch, each image 0.375 to 18 times" in stdout
    assert "images of every class equally often (`class_sampling`)" in stdout
    recipe = tmp_path / "run" / "arguments.yaml"
    run_script("run_linear_probe.py", recipe, "--output_dir", tmp_path / "again")
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "again"))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_the_knn_accuracy_of_few_images_is_said(animals, tmp_path):
    flags = [*TINY_FLAGS, *QUIET, "--num_channels=1", "--save_strategy=no", "--warmup_epochs=0"]
    flags += ["--train_dir", animals, "--knn_images=50", "--train_val_split=0.2", "--max_steps=1"]
    flags += ["--per_device_train_batch_size=8", "--output_dir", tmp_path / "run"]
    stdout = run_script("run_mae.py", *flags)
    (doubt,) = [line for line in stdout.splitlines() if "Wilson interval" in line]
    assert doubt.startswith("The k-NN accuracy is of 18 images")
    assert doubt in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--class_weights=balanced", "--class_sampling=balanced"], "correct twice"),
        (["--class_weights=inverse"], "class_weights is 'inverse'; it must be one of"),
    ],
)
def test_impossible_balances(animals, tmp_path, flags, message):
    arguments = [*FLAGS, "--train_dir", animals, *flags, "--output_dir", tmp_path / "run"]
    assert message in script_error("run_finetune.py", *arguments)
