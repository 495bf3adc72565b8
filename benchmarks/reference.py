"""Write docs/settings.md and docs/run-folder.md from the settings and schemas.

python benchmarks/reference.py            # writes both pages
python benchmarks/reference.py --check    # exits 1 if a page is out of date
"""

import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from anaglyph.cli.options import metavar_of, option_of
from anaglyph.core import schemas
from anaglyph.core.columns import BOUNDED, FILES, TABLES
from anaglyph.core.settings import Settings, sections

DOCS = Path(__file__).parents[1] / "docs"


def settings_page() -> str:
    """Return docs/settings.md: one table a section, one row a setting."""
    lines = [
        "# Settings",
        "",
        "Every setting of a run, with its option, default and meaning. Give it as an option, or in",
        "a JSON or TOML file that `--config` names; an option wins over the file. A file may hold",
        "settings flat or by section:",
        "",
        "```json",
        '{"train": {"latents": 8192}, "rate": 0.05}',
        "```",
        "",
        "Try: `anaglyph diff --help`. This page is made by `make reference`.",
    ]
    own: dict[str, Any] = {"": Settings, **sections()}
    for name, kind in own.items():
        title = name or "run"
        lines += ["", f"## {title}", "", f"{(kind.__doc__ or '').splitlines()[0]}", ""]
        lines += ["| option | in a file | values | default | meaning |", "|---|---|---|---|---|"]
        for field_name, field in kind.model_fields.items():
            if field_name in sections():
                continue
            default = (
                ""
                if field.default is None
                else _plain(field.get_default(call_default_factory=True))
            )
            values = metavar_of(field).replace("|", " \\| ")
            lines.append(
                f"| `{option_of(field_name)}` | `{field_name}` | {values} | {default} | "
                f"{field.description} |"
            )
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "" if value in (None, {}) else str(value)


def run_folder_page() -> str:
    """Return docs/run-folder.md: every file, every field of the JSON files, every column."""
    lines = [
        "# The run folder",
        "",
        "What `anaglyph diff --out RUN` leaves in RUN, file by file and column by column. Any JSON",
        "or parquet reader reads it; `anaglyph report RUN` makes the page from it again.",
        f"`run.json` and `findings.json` carry a format number, now {schemas.FORMAT}; anaglyph",
        "refuses files of another format and says so. Undefined numbers are null.",
        "",
        "This page is made by `make reference`.",
        "",
        "| file | what it holds |",
        "|---|---|",
        *(f"| `{name}` | {says} |" for name, says in FILES.items()),
    ]
    for title, kind in (
        ("run.json", schemas.RunState),
        ("A stage in run.json", schemas.StageState),
        ("behaviour.json", schemas.Behaviour),
        ("A claim", schemas.Claim),
        ("A reply of a claim", schemas.SideBySide),
        ("links.json", schemas.Links),
        ("A link", schemas.Link),
        ("findings.json", schemas.Verdict),
        ("`apart` in findings.json", schemas.Apart),
        ("A role in `apart`", schemas.RoleGap),
        ("A finding", schemas.Finding),
        ("`detection_limit` in findings.json", schemas.DetectionLimit),
    ):
        lines += ["", f"## {title}", "", *_fields(kind)]
    for name, (says, columns) in TABLES.items():
        lines += ["", f"## {name}", "", says, "", "| column | meaning |", "|---|---|"]
        for column, meaning in columns.items():
            ends = f"; `{column}_low`, `{column}_high`: its 95% interval"
            bounds = ends if column in BOUNDED else ""
            lines.append(f"| `{column}` | {meaning.rstrip('.')}{bounds}. |")
    return "\n".join(lines) + "\n"


def _fields(kind: type[BaseModel]) -> list[str]:
    rows = [f"| `{name}` | {field.description} |" for name, field in kind.model_fields.items()]
    return ["| field | meaning |", "|---|---|", *rows]


PAGES = {"settings.md": settings_page, "run-folder.md": run_folder_page}

if __name__ == "__main__":
    stale = []
    for name, make in PAGES.items():
        page = make()
        if "--check" in sys.argv:
            stale += [name] if (DOCS / name).read_text(encoding="utf-8") != page else []
        else:
            (DOCS / name).write_text(page, encoding="utf-8")
    if stale:
        sys.exit(f"out of date: {', '.join(stale)}; run make reference")
