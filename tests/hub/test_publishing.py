"""What is published: the folder that is prepared, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from helpers import GOLDEN, TINY, run_script, script_error
from PIL import Image
from test_cards import CLASSIFIER_FACTS, FACTS
from tiny_models import make, save, upstream_tensors

from hf_mae import MAEModel
from hf_mae.conversion.checkpoint_files import read_checkpoint
from hf_mae.conversion.from_others import convert
from hf_mae.conversion.provenance import provenance
from hf_mae.conversion.zoo import ZOO
from hf_mae.errors import reported_as
from hf_mae.hub.cards import ClassifierCard, PlainCard, PreTrainingCard
from hf_mae.hub.publishing import prepare
from hf_mae.output_folder import PROVENANCE_FILE, OutputFolder


def test_held_out_images_are_shown_on_request_only(tmp_path):
    folder = save(make("pretrain"), tmp_path / "own")
    facts = {k: v for k, v in FACTS.items() if k != "config"}
    PreTrainingCard(**facts, config=make("pretrain").config).save_facts(folder)
    for name in ("reconstructions.png", "curves.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    for asked in (False, True):
        publication = prepare(
            folder, "org/a", tmp_path / f"{asked}", license="mit", with_reconstructions=asked
        )
        assert ("reconstructions.png" in publication.files) == asked
        assert ("(reconstructions.png)" in str(publication.card)) == asked
        assert "curves.png" in publication.files
        assert "(curves.png)" in str(publication.card)


def converted(name, **fields):
    path = GOLDEN / f"{name}.pth"
    conversion = convert(*read_checkpoint(path), num_attention_heads=3, image_size=32, **fields)
    return conversion, provenance(conversion, path, None)


def test_a_failed_proof_is_refused(tmp_path):
    conversion, facts = converted("facebook_mae_encoder_only")
    folder = save(conversion.model, tmp_path / "own")
    (folder / PROVENANCE_FILE).write_text(json.dumps(facts))
    publication = prepare(folder, "org/encoder", tmp_path / "out", license="cc-by-nc-4.0")
    assert publication.exported.architecture == "ViTModel"
    assert "Converted from `facebook_mae_encoder_only.pth`" in str(publication.card)
    assert publication.card.data.pipeline_tag == "image-feature-extraction"
    with torch.no_grad():
        conversion.model.layers[0].mlp.fc1.weight[3] += 3
    save(conversion.model, folder)
    message = "this one computes something else: its weights were changed or damaged since"
    with pytest.raises(ValueError, match=message):
        prepare(folder, "org/encoder", tmp_path / "again", license="cc-by-nc-4.0")
    assert not (tmp_path / "again" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{",
            r"conversion\.json is damaged; convert the model again, or delete the file if you "
            r"trained it further",
        ),
        (
            "[1]",
            r"is damaged.*\(it lacks name, source_file, source_format, source_sha256, outputs\)",
        ),
        ('{"name": null}', r"is damaged.*\(it lacks source_file"),
        (None, "says what the converted model computes, and this one computes something else"),
    ],
)
def test_a_damaged_proof_is_refused(text, message, tmp_path):
    conversion, facts = converted("facebook_mae_encoder_only")
    folder = save(conversion.model, tmp_path / "own")
    facts["outputs"]["first"] = None
    (folder / PROVENANCE_FILE).write_text(json.dumps(facts) if text is None else text)
    with pytest.raises(ValueError, match=message):
        prepare(folder, "org/encoder", tmp_path / "out", license="cc-by-nc-4.0")


def test_weights_without_finite_outputs_are_refused(tmp_path):
    conversion, _ = converted("facebook_mae_encoder_only")
    with torch.no_grad():
        conversion.model.layernorm.weight.fill_(3e38)
    with pytest.raises(ValueError, match="last_hidden_state of a fixed input are not all finite"):
        provenance(conversion, GOLDEN / "facebook_mae_encoder_only.pth", None)
    conversion.model.save_pretrained(tmp_path / "own")
    with pytest.raises(
        ValueError, match="gives other last_hidden_state than ours: they differ by (nan|inf)"
    ):
        prepare(tmp_path / "own", "org/encoder", tmp_path / "out", license="mit")


def test_a_published_models_licence_stays(tmp_path):
    conversion, facts = converted("facebook_finetune")
    folder = save(conversion.model, tmp_path / "own")
    (folder / PROVENANCE_FILE).write_text(json.dumps({**facts, "name": "mae_finetuned_vit_base"}))
    message = (
        "license is 'mit'; mae_finetuned_vit_base is published under cc-by-nc-4.0, and stays "
        "so: leave it out"
    )
    with pytest.raises(ValueError, match=message):
        prepare(folder, "me/mine", tmp_path / "out", license="mit")


def test_licence(tmp_path):
    folder = save(make("pretrain"), tmp_path / "own")
    with pytest.raises(ValueError, match="nobody has said under which licence .* give --license"):
        prepare(folder, "org/a", tmp_path / "out")
    card = PlainCard(
        folder="a", config=make("pretrain").config, class_name="MAEForPreTraining", license="mit"
    ).render()
    card.save(folder / "README.md")
    assert prepare(folder, "org/a", tmp_path / "out").card.data.license == "mit"
    (folder / "README.md").write_text("---\nlicense: [mit\n---\n")
    with pytest.raises(
        ValueError, match=r"README\.md has metadata that can't be read; mend it, or give --license"
    ):
        prepare(folder, "org/a", tmp_path / "out")


def test_whose_licence_wins(tmp_path):
    """--license, then card.json, then what somebody wrote into README.md, which may be damaged
    where nobody asks it."""
    folder = save(make("mean"), tmp_path / "own")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    assert OutputFolder.read(folder).stated_license() == "mit"
    ClassifierCard(**CLASSIFIER_FACTS, license="apache-2.0").save_facts(folder)
    (folder / "README.md").write_text("---\nlicense: [mit\n---\n")
    assert OutputFolder.read(folder).stated_license() == "apache-2.0"
    ClassifierCard(**CLASSIFIER_FACTS).save_facts(folder)
    given = prepare(folder, "org/a", tmp_path / "out", license="cc-by-4.0")
    assert given.card.data.license == "cc-by-4.0"


@pytest.mark.parametrize(
    "name",
    [
        "vit-base-p16_mae-1600e-pre_8xb128-coslr-100e_in1k",
        "mae_finetuned_vit_base",
        # without a published file: whose weights, nobody knows
        "vit-base-p16_mae-300e-pre_8xb128-coslr-100e_in1k",
    ],
)
def test_a_published_models_card(name, tmp_path):
    """Weights under a published name get its card and a measured answer; its figures only if they
    are its file's."""
    tensors = upstream_tensors(GOLDEN / "mmpretrain_keys" / "finetune-base.tsv")
    conversion = convert(
        {key: tensor.clone() for key, tensor in tensors.items()}, published=ZOO[name]
    )
    folder = save(conversion.model, tmp_path / "own")
    facts = provenance(conversion, GOLDEN / "mmpretrain_finetune.pth", ZOO[name])
    (folder / PROVENANCE_FILE).write_text(json.dumps(facts))
    publication = prepare(
        folder, "me/mine", tmp_path / "out", license=None if ZOO[name].url else "mit"
    )
    data = publication.card.data
    assert data.base_model.startswith("me/mae-vit-base")
    if ZOO[name].url:
        assert data.license == ZOO[name].license
        assert data.eval_results[0].source_name == ZOO[name].source
    else:
        assert not data.eval_results
        assert "These weights were not measured" in str(publication.card)
    assert len(data.widget[0]["output"]) == 5
    assert data.widget[0]["src"] == "https://huggingface.co/me/mine/resolve/main/examples/china.jpg"
    assert facts["source_sha256"] in str(publication.card)
    assert {"examples/china.jpg", "conversion.json"} <= set(publication.files)


