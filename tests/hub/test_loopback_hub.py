"""Publishing to a Hub on this machine, and using what was published from a clean cache."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, run_script
from huggingface_hub import ModelCard
from loopback_hub import loopback_hub
from PIL import Image
from tiny_models import make, save

from hf_mae import MAEImageProcessor


@pytest.fixture
def hub(monkeypatch):
    """A Hub that all processes of the test may ask, and no cache of it."""
    shutil.rmtree(Path(os.environ["HF_HOME"], "hub"), ignore_errors=True)
    with loopback_hub() as hub:
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield hub


def plain_python(code):
    """Runs code where hf_mae can't be imported; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['hf_mae'] = None\n" + code],
        capture_output=True,
        text=True,
        timeout=1800,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def publish(folder, repo_id, *flags, check=True, fresh=False):
    arguments = [
        "--license=apache-2.0",
        f"--model_name_or_path={folder}",
        f"--repo_id={repo_id}",
        *flags,
    ]
    return run_script("publish.py", *arguments, check=check, fresh=fresh)


def test_pre_trained_model_to_hub_and_back(hub, tmp_path):
    """Published after a broken upload, loaded by plain transformers, and fine-tuned by its Hub
    id."""
    model = make("pretrain", norm_pix_loss=True)
    folder = save(model, tmp_path / "own")
    hub.broken_commits = 1
    status, stdout, stderr = publish(folder, "org/mae-vit-huge", check=False)
    assert status == 1
    assert "publish.py: error: " in stderr
    assert "nothing is lost: the same command tries again" in stderr
    assert "Traceback" not in stderr
    output = stdout + stderr + publish(folder, "org/mae-vit-huge", fresh=True)
    repo = hub.repos["org/mae-vit-huge"]
    assert repo["private"]
    assert len(repo["commits"]) == 1
    assert set(repo["commits"][0]) >= {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert hub.token not in output
    assert not any(hub.token.encode() in data for data in repo["commits"][0].values())
    assert not any(hub.token in path.read_text(errors="ignore") for path in folder.iterdir())

    check_plain_transformers(model, "org/mae-vit-huge", tmp_path)
    assert run_card_code(str(repo["commits"][0]["README.md"], "utf-8"), tmp_path)[
        "features"
    ].shape == (1, 17, 48)

    tune_and_publish(hub, tmp_path)


def check_plain_transformers(model, repo_id, folder):
    """Compares what a process without hf_mae computes with what we do."""
    torch.save(
        {"pixel_values": torch.randn(2, 3, 32, 32), "noise": torch.rand(2, 16)},
        folder / "inputs.pt",
    )
    plain_python(
        "import torch\nfrom transformers import AutoImageProcessor, AutoModel, "
        "AutoModelForPreTraining\n"
        f"inputs = torch.load({str(folder / 'inputs.pt')!r})\n"
        f"model = AutoModel.from_pretrained({repo_id!r})\n"
        f"whole = AutoModelForPreTraining.from_pretrained({repo_id!r})\n"
        f"print(type(model), AutoImageProcessor.from_pretrained({repo_id!r}))\n"
        "torch.save([model(**inputs).last_hidden_state, whole(**inputs).loss], "
        f"{str(folder / 'outputs.pt')!r})"
    )
    latent, loss = torch.load(folder / "outputs.pt")
    inputs = torch.load(folder / "inputs.pt")
    torch.testing.assert_close(latent, model.vit(**inputs).last_hidden_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(loss, model(**inputs).loss, rtol=0, atol=1e-5)


def tune_and_publish(hub, tmp_path):
    """Fine-tunes the published model by its Hub id; the new card says from what."""
    flags = [
        "--dataset_name=digits",
        "--max_steps=2",
        "--per_device_train_batch_size=16",
        "--report_to=none",
        "--use_cpu",
    ]
    flags += [
        "--warmup_epochs=0",
        "--eval_strategy=no",
        "--dataloader_num_workers=0",
        f"--output_dir={tmp_path / 'tuned'}",
    ]
    printed = run_script("run_finetune.py", "--model_name_or_path=org/mae-vit-huge", *flags)
    assert "top-1 accuracy" in printed
    facts = json.loads((tmp_path / "tuned" / "card.json").read_text())
    assert facts["base_model"] == "org/mae-vit-huge"

    printed = publish(tmp_path / "tuned", "org/digits")
    assert "note:" not in printed
    del hub.repos["org/mae-vit-huge"]
    assert "note: the card's base_model, org/mae-vit-huge, isn't on the Hub" in publish(
        tmp_path / "tuned", "org/again"
    )
    card = ModelCard(str(hub.repos["org/digits"]["commits"][0]["README.md"], "utf-8"))
    assert (card.data.base_model, card.data.base_model_relation) == ("org/mae-vit-huge", "finetune")
    assert card.data.eval_results[0].metric_value == pytest.approx(
        facts["results"]["top-1 accuracy"], abs=1e-5
    )
    assert "curves.png" in hub.repos["org/digits"]["commits"][0]


def run_card_code(text, folder):
    """Runs a card's blocks of Python as they stand, in a process of its own; returns `features`."""
    Image.new("RGB", (60, 40), "red").save(folder / "picture.jpg")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert len(blocks) == 2
    code = f"import os, torch\nos.chdir({str(folder)!r})\n"
    for i, block in enumerate(blocks):
        code += f"{block}\ntorch.save(features, 'features{i}.pt')\ndel features\n"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=1800, cwd=ROOT)
    features = [torch.load(folder / f"features{i}.pt") for i in range(2)]
    torch.testing.assert_close(*features, rtol=0, atol=1e-5)
    return {"features": features[0]}


def test_classifier_to_hub_and_back(hub, tmp_path, photos):
    folder = save(make("mean"), tmp_path / "own")
    photos[0].save(tmp_path / "temple.png")
    publish(folder, "org/birds", "--public", f"--widget_images={tmp_path / 'temple.png'}")
    repo = hub.repos["org/birds"]
    assert not repo["private"]
    assert len(repo["commits"]) == 1
    printed = plain_python(
        "import json\nfrom transformers import pipeline\n"
        "print(json.dumps(pipeline('image-classification', "
        f"'org/birds')({str(tmp_path / 'temple.png')!r})))"
    )
    found = json.loads(printed.splitlines()[-1])
    card = ModelCard(str(repo["commits"][0]["README.md"], "utf-8"))
    (example,) = card.data.widget
    assert example["src"] == "https://huggingface.co/org/birds/resolve/main/examples/temple.png"
    assert example["output"] == [
        {"label": g["label"], "score": pytest.approx(g["score"], abs=1e-4)} for g in found
    ]
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "transformers")
    assert card.data.pipeline_tag == "image-classification"
    assert "examples/temple.png" in repo["commits"][0]
    # what is gone from the folder is gone from the repository
    publish(folder, "org/birds", "--public")
    assert "examples/temple.png" not in repo["commits"][-1]
    assert "model.safetensors" in repo["commits"][-1]
    # once public, it isn't updated unawares
    status, _, stderr = publish(folder, "org/birds", check=False)
    assert status == 1
    assert "org/birds is there already, and public" in stderr
    assert len(repo["commits"]) == 2


