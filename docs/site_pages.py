"""What the site of docs/ has from beside it; mkdocs calls these functions (see mkdocs.yml).

Pages are written for GitHub, where links go through the repository's folders. On the site the cards
of published models and the texts of the root stand beside docs/, and links to other files go to
the file's name alone, as text. The API reference shows the examples of docstrings as code.
"""

import re
from pathlib import Path
from typing import Any

from griffe import Extension, Object
from mkdocs.structure.files import File, Files


ROOT = Path(__file__).parents[1]
# page → file
TEXTS = {
    "index.md": "README.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
}
_EXAMPLE = re.compile(r"Example:\n\n(>>> .*)", re.DOTALL)
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#:]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the root's texts and the cards to the pages."""
    cards = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("model_cards/*.md"))
    for page, file in (*TEXTS.items(), *zip(cards, cards)):
        files.append(File.generated(config, page, abs_src_path=str(ROOT / file)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Turns links through the repository into links on the site."""
    source = Path(page.file.src_uri)
    folder = source.parent if page.file.generated_by else Path("docs") / source.parent

    def on_the_site(link: re.Match[str]) -> str:
        words, target, anchor = link.groups()
        found = (ROOT / folder / target).resolve()
        if not found.is_relative_to(ROOT) or not found.exists():
            return link[0]  # which mkdocs refuses
        name = found.relative_to(ROOT).as_posix().removeprefix("docs/")
        if files.get_file_from_path(name) is None:
            return words
        up = "../" * len(source.parents[1:])
        return f"[{words}]({up}{name}{anchor or ''})"

    return _LINK.sub(on_the_site, markdown).replace('src="docs/', 'src="')


class Examples(Extension):
    """Makes code of what stands behind "Example:", at the end of a docstring."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            code = "**Example**\n\n```pycon\n\\1\n```\n"
            obj.docstring.value = _EXAMPLE.sub(code, obj.docstring.value.rstrip())
