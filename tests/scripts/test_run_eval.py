"""run_eval.py: the report of each kind of labels, on one process and two, stopped and gone on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from helpers import TINY, run_script, script_error
from PIL import Image
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_fscore_support,
    r2_score,
    roc_auc_score,
)
from torch import nn

from hf_mae import MAEConfig, MAEForImageClassification, MAEImageProcessor, load_classifier
from hf_mae.inference.predictions import predict
from hf_mae.training.metrics import accuracy_interval


CLASSES = ["日本, alt", "Käse", "$x$_1^2", "nobody"]


def save_classifier(folder, names=CLASSES, **fields):
    torch.manual_seed(0)
    config = MAEConfig(**TINY, num_labels=len(names), id2label=dict(enumerate(names)), **fields)
    model = MAEForImageClassification(config)
    nn.init.normal_(model.classifier.weight, std=0.3)
    model.save_pretrained(folder)
    MAEImageProcessor.from_model_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return save_classifier(tmp_path_factory.mktemp("models") / "classifier")


@pytest.fixture(scope="module")
def held_out(photos, tmp_path_factory):
    """300 pictures in three of the four classes, two of them broken."""
    folder = tmp_path_factory.mktemp("held_out")
    rng = np.random.default_rng(0)
    for number in range(300):
        path = folder / CLASSES[number % 3] / f"{number:03d}.png"
        path.parent.mkdir(exist_ok=True)
        left, top = (int(place) for place in rng.integers(0, 350, 2))
        photos[number % 2].crop((left, top, left + 40, top + 36)).save(path)
        if number in (7, 260):
            path.write_bytes(path.read_bytes()[:90])
    return folder


@pytest.fixture(scope="module")
def report(classifier, held_out, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports") / "report"
    arguments = ["--model_name_or_path", classifier, "--validation_dir", held_out, "--use_cpu"]
    return folder, run_script("run_eval.py", *arguments, "--output_dir", folder)


def expected_answers(classifier, held_out):
    """(class, answer, its score) of each picture, by `predict`."""
    model, processor = load_classifier(classifier)
    rows = []
    for path in sorted(held_out.rglob("*.png")):
        if path.stem not in ("007", "260"):
            best = predict(model, processor, path)[0]
            rows.append((path.parent.name, best["label"], best["score"], str(path)))
    return pd.DataFrame(rows, columns=["class", "answer", "score", "image"])


def test_the_report_of_classes(report, classifier, held_out):
    folder, stdout = report
    assert sorted(path.name for path in folder.iterdir()) == [
        *("bad_images.csv", "confusion_matrix.csv", "confusion_matrix.png", "mistakes.csv"),
        *("mistakes.png", "per_class.csv", "results.json"),
    ]
    answers = expected_answers(classifier, held_out)
    results = json.loads((folder / "results.json").read_text())
    right = answers["class"] == answers["answer"]
    assert (results["n"], results["bad_images"]) == (298, 2)
    assert results["top1_accuracy"] == pytest.approx(right.mean())
    assert f"report in {folder}" in stdout

    table = pd.read_csv(folder / "per_class.csv").set_index("class")
    assert list(table.index) == CLASSES
    precision, recall, f1, support = precision_recall_fscore_support(
        answers["class"], answers["answer"], labels=CLASSES, zero_division=np.nan
    )
    for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert table[name].to_numpy() == pytest.approx(values, nan_ok=True)
    assert list(table["images"]) == list(support)
    assert support[3] == 0
    assert np.isnan(table.loc["nobody", "recall_low"])
    for name in CLASSES[:3]:
        row = table.loc[name]
        assert (row["recall_low"], row["recall_high"]) == pytest.approx(
            accuracy_interval(row["recall"], int(row["images"]))
        )
        agreed = (answers["class"] == name) == (answers["answer"] == name)
        assert row["accuracy"] == pytest.approx(agreed.mean())
        assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]

    matrix = pd.read_csv(folder / "confusion_matrix.csv")
    assert list(matrix["class"]) == CLASSES
    assert list(matrix)[1:] == [f"answered {name}" for name in CLASSES]
    theirs = confusion_matrix(answers["class"], answers["answer"], labels=CLASSES)
    assert (matrix.iloc[:, 1:].to_numpy() == theirs).all()

    mistakes = pd.read_csv(folder / "mistakes.csv")
    wrong = answers[~right].sort_values("score", ascending=False, kind="stable")
    assert len(mistakes) == len(wrong)
    assert mistakes["score"].to_numpy() == pytest.approx(wrong["score"].to_numpy(), abs=1e-6)
    assert set(mistakes["image"]) == set(wrong["image"])
    assert (mistakes["score"] >= mistakes["score_of_class"]).all()
    bad = pd.read_csv(folder / "bad_images.csv")
    assert [Path(image).stem for image in sorted(bad["image"], key=lambda x: x[-7:])] == [
        *("007", "260")
    ]
    for name in ("confusion_matrix.png", "mistakes.png"):
        assert min(Image.open(folder / name).size) > 300


def test_two_processes_equal_one(report, classifier, held_out, tmp_path):
    """Each image is counted once, and in order."""
    arguments = ["--model_name_or_path", classifier, "--validation_dir", held_out, "--use_cpu"]
    folder = tmp_path / "report"
    status, _, stderr = run_script(
        "run_eval.py", *arguments, "--output_dir", folder, processes=2, check=False
    )
    assert status == 0, stderr
    ours, expected = (
        json.loads((each / "results.json").read_text()) for each in (folder, report[0])
    )
    for name in ("n", "bad_images", "top1_accuracy", "balanced_accuracy", "top1_interval_95"):
        assert ours[name] == expected[name]
    for name in ("per_class.csv", "confusion_matrix.csv", "bad_images.csv"):
        assert (folder / name).read_bytes() == (report[0] / name).read_bytes()
    ours, expected = (pd.read_csv(each / "mistakes.csv") for each in (folder, report[0]))
    assert list(ours["image"]) == list(expected["image"])


def test_it_goes_on(report, classifier, held_out, tmp_path, monkeypatch, caplog):
    """A part that is there isn't computed again; parts of other images are refused."""
    import hf_mae.training.evaluation as evaluation

    real = evaluation.compute_parts
    arguments = ["--model_name_or_path", classifier, "--validation_dir", held_out, "--use_cpu"]
    arguments += ["--output_dir", tmp_path / "report"]

    def stopped(*given):
        real(*given)
        given[0].release()  # as the end of the process does
        raise ValueError("the power failed")

    monkeypatch.setattr(evaluation, "compute_parts", stopped)
    assert "the power failed" in script_error("run_eval.py", *arguments)
    parts = sorted((tmp_path / "report" / "parts").glob("*.parquet"))
    assert [path.stem for path in parts] == ["000000", "000001"]
    parts[1].unlink()
    before = pq.read_table(parts[0])
    other = tmp_path / "other"
    shutil.copytree(held_out, other)
    refused = script_error("run_eval.py", *arguments[:2], "--validation_dir", other, *arguments[4:])
    assert "holds parts of answers with other data; remove it" in refused
    assert pq.read_table(parts[0]).equals(before)
    assert (
        "going on after 256 of 300 images" in run_script("run_eval.py", *arguments, check=False)[2]
    )
    assert not (tmp_path / "report" / "parts").exists()
    assert (tmp_path / "report" / "per_class.csv").read_bytes() == (
        (report[0] / "per_class.csv").read_bytes()
    )


