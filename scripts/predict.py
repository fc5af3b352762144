"""Names what is on pictures: the five most probable classes of each.

    python scripts/predict.py --model_name_or_path DIR_OR_ID [--json] IMAGE [IMAGE …]
    python scripts/predict.py --model_name_or_path DIR_OR_ID --output predictions.csv IMAGE …

An IMAGE is a file, a folder, a pattern, an address (https://, hf://) or -, for standard input. Of a
multi-label model it prints each label whose probability, the sigmoid, is at least 50 % (--json
lists all labels), and of a regression the value. The exit status is 1 if a picture could not be
read; the others are named all the same.

With --output the answers are a table, a row an image: CSV, parquet or JSON. Until it is whole they
are kept in OUTPUT.parts, and the same command goes on after it was stopped. On several GPUs:
accelerate launch scripts/predict.py …; on several CPU processes: torchrun with --use_cpu.
"""

from early_help import answer_help, start


if __name__ == "__main__":
    answer_help(__file__)

import argparse
import json
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import PreTrainedModel

from hf_mae import ImageSamples, load_classifier
from hf_mae.data.transforms import ProcessorTransform
from hf_mae.errors import reported_as
from hf_mae.file_names import one_line, print_any_name, printable
from hf_mae.inference.images import ImageBatch, as_dataset, find_images_once, read_batches
from hf_mae.inference.parts import Parts, default_workers, progress_bar
from hf_mae.inference.predictions import (
    TOP_K,
    compute_logits,
    open_parts,
    rank,
    write_predictions,
)
from hf_mae.inference.tables import check_table_file
from hf_mae.models.loading import num_channels
from hf_mae.models.picture_size import MAX_IMAGE_PIXELS
from hf_mae.models.problem_types import MULTI_LABEL, REGRESSION, answer_scores
from hf_mae.training.command_line import CommandLine
from hf_mae.whole_numbers import MOST_WORKERS, whole


THRESHOLD = 0.5  # of a label's probability, to be printed


def main() -> None:
    args = parse_arguments()
    print_any_name()
    with reported_as("predict.py"):
        state = PartialState(cpu=args.use_cpu)
        check_output(args, state)
        images = find_images_once(args.images, state)
        model, processor = load_classifier(args.model_name_or_path)
        model.to(state.device)  # pyright: ignore[reportArgumentType]
        samples = ImageSamples(
            as_dataset(images) if args.output else images,  # which takes long to import
            ProcessorTransform(processor),
            num_channels(model),
            seed=0,
            max_image_pixels=args.max_image_pixels,
        )
        if args.num_workers is None:
            args.num_workers = default_workers(len(samples), args.batch_size, state)
        if args.output:
            parts = open_parts(model, processor, Path(f"{args.output}.parts"), samples)
            passed_over = save_answers(model, samples, parts, args, state)
        else:
            passed_over = print_answers(model, samples, args, state)
    state.destroy_process_group()
    if passed_over:
        sys.exit(1)


def parse_arguments() -> argparse.Namespace:
    parser = CommandLine(
        description="Names what is on pictures: the five most probable classes of each."
    )
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="file; folder, for all images in it and below; pattern, as 'scans/**/*.png'; address "
        "(https://…, hf://…); or -, for standard input: an image, or names, one a line",
    )
    parser.add_argument(
        "--model_name_or_path", required=True, help="classifier, ours or native: folder or Hub id"
    )
    answers = parser.add_argument_group("answers")
    answers.add_argument(
        "--json", action="store_true", help="print a JSON list: image, and predictions or error"
    )
    answers.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write a table instead, a row an image: .csv, .parquet or .json",
    )
    parser.add_argument(
        "--max_image_pixels",
        type=whole(1, 2**62),
        default=MAX_IMAGE_PIXELS,
        metavar="N",
        help="larger images are decoded at reduced scale (JPEG), or can't be read (default: "
        "100,000,000)",
    )
    speed = parser.add_argument_group("speed")
    speed.add_argument(
        "--batch_size", type=whole(1), default=32, help="images a device at once (default: 32)"
    )
    speed.add_argument(
        "--num_workers",
        type=whole(0, MOST_WORKERS),
        help="processes that decode ahead, for each device (default: half of the cores)",
    )
    speed.add_argument("--use_cpu", action="store_true", help="leave GPUs alone")
    args = parser.parse_args()
    if args.json and args.output:
        parser.error("--json prints, and --output writes a file; give one of them")
    return args


