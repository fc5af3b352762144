"""Several labels an image, and values to predict: from a data set to a prediction, by scripts."""

import json
import re

import pytest
import torch
import yaml
from datasets import load_dataset
from helpers import TINY_FLAGS, run_script, script_error, trace
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from transformers import AutoModelForImageClassification, pipeline

from hf_mae import MAEConfig, MAEForPreTraining, MAEImageProcessor


FLAGS = [*TINY_FLAGS, "--num_channels=1", "--report_to=none", "--disable_tqdm=true"]
FLAGS += ["--use_cpu=true", "--save_strategy=no", "--warmup_epochs=1", "--num_train_epochs=8"]
FLAGS += ["--per_device_train_batch_size=20", "--learning_rate=3e-3", "--train_val_split=0.25"]
FLAGS += ["--layer_decay=1", "--auto_augment=none", "--random_erasing=0"]
UNMIXED = ["--mixup=0", "--cutmix=0", "--label_smoothing_factor=0"]


@pytest.fixture(scope="module")
def spots(tmp_path_factory):
    """160 grey pictures, white at the top, at the bottom, both or neither: an imagefolder with
    metadata.csv."""
    folder = tmp_path_factory.mktemp("spots") / "spots"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    lines = ["file_name,top,bottom,light,every"]
    for i in range(160):
        top, bottom = i % 2, (i // 2) % 2
        brightness = int(torch.randint(20, 200, (), generator=generator))
        picture = Image.new("L", (32, 32), brightness)
        picture.paste(255 * top, (0, 0, 32, 12))
        picture.paste(255 * bottom, (0, 20, 32, 32))
        picture.save(folder / f"{i:03d}.png")
        lines.append(f"{i:03d}.png,{top},{bottom},{top + bottom + brightness / 1000},1")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def multi_label(spots, tmp_path_factory):
    folder = tmp_path_factory.mktemp("multi") / "run"
    flags = [*FLAGS, "--dataset_name", spots, "--label_column", "top", "bottom", "every"]
    return folder, run_script("run_finetune.py", *flags, "--output_dir", folder)


@pytest.fixture(scope="module")
def regression(spots, tmp_path_factory):
    folder = tmp_path_factory.mktemp("regression") / "run"
    flags = [*FLAGS, *UNMIXED, "--dataset_name", spots, "--label_column", "light"]
    return folder, run_script("run_finetune.py", *flags, "--output_dir", folder)


def test_several_labels_are_learned(multi_label):
    """With mixup, CutMix and smoothing; a label that every image has is said to have no AUROC."""
    folder, stdout = multi_label
    assert "3 labels, any of them an image (multi-label)" in stdout
    assert json.loads((folder / "config.json").read_text())["problem_type"] == (
        "multi_label_classification"
    )
    (*_, (_, precision)) = trace(folder, "eval_mean_average_precision")
    assert precision > 0.9  # chance is 0.5
    assert f"mAP                                {precision:13.2%}" in stdout
    assert trace(folder, "eval_auroc_top")
    assert not trace(folder, "eval_auroc_every")
    assert "AUROC of every" not in stdout


def test_the_card_of_several_labels(multi_label):
    folder, _ = multi_label
    card = (folder / "README.md").read_text()
    assert "with 3 labels, each predicted by itself (top, bottom, every)" in card
    assert "--label_column top bottom every" in card
    (*_, (_, area)) = trace(folder, "eval_auroc_top")
    assert f"| AUROC of top | {100 * area:.2f} % |" in card
    metrics = yaml.safe_load(card.split("---")[1])["model-index"][0]["results"][0]["metrics"]
    assert [metric["type"] for metric in metrics] == [
        *("mean_average_precision", "roc_auc", "roc_auc", "roc_auc")
    ]


def test_run_eval_of_several_labels(multi_label, spots, tmp_path):
    """Against scikit-learn on what the pipeline answers; labels in another order, some missing."""
    folder, _ = multi_label
    rows = load_dataset(str(spots))["train"]
    output = tmp_path / "results.json"
    arguments = ["--model_name_or_path", folder, "--dataset_name", spots, "--use_cpu"]
    arguments += ["--output", output, "--label_column", "bottom", "top"]
    stdout = run_script("run_eval.py", *arguments)
    results = json.loads(output.read_text())
    answers = pipeline("image-classification", str(folder))(list(rows["image"]), top_k=3)
    areas, precisions = [], []
    for name in ("top", "bottom"):
        scores = [{row["label"]: row["score"] for row in answer}[name] for answer in answers]
        areas.append(roc_auc_score(rows[name], scores))
        precisions.append(average_precision_score(rows[name], scores))
        assert results[f"auroc_{name}"] == pytest.approx(areas[-1], abs=1e-6)
    assert results["mean_auroc"] == pytest.approx(sum(areas) / 2, abs=1e-6)
    assert results["mean_average_precision"] == pytest.approx(sum(precisions) / 2, abs=1e-6)
    assert f"mean_average_precision {results['mean_average_precision']:.2%}" in stdout
    wrong = ["--model_name_or_path", folder, "--dataset_name", spots, "--label_column", "top"]
    assert "the model is for multi_label_classification" in script_error("run_eval.py", *wrong)


def test_predicting_several_labels(multi_label, spots):
    folder, _ = multi_label
    picture = spots / "001.png"  # top alone, and every
    found = pipeline("image-classification", str(folder))(str(picture), top_k=3)
    arguments = ["--model_name_or_path", folder]
    (ours,) = json.loads(run_script("predict.py", *arguments, "--json", picture))
    assert [row["label"] for row in ours["predictions"]] == [row["label"] for row in found]
    scores = [row["score"] for row in found]
    assert [row["score"] for row in ours["predictions"]] == pytest.approx(scores, abs=1e-5)
    assert sum(scores) > 1.2  # which a softmax's aren't
    lines = run_script("predict.py", *arguments, picture).splitlines()[1:]
    shown = [row for row in found if row["score"] >= 0.5]
    assert lines == [f"  {row['label']} {100 * row['score']:.1f} %" for row in shown]
    assert {row["label"] for row in shown} == {"top", "every"}


def test_a_value_is_learned(regression, spots, tmp_path):
    folder, stdout = regression
    assert "a value, light (regression)" in stdout
    (*_, (_, error)) = trace(folder, "eval_mean_absolute_error")
    assert error < 0.4  # the mean is 0.5 off
    assert f"mean absolute error                {error:13.4g}" in stdout
    card = (folder / "README.md").read_text()
    assert f"| mean absolute error | {error:.4g} |" in card
    assert "that predicts a value (light)" in card
    output = tmp_path / "results.json"
    arguments = ["--model_name_or_path", folder, "--dataset_name", spots, "--use_cpu"]
    run_script("run_eval.py", *arguments, "--label_column", "light", "--output", output)
    rows = load_dataset(str(spots))["train"]
    answers = pipeline("image-classification", str(folder))(list(rows["image"]))
    values = torch.tensor([answer[0]["score"] for answer in answers])
    expected = (values - torch.tensor(rows["light"][:])).abs().mean().item()
    assert json.loads(output.read_text())["mean_absolute_error"] == pytest.approx(
        expected, rel=1e-4
    )
    shown = run_script("predict.py", "--model_name_or_path", folder, spots / "000.png")
    assert shown.splitlines()[1] == f"  light {values[0]:.2f}"


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_the_native_folder_answers_the_same(kind, spots, tmp_path, request):
    folder, _ = request.getfixturevalue(kind)
    run_script("export.py", "--model_name_or_path", folder, "--output_dir", tmp_path / "native")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "native")
    assert model.config.model_type == "beit"
    for number in ("000", "003"):
        picture = Image.open(spots / f"{number}.png")
        ours = pipeline("image-classification", str(folder))(picture)
        theirs = pipeline("image-classification", str(tmp_path / "native"))(picture)
        expected = {row["label"]: row["score"] for row in ours}
        assert {row["label"]: row["score"] for row in theirs} == pytest.approx(expected, abs=1e-4)


