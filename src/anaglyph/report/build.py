"""Write the page: template, style, scripts and data in one file that opens from disk.

The page has text from models and data sets, so nothing in it is trusted. The data is inert JSON in
which `<` is escaped, and the scripts only set text. A content security policy lists the digest of
the page's own script, and forbids every other script and every request.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Set
from importlib.resources import files
from pathlib import Path

from anaglyph.core.files import write_text
from anaglyph.report.data import gather

# In this order: each script uses only earlier ones, and later styles win.
SCRIPTS = (
    "words.js",
    "base.js",
    "examples.js",
    "charts.js",
    "verdict.js",
    "claims.js",
    "findings.js",
    "causal.js",
    "dictionaries.js",
    "latents.js",
    "detail.js",
    "scatter.js",
    "direct.js",
    "run.js",
    "app.js",
)
STYLES = ("style.css", "parts.css", "explorer.css", "screens.css")


def build(run_folder: Path, only: Set[str] | None = None) -> Path:
    """Write `report/index.html` into a run folder from the files in it.

    Args:
        run_folder: A run folder, finished or not. No model is loaded.
        only: Names of the files that may be shown, relative to the folder; all if None.

    Returns:
        The path of the page.

    Raises:
        InputError: There is no run in the folder.
        StoreError: A file is damaged; the message names it. An earlier page is kept.
    """
    data = gather(run_folder, only)
    verdict, run = data["verdict"], data["run"]
    pair = f"{run['base']} → {run['tuned']}" if run else run_folder.resolve().name
    script = "(() => {\n" + "\n".join(_part(name) for name in SCRIPTS) + "\n})();"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {
        "title": html.escape(f"{pair} · anaglyph"),
        "verdict": html.escape(verdict["verdict"] if verdict else "no verdict yet"),
        "reason": html.escape(verdict["reason"] if verdict else ""),
        "style": "\n".join(_part(name) for name in STYLES),
        "script": script,
        "script_digest": f"'sha256-{digest}'",
        "data": embed(data),
    }
    # One pass over the template, so text in the data that looks like a placeholder stays as it is.
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _part("template.html"))
    out = run_folder / "report" / "index.html"
    write_text(out, page)
    return out


def embed(value: object) -> str:
    """Return JSON that is safe inside a `<script>` element: it cannot close it or open a comment.

    Args:
        value: Any JSON value, without NaN and inf.
    """
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    # Lone surrogates, which broken tokenizers emit, cannot be written as UTF-8.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text.replace("<", "\\u003c")


def _part(name: str) -> str:
    return (files("anaglyph.report") / "page" / name).read_text(encoding="utf-8")
