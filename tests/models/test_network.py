"""Ids on the Hub where the Hub doesn't answer: one line, at once, or what the cache has."""

import logging
import shutil
import socket
import time
from pathlib import Path

import datasets
import pytest
import torch
from helpers import TINY, run_script, script_error
from huggingface_hub import constants
from loopback_hub import ADDRESS, loopback_hub

from hf_mae import (
    MAEConfig,
    MAEForImageClassification,
    MAEForPreTraining,
    MAEModel,
)
from hf_mae.data.sources import load_image_dataset
from hf_mae.models import network
from hf_mae.models.loading import load_pretraining_model, load_processor


@pytest.fixture
def on_the_net(monkeypatch, tmp_path):
    """The Hub of the tests may be asked, by whoever asks; its cache is empty."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(network, "_have_answered", set())
    monkeypatch.setattr(network, "_given_up", [])


def unplug(monkeypatch):
    """From now on there is no server where the Hub was."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    network._have_answered.clear()


@pytest.fixture
def unplugged(on_the_net, monkeypatch):
    unplug(monkeypatch)


def test_a_server_answers_whatever_it_says(on_the_net):
    assert network.why_unreachable(f"{ADDRESS}/nobody/knows.pth") is None
    with loopback_hub() as hub:
        assert network.why_unreachable(f"{ADDRESS}/nobody/else") is None
        assert not hub.requests  # it is asked once


def test_a_server_that_keeps_silent(on_the_net):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.perf_counter()
        said = network.why_unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}/file.pth")
    assert "timed out" in said or "no answer within 3 s" in said
    assert time.perf_counter() - start < 5


def test_no_server(unplugged):
    assert "refused" in network.why_no_hub()
    assert network.why_unreachable("https://nobody.invalid/x")


MODEL = ["--model_name_or_path", "nobody/knows"]
TRAIN = ["--use_cpu", "--report_to=none", "--size=tiny"]


@pytest.mark.parametrize(
    ("script", "flags", "said"),
    [
        ("predict.py", [*MODEL, "x.png"], "nobody/knows is no folder here"),
        ("reconstruct.py", [*MODEL, "--output", "x.png", "y.png"], "nobody/knows is no folder"),
        ("run_mae.py", [*MODEL, "--dataset_name=digits", *TRAIN[:2]], "nobody/knows is no folder"),
        ("run_mae.py", ["--config_name=nobody/knows", "--dataset_name=digits", *TRAIN[:2]], "no f"),
        ("run_mae.py", ["--dataset_name=nobody/knows", *TRAIN], "dataset_name 'nobody/knows' is"),
        ("run_mae.py", ["--dataset_name=nobody/knows", "--streaming", *TRAIN], "'nobody/knows' is"),
        (
            "run_mae.py",
            ["--dataset_name=digits", "--push_to_hub", "--hub_token=x", *TRAIN],
            "push_to_hub needs the Hub",
        ),
        (
            "prepare_dataset.py",
            ["--dataset_name=nobody/knows", "--output_dir={folder}"],
            "'nobody/knows' is",
        ),
        (
            "publish.py",
            ["--model_name_or_path=samples/fashion-mnist-mae", "--repo_id=nobody/knows"],
            "so nothing can be published",
        ),
    ],
)
def test_scripts_end_in_one_line(unplugged, tmp_path, capfd, script, flags, said):
    start = time.perf_counter()
    flags = [flag.replace("{folder}", str(tmp_path / "out")) for flag in flags]
    if script == "run_mae.py":
        flags.append(f"--output_dir={tmp_path / 'out'}")
    line = script_error(script, *flags)
    assert time.perf_counter() - start < 5
    assert said in line
    assert "can't be reached (" in line
    assert len(line.strip().splitlines()) == 1
    assert "Retrying" not in capfd.readouterr().err


def test_a_published_file(on_the_net, monkeypatch, tmp_path, capfd):
    """Whose server is another than the Hub's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    start = time.perf_counter()
    line = script_error(
        "convert_checkpoint.py", "--name=mae-vit-base", "--output_dir", tmp_path / "out"
    )
    assert time.perf_counter() - start < 5
    assert "its server can't be reached (" in line
    assert f"put it into {tmp_path / 'hub' / 'checkpoints'} or name it by --checkpoint" in line
    assert not capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_filled_cache_is_used(on_the_net, monkeypatch, tmp_path, caplog):
    model = MAEForPreTraining(MAEConfig(**TINY))
    model.save_pretrained(tmp_path / "model")
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    with loopback_hub() as hub:
        hub.repos["org/mae"] = {"private": False, "commits": [files]}
        fetched = load_pretraining_model("org/mae")
        load_processor("org/mae", fetched.config)
        assert hub.requests
    unplug(monkeypatch)
    start = time.perf_counter()
    with caplog.at_level(logging.WARNING, logger="hf_mae"):
        cached = load_pretraining_model("org/mae")
        load_processor("org/mae", cached.config)
    assert time.perf_counter() - start < 5
    assert constants.HF_HUB_OFFLINE
    (said,) = [line for line in caplog.messages if "reached" in line]
    assert said.endswith("; org/mae is taken from its cache")
    assert "refused" in network.why_no_hub()
    for name, tensor in cached.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_a_direct_load_takes_the_same_door(unplugged):
    for door in (MAEForPreTraining, MAEModel, MAEForImageClassification, MAEConfig):
        with pytest.raises(OSError, match="nobody/knows is no folder here, and the Hub can't be"):
            door.from_pretrained("nobody/knows")
    assert not constants.HF_HUB_OFFLINE  # it may answer the next time


def test_a_data_set_in_the_cache(unplugged, monkeypatch, tmp_path, digits):
    """As datasets leaves it behind when it has fetched one."""
    digits["train"].select(range(40)).to_parquet(tmp_path / "digits.parquet")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    loaded = datasets.load_dataset("parquet", data_files=str(tmp_path / "digits.parquet"))
    made = Path(loaded["train"].cache_files[0]["filename"]).parent
    cached = tmp_path / "datasets" / "org___pictures" / "default" / "0.0.0" / "abc"
    shutil.copytree(made, cached)
    (cached / "parquet-train.arrow").rename(cached / "pictures-train.arrow")
    images = load_image_dataset("org/pictures", train_val_split=0.25)
    assert images.num_rows == {"train": 30, "validation": 10}
    assert not constants.HF_HUB_OFFLINE
    assert not datasets.config.HF_HUB_OFFLINE


def test_a_fresh_start(monkeypatch, tmp_path):
    """Python, the Hub's client and its log as they are outside of the tests."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{found.getsockname()[1]}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    status, stdout, stderr = run_script("predict.py", *MODEL, "x.png", check=False, fresh=True)
    assert (status, stdout) == (1, "")
    (line,) = stderr.splitlines()
    assert line.startswith("predict.py: error: nobody/knows is no folder here, and the Hub can't")
