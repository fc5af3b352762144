"""Measures a classifier on labelled images, each counted once.

    python scripts/run_eval.py --model_name_or_path DIR_OR_ID --dataset_name NAME | --validation_dir
    DIR [--output_dir REPORT]

It gives the accuracy; of a multi-label model (labels as for run_finetune.py) mAP and each label's
AUROC; of a regression the mean absolute error, the root mean squared error and R2.

--output_dir gets a report: results.json; per_class.csv (or per_label.csv) with precision, recall,
F1 and accuracy, their 95 % Wilson intervals and counts; confusion_matrix.csv and .png; mistakes.csv
and .png, from the worst down; of a regression scatter.png. Until it is written the answers are kept
in its folder parts, and the same command goes on after it was stopped.

On several GPUs: accelerate launch scripts/run_eval.py …; on several CPU processes: torchrun with
--use_cpu.
"""

from early_help import answer_help, start


if __name__ == "__main__":
    answer_help(__file__)

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel

from hf_mae import ImageSamples, load_classifier, load_evaluation_dataset
from hf_mae.data.class_names import match_classes
from hf_mae.data.folders import describe_left_out
from hf_mae.data.labels import describe_labels
from hf_mae.data.transforms import ProcessorTransform
from hf_mae.errors import Stopped, reported_as
from hf_mae.file_names import print_any_name, printable
from hf_mae.inference.images import images_digest
from hf_mae.inference.parts import Parts, default_workers
from hf_mae.inference.predictions import ROWS, describe_classifier
from hf_mae.models.loading import num_channels
from hf_mae.models.picture_size import MAX_IMAGE_PIXELS
from hf_mae.models.problem_types import REGRESSION, SINGLE_LABEL
from hf_mae.training.command_line import CommandLine
from hf_mae.training.evaluation import (
    Evaluation,
    NoAnswersError,
    compute_answers,
    read_answers,
    write_report,
)
from hf_mae.training.metrics import (
    accuracy_interval,
    describe_doubts,
    format_result,
    largest_share,
    measure,
    result_name,
    value_metrics,
)
from hf_mae.versions import PACKAGES, hardware, version
from hf_mae.whole_numbers import MOST_WORKERS, whole


def main() -> None:
    args = parse_arguments()
    print_any_name()
    with reported_as("run_eval.py"):
        state = PartialState(cpu=args.use_cpu)
        model, processor = load_classifier(args.model_name_or_path)
        model.to(state.device)  # pyright: ignore[reportArgumentType]
        with state.main_process_first():
            dataset, split = load_evaluation_dataset(
                dataset_name=args.dataset_name,
                dataset_config=args.dataset_config,
                validation_dir=args.validation_dir,
                split=args.split,
                image_column=args.image_column,
                label_column=args.label_column,
            )
        config: Any = model.config
        numbers = torch.tensor(match_labels(dataset.features["label"], config))
        samples = ImageSamples(
            dataset,
            ProcessorTransform(processor),
            num_channels(model),
            seed=0,
            max_image_pixels=args.max_image_pixels,
        )
        labels = to_models_numbers(samples.all_labels(), numbers, config.num_labels)
        about = {**describe_classifier(model, processor), "data": images_digest(dataset)}
        about["max_image_pixels"] = samples.max_image_pixels
        parts = Parts(find_parts_folder(args, state), len(samples), ROWS, about)
        speed = answer_all(model, samples, parts, args, state)
        if state.is_main_process:
            evaluation, bad = read_all(parts, config, labels)
            if labels.ndim == 2:
                evaluation = leave_out_unknown(evaluation, numbers.tolist())
            results = {
                **measure_answers(evaluation),
                "n": len(evaluation.images),
                "bad_images": len(bad),
                **speed,
                "model": args.model_name_or_path,
                "dataset": args.dataset_name or args.validation_dir,
                "split": split,
                "hardware": hardware(next(model.parameters()).device, state.num_processes),
                "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "versions": {package: version(package) for package in PACKAGES},
            }
            print_results(results, describe_left_out(dataset))
            write_results(args, results, evaluation, bad, samples)
            parts.remove()
    state.destroy_process_group()


def parse_arguments() -> argparse.Namespace:
    parser = CommandLine(description="Measures a classifier on labelled images, each counted once.")
    parser.add_argument(
        "--model_name_or_path", required=True, help="classifier, ours or native: folder or Hub id"
    )
    parser.add_argument(
        "--dataset_name", help="Hub id, local folder or table of a data set, or digits"
    )
    parser.add_argument("--dataset_config", help="configuration of the data set")
    parser.add_argument("--validation_dir", help="folder with a folder of images for each class")
    parser.add_argument(
        "--split", help="(default: validation, val, valid or test, or the only one)"
    )
    parser.add_argument("--image_column", help="(default: found)")
    parser.add_argument(
        "--label_column", nargs="+", help="one, or several of 0 and 1 (default: found)"
    )
    parser.add_argument(
        "--max_image_pixels",
        type=whole(1, 2**62),
        default=MAX_IMAGE_PIXELS,
        metavar="N",
        help="larger images are decoded at reduced scale (JPEG), or can't be read (default: "
        "100,000,000)",
    )
    results = parser.add_argument_group("results")
    results.add_argument("--output_dir", type=Path, help="folder to write the report to")
    results.add_argument("--output", type=Path, help="JSON file to write the figures alone to")
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
    if args.output_dir and args.output_dir.is_file():
        parser.error(f"output_dir {args.output_dir} is a file; name a folder")
    if args.output and args.output.is_dir():
        parser.error(f"output {args.output} is a folder; name a file")
    return args


