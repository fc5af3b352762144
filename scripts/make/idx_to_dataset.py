"""Converts images and labels in MNIST's IDX format to a data set that the other scripts read.

python scripts/make/idx_to_dataset.py --idx_dir /usr/share/datasets/fashion-mnist --output_dir
data/fashion-mnist

The folder holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-… and t10k-labels-…,
gzipped or not (Debian's package dataset-fashion-mnist is one). The result has the splits train and
test, with PNG files in the column image.
"""

import argparse
import gzip
import io
import sys
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from PIL import Image


FASHION_MNIST = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
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
    args = parser.parse_args()
    try:
        splits = {
            name: read_split(args.idx_dir, prefix)
            for name, prefix in (("train", "train"), ("test", "t10k"))
        }
        if args.images_per_class is not None:
            splits["train"] = subset(*splits["train"], args.images_per_class, args.seed)
        names = class_names(args, int(splits["train"][1].max()) + 1)
    except (ValueError, OSError) as error:
        sys.exit(f"idx_to_dataset.py: error: {error}")
    dataset = DatasetDict({name: as_dataset(*split, names) for name, split in splits.items()})
    dataset.save_to_disk(args.output_dir)
    print(
        f"{args.output_dir}: {dataset['train'].num_rows:,} training and "
        f"{dataset['test'].num_rows:,} test images"
    )


def read_split(folder, prefix):
    """Images (N, H, W) and labels (N,), uint8."""
    images = read_idx(folder, f"{prefix}-images-idx3-ubyte")
    labels = read_idx(folder, f"{prefix}-labels-idx1-ubyte")
    if len(images) != len(labels):
        raise ValueError(f"{folder} has {len(images)} {prefix} images and {len(labels)} labels")
    return images, labels


def read_idx(folder, name):
    """An IDX file of bytes: two zeros, type 8, the number of axes, their sizes as big-endian 32-bit
    numbers, the values."""
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if not found:
        raise ValueError(f"idx_dir {folder} has no {name} or {name}.gz")
    data = (
        gzip.decompress(found[0].read_bytes())
        if found[0].suffix == ".gz"
        else found[0].read_bytes()
    )
    axes = data[3] if len(data) > 3 and data[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(data, ">u4", axes, offset=4) if axes and len(data) >= 4 + 4 * axes else ()
    values = np.frombuffer(data, np.uint8, offset=min(len(data), 4 + 4 * axes))
    if not axes or values.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"{found[0]} is not an IDX file of bytes, or is cut off")
    return values.reshape(shape)


def subset(images, labels, images_per_class, seed):
    """So many images of each class, chosen by the seed, in the old order."""
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = [order[labels[order] == number][:images_per_class] for number in np.unique(labels)]
    short = [len(numbers) for numbers in chosen if len(numbers) < images_per_class]
    if short or images_per_class < 1:
        raise ValueError(
            f"images_per_class is {images_per_class}; it must be from 1 to "
            f"{np.bincount(labels).min()}"
        )
    chosen = np.sort(np.concatenate(chosen))
    return images[chosen], labels[chosen]


def class_names(args, num_classes):
    """The names given, Fashion-MNIST's if that is what the folder is called after, or numbers."""
    if args.class_names:
        if len(args.class_names) != num_classes:
            raise ValueError(
                f"class_names are {len(args.class_names)} and the labels have {num_classes} classes"
            )
        return args.class_names
    fashion = "fashion" in args.idx_dir.resolve().name.lower()
    return FASHION_MNIST if fashion else [str(number) for number in range(num_classes)]


def as_dataset(images, labels, names):
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=list(names))})
    files = [{"bytes": as_png(image), "path": None} for image in images]
    return Dataset.from_dict({"image": files, "label": labels.tolist()}, features=features)


def as_png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
