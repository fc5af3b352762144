"""Classes of unequal size: weights, sampling, what is said; and how far to trust accuracies."""

import math

import numpy as np
import pytest
import torch
from helpers import logged_losses
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from hf_mae.data.augmentation import PairMixing
from hf_mae.models.problem_types import MULTI_LABEL, SINGLE_LABEL, classification_loss
from hf_mae.training.arguments import FineTuningArguments, LinearProbeArguments
from hf_mae.training.balance import balanced_weights, describe_labels, weights_of
from hf_mae.training.metrics import accuracy_interval, describe_doubts, measure


# weights -----------------------------------------------------------------------------------------


def test_weights_are_scikit_learns():
    labels = torch.tensor([0] * 50 + [1] * 7 + [3] * 3)  # no image of class 2
    weights = balanced_weights(labels, 4)
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels.numpy())
    assert weights[[0, 1, 3]].tolist() == pytest.approx(expected.tolist())
    assert weights[2] == 1
    assert weights_of(labels, weights).mean() == pytest.approx(1)


def test_several_labels_are_balanced_each_by_itself():
    labels = torch.zeros(20, 3, dtype=torch.bool)
    labels[:2, 0] = labels[:15, 1] = True  # and nothing has the third
    weights = balanced_weights(labels, 3)
    for label in (0, 1):
        expected = compute_class_weight(
            "balanced", classes=np.array([False, True]), y=labels[:, label].numpy()
        )
        assert weights[label].tolist() == pytest.approx(expected.tolist())
    assert weights[2].tolist() == [1, 1]
    ratio = weights[0, 1] / weights[0, 0]
    assert ratio == pytest.approx(18 / 2)  # what is called pos_weight
    assert weights_of(labels.float(), weights).mean(dim=0).tolist() == pytest.approx([1, 1, 1])


def own_loss(logits, label, weights, smoothing):
    """Of one image by one of its labels, by the definitions."""
    if isinstance(label, int):
        target = torch.full_like(logits, smoothing / len(logits))
        target[label] += 1 - smoothing
        return weights[label] * -(target * logits.log_softmax(dim=0)).sum()
    target = label * (1 - smoothing) + smoothing / 2
    both = target * F.logsigmoid(logits) + (1 - target) * F.logsigmoid(-logits)
    chosen = torch.stack([weights[i, int(has)] for i, has in enumerate(label)])
    return -(chosen * both).mean()


@pytest.mark.parametrize("mixup", [0.8, 0.0])
@pytest.mark.parametrize("problem_type", [SINGLE_LABEL, MULTI_LABEL])
def test_each_label_of_a_mixed_image_has_its_own_weight(problem_type, mixup):
    """Smoothing is weighted by the image's class, not by those that it is spread over."""
    torch.manual_seed(0)
    seeds, images, logits = [3, 0, 8, 0], torch.rand(4, 1, 8, 8), torch.randn(4, 3)
    is_multi_label = problem_type == MULTI_LABEL
    labels, weights = torch.tensor([0, 2, 1, 1]), torch.tensor([0.2, 3.0, 40.0])
    if is_multi_label:
        labels = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
        weights = torch.tensor([[0.5, 40.0], [3.0, 0.7], [1.0, 1.2]])
    mixing = PairMixing(3, mixup, 0.0, 0.1, is_multi_label)
    mixed, targets, of_labels = mixing.weighted(images, labels, weights_of(labels, weights), seeds)
    plain, plain_targets = mixing(images, labels, seeds)
    assert torch.equal(mixed, plain)
    found = classification_loss(logits, targets, problem_type, of_labels)

    # the shares show in two classes without smoothing
    shares = PairMixing(4, mixup, 0.0, 0.0)(images, torch.arange(4), seeds)[1]
    assert (shares.max() < 1) == (mixup > 0)
    expected = 0.0
    for image in range(4):
        for other in range(4):
            label = labels[other] if is_multi_label else int(labels[other])
            part = own_loss(logits[image], label, weights, 0.1)
            expected += shares[image, other] * part / 4
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)

    alike = weights_of(labels, torch.ones_like(weights))
    _, same, ones = mixing.weighted(images, labels, alike, seeds)
    assert torch.allclose(same, plain_targets)
    assert torch.allclose(ones, torch.ones_like(ones))


