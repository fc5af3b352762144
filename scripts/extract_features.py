"""Writes what a model's encoder makes of images: features with names and labels.

python scripts/extract_features.py --model_name_or_path DIR_OR_ID --output FILE IMAGE [IMAGE …]
python scripts/extract_features.py --model_name_or_path DIR_OR_ID --output FILE --train_dir DIR

FILE is a table (.parquet), or an array (.npy) with a .csv of names and labels beside it. A run that
was stopped goes on when it is started again. On several GPUs: accelerate launch
scripts/extract_features.py …; on several CPU processes: torchrun with --use_cpu.

The exit status is 1 if an image could not be read; the others are there all the same.
"""

from early_help import answer_help, start


if __name__ == "__main__":
    answer_help(__file__)

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from hf_mae import load_encoder
from hf_mae.data.sources import load_split
from hf_mae.errors import reported_as
from hf_mae.file_names import one_line, print_any_name, printable
from hf_mae.inference.feature_files import (
    check_output,
    load_faiss,
    write_features,
    write_index,
)
from hf_mae.inference.feature_pictures import draw_features
from hf_mae.inference.features import KINDS, FeatureExtractor, errors_of
from hf_mae.inference.images import as_dataset, find_images_once
from hf_mae.inference.parts import Parts, compute_parts, default_workers
from hf_mae.models.picture_size import MAX_IMAGE_PIXELS
from hf_mae.training.command_line import CommandLine
from hf_mae.whole_files import check_folder
from hf_mae.whole_numbers import MOST_WORKERS, whole


def main() -> None:
    args = parse_arguments()
    print_any_name()
    with reported_as("extract_features.py"):
        check_output(args.output)
        check_places(args)
        if args.index:
            load_faiss()
        state = PartialState(cpu=args.use_cpu)
        encoder, processor = load_encoder(args.model_name_or_path)
        dataset = load_images(args, state)
        device: Any = state.device
        encoder.to(device)
        extractor = FeatureExtractor(
            encoder, processor, dataset, args.features, args.max_image_pixels
        )
        parts = extractor.parts(args.output.with_name(f"{args.output.name}.parts"))
        if args.num_workers is None:
            args.num_workers = default_workers(len(dataset), args.batch_size, state)
        start, num_bad = time.perf_counter(), 0
        compute_parts(parts, extractor.samples, extractor, args.batch_size, args.num_workers, state)
        if state.is_main_process:
            num_bad = report_bad_images(parts)
            if num_bad == parts.count:
                parts.remove()
                raise ValueError(f"none of the {num_bad:,} images can be read")
            seconds = time.perf_counter() - start
            count = write_features(parts, extractor.columns, args.output)
            if args.index:
                write_index(parts, extractor.width, args.index)
            if args.picture:
                draw_features(parts, extractor, args.picture)
            parts.remove()
            shape = (count, *extractor.shape)
            print(f"{printable(args.output)}  {args.features} features {shape}, {seconds:.1f} s")
    state.destroy_process_group()
    if num_bad:
        sys.exit(f"extract_features.py: {num_bad:,} of {parts.count:,} images left out")


def parse_arguments() -> argparse.Namespace:
    parser = CommandLine(
        description="Writes what a model's encoder makes of images: features with names and labels."
    )
    parser.add_argument(
        "--model_name_or_path", required=True, help="model, ours or native: folder or Hub id"
    )
    images = parser.add_argument_group("images")
    images.add_argument(
        "images", nargs="*", metavar="IMAGE", help="files, folders, patterns, addresses, or -"
    )
    images.add_argument("--train_dir", help="or a folder of images, whose folders are classes")
    images.add_argument(
        "--dataset_name", help="or Hub id, local folder or table of a data set, or digits"
    )
    images.add_argument("--dataset_config", help="configuration of the data set")
    images.add_argument("--split", help="(default: the only one)")
    images.add_argument("--image_column", help="(default: found)")
    images.add_argument(
        "--label_column", nargs="+", help="one, or several of 0 and 1 (default: found, if any)"
    )
    images.add_argument(
        "--max_image_pixels",
        type=whole(1, 2**62),
        default=MAX_IMAGE_PIXELS,
        metavar="N",
        help="larger images are decoded at reduced scale (JPEG), or can't be read (default: "
        "100,000,000)",
    )
    features = parser.add_argument_group("features")
    features.add_argument(
        "--features",
        choices=KINDS,
        default="mean",
        help="mean of the patches, class token, or all patches (default: mean)",
    )
    features.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help=".parquet or .npy"
    )
    features.add_argument(
        "--index", type=Path, metavar="FILE", help="FAISS index to write, of cosines"
    )
    features.add_argument(
        "--picture",
        type=Path,
        metavar="DIR",
        help="folder to draw patches.png, map.png and neighbours.png into",
    )
    add_speed(parser.add_argument_group("speed"))
    args = parser.parse_args()
    check_arguments(parser, args)
    return args


def add_speed(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--batch_size", type=whole(1), default=64, help="images a device (default: 64)"
    )
    group.add_argument(
        "--num_workers",
        type=whole(0, MOST_WORKERS),
        help="processes that decode ahead, for each device (default: half of the cores)",
    )
    group.add_argument("--use_cpu", action="store_true", help="leave GPUs alone")


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    given = [bool(args.images), args.train_dir is not None, args.dataset_name is not None]
    if given.count(True) != 1:
        parser.error("give either IMAGE …, or --train_dir, or --dataset_name")
    for name in ("split", "image_column", "label_column"):
        if args.images and getattr(args, name):
            parser.error(f"--{name} is for --dataset_name and --train_dir")
    if args.dataset_config and not args.dataset_name:
        parser.error("--dataset_config is for --dataset_name")
    if args.index and args.features == "patches":
        parser.error("--index has a vector an image; it is for --features mean or cls")
    if args.index and args.index.is_dir():
        parser.error(f"index {args.index} is a folder; name a file")
    if args.picture and args.picture.exists() and not args.picture.is_dir():
        parser.error(f"picture {args.picture} is a file; name a folder")


def check_places(args: argparse.Namespace) -> None:
    """Refuses to write over what is read, over another output, or where nothing can be written.

    Raises:
        ValueError: so it would.
    """
    outputs = [args.output]
    if args.output.suffix == ".npy":
        outputs.append(args.output.with_suffix(".csv"))
        if outputs[1].exists() and not args.output.exists():
            raise ValueError(
                f"{printable(outputs[1])}, where the names of the features would go, is there "
                "already; name another output"
            )
    outputs += [args.index] if args.index else []
    inputs = [args.dataset_name, args.train_dir, *args.images]
    taken = {Path(name).resolve() for name in inputs if name}
    for output in outputs:
        if output.resolve() in taken:
            raise ValueError(f"{printable(output)} is read or written already; name another file")
        taken.add(output.resolve())
        check_folder(output.parent)


def load_images(args: argparse.Namespace, state: PartialState) -> Dataset:
    if args.images:
        return as_dataset(find_images_once(args.images, state))
    with state.main_process_first():
        return load_split(
            dataset_name=args.dataset_name,
            dataset_config=args.dataset_config,
            train_dir=args.train_dir,
            split=args.split,
            image_column=args.image_column,
            label_column=args.label_column,
        )


def report_bad_images(parts: Parts) -> int:
    """Names the images that couldn't be read on stderr, and counts them."""
    count = 0
    for table in parts.tables():
        for name, error in errors_of(table):
            print(f"extract_features.py: {one_line(name)} is left out: {error}", file=sys.stderr)
            count += 1
    return count


if __name__ == "__main__":
    start(main)
