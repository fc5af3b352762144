"""Fine-tuning and linear probing on real digits."""

import math
import re

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers import TINY, logged_losses
from timm.loss import SoftTargetCrossEntropy
from timm.optim import Lars
from torch import nn

from hf_mae.data.feature_samples import FeatureSamples
from hf_mae.data.samples import ImageSamples, collate
from hf_mae.data.transforms import CenterCropTransform
from hf_mae.models.image_processing_mae import normalize_images
from hf_mae.training.arguments import FineTuningArguments
from hf_mae.training.metrics import knn_accuracy


PLAIN = {
    "mixup": 0.0,
    "cutmix": 0.0,
    "label_smoothing_factor": 0.0,
    "auto_augment": "none",
    "random_erasing": 0.0,
}


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(ours, theirs):
    return all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


# learning ----------------------------------------------------------------------------------------


def test_overfits_32_images(make_classifier_trainer, labelled_digits):
    few = labelled_digits["train"].select(range(32))
    options = {
        "per_device_train_batch_size": 32,
        "max_steps": 150,
        "learning_rate": 3e-3,
        "layer_decay": 1.0,
        **PLAIN,
    }
    trainer = make_classifier_trainer(train=few, validation=few, **options)
    trainer.train_dataset.transform = trainer.eval_dataset.transform  # the same view every time
    assert trainer.evaluate()["eval_top1_accuracy"] < 0.5
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_top1_accuracy"] == 1.0
    assert metrics["eval_loss"] < 0.1


@pytest.mark.parametrize("cached", [False, True])
def test_probe_learns_and_leaves_the_encoder(make_classifier_trainer, cached):
    """Bit-identical encoder; a head that tells digits apart even behind random weights."""
    options = {"max_steps": 150, "learning_rate": 8.0, "cache_features": cached}
    trainer = make_classifier_trainer("probe", fields={"hidden_dropout_prob": 0.1}, **options)
    encoder, head = state(trainer.model.vit), state(trainer.model.classifier)
    trainer.train()
    assert isinstance(trainer.train_dataset, FeatureSamples) == cached
    assert same(encoder, state(trainer.model.vit))
    assert not same(head, state(trainer.model.classifier))
    assert trainer.model.batch_norm.num_batches_tracked == 150
    assert trainer.evaluate()["eval_top1_accuracy"] > 0.25


def test_cached_features_are_the_encoders(make_classifier_trainer):
    trainer = make_classifier_trainer("probe", per_device_eval_batch_size=7)
    images, plain = trainer.eval_dataset, trainer.evaluate()
    trainer.cache_features()
    assert len(trainer.eval_dataset) == 180
    for i in (0, 7, 179):
        sample = images[i]
        pixels = normalize_images(sample["images"][None], (0.449,), (0.226,))
        with torch.no_grad():
            expected = trainer.model.eval().vit(pixels).pooler_output[0]
        cached = trainer.eval_dataset[i]
        torch.testing.assert_close(cached["features"][0], expected, rtol=1e-4, atol=1e-4)
        assert cached["labels"].tolist() == [sample["labels"].item()]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-5)


# soft labels -------------------------------------------------------------------------------------


