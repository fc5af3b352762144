"""A base model's own mean, deviation, size and resampling, from its folder to the run's."""

import json
import re

import numpy as np
import pytest
import torch
from helpers import TINY, TINY_FLAGS, run_script, script_error
from PIL import Image
from tiny_models import make, write
from transformers import AutoImageProcessor, ViTImageProcessor

from hf_mae import MAEConfig, MAEForPreTraining, MAEImageProcessor, load_classifier, load_processor
from hf_mae.data.transforms import (
    CenterCropTransform,
    FineTuningTransform,
    LinearProbeTransform,
    PretrainingTransform,
)
from hf_mae.models.image_processing_mae import channel_statistics


MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
FLAGS = [
    "--max_steps=1",
    "--warmup_epochs=0",
    "--per_device_train_batch_size=8",
    "--report_to=none",
    "--disable_tqdm=true",
    "--use_cpu=true",
    "--save_strategy=no",
    "--eval_strategy=no",
]
SCRIPTS = ["run_mae.py", "run_finetune.py", "run_linear_probe.py"]


def own_processor(**options):
    sizes = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
    return MAEImageProcessor(**{**sizes, "image_mean": MEAN, "image_std": STD, **options})


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A pre-trained model in our format, in the native one, and beside another's processor."""
    folder = tmp_path_factory.mktemp("bases")
    model = make("pretrain")
    for name in ("own", "vit"):
        model.save_pretrained(folder / name)
    own_processor(resample=2).save_pretrained(folder / "own")
    vit = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=MEAN, image_std=STD)
    vit.save_pretrained(folder / "vit")
    write(model, folder / "native")
    path = folder / "native" / "preprocessor_config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "image_mean": MEAN, "image_std": STD}))
    model.save_pretrained(folder / "bare")
    return folder


def saved(folder):
    return json.loads((folder / "preprocessor_config.json").read_text())


def train(script, photo_folder, base, output, *flags):
    return run_script(
        script,
        *FLAGS,
        f"--model_name_or_path={base}",
        f"--train_dir={photo_folder}",
        f"--output_dir={output}",
        *flags,
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_goes_on_with_the_folder_s_own(script, bases, photo_folder, tmp_path):
    stdout = train(script, photo_folder, bases / "own", tmp_path / "run")
    said = "mean 0.1, 0.2, 0.3, standard deviation 0.4, 0.5, 0.6, which are not ImageNet's"
    assert said in stdout
    assert "resized to shortest_edge 40 (bilinear), then a center crop" in stdout
    assert saved(tmp_path / "run") == saved(bases / "own")


@pytest.mark.parametrize(
    ("base", "size", "filter_name"),
    [("native", {"shortest_edge": 64}, None), ("vit", {"height": 64, "width": 64}, "bilinear")],
)
def test_native_folders_and_other_sizes(base, size, filter_name, bases, photo_folder, tmp_path):
    """Crop and what is resized to before follow the model's size, in the same ratio."""
    output = tmp_path / "run"
    stdout = train("run_finetune.py", photo_folder, bases / base, output, "--image_size=64")
    assert "mean 0.1, 0.2, 0.3" in stdout
    assert (f"resized to height 64, width 64 ({filter_name}), then no crop" in stdout) == (
        base == "vit"
    )
    written = saved(output)
    assert (written["image_mean"], written["image_std"], written["size"]) == (MEAN, STD, size)
    image = Image.effect_noise((90, 70), 90)
    theirs = AutoImageProcessor.from_pretrained(bases / base)
    options = {"size": size, "crop_size": {"height": 64, "width": 64}}
    expected = theirs(image.convert("RGB"), return_tensors="pt", **options).pixel_values
    _, processor = load_classifier(output)
    found = processor(image, return_tensors="pt").pixel_values
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_flags_go_first_and_nothing_is_imagenets(bases, photo_folder, tmp_path):
    flags = ["--image_mean", "0.5", "0.5", "0.5", "--image_std", "0.25", "0.25", "0.25"]
    for base in ("own", "bare"):
        stdout = train("run_mae.py", photo_folder, bases / base, tmp_path / base, *flags)
        assert "mean 0.5, 0.5, 0.5, standard deviation 0.25, 0.25, 0.25, which are" in stdout
        assert saved(tmp_path / base)["image_std"] == [0.25] * 3
    # the recipe repeats them
    stdout = run_script(
        "run_mae.py", tmp_path / "bare" / "arguments.yaml", "--output_dir", tmp_path / "again"
    )
    assert saved(tmp_path / "again") == saved(tmp_path / "bare")
    stdout = train("run_mae.py", photo_folder, bases / "bare", tmp_path / "plain")
    assert "ImageNet" not in stdout
    assert "resized to" not in stdout
    assert saved(tmp_path / "plain")["image_mean"] == channel_statistics(3)[0]


def test_a_run_is_not_resumed_with_others(bases, photo_folder, tmp_path):
    flags = ["--max_steps=2", "--save_strategy=steps", "--save_steps=1"]
    train("run_mae.py", photo_folder, bases / "bare", tmp_path, *flags)
    arguments = [*FLAGS, *flags, f"--train_dir={photo_folder}", f"--output_dir={tmp_path}"]
    arguments += ["--resume_from_checkpoint", tmp_path / "checkpoint-1"]
    message = script_error("run_mae.py", f"--model_name_or_path={bases / 'own'}", *arguments)
    assert re.search(
        r"image_mean is \[0.1, 0.2, 0.3\], and was \[0.485, .*--allow_changed", message
    )
    run_script("run_mae.py", f"--model_name_or_path={bases / 'bare'}", *arguments)


def test_the_statistics_reach_the_model(bases, photo_folder, tmp_path):
    """A mean and deviation of the folder change what a run computes, as its evaluation shows."""
    losses = []
    for base in ("own", "bare"):
        output = tmp_path / base
        flags = ["--eval_strategy=steps", "--eval_steps=1"]
        train("run_mae.py", photo_folder, bases / base, output, *flags)
        history = json.loads((output / "trainer_state.json").read_text())["log_history"]
        losses.append(next(entry["eval_loss"] for entry in history if "eval_loss" in entry))
    assert abs(losses[0] - losses[1]) > 0.05


def test_reconstruct_and_evaluate_take_the_folder_s(bases, photo_folder, tmp_path):
    image = sorted(photo_folder.rglob("*.jpg"))[2]
    for base in ("own", "bare"):
        output = tmp_path / f"{base}.png"
        run_script(
            "reconstruct.py", f"--model_name_or_path={bases / base}", "--output", output, image
        )
    ours, plain = (np.asarray(Image.open(tmp_path / f"{base}.png")) for base in ("own", "bare"))
    assert not np.array_equal(ours, plain)


@pytest.mark.parametrize("transform", [PretrainingTransform, LinearProbeTransform])
def test_training_crops_are_resized_by_the_folder_s_filter(transform, photos):
    config, array = MAEConfig(**TINY), np.array(photos[0])
    found = {}
    for resample in (0, 2, 3):
        crop = transform(config, own_processor(resample=resample))
        found[resample] = crop(array, np.random.default_rng(0))["images"]
    plain = transform(config)(array, np.random.default_rng(0))["images"]
    assert torch.equal(found[3], plain)
    assert not torch.equal(found[2], plain)
    assert not torch.equal(found[0], found[2])


def test_augmentation_fills_with_the_folder_s_mean():
    transform = FineTuningTransform(MAEConfig(**TINY), processor=own_processor())
    assert transform.augment.ops[0].hparams["img_mean"] == (26, 51, 76)


@pytest.mark.parametrize(
    "options",
    [
        {"do_resize": False},
        {"do_center_crop": False, "size": {"height": 32, "width": 32}},
        {"size": {"height": 50, "width": 40}, "resample": 2},
        {"size": {"shortest_edge": 33}},
    ],
    ids=str,
)
def test_evaluation_is_the_processor(options, photos):
    processor = own_processor(**options)
    image = photos[0].resize((61, 45))
    raw = processor(image, do_rescale=False, do_normalize=False, return_tensors="pt").pixel_values
    transform = CenterCropTransform(MAEConfig(**TINY), processor)
    assert torch.equal(transform(np.array(image), np.random.default_rng(0))["images"], raw[0])


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--image_mean", "0.5"], "image_mean has 1 values; give 3, one for each channel of the"),
        (
            ["--image_std", "1", "1", "0"],
            "image_std is [1.0, 1.0, 0.0]; its values must be above 0",
        ),
        (["--image_mean", "0", "nan", "0"], "its values must be finite"),
        (["--image_std", "1", "inf", "1"], "its values must be finite"),
    ],
)
def test_impossible_statistics(script, flags, message, photo_folder, tmp_path):
    arguments = [*TINY_FLAGS, *FLAGS, f"--train_dir={photo_folder}", f"--output_dir={tmp_path}"]
    assert message in script_error(script, *arguments, *flags)


