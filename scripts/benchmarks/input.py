# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""How many images a second become batches, on one core and by worker processes.

Ours are decoded, cropped and collated in turns with the authors' stack and torchvision's.
"""

import argparse
import io
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import psutil
import torch
import torchvision
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms as v1
from torchvision.transforms import v2

from hf_mae.data.decoding import crop_pixels, open_image
from hf_mae.data.device_decoding import decode_crops
from hf_mae.data.preparation import prepare_dataset
from hf_mae.data.samples import EpochSampler, ImageSamples, collate
from hf_mae.data.sources import load_image_dataset
from hf_mae.data.transforms import PretrainingTransform, random_crop_box
from hf_mae.models.configuration_mae import MAEConfig
from hf_mae.models.image_processing_mae import channel_statistics

from .timing import environment, interleaved, plural, ratios, workers_needed


BLOCK = 32  # images that are timed at once
WORKER_BATCH = 64
PREPARED = "hf_mae, prepared images"
ON_GPU = "hf_mae, decoded on the GPU"
_LARGE = 2_000_000  # pixels of an image, of which fewer are made

Stack = Callable[[dict[str, Any]], Tensor]  # what an image column holds → pixels (C, H, W)


def make_photos(
    folder: str | os.PathLike[str], count: int, size: tuple[int, int] = (500, 375)
) -> str | os.PathLike[str]:
    """Writes photo-like JPEGs: pieces of the two photographs that scikit-learn ships, quality 90.

    Args:
        folder: Where to.
        count: How many.
        size: Width and height in pixels; by default about ImageNet's usual size.

    Returns:
        The folder.
    """
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(image) for image in load_sample_images().images]
    for i in range(count):
        photo = photos[i % 2]
        share = rng.uniform(0.5, 1)
        width, height = (round(side * share) for side in photo.size)
        left = int(rng.integers(photo.width - width + 1))
        top = int(rng.integers(photo.height - height + 1))
        box = (left, top, left + width, top + height)
        piece = photo.resize(size, Image.Resampling.BICUBIC, box=box)
        piece.save(Path(folder) / f"{i:05d}.jpg", quality=90)
    return folder


def make_rows(folder: str | os.PathLike[str], count: int) -> Path:
    """Writes an Arrow set of JPEGs of 32 x 32 pixels; every thousandth row is another picture.

    Returns:
        The folder that datasets saved.
    """
    rng = np.random.default_rng(0)
    features = Features({"image": ImageFeature(decode=False)})

    def rows() -> Iterator[dict[str, dict[str, bytes | None]]]:
        buffer = io.BytesIO()
        for i in range(count):
            if i % 1000 == 0:
                buffer = io.BytesIO()
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(buffer, "jpeg")
            yield {"image": {"bytes": buffer.getvalue(), "path": None}}

    saved = Path(folder, "rows")
    cache = str(Path(folder, "cache"))
    dataset: Any = Dataset.from_generator(rows, features=features, cache_dir=cache)
    dataset.save_to_disk(saved)
    return saved


def load(data: str | os.PathLike[str]) -> Dataset:
    """Loads the images of a folder: image files, or what datasets reads (saved by it, parquet)."""
    kind = "dataset_name" if _is_dataset(data) else "train_dir"
    sources: dict[str, Any] = {kind: str(data)}
    return load_image_dataset(**sources, train_val_split=0)["train"]


def _is_dataset(data: str | os.PathLike[str]) -> bool:
    patterns = ("*.parquet", "data/*.parquet", "*.arrow", "dataset_dict.json")
    return any(any(Path(data).glob(pattern)) for pattern in patterns)


def prepare(data: str | os.PathLike[str], folder: str | os.PathLike[str], edge: int) -> Dataset:
    """Prepares the images of a folder, as `scripts/prepare_dataset.py` does, and prints its cost.

    Args:
        data: Folder of images, or of a data set.
        folder: Where to.
        edge: Shortest edge in pixels.
    """
    kind = "dataset_name" if _is_dataset(data) else "train_dir"
    start = time.perf_counter()
    options: dict[str, Any] = {kind: str(data), "shortest_edge": edge}
    made = prepare_dataset(Path(folder, "prepared"), **options).splits["train"]
    seconds = time.perf_counter() - start
    print(
        f"prepared at {edge}: {made.images:,} images in {seconds:.0f} s on one core, "
        f"{made.source_bytes / 2**20:.1f} MiB → {made.bytes / 2**20:.1f} MiB"
    )
    return load(Path(folder, "prepared"))


def one_core(
    images: Dataset,
    image_size: int,
    rounds: int,
    compare: bool,
    prepared: Dataset | None = None,
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Measures images a second of one process and one thread.

    Args:
        images: A data set with a column `image`.
        image_size: Pixels of the crop.
        rounds: Blocks of each stack; they are run in turns.
        compare: Whether to run the authors' stack and torchvision's too.
        prepared: The same images, prepared; ours is measured on these as well.

    Returns:
        Name → {"images_per_second", "seconds"}; and stage → share of our time.
    """
    transform = PretrainingTransform(MAEConfig(image_size=image_size))
    samples = ImageSamples(images, transform, 3, seed=0)
    several_crops = ImageSamples(images, transform, 3, seed=0, crops_per_image=4)
    works: dict[str, Callable[[int], object]] = {
        "hf_mae": partial(_our_batch, samples),
        "hf_mae, 4 crops an image": partial(_our_batch, several_crops),
    }
    if torch.cuda.is_available():
        undecoded = PretrainingTransform(MAEConfig(image_size=image_size), decode=False)
        left = ImageSamples(images, undecoded, 3, seed=0)
        works[ON_GPU] = partial(_batch_decoded_on, torch.device("cuda"), left)
    if prepared is not None:
        shrunk = ImageSamples(prepared, transform, 3, seed=0)
        works[PREPARED] = partial(_our_batch, shrunk)
    if compare:
        works["official (PIL, torchvision v1)"] = partial(
            _stacked, images, official_stack(image_size)
        )
        works["torchvision v2"] = partial(_stacked, images, torchvision_stack(image_size))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = interleaved(works, rounds)
        shares = stage_shares(images, samples, rounds)
    finally:
        torch.set_num_threads(threads)
    found = {}
    for name, times in seconds.items():
        rate = BLOCK / statistics.median(times)
        found[name] = {"images_per_second": rate, "seconds": times}
    return found, shares