def test_a_model_under_anothers_name_is_refused(tmp_path):
    conversion, facts = converted("facebook_finetune")
    folder = save(conversion.model, tmp_path / "own")
    (folder / PROVENANCE_FILE).write_text(json.dumps({**facts, "name": "mae_finetuned_vit_base"}))
    with pytest.raises(
        ValueError, match="the tensors are not mae_finetuned_vit_base: hidden_size is 48, not 768"
    ):
        prepare(folder, "me/mine", tmp_path / "out")


def test_nothing_private_is_published(tmp_path, photos):
    folder = save(make("mean"), tmp_path / "own")
    recipe = {
        "train_dir": "/home/alice/patients",
        "hub_token": "hf_secret",
        "size": "tiny",
        "dataset_name": "org/birds",
    }
    recipe |= {
        "validation_dir": "data/of alice/held_out",
        "model_name_or_path": "runs-of-alice/pre",
        "learning_rate": 1e-3,
    }
    recipe |= {
        "deepspeed": '{"nvme_path": "/home/alice/n"}',
        "report_to": ["none", "C:\\alice\\logs"],
    }
    ClassifierCard(**CLASSIFIER_FACTS, hub_dataset="org/birds").save_facts(folder)
    (folder / "arguments.yaml").write_text(yaml.safe_dump(recipe))
    exif = Image.Exif()
    exif[270], exif[274] = "GPS home of Alice", 6
    photos[0].save(tmp_path / "photo.jpg", exif=exif)
    prepare(
        folder, "org/a", tmp_path / "out", license="mit", widget_images=[tmp_path / "photo.jpg"]
    )
    kept = yaml.safe_load((tmp_path / "out" / "arguments.yaml").read_text())
    expected = {
        "train_dir": "patients",
        "validation_dir": "held_out",
        "model_name_or_path": "pre",
        "learning_rate": 1e-3,
    }
    expected |= {
        "size": "tiny",
        "dataset_name": "org/birds",
        "deepspeed": {"nvme_path": "n"},
        "report_to": ["none", "logs"],
    }
    assert kept == expected
    with Image.open(tmp_path / "out" / "examples" / "photo.png") as shown:
        assert not shown.getexif()
        assert shown.size == photos[0].size[::-1]  # turned as the camera said
    published = b"".join(
        path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()
    )
    for secret in (b"hf_secret", b"alice", b"home of Alice"):
        assert secret not in published