def test_probing_for_several_labels(spots, tmp_path):
    torch.manual_seed(0)
    fields = yaml.safe_load(TINY_FLAGS[2].split("=", 1)[1])
    model = MAEForPreTraining(MAEConfig(**fields, image_size=32, patch_size=8, num_channels=1))
    model.save_pretrained(tmp_path / "mae")
    MAEImageProcessor.from_model_config(model.config).save_pretrained(tmp_path / "mae")
    flags = ["--model_name_or_path", tmp_path / "mae", "--dataset_name", spots, "--use_cpu"]
    flags += ["--label_column", "top", "bottom", "--cache_features", "--report_to=none"]
    flags += ["--per_device_train_batch_size=40", "--max_steps=200", "--warmup_epochs=1"]
    flags += ["--train_val_split=0.25"]
    run_script("run_linear_probe.py", *flags, "--learning_rate=2", "--output_dir", tmp_path / "run")
    (*_, (_, precision)) = trace(tmp_path / "run", "eval_mean_average_precision")
    assert precision > 0.8


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--label_column", "top", "light"], "label_column 'light' holds .* aren't 0 or"),
        (["--label_column", "light"], "mixup is 0.8, and a regression has no labels to mix"),
        (
            ["--label_column", "top", "left"],
            "label_column is 'left'; the data set has file_name, top",
        ),
        (["--label_column", "top", "top"], "label_column names 'top' twice"),
        (
            ["--label_column", "top", "--config_overrides={problem_type: regression}"],
            "config_overrides has problem_type 'regression'",
        ),
    ],
)
def test_wrong_columns(flags, message, spots, tmp_path):
    arguments = [*FLAGS, "--dataset_name", spots, *flags, "--output_dir", tmp_path / "run"]
    assert re.search(message, script_error("run_finetune.py", *arguments))


def test_k_nn_needs_one_class_an_image(spots, tmp_path):
    arguments = [*TINY_FLAGS, "--dataset_name", spots, "--label_column", "top", "bottom"]
    arguments += ["--knn_images=9", "--use_cpu", "--output_dir", tmp_path / "run"]
    assert "knn_images needs one class an image" in script_error("run_mae.py", *arguments)
