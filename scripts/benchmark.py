"""Measures hf_mae on this machine, beside what others use.

    python scripts/benchmark.py input [--data DIR] [--workers N] [--compare] [--step_rate RATE] \\
        [--photo_size WIDTH HEIGHT] [--prepared PIXELS] [--rows N] [--output FILE]
    python scripts/benchmark.py train --size base --batch 8 [--device cuda] [--bf16] [--compile] \\
        [--compare] [--output FILE]
    python scripts/benchmark.py infer --size base --batch 1 32 [--device cuda] [--compare] \\
        [--output FILE]
    python scripts/benchmark.py memory [--size base large …] [--batch 64 256 …] [--output FILE]
    python scripts/benchmark.py gpu [--minutes 25] [--size base large huge] [--output_dir DIR]
    python scripts/benchmark.py plan --size large --epochs 800 --gpus 64 --step_rate RATE \\
        --input_rate RATE [--workers N]
    python scripts/benchmark.py quality NAME=RUN[,RUN…] … [--classifiers NAME[,NAME…]] \\
        [--plot FILE.png] [--output FILE]

`input`: images a second that are decoded, cropped and collated for pre-training, a core and with
worker processes, and how many workers a step rate (images/s, as training logs it) needs.
`--compare` runs the official code's transforms and torchvision's best path turn about with ours, in
the same process. Without `--data` it makes 500 x 375 JPEGs of its own (`--photo_size` others).
`--prepared 288` measures what preparing a set gains: ours also reads the prepared images, all else
the original ones. `--rows` makes an Arrow set
of so many tiny images instead: it shows the time to the first batch and the workers' memory.

`train` and `infer`: images a second of pre-training steps and of the classifier, peak memory, and
the operations a second of the model's matrix products as a share of what a large product reaches
between them. `--compare` runs other libraries' models of the same size turn about with ours:
transformers', timm's and, where they are installed (`make peers`), mmpretrain's, lightly's
and stable-pretraining's.

`memory`: what pre-training takes of a GPU, and the largest batch that fits, foretold without one.

`gpu`: all of the above that a GPU is wanted for, in a given time, each part a process of its own
whose results are kept when it ends: `make gpu`.

`plan`: hours of a pre-training run from measured rates, workers a GPU needs, and whether training
or input is what it waits for. The rate of a GPU that `scripts/benchmarks/results/` has is found by
`--gpu_name`, as "NVIDIA H200".

`quality`: held-out loss and k-NN accuracy that recipes reach in the same time, from the output
folders of finished runs; runs of as many samples count as one with several seeds.
"""

from early_help import answer_help, start


if __name__ == "__main__":
    answer_help(__file__)

import argparse
import json
import math
import shlex
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from hf_mae.errors import reported_as
from hf_mae.models.configuration_mae import SIZES
from hf_mae.training.command_line import CommandLine


def main() -> None:
    args = parse_arguments()
    with reported_as("benchmark.py"):
        results, packages = measure(args)
    if getattr(args, "output", None):
        from benchmarks.timing import environment, save_results

        about = environment(getattr(args, "device", "cpu"), packages)
        save_results(args.output, results, command=shlex.join(sys.argv[1:]), **about)
        print(f"results in {args.output}")


def measure(args: argparse.Namespace) -> tuple[Any, list[str]]:
    """Runs a benchmark, which prints what it finds.

    Each imports what it needs, for a machine that measures models may have no data libraries.

    Returns:
        The results, for a file, and further packages whose versions matter.
    """
    if args.command == "input":
        from benchmarks.input import input_benchmark

        with tempfile.TemporaryDirectory() as scratch:
            return input_benchmark(args, scratch), ["nvidia-nvimgcodec-cu13"]
    if args.command == "plan":
        from benchmarks.plan import print_plan

        print_plan(args)
        return None, []
    if args.command == "gpu":
        from benchmarks.gpu import gpu_benchmark

        return gpu_benchmark(args), []
    if args.command == "memory":
        from benchmarks.memory import memory_benchmark

        return memory_benchmark(args), []
    if args.command == "quality":
        from benchmarks.quality import quality_benchmark

        return quality_benchmark(args), []
    from benchmarks.models import models_benchmark

    warnings.simplefilter("ignore")  # the peers' about themselves
    return models_benchmark(args), ["timm", "mmpretrain", "lightly", "stable-pretraining"]


