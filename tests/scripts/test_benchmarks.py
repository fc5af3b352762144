"""The benchmarks measure what they say they do; how fast a machine is, is no test."""

import json
import time

import pytest
import torch
from benchmarks.input import load, make_photos, make_rows, official_stack, torchvision_stack
from benchmarks.timing import interleaved, ratios
from helpers import run_script, script_error
from make.write_cards import models_table
from PIL import Image


def test_turn_about_takes_turns():
    order = []
    works = {
        "a": lambda i: order.append(("a", i)),
        "b": lambda i: order.append(("b", i)) or time.sleep(0.01),
    }
    seconds = interleaved(works, rounds=3)
    assert order == [(name, i) for i in range(4) for name in "ab"]
    assert len(seconds["a"]) == len(seconds["b"]) == 3
    median, least, greatest = ratios(seconds["b"], seconds["a"])
    assert 1 < least <= median <= greatest


def test_table_of_a_file(tmp_path):
    packages = {
        "torch": "2.15.0",
        "transformers": "5.23.0",
        "timm": "1.0",
        "mmpretrain": "not installed",
        "lightly": "1.6.0",
    }
    ours = {
        "images_per_second": 4,
        "peak_memory": 2**30,
        "flops": 2e9,
        "share_of_product_rate": 0.5,
        "seconds": [1, 2],
    }
    other = {**ours, "images_per_second": 1234.5, "seconds": [2, 3]}
    other["hf_mae_over_it"] = ratios(other["seconds"], ours["seconds"])
    found = {
        "command": "train --batch 8 --output found.json",
        "cpu": "EPYC",
        "cores": 2,
        "date": "2026-11-25",
        **packages,
    }
    found["results"] = {"8": {"product_rate": 1e9, "models": {"hf_mae": ours, "lightly": other}}}
    (tmp_path / "found.json").write_text(json.dumps(found))
    lines = models_table(tmp_path / "found.json").splitlines()
    versions = "torch 2.15.0, transformers 5.23.0, timm 1.0, lightly 1.6.0"
    assert (
        lines[0]
        == f"`python scripts/benchmark.py train --batch 8`, EPYC, 2 cores, {versions}, 2026-11-25:"
    )
    assert lines[4] == "| 8 | hf_mae | 4.00 | 1,024 | 0.2 | 50% | |"
    assert lines[5] == "| 8 | lightly | 1,234.50 | 1,024 | 0.2 | 50% | 1.75 (1.50 to 2.00) |"


def test_photos(tmp_path):
    make_photos(tmp_path, 6)
    images = load(tmp_path)
    assert len(images) == 6
    with Image.open(images[3]["image"]["path"]) as picture:
        assert (picture.size, picture.format, picture.mode) == ((500, 375), "JPEG", "RGB")
    for stack in (official_stack(32), torchvision_stack(32)):
        assert stack(images[0]["image"]).shape == (3, 32, 32)
    assert official_stack(32)(images[0]["image"]).dtype == torch.float32
    assert torchvision_stack(32)(images[0]["image"]).dtype == torch.uint8


def test_rows(tmp_path):
    images = load(make_rows(tmp_path, 2500))
    assert len(images) == 2500
    assert (
        images[0]["image"]["bytes"]
        == images[999]["image"]["bytes"]
        != images[2000]["image"]["bytes"]
    )


def test_input_script(tmp_path, photo_folder):
    flags = ["--rounds=2", "--seconds=1", "--image_size=32", "--workers=2", "--step_rate=100000"]
    printed = run_script(
        "benchmark.py",
        "input",
        f"--data={photo_folder}",
        "--compare",
        "--prepared=40",
        *flags,
        f"--output={tmp_path / 'out.json'}",
    )
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["cpu"]
    assert found["torch"] == torch.__version__.split("+")[0]
    results = found["results"]
    assert results["images"] == 60
    stacks = [
        "hf_mae",
        "hf_mae, 4 crops an image",
        "hf_mae, prepared images",
        "official (PIL, torchvision v1)",
        "torchvision v2",
    ]
    assert list(results["one_core"]) == stacks
    assert all(
        len(stack["seconds"]) == 2 and stack["images_per_second"] > 0
        for stack in results["one_core"].values()
    )
    assert sum(results["shares"].values()) == pytest.approx(1)
    assert len(results["2_workers"]["first_memory"]) == 2
    assert results["2_workers"]["images"] >= 64 * 2
    for words in (
        "hf_mae over torchvision v2: ",
        "prepared at 40: 60 images in ",
        "hf_mae, prepared images over official (PIL, torchvision v1): ",
        "of ours: decode ",
        "2 workers over one: ",
        "100,000 images/s need ",
    ):
        assert words in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["input", "--workers=0"], "--workers is 0; it must be positive"),
        (["input", "--data=nowhere"], "train_dir nowhere is not a folder"),
        (["input", "--data=a", "--rows=3"], "not allowed with argument"),
        ([], "required: command"),
    ],
)
def test_what_is_wrong_in_a_line(flags, message):
    assert message in script_error("benchmark.py", *flags)
