# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""How fast a model trains and classifies, and in how much memory, beside the peers.

Speed is also given as a share of what the machine can multiply.
"""

import argparse
import contextlib
import gc
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import psutil
import torch

from hf_mae.free_memory import return_free_memory
from hf_mae.models import costs
from hf_mae.models.configuration_mae import MAEConfig
from hf_mae.models.costs import count_flops
from hf_mae.training.optimization import parameter_groups

from .peers import ASK_FOR_VALUES, CLASSIFIERS, PRETRAINING
from .timing import environment, interleaved, ratios


class _Work:
    """A model with a batch of noise, to be run again and again.

    Args:
        name: Whose model.
        config: `MAEConfig`.
        batch: Images.
        device: `torch.device`.
        bf16: Whether to compute in bfloat16, by autocast.
        compiled: Whether to compile the model.
    """

    models: Mapping[str, Callable[[MAEConfig], tuple[torch.nn.Module, Callable[..., torch.Tensor]]]]

    def __init__(
        self,
        name: str,
        config: MAEConfig,
        batch: int,
        device: torch.device,
        bf16: bool = False,
        compiled: bool = False,
    ):
        torch.manual_seed(0)
        model, self.run = self.models[name](config)
        self.model = model.to(device)
        if compiled:
            self.run = torch.compile(self.run, dynamic=False)  # else for any batch, having met two
        self.pixel_values = torch.randn(batch, config.num_channels, *config.image_hw, device=device)
        self.autocast = (
            torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
        )

    @property
    def num_parameters(self) -> int:
        """Those that are trained."""
        return sum(
            parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad
        )

    def forward(self):
        with self.autocast:
            return self.run(self.model, self.pixel_values)


class TrainingStep(_Work):
    """Forward, backward and AdamW of one batch, as the Trainer does them."""

    models = PRETRAINING

    def __init__(self, *arguments):
        super().__init__(*arguments)
        groups = parameter_groups(self.model.train(), 0.05)
        self.optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)

    def __call__(self, *_):
        self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        _wait(self.pixel_values.device)

    def backward(self):
        self.forward().backward()


class Inference(_Work):
    """Logits of one batch, nothing else."""

    models = CLASSIFIERS

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.model.eval()

    @torch.inference_mode()
    def __call__(self, *_):
        self.forward()
        _wait(self.pixel_values.device)


def _wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def batch_flops(name: str, config: MAEConfig, batch: int, work_class: type[_Work]) -> int:
    """Counts floating-point operations of a batch's matrix products, on the meta device."""
    if name not in ASK_FOR_VALUES:
        return _count(work_class(name, config, batch, torch.device("meta")))
    return batch * _count(work_class(name, config, 1, torch.device("cpu")))


def _count(work: "_Work") -> int:
    return count_flops(work.backward if isinstance(work, TrainingStep) else work.forward)


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 by itself; GPUs that this is for all do."""
    return device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Multiplication:
    """One square matrix product, in the model's type: what the machine can do at best."""

    def __init__(self, device: torch.device, bf16: bool = False):
        size = 8192 if device.type == "cuda" else 2048
        dtype = torch.bfloat16 if bf16 else torch.float32
        self.factors = [torch.randn(size, size, device=device, dtype=dtype) for _ in range(2)]
        self.flops = 2 * size**3

    def __call__(self, *_):
        self.factors[0] @ self.factors[1]
        _wait(self.factors[0].device)


def peak_memory(work_class: type[_Work], *arguments: Any) -> int:
    """Measures bytes that three batches take at most, without what imports take.

    They are of the GPU's memory; on the CPU, where freed memory stays with a process, of one of its
    own.

    Args:
        work_class: `TrainingStep` or `Inference`.
        arguments: What it is made with.

    Raises:
        torch.OutOfMemoryError: the GPU's memory isn't enough.
        BrokenProcessPool: the process was ended, as the system does when the machine's memory isn't
            enough.
    """
    if arguments[3].type == "cuda":
        return _peak_memory(work_class, *arguments)
    processes = multiprocessing.get_context("forkserver")
    # imported once for all of them; that finds what is installed, and not what lies by the script
    processes.set_forkserver_preload(["hf_mae.training.optimization", "timm", "transformers"])
    with ProcessPoolExecutor(1, processes) as pool:
        return pool.submit(_peak_memory, work_class, *arguments).result()


def _peak_memory(work_class, *arguments):
    return _with_peak_memory(work_class, *arguments)[1]


def _with_peak_memory(work_class, name, config, batch, device, *options):
    """The work, three batches of which are done, and its peak memory."""
    warnings.simplefilter("ignore")
    shallow = config.changed(num_hidden_layers=1, decoder_num_hidden_layers=1)
    # imports, and on the CPU, where a compiler's own memory would count, a compilation
    work_class(name, shallow, 1, device, *(options[:1] if device.type == "cuda" else options))()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        return_free_memory()  # else it would count as taken before
        before = psutil.Process().memory_info().rss
    work = work_class(name, config, batch, device, *options)
    for _ in range(3):
        work()
    return work, costs.peak_memory(device) - before