def parse_arguments() -> argparse.Namespace:
    parser = CommandLine(description="Measures hf_mae on this machine, beside what others use.")
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--output", metavar="FILE", help="write the results here, as JSON")
    measures: dict[str, Any] = {"parents": [output]}
    commands = parser.add_subparsers(dest="command", required=True)
    add_input(
        commands.add_parser("input", help="images a second from the disk to a batch", **measures)
    )
    for name, what in (("train", "pre-training steps"), ("infer", "classification")):
        add_models(commands.add_parser(name, help=f"images a second of {what}", **measures))
    add_memory(commands.add_parser("memory", help="what fits on a GPU, foretold", **measures))
    add_gpu(commands.add_parser("gpu", help="all that a GPU is wanted for"))
    add_plan(commands.add_parser("plan", help="hours of a run, from measured rates"))
    part = commands.add_parser("quality", help="what recipes reach in the same time", **measures)
    part.add_argument(
        "runs",
        nargs="+",
        metavar="NAME=RUN[,RUN…]",
        help="output folders of a recipe's finished runs",
    )
    part.add_argument(
        "--classifiers",
        type=lambda names: names.split(","),
        default=[],
        metavar="NAME[,NAME…]",
        help="accuracies of the classifiers in RUN-NAME, too",
    )
    part.add_argument("--plot", metavar="FILE", help="write a plot here")
    part.add_argument(
        "--cost",
        choices=["seconds", "training_flops"],
        default="seconds",
        help="what the plot is over (default: seconds)",
    )
    args = parser.parse_args()
    for name, value in vars(args).items():
        for number in value if isinstance(value, list) else [value]:
            if is_number(number) and not 0 < number < math.inf:
                parser.error(f"--{name} is {number}; it must be positive and finite")
    return args


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def add_input(part: argparse.ArgumentParser) -> None:
    source = part.add_mutually_exclusive_group()
    source.add_argument(
        "--data",
        metavar="DIR",
        help="folder of images, or of a data set (default: makes some JPEGs)",
    )
    source.add_argument(
        "--rows", type=int, metavar="N", help="make an Arrow set of so many tiny images"
    )
    part.add_argument(
        "--workers",
        type=int,
        default=2,
        metavar="N",
        help="worker processes to measure with (default: 2)",
    )
    part.add_argument(
        "--image_size", type=int, default=224, metavar="PIXELS", help="of the crop (default: 224)"
    )
    part.add_argument(
        "--photo_size",
        type=int,
        nargs=2,
        default=[500, 375],
        metavar=("WIDTH", "HEIGHT"),
        help="of the JPEGs that are made (default: 500 375)",
    )
    part.add_argument(
        "--prepared",
        type=int,
        metavar="PIXELS",
        help="also ours on the same images prepared with this shortest edge",
    )
    part.add_argument(
        "--compare", action="store_true", help="also the official transforms and torchvision's"
    )
    part.add_argument(
        "--step_rate",
        type=float,
        metavar="RATE",
        help="images/s that training takes: how many workers?",
    )
    part.add_argument(
        "--rounds", type=int, default=12, metavar="N", help="of 32 images, turn about (default: 12)"
    )
    part.add_argument(
        "--seconds",
        type=float,
        default=20,
        metavar="S",
        help="to measure workers for (default: 20)",
    )


def add_models(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "--size", choices=list(SIZES), default="base", help="of the model (default: base)"
    )
    add_image_size(part)
    add_batch(part, [8])
    part.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(default: cpu)")
    part.add_argument(
        "--bf16", action="store_true", help="compute in bfloat16, by autocast (default: float32)"
    )
    part.add_argument("--compile", action="store_true", help="compile the models")
    part.add_argument("--compare", action="store_true", help="also other libraries' models")
    part.add_argument(
        "--config_overrides",
        type=json.loads,
        default={},
        metavar="JSON",
        help='fields of our model, as {"decoder_num_hidden_layers": 4}',
    )
    part.add_argument(
        "--rounds", type=int, default=10, metavar="N", help="turn about (default: 10)"
    )


def add_image_size(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "--image_size", type=int, default=224, metavar="PIXELS", help="(default: 224)"
    )


def add_batch(part: argparse.ArgumentParser, default: list[int]) -> None:
    sizes = " ".join(map(str, default))
    part.add_argument(
        "--batch",
        type=int,
        nargs="+",
        default=default,
        metavar="N",
        help=f"images, one size or several (default: {sizes})",
    )


def add_memory(part: argparse.ArgumentParser) -> None:
    sizes = ["base", "large", "huge"]
    part.add_argument(
        "--size",
        choices=list(SIZES),
        nargs="+",
        default=sizes,
        help="of the model (default: base large huge)",
    )
    add_image_size(part)
    add_batch(part, [64, 128, 256, 512])


def add_gpu(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "--minutes", type=float, default=25, help="that all of it may take (default: 25)"
    )
    part.add_argument(
        "--size",
        choices=list(SIZES),
        nargs="+",
        default=["base", "large", "huge"],
        help="of the models (default: base large huge)",
    )
    add_image_size(part)
    part.add_argument(
        "--device", choices=["cpu", "cuda"], default="cuda", help="cpu tries it out (default: cuda)"
    )
    part.add_argument(
        "--output_dir",
        metavar="DIR",
        default=str(Path(__file__).parent / "benchmarks" / "results"),
        help="for the results (default: scripts/benchmarks/results)",
    )


def add_plan(part: argparse.ArgumentParser) -> None:
    part.add_argument("--size", choices=list(SIZES), required=True, help="of the model")
    part.add_argument("--epochs", type=float, required=True, help="of the run")
    part.add_argument("--gpus", type=int, required=True, help="of the run")
    rate = part.add_mutually_exclusive_group(required=True)
    rate.add_argument(
        "--step_rate", type=float, metavar="RATE", help="images/s that a GPU trains on"
    )
    rate.add_argument(
        "--gpu_name", metavar="NAME", help='of one that was measured, as "NVIDIA H200", instead'
    )
    part.add_argument(
        "--input_rate",
        type=float,
        required=True,
        metavar="RATE",
        help="images/s that a worker makes",
    )
    part.add_argument(
        "--workers", type=int, metavar="N", help="that a GPU has (default: as many as it needs)"
    )
    part.add_argument(
        "--images",
        type=int,
        default=argparse.SUPPRESS,
        metavar="N",
        help="(default: ImageNet-1k's)",
    )


if __name__ == "__main__":
    start(main)
