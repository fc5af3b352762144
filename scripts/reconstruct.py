"""Hides most of each image and shows what a model makes of the rest.

python scripts/reconstruct.py --model_name_or_path DIR_OR_ID --output out.png IMAGE [IMAGE …]

The exit status is 1 if an image could not be read; the others are drawn all the same.
"""

from early_help import answer_help


if __name__ == "__main__":
    answer_help(__file__)

import argparse
import sys
from typing import cast

import torch

from hf_mae import MAEConfig, MAEImageProcessor, load_processor
from hf_mae.errors import DECODE_ERRORS, reported_as
from hf_mae.file_names import print_any_name
from hf_mae.models.loading import load_pretraining_model
from hf_mae.models.masking import seeded_noise
from hf_mae.training import reconstruction_panel
from hf_mae.whole_numbers import whole


def main() -> None:
    args = parse_arguments()
    print_any_name()
    with reported_as("reconstruct.py"):
        model = load_pretraining_model(args.model_name_or_path)
        loaded = load_processor(args.model_name_or_path, cast(MAEConfig, model.config))
        processor = cast(MAEImageProcessor, loaded)

    images, failed = [], False
    for name in args.images:
        try:
            images.append(processor(name, return_tensors="pt").pixel_values)
        except DECODE_ERRORS as error:
            failed = True
            print(f"reconstruct.py: {name} is passed over: {error}", file=sys.stderr)
    if images:
        noise = seeded_noise(len(images), model.config.num_patches, args.seed)
        panel = reconstruction_panel(model, processor, torch.cat(images), noise)
        panel.savefig(args.output, dpi=120)
        noun = "image" if len(images) == 1 else "images"
        print(f"{len(images)} {noun} in {args.output}")
    if failed:
        sys.exit(1)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Hides most of each image and shows what a model makes of the rest.",
        allow_abbrev=False,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument(
        "--model_name_or_path", required=True, help="pre-training model: folder or Hub id"
    )
    parser.add_argument("--output", required=True, help="PNG file to write")
    parser.add_argument("--seed", type=whole(0, 2**63 - 1), default=0, help="decides the masks")
    return parser.parse_args()


if __name__ == "__main__":
    main()
