"""Damaged model folders: each script says in a line which file it is, and why."""

import json
import random
import shutil
import struct

import numpy as np
import pytest
import torch
from helpers import script_error
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import make, save

from hf_mae.models.loading import load_as
from hf_mae.models.modeling_mae import MAEForPreTraining


WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
PART = "model-00001-of-00001.safetensors"
TRAINING = [
    "--dataset_name=digits",
    "--use_cpu",
    "--max_steps=1",
    "--warmup_epochs=0",
    "--report_to=none",
]
# script → the kind of model, and its other arguments
SCRIPTS = {
    "predict.py": ("grey mean", ["x.png", "--use_cpu", "--num_workers=0"]),
    "run_eval.py": ("grey mean", ["--dataset_name=digits", "--use_cpu", "--num_workers=0"]),
    "reconstruct.py": ("grey pretrain", ["--output=out.png", "x.png"]),
    "extract_features.py": ("grey pretrain", ["--output=f.npy", "--use_cpu", "x.png"]),
    "export.py": ("grey pretrain", ["--output_dir=out"]),
    "publish.py": ("grey pretrain", ["--repo_id=org/a", "--license=mit", "--dry_run"]),
    "run_mae.py": ("grey pretrain", [*TRAINING, "--output_dir=out"]),
    "run_finetune.py": ("grey pretrain", [*TRAINING, "--output_dir=out"]),
    "run_linear_probe.py": ("grey pretrain", [*TRAINING, "--output_dir=out"]),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Kind → a folder that nobody has damaged."""
    kinds = {kind for kind, _ in SCRIPTS.values()}
    return {kind: save(make(kind), tmp_path_factory.mktemp("whole") / "m") for kind in kinds}


@pytest.fixture
def refusal(whole, tmp_path, monkeypatch):
    """Damages a copy of a script's model; returns what the script says."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((40, 40), np.uint8)).save("x.png")

    def refusal(script, damage):
        kind, rest = SCRIPTS[script]
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole[kind], folder)
        damage(folder)
        shown = script_error(script, f"--model_name_or_path={folder}", *rest)
        assert shown.startswith(f"{script}: error: ")
        assert len(shown.splitlines()) == 1
        assert str(folder) in shown
        assert not (tmp_path / "out").exists() or not any((tmp_path / "out").glob(WEIGHTS))
        return shown

    return refusal


def written(name, content):
    """A damage: this text, or these bytes, in a file."""
    data = content if isinstance(content, bytes) else content.encode()

    def damage(folder):
        (folder / name).write_bytes(data)

    return damage


def with_field(name, field, value):
    """A damage: one field of a JSON file."""

    def damage(folder):
        fields = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**fields, field: value}))

    return damage


def with_bytes(change):
    """A damage: what a function makes of the weights' bytes."""

    def damage(folder):
        (folder / WEIGHTS).write_bytes(change((folder / WEIGHTS).read_bytes()))

    return damage


def with_header(change):
    """A damage: what a function makes of the first tensor's entry in the weights' header."""

    def rewrite(data):
        length = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + length])
        change(next(entry for name, entry in header.items() if name != "__metadata__"))
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    return with_bytes(rewrite)


def with_index(index):
    """A damage: the weights in a part, and this index of it."""

    def damage(folder):
        (folder / WEIGHTS).rename(folder / PART)
        (folder / INDEX).write_text(index if isinstance(index, str) else json.dumps(index))

    return damage


def remove(name):
    def damage(folder):
        (folder / name).unlink()

    return damage


def with_tensor(change, name="vit.layers.1.mlp.fc1.weight"):
    """A damage: what a function makes of one tensor of the encoder; None takes it away."""

    def damage(folder):
        tensors = load_file(folder / WEIGHTS)
        changed = change(tensors.pop(name))
        if changed is not None:
            tensors[name] = changed
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


def first_number(value):
    def change(tensor):
        tensor.view(-1)[0] = value
        return tensor

    return change


CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
DAMAGES = {
    "config null": (written(CONFIG, "null"), "config.json of"),
    "config list": (written(CONFIG, "[1]"), "holds no mapping of fields"),
    "config deep": (written(CONFIG, "[" * 100_000), "recursion"),
    "config empty": (written(CONFIG, ""), CONFIG),
    "config binary": (written(CONFIG, b"\xff\xfe\x00\x80"), CONFIG),
    "config cut off": (written(CONFIG, '{"model_type": "mae", "hid'), CONFIG),
    "config {}": (written(CONFIG, "{}"), CONFIG),
    "config missing": (remove(CONFIG), CONFIG),
    "id2label": (with_field(CONFIG, "id2label", 5), "id2label is 5; it must be"),
    "dtype": (with_field(CONFIG, "dtype", "nope"), "dtype is 'nope'; it must be"),
    "quantization": (with_field(CONFIG, "quantization_config", 5), "quantization_config is 5"),
    "architectures": (with_field(CONFIG, "architectures", [5]), "architectures is [5]"),
    "architectures 5": (with_field(CONFIG, "architectures", 5), "architectures is 5"),
    "model_type": (with_field(CONFIG, "model_type", [5]), "model_type is [5]"),
    "layers": (with_field(CONFIG, "num_hidden_layers", 10**8), "num_hidden_layers is 100000000"),
    "width": (with_field(CONFIG, "hidden_size", 12 * 10**8), "no machine holds more than"),
    "labels": (with_field(CONFIG, "num_labels", 10**9), "num_labels is 1000000000"),
    "return_dict": (with_field(CONFIG, "return_dict", False), "has return_dict False"),
    "attention": (with_field(CONFIG, "attn_implementation", 5), "is damaged or another's"),
    "layer types": (with_field(CONFIG, "layer_types", {"a": 1}), "layer_types"),
    "one layer more": (with_field(CONFIG, "num_hidden_layers", 4), "missing: "),
    "another width": (with_field(CONFIG, "intermediate_size", 96), "of another shape: "),
    "processor null": (written(PROCESSOR, "null"), PROCESSOR),
    "processor list": (written(PROCESSOR, "[1]"), PROCESSOR),
    "processor deep": (written(PROCESSOR, '{"a":' * 100_000), PROCESSOR),
    "processor binary": (written(PROCESSOR, b"\xff\xfe\x00\x80"), PROCESSOR),
    "size": (with_field(PROCESSOR, "size", {"shortest_edge": -5}), "size is"),
    "crop": (with_field(PROCESSOR, "crop_size", [5]), PROCESSOR),
    "mean": (with_field(PROCESSOR, "image_mean", ["a"]), "image_mean is ['a']"),
    "deviation": (with_field(PROCESSOR, "image_std", [0.0]), "image_std is [0.0]"),
    "bands": (with_field(PROCESSOR, "bands", 5), "bands is 5"),
    "weights missing": (remove(WEIGHTS), WEIGHTS),
    "weights empty": (written(WEIGHTS, b""), WEIGHTS),
    "weights zero": (with_bytes(lambda data: bytes(len(data))), WEIGHTS),
    "weights cut off": (with_bytes(lambda data: data[: len(data) // 2]), WEIGHTS),
    "weights too long": (with_bytes(lambda data: data + b"more"), WEIGHTS),
    "weights of 2^63 bytes": (with_bytes(lambda data: b"\x00" * 7 + b"\x80" + data[8:]), WEIGHTS),
    "header's type": (with_header(lambda entry: entry.update(dtype="I64")), WEIGHTS),
    "header's shape": (with_header(lambda entry: entry.update(shape=[10**12])), WEIGHTS),
    "header's place": (with_header(lambda entry: entry.update(data_offsets=[0, 10**12])), WEIGHTS),
    "index empty": (with_index(""), INDEX),
    "index list": (with_index([]), INDEX),
    "index of numbers": (with_index({"metadata": {}, "weight_map": {"a": 5}}), "it names 5"),
    "index of lists": (with_index({"metadata": {}, "weight_map": [1]}), INDEX),
    "index's metadata": (with_index({"metadata": 5, "weight_map": {"a": PART}}), INDEX),
    "index upwards": (with_index({"metadata": {}, "weight_map": {"a": f"../{PART}"}}), "it names"),
    "index of nothing": (with_index({"metadata": {}, "weight_map": {"a": "b"}}), "isn't there"),
    "junk": (lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"), "damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_in_a_line(damage, refusal):
    """By two of the scripts, which two is drawn by the damage's name: all go through one door."""
    change, said = DAMAGES[damage]
    for script in random.Random(damage).sample(sorted(SCRIPTS), 2):
        assert said in refusal(script, change), script


# what no script may take for a model: the reason → the damage
UNUSABLE = {
    "missing: ": with_tensor(lambda tensor: None),
    "of another shape: ": with_tensor(lambda tensor: tensor[:, 1:].clone()),
    "weights that are not finite, in ": with_tensor(first_number(float("nan"))),
}


@pytest.mark.parametrize("reason", UNUSABLE)
@pytest.mark.parametrize("script", SCRIPTS)
def test_no_script_takes_other_weights(script, reason, refusal):
    """Random ones in place of those that are missing, or those of a run that failed."""
    assert f"{reason}vit.layers.1.mlp.fc1.weight".replace("vit.", "") in refusal(
        script, UNUSABLE[reason]
    ).replace("vit.", "")


def test_infinite_weights_are_not_finite(whole, tmp_path):
    folder = shutil.copytree(whole["grey pretrain"], tmp_path / "m")
    with_tensor(first_number(float("-inf")), "decoder.mask_token")(folder)
    with pytest.raises(ValueError, match=r"not finite, in decoder\.mask_token; the training"):
        load_as(MAEForPreTraining, folder)


def test_weights_in_parts_are_read(whole, tmp_path):
    folder = shutil.copytree(whole["grey pretrain"], tmp_path / "m")
    tensors = load_file(folder / WEIGHTS)
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(tensors, PART)}
    with_index(index)(folder)
    loaded = load_as(MAEForPreTraining, folder).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
