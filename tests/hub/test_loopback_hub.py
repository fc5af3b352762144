"""Publishing to a Hub on this machine, and using what was published from a clean cache."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import torch
from helpers import ROOT, run_script
from huggingface_hub import ModelCard
from loopback_hub import loopback_hub
from PIL import Image
from safetensors.torch import load_file
from tiny_models import OLDEST, make, save

from hf_mae import MAEImageProcessor


@pytest.fixture
def hub(monkeypatch):
    """A Hub that all processes of the test may ask, and no cache of it."""
    shutil.rmtree(Path(os.environ["HF_HOME"], "hub"), ignore_errors=True)
    with loopback_hub() as hub:
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield hub


def plain_python(code, **environment):
    """Runs code where hf_mae can't be imported; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['hf_mae'] = None\n" + code],
        capture_output=True,
        text=True,
        timeout=1800,
        cwd="/",
        env={**os.environ, **environment},
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
        "pretraining/config.json",
        "pretraining/model.safetensors",
        "pretraining/preprocessor_config.json",
    }
    assert hub.token not in output
    assert not any(hub.token.encode() in data for data in repo["commits"][0].values())
    assert not any(hub.token in path.read_text(errors="ignore") for path in folder.iterdir())

    check_plain_transformers(model, "org/mae-vit-huge", tmp_path)
    if OLDEST.is_dir():
        check_plain_transformers(model, "org/mae-vit-huge", tmp_path, PYTHONPATH=str(OLDEST))
    check_ours(model, "org/mae-vit-huge", tmp_path)
    assert run_card_code(str(repo["commits"][0]["README.md"], "utf-8"), tmp_path)[
        "features"
    ].shape == (1, 17, 48)

    tune_and_publish(hub, tmp_path)


def check_plain_transformers(model, repo_id, folder, **environment):
    """Compares what a process without hf_mae computes, with no flag, with what we do."""
    inputs = {"pixel_values": torch.randn(2, 3, 32, 32), "noise": torch.rand(2, 16)}
    torch.save(inputs, folder / "inputs.pt")
    Image.new("RGB", (48, 32), "red").save(folder / "picture.png")
    printed = plain_python(
        f"""
import os, torch
from transformers import (
    AutoImageProcessor, AutoModel, AutoModelForImageClassification, AutoModelForPreTraining,
    pipeline,
)
os.chdir({str(folder)!r})
inputs = torch.load("inputs.pt")
images = inputs["pixel_values"]
encoder = AutoModel.from_pretrained({repo_id!r})
whole = AutoModelForPreTraining.from_pretrained({repo_id!r}, subfolder="pretraining")
classifier = AutoModelForImageClassification.from_pretrained({repo_id!r}, num_labels=7)
print(type(encoder), type(whole), classifier(images).logits.shape)
print(AutoImageProcessor.from_pretrained({repo_id!r}).size)
features = [encoder(images).last_hidden_state for _ in range(2)]
piped = pipeline("image-feature-extraction", {repo_id!r})("picture.png")
torch.save([*features, whole(**inputs).loss, torch.tensor(piped)], "outputs.pt")
""",
        **environment,
    )
    assert "ViTModel" in printed
    assert "ViTMAEForPreTraining" in printed
    assert "torch.Size([2, 7])" in printed
    features, again, loss, piped = torch.load(folder / "outputs.pt")
    assert torch.equal(features, again)
    expected = model.vit(inputs["pixel_values"]).last_hidden_state  # ordered, of every patch
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(loss, model(**inputs).loss, rtol=0, atol=1e-5)
    processor = MAEImageProcessor.from_model_config(model.config)
    processor.size = {"shortest_edge": 32}
    with Image.open(folder / "picture.png") as picture:
        expected = model.vit(**processor(picture, return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(piped, expected, rtol=0, atol=1e-5)


def check_ours(model, repo_id, folder):
    """Our classes and scripts find the decoder by the Hub id, with the Hub and without it."""
    code = f"""
import os, torch
from hf_mae import MAEForPreTraining
from hf_mae.models.loading import load_model
os.chdir({str(folder)!r})
inputs = torch.load("inputs.pt")
models = [MAEForPreTraining.from_pretrained({repo_id!r}), load_model({repo_id!r})[0]]
torch.save([model.eval()(**inputs).loss for model in models], "outputs.pt")
"""
    for offline in ("0", "1"):
        environment = {**os.environ, "HF_HUB_OFFLINE": offline}
        command = [sys.executable, "-c", code]
        subprocess.run(command, check=True, timeout=1800, cwd=ROOT, env=environment)
        losses = torch.load(folder / "outputs.pt")
        expected = model(**torch.load(folder / "inputs.pt")).loss
        for loss in losses:
            torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)
    arguments = [f"--model_name_or_path={repo_id}", f"--output={folder / 'out.png'}"]
    printed = run_script("reconstruct.py", *arguments, folder / "picture.png")
    assert "1 image in" in printed
    check_features(model, repo_id, folder)
    flags = ["--dataset_name=digits", "--max_steps=1", "--use_cpu"]
    flags += ["--per_device_train_batch_size=16", "--warmup_epochs=0", "--eval_strategy=no"]
    flags += ["--report_to=none", "--dataloader_num_workers=0", "--learning_rate=1e-6"]
    output = folder / "further"
    run_script("run_mae.py", f"--model_name_or_path={repo_id}", *flags, f"--output_dir={output}")
    tensors = load_file(output / "model.safetensors")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=1e-5)


