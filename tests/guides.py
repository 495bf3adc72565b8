"""What the guides tell a reader to type: the commands and code blocks of the pages."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
GUIDES = sorted(["README.md", *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))])


def text_of(page: str) -> str:
    """Return a page as it is kept."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, kind: str = "") -> list[str]:
    """Return the code blocks of a page in one language; a block of commands has none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
    return [block for named, block in found if named == kind]


def commands(page: str) -> list[str]:
    """Return the lines of a page's blocks of commands."""
    return [line for block in blocks(page) for line in block.splitlines()]


def commands_in_tables(page: str) -> list[str]:
    """Return the commands that end the rows of a page's tables."""
    return re.findall(r"`((?:anaglyph|make|python) [^`]+)` \|$", text_of(page), re.MULTILINE)
