# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Which files a model has, in a folder here or on the Hub, and where its decoder lies."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers.utils import CONFIG_NAME


# below a published folder, which has the encoder alone in its root
PRETRAINING_FOLDER = "pretraining"
_ENCODERS = ("MAEModel", "ViTMAEModel", "ViTModel")


def architecture(fields: Mapping[str, Any]) -> str:
    """Names the class that a model was saved from, by the fields of its config.json."""
    return (fields.get("architectures") or ["a model of unknown kind"])[0]


def find_pretraining(
    model_name_or_path: str | os.PathLike, fields: Mapping[str, Any], **hub: Any
) -> str | None:
    """Finds encoder and decoder below a folder that holds the encoder alone.

    Args:
        model_name_or_path: Folder or Hub id.
        fields: Of the config.json in its root.
        hub: What `hf_hub_download` takes: revision, token, cache_dir, …

    Returns:
        `PRETRAINING_FOLDER`, or None if the root is what there is.

    Raises:
        OSError: the Hub can't be asked, and the cache doesn't know.
    """
    if architecture(fields) not in _ENCODERS:
        return None
    name = f"{PRETRAINING_FOLDER}/{CONFIG_NAME}"
    return PRETRAINING_FOLDER if has_file(model_name_or_path, name, **hub) else None


def has_file(model_name_or_path: str | os.PathLike, name: str, **hub: Any) -> bool:
    """Whether a folder here, or a repository on the Hub, has a file.

    Raises:
        OSError: the Hub can't be asked, and the cache doesn't know.
    """
    if Path(model_name_or_path).is_dir():
        return Path(model_name_or_path, name).is_file()
    repo_id = str(model_name_or_path)
    try:
        hf_hub_download(repo_id, name, **hub)
    except LocalEntryNotFoundError as error:
        asked = {key: hub.get(key) for key in ("cache_dir", "revision")}
        if try_to_load_from_cache(repo_id, name, **asked) is None:
            raise OSError(
                f"the Hub can't be asked whether {repo_id} has {name}, which the cache doesn't "
                f"know: {error}"
            ) from error
        return False  # the cache remembers that there is none
    except EntryNotFoundError:
        return False
    return True
