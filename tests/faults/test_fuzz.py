"""Flags, recipes and model folders that nobody would write: a run, or a line that says why not."""

import json
import shutil

import pytest
import torch
import yaml
from campaign import RUN, SIZES, FaultError, check_explained, finish
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_damages import DAMAGES

from hf_mae import MAEConfig, MAEForImageClassification, MAEForPreTraining, MAEImageProcessor


# flags with values of every kind; those that reach out (push_to_hub, report_to) have tests of their
# own, and those that only make a run long are left out
NUMBERS = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "base_learning_rate",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "warmup_epochs",
    "logging_steps",
    "save_steps",
    "eval_steps",
    "save_total_limit",
    "seed",
    "mask_ratio",
    "crops_per_image",
    "train_val_split",
    "knn_images",
    "max_bad_images",
    "dataloader_prefetch_factor",
    "image_size",
    "patch_size",
    "num_channels",
)
WORDS = (
    "nonfinite",
    "on_bad_image",
    "optim",
    "lr_scheduler_type",
    "eval_strategy",
    "save_strategy",
    "logging_strategy",
    "bf16",
    "norm_pix_loss",
    "config_overrides",
    "dataset_name",
    "config_name",
    "model_name_or_path",
    "resume_from_checkpoint",
    "value_range",
    "image_mean",
)
SMALL = st.integers(-3, 40).map(str)
ODD = ["", "nan", "inf", "-inf", "-1", "0", "1e400", "1e-400", "1_000", "0x10", "½", "true", "none"]
ODD += ["null", "[]", "{}", "[1, 2]", "{a: 1}", '{"a": 1}', "é", "/nowhere", "0.5", "1.5"]
VALUES = st.one_of(SMALL, st.sampled_from(ODD), st.text(max_size=6).filter(lambda t: "\0" not in t))
FLAGS = st.dictionaries(st.sampled_from(NUMBERS + WORDS), VALUES, min_size=1, max_size=3)

SCALARS = st.none() | st.booleans() | st.integers(-5, 40) | st.floats() | st.text(max_size=5)
TREES = st.recursive(
    SCALARS,
    lambda deeper: st.lists(deeper, max_size=3) | st.dictionaries(st.text(max_size=4), deeper),
    max_leaves=4,
)
ENTRIES = st.dictionaries(st.sampled_from(NUMBERS + WORDS), TREES, min_size=1, max_size=3)
RECIPES = st.one_of(
    ENTRIES.map(lambda entries: yaml.safe_dump(entries).encode()),
    TREES.map(lambda tree: yaml.safe_dump(tree).encode()),
    st.binary(max_size=40),
)

FIELDS = sorted(MAEConfig().to_dict())
SMALL_VALUES = st.none() | st.booleans() | st.integers(-5, 64) | st.text(max_size=5)
FIELD_VALUES = SMALL_VALUES | st.lists(SMALL_VALUES, max_size=3)
CHANGES = st.dictionaries(st.sampled_from(FIELDS), FIELD_VALUES, min_size=1, max_size=2)
CONFIGS = st.one_of(CHANGES, TREES, st.binary(max_size=20))
FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
SCRIPTS = ("predict.py", "reconstruct.py", "run_eval.py", "run_finetune.py", "run_mae.py")
FOLDERS = st.tuples(
    st.sampled_from(SCRIPTS),
    st.one_of(CONFIGS, st.tuples(st.sampled_from(FILES), st.sampled_from(sorted(DAMAGES)))),
)


