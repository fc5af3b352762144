import os

import pytest
import torch
import yaml

from hf_mae import MAEConfig, MAEForImageClassification, MAEForPreTraining
from hf_mae.training.arguments import MAETrainingArguments, default_workers
from hf_mae.training.data_arguments import DataArguments
from hf_mae.training.model_arguments import (
    FineTuningModelArguments,
    LinearProbeModelArguments,
    ModelArguments,
)
from hf_mae.training.recipes import parse_recipe_and_flags, save_recipe


TYPES = (ModelArguments, DataArguments, MAETrainingArguments)


@pytest.fixture
def parse(tmp_path):
    def parse(recipe, *flags):
        path = tmp_path / "recipe.yaml"
        path.write_text(recipe)
        return parse_recipe_and_flags(
            TYPES, [str(path), "--use_cpu", f"--output_dir={tmp_path}", *flags]
        )

    return parse


def test_flags_override_the_recipe(parse):
    model, data, args, explicit_args = parse(
        "size: small\nimage_size: [64, 96]\npatch_size: 8\nnorm_pix_loss: "
        "true\nbase_learning_rate: 1e-3\n"
        "config_overrides: {num_hidden_layers: 2, hidden_act: relu}\ntrain_dir: null\nreport_to: "
        "[none]\n",
        "--base_learning_rate=2e-3",
        "--train_dir=mine",
        "--config_overrides={num_hidden_layers: 5}",
    )
    config = model.build_model().config
    assert (config.hidden_size, config.num_hidden_layers, config.hidden_act) == (384, 5, "gelu")
    assert config.image_hw == (64, 96)
    assert config.norm_pix_loss
    assert data.train_dir == "mine"
    assert args.learning_rate == pytest.approx(2e-3 * 64 / 256)
    assert explicit_args["train_dir"] == "mine"
    assert "mask_ratio" not in explicit_args


def test_saved_arguments_are_a_recipe(parse, tmp_path):
    recipe = (
        "size: tiny\nimage_size: [64, 96]\nconfig_overrides: "
        "{hidden_act: relu}\nwarmup_epochs: 2\nbf16: false\n"
    )
    model, data, args, explicit_args = parse(recipe, "--num_train_epochs=7")
    save_recipe(explicit_args, tmp_path / "saved.yaml")
    saved = yaml.safe_load((tmp_path / "saved.yaml").read_text())
    assert saved["config_overrides"] == {"hidden_act": "relu"}
    assert "output_dir" not in saved
    again = parse((tmp_path / "saved.yaml").read_text())
    assert (again[0], again[1]) == (model, data)
    assert again[2].to_dict() == args.to_dict()


def test_learning_rate_counts_processes_and_accumulation(parse):
    args = parse(
        "base_learning_rate: 1.5e-4",
        "--per_device_train_batch_size=128",
        "--gradient_accumulation_steps=32",
    )[2]
    assert args.total_batch_size == 4096
    assert args.learning_rate == pytest.approx(2.4e-3)
    assert parse("learning_rate: 1e-3")[2].learning_rate == 1e-3


def test_paper_defaults(parse):
    args = parse("size: base")[2]
    assert (args.adam_beta1, args.adam_beta2, args.weight_decay) == (0.9, 0.95, 0.05)
    assert args.warmup_in(args.num_train_epochs) == 40
    assert (args.base_learning_rate, args.min_learning_rate, args.max_grad_norm) == (1.5e-4, 0, 0)
    assert not args.bf16  # on the CPU


@pytest.mark.parametrize(
    ("flags", "epochs"),
    [
        ([], 3.0),  # as the recipe says
        (["--num_train_epochs=10"], 1.0),  # its share
        (["--max_steps=77"], 1.0),
        (["--num_train_epochs=10", "--warmup_epochs=2"], 2.0),
        (["--num_train_epochs=10", "--warmup_epochs=20%"], 2.0),
        (["--num_train_epochs=10", "--warmup_epochs=auto"], 0.5),
    ],
)
def test_warmup_keeps_its_share(parse, flags, epochs):
    *_, args, explicit = parse("num_train_epochs: 30\nwarmup_epochs: 3", *flags)
    run = 30 if not flags else 10
    assert args.warmup_in(run) == pytest.approx(epochs)
    assert "warmup_epochs" in explicit


