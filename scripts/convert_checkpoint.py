"""Converts a published or any other MAE checkpoint to a folder of ours, and proves it.

    python scripts/convert_checkpoint.py --name NAME [--checkpoint FILE] --output_dir DIR
    python scripts/convert_checkpoint.py --checkpoint FILE --output_dir DIR

Reads mmpretrain's, the authors' (facebookresearch/mae), timm's ViT and transformers' `vit_mae`
weights, .pth or .safetensors; no code in them is run. `--name` is a published model's, upstream's
or ours (`--list` shows them): its file is fetched unless `--checkpoint` says where it is, and its
digest checked. Without a name, kind and sizes are read from the tensors.
"""

from early_help import answer_help, start


if __name__ == "__main__":
    answer_help(__file__)

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers.utils import SAFE_WEIGHTS_NAME

from hf_mae import MAEImageProcessor, convert
from hf_mae.conversion.checkpoint_files import check_digest, download, read_checkpoint
from hf_mae.conversion.provenance import provenance, save_provenance
from hf_mae.conversion.zoo import ZOO, PublishedModel, published_model
from hf_mae.errors import reported_as
from hf_mae.models.model_files import PRETRAINING_FOLDER
from hf_mae.output_folder import PROVENANCE_FILE
from hf_mae.training.command_line import CommandLine
from hf_mae.whole_numbers import whole


UNTOLD_FIELDS = (
    "image_size",
    "num_attention_heads",
    "decoder_num_attention_heads",
    "norm_pix_loss",
)


def main() -> None:
    args = parse()
    output_dir = Path(args.output_dir)
    with reported_as("convert_checkpoint.py"):
        published = published_model(args.name) if args.name else None
        path = find_file(args.checkpoint, published)
        state_dict, extras = read_checkpoint(path)
        if published and published.digest:
            check_digest(path, published.digest)
        extras |= read_config_beside(path)
        conversion = convert(state_dict, extras, published, **explicit_fields(args))
        facts = provenance(conversion, path, published)
        processor = MAEImageProcessor.from_model_config(conversion.model.config)
        output_dir.mkdir(parents=True, exist_ok=True)  # save_pretrained only logs that it can't
        conversion.model.save_pretrained(output_dir)
        processor.save_pretrained(output_dir)
        save_provenance(facts, output_dir)
    notes = conversion.notes
    if path.with_name("preprocessor_config.json").is_file():
        notes.append(
            "preprocessor_config.json beside the file isn't taken over; compare it with the new one"
        )
    print(report(facts, processor, output_dir))
    for note in notes:
        print(f"{'note':8} {note}")


def parse() -> argparse.Namespace:
    parser = CommandLine(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--name", help="published model, by upstream's name or ours")
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help=".pth or .safetensors, or transformers' folder; else the published file is fetched",
    )
    parser.add_argument("--output_dir", metavar="DIR", help="where the model goes")
    parser.add_argument(
        "--image_size",
        type=whole(1),
        nargs="+",
        metavar="PIXELS",
        help="height and width, or the side of a square; only sin-cos positions tell it",
    )
    parser.add_argument(
        "--num_attention_heads", type=whole(1), help="of the encoder, which no tensor tells"
    )
    parser.add_argument("--decoder_num_attention_heads", type=whole(1), help="of the decoder")
    parser.add_argument(
        "--norm_pix_loss",
        action=argparse.BooleanOptionalAction,
        help="whether it predicts normalised patches",
    )
    parser.add_argument("--list", action="store_true", help="list the published models")
    args = parser.parse_args()
    if args.image_size and len(args.image_size) > 2:
        parser.error(
            f"--image_size is {args.image_size}; it must be a positive number, or height and width"
        )
    if args.list:
        for model in ZOO.values():
            weights = "" if model.url else "  (results only, no file)"
            print(f"{model.hub_name:40} {model.name}{weights}")
        sys.exit()
    if not args.output_dir or not (args.name or args.checkpoint):
        parser.error("give --output_dir, and --name or --checkpoint or both")
    if Path(args.output_dir).is_file():
        parser.error(
            f"--output_dir {args.output_dir} is a file; it must be a folder, or what can become one"
        )
    return args


def explicit_fields(args: argparse.Namespace) -> dict[str, Any]:
    """What the user says of the model, which no tensor tells."""
    fields = {name: getattr(args, name) for name in UNTOLD_FIELDS}
    return {name: value for name, value in fields.items() if value is not None}


def find_file(checkpoint: str | None, published: PublishedModel | None) -> Path:
    """The file that the user gives, else the published one, from the cache or the network.

    Of a folder in transformers' format it is that with the decoder, if there is one.
    """
    if checkpoint and Path(checkpoint).is_dir():
        below = Path(checkpoint, PRETRAINING_FOLDER, SAFE_WEIGHTS_NAME)
        return below if below.is_file() else Path(checkpoint, SAFE_WEIGHTS_NAME)
    if checkpoint or published is None:
        return Path(checkpoint or "")
    if published.url is None:
        raise ValueError(
            f"no file of {published.name} was published, results only; train it with "
            f"scripts/recipes/{published.recipe}.yaml from {published.starts_from}, or give "
            "--checkpoint"
        )
    return download(published.url, Path(torch.hub.get_dir()) / "checkpoints")


def read_config_beside(path: Path) -> dict[str, Any]:
    """transformers' configuration beside a file of weights, as `config`, if there is one."""
    beside = path.with_name("config.json")
    if not beside.is_file():
        return {}
    try:
        return {"config": json.loads(beside.read_text(encoding="utf-8"))}
    except ValueError as error:
        raise ValueError(
            f"{beside}, which says what no tensor tells, is damaged: {error}"
        ) from error


def report(facts: dict[str, Any], processor: MAEImageProcessor, output_dir: Path) -> str:
    """What was converted into what, a row for each fact."""
    outputs = facts["outputs"]
    edge = dict(processor.size)["shortest_edge"]
    crop = dict(processor.crop_size)
    mean = [round(value, 3) for value in processor.image_mean]
    std = [round(value, 3) for value in processor.image_std]
    rows = {
        "source": f"{facts['source_file']} ({facts['source_format']}), "
        f"{facts['source_tensors']} tensors",
        "sha256": facts["source_sha256"],
        "model": f"{facts['architecture']}, {facts['tensors']} tensors, "
        f"{facts['parameters']:,} parameters and positions",
        "keys": "none left over, none missing",
        "outputs": f"{outputs['output']} {outputs['shape']} of a fixed input: mean "
        f"{outputs['mean']:.6g}, mean absolute {outputs['mean_absolute']:.6g}",
        "pictures": f"shortest edge to {edge}, the middle "
        f"{crop['height']} x {crop['width']}, mean {mean}, deviation {std}; if it was trained on "
        "others, mend preprocessor_config.json",
        "folder": f"{output_dir} ({PROVENANCE_FILE} has these figures)",
    }
    return "\n".join(f"{name:8} {text}" for name, text in rows.items())


if __name__ == "__main__":
    start(main)
