"""Writes a model of ours as one that plain transformers loads, and checks its outputs.

    python scripts/export.py --model_name_or_path DIR --output_dir DIR [--as vit]

Pre-training models become `vit_mae`, classifiers `beit` (mean of the patches) or `vit` (class
token). `--as vit` writes the encoder alone, for image-feature-extraction.
"""

import argparse
from pathlib import Path

from hf_mae import export, load_model
from hf_mae.errors import reported_as


def main() -> None:
    args = parse()
    with reported_as("export.py"):
        if Path(args.output_dir).resolve() == Path(args.model_name_or_path).resolve():
            raise ValueError(
                f"output_dir {args.output_dir} is the model's own folder, which would be "
                "overwritten"
            )
        model, processor = load_model(args.model_name_or_path)
        exported = export(model, processor, args.output_dir, bare_encoder=args.kind == "vit")
    print(f"{exported.architecture} in {args.output_dir}")
    for name, difference in exported.differences.items():
        print(f"  {name}: equal to ours, but for {difference:.1e}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "--model_name_or_path", required=True, help="a model of ours: folder or Hub id"
    )
    parser.add_argument("--output_dir", required=True, help="another folder")
    parser.add_argument(
        "--as", dest="kind", choices=["vit"], help="the bare encoder, without decoder or head"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
