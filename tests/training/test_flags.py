"""What a command line may say of a training, and what is said of words that it doesn't know."""

import dataclasses
import re

import pytest
from helpers import ROOT

from hf_mae import MAEConfig
from hf_mae.training.arguments import (
    FineTuningArguments,
    LinearProbeArguments,
    MAETrainingArguments,
)
from hf_mae.training.data_arguments import DataArguments, StreamArguments
from hf_mae.training.model_arguments import (
    FineTuningModelArguments,
    LinearProbeModelArguments,
    ModelArguments,
)
from hf_mae.training.other_words import CALLED_HERE
from hf_mae.training.recipes import parse_recipe_and_flags


PRETRAINING = (ModelArguments, StreamArguments, MAETrainingArguments)
FINE_TUNING = (FineTuningModelArguments, DataArguments, FineTuningArguments)
PROBE = (LinearProbeModelArguments, DataArguments, LinearProbeArguments)


@pytest.fixture
def refused(capsys, monkeypatch):
    """What the script says, in one line, of a command line that it doesn't take."""
    monkeypatch.setattr("sys.argv", [str(ROOT / "scripts" / "run_mae.py")])

    def refused(*words, types=PRETRAINING, script="run_mae"):
        with pytest.raises(SystemExit) as error:
            parse_recipe_and_flags(types, [*words, "--use_cpu"])
        assert error.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        start = f"{script}.py: error: "
        assert line.startswith(start)
        return line.removeprefix(start)

    return refused


@pytest.mark.parametrize(
    ("word", "flag"),
    [
        ("--batch_size", "--per_device_train_batch_size"),
        ("--batch-size", "--per_device_train_batch_size"),
        ("-b", "--per_device_train_batch_size"),
        ("--lr", "--learning_rate"),
        ("--blr", "--base_learning_rate"),
        ("--epochs", "--num_train_epochs"),
        ("--warmup", "--warmup_epochs"),
        ("--wd", "--weight_decay"),
        ("--accum_iter", "--gradient_accumulation_steps"),
        ("--resume", "--resume_from_checkpoint"),
        ("--no_cuda", "--use_cpu"),
        ("--workers", "--dataloader_num_workers"),
        ("--data", "--train_dir"),
        ("--data_path", "--train_dir"),
        ("--output", "--output_dir"),
        ("--amp", "--bf16"),
        ("--wandb", "--report_to"),
        ("--mask", "--mask_ratio"),
        ("--img_size", "--image_size"),
        ("--imgsz", "--image_size"),
        ("--input_size", "--image_size"),
        ("--model", "--size"),
        ("--pretrained", "--model_name_or_path"),
        ("--checkpoint", "--model_name_or_path"),
        ("--finetune", "--model_name_or_path"),
        ("--train_dirr", "--train_dir"),
        ("--Norm_Pix_Loss", "--norm_pix_loss"),
    ],
)
def test_words_of_other_programs(refused, word, flag):
    assert refused(word) == f"unknown argument {word!r}; did you mean {flag}?"
    assert refused(word, "3", "--seed=1") == f"unknown argument '{word} 3'; did you mean {flag}?"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--gpus=2", "accelerate launch --num_processes N"),
        ("--device=0", "CUDA_VISIBLE_DEVICES=1 before"),
        ("--num_classes=10", "the classes are those of the data"),
        ("--eval", "scripts/run_eval.py"),
        ("--config=x", "a recipe is named without a flag"),
    ],
)
def test_words_of_what_is_no_flag_here(refused, word, said):
    assert refused(word).startswith(f"unknown argument {word!r}; ")
    assert said in refused(word)


def test_every_word_is_of_a_flag():
    """Of the training scripts, or of another, as its help has it."""
    names = set()
    for types in (PRETRAINING, FINE_TUNING, PROBE):
        for each in types:
            names |= {field.name for field in dataclasses.fields(each)}
    for path in (ROOT / "scripts" / "help").glob("*.txt"):
        names |= set(re.findall(r"--(\w+)", path.read_text(encoding="utf-8")))
    for flags in CALLED_HERE.values():
        assert set(flags) - {"images", "runs"} <= names  # those two are named without a flag


def test_a_flag_of_another_script_is_not_hinted_at(refused):
    assert "--mask_ratio" not in refused("--mask=0.5", types=FINE_TUNING)
    assert refused("--drop_path=0.5", types=PROBE).endswith("did you mean --drop_path_rate?")


def test_all_unknown_words_are_named(refused):
    assert refused("--lr", "0.1", "--size=tiny", "--epochs=3", "--xyzzy") == (
        "unknown argument '--lr 0.1'; did you mean --learning_rate?; "
        "unknown argument '--epochs=3'; did you mean --num_train_epochs?; "
        "unknown argument '--xyzzy'"
    )


