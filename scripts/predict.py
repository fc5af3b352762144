"""Names what is on pictures: the five most probable classes of each.

python scripts/predict.py --model_name_or_path DIR_OR_ID [--json] IMAGE [IMAGE …]

The exit status is 1 if a picture could not be read; the others are named all the same.
"""

import argparse
import json
import sys
from pathlib import Path

from safetensors import SafetensorError

from hf_mae.errors import DECODE_ERRORS
from hf_mae.inference import predict
from hf_mae.models.loading import load_classifier


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument(
        "--model_name_or_path", required=True, help="classifier, ours or native: folder or Hub id"
    )
    parser.add_argument(
        "--json", action="store_true", help="print a JSON list: image, and predictions or error"
    )
    args = parser.parse_args()
    try:
        model, processor = load_classifier(args.model_name_or_path)
    except (ValueError, OSError, SafetensorError) as error:
        sys.exit(f"predict.py: error: {error}")

    results = []
    for name in args.images:
        try:
            if Path(name).is_dir():
                raise IsADirectoryError(f"it is a folder; name files, as {Path(name) / '*'}")
            results.append({"image": name, "predictions": predict(model, processor, name)})
        except DECODE_ERRORS as error:
            results.append({"image": name, "error": str(error)})
            print(f"predict.py: {name} is passed over: {error}", file=sys.stderr)
    print(
        json.dumps(results, indent=2, ensure_ascii=False)
        if args.json
        else "\n\n".join(map(as_text, results))
    )
    sys.exit(1 if any("error" in result for result in results) else 0)


def as_text(result):
    rows = result.get("predictions", [])
    return "\n".join([result["image"], *(f"  {row['score']:7.2%}  {row['label']}" for row in rows)])


if __name__ == "__main__":
    main()
