"""Names what is on pictures: the five most probable classes of each.

python scripts/predict.py --model_name_or_path DIR_OR_ID [--json] IMAGE [IMAGE …]

Of a multi-label model it prints each label whose probability, the sigmoid, is at least 50 % (--json
lists all labels), and of a regression the value. The exit status is 1 if a picture could not be
read; the others are named all the same.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from hf_mae import load_classifier, predict
from hf_mae.errors import DECODE_ERRORS, reported_as
from hf_mae.file_names import print_any_name
from hf_mae.models.problem_types import MULTI_LABEL, REGRESSION


THRESHOLD = 0.5  # of a label's probability, to be printed
TOP_K = 5


def main() -> None:
    args = parse_arguments()
    print_any_name()
    with reported_as("predict.py"):
        model, processor = load_classifier(args.model_name_or_path)
    config: Any = model.config
    top_k = config.num_labels if config.problem_type == MULTI_LABEL else TOP_K

    results = []
    for name in args.images:
        try:
            if Path(name).is_dir():
                raise IsADirectoryError(f"it is a folder; name files, as {Path(name) / '*'}")
            predictions = predict(model, processor, name, top_k)
            results.append({"image": name, "predictions": predictions})
        except DECODE_ERRORS as error:
            results.append({"image": name, "error": str(error)})
            print(f"predict.py: {name} is passed over: {error}", file=sys.stderr)

    if args.json:
        print(as_json(results))
    else:
        print("\n\n".join(as_text(result, config.problem_type) for result in results))
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


def as_json(results: list[dict[str, Any]]) -> str:
    """Writes names as they are where the terminal can, else by escapes."""
    text = json.dumps(results, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return json.dumps(results, indent=2)
    return text


def as_text(result: dict[str, Any], problem_type: str | None) -> str:
    lines = [result["image"]]
    for row in result.get("predictions", []):
        if problem_type == REGRESSION:
            lines.append(f"  {row['label']} {row['score']:.2f}")
        elif problem_type != MULTI_LABEL:
            lines.append(f"  {row['score']:7.2%}  {row['label']}")
        elif row["score"] >= THRESHOLD:
            lines.append(f"  {row['label']} {100 * row['score']:.1f} %")
    if "predictions" in result and len(lines) == 1:
        lines.append(f"  no label reaches {100 * THRESHOLD:.0f} %")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
