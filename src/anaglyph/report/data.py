"""Gather a run folder's files into the one value that the page embeds.

The page must stay small enough to mail. So it leaves out latents beyond `MAX_ROWS` per dictionary
and example windows beyond `EXAMPLE_BYTES` in total. What is left out is counted, and the page says
so.
"""

import json
import math
import re
from collections.abc import Set
from pathlib import Path
from typing import Any

import polars as pl

from anaglyph.core.errors import InputError, StoreError
from anaglyph.core.files import read_json, read_parquet
from anaglyph.core.schemas import Finding, RunState, read_behaviour, read_state, read_verdict
from anaglyph.core.settings import sections
from anaglyph.core.validation import validate
from anaglyph.dictionaries import Dictionary
from anaglyph.findings import with_dictionaries
from anaglyph.report.direct import gather_direct
from anaglyph.report.records import DictionaryRecord, ExamplesRecord, Files, Window, read

MAX_ROWS = 2000
MAX_FINDINGS = 100
EXAMPLE_BYTES = 1_200_000
# Windows shown with a finding or a latent; the strongest come first in the artifacts.
MAX_WINDOWS = 8

# `causal/NAME.latents.parquet`: each row adds one latent alone.
ALONE = ".latents"
# `causal/NAME.places.parquet`: the interventions at other tokens, or in the other direction.
PLACES = ".places"
# Intervals that the page does not need; the table on disk keeps them.
LEFT_OUT = re.compile("beta_.*_(low|high)")

# The first of these columns that a table has decides which latents the page keeps (largest first).
RANKING = ("difference_share", "frequency", "max_activation")


