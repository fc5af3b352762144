"""Converts a published or any other MAE checkpoint to a folder of ours, and proves it.

    python scripts/convert_checkpoint.py --name NAME [--checkpoint FILE] --output_dir DIR
    python scripts/convert_checkpoint.py --checkpoint FILE --output_dir DIR

Reads mmpretrain's, the authors' (facebookresearch/mae), timm's ViT and transformers' `vit_mae`
weights, .pth or .safetensors; no code in them is run. `--name` is a published model's, upstream's
or ours (`--list` shows them): its file is fetched unless `--checkpoint` says where it is, and its
digest checked. Without a name, kind and sizes are read from the tensors.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError

from hf_mae import MAEImageProcessor
from hf_mae.conversion.checkpoint_files import check_digest, download, read_checkpoint
from hf_mae.conversion.from_others import convert
from hf_mae.conversion.provenance import provenance, save_provenance
from hf_mae.conversion.zoo import ZOO, published_model
from hf_mae.output_folder import PROVENANCE_FILE


def main():
    args = parse()
    try:
        output_dir = Path(args.output_dir)
        published = published_model(args.name) if args.name else None
        path = Path(args.checkpoint) if args.checkpoint else fetch(published)
        state_dict, extras = read_checkpoint(path)
        if published and published.digest:
            check_digest(path, published.digest)
        beside = path.with_name("config.json")
        if beside.is_file():
            extras["config"] = read_config(beside)
        given = ("num_attention_heads", "decoder_num_attention_heads", "norm_pix_loss")
        fields = {name: getattr(args, name) for name in given if getattr(args, name) is not None}
        conversion = convert(state_dict, extras, published, **fields)
        facts = provenance(conversion, path, published)
        processor = MAEImageProcessor.from_model_config(conversion.model.config)
        if path.with_name("preprocessor_config.json").is_file():
            conversion.notes.append(
                "preprocessor_config.json beside the file isn't taken over; compare it with the "
                "new one"
            )
        output_dir.mkdir(parents=True, exist_ok=True)  # save_pretrained only logs that it can't
        conversion.model.save_pretrained(output_dir)
        processor.save_pretrained(output_dir)
        save_provenance(facts, output_dir)
    except (ValueError, OSError, SafetensorError) as error:
        sys.exit(f"convert_checkpoint.py: error: {error}")
    print(report(facts, conversion.notes, processor, output_dir))


def read_config(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}, which says what no tensor tells, is damaged: {error}") from error


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--name", help="published model, by upstream's name or ours")
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help=".pth or .safetensors; else the published file is fetched",
    )
    parser.add_argument("--output_dir", metavar="DIR", help="where the model goes")
    parser.add_argument(
        "--num_attention_heads", type=int, help="of the encoder, which no tensor tells"
    )
    parser.add_argument("--decoder_num_attention_heads", type=int, help="of the decoder")
    parser.add_argument(
        "--norm_pix_loss",
        action=argparse.BooleanOptionalAction,
        help="whether it predicts normalised patches",
    )
    parser.add_argument("--list", action="store_true", help="list the published models")
    args = parser.parse_args()
    if args.list:
        print(
            "\n".join(
                f"{m.hub_name:40} {m.name}{'' if m.url else '  (results only, no file)'}"
                for m in ZOO.values()
            )
        )
        sys.exit()
    if not args.output_dir or not (args.name or args.checkpoint):
        parser.error("give --output_dir, and --name or --checkpoint or both")
    if Path(args.output_dir).is_file():
        parser.error(
            f"--output_dir {args.output_dir} is a file; it must be a folder, or what can become one"
        )
    return args


def fetch(published):
    """Path of a published model's file, from the cache or the network."""
    if published.url is None:
        raise ValueError(
            f"no file of {published.name} was published, results only; train it with "
            f"scripts/recipes/{published.recipe}.yaml from {published.starts_from}, or give "
            "--checkpoint"
        )
    return download(published.url, Path(torch.hub.get_dir()) / "checkpoints")


def report(facts, notes, processor, output_dir):
    outputs, crop = facts["outputs"], processor.crop_size
    mean, std = (
        [round(value, 3) for value in values]
        for values in (processor.image_mean, processor.image_std)
    )
    rows = {
        "source": f"{facts['source_file']} ({facts['source_format']}), "
        f"{facts['source_tensors']} tensors",
        "sha256": facts["source_sha256"],
        "model": f"{facts['architecture']}, {facts['tensors']} tensors, "
        f"{facts['parameters']:,} parameters and positions",
        "keys": "none left over, none missing",
        "outputs": f"{outputs['output']} {outputs['shape']} of a fixed input: mean "
        f"{outputs['mean']:.6g}, "
        f"mean absolute {outputs['mean_absolute']:.6g}",
        "pictures": f"shortest edge to {processor.size.shortest_edge}, the middle "
        f"{crop.height} x {crop.width}, "
        f"mean {mean}, deviation {std}; if it was trained on others, mend preprocessor_config.json",
        "folder": f"{output_dir} ({PROVENANCE_FILE} has these figures)",
    }
    lines = [f"{name:8} {text}" for name, text in rows.items()]
    return "\n".join(lines + [f"{'note':8} {note}" for note in notes])


if __name__ == "__main__":
    main()
