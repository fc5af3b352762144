# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The checkpoints of a run: whole by their manifest, or not used.

A checkpoint is a folder `checkpoint-N` that holds, beside what the Trainer writes, `manifest.json`:
every file with its size and digest, and what the run is made of. It is written last, after all else
has reached the disk; while a checkpoint is being written or deleted, it says that it is unfinished.
"""

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError, safe_open


MANIFEST_FILE = "manifest.json"
_STATE = "trainer_state.json"  # of the Trainer, as is
_SCHEDULER = "scheduler.pt"
_UNFINISHED = {"files": None}
_NOT_TO_ITS_END = "it was not written, or not deleted, to its end"
_CHUNK = 2**22  # bytes
_NAME = re.compile(r"checkpoint-([0-9]+)")


# writing -----------------------------------------------------------------------------------------


def begin_checkpoint(folder: Path) -> None:
    """Marks a checkpoint, which may be there already, as unfinished."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_manifest(folder, _UNFINISHED)


def finish_checkpoint(folder: Path, facts: dict[str, Any]) -> None:
    """Writes the manifest of a checkpoint whose files are all there, once they are on the disk.

    Args:
        folder: The checkpoint.
        facts: What the run is made of, to be compared when it is resumed.
    """
    files = {}
    for path in _files_in(folder):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        files[path.relative_to(folder).as_posix()] = [path.stat().st_size, _digest(path)]
    content = {"facts": facts, "files": files}
    _write_manifest(folder, {**content, "digest": _digest_of(content)})
    _sync_folder(folder.parent)


def delete_checkpoint(folder: Path) -> None:
    """Deletes a checkpoint; what is left of it if that is interrupted counts as unfinished."""
    begin_checkpoint(folder)
    shutil.rmtree(folder, ignore_errors=True)


def rotate_checkpoints(written: Path, keep: int | None, best: str | None) -> None:
    """Deletes the oldest checkpoints, now that another one is whole.

    Args:
        written: The one that was just written, which stays. Those of later steps are damaged, for
            else the run would have gone on from them: they go first.
        keep: Checkpoints to keep; None or 0 for all.
        best: Another one that stays.
    """
    if not keep or keep < 0:
        return
    others = [path for path in numbered_checkpoints(written.parent) if path.name != written.name]
    older = [path for path in others if _step_of(path) < _step_of(written)]
    newer = [path for path in others if path not in older]
    spared = [path for path in others if best and path.name == Path(best).name]
    deletable = [path for path in [*older, *newer] if path not in spared]
    for path in deletable[max(0, keep - 1 - len(spared)) :]:
        delete_checkpoint(path)


