"""Prepares a data set once, so that training reads it fast: shards of small images.

    python scripts/prepare_dataset.py --train_dir DIR --shortest_edge 512 --output_dir OUT
    accelerate launch scripts/run_mae.py … --dataset_name OUT

Any source of the training scripts: folders, tables, tar shards, Hub ids, 'digits'. Every split,
label and other column stays, and the images' names; what can't be read is left out and listed in
OUT/bad_images.tsv. It stopped? The same command goes on where it was.

Images that are small enough stay as they are, byte for byte. Larger ones are resized (bicubic,
antialiased, as for training) and written upright, without what else was in the file: JPEG of 8 bits
in grey or colours; PNG of drawings (palettes, two colours) and where there is transparency. Deeper
ones keep their values and the range that the file says: PNG of 16 bits, TIFF of other values and
bands; arrays and .npy become .npy.
"""

from early_help import answer_help, start


if __name__ == "__main__":
    answer_help(__file__)

import argparse
import os

from hf_mae import prepare_dataset
from hf_mae.data.labels import describe_label_column
from hf_mae.data.preparation import Preparation
from hf_mae.data.prepared_shards import SHARDS
from hf_mae.errors import Stopped, reported_as
from hf_mae.file_names import print_any_name, printable
from hf_mae.models.picture_size import MAX_IMAGE_PIXELS
from hf_mae.output_folder import BAD_IMAGES_FILE
from hf_mae.training.command_line import CommandLine


SCRIPT = "prepare_dataset.py"


def main() -> None:
    args = parse()
    print_any_name()
    with reported_as(SCRIPT):
        try:
            prepared = prepare_dataset(**vars(args))
        except KeyboardInterrupt as stop:
            raise Stopped("stopped; the same command goes on behind what is finished") from stop
    print_summary(prepared)


def print_summary(prepared: Preparation) -> None:
    if prepared.was_finished:
        print("it was prepared already, and nothing has changed since")
    for name, split in prepared.splits.items():
        print(
            f"{name:12} {split.images:>9,} images, {split.resized:,} of them resized; "
            f"{size(split.source_bytes)} → {size(split.bytes)}"
        )
    for name, feature in prepared.features.items():
        if name != "image":
            print(f"{'column':12} {name}: {describe_label_column(feature)}")
    for note in prepared.left_out:
        print(f"{'note':12} {note}")
    for name, split in prepared.splits.items():
        mixture = split.describe_mixture()
        if mixture:
            print(f"{'note':12} {name}: {mixture}")
    special = sum(split.special for split in prepared.splits.values())
    if special:
        print(
            f"{'note':12} {special:,} are TIFF, .npy or DICOM files, which hf_mae reads and "
            "datasets' own decoding may not"
        )
    bad = sum(len(split.bad) for split in prepared.splits.values())
    folder = printable(prepared.output_dir)
    if bad:
        print(
            f"{'left out':12} {bad:,} images that can't be read, listed in "
            f"{os.path.join(folder, BAD_IMAGES_FILE)}"
        )
    print(f"{'train with':12} --dataset_name {folder}")


def size(count: float) -> str:
    """Bytes, as people read them."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def parse() -> argparse.Namespace:
    description, _, notes = (__doc__ or "").partition("\n\n")
    parser = CommandLine(
        description=description, epilog=notes, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_source(parser.add_argument_group("what is read, as the training scripts have it"))
    add_target(parser.add_argument_group("what is written"))
    parser.add_argument_group("how").add_argument(
        "--num_proc",
        type=int,
        default=cores(),
        metavar="N",
        help="worker processes; the result is the same for any number (default: a core each)",
    )
    parser.add_argument(
        "--max_image_pixels",
        type=int,
        default=MAX_IMAGE_PIXELS,
        metavar="N",
        help="larger images are decoded at reduced scale (JPEG), or left out (default: "
        "100,000,000)",
    )
    return parser.parse_args()


def add_source(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--train_dir", metavar="DIR", help="folder of images")
    group.add_argument(
        "--validation_dir", metavar="DIR", help="folder of held-out images, beside these or alone"
    )
    group.add_argument(
        "--dataset_name",
        metavar="NAME",
        help="Hub id, local folder, table or .tar file, or 'digits'",
    )
    group.add_argument("--dataset_config", metavar="NAME", help="configuration of the data set")
    group.add_argument(
        "--image_column", metavar="NAME", help="column of the images (default: found)"
    )
    group.add_argument(
        "--label_column",
        nargs="+",
        metavar="NAME",
        help="column of the labels, or several of 0 and 1, to be called label (default: all "
        "columns stay as they are, and training finds the labels)",
    )
    group.add_argument(
        "--streaming",
        action="store_true",
        help="read tables and tar shards, of a Hub id or folder, as they are needed",
    )


def add_target(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--output_dir",
        required=True,
        metavar="OUT",
        help="a new folder, or that of a preparation that stopped",
    )
    group.add_argument(
        "--shortest_edge",
        type=int,
        default=512,
        metavar="PIXELS",
        help="at most; smaller images aren't enlarged. 288 to 512 for crops of 224 (default: 512)",
    )
    group.add_argument(
        "--format",
        dest="file_format",
        choices=list(SHARDS),
        default="parquet",
        help="parquet keeps all columns as they are, webdataset (.tar) has them as JSON, classes "
        "by name (default: parquet)",
    )
    group.add_argument(
        "--quality",
        type=int,
        default=90,
        metavar="Q",
        help="of JPEG, 1 to 100: at 90 its errors are well below what random crops change, and "
        "files are two thirds of those at 95 (default: 90)",
    )
    group.add_argument(
        "--images_per_shard",
        type=int,
        default=1000,
        metavar="N",
        help="rows of the source in a file (default: 1000)",
    )


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if __name__ == "__main__":
    start(main)
