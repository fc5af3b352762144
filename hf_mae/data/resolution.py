# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Progressive resolution: small images first."""


class TransformSchedule:
    """Transforms one after the other.

    Args:
        starts: First epoch (0 and more) → transform.

    Example:

    >>> TransformSchedule({0: "small", 60: "large"}).at(59.5)
    'small'
    """

    def __init__(self, starts):
        self.starts = dict(sorted(starts.items()))

    def at(self, epoch):
        """The transform of an epoch."""
        return [transform for start, transform in self.starts.items() if start <= epoch][-1]
