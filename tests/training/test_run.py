"""The training scripts' common part, and the room's face."""

import runpy
import subprocess
import sys

import pytest
from helpers import ROOT, TINY_FLAGS

import hf_mae.training
from hf_mae import MAEForImageClassification, MAEForPreTraining
from hf_mae.training import (
    DataArguments,
    FineTuningTrainer,
    LinearProbeTrainer,
    MAETrainer,
    print_plan,
)
from hf_mae.training.plan import describe_memory, foretold_memory


def test_every_name_of_the_face_is_there():
    assert sorted(hf_mae.training._LAZY) == hf_mae.training.__all__
    for name in hf_mae.training.__all__:
        assert getattr(hf_mae.training, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'MAETrainr'"):
        hf_mae.training.MAETrainr  # noqa: B018


def test_optimization_needs_no_data_libraries():
    code = (
        "import sys\n"
        "for name in ('datasets', 'evaluate', 'sklearn', 'matplotlib'): sys.modules[name] = None\n"
        "from hf_mae.training.optimization import parameter_groups"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("kind", "fields", "named"),
    [
        ("finetune", {"drop_path_rate": 0.3}, None),
        ("finetune", {"hidden_dropout_prob": 0.1}, "hidden_dropout_prob 0.1"),
        ("finetune", {"attention_probs_dropout_prob": 0.2}, "attention_probs_dropout_prob 0.2"),
        ("finetune", {"head_batch_norm": True}, "head_batch_norm behind what is trained"),
        ("probe", {"hidden_dropout_prob": 0.1}, None),  # the encoder is frozen
        ("probe of the mean", {}, "head_batch_norm behind what is trained"),
    ],
)
def test_the_plan_names_what_depends_on_how_a_batch_is_spread(
    make_classifier_trainer, capsys, kind, fields, named
):
    trainer = make_classifier_trainer(kind.split()[0], fields=fields)
    if kind == "probe of the mean":  # whose norm is trained, and comes before the batch norm
        config = trainer.model.config.changed(pooling="mean")
        trainer.model = MAEForImageClassification(config).freeze_encoder()
    print_plan("Training", "a model", trainer, DataArguments("digits"), "8 bits", None)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  spread")]
    assert len(lines) == (named is not None)
    if named:
        assert f"with {named}, losses depend on the number of processes" in lines[0]


@pytest.mark.parametrize(
    ("script", "trainer_class", "model_class"),
    [
        ("run_mae.py", MAETrainer, MAEForPreTraining),
        ("run_finetune.py", FineTuningTrainer, MAEForImageClassification),
        ("run_linear_probe.py", LinearProbeTrainer, MAEForImageClassification),
    ],
)
def test_a_mistake_of_ours_in_training_is_not_put_down_to_the_user(
    script, trainer_class, model_class, tmp_path, monkeypatch
):
    """It keeps its traceback, and what comes up after training doesn't lose the model."""
    flags = [*TINY_FLAGS, "--dataset_name=digits", "--max_steps=1", "--warmup_epochs=0"]
    flags += ["--use_cpu", "--report_to=none", "--disable_tqdm=true", "--eval_strategy=no"]
    monkeypatch.setattr("sys.argv", [script, *flags, f"--output_dir={tmp_path}"])

    def fail(*args, **kwargs):
        raise ValueError("of ours")

    monkeypatch.setattr(trainer_class, "evaluate", fail)
    with pytest.raises(ValueError, match="of ours"):
        runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
    assert model_class.from_pretrained(tmp_path).config.image_size == 32


@pytest.mark.parametrize("kind", ["pretrain", "finetune", "probe"])
def test_the_plan_foretells_memory(make_trainer, make_classifier_trainer, kind):
    """Of a GPU as large as is said; on a CPU the plan has no such line."""
    trainer = make_trainer() if kind == "pretrain" else make_classifier_trainer(kind)
    assert describe_memory(trainer, 2**34).startswith("about 1.0 GiB of the GPU's 16.0, foretold")
    needed = foretold_memory(trainer, 64)
    assert needed > 2**30
    assert "won't fit" not in describe_memory(trainer, needed)
    said = describe_memory(trainer, foretold_memory(trainer, 32))
    fits = int(said.split("it won't fit, ")[1].split()[0])
    assert 24 <= fits <= 32
    assert "nor would 2" in describe_memory(trainer, 2**20)
    trainer.args.gradient_checkpointing = True
    if kind != "probe":
        assert foretold_memory(trainer, 64) < needed
