"""A run goes on with what it was made of; what differs is refused, or let by name and then true."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest
import torch
from datasets import load_dataset
from filelock import SoftFileLease
from helpers import TINY, logged_losses
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_mae import MAEConfig
from hf_mae.checkpoints import begin_checkpoint, finish_checkpoint, read_facts
from hf_mae.data.digests import images_digest, shards_digest
from hf_mae.data.sources import load_image_dataset
from hf_mae.data.streaming import load_image_stream
from hf_mae.errors import Stopped
from hf_mae.training import resume_point, resuming


SAVING = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 9}


@pytest.fixture
def checkpoint(make_trainer, tmp_path):
    make_trainer(max_steps=4, **SAVING).train()
    return str(tmp_path / "run" / "checkpoint-2")


CHANGES = [
    ({"learning_rate": 0.5}, "learning_rate is 0.5, and was 0.0005"),
    ({"weight_decay": 0.3}, "weight_decay is 0.3, and was 0.05"),
    ({"adam_beta2": 0.5}, "adam_beta2 is 0.5, and was 0.95"),
    ({"max_steps": 9}, "max_steps is 9, and was 4"),
    ({"warmup_epochs": 0.01}, "warmup_epochs is 0.01, and was 0"),
    ({"seed": 7}, "seed is 7, and was 42"),
    ({"bf16": True}, "bf16 is True, and was False"),
    ({"crops_per_image": 2}, "crops_per_image is 2, and was 1"),
    ({"max_grad_norm": 1.0}, "max_grad_norm is 1.0, and was 0.0"),
    ({"config": MAEConfig(**TINY, mask_ratio=0.5)}, "mask_ratio is 0.5, and was 0.75"),
    ({"config": MAEConfig(**TINY, norm_pix_loss=True)}, "norm_pix_loss is True, and was False"),
    ({"config": MAEConfig(**TINY, hidden_act="relu")}, "hidden_act is relu, and was gelu"),
]
FIXED = [
    ({"per_device_train_batch_size": 32}, "total_batch_size is 32, and was 64"),
    ({"optim": "adamw_torch"}, "optim is adamw_torch, and was"),
    ({"config": MAEConfig(**{**TINY, "patch_size": 16})}, "patch_size is 16, and was 8"),
]


def test_what_differs_is_refused(make_trainer, checkpoint):
    for number, (change, message) in enumerate(CHANGES):
        trainer = make_trainer(folder=f"other{number}", **{"max_steps": 4, **change})
        with pytest.raises(ValueError, match=message) as caught:
            trainer.check_resume(checkpoint)
        assert f"--allow_changed {message.split()[0]}" in str(caught.value)


def test_what_cannot_change_is_refused_even_so(make_trainer, checkpoint):
    for number, (change, message) in enumerate(FIXED):
        names = [message.split()[0], "learning_rate"]
        options = {"max_steps": 4, "allow_changed": names, **change}
        trainer = make_trainer(folder=f"other{number}", **options)
        with pytest.raises(ValueError, match=f"{message}.*by --model_name_or_path"):
            trainer.check_resume(checkpoint)


def test_a_size_is_the_same_in_one_number_and_in_two(make_trainer, checkpoint):
    config = MAEConfig(**{**TINY, "image_size": [32, 32], "patch_size": (8, 8)})
    make_trainer(folder="other", config=config, max_steps=4).check_resume(checkpoint)


def test_a_changed_run_leaves_no_newer_checkpoint_of_the_other(make_trainer, checkpoint):
    options = {"max_steps": 4, "learning_rate": 0.1, "allow_changed": ["learning_rate"]}
    with pytest.raises(ValueError, match="checkpoint-4 is of the run before it is changed"):
        make_trainer(**options).check_resume(checkpoint)
    make_trainer(folder="other", **options).check_resume(checkpoint)


def test_the_best_model_must_be_whole_and_may_lie_elsewhere(make_trainer, tmp_path):
    options = {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 2, **SAVING}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "loss"}
    options |= {"greater_is_better": True}  # so that the first is the best
    make_trainer(**options).train()
    moved = tmp_path / "moved"
    (tmp_path / "run").rename(moved)
    finished = make_trainer(folder="moved", **options)
    last = str(moved / "checkpoint-6")
    finished.check_resume(last)
    finished.train(resume_from_checkpoint=last)
    best = load_file(moved / "checkpoint-2" / "model.safetensors")
    for name, tensor in finished.model.state_dict().items():
        assert torch.equal(tensor, best[name]), name
    weights = moved / "checkpoint-2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match="checkpoint-2 has the best model so far.*other content"):
        make_trainer(folder="moved", **options).check_resume(last)


def test_data_that_differs_is_refused(make_trainer, digits, checkpoint):
    train, validation = digits["train"], digits["validation"]
    others = [
        {"train": train.select(range(1616))},
        {"train": train.select([1, 0, *range(2, 1617)])},
        {"validation": validation.select(range(100))},
    ]
    for number, other in enumerate(others):
        trainer = make_trainer(folder=f"other{number}", max_steps=4, **other)
        which = "data" if "train" in other else "held_out_data"
        with pytest.raises(ValueError, match=rf"^{which} is \d.* images of digest .*, and was"):
            trainer.check_resume(checkpoint)


def test_versions_that_differ_are_refused(make_trainer, tmp_path):
    make_trainer(max_steps=2, **SAVING).train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    finish_checkpoint(checkpoint, {**read_facts(checkpoint), "torch": "1.0"})
    with pytest.raises(ValueError, match=f"torch is {torch.__version__.split('+')[0]}.*was 1.0"):
        make_trainer(max_steps=2).check_resume(str(checkpoint))
    allowing = make_trainer(max_steps=2, allow_changed=["torch"])
    allowing.check_resume(str(checkpoint))
    assert allowing.changed[0].endswith("and was 1.0")


def test_what_a_checkpoint_is_too_old_to_know(make_trainer, tmp_path):
    """It was written as if fields that came later had their defaults."""
    make_trainer(max_steps=2, **SAVING).train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    facts = read_facts(checkpoint)
    for name in ("mask_strategy", "mask_block_size", "crops_per_image", "decode_device"):
        del facts[name]
    finish_checkpoint(checkpoint, facts)
    make_trainer(max_steps=2).check_resume(str(checkpoint))
    of_blocks = make_trainer(max_steps=2, config=MAEConfig(**TINY, mask_strategy="block"))
    with pytest.raises(ValueError, match="mask_strategy is block, and was random"):
        of_blocks.check_resume(str(checkpoint))
    of_two_crops = make_trainer(max_steps=2, crops_per_image=2)
    with pytest.raises(ValueError, match="crops_per_image is 2, and was 1"):
        of_two_crops.check_resume(str(checkpoint))


def test_what_may_change_freely(make_trainer, checkpoint):
    trainer = make_trainer(
        folder="other",
        max_steps=4,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=4,
        dataloader_num_workers=1,
        per_device_eval_batch_size=8,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
        logging_steps=2,
        eval_strategy="steps",
        eval_steps=4,
        nonfinite="skip",
        disable_tqdm=True,
    )
    trainer.check_resume(checkpoint)
    assert trainer.changed == ()
    trainer.train(resume_from_checkpoint=checkpoint)
    # and these take effect, though the checkpoint has its own
    assert [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry] == [4]
    assert (trainer.output_dir / "checkpoint-4").is_dir()
    assert trainer.state.save_steps == 1


def test_what_is_allowed_takes_effect(make_trainer, checkpoint):
    options = {"learning_rate": 0.1, "weight_decay": 0.5, "adam_beta2": 0.9, "max_steps": 4}
    trainer = make_trainer(folder="other", allow_changed=["learning_rate"], **options)
    with pytest.raises(ValueError, match="^weight_decay is 0.5, and was 0.05; adam_beta2 is 0.9"):
        trainer.check_resume(checkpoint)
    names = ["learning_rate", "weight_decay", "adam_beta2"]
    trainer = make_trainer(folder="other", allow_changed=names, **options)
    trainer.check_resume(checkpoint)
    assert len(trainer.changed) == 3
    trainer.train(resume_from_checkpoint=checkpoint)
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert rates[2] == pytest.approx(0.05)  # half of the cosine
    groups = trainer.optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.5, 0.0}
    assert {group["betas"] for group in groups} == {(0.9, 0.9)}
    with pytest.raises(ValueError, match="allow_changed names 'learnin_rate', which is none of"):
        make_trainer(max_steps=4, allow_changed=["learnin_rate"]).check_resume(checkpoint)


# which images ------------------------------------------------------------------------------------


def test_files_are_known_by_their_names_and_sizes(photo_folder, tmp_path):
    def digest(folder):
        return images_digest(load_image_dataset(str(folder))["train"])

    copy = tmp_path / "copy"
    shutil.copytree(photo_folder, copy)
    whole = digest(photo_folder)
    assert digest(copy) == whole  # the same files elsewhere
    file = sorted(copy.rglob("*.jpg"))[3]
    content = file.read_bytes()
    file.write_bytes(content + b"\0")
    assert digest(copy) != whole
    file.write_bytes(content)
    assert digest(copy) == whole
    file.rename(file.with_name("renamed.jpg"))
    assert digest(copy) != whole
    file.with_name("renamed.jpg").unlink()
    assert digest(copy) != whole


def test_labels_count(photo_folder):
    labelled = load_image_dataset(str(photo_folder), labels=True)["train"]
    assert images_digest(labelled) != images_digest(labelled.select_columns(["image"]))


def test_shards_are_known_by_their_names_and_sizes(digits, tmp_path):
    def digest():
        return shards_digest(load_image_stream(str(tmp_path))[0])

    for number in range(3):
        digits["train"].shard(3, number).to_parquet(tmp_path / f"train-{number}.parquet")
    before = digest()
    assert digest() == before
    (tmp_path / "train-1.parquet").rename(tmp_path / "train-9.parquet")
    renamed = digest()
    assert renamed != before
    rows = load_dataset("parquet", data_files=str(tmp_path / "train-9.parquet"), split="train")
    rows.select(range(100)).to_parquet(tmp_path / "train-9.parquet")
    assert digest() != renamed


# one decision, one run ---------------------------------------------------------------------------


def test_checkpoints_of_which_none_is_whole(make_trainer, checkpoint, tmp_path, capfd):
    for path in (tmp_path / "run").glob("checkpoint-*"):
        (path / "optimizer.pt").unlink()
    last = make_trainer(resume_from_checkpoint="last").args
    with pytest.raises(ValueError, match="2 checkpoints of which none is whole .*optimizer.pt is"):
        resume_point(last)
    said = capfd.readouterr().err
    assert "checkpoint-4 is passed over" in said
    assert "checkpoint-2 is passed over" in said
    with pytest.raises(ValueError, match="already holds checkpoint-4"):  # they count nevertheless
        resume_point(make_trainer().args)


def test_one_without_a_manifest_is_named(make_trainer, checkpoint, tmp_path, capfd):
    for path in (tmp_path / "run").glob("checkpoint-*"):
        (path / "manifest.json").unlink()
    point = resume_point(make_trainer(resume_from_checkpoint="last").args)
    assert point.endswith("checkpoint-4")
    assert "checkpoint-4 has no manifest" in capfd.readouterr().err
    make_trainer(seed=3).check_resume(point)  # nothing to compare with


def test_a_run_killed_amid_its_first_save_starts_again(make_trainer, tmp_path, capfd):
    begin_checkpoint(tmp_path / "run" / "checkpoint-2")
    assert resume_point(make_trainer(resume_from_checkpoint="last").args) is None
    assert "checkpoint-2 is passed over: it was not written" in capfd.readouterr().err


def test_a_lock_of_another_host(make_trainer, tmp_path, monkeypatch, capfd):
    """Its holder is taken for gone when it shows no sign of life, and not while it does."""
    monkeypatch.setattr(resuming, "_SILENCE", 4)
    lock = tmp_path / "run" / "run.lock"
    resume_point(make_trainer().args)
    content = lock.read_text().replace(f"host={socket.gethostname()}", "host=far-away")
    content = re.sub("start=.*\n", "", content)
    other = tmp_path / "other" / "run.lock"
    other.parent.mkdir()
    other.write_text(content)
    start = time.monotonic()
    assert resume_point(make_trainer(folder="other").args) is None
    assert 2 < time.monotonic() - start < 30
    assert "on far-away); waiting 4 s" in capfd.readouterr().err
    alive = tmp_path / "alive" / "run.lock"
    alive.parent.mkdir()
    alive.write_text(content)

    def show_life():
        while not done.wait(0.5):
            os.utime(alive)

    done = threading.Event()
    heart = threading.Thread(target=show_life)
    heart.start()
    with pytest.raises(ValueError, match=r"on far-away\); wait for it"):
        resume_point(make_trainer(folder="alive").args)
    done.set()
    heart.join()


def test_an_empty_lock_of_long_ago(make_trainer, tmp_path):
    lock = tmp_path / "run" / "run.lock"
    lock.parent.mkdir()
    lock.touch()
    os.utime(lock, (0, 0))
    assert resume_point(make_trainer().args) is None
    assert lock.stat().st_size


HOLDER = """
import sys
from hf_mae import MAETrainingArguments
from hf_mae.errors import Stopped
from hf_mae.training import resume_point, resuming
resume_point(MAETrainingArguments(output_dir=sys.argv[1], use_cpu=True))
print("held", flush=True)
sys.stdin.read()
"""


def test_one_run_at_a_time(make_trainer, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"written by another run .*{holder.pid}"):
            resume_point(make_trainer().args)
        assert resume_point(make_trainer(folder="other").args) is None
        holder.kill()
    assert resume_point(make_trainer().args) is None  # taken over
    assert resume_point(make_trainer().args) is None  # the same process may go on


def test_a_lock_that_is_given_up_between_two_looks(tmp_path):
    file = tmp_path / "run.lock"
    lock = SoftFileLease(file)
    resuming._wait_for(lock, file)  # as after an attempt that found it held
    assert lock.is_lock_held_by_us
    lock.release()


def test_the_lock_of_a_zombie(make_trainer, tmp_path):
    """Nobody has asked yet how its holder ended, as of orphans in many a container."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as holder:
        assert holder.stdout.readline() == "held\n"
        os.kill(holder.pid, signal.SIGKILL)  # not by Popen, which would collect it
        while psutil.Process(holder.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.05)
        assert resume_point(make_trainer().args) is None


# asked to stop -----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [3, 4, 6])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(make_trainer, tmp_path, at):
    """With all evaluations, also the one that was due when it stopped."""
    options = {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 2}
    whole = make_trainer(folder="whole", **options)
    whole.train()

    class Ask(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == at - 1:
                signal.raise_signal(signal.SIGUSR1)

    stopped = make_trainer(folder="stopped", **options)
    stopped.add_callback(Ask())
    said = f"by SIGUSR1 after step {at} of 6; "
    with pytest.raises(Stopped, match=said) as caught, stopped.stop.listening():
        stopped.train()
    assert caught.value.number == 10
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    resumed = make_trainer(folder="stopped", **options, **SAVING)
    checkpoint = str(tmp_path / "stopped" / f"checkpoint-{at}")
    resumed.check_resume(checkpoint)
    resumed.train(resume_from_checkpoint=checkpoint)
    assert logged_losses(resumed) == logged_losses(whole)

    def evaluations(trainer):
        history = trainer.state.log_history
        return [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]

    assert evaluations(resumed) == evaluations(whole)
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
