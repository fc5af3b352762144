"""Every recipe is the published one: parameters, FLOPs, batch arithmetic; and every one runs."""

import csv
import json
import runpy

import pytest
import torch
from helpers import GOLDEN, ROOT, TINY, trace

from hf_mae.conversion.zoo import ZOO
from hf_mae.models.configuration_mae import SIZES, MAEConfig
from hf_mae.models.costs import multiply_adds, training_flops
from hf_mae.models.modeling_mae import MAEForPreTraining
from hf_mae.training.arguments import (
    FineTuningArguments,
    LinearProbeArguments,
    MAETrainingArguments,
)
from hf_mae.training.data_arguments import DataArguments
from hf_mae.training.model_arguments import (
    FineTuningModelArguments,
    LinearProbeModelArguments,
    ModelArguments,
)
from hf_mae.training.recipes import parse_recipe_and_flags


RECIPES = ROOT / "scripts" / "recipes"
TYPES = {
    "pretrain": (ModelArguments, DataArguments, MAETrainingArguments),
    "finetune": (FineTuningModelArguments, DataArguments, FineTuningArguments),
    "linear_probe": (LinearProbeModelArguments, DataArguments, LinearProbeArguments),
}
SCRIPTS = {
    "pretrain": "run_mae.py",
    "finetune": "run_finetune.py",
    "linear_probe": "run_linear_probe.py",
}
with (GOLDEN / "models.tsv").open() as lines:
    PUBLISHED = list(csv.DictReader(lines, delimiter="\t"))


def recipe_of(row):
    return RECIPES / f"{ZOO[row['name']].recipe}.yaml"


def parse(path, tmp_path, *flags):
    kind = path.parent.name
    return parse_recipe_and_flags(
        TYPES[kind], [str(path), "--use_cpu", f"--output_dir={tmp_path}", *flags]
    )


def build(model_args, kind, size):
    """On the meta device; a classifier, which a recipe takes from a folder, new and with ImageNet's
    classes."""
    with torch.device("meta"):
        if kind == "pretrain":
            return model_args.build_model()
        model_args.size = size
        return model_args.build_model([str(number) for number in range(1000)])


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row["name"])
def test_published_parameters_and_flops(row, tmp_path):
    path = recipe_of(row)
    assert path.is_file(), path
    model_args, *_ = parse(path, tmp_path)
    model = build(model_args, row["kind"], row["name"].split("-")[1])
    counted = sum(
        tensor.numel() for name, tensor in model.state_dict().items() if "batch_norm" not in name
    )
    if row["kind"] == "finetune":
        # mmpretrain's figures leave out the norm behind the mean, which its checkpoints have
        counted -= sum(tensor.numel() for tensor in model.fc_norm.parameters())
    assert f"{counted / 1e6:.2f}" == row["params_M"]
    encoder = model.vit if row["kind"] == "pretrain" else model
    assert f"{multiply_adds(encoder) / 1e9:.2f}" == row["flops_G"]
    if row["top1"]:
        assert row["top1"] in path.read_text()


def test_each_recipe_is_of_a_published_model():
    published = {recipe_of(row) for row in PUBLISHED}
    kept = {
        path
        for path in RECIPES.glob("*/*.yaml")
        if "vit-" in path.name and "budget" not in path.name and "cross" not in path.name
    }
    assert kept == published
    assert len(PUBLISHED) == 24
    assert len(published) == 8 + 4 + 2


@pytest.mark.parametrize(
    "path", sorted((RECIPES / "pretrain").glob("mae-vit-*[a-z]-[0-9]*e.yaml")), ids=lambda p: p.stem
)
def test_pre_training(path, tmp_path, monkeypatch):
    """The paper's, at 8 processes; recipes may differ in size and epochs only."""
    monkeypatch.setattr(MAETrainingArguments, "world_size", 8)
    model_args, _, args, explicit_args = parse(path, tmp_path)
    _, _, size, *kind, epochs = path.stem.split("-")
    if kind:
        assert kind == ["cross"]
        assert explicit_args.pop("decoder_type") == "cross"
        assert json.loads(explicit_args.pop("config_overrides")) == CROSS
    assert (explicit_args["size"], f"{args.num_train_epochs:g}e") == (size, epochs)
    assert (args.total_batch_size, args.warmup_epochs, model_args.norm_pix_loss) == (4096, 40, True)
    assert args.learning_rate == pytest.approx(2.4e-3)
    assert f"scripts/recipes/pretrain/{path.name}" in path.read_text()
    others = {
        name: value
        for name, value in explicit_args.items()
        if name not in ("size", "num_train_epochs", "output_dir")
    }
    reference = parse(path.parent / "mae-vit-base-300e.yaml", tmp_path)[3]
    assert others == {name: reference[name] for name in others}


CROSS = {"decoder_num_hidden_layers": 12, "decoder_layer_mixing": True}


@pytest.mark.parametrize("size", ["base", "large"])
def test_what_a_cross_recipe_costs(size):
    path = RECIPES / "pretrain" / f"mae-vit-{size}-cross-800e.yaml"
    ours = MAEConfig.from_size(size, decoder_type="cross", **CROSS)
    share = training_flops(MAEForPreTraining, ours) / training_flops(
        MAEForPreTraining, MAEConfig.from_size(size)
    )
    assert f"{share:.2f} of the operations of mae-vit-{size}-800e.yaml" in path.read_text()


