# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""A classifier on labelled images: its answers, kept in parts, and the report that is made of them.

The report is a folder: results.json with all figures, tables as CSV, and pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from transformers import PreTrainedModel

from ..data.samples import ImageSamples
from ..inference.feature_pictures import plain_text
from ..inference.images import ImageBatch
from ..inference.parts import Parts, compute_parts
from ..inference.predictions import compute_logits, distinct_names
from ..inference.tables import write_table
from ..models.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL, answer_scores
from .metrics import class_rates, label_areas
from .report_figures import confusion_picture, mistakes_picture, save_picture, scatter_picture


_THRESHOLD = 0.5  # of a label's probability, for it to be answered
_ANSWER = pa.schema({"image": pa.string(), "error": pa.string(), "logits": pa.list_(pa.float32())})
_SHOWN = 20  # mistakes in the picture
_FILES = (
    *("per_class.csv", "per_label.csv", "confusion_matrix.csv", "confusion_matrix.png"),
    *("scatter.png", "mistakes.csv", "mistakes.png", "bad_images.csv"),
)

Rows = list[dict[str, Any]]


class NoAnswersError(ValueError):
    """No image could be read."""


@dataclass(frozen=True)
class Evaluation:
    """What a classifier answered for labelled images, those that could be read.

    Attributes:
        problem_type: One of `models/problem_types.py`.
        names: K names of the model's labels.
        images: N names.
        places: (N,) their numbers in the data set.
        scores: (N, K) what `answer_scores` makes of the logits.
        logits: (N, K).
        labels: (N,) class numbers of the model; (N, K) of several labels an image; or (N,) values.
    """

    problem_type: str
    names: list[str]
    images: list[str]
    places: np.ndarray
    scores: np.ndarray
    logits: torch.Tensor
    labels: torch.Tensor

    def of_labels(self, numbers: Sequence[int]) -> "Evaluation":
        """The same for some of the labels alone, where an image may have several."""
        return replace(
            self,
            names=[self.names[number] for number in numbers],
            scores=self.scores[:, numbers],
            logits=self.logits[:, numbers],
            labels=self.labels[:, numbers],
        )

    @property
    def answers(self) -> np.ndarray:
        """(N,) the most probable class of each image."""
        return self.scores.argmax(axis=1)


def compute_answers(
    model: PreTrainedModel,
    samples: ImageSamples,
    parts: Parts,
    batch_size: int,
    num_workers: int,
    state: PartialState,
) -> None:
    """Computes a classifier's logits for all images, in parts; every process calls it.

    Raises:
        ValueError: the model answers what is no number.
    """

    def answer(batch: ImageBatch) -> pa.Table:
        logits = iter(compute_logits(model, batch).tolist())
        rows = []
        for name, error in zip(batch.names, batch.errors):
            own = next(logits) if error is None else None
            rows.append({"image": name, "error": error, "logits": own})
        return pa.Table.from_pylist(rows, schema=_ANSWER)

    compute_parts(parts, samples, answer, batch_size, num_workers, state)


def read_answers(parts: Parts, config: Any, labels: torch.Tensor) -> tuple[Evaluation, Rows]:
    """Reads what `compute_answers` computed.

    Args:
        parts: The same.
        config: The model's.
        labels: Of all images, those that can't be read too, as `Evaluation` has them.

    Returns:
        The evaluation, and of the images that couldn't be read `{"image": …, "error": …}`.

    Raises:
        NoAnswersError: none could be read.
    """
    answers = pa.concat_tables(parts.tables())
    errors = answers["error"].to_pylist()
    places = np.array([place for place, error in enumerate(errors) if error is None], dtype=int)
    bad = [row for row in answers.select(["image", "error"]).to_pylist() if row["error"]]
    if not len(places):
        raise NoAnswersError(
            f"none of the {len(errors)} images can be decoded; the first: {errors[0]}"
        )
    flat = answers["logits"].combine_chunks().flatten().to_numpy()
    logits = torch.from_numpy(flat.copy()).view(len(places), config.num_labels)
    problem_type = config.problem_type or SINGLE_LABEL
    evaluation = Evaluation(
        problem_type=problem_type,
        names=distinct_names(config),
        images=answers["image"].take(pa.array(places)).to_pylist(),
        places=places,
        scores=answer_scores(logits, problem_type).numpy(),
        logits=logits,
        labels=labels[places],
    )
    return evaluation, bad


# rows of the tables ------------------------------------------------------------------------------


def class_rows(evaluation: Evaluation) -> Rows:
    """Measures each class, as `class_rates` does: the model's classes, in its order."""
    labels, answers = evaluation.labels.numpy(), evaluation.answers
    rows = []
    for number, name in enumerate(evaluation.names):
        rows.append({"class": name, **class_rates(labels == number, answers == number)})
    return rows


def label_rows(evaluation: Evaluation) -> Rows:
    """Measures each label by AUROC and average precision, and at 50 % as `class_rates` does."""
    rows = []
    for number, name in enumerate(evaluation.names):
        has_it = evaluation.labels[:, number].numpy() >= 0.5
        scores = evaluation.scores[:, number]
        area, precision = label_areas(evaluation.logits[:, number].numpy(), has_it)
        areas = {"auroc": area, "average_precision": precision}
        rows.append({"label": name, **areas, **class_rates(has_it, scores >= _THRESHOLD)})
    return rows


