# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""Parts of `scripts/benchmark.py gpu`, of the model alone: they need no data libraries.

python -m benchmarks.gpu_parts checks|profile|largest|compiling [--device cuda] [--size base] …
"""

import argparse
import contextlib
import gc
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
from torch.profiler import ProfilerActivity, profile

from hf_mae.models.configuration_mae import MAEConfig, own_fields
from hf_mae.models.memory import largest_batch, needed_on_gpu, training_memory
from hf_mae.models.modeling_mae import MAEForPreTraining

from .models import TrainingStep, _out_of_memory, _wait
from .timing import environment, save_results


_SHALLOW = {"num_hidden_layers": 2, "decoder_num_hidden_layers": 2}  # what is checked
_STEPS = 5  # that are profiled
_TOP = 12  # kernels that are named


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="hf_mae")
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--config_overrides", type=json.loads, default={})
    parser.add_argument("--output", required=True)
    args = parser.parse_args()
    results = PARTS[args.part](args)
    about = environment(args.device)
    save_results(args.output, results, command=shlex.join(sys.argv[1:]), **about)


def _config(args: argparse.Namespace, **fields: Any) -> MAEConfig:
    fields = {"norm_pix_loss": True, **args.config_overrides, **fields}
    return MAEConfig.from_size(args.size, image_size=args.image_size, **fields)


# checks ------------------------------------------------------------------------------------------


def run_checks(args: argparse.Namespace) -> dict[str, str]:
    """Compares a step on the device with that on the CPU, compiled and not, in both precisions.

    Raises:
        RuntimeError: one of them differs; the others are told first.
    """
    decoders: list[dict[str, Any]] = [{}]
    if "decoder_type" in own_fields():
        decoders.append({"decoder_type": "cross"})
    found = {}
    for fields in decoders:
        for name, check in CHECKS.items():
            label = " ".join([name, *fields.values()])
            try:
                found[label] = check(_config(args, **_SHALLOW, **fields), torch.device(args.device))
            except Exception as error:  # whatever it is, the others are to be tried
                found[label] = f"FAILED: {type(error).__name__}: {error}"
            print(f"{label}: {found[label]}", flush=True)
    failed = [label for label, text in found.items() if text.startswith("FAILED")]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(found)} checks failed: {', '.join(failed)}")
    return found


def _models(config: MAEConfig, device: torch.device) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    here: Any = MAEForPreTraining(config).train()
    there: Any = MAEForPreTraining(config).train()
    there.load_state_dict(here.state_dict())
    images = torch.randn(8, config.num_channels, *config.image_hw)
    return (
        here,
        there.to(device),
        {"pixel_values": images, "noise": torch.rand(8, config.num_patches)},
    )


def _to(inputs: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def _check_close(what: str, found: float, expected: float, share: float) -> str:
    off = abs(found - expected) / abs(expected)
    if not off <= share:
        raise ValueError(f"{what} is {found:.6f} and should be {expected:.6f}")
    return f"{what} {found:.6f}, off by {off:.1e}"


def _gradient_norm(model: torch.nn.Module) -> float:
    norms = [weight.grad.float().norm() for weight in model.parameters() if weight.grad is not None]
    return torch.stack(norms).norm().item()


def check_fp32(config: MAEConfig, device: torch.device) -> str:
    """Compares loss and gradient with those of the CPU."""
    here, there, inputs = _models(config, device)
    expected, found = here(**inputs).loss, there(**_to(inputs, device)).loss
    expected.backward()
    found.backward()
    text = _check_close("loss", found.item(), expected.item(), 1e-3)
    norm = _check_close("gradient", _gradient_norm(there), _gradient_norm(here), 5e-3)
    return f"{text}; {norm}"


def check_compiled(config: MAEConfig, device: torch.device) -> str:
    """Compares a compiled step with the plain one."""
    _, model, inputs = _models(config, device)
    inputs = _to(inputs, device)
    expected = model(**inputs).loss.item()
    loss = torch.compile(model, fullgraph=True)(**inputs).loss
    loss.backward()
    return _check_close("loss", loss.item(), expected, 1e-4)


def check_bf16(config: MAEConfig, device: torch.device) -> str:
    """Trains ten steps in bfloat16, in which no value may be waited for."""
    _, model, inputs = _models(config, device)
    inputs = _to(inputs, device)
    exact = model(**inputs).loss.item()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    losses = []
    for number in range(10):
        with _no_waits(device, number > 2):
            with torch.autocast(device.type, torch.bfloat16):
                loss = model(**inputs).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.detach())
    first, last = losses[0].item(), losses[-1].item()
    if not last < first:
        raise ValueError(f"the loss went from {first:.4f} to {last:.4f}")
    return f"{_check_close('loss', first, exact, 0.02)}; then {last:.4f}"


@contextlib.contextmanager
def _no_waits(device: torch.device, strict: bool) -> Iterator[None]:
    """On a GPU torch itself reports what makes the host wait."""
    if device.type != "cuda" or not strict:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check_given_mask(config: MAEConfig, device: torch.device) -> str:
    """Trains with masks that are given."""
    _, model, inputs = _models(config, device)
    mask = torch.zeros(8, config.num_patches)
    mask[:, : config.num_patches // 2] = 1
    loss = model(inputs["pixel_values"].to(device), bool_masked_pos=mask.to(device)).loss
    loss.backward()
    return f"loss {loss.item():.6f}"


CHECKS: dict[str, Callable[[MAEConfig, torch.device], str]] = {
    "fp32": check_fp32,
    "bf16": check_bf16,
    "compiled": check_compiled,
    "given mask": check_given_mask,
}


# profile -----------------------------------------------------------------------------------------


def profile_step(args: argparse.Namespace) -> dict[str, Any]:
    """Profiles training steps: where the device's time goes, and how long it has nothing to do."""
    device = torch.device(args.device)
    step = TrainingStep("hf_mae", _config(args), args.batch, device, args.bf16, args.compile)
    for _ in range(3):
        step()
    activities, on_gpu = [ProfilerActivity.CPU], device.type == "cuda"
    if on_gpu:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        start = time.perf_counter()
        for _ in range(_STEPS):
            step()
        _wait(device)
        seconds = time.perf_counter() - start
    rows = own_seconds(profiler.key_averages(), on_gpu)
    busy = sum(row[0] for row in rows)
    kernels = [
        {"name": name[:100], "share": took / busy, "calls": count / _STEPS}
        for took, count, name in rows[:_TOP]
    ]
    for kernel in kernels:
        print(f"{kernel['share']:6.1%} {kernel['calls']:7.1f} a step  {kernel['name']}")
    idle = max(0.0, 1 - busy / seconds)
    print(f"the device is idle, waiting for the host, for {idle:.1%} of {seconds / _STEPS:.4f} s")
    return {"seconds": seconds / _STEPS, "idle_share": idle, "kernels": kernels}


