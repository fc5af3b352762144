"""Fine-tuning, probing, evaluating and predicting as their users start them, in processes of their
own."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import load_from_disk
from helpers import TINY_FLAGS, run_script, trace
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from hf_mae import MAEConfig, MAEForPreTraining, MAEImageProcessor
from hf_mae.data.sources import load_image_dataset
from hf_mae.file_names import printable


QUIET = [
    "--report_to=none",
    "--disable_tqdm=true",
    "--use_cpu=true",
    "--logging_steps=1",
    "--save_strategy=no",
]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A pre-training folder with random weights, for grey images."""
    folder = tmp_path_factory.mktemp("pretrained") / "tiny-mae"
    torch.manual_seed(0)
    fields = yaml.safe_load(TINY_FLAGS[2].split("=", 1)[1])
    model = MAEForPreTraining(MAEConfig(**fields, image_size=32, patch_size=8, num_channels=1))
    model.save_pretrained(folder)
    MAEImageProcessor.from_model_config(model.config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def digits_folder(tmp_path_factory):
    """301 training and 97 held-out digits, saved by datasets."""
    folder = tmp_path_factory.mktemp("digits") / "digits"
    splits = load_image_dataset("digits", train_val_split=0.3, labels=True)
    splits["train"], splits["validation"] = (
        splits["train"].select(range(301)),
        splits["validation"].select(range(97)),
    )
    splits.save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def finetuned(pretrained, digits_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetuned") / "run"
    stdout = run_script(
        *(
            "run_finetune.py",
            *QUIET,
            "--model_name_or_path",
            pretrained,
            "--dataset_name",
            digits_folder,
        ),
        *(
            "--num_train_epochs=12",
            "--warmup_epochs=1",
            "--base_learning_rate=2e-2",
            "--layer_decay=0.9",
        ),
        *(
            "--per_device_train_batch_size=50",
            "--eval_strategy=epoch",
            "--mixup=0",
            "--cutmix=0",
            "--auto_augment=none",
        ),
        *("--random_erasing=0", "--output_dir", folder),
    )
    return folder, stdout


def final_metrics(folder):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return next(entry for entry in reversed(history) if "eval_loss" in entry)


def test_finetuned_folder(finetuned, digits_folder):
    folder, stdout = finetuned
    before, after = stdout.split("epoch 1/", 1)
    for line in (
        "Fine-tuning a classifier",
        "from tiny-mae; 10 classes",
        "301 training images, 97 held out (",
        "0.00390625 (0.02 * 50 / 256), 1 epochs of warm-up (",
    ):
        assert line in before, line
    metrics = final_metrics(folder)
    assert metrics["eval_top1_accuracy"] > 0.3  # it has learned something: chance is 0.1
    assert f"top-1 accuracy                     {metrics['eval_top1_accuracy']:13.2%}" in after

    model = AutoModelForImageClassification.from_pretrained(folder)
    assert model.config.id2label == {i: str(i) for i in range(10)}
    assert model.config.label2id == {str(i): i for i in range(10)}
    assert AutoImageProcessor.from_pretrained(folder).crop_size["height"] == 32
    card = (folder / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["pipeline_tag"] == "image-classification"
    reported = metadata["model-index"][0]["results"][0]["metrics"]
    assert [round(metric["value"], 4) for metric in reported] == [
        round(metrics[f"eval_{name}_accuracy"], 4) for name in ("top1", "top5", "balanced")
    ]
    assert "fine-tuning" in card
    assert "started from tiny-mae." in card
    assert str(digits_folder.parent) not in card


def test_a_pipeline_of_the_folder(finetuned, digits_folder, tmp_path):
    row = load_from_disk(digits_folder)["validation"][0]
    (tmp_path / "digit.png").write_bytes(row["image"]["bytes"])
    found = pipeline("image-classification", str(finetuned[0]))(
        str(tmp_path / "digit.png"), top_k=5
    )
    printed = run_script(
        "predict.py", "--model_name_or_path", finetuned[0], "--json", tmp_path / "digit.png"
    )
    (ours,) = json.loads(printed)
    assert [row["label"] for row in ours["predictions"]] == [row["label"] for row in found]
    assert [row["score"] for row in ours["predictions"]] == pytest.approx(
        [row["score"] for row in found], abs=1e-5
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_evaluate_is_what_training_measured(finetuned, digits_folder, tmp_path, processes):
    """97 images in batches of 8 don't divide among two processes; each counts once."""
    folder, _ = finetuned
    output = tmp_path / "deep" / "results.json"
    stdout = run_script(
        *(
            "run_eval.py",
            "--model_name_or_path",
            folder,
            "--dataset_name",
            digits_folder,
            "--batch_size=8",
            "--use_cpu",
        ),
        *("--output", output),
        processes=processes,
    )
    results, metrics = json.loads(output.read_text()), final_metrics(folder)
    for name in ("top1_accuracy", "top5_accuracy"):
        assert results[name] == pytest.approx(metrics[f"eval_{name}"], abs=1e-9)
        assert f"{results[name]:.2%}" in stdout
    assert (results["n"], results["bad_images"]) == (97, 0)
    assert results["images_per_second"] > 0
    assert results["versions"]["torch"] == torch.__version__.split("+")[0]
    assert f"{processes} process" in results["hardware"]


def test_evaluate_matches_classes_and_leaves_bad_images_out(finetuned, digits_folder, tmp_path):
    """A folder of few of the classes, in another order of numbers, with files that are no
    images."""
    folder, _ = finetuned
    classifier = pipeline("image-classification", str(folder))
    right = total = 0
    for i, row in enumerate(load_from_disk(digits_folder)["validation"].select(range(40))):
        if row["label"] not in (3, 7):
            continue
        path = tmp_path / "held_out" / str(row["label"]) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["image"]["bytes"])
        right += classifier(str(path))[0]["label"] == str(row["label"])
        total += 1
    (tmp_path / "held_out" / "7" / "broken.png").write_bytes(b"not an image")
    arguments = ["--model_name_or_path", folder, "--use_cpu", "--output", tmp_path / "results.json"]
    stdout = run_script("run_eval.py", *arguments, "--validation_dir", tmp_path / "held_out")
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["n"], results["bad_images"]) == (total, 1)
    assert results["top1_accuracy"] == pytest.approx(right / total)
    assert f"{total} images, 1 more can't be decoded" in stdout


@pytest.mark.parametrize("cached", [False, True])
def test_linear_probe(pretrained, digits_folder, tmp_path, cached):
    folder = tmp_path / "probe"
    stdout = run_script(
        *(
            "run_linear_probe.py",
            *QUIET,
            "--model_name_or_path",
            pretrained,
            "--dataset_name",
            digits_folder,
        ),
        *(
            "--num_train_epochs=12",
            "--warmup_epochs=1",
            "--learning_rate=8",
            "--per_device_train_batch_size=50",
        ),
        *("--output_dir", folder, *["--cache_features"] * cached),
    )
    assert "in the encoder, frozen; from tiny-mae" in stdout
    said = "cached features of each image's center crop" if cached else "random crops and flips"
    assert f"A linear head was trained on {said}" in stdout.split("epoch 12/12")[1]
    assert said in (folder / "README.md").read_text()
    before, after = (
        load_file(pretrained / "model.safetensors"),
        load_file(folder / "model.safetensors"),
    )
    encoder = [name for name in after if name.startswith("vit.")]
    assert len(encoder) == 5 + 3 * 16 + 1  # embeddings, three layers, the norm's other half
    assert all(torch.equal(after[name], before[name]) for name in encoder)
    assert after["batch_norm.num_batches_tracked"] == 12 * 6
    accuracy = final_metrics(folder)["eval_top1_accuracy"]
    assert f"{accuracy:13.2%}" in stdout
    assert accuracy > 0.15


def test_two_processes_equal_one(pretrained, digits_folder, tmp_path):
    """Fine-tuning with all of its augmentation, at the same total batch."""
    flags = [
        *QUIET,
        "--model_name_or_path",
        pretrained,
        "--dataset_name",
        digits_folder,
        "--max_steps=12",
    ]
    flags += [
        "--warmup_epochs=0",
        "--base_learning_rate=2e-2",
        "--drop_path_rate=0.3",
        "--eval_strategy=steps",
        "--eval_steps=6",
    ]
    sizes = ["--per_device_train_batch_size=48"]
    run_script("run_finetune.py", *flags, *sizes, "--output_dir", tmp_path / "one")
    sizes = [
        "--per_device_train_batch_size=12",
        "--gradient_accumulation_steps=2",
        "--per_device_eval_batch_size=7",
    ]
    run_script("run_finetune.py", *flags, *sizes, "--output_dir", tmp_path / "two", processes=2)
    for key in ("loss", "eval_loss", "eval_top1_accuracy"):
        ours, expected = trace(tmp_path / "two", key), trace(tmp_path / "one", key)
        assert [step for step, _ in ours] == [step for step, _ in expected]
        assert [value for _, value in ours] == pytest.approx(
            [value for _, value in expected], abs=1e-5
        ), key
    assert len(expected) == 2


def test_cached_probe_on_two_processes(pretrained, digits_folder, tmp_path):
    """Without the batch norm, whose statistics are of a process's own batch, it is the same as on
    one."""
    flags = [
        *QUIET,
        "--model_name_or_path",
        pretrained,
        "--dataset_name",
        digits_folder,
        "--num_train_epochs=4",
    ]
    flags += [
        "--warmup_epochs=0",
        "--learning_rate=8",
        "--cache_features",
        "--head_batch_norm=false",
    ]
    run_script(
        "run_linear_probe.py",
        *flags,
        "--per_device_train_batch_size=50",
        "--output_dir",
        tmp_path / "one",
    )
    sizes = ["--per_device_train_batch_size=25", "--per_device_eval_batch_size=7"]
    run_script("run_linear_probe.py", *flags, *sizes, "--output_dir", tmp_path / "two", processes=2)
    for key in ("loss", "eval_loss", "eval_top1_accuracy"):
        ours, expected = trace(tmp_path / "two", key), trace(tmp_path / "one", key)
        assert [value for _, value in ours] == pytest.approx(
            [value for _, value in expected], abs=1e-5
        ), key
    assert "batch_norm.running_mean" not in load_file(tmp_path / "one" / "model.safetensors")


def test_folders_of_classes_repeat(photo_folder, tmp_path):
    """From scratch on image folders, in colour; arguments.yaml repeats the run, bit for bit."""
    flags = [
        *TINY_FLAGS,
        *QUIET,
        "--train_dir",
        photo_folder,
        "--train_val_split=0.3",
        "--num_train_epochs=2",
    ]
    flags += ["--warmup_epochs=1", "--per_device_train_batch_size=10"]
    stdout = run_script("run_finetune.py", *flags, "--output_dir", tmp_path / "run")
    assert "from random weights; 2 classes" in stdout
    assert "top-1 accuracy" in stdout
    assert "top-5" not in stdout
    run_script(
        "run_finetune.py", tmp_path / "run" / "arguments.yaml", "--output_dir", tmp_path / "again"
    )
    assert trace(tmp_path / "again") == trace(tmp_path / "run")
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "again"))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_from_a_classifier_of_other_classes(finetuned, photo_folder, tmp_path):
    """The head is new, everything else goes on; and to another size."""
    run_script(
        *(
            "run_finetune.py",
            *QUIET,
            "--model_name_or_path",
            finetuned[0],
            "--train_dir",
            photo_folder,
            "--max_steps=1",
        ),
        *(
            "--image_size=48",
            "--warmup_epochs=0",
            "--per_device_train_batch_size=8",
            "--learning_rate=1e-5",
        ),
        *("--output_dir", tmp_path / "run"),
    )
    before, after = (
        load_file(folder / "model.safetensors") for folder in (finetuned[0], tmp_path / "run")
    )
    assert after["classifier.weight"].shape == (2, 48)
    assert after["vit.embeddings.position_embeddings"].shape == (1, 1 + 36, 48)
    torch.testing.assert_close(after["fc_norm.weight"], before["fc_norm.weight"], rtol=0, atol=1e-4)
    torch.testing.assert_close(
        after["vit.layers.0.mlp.fc1.weight"],
        before["vit.layers.0.mlp.fc1.weight"],
        rtol=0,
        atol=1e-4,
    )


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_predict_prints_any_name(finetuned, digits_folder, tmp_path, monkeypatch, encoding):
    rows = load_from_disk(digits_folder)["validation"]
    names = [os.fsdecode(b"%s/caf\xe9.png" % os.fsencode(tmp_path)), f"{tmp_path}/日本.png"]
    for name in names:
        Path(name).write_bytes(rows[0]["image"]["bytes"])
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    arguments = ["--model_name_or_path", finetuned[0], *names]
    status, stdout, _ = run_script("predict.py", *arguments, check=False, fresh=True)
    assert status == 0
    assert len(stdout.strip().split("\n\n")) == 2
    status, stdout, _ = run_script("predict.py", "--json", *arguments, check=False, fresh=True)
    assert status == 0
    assert [answer["image"] for answer in json.loads(stdout)] == list(map(printable, names))


