"""Writes a model of ours as one that plain transformers loads, and checks that it computes the
same.

    python scripts/export.py --model_name_or_path DIR --output_dir DIR [--as vit]

Pre-training models become `vit_mae`, classifiers `beit` (mean of the patches) or `vit` (class
token). `--as vit` writes the encoder alone, for image-feature-extraction.
"""

import argparse
import sys
from pathlib import Path

from safetensors import SafetensorError

from hf_mae.conversion.to_transformers import export
from hf_mae.models.loading import load_model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--model_name_or_path", required=True, help="a model of ours: folder or Hub id"
    )
    parser.add_argument("--output_dir", required=True, help="another folder")
    parser.add_argument(
        "--as", dest="kind", choices=["vit"], help="the bare encoder, without decoder or head"
    )
    args = parser.parse_args()
    try:
        if Path(args.output_dir).resolve() == Path(args.model_name_or_path).resolve():
            raise ValueError(
                f"output_dir {args.output_dir} is the model's own folder, which would be "
                "overwritten"
            )
        model, processor = load_model(args.model_name_or_path)
        result = export(model, processor, args.output_dir, bare_encoder=args.kind == "vit")
    except (ValueError, OSError, SafetensorError) as error:
        sys.exit(f"export.py: error: {error}")
    print(f"{result.pop('architecture')} in {args.output_dir}")
    print(
        "\n".join(
            f"  {name}: equal to ours, but for {difference:.1e}"
            for name, difference in result.items()
        )
    )


if __name__ == "__main__":
    main()
