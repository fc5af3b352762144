"""Hides most of each image and shows what a model makes of the rest.

python scripts/reconstruct.py --model_name_or_path DIR_OR_ID --output out.png IMAGE [IMAGE …]
"""

import argparse
import sys

import torch
from PIL import Image

from hf_mae import MAEForPreTraining, MAEImageProcessor
from hf_mae.errors import DECODE_ERRORS
from hf_mae.models.masking import seeded_noise
from hf_mae.training.visualization import reconstruction_panel


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument(
        "--model_name_or_path", required=True, help="pre-training model: folder or Hub id"
    )
    parser.add_argument("--output", required=True, help="PNG file to write")
    parser.add_argument("--seed", type=int, default=0, help="decides the masks")
    args = parser.parse_args()
    try:
        model = MAEForPreTraining.from_pretrained(args.model_name_or_path).eval()
    except (ValueError, OSError) as error:
        sys.exit(f"reconstruct.py: error: {error}")
    processor = MAEImageProcessor.from_model_config(model.config)

    images, failed = [], 0
    for name in args.images:
        try:
            with Image.open(name) as image:
                images.append(processor(image, return_tensors="pt").pixel_values)
        except DECODE_ERRORS as error:
            failed += 1
            print(f"reconstruct.py: {name} is passed over: {error}", file=sys.stderr)
    if images:
        noise = seeded_noise(len(images), model.config.num_patches, args.seed)
        reconstruction_panel(model, processor, torch.cat(images), noise).savefig(
            args.output, dpi=120
        )
        print(f"{len(images)} image{'s' * (len(images) > 1)} in {args.output}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
