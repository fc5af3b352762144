"""Publishes a model on the Hub, in transformers' own format: exports, checks, writes the card,
uploads in one commit.

    python scripts/publish.py --model_name_or_path DIR --repo_id ORG/NAME [--public] [--dry_run]

Needs a token that may write: `hf auth login`, or HF_TOKEN. The repository is private unless
`--public`. `--dry_run` shows
what would be uploaded, and the card. A broken upload is repeated by the same command.
"""

import argparse
import sys
import tempfile

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import get_token, validate_repo_id
from safetensors import SafetensorError

from hf_mae.errors import NETWORK_ERRORS
from hf_mae.hub.publishing import base_is_missing, prepare, upload


def main():
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        try:
            publication = prepare(
                args.model_name_or_path,
                args.repo_id,
                folder,
                args.license,
                args.widget_images,
                args.with_reconstructions,
            )
        except (ValueError, OSError, SafetensorError) as error:
            sys.exit(f"publish.py: error: {error}")
        print(f"{publication.architecture}, for {args.repo_id}")
        print("\n".join(f"  {size:15,} bytes  {name}" for name, size in publication.files.items()))
        print(
            "\n".join(
                f"  {name} equal to ours, but for {by:.1e}"
                for name, by in publication.differences.items()
            )
        )
        if args.dry_run:
            print(f"\n{publication.card}")
            return
        try:
            print(f"published at {upload(publication, args.repo_id, args.public)}")
            if base_is_missing(publication.card):
                print(
                    f"note: the card's base_model, {publication.card.data.base_model}, isn't on "
                    "the Hub: publish it too"
                )
        except (*NETWORK_ERRORS, ValueError) as error:
            sys.exit(
                f"publish.py: error: {said(error)}; nothing is lost: the same command tries again"
            )


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
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


def said(error):
    """An error in a line, without the token, whoever put it there."""
    text = " ".join(str(error).split())
    token = get_token()
    return text.replace(token, "(token)") if token else text


if __name__ == "__main__":
    main()
