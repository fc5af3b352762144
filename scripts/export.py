"""Writes a model of ours as one that plain transformers loads, and checks its outputs.

    python scripts/export.py --model_name_or_path DIR --output_dir DIR [--as vit | vit_mae]

A pre-training model becomes a `vit` (the encoder, for features and for training classifiers) and,
in `pretraining/`, a `vit_mae` (encoder and decoder); `--as` writes one of them alone. Classifiers
become `beit` (mean of the patches) or `vit` (class token).
"""

import argparse
from pathlib import Path

from hf_mae import export, load_model
from hf_mae.errors import reported_as
from hf_mae.models.model_files import PRETRAINING_FOLDER


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
        exported = export(model, processor, args.output_dir, args.kind)
    for place, architecture in exported.architectures.items():
        print(f"{architecture} in {Path(args.output_dir, place)}")
    for name, difference in exported.differences.items():
        print(f"  {name}: equal to ours, but for {difference:.1e}")
    for note in exported.notes:
        print(f"note: {note}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
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
    return parser.parse_args()


if __name__ == "__main__":
    main()
