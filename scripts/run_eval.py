"""Measures a classifier's accuracy on labelled images, each counted once.

    python scripts/run_eval.py --model_name_or_path DIR_OR_ID --dataset_name NAME | --validation_dir
    DIR

On several GPUs: accelerate launch scripts/run_eval.py …; on several CPU processes: torchrun with
--use_cpu.
"""

import argparse
import json
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from tqdm import tqdm

from hf_mae.data.labels import match_classes, own_labels
from hf_mae.data.samples import ImageSamples, collate
from hf_mae.data.sources import load_evaluation_dataset
from hf_mae.data.transforms import ProcessorTransform
from hf_mae.errors import BadImageError
from hf_mae.inference import finite
from hf_mae.models.loading import load_classifier, num_channels
from hf_mae.training.metrics import TopKAccuracy
from hf_mae.versions import PACKAGES, hardware, version


def main():
    args = parse_arguments()
    accelerator = Accelerator(cpu=args.use_cpu)
    try:
        model, processor = load_classifier(args.model_name_or_path)
        names = (
            "dataset_name",
            "dataset_config",
            "validation_dir",
            "split",
            "image_column",
            "label_column",
        )
        with accelerator.main_process_first():
            dataset, args.split = load_evaluation_dataset(
                **{name: getattr(args, name) for name in names}
            )
        numbers = match_classes(dataset.features["label"].names, model.config.id2label)
        draws = ImageSamples(dataset, ProcessorTransform(processor), num_channels(model), seed=0)
        results = evaluate(model, draws, torch.tensor(numbers), accelerator, args)
    except (ValueError, OSError, SafetensorError, BadImageError) as error:
        sys.exit(f"run_eval.py: error: {error}")
    if accelerator.is_main_process:
        for name in ("top1_accuracy", "top5_accuracy"):
            if name in results:
                print(f"{name:14} {results[name]:.2%}")
        bad = f", {results['bad_images']} more can't be decoded" if results["bad_images"] else ""
        split = f" of the split {args.split}" if args.split else ""
        print(
            f"{results['n']:,} images{split}{bad}; {results['seconds']:.1f} s, "
            f"{results['images_per_second']:,.0f} images/s"
        )
        if args.output:
            args.output.parent.mkdir(parents=True, exist_ok=True)
            args.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    accelerator.end_training()


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--model_name_or_path", required=True, help="classifier, ours or native: folder or Hub id"
    )
    parser.add_argument(
        "--dataset_name", help="Hub id, local folder or parquet file of a data set, or digits"
    )
    parser.add_argument("--dataset_config", help="configuration of the data set")
    parser.add_argument("--validation_dir", help="folder with a folder of images for each class")
    parser.add_argument(
        "--split", help="(default: validation, val, valid or test, or the only one)"
    )
    parser.add_argument("--image_column", help="(default: found)")
    parser.add_argument("--label_column", help="(default: found)")
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


@torch.no_grad()
def evaluate(model, draws, numbers, accelerator, args):
    """Accuracies and facts about the run; `numbers` are the model's of the data set's classes."""
    loader = DataLoader(draws, args.batch_size, num_workers=args.num_workers, collate_fn=collate)
    model, loader = model.to(accelerator.device), accelerator.prepare(loader)
    metric, bad_images, num_labels = TopKAccuracy(keep_in_memory=True), 0, model.config.num_labels
    start = time.perf_counter()
    for batch in tqdm(loader, desc="evaluating", disable=not accelerator.is_main_process):
        logits = finite(model(batch["pixel_values"]).logits)
        ranked = logits.topk(min(5, num_labels)).indices
        ranked, labels = accelerator.gather_for_metrics((ranked, own_labels(batch)))
        good = labels != -100
        bad_images += int((~good).sum())
        metric.add_batch(predictions=ranked[good].cpu(), references=numbers[labels[good].cpu()])
    seconds = time.perf_counter() - start
    if bad_images == len(draws):
        raise ValueError(f"none of the {len(draws)} images can be decoded")
    return {
        **metric.compute(num_labels=num_labels),
        "n": len(draws) - bad_images,
        "bad_images": bad_images,
        "model": args.model_name_or_path,
        "dataset": args.dataset_name or args.validation_dir,
        "split": args.split,
        "hardware": hardware(accelerator.device, accelerator.num_processes),
        "seconds": round(seconds, 2),
        "images_per_second": round(len(draws) / seconds, 1),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {package: version(package) for package in PACKAGES},
    }


if __name__ == "__main__":
    main()
