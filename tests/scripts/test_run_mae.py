"""The scripts as their users start them, in processes of their own."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from helpers import (
    ROOT,
    TINY_FLAGS,
    kill_tree,
    run_script,
    script_command,
    script_environment,
    script_error,
    trace,
)
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForPreTraining

from hf_mae import MAEConfig, MAEForPreTraining
from hf_mae.checkpoints import find_checkpoint, find_flaw


_TINY_OTHERS = json.loads(TINY_FLAGS[-1].partition("=")[2])
RUN = [
    *TINY_FLAGS,
    "--dataset_name=digits",
    "--per_device_train_batch_size=64",
    "--warmup_epochs=0.05",
    "--logging_steps=1",
    "--eval_strategy=no",
    "--save_strategy=no",
    "--disable_tqdm=true",
    "--use_cpu=true",
    "--report_to=none",
]


def test_finished_folder(photo_folder, tmp_path):
    """A folder of photographs, a recipe, plain python: everything that a run leaves."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "size: tiny\nimage_size: [32, 48]\npatch_size: 8\nnorm_pix_loss: true\nwarmup_epochs: 1\n"
        "config_overrides: {num_hidden_layers: 2, decoder_num_hidden_layers: 1}\n"
        "per_device_train_batch_size: 999\nlogging_steps: 2\nuse_cpu: true\n"
    )
    output = tmp_path / "run"
    flags = [
        "--train_dir",
        photo_folder,
        "--train_val_split=0.2",
        "--per_device_train_batch_size=12",
    ]
    stdout = run_script(
        "run_mae.py", recipe, *flags, "--num_train_epochs=2", "--output_dir", output
    )

    before, after = stdout.split("epoch 1/2", 1)
    for line in (
        "48 training images, 12 held out",
        "12 = 12 a process * 1 process * 1 accumulated",
        "7.03125e-06 (0.00015 * 12 / 256), 1 epochs of warm-up (0.5 of the run), cosine to 0",
        "8 (2 epochs of 4)",
        "fp32",
    ):
        assert line in before, line
    assert "best constant patch per image" in after
    assert "images/s" in after

    model = AutoModelForPreTraining.from_pretrained(output)
    counted = sum(tensor.numel() for tensor in model.state_dict().values())
    assert f"{counted / 1e6:.2f} M parameters" in before
    assert model.config.image_hw == (32, 48)
    processor = AutoImageProcessor.from_pretrained(output)
    assert dict(processor.crop_size)["width"] == 48
    image = Image.open(output / "reconstructions.png")
    assert image.size[1] > image.size[0]
    assert (output / "training_args.bin").is_file()
    assert find_flaw(output / "checkpoint-8") is None

    state = json.loads((output / "trainer_state.json").read_text())
    assert state["global_step"] == 8
    card = (output / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["library_name"] == "hf_mae"
    final = next(entry for entry in reversed(state["log_history"]) if "eval_loss" in entry)
    assert f"| this model | {final['eval_loss']:.4f} |" in card
    assert f"| best constant patch per image | {final['eval_loss_best_constant']:.4f} |" in card
    assert "48 images of photos" in card
    assert str(photo_folder) not in card  # a card names the data, not the machine's paths

    repeat_by_the_card(card, output, tmp_path, next(photo_folder.rglob("*.jpg")))


def repeat_by_the_card(card, output, folder, photo):
    """Its commands run as they stand; the written arguments repeat the run, bit for bit."""
    (repeat,) = re.findall(r"^accelerate launch scripts/(.*) --output_dir runs/again$", card, re.M)
    again = folder / "again"
    run_script(*shlex.split(repeat), "--output_dir", again)
    (drawing,) = re.findall(r"^python scripts/(reconstruct.py .*) --output out.png", card, re.M)
    run_script(*shlex.split(drawing), "--output", folder / "out.png", photo)
    assert trace(again) == trace(output)
    ours, theirs = (load_file(each / "model.safetensors") for each in (output, again))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_goes_on_from_a_model(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    run_script("run_mae.py", *RUN, "--max_steps=2", "--output_dir", first)
    flags = [flag for flag in RUN if flag not in TINY_FLAGS]
    run_script(
        "run_mae.py",
        *flags,
        "--model_name_or_path",
        first,
        "--image_size=40",
        "--max_steps=2",
        "--output_dir",
        second,
    )
    config = json.loads((second / "config.json").read_text())
    assert config["image_size"] == 40
    assert load_file(second / "model.safetensors")["decoder.decoder_pos_embed"].shape == (1, 26, 32)
    assert trace(second)[0][1] != trace(first)[0][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train_dirr=x"], "unknown argument '--train_dirr=x'; did you mean --train_dir?"),
        (["{recipe}"], "unknown key 'norm_pix_los'; did you mean norm_pix_loss?"),
        (["nope.yaml"], "no recipe nope.yaml"),
        (["--num_train_epochs=many"], "invalid float value: 'many'"),
        (["--nonfinite=ignore"], "nonfinite is 'ignore'; it must be one of raise, skip"),
        (
            ["--dataset_name=digits", "--num_train_epochs=1", "--warmup_epochs=40"],
            "warmup_epochs is 40,",
        ),
        (
            ["--dataset_name=digits", "--size=tiny", "--max_steps=9", "--warmup_epochs=40"],
            "warmup_epochs is 40, which is 1,040 updates",
        ),
        (
            ["--dataset_name=digits", "--size=tiny", "--mask_ratio=0"],
            "mask_ratio is 0.0: no patch is masked",
        ),
        (
            ["--dataset_name=digits", "--size=giant"],
            "size is 'giant'; it must be one of tiny, small, base, large, huge",
        ),
        (
            ["--dataset_name=digits", "--mask_ratio=1.5"],
            "mask_ratio is 1.5; it must be a number in [0, 1)",
        ),
        (
            ["--dataset_name=digits", "--config_overrides={heads: 3}"],
            "MAEConfig has no field 'heads'",
        ),
        (["--train_dir=/nope"], "train_dir /nope is not a folder"),
        ([], "give either dataset_name or train_dir"),
        (
            ["--dataset_name=digits", "--size=tiny", "--per_device_train_batch_size=4000"],
            "the total batch is 4,000",
        ),
        (
            ["--dataset_name=digits", "--resume_from_checkpoint=/nope"],
            "/nope is not a whole checkpoint",
        ),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path, capsys, monkeypatch):
    """One line, that names what is wrong, before anything starts."""
    import runpy

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("size: tiny\nnorm_pix_los: true\n")
    arguments = [
        argument.format(recipe=recipe) if argument.startswith("{r") else argument
        for argument in arguments
    ]
    argv = ["run_mae.py", *arguments, f"--output_dir={tmp_path / 'run'}", "--use_cpu"]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit) as exit_status:
        runpy.run_path(str(ROOT / "scripts" / "run_mae.py"), run_name="__main__")
    shown = capsys.readouterr().err + str(exit_status.value.code)
    assert exit_status.value.code not in (0, None)
    assert message in shown
    assert "Traceback" not in shown
    assert "Pre-training" not in shown


def test_bad_images_end_a_run_with_a_message(photo_folder, tmp_path):
    """On two processes, which both come upon the same bad file in time."""
    images = tmp_path / "images"
    images.mkdir()
    for i, path in enumerate(sorted(photo_folder.rglob("*.jpg"))):
        (images / path.name).write_bytes(path.read_bytes()[: 200 if i == 7 else None])
    flags = [flag for flag in RUN if "digits" not in flag and "batch_size" not in flag]
    status, _, stderr = run_script(
        "run_mae.py",
        *flags,
        *("--train_dir", images, "--per_device_train_batch_size=8", "--num_train_epochs=3"),
        *("--output_dir", tmp_path / "run"),
        processes=2,
        check=False,
    )
    assert status == 1
    assert "error: 1 of 57 train images can't be decoded, which is more than 1%" in stderr
    assert len((tmp_path / "run" / "bad_images.tsv").read_text().splitlines()) == 1


def test_a_late_error_doesn_t_lose_the_model(photo_folder, tmp_path):
    """Bad images among the held-out ones are found after training: the model is there by then."""
    (tmp_path / "held_out").mkdir()
    for i, path in enumerate(sorted(photo_folder.rglob("*.jpg"))[:20]):
        (tmp_path / "held_out" / path.name).write_bytes(path.read_bytes() if i else b"")
    flags = [flag for flag in RUN if "digits" not in flag and "batch_size" not in flag]
    status, _, stderr = run_script(
        "run_mae.py",
        *flags,
        *(
            "--train_dir",
            photo_folder,
            "--validation_dir",
            tmp_path / "held_out",
            "--per_device_train_batch_size=12",
        ),
        *("--max_steps=4", "--output_dir", tmp_path / "run"),
        check=False,
    )
    assert status == 1
    assert "1 of 20 validation images can't be decoded" in stderr.splitlines()[-1]
    assert AutoModelForPreTraining.from_pretrained(tmp_path / "run").config.image_size == 32


def test_two_processes_equal_one(tmp_path):
    """At the same total batch: torchrun and gloo, with and without accumulation; training and
    evaluation."""
    rest = [
        "--max_steps=16",
        "--base_learning_rate=4e-3",
        "--eval_strategy=steps",
        "--eval_steps=8",
    ]
    run_script("run_mae.py", *RUN, *rest, "--output_dir", tmp_path / "one")
    losses, held_out = trace(tmp_path / "one"), trace(tmp_path / "one", "eval_loss")
    assert len(losses) == 16
    for batch, accumulation in ((32, 1), (8, 4)):
        output = tmp_path / f"two{batch}"
        sizes = [
            f"--per_device_train_batch_size={batch}",
            f"--gradient_accumulation_steps={accumulation}",
        ]
        # 90 held-out images in batches of 7 don't divide among the processes
        stdout = run_script(
            *(
                "run_mae.py",
                *RUN,
                *rest,
                *sizes,
                "--per_device_eval_batch_size=7",
                "--output_dir",
                output,
            ),
            processes=2,
        )
        assert f"64 = {batch} a process * 2 processes * {accumulation} accumulated" in stdout
        for ours, expected in ((trace(output), losses), (trace(output, "eval_loss"), held_out)):
            assert [step for step, _ in ours] == [step for step, _ in expected]
            assert [value for _, value in ours] == pytest.approx(
                [value for _, value in expected], abs=1e-5
            )


def test_cross_decoder_and_blocks_on_two_processes_and_resumed(tmp_path):
    """Which patches are hidden, and which of them are asked, follows from the sample alone."""
    others = {**_TINY_OTHERS, "decoder_layer_mixing": True}
    flags = [*RUN, f"--config_overrides={json.dumps(others)}", "--decoder_type=cross"]
    flags += ["--mask_strategy=block", "--mask_block_size=3", "--max_steps=12"]
    flags += ["--eval_strategy=steps", "--eval_steps=6", "--save_strategy=steps", "--save_steps=6"]
    one, two, resumed = (tmp_path / name for name in ("one", "two", "resumed"))
    stdout = run_script("run_mae.py", *flags, "--output_dir", one)
    assert "75% hidden in blocks of 3, 25% predicted by a cross-attention decoder" in stdout
    sizes = ["--per_device_train_batch_size=16", "--gradient_accumulation_steps=2"]
    run_script("run_mae.py", *flags, *sizes, "--output_dir", two, processes=2)
    for name in ("loss", "eval_loss"):
        ours, expected = trace(two, name), trace(one, name)
        assert [step for step, _ in ours] == [step for step, _ in expected]
        assert [value for _, value in ours] == pytest.approx([v for _, v in expected], abs=1e-5)
    resumed.mkdir()
    shutil.copytree(one / "checkpoint-6", resumed / "checkpoint-6")
    again = ["--output_dir", resumed, "--resume_from_checkpoint=last"]
    assert "resuming checkpoint-6" in run_script("run_mae.py", *flags, *again)
    assert trace(resumed) == trace(one)
    flags.remove("--mask_block_size=3")
    assert "mask_block_size is None, and was 3" in script_error("run_mae.py", *flags, *again)

    config = MAEForPreTraining.from_pretrained(one).config
    assert (config.decoder_type, config.mask_strategy, config.mask_block_size) == (
        "cross",
        "block",
        3,
    )
    picture = tmp_path / "out.png"
    image = ROOT / "samples" / "fashion-mnist-mae" / "bag.png"
    model = ["--model_name_or_path", one]
    run_script("reconstruct.py", *model, "--output", picture, image)
    assert Image.open(picture).size[0] > 400
    printed = run_script("export.py", *model, "--output_dir", tmp_path / "native")
    assert "ViTModel in" in printed
    assert "note: transformers has no cross-attention decoder: here is the encoder" in printed
    assert not (tmp_path / "native" / "pretraining").exists()
    error = script_error("export.py", *model, "--as=vit_mae", "--output_dir", tmp_path / "other")
    assert "decoder_type is 'cross', and transformers has no such decoder" in error


def kill_when(command, env, moment):
    """Starts a command and kills it and its children, hard, when `moment()` is true."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    try:
        while not moment():
            assert process.poll() is None, "the run ended before it was to be killed"
            assert time.monotonic() < deadline
            time.sleep(0.0005)
    finally:
        kill_tree(process)


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_resumed_is_as_if_nothing_had_happened(processes, tmp_path):
    """SIGKILL amid an epoch, between two saves, and during a save, with workers: the loss trace is
    the same, bit for bit."""
    flags = [
        *RUN,
        "--max_steps=40",
        "--save_strategy=steps",
        "--save_steps=10",
        "--dataloader_num_workers=2",
        f"--per_device_train_batch_size={64 // processes**2}",
        f"--gradient_accumulation_steps={processes}",
    ]
    run_script("run_mae.py", *flags, "--output_dir", tmp_path / "whole", processes=processes)
    output = tmp_path / "killed"
    resume = ["--output_dir", output, "--resume_from_checkpoint=last"]
    command = script_command("run_mae.py", *flags, *resume, processes=processes)
    env = script_environment(processes)

    # amid the first epoch (25 updates), between two saves
    kill_when(
        command,
        env,
        lambda: output.exists() and find_checkpoint(output) and time.sleep(0.1) is None,
    )
    killed_after = int(find_checkpoint(output).name.split("-")[1])
    assert killed_after < 40
    # during a save: a pipe that nobody reads stands where the next checkpoint's optimizer state has
    # to go
    half = output / f"checkpoint-{killed_after + 10}"
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    os.mkfifo(half / "optimizer.pt")
    kill_when(
        command, env, lambda: (half / "model.safetensors").exists() and time.sleep(0.3) is None
    )
    assert not (half / "trainer_state.json").exists()
    (half / "optimizer.pt").unlink()
    assert "resuming checkpoint-" in run_script("run_mae.py", *flags, *resume, processes=processes)

    assert trace(output) == trace(tmp_path / "whole")
    assert len(trace(output)) == 40
    ours, expected = (
        load_file(folder / "model.safetensors") for folder in (output, tmp_path / "whole")
    )
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.items())


def test_accelerate_launch(tmp_path):
    command = [
        str(Path(sys.executable).parent / "accelerate"),
        "launch",
        "--num_processes=1",
        "--cpu",
    ]
    command += [
        str(ROOT / "scripts/run_mae.py"),
        *RUN,
        "--max_steps=3",
        f"--output_dir={tmp_path / 'run'}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(trace(tmp_path / "run")) == 3


@pytest.mark.slow
def test_demo(tmp_path):
    """`make demo`: under three minutes of training on two cores, and a loss of 0.35 of the best
    constant at most."""
    start = time.monotonic()
    stdout = run_script(
        "run_mae.py", "scripts/recipes/pretrain/demo-digits.yaml", "--output_dir", tmp_path / "demo"
    )
    assert time.monotonic() - start < 180
    (_, loss), (_, constant) = (
        trace(tmp_path / "demo", "eval_loss")[-1],
        trace(tmp_path / "demo", "eval_loss_best_constant")[-1],
    )
    assert loss <= 0.35 * constant
    assert "mean of the visible patches" in stdout


def test_reconstruct(photo_folder, tmp_path):
    config = MAEConfig.from_size("tiny", image_size=64, patch_size=16)
    MAEForPreTraining(config).save_pretrained(tmp_path / "model")
    good = [str(path) for path in sorted(photo_folder.rglob("*.jpg"))[:2]]
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8broken")
    flags = ["--model_name_or_path", tmp_path / "model", "--output", tmp_path / "out.png"]
    status, stdout, stderr = run_script(
        "reconstruct.py", *flags, *good, tmp_path / "broken.jpg", tmp_path / "none.jpg", check=False
    )
    assert status == 1
    assert "2 images in" in stdout
    assert "broken.jpg is passed over" in stderr
    assert "none.jpg is passed over" in stderr
    first = (tmp_path / "out.png").read_bytes()
    assert Image.open(tmp_path / "out.png").size[0] > 300
    assert run_script("reconstruct.py", *flags, *good).startswith("2 images")
    assert (tmp_path / "out.png").read_bytes() == first
