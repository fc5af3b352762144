"""Writes model_cards/ for all published models, and into the README the table of them and what benchmarks/ measured.

python scripts/write_cards.py [FOLDER]
"""

import sys
from pathlib import Path

from hf_mae.benchmarks import models_table
from hf_mae.zoo import ZOO
from hf_mae.zoo_cards import ZooCard, zoo_table


HERE = Path(__file__).parent


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else HERE.parent)
    folder = root / "model_cards"
    folder.mkdir(exist_ok=True)
    for model in ZOO.values():
        ZooCard.of(model).render().save(folder / f"{model.hub_name}.md")
    readme = root / "README.md"
    text = put(readme.read_text(encoding="utf-8"), "zoo table", zoo_table())
    for command in ("train", "infer"):
        files = sorted((HERE / "benchmarks").glob(f"{command}-*.json"))
        text = put(text, f"{command} tables", "\n\n".join(map(models_table, files)))
    readme.write_text(text, encoding="utf-8")


def put(text, name, table):
    """The text with a table in its place between two comments."""
    begin, end = f"<!-- {name}, by make cards -->\n", f"<!-- end of {name} -->\n"
    before, rest = text.split(begin)
    return before + begin + "\n" + table + "\n\n" + end + rest.split(end)[1]


if __name__ == "__main__":
    main()
