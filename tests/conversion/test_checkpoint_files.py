import argparse
import contextlib
import http.server
import os
import pickle
import re
import runpy
import subprocess
import threading
import zipfile

import numpy as np
import pytest
import torch
from helpers import GOLDEN
from safetensors.torch import save_file

from hf_mae.conversion.checkpoint_files import (
    Inert,
    check_digest,
    download,
    file_digest,
    read_checkpoint,
)


TENSORS = {"a": torch.arange(3.0), "b.c": torch.ones(2, 2)}


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "args", "name"),
    [
        (os.system, ("touch {}",), "posix.system"),
        (eval, ("open('{}', 'w')",), "builtins.eval"),
        (subprocess.Popen, (["touch", "{}"],), "Popen"),
        (runpy.run_path, ("{}",), "runpy.run_path"),
        (np.load, ("{}",), "numpy.load"),
        (
            np.testing._private.utils.runstring,
            ("open('{}', 'w')", {}),
            "numpy.testing._private.utils.runstring",
        ),
        (torch.load, ("{}",), "torch.serialization.load"),
        (torch.hub.load, ("{}", "model"), "torch.hub.load"),
        (getattr, (Call(eval, "open('{}', 'w')"), "name"), "eval"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("how", ["zip", "legacy", "bare pickle"])
def test_code_is_refused_by_name_and_not_run(function, args, name, how, tmp_path):
    marker, path = tmp_path / "it-ran", tmp_path / "evil.pth"
    bad = Call(function, *(arg.format(marker) if isinstance(arg, str) else arg for arg in args))
    content = {"state_dict": TENSORS, "meta": bad}
    if how == "bare pickle":
        path.write_bytes(pickle.dumps(bad))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(ValueError, match=re.escape(name)) as caught:
        read_checkpoint(path)
    assert "is refused" in str(caught.value)
    assert not marker.exists()


def test_the_gadgets_are_real(tmp_path):
    """What is refused above does run where nobody refuses it."""
    path = tmp_path / "evil.pth"
    torch.save(Call(os.system, f"touch {tmp_path / 'it-ran'}"), path)
    torch.load(path, weights_only=False)
    assert (tmp_path / "it-ran").exists()


def test_what_was_allowed_elsewhere_is_not_allowed_here(tmp_path):
    torch.save(
        {"state_dict": TENSORS, "x": Call(os.system, f"touch {tmp_path / 'it-ran'}")},
        tmp_path / "evil.pth",
    )
    with torch.serialization.safe_globals([os.system]):
        with pytest.raises(ValueError, match=r"posix\.system"):
            read_checkpoint(tmp_path / "evil.pth")
        assert os.system in torch.serialization.get_safe_globals()
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_mmengines_and_argparses_objects_become_stubs(legacy, tmp_path):
    extras = {"args": argparse.Namespace(norm_pix_loss=True), "log": np.arange(3)}
    torch.save(
        {"model": TENSORS, **extras}, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy
    )
    tensors, extras = read_checkpoint(tmp_path / "a.pth")
    assert torch.equal(tensors["a"], TENSORS["a"])
    assert isinstance(extras["args"], Inert)
    assert extras["args"].norm_pix_loss is True
    assert isinstance(extras["log"], Inert)
    _, extras = read_checkpoint(GOLDEN / "mmpretrain_mae.pth")
    assert extras["meta"]["mmpretrain_version"] == "1.2.0"


@pytest.mark.parametrize(
    "wrap", [lambda t: t, lambda t: {"state_dict": t}, lambda t: {"model": t, "epoch": 3}]
)
@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_wrappers_and_prefixes(wrap, prefix, tmp_path):
    torch.save(
        wrap({prefix + name: tensor for name, tensor in TENSORS.items()}), tmp_path / "a.pth"
    )
    tensors, _ = read_checkpoint(tmp_path / "a.pth")
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        name: tensor.tolist() for name, tensor in TENSORS.items()
    }


def test_safetensors(tmp_path):
    save_file(TENSORS, tmp_path / "a.safetensors")
    assert read_checkpoint(tmp_path / "a.safetensors")[0].keys() == TENSORS.keys()
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:20])
    with pytest.raises(ValueError, match="or damaged"):
        read_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("size", [0, 4, 1000, 100_000, 400_000])