def test_grey_classifier_to_hub_and_back(hub, tmp_path, photos):
    """Pictures of 16 bits among them: the widget's pictures are of 8, which plain transformers
    reads."""
    model = make("grey mean")
    folder = save(model, tmp_path / "own")
    colour = photos[1].resize(
        (64, 37)
    )  # of the shortest edge already, and whole pixels off the middle
    deep = np.asarray(colour.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "xray.png")
    colour.save(tmp_path / "colour.png")
    publish(
        folder,
        "org/xrays",
        "--widget_images",
        str(tmp_path / "xray.png"),
        str(tmp_path / "colour.png"),
    )
    files = hub.repos["org/xrays"]["commits"][0]
    card = ModelCard(str(files["README.md"], "utf-8"))
    (block,) = re.findall(r"```python\n(.*?)```", card.text, flags=re.S)
    processor = MAEImageProcessor.from_model_config(model.config)
    for example, name in zip(card.data.widget, ("xray", "colour"), strict=True):
        (tmp_path / "picture.jpg").write_bytes(files[f"examples/{name}.png"])
        printed = plain_python(
            f"import os\nos.chdir({str(tmp_path)!r})\n"
            + block.replace('pipeline("', 'print(pipeline("')
            + ")"
        )
        (best, *_) = ast.literal_eval(printed.splitlines()[-1])
        assert best["label"] == example["output"][0]["label"]
        assert best["score"] == pytest.approx(example["output"][0]["score"], abs=1e-4)
        with Image.open(tmp_path / f"{name}.png") as picture, torch.no_grad():
            ours = (
                model(**processor(picture, return_tensors="pt")).logits.softmax(dim=1).max().item()
            )
        assert ours == pytest.approx(best["score"], abs=2e-3)  # grey to a level of 256


def test_dry_run_touches_no_network(hub, tmp_path):
    printed = publish(save(make("probe"), tmp_path / "own"), "org/probe", "--dry_run")
    assert "ViTForImageClassification, for org/probe" in printed
    assert re.search(r"[\d,]+ bytes  model\.safetensors", printed)
    assert "library_name: transformers" in printed
    assert not hub.requests
    assert not hub.repos


def test_wrong_token(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_another_secret")
    status, stdout, stderr = publish(
        save(make("probe"), tmp_path / "own"), "org/probe", check=False
    )
    assert status == 1
    assert "401" in stderr
    assert "hf_another_secret" not in stdout + stderr
    assert "Traceback" not in stderr


def test_the_hub_knows_the_licences(hub, tmp_path):
    folder = save(make("mean"), tmp_path / "own")
    status, _, stderr = publish(folder, "org/a", "--license=as-you-like", check=False)
    assert status == 1
    assert '"license" must be one of' in stderr
    assert "Traceback" not in stderr
    assert not hub.repos
