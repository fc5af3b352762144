"""What transformers documents of its Trainer, beside training: predict, other sets, searches."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers import QUIET, TINY
from torch import nn
from transformers import EarlyStoppingCallback
from transformers.trainer_utils import HPSearchBackend

from hf_mae import MAEConfig, MAEForImageClassification, MAEForPreTraining, MAEImageProcessor
from hf_mae.data.samples import ImageSamples
from hf_mae.data.transforms import (
    CenterCropTransform,
    FineTuningTransform,
    MaskedEvaluationTransform,
    PretrainingTransform,
)
from hf_mae.models.image_processing_mae import normalize_images
from hf_mae.training.arguments import FineTuningArguments, MAETrainingArguments
from hf_mae.training.classification import FineTuningTrainer
from hf_mae.training.pretraining import MAETrainer


GREY = {**TINY, "num_channels": 1, "num_labels": 10}


def evaluation_samples(rows):
    return ImageSamples(rows, CenterCropTransform(MAEConfig(**GREY)), 1, seed=42)


# predict and evaluate ----------------------------------------------------------------------------


def test_predict_gives_logits(make_classifier_trainer, labelled_digits):
    rows = labelled_digits["validation"].select(range(23))
    trainer = make_classifier_trainer(per_device_eval_batch_size=5)
    nn.init.normal_(trainer.model.classifier.weight)
    labelled = trainer.predict(evaluation_samples(rows))
    bare = trainer.predict(evaluation_samples(rows.select_columns(["image"])))
    images = torch.stack([evaluation_samples(rows)[i]["images"] for i in range(23)])
    with torch.no_grad():
        expected = trainer.model(normalize_images(images, (0.449,), (0.226,))).logits
    torch.testing.assert_close(
        torch.from_numpy(labelled.predictions), expected, rtol=1e-4, atol=1e-4
    )
    assert np.array_equal(bare.predictions, labelled.predictions)
    assert labelled.label_ids.tolist() == rows["label"][:]
    right = (expected.argmax(dim=1) == torch.tensor(rows["label"][:])).float().mean().item()
    assert labelled.metrics["test_top1_accuracy"] == pytest.approx(right)
    assert bare.label_ids is None
    assert "test_loss" not in bare.metrics
    with pytest.raises(ValueError, match="no labels to measure by; predict gives their logits"):
        trainer.evaluate(evaluation_samples(rows.select_columns(["image"])))


def test_an_image_that_cant_be_decoded_has_no_logits(
    make_classifier_trainer, labelled_digits, tmp_path
):
    """Those of the image that stands in for it would be taken for its own."""
    rows = labelled_digits["validation"].select(range(110)).to_list()
    rows[6]["image"]["bytes"] = b"no image"
    broken = Dataset.from_list(rows, features=labelled_digits["validation"].features)
    predictions = make_classifier_trainer().predict(evaluation_samples(broken)).predictions
    assert np.isnan(predictions).any(axis=1).nonzero()[0].tolist() == [6]
    assert (tmp_path / "run" / "bad_images.tsv").read_text().startswith("test\t6\t")


def test_bad_images_of_other_sets_are_counted_among_these(make_classifier_trainer, labelled_digits):
    rows = labelled_digits["validation"].select(range(10)).to_list()
    rows[6]["image"]["bytes"] = b"no image"
    broken = Dataset.from_list(rows, features=labelled_digits["validation"].features)
    with pytest.raises(RuntimeError, match="1 of 10 test images can't be decoded"):
        make_classifier_trainer().predict(evaluation_samples(broken))


def test_pretraining_evaluates_another_set(make_trainer, digits):
    trainer = make_trainer()
    trainer.eval_dataset = None
    config = trainer.model.config
    rows = digits["validation"].select(range(20))
    samples = ImageSamples(rows, MaskedEvaluationTransform(config), 3, seed=42)
    other = trainer.evaluate(samples)
    trainer.eval_dataset = samples
    assert other["eval_loss"] == trainer.evaluate()["eval_loss"]


def test_several_evaluation_sets(make_classifier_trainer, labelled_digits):
    trainer = make_classifier_trainer()
    parts = {"a": range(20), "b": range(20, 50)}
    rows = labelled_digits["validation"]
    sets = {name: evaluation_samples(rows.select(part)) for name, part in parts.items()}
    metrics = trainer.evaluate(sets)
    for name, samples in sets.items():
        assert metrics[f"eval_{name}_loss"] == trainer.evaluate(samples)["eval_loss"]


def test_early_stopping(make_classifier_trainer):
    trainer = make_classifier_trainer(
        max_steps=12,
        learning_rate=1e-12,
        min_learning_rate=0,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="top1_accuracy",
    )
    trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=2))
    trainer.train()
    assert trainer.state.global_step == 3  # nothing gets better
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")


def test_where_to_log_must_be_installed(tmp_path, monkeypatch):
    from transformers.integrations import integration_utils

    monkeypatch.setattr(integration_utils, "is_wandb_available", lambda: False)
    with pytest.raises(ValueError, match=r"report_to is 'wandb', which is not installed; pip inst"):
        FineTuningArguments(output_dir=str(tmp_path), use_cpu=True, report_to="wandb")
    with pytest.raises(ValueError, match="report_to is 'paper', which transformers doesn't know"):
        FineTuningArguments(output_dir=str(tmp_path), use_cpu=True, report_to=["paper"])


# hyperparameter search ---------------------------------------------------------------------------


@pytest.fixture
def make_searching(labelled_digits, tmp_path):
    def make(**arguments):
        options = {"per_device_train_batch_size": 32, "max_steps": 2, "eval_strategy": "steps"}
        args = FineTuningArguments(output_dir=str(tmp_path), **{**QUIET, **options, **arguments})
        config = MAEConfig(**GREY)
        rows = labelled_digits["train"].select(range(64))
        return FineTuningTrainer(
            None,
            args,
            ImageSamples(rows, FineTuningTransform(config, "none", 0.0), 1, seed=42),
            evaluation_samples(labelled_digits["validation"].select(range(20))),
            MAEImageProcessor.from_model_config(config),
            model_init=lambda: MAEForImageClassification(config),
        )

    return make


def test_a_trial_sets_what_follows_from_its_arguments(make_searching):
    """The learning rate is scaled again unless it is given; impossible values are refused."""
    trainer = make_searching(base_learning_rate=1e-3)
    trainer.hp_search_backend = HPSearchBackend.RAY  # its trials are plain mappings
    trainer._hp_search_setup({"base_learning_rate": 4e-3, "per_device_train_batch_size": 16})
    assert trainer.args.learning_rate == pytest.approx(4e-3 * 16 / 256)
    assert trainer.updates_per_epoch == 4
    assert trainer.nonfinite.accelerator is trainer.accelerator
    trainer._hp_search_setup({"learning_rate": 0.5, "mixup": 0.0, "cutmix": 0.0})
    assert trainer.args.learning_rate == 0.5
    assert trainer.make_mixing(torch.tensor([1])).mix is None
    trainer._hp_search_setup({"per_device_train_batch_size": 32})
    assert trainer.args.learning_rate == 0.5
    with pytest.raises(ValueError, match="label_smoothing_factor is 2.0; it must be in"):
        trainer._hp_search_setup({"label_smoothing_factor": 2.0})
    trainer.args.label_smoothing_factor = 0.0
    with pytest.raises(ValueError, match="random_erasing says how samples are made"):
        trainer._hp_search_setup({"random_erasing": 0.5})


def test_search_by_optuna(make_searching):
    pytest.importorskip("optuna")
    trainer = make_searching(metric_for_best_model="top1_accuracy")
    rates, objectives = [], []
    train = trainer.train

    def train_and_note(*args, **kwargs):
        output = train(*args, **kwargs)
        rates.append(trainer.args.learning_rate)
        objectives.append(trainer.state.log_history[-2]["eval_top1_accuracy"])
        return output

    trainer.train = train_and_note
    best = trainer.hyperparameter_search(
        lambda trial: {"base_learning_rate": trial.suggest_float("base_learning_rate", 0.01, 1.0)},
        n_trials=2,
        direction="maximize",
        backend="optuna",
    )
    assert len(set(rates)) == 2
    assert best.objective == max(objectives)
    scaled = best.hyperparameters["base_learning_rate"] * 32 / 256
    assert rates[int(best.run_id)] == pytest.approx(scaled)


def test_a_search_goes_by_the_loss(digits, tmp_path):
    """By itself transformers would add up the baselines, which are always the same."""
    pytest.importorskip("optuna")
    config = MAEConfig(**TINY)
    options = {"per_device_train_batch_size": 32, "max_steps": 4, "eval_strategy": "steps"}
    options |= {"resolution_schedule": "0:16,0.5:32", "eval_steps": 4}
    args = MAETrainingArguments(output_dir=str(tmp_path), **{**QUIET, **options})
    trainer = MAETrainer(
        None,
        args,
        ImageSamples(digits["train"].select(range(64)), PretrainingTransform(config), 3, seed=42),
        ImageSamples(digits["validation"], MaskedEvaluationTransform(config), 3, seed=42),
        MAEImageProcessor.from_model_config(config),
        model_init=lambda: MAEForPreTraining(config),
    )
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-2)},
        n_trials=1,
        backend="optuna",
    )
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert best.objective == losses[-1]
