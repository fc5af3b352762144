# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Shards of a prepared set: written whole or not at all, the same bytes for the same rows."""

import io
import json
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, LargeList, List

from .shrinking import ShrunkImage


_ROWS_AT_ONCE = 100  # of a parquet file's row group, as datasets has it for images


class ParquetShard:
    """A parquet file of rows with their images embedded.

    Args:
        path: The file.
        features: Of its columns; `image` is one.
    """

    ending = ".parquet"

    def __init__(self, path: Path, features: Features):
        self._features = features
        self._rows: list[dict[str, Any]] = []
        # statistics of images would be images
        columns: Any = [name for name in features if name != "image"]
        self._writer = pq.ParquetWriter(
            path, features.arrow_schema, use_dictionary=columns, write_statistics=columns
        )

    def add(self, row: dict[str, Any], name: str | None, number: int, image: ShrunkImage) -> None:
        """Adds a row.

        Args:
            row: Its columns but for the image.
            name: Of the original image.
            number: Of the row in its split.
            image: The file.
        """
        self._rows.append({**row, "image": {"bytes": image.data, "path": name}})
        if len(self._rows) == _ROWS_AT_ONCE:
            self._write()

    def close(self) -> None:
        """Writes what is left, and the file's end."""
        if self._rows:
            self._write()
        self._writer.close()

    def _write(self) -> None:
        columns = {}
        for name in self._features:
            columns[name] = [row.get(name) for row in self._rows]
        table = Dataset.from_dict(columns, features=self._features).data.table
        self._writer.write_table(table.cast(self._features.arrow_schema))
        self._rows = []


class TarShard:
    """A tar file as webdataset has them: of each sample the image, and a .json of all else.

    Its arguments and methods are those of `ParquetShard`.
    """

    ending = ".tar"

    def __init__(self, path: Path, features: Features):
        self._features = features
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 # close()

    def add(self, row: dict[str, Any], name: str | None, number: int, image: ShrunkImage) -> None:
        """Adds a sample; its key is made of the image's name and its number, which is unique."""
        key = sample_key(name, number)
        about: dict[str, Any] = {"file_name": name}
        for column, feature in self._features.items():
            if column not in ("image", "file_name"):
                about[column] = _with_names(row.get(column), feature)
        text = json.dumps(about, ensure_ascii=False, default=str)
        self._add_file(key + image.ending, image.data)
        self._add_file(key + ".json", text.encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """Writes the file's end."""
        self._tar.close()

    def _add_file(self, name: str, data: bytes) -> None:
        about = tarfile.TarInfo(name)
        about.size = len(data)
        self._tar.addfile(about, io.BytesIO(data))


def sample_key(name: str | None, number: int) -> str:
    """Makes the key of a sample: an image's name without its ending, and a number.

    Example:

    >>> sample_key("cats/old.cat 1.png", 12)
    'cats/old_cat 1-000000012'
    """
    parts = []
    for part in os.path.splitext(name or "")[0].replace("\\", "/").split("/"):
        clean = re.sub(r"[\0-\x1f\x7f.:]", "_", part)
        if part not in ("", ".", ".."):
            parts.append(clean)
    return f"{'/'.join(parts) or 'image'}-{number:09d}"


def _with_names(value: Any, feature: Any) -> Any:
    """Writes classes by their names, for there is no place for a list of them."""
    if value is None:
        return None
    if isinstance(feature, ClassLabel):
        return None if value < 0 else feature.int2str(value)  # -1 stands for none
    if isinstance(feature, (List, LargeList)):
        return [_with_names(each, feature.feature) for each in value]
    return value


SHARDS = {"parquet": ParquetShard, "webdataset": TarShard}