def test_all_unknown_keys_are_named(refused, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("lr: 0.1\nsize: tiny\nnorm_pix_los: true\n")
    assert refused(str(path)) == (
        f"{path}: unknown key 'lr'; did you mean learning_rate?; "
        "unknown key 'norm_pix_los'; did you mean norm_pix_loss?"
    )


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine.yaml", "mine.yml", "mine"):
        (tmp_path / name).write_text("size: small\nseed: 7\n")
    return "mine.yaml"


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["{}", "--seed=3"], 3),
        (["--seed=3", "{}"], 3),
        (["--seed", "3", "{}"], 3),
        (["--use_cpu", "{}"], 7),
        (["--norm_pix_loss", "{}", "--bf16", "false"], 7),
        (["--label_column", "cat", "dog", "{}"], 7),
        (["--image_size", "64", "96", "{}", "--size=tiny"], 7),
        (["--config_name", "other.yaml", "{}"], 7),
        (["--no_dataloader_pin_memory", "mine"], 7),
        (["--seed=3", "mine.yml"], 3),
    ],
)
def test_a_recipe_stands_anywhere(recipe, words, value):
    words = [word.format(recipe) for word in words]
    model, data, args, explicit = parse_recipe_and_flags(PRETRAINING, [*words, "--use_cpu=true"])
    assert args.seed == value
    assert explicit["size"] == ("tiny" if "--size=tiny" in words else "small")
    assert model.norm_pix_loss is ("--norm_pix_loss" in words or None)
    assert data.label_column == (["cat", "dog"] if "cat" in words else None)
    assert model.config_name == ("other.yaml" if "other.yaml" in words else None)


def test_a_value_is_no_recipe(recipe):
    """Neither of a flag that takes one, nor where names of files may be those of columns."""
    words = ["--config_name", recipe, "--label_column", recipe, "mine", "--use_cpu"]
    model, data, args, explicit = parse_recipe_and_flags(PRETRAINING, words)
    assert (model.config_name, data.label_column) == (recipe, [recipe, "mine"])
    assert (args.seed, model.size) == (42, None)
    assert "seed" not in explicit


def test_one_recipe(recipe, refused):
    assert refused(recipe, "--seed=1", "mine.yml") == (
        "there are 2 recipes, mine.yaml and mine.yml; give one"
    )


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("mae-vit-base-300e", "scripts/recipes/pretrain/mae-vit-base-300e.yaml"),
        ("mae-vit-base-300e.yaml", "scripts/recipes/pretrain/mae-vit-base-300e.yaml"),
        (
            "recipes/pretrain/mae-vit-bas-300e.yml",
            "scripts/recipes/pretrain/mae-vit-base-300e.yaml",
        ),
        ("scripts/recipes/vit-base-100.yaml", "scripts/recipes/finetune/vit-base-100e.yaml"),
        ("demo_digits.yaml", "scripts/recipes/pretrain/demo-digits.yaml"),
    ],
)
def test_a_recipe_that_is_not_there(refused, monkeypatch, name, nearest):
    monkeypatch.chdir(ROOT)
    assert refused(name).startswith(f"no recipe {name}; did you mean {nearest}")
    if "." in name:
        assert refused("--seed=1", name).startswith(f"no recipe {name}; did you mean {nearest}")


@pytest.mark.parametrize(
    ("script", "folder"), [("run_mae", "pretrain"), ("run_finetune", "finetune")]
)
def test_of_two_recipes_of_a_name_the_scripts_own(refused, monkeypatch, script, folder):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", [f"scripts/{script}.py"])
    said = refused("own-picture", script=script)
    assert said == (
        f"no recipe own-picture; did you mean scripts/recipes/{folder}/own-pictures.yaml?"
    )


def test_a_recipe_beside_others(refused, recipe):
    assert refused("mein.yaml") == "no recipe mein.yaml; did you mean mine.yaml?"
    listed = refused("qqq.yaml")
    assert "; there is scripts" not in listed  # from elsewhere it is another way
    assert "pretrain/demo-digits.yaml, " in listed


CHOICES = [
    ("size", "bse", "tiny, small, base, large, huge; did you mean base?"),
    ("eval_strategy", "epochs", "no, steps, epoch; did you mean epoch?"),
    ("save_strategy", "step", "no, steps, epoch, best; did you mean steps?"),
    ("logging_strategy", "never", "no, steps, epoch"),
    ("nonfinite", "ignore", "raise, skip"),
    ("on_bad_image", "stop", "skip, raise"),
    ("hub_strategy", "always", "end, every_save, checkpoint, all_checkpoints"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), CHOICES)
def test_choices(refused, tmp_path, name, value, allowed):
    message = f"{name} is {value!r}; it must be one of {allowed}"
    assert refused(f"--{name}={value}").startswith(message)
    path = tmp_path / "mine.yaml"
    path.write_text(f"{name}: {value}\n")
    assert refused(str(path)).startswith(message)


def test_choices_of_classifiers(refused):
    for types in (FINE_TUNING, PROBE):
        assert refused("--pooling=max", types=types) == (
            "pooling is 'max'; it must be one of mean, cls"
        )
        assert refused("--class_weights=balance", types=types) == (
            "class_weights is 'balance'; it must be one of none, balanced; did you mean balanced?"
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MAEConfig.from_size("bse"), "size is 'bse'; .*huge; did you mean base?"),
        (lambda: MAEConfig(pooling="clss"), "pooling is 'clss'; .* mean, cls; did you mean cls?"),
        (
            lambda: MAEConfig.from_size("tiny", hidden_sizes=9),
            "'hidden_sizes'; did you mean hidden",
        ),
        (lambda: MAEConfig.from_size("tiny", zzz=9), "has no field 'zzz'; it has hidden_size, "),
        (
            lambda: ModelArguments(config_overrides="{mask_rati: 0.5}").build_model(),
            "that can be set there; did you mean mask_ratio?",
        ),
        (
            lambda: MAETrainingArguments(output_dir="x", eval_strategy="epochs", use_cpu=True),
            "eval_strategy is 'epochs'; it must be one of no, steps, epoch; did you mean epoch?",
        ),
        (
            lambda: MAETrainingArguments(output_dir="x", report_to="wandbb", use_cpu=True),
            "report_to is 'wandbb', .*; did you mean wandb?",
        ),
    ],
)
def test_choices_in_python(make, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        make()