def test_mixed_targets_reach_the_loss(make_classifier_trainer):
    """The loss of a step is timm's SoftTargetCrossEntropy of what timm's Mixup makes of the
    batch."""
    trainer = make_classifier_trainer(max_steps=1)
    nn.init.normal_(trainer.model.classifier.weight)
    seen = []
    trainer.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    trainer.model.register_forward_hook(
        lambda module, args, outputs: seen.append(outputs.logits.detach())
    )
    trainer.train()
    inputs, logits = seen
    labels = inputs["labels"]
    assert labels.shape == (64, 10)
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(64))
    # smoothed: nothing is below 0.1 / 10; mixed: many have two classes
    assert labels.min().item() == pytest.approx(0.01)
    assert ((labels > 0.011).sum(dim=1) == 2).sum() > 30
    assert logged_losses(trainer) == pytest.approx(
        [SoftTargetCrossEntropy()(logits, labels).item()], rel=1e-5
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_mixing_the_labels_are_smoothed(make_classifier_trainer, smoothing):
    trainer = make_classifier_trainer(max_steps=1, **{**PLAIN, "label_smoothing_factor": smoothing})
    nn.init.normal_(trainer.model.classifier.weight)
    sampler = trainer._get_train_sampler()
    samples = [trainer.train_dataset[number] for number in list(sampler)[:64]]
    labels = torch.stack([sample["labels"] for sample in samples])
    with torch.no_grad():
        logits = trainer.model.train()(
            trainer._prepare_inputs(collate(samples))["pixel_values"]
        ).logits
    expected = nn.CrossEntropyLoss(label_smoothing=smoothing)(logits, labels).item()
    trainer.train()
    assert logged_losses(trainer) == pytest.approx([expected], rel=1e-4)


# the same, however it is spread ------------------------------------------------------------------


def test_accumulation_is_the_large_batch(make_classifier_trainer):
    """With all of the augmentation: what becomes of an image doesn't depend on the batch that it is
    in."""
    options = {"max_steps": 30, "fields": {"drop_path_rate": 0.4}}
    whole = make_classifier_trainer(folder="whole", **options)
    parts = make_classifier_trainer(
        folder="parts", per_device_train_batch_size=16, gradient_accumulation_steps=4, **options
    )
    assert parts.args.learning_rate == whole.args.learning_rate
    whole.train()
    parts.train()
    assert logged_losses(parts) == pytest.approx(logged_losses(whole), abs=1e-5)
    for ours, expected in zip(parts.model.parameters(), whole.model.parameters()):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


def test_any_number_of_workers_sees_the_same(make_classifier_trainer):
    traces = []
    for workers in (0, 2):
        trainer = make_classifier_trainer(
            folder=f"workers{workers}", dataloader_num_workers=workers, max_steps=27
        )
        trainer.train()
        traces.append(logged_losses(trainer))
    assert traces[0] == traces[1]


@pytest.mark.parametrize("kind", ["finetune", "probe", "cached"])
def test_resume_is_exact(make_classifier_trainer, tmp_path, kind):
    options = {"max_steps": 12, "save_strategy": "steps", "save_steps": 4, "save_total_limit": None}
    if kind == "finetune":
        options |= {
            "fields": {"drop_path_rate": 0.3},
            "dataloader_num_workers": 2,
            "gradient_accumulation_steps": 2,
        }

    if kind == "cached":
        options["cache_features"] = True

    def make(folder):
        return make_classifier_trainer(
            "finetune" if kind == "finetune" else "probe", folder=folder, **options
        )

    whole = make("whole")
    whole.train()
    final = state(whole.model)
    for step in (4, 8):
        resumed = make(f"resumed{step}")
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert logged_losses(resumed) == logged_losses(whole)
        assert same(state(resumed.model), final)


# optimizers --------------------------------------------------------------------------------------


def test_learning_rates_of_layers(make_classifier_trainer):
    trainer = make_classifier_trainer(
        max_steps=25, warmup_epochs=0.4, layer_decay=0.5, min_learning_rate=1e-5
    )
    optimizer = trainer.create_optimizer()
    scheduler = trainer.create_scheduler(25)
    peak = trainer.args.learning_rate
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    for step in range(25):
        rates = {
            names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]
        }
        assert rates["vit.layers.1.mlp.fc1.weight"] == pytest.approx(
            0.25 * rates["classifier.weight"]
        )
        assert rates["vit.embeddings.position_embeddings"] == pytest.approx(
            0.0625 * rates["fc_norm.weight"]
        )
        epoch, total = step / 25, 25 / 25
        expected = (
            peak * epoch / 0.4
            if epoch < 0.4
            else 1e-5
            + (peak - 1e-5) * 0.5 * (1 + math.cos(math.pi * (epoch - 0.4) / (total - 0.4)))
        )
        assert rates["classifier.weight"] == pytest.approx(expected)
        optimizer.step()
        scheduler.step()
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.05, 0.0}
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.999)}


