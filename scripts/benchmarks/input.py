# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""How many images a second a core decodes, crops and collates, beside the authors' stack and
torchvision's."""

import io
import statistics
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch
import torchvision
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader
from torchvision import transforms as v1
from torchvision.transforms import v2

from hf_mae.data.decoding import crop_pixels, open_image
from hf_mae.data.samples import EpochSampler, ImageSamples, collate
from hf_mae.data.sources import load_image_dataset
from hf_mae.data.transforms import PretrainingTransform, random_crop_box
from hf_mae.models.configuration_mae import MAEConfig
from hf_mae.models.image_processing_mae import channel_statistics

from .timing import environment, interleaved, ratios, workers_needed


BLOCK = 32  # images that are timed at once


def make_photos(folder, count, size=(500, 375)):
    """Photo-like JPEGs: pieces of the two photographs that scikit-learn ships, quality 90, about
    ImageNet's usual size."""
    rng, photos = (
        np.random.default_rng(0),
        [Image.fromarray(image) for image in load_sample_images().images],
    )
    for i in range(count):
        photo, share = photos[i % 2], rng.uniform(0.5, 1)
        width, height = (round(side * share) for side in photo.size)
        left, top = (
            int(rng.integers(photo.width - width + 1)),
            int(rng.integers(photo.height - height + 1)),
        )
        piece = photo.resize(
            size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height)
        )
        piece.save(Path(folder) / f"{i:05d}.jpg", quality=90)
    return folder


def make_rows(folder, count):
    """An Arrow set of so many JPEGs of 32 x 32 pixels, saved by datasets; every thousandth row is
    another picture."""
    rng = np.random.default_rng(0)
    features = Features({"image": ImageFeature(decode=False)})

    def rows():
        for i in range(count):
            if i % 1000 == 0:
                buffer = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
                    buffer, "jpeg"
                )
            yield {"image": {"bytes": buffer.getvalue(), "path": None}}

    rows = Dataset.from_generator(rows, features=features, cache_dir=str(Path(folder, "cache")))
    rows.save_to_disk(Path(folder, "rows"))
    return Path(folder, "rows")


def load(data):
    """The images of a folder: image files, or what datasets reads (saved by it, parquet)."""
    saved = [
        *Path(data).glob("*.parquet"),
        *Path(data).glob("*.arrow"),
        *Path(data).glob("dataset_dict.json"),
    ]
    source = {"dataset_name": str(data)} if saved else {"train_dir": str(data)}
    return load_image_dataset(**source, train_val_split=0)["train"]


def one_core(images, image_size, rounds, compare):
    """Images a second of one process and one thread.

    Args:
        images: `datasets.Dataset` with a column `image`.
        image_size: Pixels of the crop.
        rounds: Blocks of each stack; they are run turn about.
        compare: Whether to run the authors' stack and torchvision's too.

    Returns:
        Name → {"images_per_second", "seconds"}; and stage → share of our time.
    """
    transform = PretrainingTransform(MAEConfig(image_size=image_size))
    draws = ImageSamples(images, transform, 3, seed=0)
    several = ImageSamples(images, transform, 3, seed=0, crops_per_image=4)
    works = {
        "hf_mae": lambda i: collate(draws.__getitems__(_block(i, len(images)))),
        "hf_mae, 4 crops an image": lambda i: collate(
            several.__getitems__(_block(i, 4 * len(images)))
        ),
    }
    if compare:
        stacks = {
            "official (PIL, torchvision v1)": official_stack,
            "torchvision v2": torchvision_stack,
        }
        for name, stack in stacks.items():
            works[name] = partial(_collated, images, stack(image_size))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = interleaved(works, rounds)
        shares = stage_shares(images, draws, rounds)
    finally:
        torch.set_num_threads(threads)
    rates = {name: BLOCK / statistics.median(times) for name, times in seconds.items()}
    return {
        name: {"images_per_second": rates[name], "seconds": seconds[name]} for name in works
    }, shares


def _block(i, count):
    return [(i * BLOCK + j) % count for j in range(BLOCK)]


def _collated(images, stack, i):
    return torch.stack([stack(images[j]["image"]) for j in _block(i, len(images))])


def official_stack(image_size):
    """The authors' transform, on what torchvision's ImageFolder gives it: a PIL image of the
    file."""
    mean, std = channel_statistics(3)
    stack = v1.Compose(
        [
            v1.RandomResizedCrop(
                image_size, scale=(0.2, 1.0), interpolation=v1.InterpolationMode.BICUBIC
            ),
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize(mean, std),
        ]
    )

    def load_and_transform(value):
        with Image.open(_stream(value)) as picture:
            return stack(picture.convert("RGB"))

    return load_and_transform


def torchvision_stack(image_size):
    """torchvision's best path: its own decoder, uint8 tensors throughout, normalised on the device
    later."""
    stack = v2.Compose(
        [
            v2.RandomResizedCrop(
                image_size,
                scale=(0.2, 1.0),
                interpolation=v2.InterpolationMode.BICUBIC,
                antialias=True,
            ),
            v2.RandomHorizontalFlip(),
        ]
    )

    def load_and_transform(value):
        data = torch.frombuffer(bytearray(_stream(value).read()), dtype=torch.uint8)
        return stack(torchvision.io.decode_image(data, torchvision.io.ImageReadMode.RGB))

    return load_and_transform


def _stream(value):
    return io.BytesIO(value["bytes"]) if value["bytes"] is not None else open(value["path"], "rb")


