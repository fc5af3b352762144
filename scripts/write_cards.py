"""Writes model_cards/ for all published models, and the table of them into the README.

python scripts/write_cards.py [FOLDER]
"""

import sys
from pathlib import Path

from hf_mae.zoo import ZOO
from hf_mae.zoo_cards import ZooCard, zoo_table


BEGIN, END = "<!-- zoo table, by make cards -->\n", "<!-- end of zoo table -->\n"


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent)
    folder = root / "model_cards"
    folder.mkdir(exist_ok=True)
    for model in ZOO.values():
        ZooCard.of(model).render().save(folder / f"{model.hub_name}.md")
    readme = root / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    readme.write_text(before + BEGIN + "\n" + zoo_table() + "\n\n" + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