def with_metadata(folder, photos, header, row_of):
    """40 pictures and a table of what `row_of` says of each."""
    folder.mkdir()
    lines = [f"file_name,{header}"]
    for number in range(40):
        photos[number % 2].crop((9 * number, 0, 9 * number + 40, 36)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{row_of(number)}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


def test_the_report_of_several_labels(photos, tmp_path):
    """One that every image has is counted, and has no AUROC."""
    names = ["odd", "third", "every"]
    problem = {"problem_type": "multi_label_classification"}
    classifier = save_classifier(tmp_path / "classifier", names, **problem)

    def row_of(number):
        return f"{number % 2},{int(number % 3 == 0)},1"

    data = with_metadata(tmp_path / "data", photos, ",".join(names), row_of)
    arguments = ["--model_name_or_path", classifier, "--dataset_name", data, "--use_cpu"]
    run_script(
        "run_eval.py", *arguments, "--label_column", *names, "--output_dir", tmp_path / "report"
    )
    table = pd.read_csv(tmp_path / "report" / "per_label.csv").set_index("label")
    model, processor = load_classifier(classifier)
    scores, truth = {name: [] for name in names}, {name: [] for name in names}
    for number in range(40):
        for row in predict(model, processor, data / f"{number}.png"):
            scores[row["label"]].append(row["score"])
        for name, value in zip(names, row_of(number).split(",")):
            truth[name].append(int(value))
    for name in names[:2]:
        area = roc_auc_score(truth[name], scores[name])
        assert table.loc[name, "auroc"] == pytest.approx(area)
        precision = average_precision_score(truth[name], scores[name])
        assert table.loc[name, "average_precision"] == pytest.approx(precision)
        assert table.loc[name, "images"] == sum(truth[name])
        answered = np.array(scores[name]) >= 0.5
        assert table.loc[name, "answered"] == answered.sum()
    assert np.isnan(table.loc["every", "auroc"])
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert results["mean_auroc"] == pytest.approx(table["auroc"].mean())
    mistakes = pd.read_csv(tmp_path / "report" / "mistakes.csv")
    off_by = (mistakes["score"] - mistakes["has_it"].astype(float)).abs()
    assert (off_by >= 0.5).all()
    assert (off_by.diff().dropna() <= 1e-6).all()
    wrong = sum((np.array(truth[name]) != (np.array(scores[name]) >= 0.5)).sum() for name in names)
    assert len(mistakes) == wrong
    assert (tmp_path / "report" / "mistakes.png").exists()
    # of a label that the data set doesn't have, nothing is known; and nothing stays of the report
    (tmp_path / "report" / "scatter.png").touch()
    some = run_script(
        "run_eval.py", *arguments, "--label_column", *names[:2], "--output_dir", tmp_path / "report"
    )
    assert "left out, for the data set says nothing of them: every\n" in some
    table = pd.read_csv(tmp_path / "report" / "per_label.csv")
    assert table["label"].tolist() == names[:2]
    assert set(pd.read_csv(tmp_path / "report" / "mistakes.csv")["label"]) <= set(names[:2])
    assert not (tmp_path / "report" / "scatter.png").exists()


def test_nothing_is_kept_where_nothing_could_be_read(tmp_path, photos):
    classifier = save_classifier(tmp_path / "classifier", ["a", "b"])
    files = [tmp_path / "data" / name / "1.png" for name in ("a", "b")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("no picture")
    arguments = ["--model_name_or_path", classifier, "--validation_dir", tmp_path / "data"]
    arguments += ["--use_cpu", "--output_dir", tmp_path / "report"]
    assert "none of the 2 images can be decoded" in script_error("run_eval.py", *arguments)
    for file in files:
        photos[0].save(file)
    assert "2 images" in run_script("run_eval.py", *arguments)


def test_the_report_of_values(photos, tmp_path):
    classifier = save_classifier(tmp_path / "classifier", ["height"], problem_type="regression")
    data = with_metadata(tmp_path / "data", photos, "height", lambda number: number / 7)
    arguments = ["--model_name_or_path", classifier, "--dataset_name", data, "--use_cpu"]
    arguments += ["--label_column", "height", "--output_dir", tmp_path / "report"]
    stdout = run_script("run_eval.py", *arguments)
    model, processor = load_classifier(classifier)
    values = [predict(model, processor, data / f"{n}.png")[0]["score"] for n in range(40)]
    targets = np.arange(40) / 7
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    error = np.square(targets - values).mean() ** 0.5
    assert results["root_mean_squared_error"] == pytest.approx(error, rel=1e-5)
    assert results["r2"] == pytest.approx(r2_score(targets, values), rel=1e-5)
    assert f"r2                {results['r2']:.4g}" in stdout
    mistakes = pd.read_csv(tmp_path / "report" / "mistakes.csv")
    assert len(mistakes) == 40
    assert (mistakes["error"].abs().diff().dropna() <= 0).all()
    assert Image.open(tmp_path / "report" / "scatter.png").size[0] > 300


def test_a_perfect_classifier_makes_no_mistakes(photos, tmp_path):
    classifier = save_classifier(tmp_path / "classifier", ["a", "b"])
    model, processor = load_classifier(classifier)
    for number in range(8):
        picture = photos[number % 2].crop((9 * number, 0, 9 * number + 40, 36))
        picture.save(tmp_path / "x.png")
        name = predict(model, processor, tmp_path / "x.png")[0]["label"]
        (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "data" / name / f"{number}.png")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "mistakes.png").write_bytes(b"of an earlier model")
    arguments = ["--model_name_or_path", classifier, "--validation_dir", tmp_path / "data"]
    run_script("run_eval.py", *arguments, "--use_cpu", "--output_dir", tmp_path / "report")
    text = (tmp_path / "report" / "mistakes.csv").read_text()
    assert text == '"image","place","class","answer","score","score_of_class"\n'
    assert not (tmp_path / "report" / "mistakes.png").exists()