@pytest.mark.parametrize("kind", ["finetune", "probe"])
def test_the_trainers_loss_is_weighted(make_classifier_trainer, labelled_digits, kind):
    rare = unbalanced(labelled_digits["train"])
    trainer = make_classifier_trainer(kind, train=rare, class_weights="balanced", max_steps=1)
    counts = np.bincount(rare["label"][:], minlength=10)
    assert trainer.class_weights.tolist() == pytest.approx((len(rare) / 10 / counts).tolist())
    torch.manual_seed(0)
    batch = {
        "pixel_values": torch.randn(4, 1, 32, 32),
        "labels": torch.tensor([0, 1, 1, 9]),
        "mix_seed": [1, 2, 3, 4],
    }
    if kind == "probe":
        del batch["mix_seed"]
    trainer.args.mixup = trainer.args.cutmix = trainer.args.label_smoothing_factor = 0
    trainer.model.eval()
    loss, outputs = trainer.compute_loss(trainer.model, {**batch}, return_outputs=True)
    losses = F.cross_entropy(outputs.logits, batch["labels"], reduction="none")
    weights = trainer.class_weights[batch["labels"]]
    assert loss.item() == pytest.approx((losses * weights).mean().item(), rel=1e-5)
    assert loss.item() != pytest.approx(losses.mean().item(), rel=1e-2)


def unbalanced(digits):
    """All zeros, and a few of each other digit."""
    left, kept = [1000] + [4] * 9, []
    for image, label in enumerate(digits["label"][:]):
        left[label] -= 1
        if left[label] >= 0:
            kept.append(image)
    return digits.select(kept)


BALANCES = [{"class_weights": "balanced"}, {"class_sampling": "balanced"}]


@pytest.mark.parametrize("balance", BALANCES)
def test_resumed_amid_an_epoch(make_classifier_trainer, labelled_digits, balance):
    """Bit for bit, with mixing; and not with another way to balance."""
    train = unbalanced(labelled_digits["train"])  # about 200
    options = {"per_device_train_batch_size": 32, "max_steps": 9, "save_strategy": "steps"}
    options |= {"save_steps": 4, "save_total_limit": 9, "logging_steps": 1, "train": train}
    whole = make_classifier_trainer(folder="whole", **balance, **options)
    whole.train()
    resumed = make_classifier_trainer(
        folder="resumed", **balance, dataloader_num_workers=1, **options
    )
    checkpoint = str(whole.output_dir / "checkpoint-4")
    resumed.check_resume(checkpoint)
    resumed.train(resume_from_checkpoint=checkpoint)
    assert logged_losses(resumed) == logged_losses(whole)
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())

    (name,) = balance
    plain = make_classifier_trainer(folder="plain", **options)
    with pytest.raises(ValueError, match=f"{name} is none, and was balanced"):
        plain.check_resume(checkpoint)
    (other,) = {"class_weights", "class_sampling"} - {name}
    changed = make_classifier_trainer(folder="changed", **{other: "balanced"}, **options)
    with pytest.raises(ValueError, match="is balanced, and was none[.;] "):
        changed.check_resume(checkpoint)


def test_a_plain_run_is_not_resumed_with_weights(make_classifier_trainer):
    plain = make_classifier_trainer(max_steps=1, save_strategy="steps", save_steps=1)
    plain.train()
    weighted = make_classifier_trainer(folder="other", class_weights="balanced")
    with pytest.raises(ValueError, match="class_weights is balanced, and was none"):
        weighted.check_resume(str(plain.output_dir / "checkpoint-1"))


@pytest.mark.parametrize("cached", [False, True])
def test_the_probe_samples_classes_equally(make_classifier_trainer, labelled_digits, cached):
    train = unbalanced(labelled_digits["train"])
    trainer = make_classifier_trainer(
        "probe",
        train=train,
        class_sampling="balanced",
        cache_features=cached,
        per_device_train_batch_size=10,
        max_steps=1,
    )
    if cached:
        trainer.cache_features()
    seen = torch.zeros(10)
    for batch in trainer.get_train_dataloader():
        seen += batch["labels"].cpu().bincount(minlength=10)
    assert seen.max() - seen.min() <= 1
    assert seen.sum() == len(train) // 10 * 10


