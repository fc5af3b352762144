"""Names what is on pictures: the five most probable classes of each.

python scripts/predict.py --model_name_or_path DIR_OR_ID [--json] IMAGE [IMAGE …]

The exit status is 1 if a picture could not be read; the others are named all the same.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from hf_mae import load_classifier, predict
from hf_mae.errors import DECODE_ERRORS, reported_as


def main() -> None:
    args = parse_arguments()
    with reported_as("predict.py"):
        model, processor = load_classifier(args.model_name_or_path)

    results = []
    for name in args.images:
        try:
            if Path(name).is_dir():
                raise IsADirectoryError(f"it is a folder; name files, as {Path(name) / '*'}")
            results.append({"image": name, "predictions": predict(model, processor, name)})
        except DECODE_ERRORS as error:
            results.append({"image": name, "error": str(error)})
            print(f"predict.py: {name} is passed over: {error}", file=sys.stderr)

    if args.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    else:
        print("\n\n".join(map(as_text, results)))
    if any("error" in result for result in results):
        sys.exit(1)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Names what is on pictures: the five most probable classes of each.",
        allow_abbrev=False,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument(
        "--model_name_or_path", required=True, help="classifier, ours or native: folder or Hub id"
    )
    parser.add_argument(
        "--json", action="store_true", help="print a JSON list: image, and predictions or error"
    )
    return parser.parse_args()


def as_text(result: dict[str, Any]) -> str:
    lines = [result["image"]]
    for row in result.get("predictions", []):
        lines.append(f"  {row['score']:7.2%}  {row['label']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
