"""Writes model_cards/ for all published models, and into the README the table of them and what
benchmarks/ measured.

python scripts/make/write_cards.py [FOLDER]
"""

import argparse
import json
import re
from pathlib import Path

from hf_mae.conversion.zoo import ZOO
from hf_mae.hub.zoo_cards import ZooCard, zoo_table


SCRIPTS = Path(__file__).parents[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=SCRIPTS.parent,
        help="with a README.md (default: the project)",
    )
    root = parser.parse_args().folder
    folder = root / "model_cards"
    folder.mkdir(exist_ok=True)
    for model in ZOO.values():
        ZooCard.of(model).render().save(folder / f"{model.hub_name}.md")
    readme = root / "README.md"
    text = put(readme.read_text(encoding="utf-8"), "zoo table", zoo_table())
    for command in ("train", "infer"):
        files = sorted((SCRIPTS / "benchmarks" / "results").glob(f"{command}-*.json"))
        text = put(text, f"{command} tables", "\n\n".join(map(models_table, files)))
    readme.write_text(text, encoding="utf-8")


def put(text, name, table):
    """The text with a table in its place between two comments."""
    begin, end = f"<!-- {name}, by make cards -->\n", f"<!-- end of {name} -->\n"
    before, rest = text.split(begin)
    return before + begin + "\n" + table + "\n\n" + end + rest.split(end)[1]


def models_table(path):
    """Markdown of what `scripts/benchmark.py train` or `infer` wrote: the command, where it ran, a
    row for each model."""
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    command = re.sub(r" --output[ =]\S+", "", found["command"])
    where = found.get("gpu") or f"{found['cpu']}, {found['cores']} cores"
    packages = ("torch", "transformers", "timm", "mmpretrain", "lightly")
    versions = ", ".join(
        f"{name} {found[name]}"
        for name in packages
        if found.get(name, "not installed") != "not installed"
    )
    lines = [f"`python scripts/benchmark.py {command}`, {where}, {versions}, {found['date']}:", ""]
    lines.append(
        "| batch | model | images/s | MiB at most | GFLOP an image | of a large product's rate | "
        "hf_mae over it |"
    )
    lines.append("|---|---|---|---|---|---|---|")
    for batch, measured in found["results"].items():
        models = measured["models"]
        for name, model in models.items():
            median, least, greatest = model.get("hf_mae_over_it", (1, 1, 1))
            lines.append(
                f"| {batch} | {name} | {model['images_per_second']:,.2f} | "
                f"{model['peak_memory'] / 2**20:,.0f} | "
                f"{model['flops'] / int(batch) / 1e9:,.1f} | {model['share_of_product_rate']:.0%} "
                "| "
                + ("|" if name == "hf_mae" else f"{median:.2f} ({least:.2f} to {greatest:.2f}) |")
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