def _block(i: int, count: int) -> list[int]:
    """Numbers of the images of a round."""
    return [(i * BLOCK + j) % count for j in range(BLOCK)]


def _our_batch(samples: ImageSamples, i: int) -> object:
    count = len(samples) * samples.crops_per_image
    return collate(samples.__getitems__(_block(i, count)))


def _batch_decoded_on(device: torch.device, samples: ImageSamples, i: int) -> Tensor:
    batch = collate(samples.__getitems__(_block(i, len(samples))))
    processor = cast(PretrainingTransform, samples.transform).crop.processor
    return decode_crops(batch["images"], processor, device).cpu()  # when it is done


def _stacked(images: Dataset, stack: Stack, i: int) -> Tensor:
    return torch.stack([stack(images[j]["image"]) for j in _block(i, len(images))])


def official_stack(image_size: int) -> Stack:
    """The authors' transform, on what torchvision's ImageFolder gives it: PIL's image of a file."""
    mean, std = channel_statistics(3)
    bicubic = v1.InterpolationMode.BICUBIC
    stack = v1.Compose(
        [
            v1.RandomResizedCrop(image_size, scale=(0.2, 1.0), interpolation=bicubic),
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize(mean, std),
        ]
    )

    def load_and_transform(value: dict[str, Any]) -> Tensor:
        with Image.open(_stream(value)) as picture:
            pixels: Any = stack(picture.convert("RGB"))
        return pixels

    return load_and_transform


