"""Writes a model of ours as one that runs without this package, and checks its outputs.

    python scripts/export.py --model_name_or_path DIR --output_dir DIR [--as vit | vit_mae]
    python scripts/export.py --model_name_or_path DIR --output_dir DIR --to onnx | torch

A pre-training model becomes a `vit` (the encoder, for features and for training classifiers) and,
in `pretraining/`, a `vit_mae` (encoder and decoder); `--as` writes one of them alone. Classifiers
become `beit` (mean of the patches) or `vit` (class token).

`--to onnx` writes model.onnx, `--to torch` model.pt2 for `torch.export.load`: a classifier, or the
encoder of a pre-training model, for batches and images of any size.
"""

from early_help import answer_help, start


if __name__ == "__main__":
    answer_help(__file__)

import argparse
from pathlib import Path

from hf_mae import MAEForPreTraining, export, load_model
from hf_mae.conversion.to_programs import FILES, export_program
from hf_mae.conversion.to_transformers import describe_values
from hf_mae.errors import reported_as
from hf_mae.models.model_files import PRETRAINING_FOLDER
from hf_mae.training.command_line import CommandLine


def main() -> None:
    args = parse()
    with reported_as("export.py"):
        source, target = Path(args.model_name_or_path).resolve(), Path(args.output_dir).resolve()
        if source in (target, target / PRETRAINING_FOLDER):
            raise ValueError(
                f"output_dir {args.output_dir} is the model's own folder, which would be "
                "overwritten"
            )
        model, processor = load_model(args.model_name_or_path)
        if args.to == "transformers":
            exported = export(model, processor, args.output_dir, args.kind)
            differences, notes = exported.differences, exported.notes
            for place, architecture in exported.architectures.items():
                print(f"{architecture} in {Path(args.output_dir, place)}")
        else:
            differences = export_program(model, args.output_dir, args.to)
            notes = describe_values(processor)
            processor.save_pretrained(args.output_dir)
            print(f"{Path(args.output_dir, FILES[args.to])}, preprocessor_config.json beside it")
            if isinstance(model, MAEForPreTraining):
                notes.append("it is the encoder alone; such programs have no decoder")
    for name, difference in differences.items():
        print(f"  {name}: equal to ours, but for {difference:.1e}")
    for note in notes:
        print(f"note: {note}")


def parse() -> argparse.Namespace:
    parser = CommandLine(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--model_name_or_path", required=True, help="a model of ours: folder or Hub id"
    )
    parser.add_argument("--output_dir", required=True, help="another folder")
    parser.add_argument(
        "--as",
        dest="kind",
        choices=["vit", "vit_mae"],
        help="one model alone: the bare encoder, or encoder and decoder (default: of a "
        "pre-training model both, of a classifier the classifier)",
    )
    parser.add_argument(
        "--to",
        choices=["transformers", *FILES],
        default="transformers",
        help="what runs it (default: transformers); onnx needs the extra hf-mae[onnx]",
    )
    args = parser.parse_args()
    if args.kind and args.to != "transformers":
        parser.error(
            f"--as {args.kind} is of transformers' models; leave it out with --to {args.to}"
        )
    return args


if __name__ == "__main__":
    start(main)
