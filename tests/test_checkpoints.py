"""Checkpoints are whole by their manifest, and what is written or deleted halfway is not used."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import save_file

from hf_mae.checkpoints import (
    MANIFEST_FILE,
    begin_checkpoint,
    content_digest,
    delete_checkpoint,
    find_checkpoint,
    find_flaw,
    finish_checkpoint,
    numbered_checkpoints,
    read_facts,
    rotate_checkpoints,
)


@pytest.fixture
def write(tmp_path):
    """Writes checkpoint-STEP with the files that the Trainer writes, small."""

    def write(step, manifest=True):
        folder = tmp_path / f"checkpoint-{step}"
        if manifest:
            begin_checkpoint(folder)
        folder.mkdir(exist_ok=True)
        save_file({"weight": torch.full((4,), float(step))}, folder / "model.safetensors")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({"step": step}, folder / name)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        if manifest:
            finish_checkpoint(folder, {"seed": 1})
        return folder

    return write


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"]
)
@pytest.mark.parametrize(
    ("damage", "flaw"),
    [
        (os.remove, "is missing"),
        (lambda path: os.truncate(path, 10), "has 10 bytes and should have"),
        (flip_a_bit, "other content than when it was written"),
    ],
)
def test_the_newest_whole_one_is_used_and_the_other_named(write, tmp_path, name, damage, flaw):
    older, newer = write(2), write(4)
    assert find_checkpoint(tmp_path) == newer
    damage(newer / name)
    said = []
    assert find_checkpoint(tmp_path, tell=said.append) == older
    assert len(said) == 1
    assert "checkpoint-4 is passed over" in said[0]
    assert name in said[0]
    assert flaw in said[0]


def test_one_that_is_not_finished_is_not_used(write, tmp_path):
    older, newer = write(2), write(4)
    begin_checkpoint(newer)  # all its files are there, as of a run killed before the manifest
    assert "was not written, or not deleted, to its end" in find_flaw(newer)
    assert find_checkpoint(tmp_path) == older
    (newer / MANIFEST_FILE).write_text("{}")
    assert find_flaw(newer) == "manifest.json is damaged"


def test_any_letter_of_a_manifest_may_be_another(write):
    """Also in what the run is made of, which isn't compared with files."""
    manifest = write(2) / MANIFEST_FILE
    whole = manifest.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 7
        manifest.write_bytes(changed)
        if changed.split() != whole.split():  # a blank may be another
            assert find_flaw(manifest.parent), changed
    content = json.loads(whole)
    del content["digest"]  # as those of earlier versions
    manifest.write_text(json.dumps(content))
    assert find_flaw(manifest.parent) is None
    assert read_facts(manifest.parent) == {"seed": 1}


def test_what_resumes_must_be_in_it(write):
    folder = write(2)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (folder / name).unlink()
    finish_checkpoint(folder, {})
    assert "--save_only_model" in find_flaw(folder)


@pytest.mark.parametrize(
    ("damage", "flaw"),
    [
        (lambda folder: (folder / "optimizer.pt").unlink(), "optimizer.pt"),
        (lambda folder: (folder / "scheduler.pt").unlink(), "scheduler.pt"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: os.truncate(folder / "model.safetensors", 90), "model.safetensors is dam"),
        (lambda folder: os.truncate(folder / "rng_state.pth", 90), "rng_state.pth is damaged"),
        (
            lambda folder: (folder / "trainer_state.json").write_text('{"global_step": 3}'),
            "trainer_state.json says step 3",
        ),
    ],
)
def test_one_of_before_there_were_manifests(write, damage, flaw):
    folder = write(2, manifest=False)
    assert find_flaw(folder) is None
    assert read_facts(folder) is None
    damage(folder)
    assert flaw in find_flaw(folder)


def test_names(write, tmp_path):
    newest = write(12)
    for name in ("checkpoint-13-backup", "checkpoint-²", "checkpoint-", "checkpoint-9"):
        shutil.copytree(newest, tmp_path / name)
    (tmp_path / "checkpoint-40").write_text("no folder")
    names = [path.name for path in numbered_checkpoints(tmp_path)]
    assert names == ["checkpoint-12", "checkpoint-9"]


def test_rotation_keeps_the_newest_and_the_best(write, tmp_path):
    def names():
        return [path.name for path in numbered_checkpoints(tmp_path)]

    for step in (2, 4, 6, 8, 10):
        newest = write(step)
    backup = shutil.copytree(tmp_path / "checkpoint-2", tmp_path / "checkpoint-2-backup")
    rotate_checkpoints(newest, None, None)
    assert len(names()) == 5
    rotate_checkpoints(newest, 3, "elsewhere/checkpoint-4")
    assert names() == ["checkpoint-10", "checkpoint-8", "checkpoint-4"]
    rotate_checkpoints(newest, 1, "elsewhere/checkpoint-4")
    assert names() == ["checkpoint-10", "checkpoint-4"]
    assert backup.is_dir()
    delete_checkpoint(tmp_path / "checkpoint-4")
    assert names() == ["checkpoint-10"]


@pytest.mark.parametrize("keep", [1, 2])
def test_what_was_just_written_stays_where_a_later_one_is_damaged(write, tmp_path, keep):
    for step in (6, 8, 12):
        folder = write(step)
    flip_a_bit(folder / "model.safetensors")
    rotate_checkpoints(write(10), keep, None)
    names = [path.name for path in numbered_checkpoints(tmp_path)]
    assert names == ["checkpoint-10", "checkpoint-8"][:keep]


def test_content_is_the_same_on_hosts_with_own_folders(write):
    folder = write(2)
    content = content_digest(folder)
    torch.save({"of": "another process"}, folder / "rng_state_1.pth")
    finish_checkpoint(folder, {"seed": 1})
    assert content_digest(folder) == content
    torch.save({"step": 3}, folder / "optimizer.pt")
    finish_checkpoint(folder, {"seed": 1})
    assert content_digest(folder) != content
    assert content_digest(folder / "none") == ""
