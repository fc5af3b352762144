# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What the training scripts can be told about the images and their labels."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path

from datasets import Dataset, DatasetDict, IterableDataset

from ..data.class_names import readable_names
from ..data.labels import describe_labels
from ..data.sources import load_image_dataset
from ..data.streaming import load_image_stream
from ..file_names import printable
from ..models.picture_size import MAX_IMAGE_PIXELS, check_limit
from ..models.problem_types import REGRESSION, SINGLE_LABEL


# of folders, files and shards that don't say which data set it is
_NAMES_OF_PARTS = re.compile(
    r"(train(ing)?|test|val(id(ation)?)?|data(sets?)?|images?|imgs?|(un)?labell?ed)"
    r"(-\d+-of-\d+)?(\.(parquet|tar))?",
    re.IGNORECASE,
)


@dataclass
class DataArguments:
    """Which images to train on and to hold out."""

    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Hub id, local folder, table or .tar of a data set, or 'digits'."},
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of the data set."}
    )
    train_dir: str | None = field(default=None, metadata={"help": "Folder of training images."})
    validation_dir: str | None = field(
        default=None, metadata={"help": "Folder of held-out images."}
    )
    train_split: str | None = field(
        default=None, metadata={"help": "Split to train on (default: train)."}
    )
    validation_split: str | None = field(
        default=None,
        metadata={"help": "Split to hold out (default: validation, val, valid or test, if there)."},
    )
    image_column: str | None = field(
        default=None, metadata={"help": "Column of the images (default: found)."}
    )
    label_column: list[str] | None = field(
        default=None,
        metadata={
            "help": "Column of the labels (default: found). It holds a class, a list of labels, or "
            "a float to predict. Or several columns of 0 and 1, one a label: --label_column cat "
            "dog hen."
        },
    )
    train_val_split: float = field(
        default=0.05,
        metadata={
            "help": "Share to hold out if there is no validation split. Of the training images."
        },
    )
    on_bad_image: str = field(
        default="skip",
        metadata={
            "choices": ["skip", "raise"],
            "help": "What to do about a file that can't be decoded. Take another and log it, or "
            "stop.",
        },
    )
    max_image_pixels: int = field(
        default=MAX_IMAGE_PIXELS,
        metadata={
            "help": "Larger JPEGs are decoded smaller, others are bad. They are decoded at reduced "
            "scale, or count as such that can't be decoded."
        },
    )

    def __post_init__(self) -> None:
        check_limit(self.max_image_pixels)

    def load(self, seed: int, labels: bool) -> DatasetDict:
        """Loads the images, with labels if asked for.

        Args:
            seed: Decides which images are held out.
            labels: Whether there must be labels.

        Raises:
            ValueError: something isn't there.
        """
        of_decoding = ("on_bad_image", "max_image_pixels")
        names = [each.name for each in fields(DataArguments) if each.name not in of_decoding]
        sources = {name: getattr(self, name) for name in names}
        return load_image_dataset(**sources, seed=seed, labels=labels)

    def describe_labels(self, images: DatasetDict) -> tuple[str, list[str]]:
        """Says of loaded images the problem type and the classes' names, for people.

        Raises:
            ValueError: there is only one class.
        """
        problem_type, names = describe_labels(images["train"].features["label"])
        if problem_type == REGRESSION:
            return problem_type, self.label_column or names
        if problem_type == SINGLE_LABEL and len(names) < 2:
            raise ValueError(
                f"the images are all of one class, {names[0]!r}; there must be at least two to "
                "tell apart"
            )
        return problem_type, readable_names(names)

    @property
    def source_name(self) -> str:
        """The Hub id or, of folders and files here, the name without the way to it.

        Names that only say which part of a data set it is, as `train`, are passed over for that of
        the folder around it.
        """
        name = str(self.dataset_name or self.train_dir)
        if not Path(name).exists():
            return printable(name)
        whole = Path(name).resolve()
        for path in (whole, *whole.parents):
            if path in (Path.home(), Path(path.anchor)):
                break  # whose home it is, is nobody's business
            if not _NAMES_OF_PARTS.fullmatch(path.name):
                return printable(path.name)
        return printable(whole.name)

    @property
    def hub_id(self) -> str | None:
        """The Hub id of the data set, or None."""
        name = self.dataset_name
        if not name or name == "digits" or Path(name).exists():
            return None
        return name


@dataclass
class StreamArguments(DataArguments):
    """Where the images come from, for pre-training: also from shards that don't fit on the disk."""

    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the shards of a Hub id or folder as they are needed. They are parquet or "
            ".tar files."
        },
    )
    epoch_samples: int | None = field(
        default=None,
        metadata={
            "help": "Of a stream: images an epoch (default: all). That is, as many as its "
            "publisher says that there are."
        },
    )
    shuffle_buffer: int = field(
        default=1000,
        metadata={
            "help": "Of a stream: images that each worker holds, to shuffle. They are undecoded."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        folders = [name for name in ("train_dir", "validation_dir") if getattr(self, name)]
        if self.streaming and folders:
            raise ValueError(
                f"{folders[0]} can't be streamed; give dataset_name, a Hub id or a folder of shards"
            )
        if self.epoch_samples is not None and not self.streaming:
            raise ValueError(
                "epoch_samples is for --streaming; other data sets know how many images they have"
            )
        for name in ("epoch_samples", "shuffle_buffer"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")

    def load_stream(self) -> tuple[IterableDataset, Dataset | None, int]:
        """Opens the shards.

        Returns:
            Training images, held-out images (or None), and the images of an epoch.

        Raises:
            ValueError: it can't be streamed, or doesn't say how many images it has.
        """
        if self.dataset_name is None:
            raise ValueError("streaming needs a dataset_name, a Hub id or a folder of shards")
        if self.dataset_name == "digits" or Path(self.dataset_name).is_file():
            raise ValueError(
                f"dataset_name {self.dataset_name} can't be streamed; a Hub id or a folder of "
                "shards can"
            )
        train, validation, rows = load_image_stream(
            dataset_name=self.dataset_name,
            dataset_config=self.dataset_config,
            train_split=self.train_split,
            validation_split=self.validation_split,
            image_column=self.image_column,
        )
        epoch_samples = self.epoch_samples or rows
        if not epoch_samples:
            raise ValueError(
                "the data set doesn't say how many images it has; give --epoch_samples"
            )
        return train, validation, epoch_samples
