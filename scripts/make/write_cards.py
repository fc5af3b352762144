"""Writes the cards of all published models, and the tables of docs/.

    python scripts/make/write_cards.py [FOLDER]

The cards go to model_cards/; the table of the models goes into docs/published-models.md, and what
scripts/benchmarks/results/ holds into docs/input-and-speed.md.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any


SCRIPTS = Path(__file__).parents[1]
COLUMNS = (
    "batch",
    "model",
    "images/s",
    "MiB at most",
    "GFLOP an image",
    "of a large product's rate",
    "hf_mae over it",
)
PACKAGES = ("torch", "transformers", "timm", "mmpretrain", "lightly", "stable-pretraining")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=SCRIPTS.parent,
        help="with docs/ (default: the project)",
    )
    folder = parser.parse_args().folder
    write_cards(folder / "model_cards")
    write_tables(folder / "docs")


def write_cards(folder: Path) -> None:
    from hf_mae.conversion.zoo import ZOO  # which takes seconds
    from hf_mae.hub.cards import ZooCard

    folder.mkdir(exist_ok=True)
    for model in ZOO.values():
        card = ZooCard.of(model).render()
        card.save(folder / f"{model.hub_name}.md")


def write_tables(docs: Path) -> None:
    from hf_mae.hub.cards import zoo_table

    put_table(docs / "published-models.md", "zoo table", zoo_table())
    for command in ("train", "infer"):
        files = sorted((SCRIPTS / "benchmarks" / "results").glob(f"{command}-*.json"))
        tables = [models_table(file) for file in files]
        put_table(docs / "input-and-speed.md", f"{command} tables", "\n\n".join(tables))
    file = SCRIPTS / "benchmarks" / "results" / "memory.json"
    table = memory_table(file)
    put_table(docs / "input-and-speed.md", "memory table", table)
    put_table(docs / "input-and-speed.md", "gpu tables", gpu_tables(file.parent))


def put_table(page: Path, name: str, table: str) -> None:
    """Writes a table into its place between two comments of a page."""
    text = page.read_text(encoding="utf-8")
    begin = f"<!-- {name}, by make cards -->\n"
    end = f"<!-- end of {name} -->\n"
    before, rest = text.split(begin)
    _, after = rest.split(end)
    page.write_text(f"{before}{begin}\n{table}\n\n{end}{after}", encoding="utf-8")


def models_table(path: str | Path) -> str:
    """Markdown of what `scripts/benchmark.py train` or `infer` wrote.

    The command, where it ran, and a row for each model.
    """
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    command = re.sub(r" --output[ =]\S+", "", found["command"])
    where = found.get("gpu") or f"{found['cpu']}, {found['cores']} cores"
    versions = {name: found.get(name, "not installed") for name in PACKAGES}
    installed = [f"{name} {v}" for name, v in versions.items() if v != "not installed"]
    lines = [
        f"`python scripts/benchmark.py {command}`, {where}, {', '.join(installed)}, "
        f"{found['date']}:",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for batch, measured in found["results"].items():
        for name, model in measured["models"].items():
            lines.append(model_row(batch, name, model))
    return "\n".join(lines)


def memory_table(path: str | Path) -> str:
    """Markdown of what `scripts/benchmark.py memory` wrote: a row for each size and precision."""
    results = json.loads(Path(path).read_text(encoding="utf-8"))["results"]
    first = next(iter(results.values()))["bf16"]
    columns = ["model", "precision"]
    columns += [f"batch {batch}, GiB" for batch in first["bytes"]]
    columns += [f"largest on {gpu} GiB" for gpu in first["largest"]]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for size, precisions in results.items():
        for precision, found in precisions.items():
            cells = [f"{needed / 2**30:,.1f}" for needed in found["bytes"].values()]
            cells += [str(batch) if batch else "none" for batch in found["largest"].values()]
            lines.append(f"| {size} | {precision} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gpu_tables(folder: Path) -> str:
    """Markdown of what `scripts/benchmark.py gpu` found in profiles, and of how its parts ended."""
    if not (folder / "gpu.json").is_file():
        return "It has not been run whole on a GPU yet."
    summary = json.loads((folder / "gpu.json").read_text(encoding="utf-8"))
    where = summary.get("gpu") or f"{summary['cpu']}, {summary['cores']} cores"
    lines = [f"{where}, torch {summary['torch']}, {summary['date']}:", ""]
    lines += ["| part | ended | seconds | said last |", "|---|---|---|---|"]
    for name, part in summary["results"].items():
        said = part["said"].replace("|", "/")
        lines.append(f"| {name} | {part['ended']} | {part['seconds']:.0f} | {said} |")
    for file in sorted(folder.glob("profile-*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))["results"]
        lines += ["", f"`{file.stem}`: {found['seconds']:.4f} s a step, of which the device is"]
        lines += [f"idle for {found['idle_share']:.0%}; of the rest:", ""]
        lines += ["| kernel | share | calls a step |", "|---|---|---|"]
        for kernel in found["kernels"]:
            name = kernel["name"].replace("|", "/")
            lines.append(f"| `{name}` | {kernel['share']:.1%} | {kernel['calls']:.0f} |")
    return "\n".join(lines)


def model_row(batch: str, name: str, model: dict[str, Any]) -> str:
    cells = [
        batch,
        name,
        f"{model['images_per_second']:,.2f}",
        f"{model['peak_memory'] / 2**20:,.0f}",
        f"{model['flops'] / int(batch) / 1e9:,.1f}",
        f"{model['share_of_product_rate']:.0%}",
    ]
    row = f"| {' | '.join(cells)} |"
    if name == "hf_mae":
        return f"{row} |"
    median, least, greatest = model["hf_mae_over_it"]
    return f"{row} {median:.2f} ({least:.2f} to {greatest:.2f}) |"


if __name__ == "__main__":
    main()
