"""Hides most of each image and shows what a model makes of the rest.

    python scripts/reconstruct.py --model_name_or_path DIR_OR_ID --output out.png IMAGE [IMAGE …]
    python scripts/reconstruct.py --model_name_or_path DIR_OR_ID --output out.png IMAGE [IMAGE …] \
        --mask block --seed 0 1 2

A row is an image: as it is, masked, reconstructed (all patches as the model draws them) and pasted
(the visible patches as they are, the model's in the holes); with several seeds the last three for
each. --mask block hides as many patches as random does, in squares. --mask FILE.png hides what is
white in that picture, which is stretched over what the model sees of an image.

The exit status is 1 if an image could not be read; the others are drawn all the same.
"""

from early_help import answer_help, start


if __name__ == "__main__":
    answer_help(__file__)

import argparse
import sys
from pathlib import Path
from typing import cast

import torch
from matplotlib.figure import Figure

from hf_mae import MAEConfig, MAEImageProcessor, load_processor
from hf_mae.errors import DECODE_ERRORS, own_words, reported_as
from hf_mae.file_names import one_line, print_any_name, printable
from hf_mae.inference.reconstructions import draw_reconstructions, read_mask
from hf_mae.models.configuration_mae import MASK_STRATEGIES
from hf_mae.models.loading import load_pretraining_model
from hf_mae.models.near_names import did_you_mean
from hf_mae.training.command_line import CommandLine
from hf_mae.whole_files import check_folder
from hf_mae.whole_numbers import whole


def main() -> None:
    args = parse_arguments()
    print_any_name()
    with reported_as("reconstruct.py"):
        check_output(args.output, args.images)
        model = load_pretraining_model(args.model_name_or_path)
        config = cast(MAEConfig, model.config)
        processor = load_processor(args.model_name_or_path, config)
        if args.mask not in (None, *MASK_STRATEGIES):
            check_mask(args.mask)
            read_mask(args.mask, config.grid_size)
        images = []
        for name in args.images:
            try:
                images.append(processor(name, return_tensors="pt").pixel_values)
            except DECODE_ERRORS as error:
                said = f"{one_line(name)} is passed over: {own_words(error)}"
                print(f"reconstruct.py: {said}", file=sys.stderr)
        if images:
            ours, pixel_values = cast(MAEImageProcessor, processor), torch.cat(images)
            figure = draw_reconstructions(model, ours, pixel_values, args.mask, seeds=args.seed)
            figure.savefig(args.output, dpi=120)
            noun = "image" if len(images) == 1 else "images"
            print(f"{len(images)} {noun} in {printable(args.output)}")
    if len(images) < len(args.images):
        sys.exit(1)


def parse_arguments() -> argparse.Namespace:
    parser = CommandLine(
        description="Hides most of each image and shows what a model makes of the rest."
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument(
        "--model_name_or_path", required=True, help="pre-training model: folder or Hub id"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="picture to write, .png or another that matplotlib writes; its folder is made",
    )
    parser.add_argument(
        "--mask",
        metavar="random|block|FILE.png",
        help="patches to hide: at random; in squares, as many; or those that are white in a "
        "picture (default: as in the model's pre-training)",
    )
    parser.add_argument(
        "--seed",
        type=read_seed,
        nargs="+",
        metavar="N",
        help="decides the masks; each of several has its columns (default: 0)",
    )
    args = parser.parse_args()
    if args.mask not in (None, *MASK_STRATEGIES) and args.seed:
        parser.error("--seed draws a mask, and --mask FILE is one; leave one of them out")
    args.seed = args.seed or [0]
    return args


def read_seed(text: str) -> int:
    if Path(text).is_file():  # as --seed 0 IMAGE has it
        raise argparse.ArgumentTypeError(f"{text!r} is a file; images come before --seed")
    return whole(0, 2**63 - 1)(text)


def check_mask(mask: str) -> None:
    """Raises ValueError if it is neither a file, nor looks like the name or address of one."""
    if not Path(mask).exists() and not Path(mask).suffix and "/" not in mask:
        raise ValueError(
            f"mask is {mask!r}; it must be {', '.join(MASK_STRATEGIES)} or a picture"
            f"{did_you_mean(mask, MASK_STRATEGIES)}"
        )


def check_output(output: Path, images: list[str]) -> None:
    """Makes the output's folder, before anything is computed.

    Raises:
        ValueError: the picture can't be written there, or in no such format.
    """
    kinds = Figure().canvas.get_supported_filetypes()
    if output.suffix.lower().removeprefix(".") not in kinds:
        raise ValueError(
            f"output is {printable(output)}; its ending says what is written and must be one of "
            f".{', .'.join(sorted(kinds))}"
        )
    if output.is_dir():
        raise ValueError(f"output {printable(output)} is a folder; name a file")
    if output.resolve() in [Path(name).resolve() for name in images]:
        raise ValueError(f"output {printable(output)} is one of the images; name another file")
    check_folder(output.parent)


if __name__ == "__main__":
    start(main)
