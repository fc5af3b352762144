"""predict.py on files, folders, patterns, addresses and standard input; tables in three formats."""

import functools
import gzip
import http.server
import io
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, TINY, run_script, script_command
from loopback_hub import loopback_hub
from torch import nn

from hf_mae import (
    MAEConfig,
    MAEForImageClassification,
    MAEImageProcessor,
    export,
    load_classifier,
    predict,
)


NAMES = ["Käse, jung", "line\nbreak", 'the "third"']


def save_classifier(folder, **fields):
    torch.manual_seed(0)
    config = MAEConfig(**TINY, num_labels=3, id2label=dict(enumerate(NAMES)), **fields)
    model = MAEForImageClassification(config)
    nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    MAEImageProcessor.from_model_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return save_classifier(tmp_path_factory.mktemp("models") / "classifier")


@pytest.fixture(scope="module")
def pictures(photos, tmp_path_factory):
    """Seven small pictures in folders, a broken one and a text."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("a/0.png", "a/1.png", "b/2.png", "b/broken.png", "b/deep/ä.png", "3.jpg", "4.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        left, top = (int(place) for place in rng.integers(0, 300, 2))
        photos[left % 2].crop((left, top, left + 50, top + 40)).save(path)
    (folder / "b/broken.png").write_bytes((folder / "b/broken.png").read_bytes()[:200])
    (folder / "b/notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def run_here(monkeypatch, capsys):
    """Runs predict.py in this process: (status, stdout, stderr)."""

    def run(*arguments, stdin=b""):
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["predict.py", *map(str, arguments)])
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = 0
        try:
            runpy.run_path(str(ROOT / "scripts" / "predict.py"), run_name="__main__")
        except SystemExit as stop:
            status = stop.code
            if isinstance(status, str):
                print(status, file=sys.stderr)
                status = 1
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def address(pictures):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=pictures)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def read_table(file):
    if file.suffix == ".parquet":
        table = pd.read_parquet(file)
    elif file.suffix == ".json":
        table = pd.DataFrame(json.loads(file.read_text(encoding="utf-8")))
    else:
        table = pd.read_csv(file)
    return table.astype(object).where(table.notna(), None)


def passed_over(stderr):
    return re.findall(r"predict.py: (\S+) is passed over: \w+", stderr)


def test_whatever_is_named_is_answered_in_order(
    classifier, pictures, address, tmp_path, run_here, caplog
):
    """As a table in three formats, that are equal, and printed; the answers are `predict`'s."""
    inputs = [pictures / "b", f"{pictures}/*.jpg", f"{address}/a/1.png", "none.png", pictures / "a"]
    names = ["b/2.png", "b/broken.png", "b/deep/ä.png", "3.jpg", "4.jpg"]
    names = [str(pictures / name) for name in names] + [f"{address}/a/1.png", "none.png"]
    names += [str(pictures / "a/0.png"), str(pictures / "a/1.png")]
    arguments = ["--model_name_or_path", classifier, *inputs, "--batch_size=4", "--num_workers=0"]
    tables = []
    for ending in ("csv", "parquet", "json"):
        file = tmp_path / "new" / f"answers.{ending}"
        status, stdout, stderr = run_here(*arguments, "--output", file)
        assert status == 1
        expected = rf"9 images in {file}, 2 of them passed over; [\d.]+ s, [\d.]+ images/s\n"
        assert re.fullmatch(expected, stdout)
        assert passed_over(stderr) == [names[1], "none.png"]
        assert "1 file left out: 1 .txt" in caplog.text
        tables.append(read_table(file))
    assert [path.suffix for path in sorted((tmp_path / "new").iterdir())] == [
        *(".csv", ".json", ".parquet")
    ]
    table = tables[0]
    assert table.equals(tables[1])
    assert table.equals(tables[2])
    assert list(table) == ["image", "error", "label", "score", *(f"score_{n}" for n in NAMES)]
    assert list(table["image"]) == names
    assert (tmp_path / "new/answers.csv").read_bytes().startswith(b"\xef\xbb\xbf")  # of the umlaut

    status, stdout, stderr = run_here(*arguments, "--json")
    assert status == 1
    results = json.loads(stdout)
    assert [result["image"] for result in results] == names
    model, processor = load_classifier(classifier)
    for name, result, (_, row) in zip(names, results, table.iterrows()):
        if row["error"] is not None:
            assert result == {"image": name, "error": row["error"]}
            assert row[2:].isna().all()
            continue
        expected = predict(model, processor, name)
        assert row["label"] == expected[0]["label"]
        assert row["score"] == pytest.approx(expected[0]["score"], abs=1e-6)
        for ours, theirs in zip(result["predictions"], expected):
            assert ours["label"] == theirs["label"]
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-6)
            assert row[f"score_{ours['label']}"] == pytest.approx(theirs["score"], abs=1e-6)


