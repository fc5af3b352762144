# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Names of classes: their form, how people read them, and how a model's and a data set's match."""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

from transformers.utils import logging

from ..file_names import one_line


logger = logging.get_logger(__name__)


def composed(name: str) -> str:
    """A name in Unicode's composed form, NFC: é as one character.

    macOS writes it as two, and the same class would have two names.
    """
    return unicodedata.normalize("NFC", name)


def merge_forms(names: Sequence[str], place: str) -> list[str]:
    """Brings names into one form, in their order; says if two became one, and if two are near.

    Args:
        names: Of classes.
        place: What and where they are, for the message.

    Example:

    >>> merge_forms(["caf\u00e9", "tea"], "folders")
    ['café', 'tea']
    """
    merged = list(dict.fromkeys(map(composed, names)))
    if len(merged) < len(names):
        forms = Counter(map(composed, names))
        twice = [name for name, count in forms.items() if count > 1]
        logger.warning(
            f"{len(names) - len(merged)} of the {len(names)} {place} differ from another one in "
            f"their Unicode form alone and are one class with it: {first_names(twice)}"
        )
    _report_near(merged)
    return merged


def _report_near(names: Sequence[str]) -> None:
    first: dict[str, str] = {}
    pairs = []
    for name in names:
        other = first.setdefault(" ".join(name.split()).casefold(), name)
        if other != name:
            pairs.append(f"{other!r} and {name!r}")
    if pairs:
        logger.warning_once(
            f"class names that differ in case or blanks alone stay classes of their own: "
            f"{first_names(pairs)}"
        )


def first_names(names: Sequence[str]) -> str:
    """Lists the first ten names, for messages."""
    more = ", …" if len(names) > 10 else ""
    return ", ".join(map(one_line, names[:10])) + more


def readable_names(names: Sequence[str]) -> list[str]:
    """Class names for people: ImageNet's where all are WordNet numbers, else as they are.

    Example:

    >>> readable_names(["n01440764", "n03126707"])
    ['tench, Tinca tinca', 'crane (n03126707)']
    """
    from timm.data.imagenet_info import ImageNetInfo  # timm takes long to import

    known = ImageNetInfo()
    try:
        readable = [known.label_name_to_description(name) for name in names]
    except KeyError:
        return list(names)
    # two of ImageNet's classes are called crane, and would become one
    count = Counter(known.label_descriptions())
    return [text if count[text] < 2 else f"{text} ({name})" for text, name in zip(readable, names)]


def match_classes(names: Sequence[str], id2label: Mapping[int, str]) -> list[int]:
    """Finds the number that a model has for each class of a data set, by name.

    Their orders may differ, and the Unicode forms of the names. A model without names is taken to
    have the data set's order.

    Args:
        names: Class names of the data set, in its order.
        id2label: Number → name, of the model.

    Returns:
        A number a name.

    Raises:
        ValueError: the model doesn't know a class.

    Example:

    >>> match_classes(["cat", "dog"], {0: "dog", 1: "cat", 2: "cow"})
    [1, 0]
    """
    labels = [composed(id2label[number]) for number in sorted(id2label)]
    names = [composed(name) for name in names]
    unnamed = [f"LABEL_{number}" for number in range(len(labels))]
    if labels == unnamed and len(names) == len(labels):
        return list(range(len(names)))
    count = Counter(labels)
    label2id = {label: number for number, label in enumerate(labels) if count[label] == 1}
    for spelling in (names, readable_names(names)):
        numbers = [label2id.get(name) for name in spelling]
        if len(names) == len(labels) == 1000:
            numbers = _fill_imagenet_gaps(numbers)
        known = [number for number in numbers if number is not None]
        if len(known) == len(names):
            return known
    unknown = [name for name in names if name not in label2id]
    raise ValueError(
        f"the model doesn't know {len(unknown)} of the data set's {len(names)} classes, as "
        f"{unknown[0]!r}; it knows {first_names(labels)}"
    )


def _fill_imagenet_gaps(numbers: list[int | None]) -> list[int | None]:
    """Gives classes that have no number their own place, if they are few and it is free.

    A few of ImageNet's thousand names are spelt in several ways; its order is the same everywhere.
    """
    missing = [place for place, number in enumerate(numbers) if number is None]
    if len(missing) >= 100 or set(missing) & set(numbers):
        return numbers
    return [place if number is None else number for place, number in enumerate(numbers)]
