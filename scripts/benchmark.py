"""Measures hf_mae on this machine, beside what others use.

    python scripts/benchmark.py input [--data DIR] [--workers N] [--compare] [--step_rate RATE] [--rows N] [--output FILE]

`input`: images a second that are decoded, cropped and collated for pre-training, a core and with worker processes, and how
many workers a step rate (images/s, as training logs it) needs. `--compare` runs the official code's transforms and
torchvision's best path turn about with ours, in the same process. Without `--data` it makes 500 x 375 JPEGs of its own.
`--rows` makes an Arrow set of so many tiny images instead: it shows the time to the first batch and the workers' memory.
"""

import argparse
import sys
import tempfile

from hf_mae.benchmark_input import input_benchmark
from hf_mae.benchmarks import environment, save_results


def main():
    args = parse()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            results = input_benchmark(args, scratch)
    except (ValueError, OSError) as error:
        sys.exit(f"benchmark.py: error: {error}")
    if args.output:
        about = environment(packages=["nvidia-nvimgcodec-cu13"])
        save_results(args.output, results, command=" ".join(sys.argv[1:]), **about)
        print(f"results in {args.output}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    part = commands.add_parser("input", help="images a second from the disk to a batch", allow_abbrev=False)
    source = part.add_mutually_exclusive_group()
    source.add_argument("--data", metavar="DIR", help="folder of images, or of a data set (default: makes some JPEGs)")
    source.add_argument("--rows", type=int, metavar="N", help="make an Arrow set of so many tiny images")
    part.add_argument("--workers", type=int, default=2, metavar="N", help="worker processes to measure with (default: 2)")
    part.add_argument("--image_size", type=int, default=224, metavar="PIXELS", help="of the crop (default: 224)")
    part.add_argument("--compare", action="store_true", help="also the official transforms and torchvision's")
    part.add_argument("--step_rate", type=float, metavar="RATE", help="images/s that training takes: how many workers?")
    part.add_argument("--rounds", type=int, default=12, metavar="N", help="of 32 images, turn about (default: 12)")
    part.add_argument("--seconds", type=float, default=20, metavar="S", help="to measure workers for (default: 20)")
    part.add_argument("--output", metavar="FILE", help="write the results here, as JSON")
    args = parser.parse_args()
    for name in ("workers", "rows", "image_size", "step_rate", "rounds", "seconds"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            parser.error(f"--{name} is {value}; it must be positive")
    return args


if __name__ == "__main__":
    main()
