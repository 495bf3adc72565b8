"""How often findings are wrong: the tables of docs/findings.md, numbers in docs/performance.

    python benchmarks/calibration.py [--page]

Parts: the claimed rates on every preset, the nulls of every kind, whether the promised detection
limit holds in fresh runs, and what findings cost. The JSON is written after each part, so a run
that was stopped resumes with that part. After a complete run all parts start again. --page only
writes the page's tables, for the parts that exist.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bench import ROOT, command, fill, machine, spread, table

from anaglyph.core.files import read_json, write_json
from anaglyph.core.schemas import Finding, Verdict
from anaglyph.core.settings import FindSettings, Settings
from anaglyph.dictionaries import train
from anaglyph.findings import search
from anaglyph.findings.discovery import BATCH, LATENTS_A_DIMENSION, MOST_LATENTS, TOKENS, K
from anaglyph.findings.limit import A_ROUND, plant
from anaglyph.store import PairedStore
from anaglyph.subject import Subject
from anaglyph.truth.planted import PRESETS, generate, planted_settings
from anaglyph.truth.planted.matching import FOUND

PAGE = ROOT / "docs" / "findings.md"
NUMBERS = ROOT / "docs" / "performance" / "calibration.json"
KINDS = ("new", "removed", "scaled", "rotated", "retriggered", "mean-shift")
SEEDS = 20
FIRST = 2000
RATES = (0.05, 0.1, 0.2)
DEFAULT = 0.1
LIMITS = ("easy", "realistic", "rare", "null")
LIMIT_SEEDS, LIMIT_FIRST = 20, 2100
"""Of the pairs whose limits are checked; none of them was looked at while the limit was made."""
FRESH = 1000
"""How far the seed of a fresh run lies from the seed of the run that made the promise."""
COST_SEEDS = 3
OF_ALL = 8.0
"""Latents a token in dictionaries of whole activations."""


def calibrated(arguments: str) -> dict[str, Any]:
    """Run ``anaglyph calibrate`` on the published seeds."""
    return command(f"calibrate {arguments} --seeds {SEEDS} --first-seed {FIRST}")


def stored(base: np.ndarray, tuned: np.ndarray, sequences: np.ndarray, folder: str) -> PairedStore:
    """Put activations into a store."""
    return PairedStore.from_arrays(base, tuned, Path(folder) / "store", sequence_ids=sequences)


TRIALS = FindSettings().trials


def judged(store: PairedStore, seed: int, trials: int, made: Any = None) -> Verdict:
    """Return the verdict on a store alone, without models."""
    subject = Subject.of(store=store, settings=Settings(seed=seed))
    return search(subject, FindSettings(trials=trials), made)


def limits() -> dict[str, Any]:
    """Measure each promised limit, plant features of that size into a fresh pair, and count."""
    rows = []
    for preset in LIMITS:
        for seed in range(LIMIT_FIRST, LIMIT_FIRST + LIMIT_SEEDS):
            pair = generate(planted_settings(preset), seed)
            with tempfile.TemporaryDirectory() as folder:
                store = stored(pair.base, pair.tuned, pair.sequence_ids, folder)
                limit = judged(store, seed, TRIALS).detection_limit
            if limit is None:
                rows.append({"preset": preset, "seed": seed, "size": None, "came": None})
                continue
            fresh = generate(planted_settings(preset), seed + FRESH)
            rng = np.random.default_rng([seed, FRESH])
            directions = rng.standard_normal((A_ROUND, fresh.tuned.shape[1]))
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            sizes, often = (np.full(A_ROUND, each) for each in (limit.size, limit.frequency))
            tuned = plant(fresh.tuned, directions, sizes, often, rng)
            with tempfile.TemporaryDirectory() as folder:
                store = stored(fresh.base, tuned, fresh.sequence_ids, folder)
                found = judged(store, seed + FRESH, 0).findings
            came = np.mean([any(_shows(f, each) for f in found) for each in directions])
            rows.append({"preset": preset, "seed": seed, "size": limit.size, "came": float(came)})
            print(rows[-1], flush=True)
    return {"rows": rows, "probability": 0.9, "planted": A_ROUND}


def _shows(finding: Finding, direction: np.ndarray) -> bool:
    base = np.array(finding.direction_base or np.zeros(len(direction)))
    tuned = np.array(finding.direction_tuned or np.zeros(len(direction)))
    change = tuned - base if finding.kind in ("new", "removed", "rotated") else tuned
    return abs(float(change @ direction)) >= FOUND * float(np.linalg.norm(change))


def costs() -> dict[str, Any]:
    """Time findings against plain training: three dictionaries of the size that findings use."""
    rows = []
    for preset in (each for each in PRESETS if planted_settings(each).layers == 1):
        for seed in range(FIRST, FIRST + COST_SEEDS):
            pair = generate(planted_settings(preset), seed)
            with tempfile.TemporaryDirectory() as folder:
                store = stored(pair.base, pair.tuned, pair.sequence_ids, folder)
                latents = min(MOST_LATENTS, LATENTS_A_DIMENSION * store.d_tuned)
                start = time.perf_counter()
                made = {
                    name: train(store, name, latents, k, TOKENS, seed, batch=BATCH)
                    for name, k in (("diff-sae", K), ("crosscoder", OF_ALL), ("tuned-sae", OF_ALL))
                }
                trained = time.perf_counter()
                judged(store, seed, 0, made)
                found = time.perf_counter()
                judged(store, seed, TRIALS, made)
                limited = time.perf_counter()
            rows.append(
                {
                    "preset": preset,
                    "seed": seed,
                    "training": trained - start,
                    "findings": found - trained,
                    "with_limit": limited - found,
                }
            )
            print(rows[-1], flush=True)
    return {"rows": rows, "trials": TRIALS}


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "rates": lambda: calibrated("--preset all " + " ".join(f"--rate {rate:g}" for rate in RATES)),
    "nulls": lambda: calibrated("--preset easy --preset realistic --null all"),
    "limits": limits,
    "costs": costs,
}


def measure() -> None:
    """Run every part that is missing."""
    parts = read_json(NUMBERS)["parts"] if NUMBERS.exists() else {}
    if set(parts) == set(PARTS):
        parts = {}
    for name, play in PARTS.items():
        if name not in parts:
            start = time.perf_counter()
            part = play()
            taken = {"seconds": time.perf_counter() - start, "machine": machine()}
            parts[name] = part | taken
            write_json(NUMBERS, {"parts": parts})
            print(f"{name}: {parts[name]['seconds']:.0f} s", flush=True)


def percent(value: float | None) -> str:
    """Return a share in percent, or a dash."""
    return "–" if value is None else f"{100 * value:.1f}"


def between(row: dict[str, Any], name: str) -> str:
    """Return a share in percent with its interval."""
    if row[f"{name}_high"] is None:
        return percent(row[name])
    bounds = [percent(row[f"{name}_{end}"]) for end in ("low", "high")]
    return f"{percent(row[name])} ({bounds[0]} to {bounds[1]})"


def rates(parts: dict[str, Any]) -> str:
    """Return what was found at each claimed rate."""
    lines = [["rate %", "preset", "pairs", "findings per pair", "false % (95% interval)"]]
    lines[0] += ["pairs without a false finding %", "recall %", "right kind %"]
    lines[0] += ["interval contains the truth %"]
    for row in parts["rates"]["rows"]:
        cells = [f"{100 * row['rate']:g}", row["preset"], str(row["pairs"])]
        cells += [f"{row['findings']:.1f}", between(row, "false_share")]
        cells += [percent(row[name]) for name in ("silent", "recall", "right_kind", "covered")]
        lines.append(cells)
    return table(lines)


def kinds(parts: dict[str, Any]) -> str:
    """Return how often intervals hold the truth, by kind."""
    lines = [["interval contains the truth %", *KINDS]]
    for row in parts["rates"]["rows"]:
        if row["rate"] != DEFAULT:
            continue
        cells = [row["preset"], *(percent(row.get(f"covered_{kind}")) for kind in KINDS)]
        if any(cell != "–" for cell in cells[1:]):
            lines.append(cells)
    return table(lines)


def nulls(parts: dict[str, Any]) -> str:
    """Return how often a pair in which nothing was planted shows nothing."""
    lines = [["preset, difference", "pairs", "pairs without a finding %"]]
    rows = parts["nulls"]["rows"]
    lines += [[row["preset"], str(row["pairs"]), percent(row["silent"])] for row in rows]
    return table(lines)


def held(parts: dict[str, Any]) -> str:
    """Return how often features of the promised size came back in fresh runs."""
    said = (
        "The detection limit is a promise about a run. We tested it: for each run we planted\n"
        f"{A_ROUND} features of exactly the promised size in a fresh pair and searched for them:"
    )
    lines = [["preset", "runs", "limit", "found % (promised: 90)"]]
    for preset in LIMITS:
        rows = [row for row in parts["limits"]["rows"] if row["preset"] == preset]
        came = [row["came"] for row in rows if row["came"] is not None]
        if not came:
            lines.append([preset, str(len(rows)), "not given", "–"])
            continue
        size = spread([row["size"] for row in rows if row["size"] is not None])
        half = 1.96 * np.std(came, ddof=1) / len(came) ** 0.5
        share = f"{100 * np.mean(came):.1f} ± {100 * half:.1f}"
        lines.append([preset, str(len(came)), f"{size['median']:.2f}", share])
    return f"{said}\n\n{table(lines)}"


def cost(parts: dict[str, Any]) -> str:
    """Return what findings cost in trainings."""
    said = (
        "Cost, relative to training three dictionaries (diff-SAE, crosscoder, tuned-SAE) of the\n"
        "size that findings use (four latents per dimension, 300,000 tokens), with two threads.\n"
        "The cost comes on top of that training. With the detection limit there are at least\n"
        "three searches: one of the pair itself and two with planted features. The second of\n"
        "these trains a dictionary too:"
    )
    lines = [["preset", "training of three dictionaries, s", "findings", "with the limit"]]
    for preset in dict.fromkeys(row["preset"] for row in parts["costs"]["rows"]):
        rows = [row for row in parts["costs"]["rows"] if row["preset"] == preset]
        training = spread([row["training"] for row in rows])["median"]
        ratios = [
            "{median:.2f} ({low:.2f} to {high:.2f})".format(
                **spread([row[name] / row["training"] for row in rows])
            )
            for name in ("findings", "with_limit")
        ]
        lines.append([preset, f"{training:.1f}", *ratios])
    return f"{said}\n\n{table(lines)}"


def main() -> None:
    """Measure unless told otherwise, and write the page's tables."""
    if "--page" not in sys.argv:
        measure()
    parts = read_json(NUMBERS)["parts"]
    shown = {"rates": rates, "kinds": kinds, "nulls": nulls, "limits": held, "costs": cost}
    needs = {"kinds": "rates"}
    fill(
        PAGE,
        **{
            name: block(parts) if needs.get(name, name) in parts else ""
            for name, block in shown.items()
        },
    )


if __name__ == "__main__":
    main()