def gather(run_folder: Path, only: Set[str] | None = None) -> dict[str, Any]:
    """Return everything the page shows, ready for JSON: no NaN, no inf, numbers with 4 digits.

    Args:
        run_folder: A run folder; any of its files may be missing and is then None here.
        only: Names of the files that may be shown; all if None.

    Raises:
        InputError: There is no such folder, or it has no file of a run.
        StoreError: A file is damaged; the message names it.
    """
    if not run_folder.is_dir():
        raise InputError(f"{run_folder} is not a folder")
    files = Files(run_folder, only)
    run = read_state(path) if (path := run_folder / "run.json").exists() else None
    verdict = read_verdict(path) if (path := files.find("findings.json")) else None
    names = _dictionary_names(files)
    if run is None and verdict is None and not names:
        raise InputError(f"{run_folder} is not a run folder: it has no file of a run")
    room, trained = _Room(EXAMPLE_BYTES), _dictionaries(files, names)
    found = verdict.findings if verdict is not None else ()
    findings = [
        # Findings of another layer than the dictionaries' are none of their business.
        with_dictionaries(each, trained if run is None or run.layer in each.layers[:1] else {})
        for each in found[:MAX_FINDINGS]
    ]
    shown = [_finding(finding, room, run_folder) for finding in findings]
    further = verdict.like_noise[: MAX_FINDINGS - len(shown)] if verdict is not None else ()
    cited: dict[str, list[int]] = {name: [] for name in names}
    for finding in (*findings, *further):
        for dictionary, latent in finding.latents:
            cited.setdefault(dictionary, []).append(latent)
    dictionaries = []
    for place, name in enumerate(names):
        own = _Room(room.left // (len(names) - place))
        room.left -= own.left
        dictionaries.append(_dictionary(files, name, cited[name], own))
        room.left += own.left
    return {
        "behaviour": _behaviour(files),
        "run": None if run is None else _clean(_facts(run)),
        "verdict": None
        if verdict is None
        else {
            **_clean(verdict.model_dump(exclude={"findings", "like_noise"})),
            "headline": verdict.headline,
            "found": len(found),
        },
        "findings": None if verdict is None else shown,
        "like_noise": [_finding(finding, room, run_folder) for finding in further],
        "reading": _reading(files.find("reading.json")),
        "dictionaries": dictionaries,
        "direct": _clean(gather_direct(files)),
    }


class _Room:
    """How many bytes of examples still fit on the page."""

    def __init__(self, size: int) -> None:
        self.left = size

    def windows(self, windows: list[Window]) -> list[dict[str, Any]] | None:
        """Return the windows in their short form, or None when they do not fit any more."""
        short = [_window(window) for window in windows[:MAX_WINDOWS]]
        size = len(
            json.dumps(short, separators=(",", ":"), ensure_ascii=False).encode(
                "utf-8", "surrogatepass"
            )
        )
        if size > self.left:
            return None
        self.left -= size
        return short


def _dictionary_names(files: Files) -> list[str]:
    folders = files.folder.glob("dictionaries/*/config.json")
    found = {path.parent.name for path in folders}
    found = {name for name in found if files.find(f"dictionaries/{name}/config.json")}
    for pattern in ("latents/*.parquet", "causal/*.parquet", "examples/*.json"):
        found |= files.stems(pattern)
    # Files with these endings are further tables of a dictionary.
    found = {name for name in found if not name.endswith((ALONE, PLACES))}
    return sorted(name for name in found if not name.startswith("."))


def _behaviour(files: Files) -> dict[str, Any] | None:
    path = files.find("behaviour.json")
    if path is None:
        return None
    said = read_behaviour(path, linked=files.find("links.json") is not None)
    return _clean(said.model_dump(mode="json")) | {"headline": said.headline}


def _reading(path: Path | None) -> dict[str, Any] | None:
    """Return the account of what was read; the rows that were skipped stay in the file."""
    if path is None:
        return None
    read = read_json(path)
    if not isinstance(read, dict):
        raise StoreError(f"{path} is damaged: it must be an object")
    return _clean({name: value for name, value in read.items() if name != "skipped_rows"})


def _facts(run: RunState) -> dict[str, Any]:
    """Return the facts of a run with its settings in one flat table."""
    facts = run.model_dump(mode="json")
    # The page shows how long stages took; it is itself one, made after the others.
    stages = {name: stage for name, stage in facts["stages"].items() if name != "report"}
    facts["stages"] = {name: {"seconds": stage["seconds"]} for name, stage in stages.items()}
    settings = facts.pop("settings")
    for name in sections():
        settings |= settings.pop(name)
    return facts | {"config": settings}


def _dictionaries(files: Files, names: list[str]) -> dict[str, Dictionary]:
    """Load the trained dictionaries, to see which of their latents show a finding."""
    weights = {name: files.find(f"dictionaries/{name}/weights.safetensors") for name in names}
    return {name: Dictionary.load(path.parent) for name, path in weights.items() if path}


def _finding(finding: Finding, room: _Room, run_folder: Path) -> dict[str, Any]:
    # Directions are long and unreadable; findings.json keeps them.
    left_out = {"examples", "direction", "direction_base", "direction_tuned"}
    shown = _clean(finding.model_dump(exclude=left_out))
    for row in shown["depth"]:
        row.pop("direction")
    where = f"{run_folder / 'findings.json'} is damaged: examples"
    windows = [validate(Window, each, where, StoreError) for each in finding.examples]
    shown["windows"] = room.windows(windows) if windows else []
    return shown


def _dictionary(files: Files, name: str, cited: list[int], room: _Room) -> dict[str, Any]:
    config = read(files.find(f"dictionaries/{name}/config.json"), DictionaryRecord)
    examples = read(files.find(f"examples/{name}.json"), ExamplesRecord)
    by_latent = {item.latent: item.examples for item in examples.root} if examples else {}
    causal = _read_table(files.find(f"causal/{name}.parquet"), {"intervention", "recovered"})
    places = _read_table(
        files.find(f"causal/{name}{PLACES}.parquet"),
        {"intervention", "recovered", "positions", "into"},
    )
    alone = _read_table(
        files.find(f"causal/{name}{ALONE}.parquet"),
        {"latent", "recovered", "recovered_low", "recovered_high"},
    )
    patched = [] if alone is None else alone["latent"].to_list()
    pinned = list(dict.fromkeys([*cited, *patched, *by_latent]))[:MAX_ROWS]
    table = _read_table(files.find(f"latents/{name}.parquet"), {"latent"})
    if table is not None and alone is not None:
        effects = alone.select("latent", "recovered", "recovered_low", "recovered_high")
        table = table.join(effects, on="latent", how="left", maintain_order="left")
    latents, order = (None, pinned) if table is None else _latents(table, pinned)
    windows = {}
    for latent in dict.fromkeys([*cited, *order]):
        # Smaller ones further down may fit, but a gap in the ranking would confuse the reader.
        if latent in by_latent:
            short = room.windows(by_latent[latent])
            if short is None:
                break
            windows[str(latent)] = short
    return {
        "name": name,
        "config": None if config is None else _clean(config.model_dump(exclude={"stats"})),
        "stats": None if config is None else _clean(config.stats),
        "latents": latents,
        "causal": None if causal is None else _clean(causal.to_dicts()),
        "places": None if places is None else _clean(places.to_dicts()),
        "examples": None if examples is None else windows,
        "with_examples": len(by_latent),
    }


def _latents(table: pl.DataFrame, pinned: list[int]) -> tuple[dict[str, Any], list[int]]:
    """Choose the rows to show; return them column by column, and their latents best first."""
    alive = table.filter(pl.col("alive")) if "alive" in table.columns else table
    rank = next((c for c in RANKING if c in alive.columns and alive[c].count() > 0), None)
    ranked = alive if rank is None else alive.sort(rank, descending=True, nulls_last=True)
    # Latents of findings and examples are shown whatever their rank.
    is_pinned = pl.col("latent").is_in(pinned)
    room = max(0, MAX_ROWS - ranked.filter(is_pinned).height)
    kept = ranked.filter(is_pinned | ((~is_pinned).cum_sum() <= room))
    columns = {}
    for column in kept.columns:
        kind = kept.schema[column]
        readable = kind.is_numeric() or kind in (pl.String, pl.Boolean)
        if readable and kept[column].count() > 0 and not LEFT_OUT.fullmatch(column):
            columns[column] = _clean(kept[column].to_list())
    facts = {"total": table.height, "alive": alive.height, "ranked_by": rank, "columns": columns}
    return facts, kept["latent"].to_list()


def _read_table(path: Path | None, needed: set[str]) -> pl.DataFrame | None:
    if path is None:
        return None
    table = read_parquet(path)
    missing = needed - set(table.columns)
    if missing:
        raise StoreError(f"{path} is damaged: it has no column {sorted(missing)[0]}")
    return table


def _window(window: Window) -> dict[str, Any]:
    # One letter per field: names would take a tenth of the page.
    return {
        "s": window.sequence,
        "p": window.position,
        "x": window.tokens,
        "r": window.roles,
        "c": _clean(window.code, digits=3),
        "b": _clean(window.base, digits=3),
        "t": _clean(window.tuned, digits=3),
    }


def _clean(value: Any, digits: int = 4) -> Any:
    """Round floats to a few significant digits; NaN and inf become null."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        short = float(f"{value:.{digits}g}")
        return int(short) if short.is_integer() and abs(short) < 2**53 else short
    if isinstance(value, dict):
        return {str(key): _clean(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item, digits) for item in value]
    return value