def stage_shares(images, draws, rounds):
    """Shares of a draw: reading and decoding, cropping and resizing, collating, and what is around
    them."""
    seconds = {"decode": [], "crop and resize": [], "collate": [], "all": []}
    for i in range(rounds + 1):
        block = _block(i, len(images))
        rows = [images[j] for j in block]
        rngs = [np.random.default_rng([0, 0, j]) for j in block]
        start = time.perf_counter()
        for row, rng in zip(rows, rngs):
            image = open_image(row["image"], 3)
            crop_pixels(
                image, random_crop_box(*image.shape[:2], rng), draws.transform.crop.image_hw
            )
        decoded = time.perf_counter()
        for row, j in zip(rows, block):
            draws.make_samples(row, [0, 0, j], crops=[0], epoch=0)
        made = time.perf_counter()
        samples = draws.__getitems__(block)
        ready = time.perf_counter()
        collate(samples)
        end = time.perf_counter()
        parts = (decoded - start, made - decoded - (decoded - start), end - ready, end - made)
        for name, part in zip(seconds, parts):
            seconds[name].append(part)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    whole = medians.pop("all")
    shares = {name: median / whole for name, median in medians.items()}
    return {**shares, "rest": 1 - sum(shares.values())}


def with_workers(images, image_size, workers, batch, seconds):
    """Images a second of worker processes, time to the first batch, and their memory.

    Returns:
        dict: `images_per_second`, `first_batch_seconds`, `images`, and of the workers, each,
            `first_memory` and
        `last_memory`, as `own_memory`.
    """
    draws = ImageSamples(images, PretrainingTransform(MAEConfig(image_size=image_size)), 3, seed=0)
    start = time.perf_counter()
    loader = DataLoader(
        draws, batch, sampler=_Endless(len(images)), num_workers=workers, collate_fn=collate
    )
    iterator, count, warm = iter(loader), batch, None
    next(iterator)
    began = time.perf_counter()
    processes = [psutil.Process(worker.pid) for worker in iterator._workers]
    for _ in iterator:
        count += batch
        elapsed = time.perf_counter() - began
        if (
            warm is None and elapsed > seconds / 5
        ):  # what lay ready is used up, and caches are filled
            warm = time.perf_counter(), count, list(map(own_memory, processes))
        elif warm and elapsed > seconds:
            break
    return {
        "images_per_second": (count - warm[1]) / (time.perf_counter() - warm[0]),
        "first_batch_seconds": began - start,
        "images": count,
        "first_memory": warm[2],
        "last_memory": list(map(own_memory, processes)),
    }


class _Endless(EpochSampler):
    """Epoch after epoch, so that no worker waits for the end of one."""

    def __init__(self, length):
        super().__init__(length, seed=0, num_samples=length)

    def __iter__(self):
        while True:
            yield from super().__iter__()
            self.epoch += 1


def own_memory(process):
    """Bytes that a process holds without files that are mapped: a data set's pages are the system's
    to keep or drop."""
    info = process.memory_info()
    return info.rss - getattr(info, "shared", 0)


def input_benchmark(args, scratch):
    """Measures and prints; `args` are those of `scripts/benchmark.py input`, `scratch` is an empty
    folder.

    Returns:
        dict of what was measured.
    """
    if args.rows:
        print(f"making an Arrow set of {args.rows:,} tiny images …", flush=True)
        source = make_rows(scratch, args.rows)
    else:
        source = args.data or make_photos(scratch, 256)
    images = load(source)
    print(
        f"{len(images):,} images ({args.data or 'of its own'}), crops of {args.image_size}; "
        f"{environment()['cpu']}"
    )
    per_core, shares = one_core(images, args.image_size, args.rounds, args.compare)
    results = {"images": len(images), "one_core": per_core, "shares": shares}
    _print_one_core(per_core, shares)
    for workers in sorted({1, args.workers}):
        found = with_workers(images, args.image_size, workers, batch=64, seconds=args.seconds)
        results[f"{workers}_workers"] = found
        memory = [
            f"{m / 2**20:.0f} → {n / 2**20:.0f}"
            for m, n in zip(found["first_memory"], found["last_memory"])
        ]
        print(
            f"{workers} worker{'s' * (workers > 1)}: {found['images_per_second']:,.0f} images/s "
            "over "
            f"{found['images']:,} images; first batch after {found['first_batch_seconds']:.1f} s; "
            f"memory of each, MiB: {', '.join(memory)}"
        )
    if args.workers > 1:
        gain = (
            results[f"{args.workers}_workers"]["images_per_second"]
            / results["1_workers"]["images_per_second"]
        )
        print(f"{args.workers} workers over one: {gain:.2f}")
    if args.step_rate:
        rate = results["1_workers"]["images_per_second"]
        print(
            f"{args.step_rate:,.0f} images/s need {workers_needed(args.step_rate, rate)} workers, "
            f"at {rate:,.0f} each"
        )
    return results


def _print_one_core(per_core, shares):
    ours = per_core["hf_mae"]["seconds"]
    for name, found in per_core.items():
        print(f"one core, {name}: {found['images_per_second']:,.0f} images/s")
    print("  of ours: " + ", ".join(f"{stage} {share:.0%}" for stage, share in shares.items()))
    for name, found in per_core.items():
        if name != "hf_mae":
            median, least, greatest = ratios(found["seconds"], ours)
            print(
                f"hf_mae over {name}: {median:.2f} ({least:.2f} to {greatest:.2f}, {len(ours)} "
                f"rounds of {BLOCK} images)"
            )