def test_workers_are_as_many_as_cores_with_an_accelerator(parse, monkeypatch):
    assert parse("size: base")[2].dataloader_num_workers == 0
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    assert default_workers() == min(16, len(os.sched_getaffinity(0)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert default_workers() == 1


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("size base", "holds str; a recipe is a mapping"),
        ("a: [", "is not YAML"),
        ("warmup_epoch: 3", "unknown key 'warmup_epoch'; did you mean warmup_epochs?"),
        ("num_train_epochs: many", "invalid float value: 'many'"),
        ("norm_pix_loss: perhaps", "perhaps"),
        ("per_device_train_batch_size: 6.5", "invalid int value: '6.5'"),
        ("num_train_epochs: 0", "num_train_epochs is 0.0; it must be positive"),
        ("base_learning_rate: -1", "base_learning_rate is -1.0; it must be positive"),
        ("min_learning_rate: 1", "min_learning_rate is 1.0; it must be between 0 and the peak"),
        ("warmup_epochs: -1", "warmup_epochs is -1.0; it must be at least 0"),
        ("warmup_epochs: 120%", "warmup_epochs is '120%'; it must be at least 0 and a number"),
        ("warmup_epochs: nan", "warmup_epochs is nan; it must be"),
        ("warmup_epochs: short", "warmup_epochs is 'short'; it must be"),
        ("fp16: true", "fp16 needs a GPU"),
        ("bf16: true\nfp16: true", "At most one of fp16 and bf16"),
        ("lr_scheduler_type: constant", "lr_scheduler_type and warmup_steps don't apply"),
        ("warmup_steps: 5", "lr_scheduler_type and warmup_steps don't apply"),
        ("dataloader_drop_last: true", "dataloader_drop_last doesn't apply"),
        ("knn_images: -5", "knn_images is -5; it must be at least 0"),
        (
            "per_device_train_batch_size: 0",
            "per_device_train_batch_size is 0; it must be at least 1",
        ),
        (
            "gradient_accumulation_steps: 0",
            "gradient_accumulation_steps is 0; it must be at least 1",
        ),
    ],
)
def test_errors_are_one_line(parse, recipe, message, capsys):
    with pytest.raises(SystemExit) as error:
        parse(recipe)
    assert error.value.code == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("error:") == 1


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("seed: 2024-01-01", "seed is datetime.date(2024, 1, 1), which YAML reads as date; quote"),
        ("run_name: !!binary aGFsbG8=", "run_name is b'hallo', which YAML reads as bytes"),
        ("run_name: !!set {a, b}", "which YAML reads as set"),
        ("seed: 2024-13-45", "is not YAML: month must be in 1..12"),
        ("mask_ratio: [0.5, 0.6]", "mask_ratio is [0.5, 0.6]; it takes one value"),
        ("size: tiny\nbf16: false\nsize: base", "is not YAML: the key 'size' comes twice in"),
        ("config_overrides: {hidden_size: 4, hidden_size: 8}", "the key 'hidden_size' comes twice"),
        ("size: " + "[" * 5000, "is not YAML: it is nested too deeply"),
        ("seed: *nobody", "is not YAML: found undefined alias 'nobody'"),
        ("!!python/object/apply:os.getcwd []", "is not YAML: could not determine a constructor"),
    ],
)
def test_what_a_recipe_cannot_hold(parse, recipe, message, capsys):
    with pytest.raises(SystemExit) as error:
        parse(recipe)
    assert error.value.code == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "recipe.yaml" in shown
    assert len(shown.splitlines()) == 1


def test_a_recipe_in_another_encoding(tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_bytes("run_name: größer".encode("latin-1"))
    with pytest.raises(SystemExit):
        parse_recipe_and_flags(TYPES, [str(path)])
    assert f"{path} is not UTF-8: " in capsys.readouterr().err


def test_flags_of_several_choices_are_saved(parse, tmp_path):
    """As the text that they were."""
    explicit_args = parse("{}", "--debug", "underflow_overflow")[3]
    save_recipe(explicit_args, tmp_path / "saved.yaml")
    assert yaml.safe_load((tmp_path / "saved.yaml").read_text())["debug"] == ["underflow_overflow"]


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("{torch_dtype: nope}", "'torch_dtype'"),
        ("{id2label: 5}", "'id2label'"),
        ("{1: 2}", "1"),
        ("{return_dict: false}", "'return_dict'"),
        ("{output_attentions: true}", "'output_attentions'"),
        ("{to_dict: 1}", "'to_dict'"),
    ],
)
def test_only_our_fields_can_be_overridden(parse, field, named):
    with pytest.raises(ValueError, match=f"config_overrides has {named}, and MAEConfig has no"):
        parse("size: tiny", f"--config_overrides={field}")[0].build_model()