def check_output(args: argparse.Namespace, state: PartialState) -> None:
    """Raises ValueError if the answers can't be written, or by several processes printed."""
    if args.output:
        check_table_file(args.output)
    elif state.num_processes > 1:
        raise ValueError("several processes don't print answers; give --output, a file")


def save_answers(
    model: PreTrainedModel,
    samples: ImageSamples,
    parts: Parts,
    args: argparse.Namespace,
    state: PartialState,
) -> int:
    """Writes the table and says so; returns how many images were passed over."""
    start, before = time.perf_counter(), parts.num_done()
    write_predictions(model, samples, parts, args.output, args.batch_size, args.num_workers, state)
    seconds = time.perf_counter() - start
    if not state.is_main_process:
        return 0
    passed_over = 0
    for table in parts.tables():
        for name, error in zip(table["image"].to_pylist(), table["error"].to_pylist()):
            if error is not None:
                say_passed_over(name, error)
                passed_over += 1
    parts.remove()
    noun = "image" if len(samples) == 1 else "images"
    rate = (len(samples) - before) / seconds
    print(
        f"{len(samples):,} {noun} in {printable(args.output)}, {passed_over:,} of them passed "
        f"over; {seconds:.1f} s, {rate:,.1f} images/s"
    )
    return passed_over


def print_answers(
    model: PreTrainedModel, samples: ImageSamples, args: argparse.Namespace, state: PartialState
) -> int:
    """Prints answers as they come; returns how many images were passed over."""
    numbers = list(range(len(samples)))
    batches = []
    for first in range(0, len(numbers), args.batch_size):
        batches.append(numbers[first : first + args.batch_size])
    passed_over, between = 0, "[\n" if args.json else ""
    with progress_bar(len(samples), state) as bar:
        bar.disable = bar.disable or sys.stdout.isatty()  # the answers show how far it is
        for batch in read_batches(samples, batches, args.num_workers, state.device):
            for result in answer(model, batch):
                if "error" in result:
                    say_passed_over(result["image"], result["error"])
                    passed_over += 1
                if args.json:
                    print(between + as_json(result), end="", flush=True)
                    between = ",\n"
                elif "error" not in result:
                    print(between + as_text(result, model.config), flush=True)
                    between = "\n"
            bar.update(len(batch.indices))
    if args.json:
        print("\n]")
    return passed_over


def answer(model: PreTrainedModel, batch: ImageBatch) -> list[dict[str, Any]]:
    config: Any = model.config
    top_k = config.num_labels if config.problem_type == MULTI_LABEL else TOP_K
    scores = iter(answer_scores(compute_logits(model, batch), config.problem_type))
    results = []
    for name, error in zip(batch.names, batch.errors):
        if error is None:
            predictions = rank(next(scores), config, top_k)
            results.append({"image": name, "predictions": predictions})
        else:
            results.append({"image": name, "error": error})
    return results


def say_passed_over(name: str, error: str) -> None:
    print(f"predict.py: {one_line(name)} is passed over: {error}", file=sys.stderr)


def as_json(result: dict[str, Any]) -> str:
    """Writes names as they are where the terminal can, else by escapes."""
    text = json.dumps(result, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = json.dumps(result, indent=2)
    return textwrap.indent(text, "  ")


def as_text(result: dict[str, Any], config: Any) -> str:
    lines = [one_line(result["image"])]
    for row in result["predictions"]:
        if config.problem_type == REGRESSION:
            lines.append(f"  {row['label']} {row['score']:.2f}")
        elif config.problem_type != MULTI_LABEL:
            lines.append(f"  {row['score']:7.2%}  {row['label']}")
        elif row["score"] >= THRESHOLD:
            lines.append(f"  {row['label']} {100 * row['score']:.1f} %")
    if len(lines) == 1:
        lines.append(f"  no label reaches {100 * THRESHOLD:.0f} %")
    return "\n".join(lines)


if __name__ == "__main__":
    start(main)
