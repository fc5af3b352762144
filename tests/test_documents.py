"""What README.md, docs/ and the model cards show runs as it stands there.

Each document has a folder of its own, in which stand-ins lie under the names that it uses: tiny
models, real photographs. Its blocks run in order, each going on with what those above have made.
What makes them short, and what can't run here, is listed in documents.py.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from documents import NOT_RUN, REPLACED, blocks_of, command_lines, run_line, why_not_run
from helpers import GOLDEN, ROOT, TINY
from tiny_models import save, shaken

import hf_mae
from hf_mae import MAEConfig, MAEForImageClassification, MAEForPreTraining
from hf_mae.conversion.to_transformers import export
from hf_mae.conversion.zoo import ZOO


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CARDS = sorted((ROOT / "model_cards").glob("*.md"))
WITH_CODE = [page for page in PAGES if any(blocks_of(page))]
ZOO_BY_NAME = {model.hub_name: model for model in ZOO.values()}
CLASSES = {i: f"class{i}" for i in range(3)}
LABELS = {"id2label": CLASSES, "label2id": {name: i for i, name in CLASSES.items()}}


@pytest.fixture(scope="session")
def stand_ins(photos, tmp_path_factory):
    """A folder with everything that documents name, but for what is published."""
    folder = tmp_path_factory.mktemp("stand-ins")
    _save_photos(photos, folder / "path" / "to" / "images")
    for name in ("labelled", "held_out", "more"):
        (folder / "path" / "to" / name).symlink_to("images")
    for name in ("photos", "scans"):
        (folder / name).symlink_to("path/to/images")
    shutil.copytree(folder / "photos", folder / "archive")  # find follows no link
    photo = folder / "photos" / "class0" / "0.jpg"
    for name in ("bird.jpg", "cat.jpg", "picture.jpg", "digit.png"):
        shutil.copy(photo, folder / name)
    _save_imagenet(folder / "path" / "to" / "images", folder / "ILSVRC" / "imagenet-1k")
    _save_idx(folder / "fashion-mnist-idx")
    _save_models(folder)
    shutil.copy(GOLDEN / "facebook_mae_encoder_only.pth", folder / "mae_pretrain_vit_base.pth")
    for name in ("scripts", "samples", "examples", "model_cards", "tests"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs", folder / "docs")
    return folder


def _save_photos(photos, folder):
    rng = np.random.default_rng(0)
    for i in range(24):
        left, top = (int(corner) for corner in rng.integers(0, 300, 2))
        path = folder / f"class{i % 3}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photos[i % 2].crop((left, top, left + 80, top + 60)).save(path)


def _save_imagenet(photos, folder):
    paths = sorted(photos.glob("*/*.jpg"))
    rows = {
        "image": [str(path) for path in paths],
        "label": [int(path.parent.name[-1]) for path in paths],
    }
    features = Features(image=ImageFeature(), label=ClassLabel(names=list(CLASSES.values())))
    images = Dataset.from_dict(rows, features=features)
    DatasetDict(train=images, validation=images).save_to_disk(folder)


def _save_idx(folder):
    """Noise in MNIST's format."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for prefix, number in (("train", 80), ("t10k", 40)):
        images = rng.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        labels = (np.arange(number) % 10).astype(np.uint8)
        sizes = np.array(images.shape, ">u4").tobytes()
        header = b"\0\0\x08\x03" + sizes
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = b"\0\0\x08\x01" + sizes[:4]
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