def confusion_matrix(evaluation: Evaluation) -> np.ndarray:
    """Counts images (K, K): a row for each class, a column for each answer."""
    size = len(evaluation.names)
    pairs = evaluation.labels.numpy() * size + evaluation.answers
    return np.bincount(pairs, minlength=size * size).reshape(size, size)


def mistake_rows(evaluation: Evaluation) -> Rows:
    """Lists what is wrong, from the worst down.

    Of one class an image that is another answer, by its probability; of several labels one that is
    on the wrong side of 50 %, by how far; of a regression every value, by how far it is off.
    `place` is the image's number in the data set.
    """
    labels = evaluation.labels.numpy()
    if evaluation.problem_type == REGRESSION:
        errors = evaluation.scores[:, 0] - labels.reshape(-1)
        wrong, severity = (np.arange(len(labels)),), np.abs(errors)
    elif evaluation.problem_type == MULTI_LABEL:
        has_it = labels >= 0.5
        wrong = np.nonzero(has_it != (evaluation.scores >= _THRESHOLD))
        severity = np.abs(evaluation.scores - has_it)[wrong]
    else:
        wrong = np.nonzero(evaluation.answers != labels)
        severity = evaluation.scores.max(axis=1)[wrong]
    rows = []
    for rank in np.argsort(-severity, kind="stable"):
        at = tuple(int(axis[rank]) for axis in wrong)
        rows.append(_mistake(evaluation, *at))
    return rows


def _mistake(evaluation: Evaluation, image: int, number: int | None = None) -> dict[str, Any]:
    names, scores = evaluation.names, evaluation.scores[image]
    row = {"image": evaluation.images[image], "place": int(evaluation.places[image])}
    if evaluation.problem_type == REGRESSION:
        value, target = float(scores[0]), float(evaluation.labels[image])
        return {**row, "value": target, "answer": value, "error": value - target}
    if number is not None:
        has_it = bool(evaluation.labels[image, number] >= 0.5)
        return {**row, "label": names[number], "has_it": has_it, "score": float(scores[number])}
    label, answer = int(evaluation.labels[image]), int(scores.argmax())
    return {
        **row,
        "class": names[label],
        "answer": names[answer],
        "score": float(scores[answer]),
        "score_of_class": float(scores[label]),
    }


# the folder --------------------------------------------------------------------------------------


def write_report(folder: Path, evaluation: Evaluation, bad: Rows, samples: ImageSamples) -> None:
    """Writes the tables and pictures of an evaluation.

    Args:
        folder: Is made. Of one class an image it gets per_class.csv, confusion_matrix.csv and
            .png; of several labels per_label.csv; of a regression scatter.png; of all mistakes.csv,
            mistakes.png, if there are any, and bad_images.csv, if there are any.
        evaluation: Of `read_answers`, and
        bad: the images that couldn't be read.
        samples: The images, for the picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with plain_text():
        _write_report(folder, evaluation, bad, samples)


def _write_report(folder: Path, evaluation: Evaluation, bad: Rows, samples: ImageSamples) -> None:
    for name in _FILES:  # of an earlier report
        (folder / name).unlink(missing_ok=True)
    mistakes = mistake_rows(evaluation)
    _write_rows(folder / "mistakes.csv", mistakes, _mistake_columns(evaluation))
    if mistakes:
        shown = mistakes[:_SHOWN]
        picture = mistakes_picture(shown, len(mistakes), samples)
        save_picture(picture, folder / "mistakes.png")
    if bad:
        _write_rows(folder / "bad_images.csv", bad, ["image", "error"])
    if evaluation.problem_type == REGRESSION:
        targets, values = evaluation.labels.numpy().reshape(-1), evaluation.scores[:, 0]
        picture = scatter_picture(targets, values, evaluation.names[0])
        save_picture(picture, folder / "scatter.png")
    elif evaluation.problem_type == MULTI_LABEL:
        _write_rows(folder / "per_label.csv", label_rows(evaluation))
    else:
        matrix, rows = confusion_matrix(evaluation), class_rows(evaluation)
        _write_rows(folder / "per_class.csv", rows)
        _write_matrix(folder / "confusion_matrix.csv", matrix, evaluation.names)
        picture = confusion_picture(matrix, evaluation.names)
        save_picture(picture, folder / "confusion_matrix.png")


def _mistake_columns(evaluation: Evaluation) -> list[str]:
    row = _mistake(evaluation, 0, 0 if evaluation.problem_type == MULTI_LABEL else None)
    return list(row)


def _write_rows(file: Path, rows: Rows, columns: Sequence[str] | None = None) -> None:
    names = list(columns or rows[0])
    table = pa.Table.from_pylist(rows)
    if not rows:
        table = pa.table({name: pa.array([], pa.string()) for name in names})
    write_table(lambda: [table], table.schema, file)


def _write_matrix(file: Path, matrix: np.ndarray, names: list[str]) -> None:
    columns: list[Any] = [pa.array(names)]
    columns += [pa.array(column) for column in matrix.T]
    table = pa.table(columns, names=["class", *(f"answered {name}" for name in names)])
    write_table(lambda: [table], table.schema, file)