def models_benchmark(args: argparse.Namespace) -> dict[int, Any]:
    """Measures and prints; `args` are those of `scripts/benchmark.py train` and `infer`.

    Returns:
        Batch → rate of a large product, and name → what was measured.

    Raises:
        ValueError: the device isn't there, or hasn't the type.
    """
    device, training = torch.device(args.device), args.command == "train"
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA GPU is there, or torch was built without CUDA")
    if args.bf16 and not has_bf16(device):
        raise ValueError(
            "--bf16: this CPU has no instructions for bfloat16, and what stands in for them says "
            "nothing about a model; measure in float32, or on a GPU"
        )
    work_class, peers = (TrainingStep, PRETRAINING) if training else (Inference, CLASSIFIERS)
    overrides = {"norm_pix_loss": True} if training else {"num_labels": 1000}
    overrides |= getattr(args, "config_overrides", {})
    config = MAEConfig.from_size(args.size, image_size=args.image_size, **overrides)
    options = (device, args.bf16, args.compile)
    precision = "bf16" if args.bf16 else "fp32"
    if args.compile:
        precision += ", compiled"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else environment()["cpu"]
    print(f"{args.command}, ViT-{args.size} at {args.image_size}, {precision}; {where}")
    names = _installed(peers if args.compare else ["hf_mae"], config, work_class)
    results = {}
    for batch in args.batch:
        try:
            works, memory = _make(names, config, batch, work_class, options)
            results[batch] = _measure(
                works, memory, config, batch, work_class, options, args.rounds
            )
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            print(f"batch {batch}: out of memory")
        else:
            _print(batch, results[batch])
        finally:
            gc.collect()
            torch.cuda.empty_cache()  # the next batch's memory is measured by other processes
    return results


def _installed(peers, config, work_class):
    """Those that are there and have as many parameters as ours."""
    found = {}
    for name in peers:
        try:
            found[name] = work_class(name, config, 1, torch.device("meta")).num_parameters
        except ImportError as error:
            print(f"{name}: not installed ({error.name}); make peers builds an environment with it")
        except (
            AssertionError
        ) as error:  # as mmpretrain says that it knows no such version of another package
            print(f"{name}: can't be used ({error})")
    for name, count in found.items():
        if work_class is TrainingStep and count != found["hf_mae"]:
            print(f"{name}: {count:,} parameters, ours has {found['hf_mae']:,}")
    return list(found)


def _make(names, config, batch, work_class, options):
    """Name → work, and name → its peak memory, of those that have enough."""
    works, memory = {}, {}
    if any(options[2:]):
        torch._dynamo.reset()  # how often it compiles the same code is limited
    for name in names:
        arguments = (name, config, batch, *options)
        try:
            if options[0].type == "cuda":
                works[name], memory[name] = _with_peak_memory(work_class, *arguments)
            else:
                memory[name] = peak_memory(work_class, *arguments)
        except RuntimeError as error:
            if name == "hf_mae" or not _out_of_memory(error):
                raise
            ended = " (its process was ended)" if isinstance(error, BrokenProcessPool) else ""
            print(f"batch {batch}, {name}: out of memory{ended}")
    for name in (each for each in memory if each not in works):
        works[name] = work_class(name, config, batch, *options)
    return works, memory


def _out_of_memory(error):
    return isinstance(
        error, (torch.OutOfMemoryError, BrokenProcessPool)
    ) or "DefaultCPUAllocator" in str(error)


def _measure(works, memory, config, batch, work_class, options, rounds):
    multiplication = Multiplication(*options[:2])
    repeats = max(1, round(0.3 / _seconds(multiplication)))
    turns = {"product": lambda i: [multiplication() for _ in range(repeats)], **works}
    seconds = interleaved(turns, rounds)
    products = seconds.pop("product")
    works.clear()
    turns.clear()
    gc.collect()
    found = {}
    for name, times in seconds.items():
        operations = batch_flops(name, config, batch, work_class)
        # the machine's rate just before: what is left of it is the model's
        shares = [
            operations / t / (repeats * multiplication.flops / p) for t, p in zip(times, products)
        ]
        found[name] = {
            "images_per_second": batch / statistics.median(times),
            "peak_memory": memory[name],
            "flops": operations,
            "share_of_product_rate": statistics.median(shares),
            "seconds": times,
        }
        if name != "hf_mae":
            found[name]["hf_mae_over_it"] = ratios(times, seconds["hf_mae"])
    rate = repeats * multiplication.flops / statistics.median(products)
    return {"product_rate": rate, "models": found}


def _seconds(work):
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _print(batch, results):
    models = results["models"]
    ours = models["hf_mae"]
    print(f"batch {batch}; a large matrix product: {results['product_rate'] / 1e9:,.0f} GFLOP/s")
    for name, found in models.items():
        print(
            f"  {name:18} {found['images_per_second']:9,.2f} images/s  "
            f"{found['peak_memory'] / 2**20:8,.0f} MiB at most  "
            f"{found['flops'] / batch / 1e9:7.1f} GFLOP an image, "
            f"{found['share_of_product_rate']:4.0%} of the product's"
        )
    for name, found in models.items():
        if name != "hf_mae":
            median, least, greatest = found["hf_mae_over_it"]
            memory = ours["peak_memory"] / found["peak_memory"]
            print(
                f"  hf_mae over {name}: speed {median:.2f} ({least:.2f} to {greatest:.2f}, "
                f"{len(ours['seconds'])} rounds), "
                f"memory {memory:.2f}"
            )