def own_seconds(events: Iterable[Any], on_gpu: bool) -> list[tuple[float, int, str]]:
    """(seconds, calls, name) of what the device did itself, the longest first.

    A GPU's time stands twice in a profile: at its kernels, and at what started them on the CPU.
    """
    device = DeviceType.CUDA if on_gpu else DeviceType.CPU
    rows = []
    for event in events:
        if event.device_type == device and not event.is_user_annotation:
            took = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            rows.append((took / 1e6, event.count, event.key))  # microseconds
    return sorted(rows, reverse=True)


# the largest batch -------------------------------------------------------------------------------


def find_largest(args: argparse.Namespace) -> dict[str, Any]:
    """Trains at the batch that is foretold to fit, and at larger ones until one doesn't.

    On a CPU, where a machine's memory is no limit to run into, at the `--batch` alone.
    """
    device, config = torch.device(args.device), _config(args)

    def tensors_of(batch: int) -> int:
        return training_memory(MAEForPreTraining, config, batch, args.bf16, device.type == "cpu")

    foretold, shares = args.batch, [1.0]
    if device.type == "cuda":
        total = torch.cuda.mem_get_info(device)[1]
        foretold = largest_batch(lambda batch: needed_on_gpu(tensors_of(batch)), 4096, total)
        shares = [1.0, 1.03, 1.06, 1.1, 1.15]
    found: dict[str, Any] = {"foretold": foretold, "tried": {}}
    for share in shares:
        batch = int(share * foretold)
        found["tried"][batch] = _try_batch(config, batch, device, args.bf16, tensors_of(batch))
        print(f"batch {batch}: {found['tried'][batch]}", flush=True)
        if found["tried"][batch] is None:
            break
    return found


def _try_batch(
    config: MAEConfig, batch: int, device: torch.device, bf16: bool, foretold: int
) -> dict[str, float] | None:
    """Images/s, and memory over what is foretold; None if there isn't enough."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        step = TrainingStep("hf_mae", config, batch, device, bf16)
        for _ in range(2):
            step()
        start = time.perf_counter()
        for _ in range(3):
            step()
        rate = 3 * batch / (time.perf_counter() - start)
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        return None
    found = {"images_per_second": rate, "foretold_bytes": foretold}
    if device.type == "cuda":
        found["peak_memory"] = torch.cuda.max_memory_allocated(device)
    return found


# compiling ---------------------------------------------------------------------------------------


def compile_step(args: argparse.Namespace) -> dict[str, float]:
    """Compiles a training step: torch keeps what it made, for the process that measures it.

    Returns:
        Seconds until the first step was done.
    """
    start = time.perf_counter()
    device = torch.device(args.device)
    TrainingStep(args.model, _config(args), args.batch, device, args.bf16, True)()
    seconds = time.perf_counter() - start
    print(f"{args.model}: {seconds:.0f} s until the first step is done")
    return {"seconds": seconds}


PARTS = {
    "checks": run_checks,
    "profile": profile_step,
    "largest": find_largest,
    "compiling": compile_step,
}


if __name__ == "__main__":
    main()