def test_truncated_files(size, tmp_path):
    (tmp_path / "a.pth").write_bytes((GOLDEN / "facebook_mae.pth").read_bytes()[:size])
    with pytest.raises(
        ValueError, match=r"a\.pth (is no file of torch\.save, or damaged|is refused)"
    ):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02",  # a pickle that stops at its start
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",  # bytes of such a length
        b"\x80\x02\x8a\xff" + b"\x00" * 3,
        b"\x80\x02cargparse\nNamespace\n)\x81}(K\x01",
        b"",
    ],
    ids=["EOF", "length", "long", "stub", "empty"],
)
def test_zip_files_with_a_damaged_pickle(data, tmp_path):
    torch.save(TENSORS, tmp_path / "good.pth")
    with (
        zipfile.ZipFile(tmp_path / "good.pth") as good,
        zipfile.ZipFile(tmp_path / "a.pth", "w") as bad,
    ):
        for name in good.namelist():
            bad.writestr(name, data if name.endswith("data.pkl") else good.read(name))
    with pytest.raises(
        ValueError, match=r"a\.pth (is no file of torch\.save, or damaged|is refused)"
    ):
        read_checkpoint(tmp_path / "a.pth")


def test_damage_anywhere_is_an_error_or_harmless(tmp_path):
    """A byte of the pickle is changed, at 300 places."""
    torch.save(
        {"state_dict": TENSORS, "args": argparse.Namespace(a=[1.5, "b", 10**30])},
        tmp_path / "good.pth",
    )
    with zipfile.ZipFile(tmp_path / "good.pth") as good:
        content = {name: good.read(name) for name in good.namelist()}
    (pickled,) = (name for name in content if name.endswith("data.pkl"))
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(0, len(content[pickled]), 300):
        data = bytearray(content[pickled])
        data[place] = rng.integers(0, 256)
        with zipfile.ZipFile(tmp_path / "a.pth", "w") as bad:
            for name in content:
                bad.writestr(name, bytes(data) if name == pickled else content[name])
        with contextlib.suppress(ValueError):
            read_checkpoint(tmp_path / "a.pth")
            continue
        refused += 1
    assert 100 < refused < 300


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"epoch": 3, "optimizer": {}},
        {"state_dict": {}},
        {"a": TENSORS["a"], "b": 3},
        {0: TENSORS["a"]},
        {"model": {None: TENSORS["a"]}},
    ],
)
def test_files_of_something_else(content, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(
        ValueError,
        match=r"no state dict \(names of tensors\), bare or as state_dict or model; it is ",
    ):
        read_checkpoint(tmp_path / "a.pth")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*missing\.pth"):
        read_checkpoint(tmp_path / "missing.pth")


class Server(http.server.BaseHTTPRequestHandler):
    """Gives a file, in parts if asked; `fail_after` bytes it hangs up, once."""

    content, fail_after, ranges = b"", None, []

    def do_GET(self):
        if self.path.endswith("missing.pth"):
            self.send_error(404)
            return
        start = (
            int(self.headers["Range"].split("=")[1].split("-")[0]) if "Range" in self.headers else 0
        )
        self.ranges.append(start)
        if start >= len(self.content):
            self.send_error(416)
            return
        body = self.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
            )
        self.end_headers()
        if self.fail_after is not None:
            type(self).fail_after, body = None, body[: self.fail_after]
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_OFFLINE", False
    )  # the server is on this machine
    handler = type("Handler", (Server,), {"content": os.urandom(30_000_000), "ranges": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()
        thread.join()


def test_download_goes_on_where_it_stopped(server, tmp_path):
    address, handler = server
    (tmp_path / "a.pth.part").write_bytes(
        handler.content[:3_000_000]
    )  # of a process that was killed
    handler.fail_after = 15_000_000
    # the Hub's client goes on by itself from 2.0 on; before, the same command does
    with contextlib.suppress(OSError):
        download(f"{address}/folder/a.pth", tmp_path)
    path = download(f"{address}/folder/a.pth", tmp_path)
    assert path.read_bytes() == handler.content
    assert handler.ranges[0] == 3_000_000
    assert handler.ranges[1] > 3_000_000
    download(f"{address}/folder/a.pth", tmp_path)
    assert len(handler.ranges) == 2  # not fetched again
    (tmp_path / "a.pth").rename(tmp_path / "a.pth.part")  # killed just before the end
    assert download(f"{address}/folder/a.pth", tmp_path).read_bytes() == handler.content


def test_download_says_what_is_wrong(server, tmp_path):
    address, _ = server
    with pytest.raises(OSError, match=rf"{address}/missing\.pth can't be fetched: .*404"):
        download(f"{address}/missing.pth", tmp_path)
    with pytest.raises(OSError, match="can't be fetched"):
        download("http://127.0.0.1:9/a.pth", tmp_path)


def test_digest(tmp_path):
    (tmp_path / "a").write_bytes(b"hello")
    assert (
        file_digest(tmp_path / "a")
        == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    )
    check_digest(tmp_path / "a", "sha256:2cf24dba")
    check_digest(tmp_path / "a", "md5:5d4140")
    with pytest.raises(ValueError, match="its md5 starts with 5d4140, not with 8cad7c"):
        check_digest(tmp_path / "a", "md5:8cad7c")