def torchvision_stack(image_size: int) -> Stack:
    """torchvision's best path: its decoder and uint8 tensors, normalised on the device later."""
    bicubic = v2.InterpolationMode.BICUBIC
    stack = v2.Compose(
        [
            v2.RandomResizedCrop(
                image_size, scale=(0.2, 1.0), interpolation=bicubic, antialias=True
            ),
            v2.RandomHorizontalFlip(),
        ]
    )

    def load_and_transform(value: dict[str, Any]) -> Tensor:
        data = torch.frombuffer(bytearray(_stream(value).read()), dtype=torch.uint8)
        return stack(torchvision.io.decode_image(data, torchvision.io.ImageReadMode.RGB))

    return load_and_transform


def _stream(value: dict[str, Any]) -> BinaryIO:
    return io.BytesIO(value["bytes"]) if value["bytes"] is not None else open(value["path"], "rb")


def stage_shares(images: Dataset, samples: ImageSamples, rounds: int) -> dict[str, float]:
    """Measures what a sample's time goes to.

    Returns:
        Stage → share: reading and decoding, cropping and resizing, collating, and the rest.
    """
    transform: Any = samples.transform
    stages: dict[str, list[float]] = {
        "decode": [],
        "crop and resize": [],
        "collate": [],
        "all": [],
    }
    for i in range(rounds + 1):
        block = _block(i, len(images))
        rows = [images[j] for j in block]
        start = time.perf_counter()
        for row, j in zip(rows, block):
            image = open_image(row["image"], 3)
            height, width = image.shape[:2]
            box = random_crop_box(height, width, np.random.default_rng([0, 0, j]))
            crop_pixels(image, box, transform.crop.image_hw)
        decoded = time.perf_counter()
        for row, j in zip(rows, block):
            transform(open_image(row["image"], 3), np.random.default_rng([0, 0, j]))
        transformed = time.perf_counter()
        batch = samples.__getitems__(block)
        made = time.perf_counter()
        collate(batch)
        end = time.perf_counter()
        decoding = decoded - start
        stages["decode"].append(decoding)
        stages["crop and resize"].append(transformed - decoded - decoding)
        stages["collate"].append(end - made)
        stages["all"].append(end - transformed)
    medians = {name: statistics.median(times[1:]) for name, times in stages.items()}
    whole = medians.pop("all")
    shares = {name: median / whole for name, median in medians.items()}
    return {**shares, "rest": 1 - sum(shares.values())}


def with_workers(
    images: Dataset, image_size: int, workers: int, batch: int, seconds: float
) -> dict[str, Any]:
    """Measures images a second of worker processes, time to the first batch, and their memory.

    Returns:
        dict: `images_per_second`, `first_batch_seconds`, `images`, and of the workers, each,
            `first_memory` and `last_memory`, as `own_memory`.
    """
    transform = PretrainingTransform(MAEConfig(image_size=image_size))
    samples = ImageSamples(images, transform, 3, seed=0)
    start = time.perf_counter()
    sampler = _Endless(len(images))
    loader = DataLoader(samples, batch, sampler=sampler, num_workers=workers, collate_fn=collate)
    iterator: Any = iter(loader)
    next(iterator)
    began = time.perf_counter()
    processes = [psutil.Process(worker.pid) for worker in iterator._workers]
    # what lay ready is used up then, and caches are filled
    ready = batch + _count_images(iterator, batch, until=began + seconds / 5)
    first_memory = [own_memory(process) for process in processes]
    warm = time.perf_counter()
    measured = _count_images(iterator, batch, until=began + seconds)
    return {
        "images_per_second": measured / (time.perf_counter() - warm),
        "first_batch_seconds": began - start,
        "images": ready + measured,
        "first_memory": first_memory,
        "last_memory": [own_memory(process) for process in processes],
    }