def test_the_probes_optimizer(make_classifier_trainer):
    trainer = make_classifier_trainer("probe", learning_rate=None, base_learning_rate=0.1)
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, Lars)
    assert [(g["lr"], g["momentum"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (0.025, 0.9, 0.0)
    ] * 2
    assert [[p.ndim for p in group["params"]] for group in optimizer.param_groups] == [[2], [1]]


# evaluation --------------------------------------------------------------------------------------


def test_evaluation_against_a_loop(make_classifier_trainer, labelled_digits):
    validation = labelled_digits["validation"].select(range(23))
    trainer = make_classifier_trainer(validation=validation, per_device_eval_batch_size=5)
    for parameter in trainer.model.parameters():
        nn.init.normal_(parameter, std=0.2)
    metrics, losses, ranks = trainer.evaluate(), [], []
    for i in range(23):
        sample = trainer.eval_dataset[i]
        pixels = normalize_images(sample["images"][None], (0.449,), (0.226,))
        with torch.no_grad():
            logits = trainer.model.eval()(pixels).logits[0]
        losses.append(-logits.log_softmax(0)[sample["labels"]].item())
        ranks.append((logits > logits[sample["labels"]]).sum().item())
        assert sample["labels"].item() == validation[i]["label"]
    assert metrics["eval_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert metrics["eval_top1_accuracy"] == pytest.approx(np.mean(np.array(ranks) == 0))
    assert metrics["eval_top5_accuracy"] == pytest.approx(np.mean(np.array(ranks) < 5))
    assert 0 < metrics["eval_top5_accuracy"] < 1


def test_evaluation_leaves_no_trace_in_training(make_classifier_trainer):
    trainer = make_classifier_trainer(
        max_steps=4, eval_strategy="steps", eval_steps=2, fields={"drop_path_rate": 0.3}
    )
    trainer.train()
    plain = make_classifier_trainer(folder="plain", max_steps=4, fields={"drop_path_rate": 0.3})
    plain.train()
    assert logged_losses(plain) == logged_losses(trainer)


def test_knn_in_pre_trainings_evaluation(make_trainer, labelled_digits):
    trainer = make_trainer(
        validation=labelled_digits["validation"].select(range(61)), per_device_eval_batch_size=9
    )
    plain = trainer.evaluate()
    assert "eval_knn_accuracy" not in plain
    bank = labelled_digits["train"].select(range(300))
    trainer.knn_bank = ImageSamples(bank, CenterCropTransform(trainer.model.config), 3, seed=42)
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == plain["eval_loss"]

    def encode(samples):
        pixels = torch.stack([samples[i]["images"] for i in range(len(samples))])
        pixels = normalize_images(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        with torch.no_grad():
            return trainer.model.vit.eval()(pixels).last_hidden_state[:, 1:].mean(dim=1)

    queries = trainer.eval_dataset
    labels = [torch.tensor(samples.dataset["label"][:]) for samples in (trainer.knn_bank, queries)]
    expected = knn_accuracy(encode(trainer.knn_bank), labels[0], encode(queries), labels[1])
    assert metrics["eval_knn_accuracy"] == pytest.approx(expected, abs=0.02)
    assert metrics["eval_knn_accuracy"] > 0.3
    trainer.train()  # and nothing of it gets into the way of training
    assert len(logged_losses(trainer)) == 6


@pytest.mark.parametrize("cached", [False, True])
def test_a_bad_image_is_not_counted(make_classifier_trainer, labelled_digits, cached):
    """Its place is taken by another one, whose class says nothing about it."""
    validation = labelled_digits["validation"].select(range(20))
    rows = validation.to_list()
    rows[6]["image"]["bytes"] = b"no image"
    broken = Dataset.from_list(rows, features=validation.features)
    whole = make_classifier_trainer(
        "probe", validation=validation.select([i for i in range(20) if i != 6])
    )
    partly = make_classifier_trainer(
        "probe", folder="partly", validation=broken, per_device_eval_batch_size=7
    )
    partly._report_bad_images = lambda: None  # which would stop at 5 % of bad images
    if cached:
        partly.cache_features()
    expected, metrics = whole.evaluate(), partly.evaluate()
    for name in ("eval_loss", "eval_top1_accuracy", "eval_top5_accuracy"):
        assert metrics[name] == pytest.approx(expected[name], rel=1e-5)


def test_bad_images_of_the_knn_bank_are_its_own(make_trainer, labelled_digits, tmp_path):
    rows = labelled_digits["train"].select(range(300)).to_list()
    for i in (5, 200):
        rows[i]["image"]["bytes"] = b"no image"
    train = Dataset.from_list(rows, features=labelled_digits["train"].features)
    trainer = make_trainer(
        train=train.select_columns(["image"]), validation=labelled_digits["validation"], max_steps=4
    )
    bank = train.select(np.random.default_rng(0).permutation(300))
    trainer.knn_bank = ImageSamples(bank, CenterCropTransform(trainer.model.config), 3, seed=42)
    trainer.train()
    trainer.evaluate()  # 2 of 300 are few enough; counted twice they wouldn't be
    lines = (tmp_path / "run" / "bad_images.tsv").read_text().splitlines()
    assert sum(line.startswith("k-NN bank") for line in lines) == 2
    assert {int(line.split("\t")[1]) for line in lines if line.startswith("train")} <= {5, 200}


def test_best_metrics_name_is_checked_before_training(make_classifier_trainer, make_trainer):
    with pytest.raises(
        ValueError,
        match="metric_for_best_model is 'accuracy'; it must be one of loss, top1_accuracy",
    ):
        make_classifier_trainer(metric_for_best_model="accuracy")
    make_classifier_trainer(metric_for_best_model="eval_top1_accuracy")
    with pytest.raises(
        ValueError, match="must be one of loss, loss_visible_mean, loss_best_constant, knn_accuracy"
    ):
        make_trainer(metric_for_best_model="top1_accuracy")


def test_the_best_model_survives_a_resume(make_classifier_trainer):
    """Of a run that is over: what is loaded is the best checkpoint again, here that of the highest
    loss, not the last."""
    options = {
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
    }
    options |= {
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "greater_is_better": True,
    }
    whole = make_classifier_trainer(**options)
    whole.train()
    best = whole.state.best_model_checkpoint
    assert not best.endswith("checkpoint-6")
    resumed = make_classifier_trainer(**options)
    resumed.train(resume_from_checkpoint=best.rsplit("-", 1)[0] + "-6")
    assert same(state(resumed.model), state(whole.model))


def test_cached_features_of_a_resumed_run_are_its_own_encoders(make_classifier_trainer, tmp_path):
    options = {
        "max_steps": 8,
        "save_strategy": "steps",
        "save_steps": 4,
        "save_total_limit": None,
        "cache_features": True,
    }
    whole = make_classifier_trainer("probe", **options)
    whole.train()
    resumed = make_classifier_trainer("probe", folder="resumed", **options)
    for (
        parameter
    ) in resumed.model.vit.parameters():  # as if made from another seed, or another folder
        nn.init.normal_(parameter)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert same(state(resumed.model), state(whole.model))


# arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mixup": -1}, "mixup is -1; it must be at least 0"),
        ({"random_erasing": 1.5}, "random_erasing is 1.5; it must be in"),
        ({"label_smoothing_factor": -0.1}, "label_smoothing_factor is -0.1; it must be in"),
        ({"layer_decay": 0}, "layer_decay is 0; it must be in"),
        (
            {"per_device_train_batch_size": 3},
            "per_device_train_batch_size is 3; mixup and cutmix mix pairs",
        ),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        FineTuningArguments(output_dir=str(tmp_path), use_cpu=True, **arguments)
    if "per_device_train_batch_size" in arguments:
        FineTuningArguments(output_dir=str(tmp_path), use_cpu=True, mixup=0, cutmix=0, **arguments)


def test_paper_defaults(tmp_path):
    args = FineTuningArguments(
        output_dir=str(tmp_path), use_cpu=True, gradient_accumulation_steps=16
    )
    assert args.learning_rate == pytest.approx(2e-3)
    assert (args.num_train_epochs, args.warmup_in(100), args.min_learning_rate) == (100, 5, 1e-6)
    assert (args.layer_decay, args.weight_decay, args.adam_beta2) == (0.65, 0.05, 0.999)
    assert (args.mixup, args.cutmix, args.label_smoothing_factor, args.random_erasing) == (
        0.8,
        1.0,
        0.1,
        0.25,
    )
    assert args.auto_augment == "rand-m9-mstd0.5-inc1"
    assert TINY["image_size"] == 32


# the learning rate of a cached probe -------------------------------------------------------------


def test_a_cached_probe_chooses_its_rate(make_classifier_trainer, labelled_digits, capfd):
    """What does best, and the same again; a rate that is given is taken."""
    options = {"max_steps": 60, "cache_features": True, "per_device_train_batch_size": 100}
    options["learning_rate"] = None
    trainer = make_classifier_trainer("probe", **options)
    assert trainer.args.chooses_rate
    head = state(trainer.model)
    trainer.cache_features()
    trainer.choose_rate()
    assert same(state(trainer.model), head)
    said = capfd.readouterr().out
    reached = {}
    for rate, value in re.findall(r"([\d.]+): ([\d.]+)", said):
        reached[float(rate)] = float(value)
    assert len(reached) == 8
    assert reached[trainer._chosen_rate] == max(reached.values()) > reached[0.01] + 0.05
    assert trainer.peak_rate == pytest.approx(trainer._chosen_rate * 100 / 256)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert max(rates) == pytest.approx(trainer.peak_rate, rel=0.05)
    again = make_classifier_trainer("probe", folder="again", **options)
    again.train()
    assert logged_losses(again) == logged_losses(trainer)
    for given in ({"learning_rate": 8.0}, {"base_learning_rate": 0.1}):
        trainer = make_classifier_trainer("probe", folder="given", **{**options, **given})
        assert not trainer.args.chooses_rate
        assert trainer.peak_rate == (8.0 if "learning_rate" in given else pytest.approx(10 / 256))
