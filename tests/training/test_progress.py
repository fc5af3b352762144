"""What a run says while it trains, when it is over, and what to do then."""

import re
import shlex

import numpy as np
import pytest
import torch
from helpers import ROOT, TINY_FLAGS, run_script
from PIL import Image

from hf_mae.models.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from hf_mae.training.progress import say_seconds
from hf_mae.training.verdicts import judge_classifier, judge_pretraining
from hf_mae.training.visualization import training_curves


def test_a_line_an_epoch(make_trainer, capfd):
    """Its loss is the mean of the epoch's updates, whatever the log's intervals are."""
    options = {"max_steps": 30, "eval_strategy": "steps", "eval_steps": 10, "logging_steps": 4}
    trainer = make_trainer(per_device_train_batch_size=8, **options)
    trainer.train()
    printed = capfd.readouterr().out.splitlines()
    lines = [line for line in printed if line.startswith("epoch ")]
    entries = trainer.state.log_history
    evaluated = [entry for entry in entries if "eval_loss" in entry]
    assert len([line for line in lines if "held out" in line]) == len(evaluated) == 3
    for entry in evaluated:
        share = entry["eval_loss"] / entry["eval_loss_best_constant"]
        said = f"held out {entry['eval_loss']:.4f} ({share:.2f} of the best constant)"
        assert any(said in line for line in lines)
        assert any(f"RankMe {entry['eval_rank_me']:.1f}" in line for line in lines)
    assert not any("{" in line for line in printed)
    assert any(re.fullmatch(r"about .*, done .*", line) for line in printed)
    assert "left" in lines[0]
    assert "left" not in lines[-1]
    losses = [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]
    weighted, before = 0.0, 0
    for step, loss in losses:
        if step <= 10:
            weighted += loss * (step - before)
            before = step
    assert before == 10
    assert f"loss {weighted / 10:.4f}" in next(line for line in lines if "held out" in line)


def test_panels_are_drawn_ever_more_seldom(make_trainer, monkeypatch):
    drawn = []
    trainer = make_trainer(max_steps=14, eval_strategy="steps", eval_steps=1)
    monkeypatch.setattr(
        trainer, "_draw_panel", lambda samples: drawn.append(trainer.state.global_step)
    )
    trainer.train()
    assert drawn == [1, 2, 4, 8, 14]


@pytest.mark.parametrize(
    ("loss", "verdict"),
    [
        (0.17, "learned: the held-out loss is 0.17 of"),
        (0.95, "hardly anything learned: the held-out loss is 0.95 of"),
        (1.02, "nothing learned: the held-out loss is 1.02 of"),
        (57622.75, "diverged: the held-out loss is 57622.75 of"),
        (float("inf"), "diverged: "),
    ],
)
def test_verdicts_on_pretraining(loss, verdict):
    assert judge_pretraining(loss, 1.0).startswith(verdict)


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        # high from the start: it is far from learning anything, and has not diverged
        (
            [2.25, 2.24, 2.22],
            "nothing learned: the held-out loss is 2.22 of the best constant's, and",
        ),
        ([2.25, 0.9, 2.22], "diverged: "),
        ([2e9, 2e9], "diverged: the held-out loss is 2e+09 of"),
        # published weights, which knew it all before
        (
            [0.31, 0.309],
            "nothing new learned: the held-out loss is 0.31 of the best constant's, and",
        ),
        (
            [0.31, 0.4],
            "nothing new learned: the held-out loss is 0.40 of the best constant's, and ",
        ),
        ([0.31, 0.25], "learned: the held-out loss is 0.25 of the best constant's, and was 0.31 "),
    ],
)
def test_verdicts_by_the_course_of_a_run(losses, verdict):
    history = [{"step": step, "eval_loss": loss} for step, loss in enumerate(losses)]
    assert judge_pretraining(losses[-1], 1.0, history).startswith(verdict)


