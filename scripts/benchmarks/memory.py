# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What GPUs hold: the memory of training steps, foretold, and the largest batch of each."""

import argparse
from typing import Any

from hf_mae.models.configuration_mae import MAEConfig
from hf_mae.models.memory import largest_batch, needed_on_gpu, training_memory
from hf_mae.models.modeling_mae import MAEForPreTraining


GPUS = (8, 16, 24, 40, 80)  # GiB
LARGEST = 4096  # images, of a batch that is asked about


def needed_memory(config: MAEConfig, batch_size: int, bf16: bool) -> int:
    """Foretells bytes of a GPU that pre-training takes."""
    return needed_on_gpu(training_memory(MAEForPreTraining, config, batch_size, bf16))


def memory_benchmark(args: argparse.Namespace) -> dict[str, Any]:
    """Foretells and prints; `args` are those of `scripts/benchmark.py memory`.

    Returns:
        Size → precision → `bytes` by batch, and `largest`, a batch by GiB of a GPU.
    """
    results: dict[str, Any] = {}
    for size in args.size:
        config = MAEConfig.from_size(size, image_size=args.image_size, norm_pix_loss=True)
        results[size] = {}
        for precision in ("bf16", "fp32"):
            found = foretell(config, args.batch, precision == "bf16")
            results[size][precision] = found
            for batch, needed in found["bytes"].items():
                print(f"{size}, {precision}, batch {batch}: {needed / 2**30:,.1f} GiB")
            for gpu, batch in found["largest"].items():
                print(f"{size}, {precision}, {gpu} GiB: a batch of {batch} at most")
    return results


def foretell(config: MAEConfig, batches: list[int], bf16: bool) -> dict[str, dict[int, int]]:
    """Foretells what batches need, and how large one may be on each GPU."""
    known = {}

    def memory_of(batch_size: int) -> int:
        if batch_size not in known:
            known[batch_size] = needed_memory(config, batch_size, bf16)
        return known[batch_size]

    needed = {batch: memory_of(batch) for batch in batches}
    largest = {gpu: largest_batch(memory_of, LARGEST, gpu * 2**30) for gpu in GPUS}
    return {"bytes": needed, "largest": largest}