def test_the_published_command_says_what_the_recipe_leaves_out(tmp_path):
    folder = save(make("pretrain"), tmp_path / "own")
    facts = {**FACTS, "command": "accelerate launch scripts/run_mae.py a/arguments.yaml --x y"}
    PreTrainingCard(**facts).save_facts(folder)
    recipe = {"train_dir": "/home/alice/train", "validation_dir": "val", "learning_rate": 1e-3}
    (folder / "arguments.yaml").write_text(yaml.safe_dump(recipe))
    card = str(prepare(folder, "org/a", tmp_path / "out", license="mit").card)
    assert (
        "```\n"
        "hf download org/a arguments.yaml --local-dir .\n"
        "accelerate launch scripts/run_mae.py arguments.yaml --output_dir runs/again \\\n"
        "    --train_dir path/to/images \\\n"
        "    --validation_dir path/to/held_out\n"
        "```"
    ) in card
    (folder / "arguments.yaml").write_text(yaml.safe_dump({"dataset_name": "digits"}))
    card = str(prepare(folder, "org/a", tmp_path / "again", license="mit").card)
    assert "scripts/run_mae.py arguments.yaml --output_dir runs/again\n```" in card


@pytest.mark.parametrize(("as_", "native"), [("vit", "ViTModel"), ("vit_mae", "ViTMAEForPre")])
def test_one_of_the_two_is_published(as_, native, tmp_path):
    """Its card says nothing of what isn't there."""
    folder = save(make("pretrain"), tmp_path / "own")
    PreTrainingCard(**{**FACTS, "config": make("pretrain").config}).save_facts(folder)
    publication = prepare(folder, "org/a", tmp_path / "out", license="mit", as_=as_)
    assert publication.exported.architecture.startswith(native)
    assert not any(name.startswith("pretraining/") for name in publication.files)
    text = str(publication.card)
    assert 'subfolder="pretraining"' not in text
    assert ("reconstruct" in text) == (as_ == "vit_mae")
    assert ("Here is its encoder alone." in text) == (as_ == "vit")
    with pytest.raises(ValueError, match="as is 'vit', which is for pre-training models, and"):
        prepare(save(make("mean"), folder), "org/a", tmp_path / "no", license="mit", as_="vit")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("arguments.yaml", "x: [", r"arguments\.yaml is no recipe; mend it, or delete it to go on"),
        ("arguments.yaml", "- a", r"arguments\.yaml is no recipe"),
        ("card.json", '{"pictures": null}', r"card\.json is damaged: no card can be made of it"),
        (
            "card.json",
            '{"results": {"a": null}}',
            r"card\.json is damaged: no card can be made of it",
        ),
        ("card.json", '{"epochs": "x"}', r"card\.json is damaged: no card can be made of it"),
    ],
)
def test_damaged_side_files(name, text, message, tmp_path):
    folder = save(make("mean"), tmp_path / "own")
    ClassifierCard(**CLASSIFIER_FACTS).save_facts(folder)
    if name == "card.json":
        text = json.dumps({**json.loads((folder / name).read_text()), **json.loads(text)})
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        prepare(folder, "org/a", tmp_path / "out", license="mit")


