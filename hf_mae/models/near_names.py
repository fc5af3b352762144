# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Names that nobody knows: which of those that there are was meant."""

import difflib
from collections.abc import Iterable


_LIKE_ENOUGH = 0.6  # difflib's ratio


def nearest_names(name: str, names: Iterable[str], count: int = 1) -> list[str]:
    """Finds the names that are nearest to a name, the nearest first; none that is far.

    Example:

    >>> nearest_names("mask_ration", ["mask_ratio", "norm_pix_loss"])
    ['mask_ratio']
    """
    known = {str(each).lower(): str(each) for each in names}
    near = difflib.get_close_matches(name.lower(), known, n=count, cutoff=_LIKE_ENOUGH)
    return [known[each] for each in near]


def did_you_mean(name: str, names: Iterable[str], prefix: str = "") -> str:
    """Hints at the name that is nearest, to end a message with; empty if none is near.

    Args:
        name: What was found.
        names: What there is.
        prefix: Stands before the name, as `--`.

    Example:

    >>> did_you_mean("lable", ["image", "label"])
    '; did you mean label?'
    """
    near = nearest_names(name, names)
    return f"; did you mean {prefix}{near[0]}?" if near else ""
