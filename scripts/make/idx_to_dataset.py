"""Converts images and labels in MNIST's IDX format to a data set that the other scripts read.

    python scripts/make/idx_to_dataset.py --idx_dir DIR --output_dir DIR

The folder holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-… and t10k-labels-…,
gzipped or not (Debian's package dataset-fashion-mnist is one). The result has the splits train and
test, with PNG files in the column image.
"""

import argparse
import gzip
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image


if TYPE_CHECKING:
    from datasets import Dataset


FASHION_MNIST = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]


def main() -> None:
    args = parse()
    from datasets import DatasetDict  # which takes seconds, as the next does

    from hf_mae.errors import reported_as

    with reported_as("idx_to_dataset.py"):
        train = read_split(args.idx_dir, "train")
        test = read_split(args.idx_dir, "t10k")
        if args.images_per_class is not None:
            train = choose_images(*train, args.images_per_class, args.seed)
        num_classes = int(train[1].max()) + 1
        names = choose_class_names(args.class_names, args.idx_dir, num_classes)
        dataset = DatasetDict(
            {"train": make_dataset(*train, names), "test": make_dataset(*test, names)}
        )
        dataset.save_to_disk(args.output_dir)
    print(
        f"{args.output_dir}: {dataset['train'].num_rows:,} training and "
        f"{dataset['test'].num_rows:,} test images"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--idx_dir", required=True, type=Path, help="folder of the IDX files")
    parser.add_argument(
        "--output_dir", required=True, type=Path, help="folder to write the data set to"
    )
    parser.add_argument(
        "--class_names", nargs="+", metavar="NAME", help="(default: Fashion-MNIST's, else numbers)"
    )
    parser.add_argument(
        "--images_per_class",
        type=int,
        help="take so many training images of each class (default: all)",
    )
    parser.add_argument("--seed", type=int, default=0, help="decides which those are")
    return parser.parse_args()


def read_split(folder: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W) and labels (N,), uint8."""
    images = read_idx(folder, f"{prefix}-images-idx3-ubyte")
    labels = read_idx(folder, f"{prefix}-labels-idx1-ubyte")
    if len(images) != len(labels):
        raise ValueError(f"{folder} has {len(images)} {prefix} images and {len(labels)} labels")
    return images, labels


def read_idx(folder: Path, name: str) -> np.ndarray:
    """Reads an IDX file of bytes.

    It holds two zeros, type 8, the number of axes, their sizes as big-endian 32-bit numbers, and
    the values.
    """
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if not found:
        raise ValueError(f"idx_dir {folder} has no {name} or {name}.gz")
    path = found[0]
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    num_axes = data[3] if len(data) > 3 else 0
    start = 4 + 4 * num_axes
    if num_axes and data[:3] == b"\0\0\x08" and len(data) >= start:
        shape = np.frombuffer(data, ">u4", num_axes, offset=4)
        values = np.frombuffer(data, np.uint8, offset=start)
        if values.size == np.prod(shape, dtype=np.int64):
            return values.reshape(shape)
    raise ValueError(f"{path} is not an IDX file of bytes, or is cut off")


def choose_images(
    images: np.ndarray, labels: np.ndarray, images_per_class: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """So many images of each class, chosen by the seed, in the old order."""
    fewest = np.unique(labels, return_counts=True)[1].min()
    if not 1 <= images_per_class <= fewest:
        raise ValueError(f"images_per_class is {images_per_class}; it must be from 1 to {fewest}")
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = [order[labels[order] == number][:images_per_class] for number in np.unique(labels)]
    kept = np.sort(np.concatenate(chosen))
    return images[kept], labels[kept]


def choose_class_names(given: list[str] | None, idx_dir: Path, num_classes: int) -> list[str]:
    """The names given, Fashion-MNIST's if that is what the folder is called after, or numbers."""
    if given:
        if len(given) != num_classes:
            raise ValueError(
                f"class_names are {len(given)} and the labels have {num_classes} classes"
            )
        return given
    if "fashion" in idx_dir.resolve().name.lower():
        return FASHION_MNIST
    return [str(number) for number in range(num_classes)]


def make_dataset(images: np.ndarray, labels: np.ndarray, names: list[str]) -> "Dataset":
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature(), "label": ClassLabel(names=names)})
    files = [{"bytes": encode_png(image), "path": None} for image in images]
    return Dataset.from_dict({"image": files, "label": labels.tolist()}, features=features)


def encode_png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