def _step_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _write_manifest(folder: Path, content: dict[str, Any]) -> None:
    other = folder / f"{MANIFEST_FILE}.new"
    with other.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(other, folder / MANIFEST_FILE)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk, where the system has that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files_in(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (MANIFEST_FILE, f"{MANIFEST_FILE}.new"):
            yield path


def _digest(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _digest_of(content: dict[str, Any]) -> str:
    """Of what a manifest says, in its order."""
    return xxhash.xxh3_128_hexdigest(json.dumps(content).encode())


# reading -----------------------------------------------------------------------------------------


def numbered_checkpoints(output_dir: str | Path) -> list[Path]:
    """The folders `checkpoint-N` of an output folder, whole or not, the newest first."""
    folders = []
    for path in Path(output_dir).glob("checkpoint-*"):
        if _NAME.fullmatch(path.name) and path.is_dir():
            folders.append(path)
    return sorted(folders, key=_step_of, reverse=True)


def find_checkpoint(
    output_dir: str | Path, tell: Callable[[str], None] | None = None
) -> Path | None:
    """Finds the newest whole checkpoint in a folder.

    Args:
        output_dir: The output folder.
        tell: Is called with a sentence on each that is passed over, and why.
    """
    for path in numbered_checkpoints(output_dir):
        flaw = find_flaw(path)
        if flaw is None:
            return path
        if tell is not None:
            tell(f"{path} is passed over: {flaw}")
    return None


def find_flaw(folder: str | Path) -> str | None:
    """Finds out why a checkpoint can't be resumed; None if it is whole.

    Of one that has a manifest every file is compared with it. One that was written before there
    were manifests has to have the files that a resumed run reads.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return "it is no folder"
    manifest, flaw = _read_manifest(folder)
    if flaw or manifest is None:
        return flaw or _find_flaw_without_manifest(folder)
    for name, (size, digest) in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        found = path.stat().st_size
        if found != size:
            return f"{name} has {found:,} bytes and should have {size:,}"
        if _digest(path) != digest:
            return f"{name} is damaged: it has other content than when it was written"
    if _SCHEDULER not in manifest["files"]:
        return f"it holds no {_SCHEDULER}, as with --save_only_model: there is nothing to resume by"
    return None


def is_unfinished(folder: str | Path) -> bool:
    """Whether a checkpoint was being written, or deleted, when its run was killed.

    That says so in its manifest, or has no file yet.
    """
    folder = Path(folder)
    manifest = folder / MANIFEST_FILE
    if not manifest.is_file():
        return not any(_files_in(folder))
    return _read_manifest(folder)[1] == _NOT_TO_ITS_END


def read_facts(folder: str | Path) -> dict[str, Any] | None:
    """What a run was made of by its checkpoint; None if that has no manifest."""
    manifest, _ = _read_manifest(Path(folder))
    return manifest["facts"] if manifest else None


def content_digest(folder: str | Path) -> str:
    """A short name of what a checkpoint holds for every process; empty if it isn't there.

    Hosts that each have their own folder (`save_on_each_node`) share that and no more.
    """
    manifest, _ = _read_manifest(Path(folder))
    if manifest is None:
        state = Path(folder, _STATE)
        return _digest(state) if state.is_file() else ""
    shared = []
    for name, state in manifest["files"].items():
        if name != _STATE and not name.startswith("rng_state"):
            shared.append((name, state))
    return xxhash.xxh3_64_hexdigest(repr(shared).encode())


def _read_manifest(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """The manifest, if there is one, and what is wrong with it."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None, None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest == _UNFINISHED:
            return None, _NOT_TO_ITS_END
        digest = manifest.pop("digest", None)  # those of earlier versions have none
        is_right = list(manifest) == ["facts", "files"] and isinstance(manifest["facts"], dict)
        is_right &= digest in (None, _digest_of(manifest))
        for size, of_file in manifest["files"].values():
            is_right &= isinstance(size, int) and isinstance(of_file, str)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        is_right = False
    return (manifest, None) if is_right else (None, f"{MANIFEST_FILE} is damaged")


def _find_flaw_without_manifest(folder: Path) -> str | None:
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        step = int(state["global_step"])
    except (OSError, ValueError, LookupError, TypeError):
        return f"{_STATE} is missing or damaged"
    match = _NAME.fullmatch(folder.name)
    if match and int(match[1]) != step:
        return f"{_STATE} says step {step}"
    weights = [*folder.glob("*.safetensors")]
    states = [*folder.glob("*.pt"), *folder.glob("*.pth")]
    names = {path.name for path in states}
    is_sharded = any(path.is_dir() for path in folder.iterdir())  # by FSDP or DeepSpeed
    if _SCHEDULER not in names or not (is_sharded or "optimizer.pt" in names):
        return f"optimizer.pt or {_SCHEDULER} is missing"
    if not (weights or is_sharded):
        return "model.safetensors is missing"
    for path in states:
        if not zipfile.is_zipfile(path):
            return f"{path.name} is damaged"
    for path in weights:
        try:
            with safe_open(path, "pt"):
                pass
        except (OSError, SafetensorError):
            return f"{path.name} is damaged"
    return None
