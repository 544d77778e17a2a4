"""A hook of mkdocs: on the site, a link to a file of the repository that is no page becomes the file's name.

A link to a file that is nowhere is left, so that `mkdocs build --strict` finds it.
"""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"\[([^\]]*)\]\((\.\./[^)#]*)(#[^)]*)?\)")


def without_links_outside(markdown: str) -> str:
    """Replace links to existing files outside of docs by the text of the link, and the path where that is not in it."""

    def named(link: re.Match[str]) -> str:
        text, target = link[1], (ROOT / "docs" / link[2]).resolve()
        if not target.exists() or ROOT not in target.parents:
            return link[0]
        path = target.relative_to(ROOT).as_posix()
        return text if path in text else f"{text} (`{path}`)"

    return _LINK.sub(named, markdown)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Change a page as mkdocs asks for it."""
    return without_links_outside(markdown)