def test_standard_input(classifier, pictures, run_here):
    arguments = ["--model_name_or_path", classifier, "--json", "-"]
    file = pictures / "a/0.png"
    _, expected, _ = run_here(*arguments[:-1], file, pictures / "b/2.png")
    expected = json.loads(expected)
    status, stdout, _ = run_here(*arguments, stdin=f"{file}\n{pictures}/b/2.*\n".encode())
    assert (status, json.loads(stdout)) == (0, expected)
    status, stdout, _ = run_here(*arguments, stdin=file.read_bytes())
    (result,) = json.loads(stdout)
    assert result["image"] == "-"
    assert result["predictions"][0]["score"] == pytest.approx(
        expected[0]["predictions"][0]["score"], abs=1e-6
    )
    status, _, stderr = run_here(*arguments)
    assert status == 1
    assert "predict.py: error: standard input (-) is empty" in stderr


def test_a_row_an_image_whatever_the_model_says_of_it(pictures, tmp_path, run_here):
    """Plain ASCII has no mark in front; native folders and Hub ids answer as the own folder."""
    own = save_classifier(tmp_path / "own", problem_type="multi_label_classification")
    export(*load_classifier(own), tmp_path / "native")
    table = None
    with loopback_hub() as hub:
        files = {path.name: path.read_bytes() for path in (tmp_path / "native").iterdir()}
        hub.repos["org/native"] = {"private": False, "commits": [files]}
        for number, source in enumerate((own, tmp_path / "native", "org/native")):
            file = tmp_path / f"{number}.csv"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
                patch.setenv("HF_HUB_OFFLINE", "0")
                arguments = ["--model_name_or_path", source, pictures / "a", "--output", file]
                status, _, stderr = run_here(*arguments)
            assert status == 0, stderr
            answers = read_table(file)
            table = answers if table is None else table
            assert list(answers) == ["image", "error", *(f"score_{name}" for name in NAMES)]
            for name in NAMES:
                ours, theirs = answers[f"score_{name}"], table[f"score_{name}"]
                assert list(ours) == pytest.approx(list(theirs), abs=1e-4)