def _save_models(folder):
    """Tiny ones in every kind of folder: ours, transformers' own, and ours for transformers."""
    config = MAEConfig(**TINY)
    pretrained, runs = shaken(MAEForPreTraining(config)), folder / "runs"
    classifier = shaken(MAEForImageClassification(MAEConfig(**{**TINY, **LABELS})))
    head = {"pooling": "cls", "head_batch_norm": True}
    probe = shaken(MAEForImageClassification(MAEConfig(**{**TINY, **LABELS, **head})))
    save(pretrained, runs / "mine")
    save(pretrained, runs / "mae-vit-huge")
    save(classifier, runs / "classifier")
    grey = MAEConfig.from_size("tiny", image_size=32, patch_size=4, num_channels=1)
    save(MAEForPreTraining(grey), runs / "demo")
    for recipe in ("standard", "budget"):  # one of its three runs stands for the others
        for minutes in (1, 6):
            (runs / f"{recipe}-{minutes}").symlink_to(f"{recipe}-3")
    published = {"pretrain": pretrained, "finetune": classifier, "linear_probe": probe}
    for kind, model in published.items():
        processor = hf_mae.MAEImageProcessor.from_model_config(config)
        export(model, processor, folder / "published" / kind)
    for model in ZOO.values():
        name = folder / "hf-mae" / model.hub_name
        name.parent.mkdir(exist_ok=True)
        name.symlink_to(folder / "published" / model.kind)
    (folder / "ORG").mkdir()
    (folder / "ORG" / "mae-vit-huge").symlink_to(folder / "published" / "pretrain")
    theirs = folder / "facebook" / "vit-mae-base"
    large = MAEConfig(**{**TINY, "image_size": 224, "patch_size": 16})
    export(shaken(MAEForPreTraining(large)), processor, theirs, "vit_mae")
    # as the folders on the Hub have it, from the days of feature extractors
    old = {"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "resample": 2}
    old |= {"do_resize": True, "do_normalize": True}
    old |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (theirs / "preprocessor_config.json").write_text(json.dumps(old))


@pytest.fixture
def folder(stand_ins, tmp_path):
    """The stand-ins for one document, which may write there."""
    shutil.copytree(stand_ins, tmp_path / "here", symlinks=True)
    return tmp_path / "here"


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_blocks_run(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    for block in blocks_of(page):
        run(block, folder)


def run(block, folder):
    if block.language == "python":
        code = block.text
        for told, instead in REPLACED.items():
            code = code.replace(told, instead)
        exec(compile(code, str(block), "exec"), {})
    elif block.language == "bash":
        for line in command_lines(block):
            run_command(line, block, folder)
    else:
        assert block.language == "text", f"{block}: say python, bash or text behind the fence"


def run_command(line, block, folder):
    if not why_not_run(line):
        status, output = run_line(line, folder)
        assert status == 0, f"{block}: {line}\n{output}"


def test_code_on_cards_runs(stand_ins, monkeypatch):
    """Of each kind once: what is alike but for the model's name runs the same."""
    monkeypatch.chdir(stand_ins)
    seen = set()
    for card in CARDS:
        for block in blocks_of(card):
            alike = block.text.replace(card.stem, "NAME")
            if block.language == "python" and alike not in seen:
                seen.add(alike)
                exec(compile(block.text, str(block), "exec"), {})
    assert len(seen) >= 4


def test_commands_on_cards_run(folder):
    """As above; those that train differ in their recipes, which tests of recipes read."""
    seen = set()
    for card in CARDS:
        for block in blocks_of(card):
            assert block.language in ("python", "", "bibtex")
            for line in command_lines(block) if block.language == "" else ():
                kind = ZOO_BY_NAME[card.stem].kind
                alike = (kind, *re.findall(r"\S+\.py|--\w+", line))
                if alike not in seen:
                    seen.add(alike)
                    run_command(line, block, folder)
    assert len(seen) >= 5


def test_what_cannot_run_is_in_a_document():
    lines = []
    for page in WITH_CODE:
        for block in blocks_of(page):
            lines += command_lines(block) if block.language == "bash" else []
    reasons = {why_not_run(line) for line in lines}
    assert reasons >= set(NOT_RUN), "entries of NOT_RUN that no document needs"
    assert sum(why_not_run(line) is not None for line in lines) < len(lines) / 2


def test_the_readme_is_short():
    assert (ROOT / "README.md").read_text().count("\n") <= 200


def test_the_reference_has_all_public_names():
    text = (ROOT / "docs" / "api.md").read_text()
    assert sorted(re.findall(r"^::: hf_mae\.(\w+)$", text, flags=re.M)) == sorted(hf_mae.__all__)


def test_the_site_builds(tmp_path):
    """Every link and every name of the reference is found."""
    pytest.importorskip("mkdocs")
    command = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    reference = (tmp_path / "site" / "api.html").read_text()
    for name in hf_mae.__all__:
        assert f'id="hf_mae.{name}"' in reference
    start = (tmp_path / "site" / "index.html").read_text()
    assert 'src="demo.png"' in start
    assert (tmp_path / "site" / "model_cards" / "mae-vit-huge.html").is_file()
    cards = (tmp_path / "site" / "published-models.html").read_text()
    assert 'href="model_cards/mae-vit-huge.html"' in cards


def test_every_page_is_in_the_menu_and_python_parses():
    menu = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES[2:]:
        assert f": {page.name}\n" in menu
    for page in [*PAGES, *CARDS]:
        for block in blocks_of(page):
            if block.language == "python":
                ast.parse(block.text)