def test_a_configuration_that_is_not_there(parse, tmp_path):
    """A typo doesn't train the default model."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"config\.json of .*empty is missing or empty"):
        parse("{}", f"--config_name={tmp_path / 'empty'}")[0].build_model()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--image_std=1e-300", "image_std is .*; its values must be at least 1e-6"),
        ("--image_std=1e300", "image_std is .*; its values must be at most 1e6"),
        ("--image_mean=-1e300", "image_mean is .*; its values must be at most 1e6"),
        ("--image_mean=nan", "image_mean is .*; its values must be finite"),
    ],
)
def test_statistics_of_pixels(parse, flag, message):
    model_args = parse("size: tiny\nnum_channels: 1", flag)[0]
    with pytest.raises(ValueError, match=message):
        model_args.build_processor(MAEConfig(num_channels=1))


def test_switches_and_truth_values_of_yaml(parse):
    model, _, args, explicit_args = parse(
        "eval_strategy: no\nsave_strategy: off",
        "--norm_pix_loss",
        "--bf16",
        "--no_dataloader_pin_memory",
    )
    assert model.norm_pix_loss
    assert args.bf16
    assert (args.eval_strategy, args.save_strategy) == ("no", "no")
    assert explicit_args["dataloader_pin_memory"] is False


def test_what_can_be_changed_in_a_model(parse, tmp_path):
    MAEForPreTraining(MAEConfig.from_size("tiny", num_hidden_layers=1)).save_pretrained(
        tmp_path / "model"
    )
    flags = [
        f"--model_name_or_path={tmp_path / 'model'}",
        "--mask_ratio=0.5",
        "--image_size",
        "64",
        "96",
    ]
    config = parse("{}", *flags)[0].build_model().config
    assert (config.mask_ratio, config.image_hw, config.num_hidden_layers) == (0.5, (64, 96), 1)
    for flag, name in (
        ("--patch_size=8", "patch_size"),
        ("--config_overrides={heads: 3}", "heads"),
    ):
        with pytest.raises(
            ValueError, match=f"{name} can't be changed in model_name_or_path; image_size, "
        ):
            parse("{}", *flags, flag)[0].build_model()


def test_one_source_of_a_model(parse, tmp_path):
    config = MAEConfig.from_size("tiny", num_hidden_layers=1)
    config.save_pretrained(tmp_path / "config")
    flags = [f"--config_name={tmp_path / 'config'}", "--image_size=64"]
    made = parse("{}", *flags)[0].build_model().config
    assert (made.hidden_size, made.num_hidden_layers, made.image_size) == (192, 1, 64)
    with pytest.raises(ValueError, match="MAEConfig has no field 'heads'"):
        parse("{}", *flags, "--config_overrides={heads: 3}")[0].build_model()
    with pytest.raises(
        ValueError, match="size can't be given beside config_name: each says which model it is"
    ):
        parse("size: tiny", *flags)[0].build_model()


def test_bad_overrides(parse):
    for text, message in (("3", "must be a mapping"), ("{a: [", "is not YAML")):
        with pytest.raises(ValueError, match=message):
            parse("size: tiny", f"--config_overrides={text}")[0].build_model()


@pytest.fixture
def classifier_folder(tmp_path):
    """A probe's model in bfloat16, of the classes a and b."""
    names = {
        "id2label": {0: "a", 1: "b"},
        "label2id": {"a": 0, "b": 1},
        "pooling": "cls",
        "head_batch_norm": True,
    }
    config = MAEConfig.from_size("tiny", num_hidden_layers=1, **names)
    MAEForImageClassification(config).to(torch.bfloat16).save_pretrained(tmp_path / "probe")
    return str(tmp_path / "probe")


def test_heads(classifier_folder):
    """Kept by the same classes and kind, else new with its own spread; always trained in
    float32."""
    saved = MAEForImageClassification.from_pretrained(classifier_folder).classifier.weight.float()
    for arguments, classes, kept, std in (
        (LinearProbeModelArguments, ["a", "b"], True, 0.01),
        (LinearProbeModelArguments, ["c", "d"], False, 0.01),
        (LinearProbeModelArguments, ["a", "b", "c"], False, 0.01),
        (FineTuningModelArguments, ["a", "b"], False, 2e-5),
    ):
        model = arguments(model_name_or_path=classifier_folder).build_model(classes)
        weight = model.classifier.weight
        assert model.dtype == weight.dtype == torch.float32
        assert model.config.id2label == dict(enumerate(classes))
        assert (weight.shape == saved.shape and torch.equal(weight, saved)) == kept
        assert weight.std().item() == pytest.approx(std, rel=0.25)
        probe = arguments is LinearProbeModelArguments
        assert (model.config.pooling, model.config.head_batch_norm) == (
            ("cls", True) if probe else ("mean", False)
        )
    plain = LinearProbeModelArguments(
        model_name_or_path=classifier_folder, head_batch_norm=False
    ).build_model(["a", "b"])
    assert plain.classifier.weight.std().item() == pytest.approx(0.01, rel=0.25)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("birds/train", "birds"),
        ("birds/images/Training", "birds"),
        ("chest xrays/data/train-00000-of-00002.parquet", "chest xrays"),
        ("trains", "trains"),
        ("birds/train.of.1998", "train.of.1998"),
    ],
)
def test_a_data_set_is_named_by_more_than_its_part(folder, name, tmp_path):
    (tmp_path / folder).mkdir(parents=True)
    assert DataArguments(train_dir=str(tmp_path / folder)).source_name == name
    assert DataArguments(dataset_name=str(tmp_path / folder)).source_name == name


def test_a_home_gives_no_name(tmp_path, monkeypatch):
    (tmp_path / "alice" / "data" / "train").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "alice"))
    train_dir = str(tmp_path / "alice" / "data" / "train")
    assert DataArguments(train_dir=train_dir).source_name == "train"
    assert DataArguments(dataset_name="org/train").source_name == "org/train"