def test_predict(finetuned, digits_folder, tmp_path):
    rows = load_from_disk(digits_folder)["validation"]
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(rows[i]["image"]["bytes"])
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    Image.fromarray(np.full((70, 50), 40000, np.uint16)).save(tmp_path / "deep.png")
    names = [tmp_path / name for name in ("0.png", "broken.png", "none.png", "deep.png", "1.png")]
    arguments = ["--model_name_or_path", finetuned[0]]
    status, stdout, stderr = run_script("predict.py", *arguments, *names, check=False)
    assert status == 1
    for name in ("broken.png is passed over", "none.png is passed over"):
        assert name in stderr
    assert "Traceback" not in stderr
    blocks = [block.splitlines() for block in stdout.strip().split("\n\n")]
    assert [block[0] for block in blocks] == [str(names[place]) for place in (0, 3, 4)]
    for block in blocks:
        shares = [float(line.split("%")[0]) for line in block[1:]]
        assert len(shares) == 5
        assert shares == sorted(shares, reverse=True)
    status, stdout, _ = run_script("predict.py", *arguments, "--json", *names, check=False)
    assert status == 1
    results = json.loads(stdout)
    assert [("predictions" in r, "error" in r) for r in results] == [
        *((True, False), (False, True), (False, True), (True, False), (True, False))
    ]
    status, _, _ = run_script("predict.py", *arguments, tmp_path / "0.png", check=False)
    assert status == 0


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (
            "run_finetune.py",
            ["--dataset_name=digits", "--size=tiny", "--num_channels=12"],
            "pass --auto_augment none",
        ),
        (
            "run_finetune.py",
            ["--dataset_name=digits", "--size=tiny", "--mixup=-1"],
            "mixup is -1.0; it must be at least 0",
        ),
        (
            "run_finetune.py",
            ["--dataset_name=digits", "--size=tiny", "--pooling=max"],
            "pooling is 'max'",
        ),
        (
            "run_finetune.py",
            ["--dataset_name=digits", "--label_colum=x"],
            "did you mean --label_column?",
        ),
        (
            "run_finetune.py",
            ["--dataset_name=digits", "--label_column=x"],
            "label_column is 'x'; the data set has image, label",
        ),
        (
            "run_finetune.py",
            ["--size=tiny", "--train_dir={one}"],
            "the images are all of one class",
        ),
        (
            "run_finetune.py",
            ["--dataset_name=digits", "--model_name_or_path=/no/where"],
            "neither a folder here nor a Hub id",
        ),
        (
            "run_finetune.py",
            ["--dataset_name=digits", "--size=tiny", "--auto_augment=rand-x9"],
            "auto_augment is 'rand-x9'",
        ),
        (
            "run_mae.py",
            ["--dataset_name=digits", "--knn_images=9", "--train_val_split=0"],
            "no images are held out",
        ),
        (
            "run_linear_probe.py",
            ["--dataset_name=digits", "--size=tiny", "--max_steps=3", "--warmup_epochs=10"],
            "warmup_epochs is 10,",
        ),
        (
            "run_eval.py",
            ["--model_name_or_path={pretrained}", "--dataset_name=digits"],
            "which is no classifier",
        ),
        (
            "run_eval.py",
            ["--model_name_or_path={finetuned}"],
            "give either dataset_name or validation_dir",
        ),
        (
            "run_eval.py",
            ["--model_name_or_path={finetuned}", "--dataset_name=digits", "--split=x"],
            "split is 'x'",
        ),
        (
            "run_eval.py",
            ["--model_name_or_path={finetuned}", "--validation_dir={photos}"],
            "doesn't know 2 of the data set's 2",
        ),
        (
            "predict.py",
            ["--model_name_or_path=/no/where/at/all", "x.png"],
            "is neither a folder here nor a Hub id",
        ),
    ],
)
def test_wrong_arguments(script, arguments, message, finetuned, pretrained, photo_folder, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "class").symlink_to(photo_folder / "group0")
    folders = {
        "finetuned": finetuned[0],
        "pretrained": pretrained,
        "photos": photo_folder,
        "one": tmp_path / "one",
    }
    arguments = [argument.format(**folders) for argument in arguments]
    if script not in ("run_eval.py", "predict.py"):
        arguments += [f"--output_dir={tmp_path / 'run'}", "--use_cpu"]
    status, _, stderr = run_script(script, *arguments, check=False)
    assert status != 0
    assert message in stderr
    assert "Traceback" not in stderr
