import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import GOLDEN, ROOT, TINY, TINY_FLAGS, logged_losses
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hf_mae import MAEConfig, MAEForPreTraining
from hf_mae.checkpoints import find_checkpoint
from hf_mae.data.samples import EpochSampler, ImageSamples
from hf_mae.models.functional import baseline_losses, patchify, pixel_target
from hf_mae.models.image_processing_mae import normalize_images
from hf_mae.training import resume_point


# what is trained on ------------------------------------------------------------------------------


def test_losses_are_those_of_a_loop_written_out(make_trainer):
    """Order, crops, masks, normalisation, lr, AdamW and decay against a plain loop without Trainer
    and loader."""
    trainer = make_trainer(max_steps=60, warmup_epochs=1)
    trainer.train()
    torch.manual_seed(0)
    model, dataset = MAEForPreTraining(MAEConfig(**TINY)).train(), trainer.train_dataset
    matrices = [p for n, p in model.named_parameters() if p.ndim >= 2 and "token" not in n]
    vectors = [p for n, p in model.named_parameters() if p.ndim < 2 or "token" in n]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer, expected = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95)), []
    per_epoch, peak = 1617 // 64, 2e-3 * 64 / 256
    for step in range(60):
        epoch, position = divmod(step, per_epoch)
        order = np.random.default_rng([42, epoch]).permutation(1617)[
            position * 64 : position * 64 + 64
        ]
        samples = [dataset[epoch * 1617 + int(index)] for index in order]
        pixels = torch.stack([sample["images"] for sample in samples])
        pixels = (pixels / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
            [0.229, 0.224, 0.225]
        ).view(3, 1, 1)
        at, total = step / per_epoch, 60 / per_epoch
        lr = peak * at if at < 1 else peak * 0.5 * (1 + math.cos(math.pi * (at - 1) / (total - 1)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = model(pixels, noise=torch.stack([sample["noise"] for sample in samples])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert logged_losses(trainer) == pytest.approx(expected, rel=1e-4)
    assert expected[-1] < 0.95 * expected[0]


def test_any_number_of_workers_sees_the_same(make_trainer):
    traces = []
    for workers in (0, 1, 3):
        trainer = make_trainer(
            folder=f"workers{workers}", dataloader_num_workers=workers, max_steps=30
        )
        trainer.train()
        traces.append(logged_losses(trainer))
    assert len(traces[0]) == 30  # into the second epoch
    assert traces[0] == traces[1] == traces[2]


def test_accumulation_is_the_large_batch(make_trainer):
    whole = make_trainer(folder="whole", max_steps=30)
    parts = make_trainer(
        folder="parts", max_steps=30, per_device_train_batch_size=16, gradient_accumulation_steps=4
    )
    assert parts.args.learning_rate == whole.args.learning_rate == pytest.approx(2e-3 / 4)
    whole.train()
    parts.train()
    assert logged_losses(parts) == pytest.approx(logged_losses(whole), abs=1e-5)


def test_an_epoch_is_whole_batches_of_each_image_once(make_trainer):
    trainer = make_trainer(num_train_epochs=2, max_steps=-1)
    seen = []
    take_notes = trainer._take_notes
    trainer._take_notes = lambda inputs, split: seen.append(take_notes(inputs, split)) or seen[-1]
    trainer.train()
    assert trainer.state.global_step == 2 * (1617 // 64)
    numbers = torch.cat(seen).tolist()
    first, second = numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]
    assert len(set(first)) == len(first) == len(second) == len(set(second)) == 25 * 64
    assert first != second


class Backwards(ImageSamples):
    """A kind of data set that the trainer has never heard of: its own order, notes and state."""

    def __init__(self, samples):
        super().__init__(samples.dataset, samples.transform, samples.num_channels, samples.seed)
        self.recorded = []

    def updates_per_epoch(self, shape):
        return 3

    def sampler(self, shape):
        class Reversed(EpochSampler):
            def __iter__(self):
                return iter(range(self.num_samples + self.epoch - 1, self.epoch - 1, -1))

        return Reversed(len(self), shape.seed, 3 * shape.total_batch_size)

    def __getitems__(self, numbers):
        samples = super().__getitems__(numbers)
        return [{**sample, "note": number} for sample, number in zip(samples, numbers)]

    def record(self, batch):
        self.recorded += batch.pop("note")

    def save_state(self, folder, shape):
        folder.mkdir(parents=True)
        (folder / "backwards.txt").write_text(f"{len(self.recorded)} of {shape.batch_size}")

    def load_state(self, folder, shape):
        self.loaded = (folder / "backwards.txt").read_text()


def test_a_third_kind_of_data_set(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=6, save_strategy="steps", save_steps=4)
    trainer.train_dataset = Backwards(trainer.train_dataset)
    assert trainer.updates_per_epoch == 3
    trainer.train()
    assert trainer.train_dataset.recorded == [*range(191, -1, -1), *range(192, 0, -1)]
    trainer.check_resume(str(tmp_path / "run" / "checkpoint-4"))
    assert trainer.train_dataset.loaded == "256 of 64"


def test_too_few_images_for_a_batch(make_trainer, digits):
    trainer = make_trainer(train=digits["train"].select(range(20)))
    with pytest.raises(ValueError, match="20 training images and the total batch is 64"):
        trainer.train()


@pytest.mark.parametrize("name", ["pretrain_300e", "finetune_100e"])
def test_schedule_equals_the_authors(make_trainer, digits, name):
    golden = json.loads((GOLDEN / "facebook_lr_schedules.json").read_text())[name]
    trainer = make_trainer(
        train=digits["train"].select(range(10)),
        per_device_train_batch_size=1,
        base_learning_rate=golden["lr"] * 256,
        min_learning_rate=golden["min_lr"],
        num_train_epochs=golden["epochs"],
        warmup_epochs=golden["warmup_epochs"],
        max_steps=-1,
    )
    trainer.create_optimizer()
    scheduler = trainer.create_scheduler(len(golden["lr_at_step"]))
    assert trainer.updates_per_epoch == golden["steps_per_epoch"]
    rates = []
    for _ in golden["lr_at_step"]:
        rates.append(scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(golden["lr_at_step"], rel=1e-9, abs=1e-15)


def test_optimizer_is_the_papers(make_trainer):
    optimizer = make_trainer().create_optimizer()
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["betas"] for group in optimizer.param_groups] == [(0.9, 0.95)] * 2
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]


def test_bf16(make_trainer):
    exact, low = (
        make_trainer(folder="fp32", max_steps=20),
        make_trainer(folder="bf16", max_steps=20, bf16=True),
    )
    assert not exact.args.bf16  # by itself on GPUs only
    exact.train()
    low.train()
    assert low.model.dtype == torch.float32
    assert logged_losses(low) != logged_losses(exact)
    assert logged_losses(low) == pytest.approx(logged_losses(exact), rel=0.03)


# evaluation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_evaluation_against_a_loop(make_trainer, digits, norm_pix_loss):
    config = MAEConfig(**TINY, norm_pix_loss=norm_pix_loss)
    validation = digits["validation"].select(range(23))
    # batches of 5, the last one of 3: each image counts the same
    trainer = make_trainer(validation=validation, config=config, per_device_eval_batch_size=5)
    metrics = trainer.evaluate()
    expected = {"eval_loss": [], "eval_loss_visible_mean": [], "eval_loss_best_constant": []}
    for i in range(23):
        sample = trainer.eval_dataset[i]
        pixels = normalize_images(
            sample["images"][None], (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        )
        with torch.no_grad():
            outputs = trainer.model.eval()(pixels, noise=sample["noise"][None])
        target = pixel_target(patchify(pixels, (8, 8)), norm_pix_loss)
        baselines = [loss.item() for loss in baseline_losses(target, outputs.mask)]
        for values, value in zip(expected.values(), [outputs.loss.item(), *baselines]):
            values.append(value)
    for name, values in expected.items():
        assert metrics[name] == pytest.approx(np.mean(values), rel=1e-5), name
    assert trainer.evaluate()["eval_loss"] == metrics["eval_loss"]


def test_other_data_sets_can_be_evaluated(make_trainer, digits, tmp_path):
    """By a trainer that has none of its own; the panel then shows what was evaluated."""
    trainer = make_trainer(validation=digits["validation"].select(range(5)))
    others, trainer.eval_dataset = trainer.eval_dataset, None
    metrics = trainer.evaluate(others)
    assert (tmp_path / "run" / "reconstructions.png").is_file()
    prediction = trainer.predict(others)
    assert prediction.predictions.shape == (5, 3)
    assert prediction.label_ids.tolist() == list(range(5))
    assert prediction.metrics["test_loss"] == metrics["eval_loss"]


def test_training_mode_and_augmentation_stay_out_of_evaluation(make_trainer, digits):
    """Evaluation amid training equals evaluation of the same weights alone."""
    trainer = make_trainer(max_steps=4, eval_strategy="steps", eval_steps=2)
    trainer.train()
    during = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(during) == 2
    assert trainer.evaluate()["eval_loss"] == during[-1] != during[0]
    plain = make_trainer(folder="plain", max_steps=4)
    plain.train()
    assert logged_losses(plain) == logged_losses(
        trainer
    )  # and evaluation leaves no trace in training


def test_panel_and_logs(make_trainer, tmp_path):
    trainer = make_trainer(
        max_steps=4, eval_strategy="steps", eval_steps=4, report_to="tensorboard"
    )
    trainer.train()
    panel = np.asarray(Image.open(tmp_path / "run" / "reconstructions.png").convert("RGB"))
    assert panel.shape[0] > 2 * panel.shape[1]  # eight rows of three
    assert panel.std() > 40
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert entry["images_per_second"] > 1
    assert 0.1 < entry["peak_memory_gib"] < 24
    (folder,) = (tmp_path / "run" / "runs").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert events.Tags()["images"] == ["reconstructions"]
    assert {"train/loss", "train/images_per_second", "train/peak_memory_gib", "eval/loss"} <= set(
        events.Tags()["scalars"]
    )


def test_panel_in_weights_and_biases(make_trainer, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    trainer = make_trainer(max_steps=4, eval_strategy="steps", eval_steps=4, report_to="wandb")
    trainer.train()
    wandb.finish()
    (logged,) = tmp_path.glob("wandb/offline-run-*/files/media/images/reconstructions_*.png")
    assert logged.read_bytes() == (tmp_path / "run" / "reconstructions.png").read_bytes()


def test_panel_in_trackio(make_trainer, tmp_path):
    """In a process of its own, for it reads where to write when it is imported."""
    pytest.importorskip("trackio")
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}
    flags = ["--dataset_name=digits", "--max_steps=2", "--use_cpu", "--report_to=trackio"]
    flags += [*TINY_FLAGS, "--num_channels=1", "--eval_strategy=steps", "--eval_steps=2"]
    flags += [f"--output_dir={tmp_path / 'run'}", "--dataloader_num_workers=0"]
    script = ROOT / "scripts" / "run_mae.py"
    subprocess.run([sys.executable, str(script), *flags], env=environment, check=True)
    (logged,) = (tmp_path / "trackio").rglob("*.png")
    assert Image.open(logged).size == Image.open(tmp_path / "run" / "reconstructions.png").size


# checkpoints -------------------------------------------------------------------------------------


@pytest.fixture
def checkpoints(make_trainer, tmp_path):
    make_trainer(max_steps=6, save_strategy="steps", save_steps=2, save_total_limit=3).train()
    return tmp_path / "run"


def test_half_written_checkpoints_are_passed_over(checkpoints):
    assert find_checkpoint(checkpoints).name == "checkpoint-6"
    files = sorted(path.name for path in (checkpoints / "checkpoint-6").iterdir())
    assert {
        "model.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "trainer_state.json",
        "rng_state.pth",
    } <= set(files)
    # trainer_state.json is the last to be written: a run killed before or amid it leaves none, or
    # half of it
    state = checkpoints / "checkpoint-6" / "trainer_state.json"
    state.write_text(state.read_text()[:100])
    assert find_checkpoint(checkpoints).name == "checkpoint-4"
    state.unlink()
    assert find_checkpoint(checkpoints).name == "checkpoint-4"
    optimizer = checkpoints / "checkpoint-4" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:1000])
    assert find_checkpoint(checkpoints).name == "checkpoint-2"
    (checkpoints / "checkpoint-99").mkdir()
    assert find_checkpoint(checkpoints).name == "checkpoint-2"


def test_resume_point(checkpoints, make_trainer, tmp_path):
    def point(resume, folder="run"):
        return resume_point(make_trainer(folder=folder, resume_from_checkpoint=resume).args)

    with pytest.raises(
        ValueError, match="already holds checkpoint-6; go on by --resume_from_checkpoint last"
    ):
        point(None)
    assert point("last") == str(checkpoints / "checkpoint-6")
    assert point(str(checkpoints / "checkpoint-2")) == str(checkpoints / "checkpoint-2")
    assert point("last", folder="fresh") is None
    assert point(None, folder="fresh") is None
    with pytest.raises(ValueError, match="checkpoint-3 is not a whole checkpoint"):
        point(str(checkpoints / "checkpoint-3"))


def test_a_warm_up_longer_than_the_run(make_trainer):
    assert make_trainer(max_steps=25, warmup_epochs=0.9).planned_updates == 25
    assert make_trainer(max_steps=-1, num_train_epochs=1.5, warmup_epochs=1.4).planned_updates == 38
    with pytest.raises(
        ValueError, match=r"warmup_epochs is 1, which is 25 updates, and the whole run has 25"
    ):
        make_trainer(max_steps=25, warmup_epochs=1).train()


def test_nothing_to_mask(make_trainer):
    with pytest.raises(ValueError, match=r"mask_ratio is 0.0: no patch is masked"):
        make_trainer(config=MAEConfig(**TINY, mask_ratio=0.0))


def test_a_finished_run_stays_as_it_is(make_trainer, checkpoints):
    resumed = make_trainer(max_steps=6)
    resumed.train(resume_from_checkpoint=str(checkpoints / "checkpoint-6"))
    assert resumed.state.global_step == 6
    assert len(logged_losses(resumed)) == 6
    saved = load_file(checkpoints / "checkpoint-6" / "model.safetensors")
    assert all(
        torch.equal(tensor, saved[name]) for name, tensor in resumed.model.state_dict().items()
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_is_exact(make_trainer, tmp_path, workers):
    """From every checkpoint: in an epoch, between two, with accumulation, and with dropout where
    there are workers."""
    rates = {"hidden_dropout_prob": 0.1, "drop_path_rate": 0.2} if workers else {}
    options = {
        "config": MAEConfig(**TINY, **rates),
        "per_device_train_batch_size": 64,
        "gradient_accumulation_steps": 4,
        "dataloader_num_workers": workers,
        "max_steps": 15,
        "logging_steps": 2,  # doesn't divide the saves: no mean may reach back across one
        "save_strategy": "steps",
        "save_steps": 3,
        "save_total_limit": None,
    }
    whole = make_trainer(folder="whole", **options)
    assert whole.updates_per_epoch == 6
    whole.train()
    final = {name: tensor.clone() for name, tensor in whole.model.state_dict().items()}
    for step in (3, 6, 9) if workers == 0 else (3, 6):
        resumed = make_trainer(folder=f"resumed{step}", **options)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert logged_losses(resumed) == logged_losses(whole)
        assert resumed.state.log_history[-1]["resumed_from_step"] == step
        assert "resumed_from_step" not in whole.state.log_history[-1]
        assert all(
            torch.equal(tensor, final[name]) for name, tensor in resumed.model.state_dict().items()
        )
