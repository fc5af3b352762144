"""Measures a classifier on labelled images, each counted once.

    python scripts/run_eval.py --model_name_or_path DIR_OR_ID --dataset_name NAME | --validation_dir
    DIR

It gives the accuracy; of a multi-label model (labels as for run_finetune.py) mAP and each label's
AUROC; of a regression the mean absolute error.

On several GPUs: accelerate launch scripts/run_eval.py …; on several CPU processes: torchrun with
--use_cpu.
"""

import argparse
import json
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel

from hf_mae import ImageSamples, load_classifier, load_evaluation_dataset
from hf_mae.data.class_names import match_classes
from hf_mae.data.folders import describe_left_out
from hf_mae.data.labels import describe_labels, has_label, own_labels
from hf_mae.data.samples import collate
from hf_mae.data.transforms import ProcessorTransform
from hf_mae.errors import reported_as
from hf_mae.file_names import print_any_name
from hf_mae.inference.predictions import finite
from hf_mae.models.loading import num_channels
from hf_mae.models.problem_types import REGRESSION, SINGLE_LABEL
from hf_mae.training.metrics import (
    accuracy_interval,
    describe_doubts,
    format_result,
    largest_share,
    measure,
    result_name,
)
from hf_mae.versions import PACKAGES, hardware, version


def main() -> None:
    args = parse_arguments()
    print_any_name()
    accelerator = Accelerator(cpu=args.use_cpu)
    with reported_as("run_eval.py"):
        model, processor = load_classifier(args.model_name_or_path)
        with accelerator.main_process_first():
            dataset, split = load_evaluation_dataset(
                dataset_name=args.dataset_name,
                dataset_config=args.dataset_config,
                validation_dir=args.validation_dir,
                split=args.split,
                image_column=args.image_column,
                label_column=args.label_column,
            )
        numbers = match_labels(dataset.features["label"], model.config)
        samples = ImageSamples(dataset, ProcessorTransform(processor), num_channels(model), seed=0)
        measured = evaluate(model, samples, torch.tensor(numbers), accelerator, args)
    if accelerator.is_main_process:
        results = {
            **measured,
            "model": args.model_name_or_path,
            "dataset": args.dataset_name or args.validation_dir,
            "split": split,
            "hardware": hardware(accelerator.device, accelerator.num_processes),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": {package: version(package) for package in PACKAGES},
        }
        print_results(results, describe_left_out(dataset))
        if args.output:
            args.output.parent.mkdir(parents=True, exist_ok=True)
            args.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    accelerator.end_training()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measures a classifier on labelled images, each counted once.",
        allow_abbrev=False,
    )
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
    parser.add_argument("--batch_size", type=int, default=64, help="images a device (default: 64)")
    parser.add_argument(
        "--num_workers", type=int, default=0, help="processes that decode, a device (default: 0)"
    )
    parser.add_argument("--use_cpu", action="store_true", help="leave GPUs alone")
    parser.add_argument("--output", type=Path, help="JSON file to write the result to")
    args = parser.parse_args()
    if args.output and args.output.is_dir():
        parser.error(f"output {args.output} is a folder; name a file")
    if args.batch_size < 1 or args.num_workers < 0:
        parser.error("batch_size must be at least 1 and num_workers at least 0")
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


@torch.no_grad()
def evaluate(
    model: PreTrainedModel,
    samples: ImageSamples,
    numbers: torch.Tensor,
    accelerator: Accelerator,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Measures the model, and how fast it went.

    Args:
        model: A classifier.
        samples: Labelled images.
        numbers: (K,) the model's number of each class of the data set.
        accelerator: Says on which device, and in how many processes.
        args: The script's.

    Raises:
        ValueError: the model answers what is no number, or no image can be decoded.
    """
    loader = DataLoader(samples, args.batch_size, num_workers=args.num_workers, collate_fn=collate)
    loader = accelerator.prepare(loader)
    model.to(accelerator.device)
    all_logits, all_labels = [], []
    start = time.perf_counter()
    for batch in tqdm(loader, desc="evaluating", disable=not accelerator.is_main_process):
        logits = finite(model(batch["pixel_values"]).logits)
        logits, labels = accelerator.gather_for_metrics((logits, own_labels(batch)))
        all_logits.append(logits.float().cpu())
        all_labels.append(labels.cpu())
    seconds = time.perf_counter() - start
    labels = torch.cat(all_labels)
    known = has_label(labels)
    if not known.any():
        raise ValueError(f"none of the {len(samples)} images can be decoded")
    logits = torch.cat(all_logits)[known]
    labels = to_models_numbers(labels[known], numbers, logits)
    config: Any = model.config
    problem_type = config.problem_type or SINGLE_LABEL
    names = [config.id2label[number] for number in range(config.num_labels)]
    metrics = measure(problem_type, logits, labels, names)
    return {
        **metrics,
        **judge(metrics, labels),
        "n": len(logits),
        "bad_images": len(samples) - len(logits),
        "seconds": round(seconds, 2),
        "images_per_second": round(len(samples) / seconds, 1),
    }


def judge(metrics: dict[str, float], labels: torch.Tensor) -> dict[str, Any]:
    """Says how far the metrics can be trusted."""
    found: dict[str, Any] = {}
    accuracy = metrics.get("top1_accuracy")
    if accuracy is not None:
        found["top1_interval_95"] = accuracy_interval(accuracy, len(labels))
        found["largest_class_share"] = largest_share(labels)
    by_name = {result_name(metric) or metric: value for metric, value in metrics.items()}
    return {**found, "doubts": describe_doubts(by_name, labels)}


def to_models_numbers(
    labels: torch.Tensor, numbers: torch.Tensor, logits: torch.Tensor
) -> torch.Tensor:
    """Turns labels (N,) or (N, K), numbered as in the data set, into those that the model has."""
    if not labels.is_floating_point():
        return numbers[labels]
    if labels.ndim == 1:  # of a regression
        return labels
    targets = torch.zeros_like(logits)
    targets[:, numbers] = labels
    return targets


def print_results(results: dict[str, Any], left_out: str | None) -> None:
    for name, value in results.items():
        if result_name(name):
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


if __name__ == "__main__":
    main()
