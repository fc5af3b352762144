"""What a user names → images in order; and images → batches, whatever is among them."""

import http.server
import io
import os
import sys
import threading
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from helpers import encoded
from PIL import Image

from hf_mae import ImageSamples, MAEImageProcessor
from hf_mae.data.transforms import ProcessorTransform
from hf_mae.inference.images import (
    as_dataset,
    find_images,
    find_images_once,
    images_digest,
    read_batches,
)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """b.png, a/c.png, a/deep/d.png, "e[1].png", and what is no picture."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("b.png", "a/c.png", "a/deep/d.png", "e[1].png")):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 20), 60 * number).save(name)
    Path("a/notes.txt").write_text("no picture")
    Path("nothing").mkdir()
    return tmp_path


def paths(*inputs):
    return [row["image"]["path"] for row in find_images(inputs)]


def digest_of(inputs):
    return images_digest(as_dataset(find_images(inputs)))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["b.png", "a", "b.png"], ["b.png", "a/c.png", "a/deep/d.png", "b.png"]),
        (["e[1].png", "[b]*.png"], ["e[1].png", "b.png"]),
        (["*/*.png"], ["a/c.png"]),
        (["**/*.png"], ["a/c.png", "a/deep/d.png", "b.png", "e[1].png"]),
        (["a/**"], ["a/c.png", "a/deep/d.png", "a/notes.txt"]),
        (["**/deep"], ["a/deep/d.png"]),
        (["no*.png", "none.png"], ["no*.png", "none.png"]),
        (["https://host/x.png?[1]*"], ["https://host/x.png?[1]*"]),
    ],
)
def test_images_are_found_in_the_order_of_their_names(pictures, inputs, expected):
    assert paths(*inputs) == expected


def test_what_is_no_picture_is_counted(pictures, caplog):
    with pytest.raises(ValueError, match="the folder nothing holds no images"):
        paths("nothing")
    Path("nothing/notes.txt").touch()
    with pytest.raises(ValueError, match=r"holds no images \(1 file left out: 1 .txt\)"):
        paths("nothing")


def type_in(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_standard_input_is_names_or_an_image(pictures, monkeypatch):
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("L", (20, 20)).save(name)
    lines = b"\xef\xbb\xbfb.png\r\n\na\n"
    type_in(monkeypatch, lines)
    assert paths("-", "e[1].png") == ["b.png", "a/c.png", "a/deep/d.png", "e[1].png"]
    type_in(monkeypatch, os.fsencode(name) + b"\nb.png")
    assert paths("-") == [r"caf\xe9.png", "b.png"]
    data = Path("b.png").read_bytes()
    type_in(monkeypatch, data)
    (row,) = find_images_once(["-"], PartialState(cpu=True))
    assert row == {"image": {"bytes": data, "path": "-"}}
    type_in(monkeypatch, b" \n")
    with pytest.raises(ValueError, match="standard input .* is empty"):
        find_images_once(["-"], PartialState(cpu=True))


def test_names_and_bytes_make_the_digest(pictures, monkeypatch):
    digests = [digest_of(inputs) for inputs in (["b.png"], ["a"], ["b.png", "a"])]
    for data in (Path("b.png").read_bytes(), Path("a/c.png").read_bytes()):
        type_in(monkeypatch, data)
        digests.append(digest_of(["-"]))
    assert len(set(digests)) == 5
    assert digests[0] == digest_of(["b.png"])


class _Files(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if "busy" in self.path:
            return self.send_error(503)
        if "short" in self.path:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            return self.wfile.write(b"\x89PNG")
        return super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def address(pictures):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_no_image_stops_the_others(pictures, address, num_workers):
    """Addresses and files, each with what may be wrong with them, in batches of four."""
    Path("b.png").rename("b ü.png")
    Path("broken.png").write_bytes(encoded(Image.new("L", (300, 300), 7))[:60])
    expected = {
        "a/c.png": None,
        f"{address}/a/c.png": None,
        f"{address}/b ü.png": None,
        f"{address}/none.png": "answers 404",
        f"{address}/busy.png": "answers 503",
        f"{address}/short.png": "IncompleteRead",
        "http://127.0.0.1:1/x.png": "refused",
        "nosuch://host/x.png": "nosuch",
        "broken.png": "truncated",
        "a/notes.txt": "cannot identify image file",
        "gone.png": "No such file",
        "a/deep/d.png": None,
    }
    transform = ProcessorTransform(MAEImageProcessor.from_dict({}))
    samples = ImageSamples(find_images(list(expected)), transform, num_channels=3, seed=0)
    batches = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    found = list(read_batches(samples, batches, num_workers))
    assert [batch.indices for batch in found] == batches
    for batch in found:
        for name, error in zip(batch.names, batch.errors):
            wanted = expected[name]
            assert (error is None) == (wanted is None), (name, error)
            assert wanted is None or wanted in error
            assert error is None or len(error.splitlines()) == 1
    assert [batch.readable for batch in found] == [[0, 1, 2], [], [3]]
    assert found[1].pixel_values is None
    alone = samples[0]["pixel_values"]
    assert torch.equal(found[0].pixel_values[0], alone)
    assert torch.equal(found[0].pixel_values[1], alone)
    assert found[0].pixel_values.shape == (3, 3, 224, 224)


def test_labels_come_as_the_data_set_has_them(digits, labelled_digits):
    transform = ProcessorTransform(MAEImageProcessor())
    samples = ImageSamples(labelled_digits["validation"], transform, num_channels=3, seed=0)
    (batch,) = read_batches(samples, [[5, 2]])
    assert batch.labels == [labelled_digits["validation"][number]["label"] for number in (5, 2)]
    assert batch.names == ["row 5", "row 2"]


def test_files_that_change_make_another_digest(pictures):
    images = as_dataset(find_images(["a", "b.png"]))
    before = images_digest(images)
    assert images_digest(images) == before
    Image.new("L", (20, 20), 7).save("b.png")
    assert images_digest(images) != before


@pytest.mark.parametrize("separator", [b"\n", b"\0"])
@pytest.mark.parametrize("first", [b"gone.png", b"a/*.png", b"https://example.com/x.png"])
def test_names_in_any_encoding(pictures, monkeypatch, separator, first):
    Image.new("L", (20, 20)).save(os.fsdecode(b"caf\xe9.png"))
    type_in(monkeypatch, separator.join([first, b"b.png", b"caf\xe9.png"]))
    found = [row["image"]["path"] for row in find_images(["-"])]
    assert found[0] in (first.decode(), "a/c.png")
    assert found[-2:] == ["b.png", "caf\\xe9.png"]


def test_what_powershell_writes(pictures, monkeypatch):
    type_in(monkeypatch, "b.png\r\na/c.png\r\n".encode("utf-16"))
    assert [row["image"]["path"] for row in find_images(["-"])] == ["b.png", "a/c.png"]


def test_errors_are_the_same_each_time(pictures):
    transform = ProcessorTransform(MAEImageProcessor())
    samples = ImageSamples(find_images(["a/notes.txt"]), transform, num_channels=3, seed=0)
    errors = [next(iter(read_batches(samples, [[0]]))).errors for _ in range(2)]
    assert errors == [["UnidentifiedImageError: cannot identify image file"]] * 2
