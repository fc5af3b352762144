"""Publishes a model on the Hub, in transformers' own format.

    python scripts/publish.py --model_name_or_path DIR --repo_id ORG/NAME [--public] [--dry_run]

Exports, checks, writes the card and uploads in one commit. Needs a token that may write:
`hf auth login`, or HF_TOKEN. The repository is private unless `--public`. `--dry_run` shows what
would be uploaded, and the card. A broken upload is repeated by the same command.

A pre-training model's repository has the encoder in its root, and encoder and decoder in
`pretraining/`; `--as vit` and `--as vit_mae` publish one of them alone.
"""

from early_help import answer_help, start


if __name__ == "__main__":
    answer_help(__file__)

import argparse
import tempfile

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_mae.errors import reported_as
from hf_mae.hub.publishing import NO_LICENSE, Publication, missing_base_model, prepare, upload
from hf_mae.models.network import why_no_hub
from hf_mae.training.command_line import CommandLine


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory() as folder, reported_as("publish.py"):
        check_hub(args)
        publication = prepare(
            args.model_name_or_path,
            args.repo_id,
            folder,
            args.license,
            args.widget_images,
            args.with_reconstructions,
            args.kind,
            license_later=args.dry_run,
        )
        print(summary(publication, args.repo_id))
        if publication.license is None:
            print(f"note: so it can't be published: {NO_LICENSE}")
        if args.dry_run:
            print(f"\n{publication.card}")
            return
        print(f"published at {upload(publication, args.repo_id, args.public)}")
        missing = missing_base_model(publication.card)
        if missing:
            print(f"note: the card's base_model, {missing}, isn't on the Hub: publish it too")


def parse() -> argparse.Namespace:
    parser = CommandLine(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--model_name_or_path",
        required=True,
        metavar="DIR",
        help="folder that one of our scripts wrote",
    )
    parser.add_argument("--repo_id", required=True, metavar="ORG/NAME", help="on the Hub")
    parser.add_argument(
        "--public", action="store_true", help="for everybody to see (default: private)"
    )
    parser.add_argument(
        "--license",
        help="the Hub's name of it (default: the published model's, or the folder's card's)",
    )
    parser.add_argument(
        "--widget_images",
        nargs="+",
        default=[],
        metavar="IMAGE",
        help="examples on a classifier's page",
    )
    parser.add_argument(
        "--with_reconstructions",
        action="store_true",
        help="show the held-out images of reconstructions.png on the card",
    )
    parser.add_argument(
        "--as",
        dest="kind",
        choices=["vit", "vit_mae"],
        help="of a pre-training model the encoder, or encoder and decoder, alone (default: both)",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="show the files and the card, upload nothing"
    )
    args = parser.parse_args()
    try:
        validate_repo_id(args.repo_id)
    except HFValidationError as error:
        parser.error(f"--repo_id {args.repo_id}: {error}")
    if "/" not in args.repo_id:
        parser.error(f"--repo_id is {args.repo_id!r}; it must be ORG/NAME")
    return args


def check_hub(args: argparse.Namespace) -> None:
    reason = None if args.dry_run else why_no_hub()
    if reason is not None:
        raise OSError(
            f"the Hub can't be reached ({reason}), so nothing can be published; --dry_run shows "
            "here what would be"
        )


def summary(publication: Publication, repo_id: str) -> str:
    """What is about to be uploaded, and how near it is to ours."""
    exported, lines = publication.exported, []
    for place, architecture in exported.architectures.items():
        lines.append(f"{architecture}, for {repo_id}{f' in {place}/' if place else ''}")
    for name, size in publication.files.items():
        lines.append(f"  {size:15,} bytes  {name}")
    for name, difference in exported.differences.items():
        lines.append(f"  {name} equal to ours, but for {difference:.1e}")
    for note in exported.notes:
        lines.append(f"note: {note}")
    return "\n".join(lines)


if __name__ == "__main__":
    start(main)
