# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""The output folder of a run: the names of its files, and which checkpoint to go on from."""

import json
import zipfile
from pathlib import Path


RECIPE_FILE = "arguments.yaml"  # of an output folder: what repeats the run

FACTS_FILE = "card.json"

PROVENANCE_FILE = "conversion.json"

PANEL_FILE, CURVES_FILE = "reconstructions.png", "curves.png"  # in an output folder
BAD_IMAGES_FILE = "bad_images.tsv"
STREAM_FILE = "stream.json"  # of a checkpoint


def find_checkpoint(output_dir):
    """The newest whole checkpoint in a folder, or None; those that a killed run left half written
    are passed over."""
    folders = [
        path for path in Path(output_dir).glob("checkpoint-*") if path.name.split("-")[1].isdigit()
    ]
    whole = (
        path
        for path in sorted(folders, key=lambda p: -int(p.name.split("-")[1]))
        if is_whole_checkpoint(path)
    )
    return next(whole, None)


def is_whole_checkpoint(folder):
    """Whether a checkpoint was written to its end: the Trainer writes `trainer_state.json` last."""
    folder = Path(folder)
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    states = [*folder.glob("*.pt"), *folder.glob("*.pth")]
    return bool(states) and all(map(zipfile.is_zipfile, states))


def resume_point(args):
    """The checkpoint that `--resume_from_checkpoint` (a folder, or "last") means, or None for a
    fresh start.

    Raises:
        ValueError: the folder holds no whole checkpoint; or nothing is to be resumed and the output
            folder holds some.
    """
    wanted, newest = args.resume_from_checkpoint, find_checkpoint(args.output_dir)
    if wanted is None and newest is not None:
        raise ValueError(
            f"output_dir {args.output_dir} already holds {newest.name}; go on by "
            "--resume_from_checkpoint last, or name "
            "another folder"
        )
    if wanted in (None, "last"):
        return str(newest) if newest else None
    if not is_whole_checkpoint(wanted):
        raise ValueError(
            f"resume_from_checkpoint {wanted} is not a whole checkpoint (and not the word 'last')"
        )
    return str(wanted)