def check_features(model, repo_id, folder):
    arguments = [f"--model_name_or_path={repo_id}", "--features=cls", "--use_cpu"]
    output = folder / "features.npy"
    run_script("extract_features.py", *arguments, "--output", output, folder / "picture.png")
    processor = MAEImageProcessor.from_model_config(model.config)
    processor.size = {"shortest_edge": 32}
    with Image.open(folder / "picture.png") as picture, torch.no_grad():
        expected = model.vit(**processor(picture, return_tensors="pt")).last_hidden_state[:, 0]
    torch.testing.assert_close(torch.tensor(np.load(output)), expected, rtol=0, atol=1e-5)


def test_what_the_cache_knows_of_a_decoder(hub, tmp_path):
    """Of an encoder alone there is none, which the cache remembers; what it doesn't know, it
    says."""
    publish(save(make("pretrain"), tmp_path / "own"), "org/encoder", "--as=vit")
    publish(tmp_path / "own", "org/both")
    code = """
import sys
from hf_mae import MAEForPreTraining, MAEModel
classes = {"MAEModel": MAEModel, "MAEForPreTraining": MAEForPreTraining}
model = classes[sys.argv[1]].from_pretrained(sys.argv[2])
print(model.config.architectures)
"""

    def load(name, repo_id, offline):
        done = subprocess.run(
            [sys.executable, "-c", code, name, repo_id],
            capture_output=True,
            text=True,
            timeout=600,
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": offline},
        )
        return done.stdout + done.stderr

    for offline in ("0", "1"):
        assert "['ViTModel']" in load("MAEForPreTraining", "org/encoder", offline)
    assert "['ViTModel']" in load("MAEModel", "org/both", "0")
    shown = load("MAEForPreTraining", "org/both", "1")
    assert "the Hub can't be asked whether org/both has pretraining/config.json" in shown


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
    name = "größter Tempel #1 50%?.png"
    photos[0].save(tmp_path / name)
    publish(folder, "org/birds", "--public", f"--widget_images={tmp_path / name}")
    repo = hub.repos["org/birds"]
    assert not repo["private"]
    assert len(repo["commits"]) == 1
    printed = plain_python(
        "import json\nfrom transformers import pipeline\n"
        "print(json.dumps(pipeline('image-classification', "
        f"'org/birds')({str(tmp_path / name)!r})))"
    )
    found = json.loads(printed.splitlines()[-1])
    card = ModelCard(str(repo["commits"][0]["README.md"], "utf-8"))
    (example,) = card.data.widget
    address = "https://huggingface.co/org/birds/resolve/main/examples/"
    assert example["src"] == f"{address}gr%C3%B6%C3%9Fter%20Tempel%20%231%2050%25%3F.png"
    assert unquote(urlsplit(example["src"]).path).endswith(f"/main/examples/{name}")
    assert example["output"] == [
        {"label": g["label"], "score": pytest.approx(g["score"], abs=1e-4)} for g in found
    ]
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "transformers")
    assert card.data.pipeline_tag == "image-classification"
    assert f"examples/{name}" in repo["commits"][0]
    # what is gone from the folder is gone from the repository
    publish(folder, "org/birds", "--public")
    assert f"examples/{name}" not in repo["commits"][-1]
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