def match_labels(feature: Any, config: Any) -> list[int]:
    """Finds the model's number of each class of the data set.

    Raises:
        ValueError: the model doesn't know a class, or its labels mean something else.
    """
    problem_type, names = describe_labels(feature)
    wanted = config.problem_type or SINGLE_LABEL
    if problem_type != wanted:
        raise ValueError(
            f"the model is for {wanted}, and the data set's labels ({feature}) are for "
            f"{problem_type}; name others by label_column"
        )
    if problem_type == REGRESSION:
        return list(range(config.num_labels))
    return match_classes(names, config.id2label)


def to_models_numbers(
    labels: torch.Tensor | None, numbers: torch.Tensor, num_labels: int
) -> torch.Tensor:
    """Turns labels (N,) or (N, K), numbered as in the data set, into those that the model has."""
    assert labels is not None  # for they were loaded
    if labels.ndim == 2:
        targets = torch.zeros(len(labels), num_labels)
        targets[:, numbers] = labels.float()
        return targets
    return labels if labels.is_floating_point() else numbers[labels]


def find_parts_folder(args: argparse.Namespace, state: PartialState) -> Path:
    """Where answers are kept until all are there: beside the results, or for this run alone."""
    if args.output_dir:
        return args.output_dir / "parts"
    if args.output:
        return Path(f"{args.output}.parts")
    folder = [tempfile.mkdtemp() if state.is_main_process else ""]
    broadcast_object_list(folder)
    return Path(folder[0])


def answer_all(
    model: PreTrainedModel,
    samples: ImageSamples,
    parts: Parts,
    args: argparse.Namespace,
    state: PartialState,
) -> dict[str, float]:
    """Computes the answers that aren't there yet; returns how fast that went."""
    num_workers = args.num_workers
    if num_workers is None:
        num_workers = default_workers(len(samples), args.batch_size, state)
    is_kept = args.output_dir or args.output
    start, before = time.perf_counter(), parts.num_done()
    try:
        compute_answers(model, samples, parts, args.batch_size, num_workers, state)
    except (Stopped, ValueError) as error:
        if not is_kept and state.is_main_process:
            parts.remove()
        if not is_kept and isinstance(error, Stopped):
            raise Stopped("stopped; with --output_dir the same command would go on") from error
        raise
    seconds = time.perf_counter() - start
    rate = (len(samples) - before) / seconds
    return {"seconds": round(seconds, 2), "images_per_second": round(rate, 1)}


def read_all(
    parts: Parts, config: Any, labels: torch.Tensor
) -> tuple[Evaluation, list[dict[str, Any]]]:
    """Reads the answers; where there are none, nothing is kept, for the files may be mended."""
    try:
        return read_answers(parts, config, labels)
    except NoAnswersError:
        parts.remove()
        raise


def leave_out_unknown(evaluation: Evaluation, numbers: list[int]) -> Evaluation:
    """Leaves out labels of the model of which the data set doesn't say which images have them."""
    unknown = [name for i, name in enumerate(evaluation.names) if i not in numbers]
    if unknown:
        print(f"left out, for the data set says nothing of them: {', '.join(unknown)}")
    return evaluation.of_labels(sorted(numbers))


def measure_answers(evaluation: Evaluation) -> dict[str, Any]:
    """The figures of the whole, and how far they can be trusted."""
    logits, labels = evaluation.logits, evaluation.labels
    metrics: dict[str, Any] = measure(evaluation.problem_type, logits, labels, evaluation.names)
    if evaluation.problem_type == REGRESSION and logits.shape[1] == 1:
        metrics |= value_metrics(logits[:, 0].numpy(), labels.numpy())
    return {**metrics, **judge(metrics, labels)}


def judge(metrics: Mapping[str, Any], labels: torch.Tensor) -> dict[str, Any]:
    """Says how far the metrics can be trusted."""
    found: dict[str, Any] = {}
    accuracy = metrics.get("top1_accuracy")
    if accuracy is not None:
        found["top1_interval_95"] = accuracy_interval(accuracy, len(labels))
        found["largest_class_share"] = largest_share(labels)
    by_name = {result_name(metric) or metric: value for metric, value in metrics.items()}
    return {**found, "doubts": describe_doubts(by_name, labels)}


def print_results(results: dict[str, Any], left_out: str | None) -> None:
    for name, value in results.items():
        if result_name(name) and value is not None:
            print(f"{name:17} {format_result(name, value)}")
    for doubt in results["doubts"]:
        print(doubt)
    images = f"{results['n']:,} images"
    if results["split"]:
        images += f" of the split {results['split']}"
    if results["bad_images"]:
        images += f", {results['bad_images']} more can't be decoded"
    if left_out:
        images += f", {left_out}"
    print(f"{images}; {results['seconds']:.1f} s, {results['images_per_second']:,.0f} images/s")


def write_results(
    args: argparse.Namespace,
    results: dict[str, Any],
    evaluation: Evaluation,
    bad: list[dict[str, Any]],
    samples: ImageSamples,
) -> None:
    files = [args.output] if args.output else []
    if args.output_dir:
        write_report(args.output_dir, evaluation, bad, samples)
        files.append(args.output_dir / "results.json")
        print(f"report in {printable(args.output_dir)}")
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    start(main)
