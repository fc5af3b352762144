# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Files of weights that others wrote: fetched, checked, and read without running their code."""

import contextlib
import hashlib
import pickle
import pickletools
import re
import struct
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from ..errors import NETWORK_ERRORS
from ..models.network import why_unreachable


# what mmengine and the authors' training loop leave beside the tensors: logs and arguments. Their
# classes are not looked up; a stub stands in for each name.
_STUBBED = (
    "argparse.Namespace",
    "builtins.getattr",  # how mmengine's logs name their methods
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
)
_STUBBED_PACKAGE = "mmengine."
_OF_TENSORS = re.compile(r"torch\.\w+Storage|torch\._utils\._rebuild_\w+|collections\.OrderedDict")
# what unpickling raises on files that are cut off or damaged; a length that was hit asks for any
# amount of memory
_DAMAGE = (
    RuntimeError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    MemoryError,
    OverflowError,
    struct.error,
)
_WRAPPERS = ("state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and of torch.compile
# torch's format before 1.6: a number, the version, the system, the object, the storages' keys
_NUM_LEGACY_PICKLES = 5


class Inert:
    """Stands in for an object of another package.

    It takes whatever a pickle does to it, and does nothing.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def download(url: str, folder: str | Path) -> Path:
    """Fetches a file, going on where an earlier attempt stopped, with a progress bar.

    Args:
        url: http(s) address.
        folder: Where to.

    Returns:
        Path of the file; it is not fetched again if it is there.

    Raises:
        OSError: the server doesn't give it.
    """
    path = Path(folder) / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    reason = why_unreachable(url)
    if reason is not None:
        raise OSError(
            f"{url} can't be fetched: its server can't be reached ({reason}); fetch it where there "
            f"is a network, and put it into {path.parent} or name it by --checkpoint"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("ab") as file:
            try:
                http_get(url, file, resume_size=file.tell(), displayed_filename=path.name)
            except HfHubHTTPError as error:
                if error.response.status_code != 416:  # nothing is left to fetch
                    raise
    except NETWORK_ERRORS as error:
        if isinstance(error, OSError) and not isinstance(error, HfHubHTTPError) and error.errno:
            raise  # the disk's
        raise OSError(
            f"{url} can't be fetched: {str(error).splitlines()[0]}; {part.stat().st_size:,} bytes "
            "are kept, the same command goes on from there"
        ) from error
    part.rename(path)
    return path


def file_digest(path: str | Path, algorithm: str = "sha256") -> str:
    """Computes the hexadecimal digest of a file."""
    digest = hashlib.new(algorithm)
    with Path(path).open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def check_digest(path: str | Path, expected: str) -> None:
    """Checks that a file is the published one.

    Args:
        path: The file.
        expected: "sha256:" or "md5:" and the first digits.

    Raises:
        ValueError: it is another.
    """
    algorithm, digits = expected.split(":")
    found = file_digest(path, algorithm)
    if not found.startswith(digits):
        raise ValueError(
            f"{path} is not the published file: its {algorithm} starts with "
            f"{found[: len(digits)]}, not with {digits}; "
            "if it was downloaded, delete it and fetch it again"
        )


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads tensors and plain containers of a file that may be anybody's; no code in it is run.

    Args:
        path: A .safetensors file, or what torch.save wrote. mmengine's and argparse's objects in it
            become `Inert`.

    Returns:
        state_dict: name → tensor, mapped from the file, not read into memory; unwrapped, and
            without the prefixes of DistributedDataParallel and torch.compile.
        extras: What else the file holds (`meta`, `args`, …).

    Raises:
        ValueError: it is damaged, holds no state dict, or asks for anything but tensors, which the
            message names.
        OSError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    content = _load_safetensors(path) if path.suffix == ".safetensors" else _load_pickle(path)
    content, extras = _unwrap(content)
    if not _is_state_dict(content):
        raise ValueError(
            f"{path} holds no state dict (names of tensors), bare or as {' or '.join(_WRAPPERS)}; "
            f"it is {_describe(content)}"
        )
    return _without_prefixes(content), extras


def _unwrap(content: Any) -> tuple[Any, dict[str, Any]]:
    """What a file holds under the usual names of a state dict, and the rest of it."""
    if not isinstance(content, dict):
        return content, {}
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), dict):
            extras = {name: value for name, value in content.items() if name != wrapper}
            return content[wrapper], extras
    return content, {}


def _is_state_dict(content: Any) -> bool:
    if not isinstance(content, dict) or not content:
        return False
    named = all(isinstance(name, str) for name in content)
    return named and all(isinstance(value, Tensor) for value in content.values())


def _describe(content: Any) -> str:
    if not isinstance(content, dict):
        return type(content).__name__
    names = [str(name) for name in content]
    shown = ", ".join(names[:8])
    return f"a mapping of {shown}, …" if len(names) > 8 else f"a mapping of {shown}"


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or damaged: {error}") from error


def _load_pickle(path: Path) -> Any:
    try:
        with _stubs([]):
            asked_for = get_unsafe_globals_in_checkpoint(path)
        refused = [name for name in asked_for if not _is_stubbed(name)]
        mmap = True
    except (*_DAMAGE, pickle.UnpicklingError):  # not a zip file: torch's format before 1.6
        asked_for = [name for name in _globals_of_pickles(path) if _is_stubbed(name)]
        refused = []
        mmap = False
    if refused:
        raise _refusal(path, refused)
    try:
        with _stubs(asked_for), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
    except pickle.UnpicklingError as error:
        names = [name for name in _globals_of_pickles(path) if not _is_allowed(name)]
        raise _refusal(path, names or ["what torch.load doesn't know"]) from error
    except _DAMAGE as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{path} is no file of torch.save, or damaged: {lines[0]}") from error


def _is_stubbed(name: str) -> bool:
    return name in _STUBBED or name.startswith(_STUBBED_PACKAGE)


def _is_allowed(name: str) -> bool:
    return _is_stubbed(name) or _OF_TENSORS.fullmatch(name) is not None


def _refusal(path: Path, names: Iterable[str]) -> ValueError:
    return ValueError(
        f"{path} is refused: to load it is to call {', '.join(sorted(names))}, and a file of "
        "weights has no need for more than tensors, numbers, strings, lists and dictionaries. "
        "Nothing of it was run"
    )


def _globals_of_pickles(path: Path) -> set[str]:
    """What the pickles of a file that is not a zip name, read without loading them."""
    names: set[str] = set()
    strings: list[str] = []
    with path.open("rb") as file, contextlib.suppress(ValueError):
        for _ in range(_NUM_LEGACY_PICKLES):
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    name = str(argument).replace(" ", ".")
                    names.add(name.replace("__builtin__", "builtins"))  # as Python 2 called it
                elif opcode.name == "STACK_GLOBAL":
                    names.add(".".join(strings[-2:]))
                elif isinstance(argument, str):
                    strings.append(argument)
    return names


@contextlib.contextmanager
def _stubs(names: Iterable[str]) -> Iterator[None]:
    """For as long as it lasts, torch.load takes these names for stubs.

    It knows no other that was allowed before.
    """
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        torch.serialization.add_safe_globals([(Inert, name) for name in names])
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)


def _without_prefixes(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in (*_PREFIXES, *_PREFIXES):  # each may stand before the other
        if all(name.startswith(prefix) for name in state_dict):
            state_dict = {name.removeprefix(prefix): tensor for name, tensor in state_dict.items()}
    return state_dict