def _count_images(batches: Iterator[object], batch: int, until: float) -> int:
    """Images that arrive until a time of `time.perf_counter`, one batch at least."""
    count = 0
    for _ in batches:
        count += batch
        if time.perf_counter() > until:
            break
    return count


class _Endless(EpochSampler):
    """Epoch after epoch, so that no worker waits for the end of one."""

    def __init__(self, length: int) -> None:
        super().__init__(length, seed=0, num_samples=length)

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from super().__iter__()
            self.epoch += 1


def own_memory(process: psutil.Process) -> int:
    """Bytes that a process holds without files that are mapped.

    A data set's pages are the system's to keep or drop.
    """
    info = process.memory_info()
    return info.rss - getattr(info, "shared", 0)


def input_benchmark(args: argparse.Namespace, scratch: str | os.PathLike[str]) -> dict[str, Any]:
    """Measures and prints.

    Args:
        args: Of `scripts/benchmark.py input`.
        scratch: An empty folder.

    Returns:
        dict of what was measured.
    """
    source = _source(args, scratch)
    images = load(source)
    print(
        f"{len(images):,} images ({args.data or 'of its own'}), crops of {args.image_size}; "
        f"{environment()['cpu']}"
    )
    prepared = prepare(source, scratch, args.prepared) if args.prepared else None
    per_core, shares = one_core(images, args.image_size, args.rounds, args.compare, prepared)
    results: dict[str, Any] = {"images": len(images), "one_core": per_core, "shares": shares}
    _print_one_core(per_core, shares)
    if prepared is not None:
        print("with workers, the prepared images:")
        images = prepared
    rates = {}
    for workers in sorted({1, args.workers}):
        found = with_workers(images, args.image_size, workers, WORKER_BATCH, args.seconds)
        results[f"{workers}_workers"] = found
        rates[workers] = found["images_per_second"]
        _print_workers(workers, found)
    if args.workers > 1:
        print(f"{args.workers} workers over one: {rates[args.workers] / rates[1]:.2f}")
    if args.step_rate:
        needed = workers_needed(args.step_rate, rates[1])
        print(f"{args.step_rate:,.0f} images/s need {needed} workers, at {rates[1]:,.0f} each")
    return results


def _source(args: argparse.Namespace, scratch: str | os.PathLike[str]) -> str | os.PathLike[str]:
    if args.rows:
        print(f"making an Arrow set of {args.rows:,} tiny images …", flush=True)
        return make_rows(scratch, args.rows)
    if args.data:
        return args.data
    width, height = args.photo_size
    photos = Path(scratch, "photos")
    photos.mkdir()
    return make_photos(photos, 64 if width * height > _LARGE else 256, (width, height))


def _print_one_core(per_core: dict[str, dict[str, Any]], shares: dict[str, float]) -> None:
    for name, found in per_core.items():
        print(f"one core, {name}: {found['images_per_second']:,.0f} images/s")
    print("  of ours: " + ", ".join(f"{stage} {share:.0%}" for stage, share in shares.items()))
    for ours in ("hf_mae", PREPARED):
        for name, found in per_core.items():
            if ours in per_core and name != ours:
                own: Sequence[float] = per_core[ours]["seconds"]
                median, least, greatest = ratios(found["seconds"], own)
                print(
                    f"{ours} over {name}: {median:.2f} ({least:.2f} to {greatest:.2f}, "
                    f"{len(own)} rounds of {BLOCK} images)"
                )


def _print_workers(workers: int, found: dict[str, Any]) -> None:
    memory = []
    for first, last in zip(found["first_memory"], found["last_memory"]):
        memory.append(f"{first / 2**20:.0f} → {last / 2**20:.0f}")
    print(
        f"{plural(workers, 'worker')}: {found['images_per_second']:,.0f} images/s over "
        f"{found['images']:,} images; first batch after {found['first_batch_seconds']:.1f} s; "
        f"memory of each, MiB: {', '.join(memory)}"
    )
