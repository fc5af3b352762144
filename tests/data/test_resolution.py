"""Progressive resolution: which epoch has which size, exactly so after a resume and in streams;
positions, operations."""

import pytest
import torch
from helpers import TINY, TINY_FLAGS, logged_losses, run_script, script_error, trace

from hf_mae import MAEConfig, MAEForPreTraining
from hf_mae.data.resolution import ResolutionSchedule, schedule_resolutions
from hf_mae.data.transforms import PretrainingTransform
from hf_mae.models.costs import training_flops
from hf_mae.models.functional import resize_position_table, sincos_position_table
from hf_mae.training.arguments import MAETrainingArguments


SCHEDULE = {
    "resolution_schedule": "0:16,0.5:24,0.75:32",
    "num_train_epochs": 4,
    "max_steps": -1,
}  # 25 updates an epoch


@pytest.fixture
def sizes_seen(make_trainer):
    """A trainer with a schedule, and the list that the sizes of its batches go to."""

    def make(**arguments):
        trainer = make_trainer(**{**SCHEDULE, **arguments})
        forward, seen = trainer.model.forward, []

        def remember(pixel_values, noise=None, *args, **kwargs):
            if noise is not None:  # the panel's mask is given as such
                assert noise.shape == (len(pixel_values), (pixel_values.shape[-1] // 8) ** 2)
            if trainer.model.training:
                seen.append(pixel_values.shape[-1])
            return forward(pixel_values, noise, *args, **kwargs)

        trainer.model.forward = remember
        return trainer, seen

    return make


@pytest.mark.parametrize("workers", [0, 2])
def test_sizes_follow_the_epochs(sizes_seen, workers):
    trainer, seen = sizes_seen(dataloader_num_workers=workers, folder=f"workers{workers}")
    trainer.train()
    assert seen == [16] * 50 + [24] * 25 + [32] * 25
    assert logged_losses(trainer)[-1] < logged_losses(trainer)[0]
    assert trainer.evaluate()["eval_loss"] < 1.05 * logged_losses(trainer)[-1]  # at full resolution


def test_it_resumes_exactly(sizes_seen, tmp_path):
    whole, _ = sizes_seen(folder="whole")
    whole.train()
    part, _ = sizes_seen(folder="part", save_strategy="steps", save_steps=60)
    part.train()
    again, seen = sizes_seen(folder="again")
    again.train(resume_from_checkpoint=str(tmp_path / "part" / "checkpoint-60"))
    assert seen == [24] * 15 + [32] * 25
    assert logged_losses(again)[-40:] == logged_losses(whole)[-40:]
    assert again.state.total_flos == whole.state.total_flos


def test_operations_are_logged(sizes_seen):
    trainer, _ = sizes_seen()
    trainer.train()
    config = trainer.model.config
    each = {
        size: training_flops(MAEForPreTraining, config.changed(image_size=size))
        for size in (16, 24, 32)
    }
    assert each[16] < each[24] < each[32]
    logged = [
        entry["training_flops"] for entry in trainer.state.log_history if "training_flops" in entry
    ]
    assert logged[49] == 50 * 64 * each[16]
    assert (
        logged[-1]
        == 64 * (50 * each[16] + 25 * each[24] + 25 * each[32])
        == trainer.state.total_flos
    )


def test_positions_are_those_of_the_grid():
    """What is in the middle of a small grid is told the position of the middle, up to the
    interpolation."""
    table = sincos_position_table((14, 14), 64)
    small = resize_position_table(table, (14, 14), (8, 8))
    steps = (
        torch.arange(8) + 0.5
    ) * 14 / 8 - 0.5  # the centers of 8 patches, in patches of the large grid
    angles = steps[:, None] * 10000.0 ** -(torch.arange(16) / 16)
    across = torch.cat([angles.sin(), angles.cos()], dim=1)  # (8, 32)
    found = small[0, 1:].reshape(8, 8, 64)
    inner = slice(1, 7)  # at the edge the interpolation has nothing beyond to go by
    assert (found[3, inner, :32] - across[inner]).abs().max() < 0.05
    assert (found[inner, 3, 32:] - across[inner]).abs().max() < 0.05


def test_schedule_of_transforms():
    schedule = ResolutionSchedule({2.4: "middle", 0: "small", 5.0: "large"})
    assert [schedule.transform_at(epoch) for epoch in range(7)] == ["small"] * 3 + [
        "middle"
    ] * 2 + ["large"] * 2


@pytest.mark.parametrize(
    "schedule",
    [
        "128",
        "0.1:128",
        "0:128,0.5:160,0.5:224",
        "0:128,1:224",
        "0:128;0.5:224",
        "0:128,0.5.1:224",
        "0:a,0.5:224",
        "0:128,",
        ".:128",
        " ",
    ],
)
def test_wrong_schedules(schedule, tmp_path):
    with pytest.raises(ValueError, match="resolution_schedule is .* must be shares of the run"):
        MAETrainingArguments(output_dir=str(tmp_path), use_cpu=True, resolution_schedule=schedule)


@pytest.mark.parametrize("epochs", [1, 2, 3.5])
def test_runs_that_are_too_short(make_trainer, epochs):
    with pytest.raises(
        ValueError, match="some are never trained at; train longer or take fewer sizes"
    ):
        make_trainer(
            **{**SCHEDULE, "resolution_schedule": "0:16,0.5:24,0.9:32", "num_train_epochs": epochs}
        )


def test_starts_are_not_rounded_up(make_trainer):
    trainer = make_trainer(
        **{**SCHEDULE, "resolution_schedule": "0:16,0.55:32", "num_train_epochs": 100}
    )
    assert list(trainer.train_dataset.schedule.starts) == [0, 55]


class Squares(PretrainingTransform):
    """The caller's own transform, which says so in its samples."""

    def __call__(self, image, rng):
        return {**super().__call__(image, rng), "drop_path_noise": torch.zeros(3, 2)}


def test_the_transform_stays_the_callers(make_trainer):
    trainer = make_trainer(max_steps=6)
    samples, config = trainer.train_dataset, trainer.model.config
    samples.transform = given = Squares(config)
    given.crop.scale = (0.5, 0.6)
    samples.schedule = schedule_resolutions(given, {0.0: 16, 0.5: 32}, config, epochs=4)
    assert samples.transform is given
    for epoch, size in ((0, 16), (1, 16), (2, 32)):
        sample = samples[epoch * len(samples) + 7]
        assert sample["images"].shape == (3, size, size)
        assert sample["noise"].shape == ((size // 8) ** 2,)
        assert "drop_path_noise" in sample
        assert samples.schedule.transform_at(epoch).crop.scale == (0.5, 0.6)
    assert given.crop.image_hw == (32, 32)


def test_sizes_that_the_model_cannot_have(make_trainer):
    with pytest.raises(ValueError, match="ends with 24 pixels and the model's image_size is 32"):
        make_trainer(resolution_schedule="0:16,0.5:24")
    with pytest.raises(ValueError, match="30; it must be a multiple of patch_size, 8"):
        make_trainer(resolution_schedule="0:30,0.5:32")
    with pytest.raises(ValueError, match="they must be the same, a square"):
        make_trainer(
            resolution_schedule="0:16,0.5:32", config=MAEConfig(**{**TINY, "image_size": (32, 64)})
        )
    assert "resolution_schedule is" in script_error(
        "run_mae.py", "--dataset_name=digits", "--resolution_schedule=128"
    )


def test_streams_have_it_too(tmp_path, photo_folder):
    from datasets import Dataset

    files = sorted(photo_folder.rglob("*.jpg"))
    rows = Dataset.from_dict(
        {"image": [{"bytes": path.read_bytes(), "path": None} for path in files]}
    )
    (tmp_path / "shards").mkdir()
    for i in range(2):
        rows.shard(2, i).to_parquet(tmp_path / "shards" / f"{i}.parquet")
    flags = [
        f"--dataset_name={tmp_path / 'shards'}",
        "--streaming",
        "--epoch_samples=56",
        "--num_train_epochs=4",
    ]
    flags += [
        "--warmup_epochs=0",
        "--per_device_train_batch_size=14",
        "--dataloader_num_workers=2",
        "--logging_steps=1",
    ]
    flags += [
        "--use_cpu",
        "--resolution_schedule=0:16,0.5:32",
        "--crops_per_image=2",
        f"--output_dir={tmp_path / 'run'}",
    ]
    output = run_script("run_mae.py", *TINY_FLAGS, *flags)
    assert "pixels by share of the run 0:16,0.5:32" in output
    flops = [value for _, value in trace(tmp_path / "run", "training_flops")]
    steps = [after - before for before, after in zip([0, *flops], flops)]
    assert len(steps) == 16
    assert len(set(steps[:8])) == len(set(steps[8:])) == 1
    assert steps[0] < steps[-1]