def examples(count):
    """As many tries, the same ones each time; what fails isn't made smaller, which takes hours."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def fuzz(count, strategy, check, record_property):
    """Checks as many examples; those that failed are told together, and counted by kind."""
    tried, faults = [], []

    @examples(count)
    @given(strategy)
    def try_one(example):
        tried.append(example)
        try:
            check(example)
        except FaultError as error:
            faults.append(type(error)(f"{example!r}: {error}"))

    try_one()
    record_property("tries", len(tried))
    record_property("kinds", [fault.kind for fault in faults])
    if faults:
        raise type(faults[0])("\n\n".join(map(str, faults)))


def run_once(folder, *arguments):
    """One update, with these arguments before or after those of the tiny run: (status, stderr)."""
    shutil.rmtree(folder, ignore_errors=True)
    status, _, stderr = finish("run_mae.py", [*arguments, f"--output_dir={folder}"])
    return status, stderr


ONE_UPDATE = [
    *RUN,
    "--max_steps=1",
    "--eval_strategy=no",
    "--save_strategy=no",
    "--per_device_train_batch_size=16",
]
HALVES = [4, pytest.param(120, marks=pytest.mark.campaign)]


@pytest.mark.fault("fuzz of flags")
@pytest.mark.parametrize("count", HALVES)
def test_flags(count, tmp_path, record_property):
    def check(flags):
        given_flags = [f"--{name}={value}" for name, value in flags.items()]
        status, stderr = run_once(tmp_path / "run", *ONE_UPDATE, *given_flags)
        check_explained("run_mae.py", status, stderr)

    fuzz(count, FLAGS, check, record_property)


@pytest.mark.fault("fuzz of recipes")
@pytest.mark.parametrize("count", HALVES)
def test_recipes(count, tmp_path, record_property):
    """The flags of the tiny run come after, and override the recipe."""
    recipe = tmp_path / "recipe.yaml"

    def check(content):
        recipe.write_bytes(content)
        status, stderr = run_once(tmp_path / "run", recipe, *ONE_UPDATE)
        check_explained("run_mae.py", status, stderr)

    fuzz(count, RECIPES, check, record_property)


@pytest.fixture
def model_folders(tmp_path):
    """A classifier's and a pre-training model's folder, and a picture."""
    config = MAEConfig(image_size=16, patch_size=8, num_labels=10, **SIZES)
    torch.manual_seed(0)
    MAEForImageClassification(config).save_pretrained(tmp_path / "classifier")
    MAEForPreTraining(config).save_pretrained(tmp_path / "pretrained")
    for folder in ("classifier", "pretrained"):
        MAEImageProcessor.from_model_config(config).save_pretrained(tmp_path / folder)
    Image.new("RGB", (20, 20), "red").save(tmp_path / "picture.png")
    return tmp_path


@pytest.mark.fault("fuzz of model folders")
@pytest.mark.parametrize("count", HALVES)
def test_model_folders(count, model_folders, record_property):
    folder = model_folders / "damaged"

    def check(example):
        script, damage = example
        shutil.rmtree(folder, ignore_errors=True)
        of_classifier = script in ("predict.py", "run_eval.py")
        shutil.copytree(model_folders / ("classifier" if of_classifier else "pretrained"), folder)
        harm(folder, damage)
        shutil.rmtree(model_folders / "run", ignore_errors=True)
        status, _, stderr = finish(script, arguments_of(script, folder))
        check_explained(script, status, stderr)

    fuzz(count, FOLDERS, check, record_property)


def harm(folder, damage):
    """Damages a file, or writes what a configuration shouldn't hold."""
    config = folder / "config.json"
    if isinstance(damage, tuple) and len(damage) == 2:
        name, way = damage
        DAMAGES[way](folder / name)
    elif isinstance(damage, bytes):
        config.write_bytes(damage)
    elif isinstance(damage, dict):
        config.write_text(json.dumps({**json.loads(config.read_text()), **damage}))
    else:
        config.write_text(json.dumps(damage))


def arguments_of(script, folder):
    """What a script is given to try a model folder."""
    model = f"--model_name_or_path={folder}"
    picture, output = folder.parent / "picture.png", folder.parent / "run"
    if script == "predict.py":
        return [model, picture]
    if script == "reconstruct.py":
        return [model, picture, f"--output={folder.parent / 'panel.png'}"]
    if script == "run_eval.py":
        return [model, "--dataset_name=digits", "--use_cpu"]
    training = ["--dataset_name=digits", "--max_steps=1", "--use_cpu", "--report_to=none"]
    training += ["--eval_strategy=no", "--save_strategy=no", "--per_device_train_batch_size=16"]
    return [model, *training, f"--output_dir={output}"]
