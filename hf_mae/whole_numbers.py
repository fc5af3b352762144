# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Whole numbers on a command line, from a least to a greatest."""

import argparse
from collections.abc import Callable


# more processes than a machine has cores
MOST_WORKERS = 4096


def whole(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """Makes the `type` of a flag that takes whole numbers.

    Args:
        low, high: The least and the greatest; by default what libraries have 32 bits for.

    Example:

    >>> whole(1)("32")
    32
    >>> whole(1)("0")
    Traceback (most recent call last):
    argparse.ArgumentTypeError: it is '0'; it must be a whole number from 1 to 2,147,483,647
    """

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:  # also of thousands of digits
            number = None
        if number is None or not low <= number <= high:
            raise argparse.ArgumentTypeError(
                f"it is {text[:40]!r}; it must be a whole number from {low} to {high:,}"
            )
        return number

    return read