def test_a_rank_that_hardly_moves_looks_so():
    history = [{"epoch": n, "eval_loss": 1.0, "eval_rank_me": 2.5 + n / 1000} for n in range(5)]
    _, rank = training_curves(history).axes
    assert rank.get_ylabel() == "RankMe"
    bottom, top = rank.get_ylim()
    assert bottom == 0
    assert 2.6 < top < 3.5


def test_a_training_loss_tells_of_divergence():
    history = [{"step": 1, "loss": 2.5}, {"step": 2, "eval_loss": 6.0}]
    assert judge_pretraining(6.0, 1.0, history).startswith("diverged: ")
    history = [{"step": 1, "loss": 5.5}, {"step": 2, "eval_loss": 6.0}]
    assert judge_pretraining(6.0, 1.0, history).startswith("nothing learned: ")


@pytest.mark.parametrize(
    ("problem_type", "results", "labels", "verdict"),
    [
        (SINGLE_LABEL, {"top-1 accuracy": 0.1556}, [0, 1, 2], "below chance: 15.6% are right"),
        (SINGLE_LABEL, {"top-1 accuracy": 0.5}, [0, 1], "no better than chance: 50.0% are right"),
        (SINGLE_LABEL, {"top-1 accuracy": 0.9}, [0, 1], "learned: 90.0% are right"),
        (MULTI_LABEL, {"mean AUROC": 0.4}, [[0.0, 1.0]], "below chance: the mean AUROC is 0.40"),
        (MULTI_LABEL, {}, [[0.0, 1.0]], None),
        (REGRESSION, {"mean absolute error": 2.0}, [1.0, 3.0], "nothing learned: the mean error"),
        (REGRESSION, {"mean absolute error": 0.5}, [1.0, 3.0], "learned: the mean error is 0.5"),
    ],
)
def test_verdicts_on_classifiers(problem_type, results, labels, verdict):
    found = judge_classifier(problem_type, results, torch.tensor(labels))
    assert found is None if verdict is None else found.startswith(verdict)


def test_times():
    assert [say_seconds(seconds) for seconds in (0.4, 59.6, 3599, 7260)] == [
        "0 s",
        "1 min 0 s",
        "59 min 59 s",
        "2 h 1 min",
    ]


@pytest.fixture
def class_folders(tmp_path):
    """Twelve images of each of two classes."""
    for name in ("light", "dark"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.random.default_rng(i).integers(0, 128, (40, 40, 3), dtype=np.uint8)
            image = Image.fromarray(pixels + (127 if name == "light" else 0))
            image.save(tmp_path / "pictures" / name / f"{i} é.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize(
    ("script", "first"),
    [
        ("run_mae.py", "reconstruct.py"),
        ("run_finetune.py", "predict.py"),
        ("run_linear_probe.py", "predict.py"),
        ("run_mae.py", "extract_features.py"),
    ],
)
def test_what_to_do_next_runs_as_it_stands(script, first, class_folders, tmp_path):
    output = tmp_path / "out put"
    flags = ["--max_steps=2", "--use_cpu", "--report_to=none", "--eval_strategy=no"]
    flags += ["--per_device_train_batch_size=8", "--save_strategy=no"]
    if first == "extract_features.py":  # of a data set that isn't of files
        flags += ["--dataset_name=digits", "--num_channels=1"]
    else:
        flags += ["--train_dir", class_folders]
    if script == "run_linear_probe.py":
        flags += ["--cache_features"]
    printed = run_script(script, *TINY_FLAGS, *flags, "--output_dir", output)
    commands = printed.split("\nnext\n")[1].strip().splitlines()
    assert len(commands) == 3
    assert first in commands[0]
    assert ("publish.py" in commands[2]) == (first == "extract_features.py")
    for command in commands:
        python, path, *words = shlex.split(command)
        assert python == "python"
        name = str((ROOT / path).relative_to(ROOT / "scripts"))
        run_script(name, *words)