@pytest.mark.parametrize("script", [*SCRIPTS, "reconstruct.py"])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_mean": [0.5], "image_std": [0.5]}, "has 1 channels, and the model takes 3; mend"),
        ({"do_center_crop": False}, "makes images of any size, and the model takes one; set"),
        ({"do_normalize": False}, "doesn't scale pixels to 0 to 1 and normalise them, as train"),
        ({"rescale_factor": 1.0}, "doesn't scale pixels to 0 to 1 and normalise them, as train"),
    ],
    ids=str,
)
def test_a_processor_that_does_not_fit(script, fields, message, photo_folder, tmp_path):
    MAEForPreTraining(MAEConfig(**TINY)).save_pretrained(tmp_path / "base")
    own_processor(**fields).save_pretrained(tmp_path / "base")
    source = f"--model_name_or_path={tmp_path / 'base'}"
    if script != "reconstruct.py":
        flags = [*FLAGS, f"--train_dir={photo_folder}", f"--output_dir={tmp_path / 'run'}"]
        assert message in script_error(script, source, *flags)
    elif "model" in message:
        assert message in script_error(script, source, "--output=x.png", "x.jpg")


def test_a_native_processor_s_defaults_are_not_ours(tmp_path):
    """What its file leaves out is what its own class does, not what ours does."""
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"feature_extractor_type": "ViTFeatureExtractor", "size": 32})
    )
    processor = load_processor(tmp_path, MAEConfig(**TINY))
    image = Image.effect_noise((90, 70), 90).convert("RGB")
    expected = ViTImageProcessor(size={"height": 32, "width": 32})(image, return_tensors="pt")
    found = processor(image, return_tensors="pt").pixel_values
    torch.testing.assert_close(found, expected.pixel_values, rtol=0, atol=1e-5)
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "SomeProcessor"}')
    with pytest.raises(ValueError, match="is of a SomeProcessor, which transformers doesn't have"):
        load_processor(tmp_path, MAEConfig(**TINY))
