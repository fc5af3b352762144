# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Whether a server answers, asked once: libraries ask again and again before they say so."""

import os
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import get_session, validate_repo_id
from transformers.utils import logging


# as in errors.py, which doesn't travel with a model's code
NETWORK_ERRORS: tuple[type[Exception], ...] = HfHubHTTPError.__bases__  # pyright: ignore[reportAssignmentType]
_PATIENCE = 3  # seconds
_have_answered: set[str] = set()
_given_up: list[str] = []  # why the Hub isn't asked any more

logger = logging.get_logger(__name__)


def why_unreachable(address: str) -> str | None:
    """Says why a server doesn't answer; None if it does, whatever the answer.

    Args:
        address: http(s) address of anything on it.
    """
    parts = urlsplit(address)
    server = f"{parts.scheme}://{parts.netloc}"
    if server in _have_answered:
        return None
    reasons = []

    def ask() -> None:
        try:
            get_session().head(server, timeout=_PATIENCE)
            _have_answered.add(server)
        except NETWORK_ERRORS as error:
            reasons.append(" ".join(str(error).split()) or type(error).__name__)

    # a thread of its own, for nobody says how long the search for a name may take
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE + 1)
    if server in _have_answered:
        return None
    return reasons[0] if reasons else f"no answer within {_PATIENCE} s"


def why_no_hub() -> str | None:
    """Says why the Hub isn't asked; None if it can be."""
    if constants.HF_HUB_OFFLINE:
        return _given_up[-1] if _given_up else "HF_HUB_OFFLINE is set"
    return why_unreachable(constants.ENDPOINT)


def reach_model(
    model_name_or_path: str | os.PathLike,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    **options: Any,
) -> None:
    """Looks whether a model can be had; where the Hub doesn't answer, from its cache alone.

    Then this process asks the Hub no more, and that is said.

    Args:
        model_name_or_path: Folder or Hub id.
        cache_dir: Of the Hub's files; by default the usual one.
        local_files_only: The Hub isn't asked.
        options: What else `from_pretrained` takes, which doesn't matter.

    Raises:
        OSError: it is on the Hub, which doesn't answer, and the cache doesn't have it.
    """
    name = os.fspath(model_name_or_path)
    if constants.HF_HUB_OFFLINE or local_files_only:
        return
    if Path(name).exists() or not _is_hub_id(name):
        return
    reason = why_no_hub()
    if reason is None:
        return
    cached = repo_folder_name(repo_id=name, repo_type="model")
    if not Path(cache_dir or constants.HF_HUB_CACHE, cached, "snapshots").is_dir():
        raise OSError(
            f"{name} is no folder here, and the Hub can't be reached ({reason}), nor does its "
            "cache have it; name a folder of this machine, or fill the cache where there is a "
            "network (hf download) and set HF_HUB_OFFLINE=1"
        )
    logger.warning(f"the Hub can't be reached ({reason}); {name} is taken from its cache")
    constants.HF_HUB_OFFLINE = True
    _given_up.append(reason)


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
