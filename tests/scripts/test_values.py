"""Deep and multi-band images through the scripts: one range from training to predictions."""

import json

import numpy as np
import pytest
import tifffile
import torch
from helpers import TINY_FLAGS, run_script, script_error, trace
from PIL import Image

from hf_mae import (
    MAEImageProcessor,
    load_classifier,
)


FLAGS = [
    *TINY_FLAGS,
    "--warmup_epochs=0",
    "--per_device_train_batch_size=8",
    "--report_to=none",
    "--disable_tqdm=true",
    "--use_cpu=true",
]
GREY = [*FLAGS, "--num_channels=1"]


def scene(rng, low, high, size=40):
    """A picture whose values lie between two numbers."""
    rows, columns = np.mgrid[:size, :size]
    waves = np.sin(rows / rng.uniform(2, 9)) + np.cos(columns / rng.uniform(2, 9))
    waves = (waves - waves.min()) / np.ptp(waves)
    return low + waves * (high - low)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """12 bits in PNG files of 16: of the classes' difference 8 of the 16 would keep one level."""
    folder, rng = tmp_path_factory.mktemp("scans"), np.random.default_rng(0)
    for number in range(60):
        name, low, high = ("dark", 0, 120) if number % 2 else ("light", 130, 250)
        place = folder / ("held-out" if number >= 44 else "train") / name
        place.mkdir(parents=True, exist_ok=True)
        values = scene(rng, low, high).astype(np.uint16)
        values[0, 0] = 3900
        Image.fromarray(values).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def classifier(scans, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "classifier"
    data = ["--train_dir", scans / "train", "--validation_dir", scans / "held-out"]
    options = ["--auto_augment=none", "--random_erasing=0", "--mixup=0", "--cutmix=0"]
    options += ["--num_train_epochs=20", "--base_learning_rate=0.02", "--save_strategy=no"]
    options += ["--value_range", "0", "300"]
    said = run_script("run_finetune.py", *data, *GREY, *options, "--output_dir", folder)
    return folder, said


def test_what_8_bits_would_lose_is_learnt(classifier):
    folder, said = classifier
    assert "depth   uint16 from 0 to 3,900 in a sample of 44 images; 0 is black and 300 w" in said
    assert trace(folder, "eval_top1_accuracy")[-1][1] >= 0.9
    assert json.loads((folder / "preprocessor_config.json").read_text())["value_range"] == [0, 300]
    assert "0 is black and 300 white" in (folder / "README.md").read_text()


def test_predictions_and_evaluation_are_the_training_s(classifier, scans, tmp_path):
    folder, _ = classifier
    accuracy = trace(folder, "eval_top1_accuracy")[-1][1]
    output = tmp_path / "measured.json"
    where = ["--validation_dir", scans / "held-out", "--use_cpu", "--output", output]
    run_script("run_eval.py", "--model_name_or_path", folder, *where)
    measured = json.loads(output.read_text())
    assert measured["top1_accuracy"] == pytest.approx(accuracy)
    files = sorted((scans / "held-out").rglob("*.png"))
    answers = json.loads(run_script("predict.py", "--json", "--model_name_or_path", folder, *files))
    model, processor = load_classifier(folder)
    right = 0
    for file, answer in zip(files, answers):
        logits = model(processor(file, return_tensors="pt").pixel_values).logits
        best = answer["predictions"][0]
        assert best["score"] == pytest.approx(logits.softmax(-1).max().item(), abs=1e-5)
        right += best["label"] == file.parent.name
    assert right / len(files) == pytest.approx(accuracy)


def test_the_native_folder_keeps_the_range_for_us(classifier, scans, tmp_path):
    folder, _ = classifier
    said = run_script(
        "export.py", "--model_name_or_path", folder, "--output_dir", tmp_path / "native"
    )
    assert "note: the model's pixels are values from 0, which is black, to 300, white" in said
    fields = json.loads((tmp_path / "native" / "preprocessor_config.json").read_text())
    assert fields["value_range"] == [0, 300]
    files = sorted((scans / "held-out").rglob("*.png"))[:4]
    both = []
    for each in (folder, tmp_path / "native"):
        said = run_script("predict.py", "--json", "--model_name_or_path", each, *files)
        both.append(json.loads(said))
    for ours, theirs in zip(*both):
        scores = {row["label"]: row["score"] for row in theirs["predictions"]}
        for row in ours["predictions"]:  # theirs are rounded to 8 bits of the range
            assert scores[row["label"]] == pytest.approx(row["score"], abs=0.1)
    said = run_script("export.py", "--model_name_or_path", folder, "--to", "torch",
                      "--output_dir", tmp_path / "program")  # fmt: skip
    assert "note: the model's pixels are values from 0, which" in said


def test_resuming_with_another_range_is_refused(scans, tmp_path):
    command = ["--train_dir", scans / "train", *GREY, "--output_dir", tmp_path / "run"]
    run_script("run_mae.py", *command, "--max_steps=2", "--save_steps=1", "--save_strategy=steps")
    resume = ["--max_steps=3", "--allow_changed", "max_steps", "--resume_from_checkpoint=last"]
    said = script_error("run_mae.py", *command, *resume, "--value_range", 0, 300)
    assert "value_range is [0.0, 300.0], and was [0.0, 4095.0]" in said
    run_script("run_mae.py", *command, *resume)
    run_script(
        "reconstruct.py", "--model_name_or_path", tmp_path / "run", "--output",
        tmp_path / "panel.png", *sorted(scans.rglob("*.png"))[:3],
    )  # fmt: skip
    assert Image.open(tmp_path / "panel.png").size[0] > 100


def test_augmentation_of_deep_images_is_said(scans, tmp_path):
    command = ["--train_dir", scans / "train", *GREY, "--max_steps=1", "--save_strategy=no"]
    said = run_script("run_finetune.py", *command, "--output_dir", tmp_path / "a")
    assert "RandAugment rounds them to 8 bits, --auto_augment none does not" in said


@pytest.fixture(scope="module")
def satellite(tmp_path_factory):
    """Six bands of reflectances, of which the fourth decides the class."""
    folder, rng = tmp_path_factory.mktemp("satellite"), np.random.default_rng(1)
    for number in range(48):
        name = ("water", "wood")[number % 2]
        bands = [scene(rng, -0.02, 1.1) for _ in range(6)]
        bands[3] = scene(rng, 0, 0.3) if name == "water" else scene(rng, 0.6, 1.05)
        (folder / name).mkdir(exist_ok=True)
        values = np.stack(bands, axis=-1).astype(np.float32)
        tifffile.imwrite(
            folder / name / f"{number}.tif", values, photometric="minisblack", planarconfig="contig"
        )
    return folder


def test_bands(satellite, tmp_path):
    options = ["--auto_augment=none", "--random_erasing=0", "--mixup=0", "--cutmix=0"]
    options += ["--num_train_epochs=12", "--base_learning_rate=0.02", "--save_strategy=no"]
    command = ["--train_dir", satellite, *FLAGS, *options, "--train_val_split=0.25"]
    refused = script_error("run_finetune.py", *command, "--output_dir", tmp_path / "no")
    assert "6 bands can't become one of 3; choose 3 of them by bands" in refused
    told = ["--value_range", "0", "1", "--bands", "4", "--num_channels", "1"]
    said = run_script("run_finetune.py", *command, *told, "--output_dir", tmp_path / "a")
    assert "depth   bands 4: float32 from" in said
    assert "lie beyond and are clipped" in said
    assert trace(tmp_path / "a", "eval_top1_accuracy")[-1][1] == 1.0
    processor = MAEImageProcessor.from_pretrained(tmp_path / "a")
    assert (processor.bands, processor.value_range) == ([4], [0, 1])
    file = next(satellite.rglob("*.tif"))
    fourth = tifffile.imread(file)[..., 3]
    found = processor(file, return_tensors="pt").pixel_values
    alone = processor(fourth, bands=None, return_tensors="pt").pixel_values
    assert torch.equal(found, alone)
    all_six = ["--value_range", "auto", "--num_channels", "6"]
    said = run_script("run_mae.py", *command[:2], *FLAGS, *all_six, "--max_steps=2",
                      "--save_strategy=no", "--output_dir", tmp_path / "b")  # fmt: skip
    assert "(value_range auto, by percentiles)" in said
    recipe = (tmp_path / "b" / "arguments.yaml").read_text()
    assert "value_range" in recipe
    again = ["--output_dir", tmp_path / "c"]
    run_script("run_mae.py", tmp_path / "b" / "arguments.yaml", *again)
    ranges = []
    for name in ("b", "c"):
        ranges.append(MAEImageProcessor.from_pretrained(tmp_path / name).value_range)
    assert ranges[0] == ranges[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--value_range", "0"], "value_range is ['0']; it must be the values of black and white"),
        (["--value_range", "5", "1"], "value_range is ['5', '1']; it must be"),
        (["--value_range", "low", "high"], "value_range is ['low', 'high']; it must be"),
        (["--value_range", "0", "nan"], "value_range is ['0', 'nan']; it must be"),
        (["--bands", "0", "1", "2"], "bands is [0, 1, 2]; the first band is 1"),
        (
            ["--bands", "1", "2"],
            "bands names 2 bands, and the model takes 3; pass --num_channels 2",
        ),
        (["--bands", "7", "8", "9"], "bands is 7, 8, 9, and the image has 6, numbered from 1"),
    ],
)
def test_what_can_t_be(flags, message, satellite, tmp_path):
    command = ["--train_dir", satellite, *FLAGS, "--output_dir", tmp_path / "a"]
    assert message in script_error("run_mae.py", *command, *flags)