def test_the_budget_recipe(tmp_path):
    """What it costs is what it says, and all else is the recipe's of 400 epochs."""
    path = RECIPES / "pretrain" / "mae-vit-base-budget.yaml"
    costs = {}
    for name in ("mae-vit-base-400e", "mae-vit-base-budget"):
        model_args, _, args, explicit_args = parse(path.with_name(f"{name}.yaml"), tmp_path)
        config = build(model_args, "pretrain", None).config
        starts = list((args.resolutions or {0: 224}).items())
        shares = [
            end - start for (start, _), end in zip(starts, [*(share for share, _ in starts[1:]), 1])
        ]
        flops = [
            training_flops(MAEForPreTraining, config.changed(image_size=size)) for _, size in starts
        ]
        costs[name] = sum(share * each for share, each in zip(shares, flops))
        costs[name, "rest"] = {
            name: value for name, value in explicit_args.items() if name not in DIFFERS
        }
    assert (
        f"{costs['mae-vit-base-budget'] / costs['mae-vit-base-400e']:.2f} of the operations"
        in path.read_text()
    )
    assert costs["mae-vit-base-budget", "rest"] == costs["mae-vit-base-400e", "rest"]


DIFFERS = ("mask_ratio", "config_overrides", "resolution_schedule", "crops_per_image")


@pytest.mark.parametrize(
    ("name", "processes", "total", "peak", "epochs", "layer_decay", "drop_path"),
    [
        ("vit-base-100e", 8, 1024, 2e-3, 100, 0.65, 0.1),
        ("vit-large-50e", 8, 1024, 4e-3, 50, 0.75, 0.2),
        ("vit-huge-50e", 8, 1024, 4e-3, 50, 0.75, 0.3),
        ("vit-huge-50e-448px", 32, 256, 1e-3, 50, 0.75, 0.3),
    ],
)
def test_fine_tuning(
    name, processes, total, peak, epochs, layer_decay, drop_path, tmp_path, monkeypatch
):
    monkeypatch.setattr(FineTuningArguments, "world_size", processes)
    path = RECIPES / "finetune" / f"{name}.yaml"
    model_args, _, args, _ = parse(path, tmp_path)
    assert (args.total_batch_size, args.num_train_epochs, args.layer_decay) == (
        total,
        epochs,
        layer_decay,
    )
    assert args.learning_rate == pytest.approx(peak)
    model = build(model_args, "finetune", name.split("-")[1])
    assert model.vit.layers[-1].drop_path_rate == drop_path
    assert model.config.image_size == (448 if "448" in name else 224)
    assert (args.warmup_epochs, args.min_learning_rate, args.weight_decay) == (5, 1e-6, 0.05)
    assert (args.mixup, args.cutmix, args.label_smoothing_factor, args.random_erasing) == (
        0.8,
        1.0,
        0.1,
        0.25,
    )
    assert (
        f"--num_processes {processes} scripts/run_finetune.py scripts/recipes/finetune/{name}.yaml"
        in path.read_text()
    )


@pytest.mark.parametrize("size", ["base", "large"])
def test_linear_probe(size, tmp_path, monkeypatch):
    monkeypatch.setattr(LinearProbeArguments, "world_size", 8)
    path = RECIPES / "linear_probe" / f"vit-{size}-90e.yaml"
    model_args, _, args, _ = parse(path, tmp_path)
    assert (args.total_batch_size, args.num_train_epochs, args.warmup_epochs) == (16384, 90, 10)
    assert (args.learning_rate, args.weight_decay) == (pytest.approx(6.4), 0)
    assert not args.cache_features
    model = build(model_args, "linear_probe", size)
    assert (model.config.pooling, model.config.head_batch_norm, model.encoder_frozen) == (
        "cls",
        True,
        True,
    )


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/*.yaml")), ids=lambda path: path.stem)
def test_runs_two_steps(path, tmp_path, monkeypatch):
    """With a model and batches that are tiny; everything else as the recipe says."""
    kind, fields = path.parent.name, {name: TINY[name] for name in SIZES["tiny"]}
    text = path.read_text()
    override = json.dumps({**fields, "num_channels": 1})
    flags = [
        "--image_size=28",
        "--patch_size=7",
        f"--config_overrides={override}",
        "--dataset_name=digits",
        "--max_steps=2",
    ]
    flags += [
        "--per_device_train_batch_size=16",
        "--warmup_epochs=0",
        "--report_to=none",
        "--eval_strategy=no",
    ]
    flags += [
        "--save_strategy=no",
        "--dataloader_num_workers=0",
        "--logging_steps=1",
        "--disable_tqdm=true",
        "--use_cpu",
    ]
    if "resolution_schedule" in text:
        flags.append("--resolution_schedule=0:28")
    if "knn_images" in text:
        flags.append("--knn_images=100")
    monkeypatch.setattr(
        "sys.argv", [SCRIPTS[kind], str(path), *flags, f"--output_dir={tmp_path / 'run'}"]
    )
    runpy.run_path(str(ROOT / "scripts" / SCRIPTS[kind]), run_name="__main__")
    assert [step for step, _ in trace(tmp_path / "run")] == [1, 2]