def test_what_looks_like_json_and_is_not_keeps_nothing_private(tmp_path):
    folder = save(make("mean"), tmp_path / "own")
    (folder / "arguments.yaml").write_text(yaml.safe_dump({"train_dir": "{/home/alice/photos"}))
    prepare(folder, "org/a", tmp_path / "out", license="mit")
    kept = yaml.safe_load((tmp_path / "out" / "arguments.yaml").read_text())
    assert kept == {"train_dir": "photos"}


def test_no_message_holds_the_token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_alice")
    with pytest.raises(SystemExit) as caught, reported_as("publish.py"):
        raise ValueError("refused: Bearer hf_of_alice")
    assert caught.value.code == "publish.py: error: refused: Bearer (token)"


def test_what_is_wrong_in_a_line(tmp_path):
    own = save(make("mean"), tmp_path / "own")
    wide = save(MAEModel(make("encoder", image_size=(32, 64)).config), tmp_path / "wide")
    for flags, message in [
        (
            [f"--model_name_or_path={own}", "--repo_id=birds"],
            "--repo_id is 'birds'; it must be ORG/NAME",
        ),
        ([f"--model_name_or_path={own}", "--repo_id=a/b/c"], "--repo_id a/b/c: "),
        ([f"--model_name_or_path={tmp_path / 'none'}", "--repo_id=a/b"], "is no folder here"),
        (
            [f"--model_name_or_path={wide}", "--repo_id=a/b", "--license=mit"],
            "image_size is 32 x 64; transformers' own models",
        ),
        (
            [
                f"--model_name_or_path={own}",
                "--repo_id=a/b",
                "--license=mit",
                f"--widget_images={own / 'config.json'}",
            ],
            "cannot identify image file",
        ),
    ]:
        assert message in script_error("publish.py", *flags, "--dry_run"), message


def test_without_a_licence_it_is_shown_and_not_published(tmp_path):
    own = save(make("mean"), tmp_path / "own")
    flags = [f"--model_name_or_path={own}", "--repo_id=a/b"]
    shown = run_script("publish.py", *flags, "--dry_run")
    assert "note: so it can't be published: nobody has said under which licence" in shown
    assert "license:" not in shown
    assert "so it can't be" not in run_script("publish.py", *flags, "--dry_run", "--license=mit")
    said = script_error("publish.py", *flags)  # without a network that comes first
    assert "nothing can be published" in said


def test_the_token_stays_out_of_the_recipe(tmp_path):
    flags = [
        "--dataset_name=digits",
        "--max_steps=1",
        "--hub_token=hf_secret",
        "--use_cpu",
        "--report_to=none",
    ]
    overrides = json.dumps({k: v for k, v in TINY.items() if k not in ("image_size", "patch_size")})
    flags += [
        "--image_size=32",
        "--patch_size=8",
        f"--config_overrides={overrides}",
        "--warmup_epochs=0",
    ]
    run_script("run_mae.py", *flags, "--eval_strategy=no", f"--output_dir={tmp_path / 'run'}")
    for path in Path(tmp_path / "run").rglob("*.*"):
        if path.suffix in (".yaml", ".md", ".json"):
            assert "hf_secret" not in path.read_text(), path