@pytest.mark.parametrize("args_class", [FineTuningArguments, LinearProbeArguments])
def test_impossible_balances(args_class, tmp_path):
    options = {"output_dir": str(tmp_path), "use_cpu": True}
    with pytest.raises(ValueError, match="correct twice"):
        args_class(class_weights="balanced", class_sampling="balanced", **options)
    with pytest.raises(ValueError, match="class_weights is 'inverse'; it must be one of none, bal"):
        args_class(class_weights="inverse", **options)


@pytest.mark.parametrize("balance", BALANCES)
def test_a_regression_has_no_classes_to_balance(make_classifier_trainer, balance):
    fields = {"num_labels": 1, "problem_type": "regression"}
    unmixed = {"mixup": 0.0, "cutmix": 0.0, "label_smoothing_factor": 0.0}
    with pytest.raises(ValueError, match="a regression has none"):
        make_classifier_trainer(fields=fields, **unmixed, **balance)


def test_several_labels_are_not_sampled(make_classifier_trainer):
    fields = {"problem_type": "multi_label_classification"}
    with pytest.raises(ValueError, match="take --class_weights balanced"):
        make_classifier_trainer(fields=fields, class_sampling="balanced")


# in words ----------------------------------------------------------------------------------------


def test_labels_in_the_plan():
    labels = torch.tensor([0] * 3 + [1] * 1200 + [2] * 5)
    assert describe_labels(labels, ["a", "b", "c"]) == {"classes": "b 1,200, c 5, a 3"}
    many = torch.arange(12).repeat_interleave(torch.arange(12))  # k of class k
    assert describe_labels(many, [f"c{number}" for number in range(12)]) == {
        "classes": "12, most images: c11 11, c10 10, c9 9, c8 8, c7 7; "
        "fewest: c4 4, c3 3, c2 2, c1 1, c0 0"
    }
    lists = torch.tensor([[1, 0], [1, 1], [0, 0]], dtype=torch.bool)
    assert describe_labels(lists, ["a", "b"]) == {"labels": "a 2, b 1; 1 images have none"}
    values = torch.tensor([1.5, 3.0, 0.25])
    assert describe_labels(values, ["value"]) == {"values": "from 0.25 to 3, mean 1.583"}


def wilson(right, n):
    """The formula (Wilson, JASA 1927)."""
    z, p = 1.959964, right / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return middle - half, middle + half


def test_the_interval_is_wilsons():
    for right, n in ((0, 7), (7, 7), (3, 10), (812, 1000)):
        assert accuracy_interval(right / n, n) == pytest.approx(wilson(right, n), abs=1e-6)


def test_accuracies_that_say_little():
    even = torch.arange(1000) % 2
    assert describe_doubts({"top-1 accuracy": 0.9, "top-5 accuracy": 1.0}, even) == []
    (chance,) = describe_doubts({"top-1 accuracy": 0.52}, even)
    low, high = wilson(520, 1000)
    assert f"of 1,000 images: with 95 % confidence it is between {low:.1%} and {high:.1%}" in chance
    assert chance.endswith("always answering the commonest class gives 50.0%.")
    skewed = torch.tensor([0] * 900 + [1] * 100)
    (chance,) = describe_doubts({"k-NN accuracy": 0.9}, skewed)
    assert "The k-NN accuracy is of" in chance
    assert "gives 90.0%" in chance
    (few,) = describe_doubts({"top-1 accuracy": 1.0}, even[:49])
    assert "commonest" not in few
    (wide,) = describe_doubts({"top-1 accuracy": 0.7}, even[:60])
    assert "of 60 images" in wide
    assert describe_doubts({"mAP": 0.8}, torch.ones(60, 3)) == []
    (few,) = describe_doubts({"mean absolute error": 0.8}, torch.ones(20))
    assert "of 20 images alone" in few


def test_balanced_accuracy_is_scikit_learns():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.choice(4, 300, p=[0.8, 0.15, 0.05, 0.0]))
    logits = torch.from_numpy(rng.normal(size=(300, 4))) + 2 * F.one_hot(labels, 4)
    found = measure(SINGLE_LABEL, logits, labels, list("abcd"))
    answers = logits.argmax(dim=1).numpy()
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = balanced_accuracy_score(labels.numpy(), answers)
    assert found["balanced_accuracy"] == pytest.approx(expected)
    assert found["balanced_accuracy"] != pytest.approx(found["top1_accuracy"], abs=1e-3)