def many(pictures, count):
    """So many names, of few pictures, and one that is broken now and then."""
    few = [*sorted((pictures / "a").iterdir()), pictures / "b/broken.png", pictures / "3.jpg"]
    return [str(few[number * 3 // 2 % len(few)]) for number in range(count)]


def wait_until_read(pipe, process):
    """Waits until a process reads a pipe; as long as the returned file is open, it gets nothing."""
    while True:
        assert process.poll() is None, process.communicate()
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody does yet
            time.sleep(0.01)


def test_killed_and_interrupted_it_goes_on(classifier, pictures, tmp_path, run_here, caplog):
    """To the bytes of an unbroken run; it is stopped in the third part, at a pipe."""
    names = many(pictures, count=600)
    pipe = tmp_path / "pipe.png"
    names[550] = str(pipe)
    stdin = "\n".join(names).encode()
    (tmp_path / "names.txt").write_bytes(stdin)
    arguments = ["--model_name_or_path", classifier, "-", "--num_workers=1", "--use_cpu"]
    arguments += ["--batch_size=8"]
    parts = tmp_path / "broken.csv.parts"
    command = script_command("predict.py", *arguments, "--output", tmp_path / "broken.csv")
    os.mkfifo(pipe)
    for end in (signal.SIGKILL, signal.SIGINT):
        with (tmp_path / "names.txt").open() as text:
            process = subprocess.Popen(
                command, stdin=text, stderr=subprocess.PIPE, text=True, start_new_session=True
            )
        writer = wait_until_read(pipe, process)
        while not (parts / "000001.parquet").exists():
            time.sleep(0.01)
        time.sleep(0.5)  # the main process waits for the pipe by now
        os.killpg(process.pid, end)  # as a terminal does
        os.close(writer)
        _, stderr = process.communicate()
    assert process.returncode == 130
    last = stderr.splitlines()[-1]
    assert "predict.py: stopped; answers for 512 of 600 images are kept in" in last
    assert "the same command goes on" in last
    assert "Traceback" not in stderr
    data = (pictures / "a/0.png").read_bytes()

    def feed():  # whoever reads the pipe next
        threading.Thread(target=pipe.write_bytes, args=[data], daemon=True).start()

    feed()
    assert run_here(*arguments, "--output", tmp_path / "whole.csv", stdin=stdin)[0] == 1
    other = save_classifier(parts.parent / "other", problem_type="multi_label_classification")
    wrong = [*arguments[2:], "--output", tmp_path / "broken.csv", "--model_name_or_path", other]
    status, _, stderr = run_here(*wrong, stdin=stdin)
    assert status == 1
    assert "holds parts of answers with other problem_type; remove it" in stderr
    feed()
    status, _, stderr = run_here(*arguments, "--output", tmp_path / "broken.csv", stdin=stdin)
    assert status == 1
    assert "going on after 512 of 600 images" in caplog.text
    assert passed_over(stderr) == [name for name in names if "broken" in name]
    assert (tmp_path / "broken.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not parts.exists()


def test_two_processes_equal_one(classifier, pictures, tmp_path, run_here):
    names = many(pictures, count=300)
    arguments = ["--model_name_or_path", classifier, "--use_cpu", "--num_workers=1"]
    run_here(*arguments, *names, "--output", tmp_path / "one.parquet")
    done = run_script(
        "predict.py", *arguments, *names, "--output", tmp_path / "two.parquet",
        processes=2, check=False,
    )  # fmt: skip
    status, stdout, stderr = done
    assert status == 1
    assert len(stdout.splitlines()) == 1
    assert passed_over(stderr) == [name for name in names if "broken" in name]
    one, two = read_table(tmp_path / "one.parquet"), read_table(tmp_path / "two.parquet")
    assert list(two["image"]) == names
    assert list(one["error"]) == list(two["error"])
    difference = one["score"].astype(float) - two["score"].astype(float)
    assert difference.abs().max() < 1e-5
    status, _, stderr = run_script(
        "predict.py", *arguments, names[0], processes=2, check=False
    )  # fmt: skip
    assert status != 0
    assert "several processes don't print answers; give --output, a file" in stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.png", "--output=x.xlsx"], "output is x.xlsx; its ending says what is written and mus"),
        (["x.png", "--output={folder}"], "its ending"),
        (["{folder}", "--output=x.csv"], "holds no images"),
        (["x.png", "--output=x.csv", "--json"], "--json prints, and --output writes a file"),
        (["x.png", "--batch_size=0"], "--batch_size: it is '0'; it must be a whole number from 1"),
    ],
)
def test_refused_before_the_model_loads(arguments, message, tmp_path, run_here):
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    status, stdout, stderr = run_here("--model_name_or_path=/no/where", *arguments)
    assert status
    assert message in stderr
    assert stdout == ""


def test_broken_weights_stop_it(pictures, tmp_path, run_here):
    folder = save_classifier(tmp_path / "broken")
    model, _ = load_classifier(folder)
    nn.init.constant_(model.classifier.weight, 3e38)  # finite, and answers overflow
    model.save_pretrained(folder)
    for rest in ([], ["--output", tmp_path / "x.csv"]):
        status, _, stderr = run_here("--model_name_or_path", folder, pictures / "a", *rest)
        assert status == 1
        assert "predict.py: error: the model's logits are not finite" in stderr
    assert not (tmp_path / "x.csv").exists()


def test_naming_a_picture_loads_no_data_library(classifier, pictures):
    """They take longer to import than the picture takes to be named."""
    code = (
        "import os, runpy, sys\n"
        "sys.argv = sys.argv[1:]\n"
        "sys.path.insert(0, os.path.dirname(sys.argv[0]))\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally:\n    print(sorted({'datasets', 'pandas', 'timm', 'sklearn'} & {*sys.modules}))\n"
    )
    script = ROOT / "scripts" / "predict.py"
    words = [script, "--model_name_or_path", classifier, "--use_cpu", pictures / "a" / "0.png"]
    process = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert "%" in process.stdout
    assert process.stdout.splitlines()[-1] == "[]", process.stdout


def test_addresses_of_archives_are_read(classifier, pictures, tmp_path):
    """datasets brings their protocols, and isn't loaded before."""
    packed = tmp_path / "0.png.gz"
    packed.write_bytes(gzip.compress((pictures / "a" / "0.png").read_bytes()))
    words = ("--model_name_or_path", classifier, "--use_cpu", f"gzip://0.png::{packed}")
    assert "%" in run_script("predict.py", *words, fresh=True)
