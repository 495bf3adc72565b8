"""The claims of the post, judged on planted pairs over seeds: docs/claims.json and claims.md.

    python benchmarks/claims.py --out docs [--page]

--page only writes the page again, from the JSON.

A claim has several checks. A check is a number per seed that is above zero if the claim holds; both
sides of a comparison share the seed. It passes if the whole 95% interval of its mean (Student's t)
is above zero. If all checks pass, the claim is reproduced; if some do, partly; if none, not
reproduced. We chose settings and checks after looking at seeds 0 and 1, so the page uses others.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from claim_page import build_claims
from claim_trials import BATCH, DEFAULT_MU, PAIRS, RATIOS, SEARCH, run_trials

from anaglyph.cli.terminal import Bars
from anaglyph.core.errors import InputError
from anaglyph.core.files import write_json
from anaglyph.core.progress import Progress, silent
from anaglyph.core.stats import mean_interval

FACTOR = 3
"""Minimum ratio of the false share of L1 to that of BatchTopK."""
KEPT = 0.9
"""Meaning of "still works": minimum share of the larger dictionary's FVE."""
SEARCHED = ("l0", "fve", "tuned_only", "false_tuned_only", "shrunk", "recall_new")
Values = Sequence[float | int | None]


def measure_claims(
    seeds: Sequence[int], *, tokens: int = 300_000, progress: Progress = silent
) -> dict[str, Any]:
    """Train, score and judge; return everything for the page as plain values.

    Args:
        seeds: Seeds of pairs and trainings; an interval needs two.
        tokens: Training tokens of each dictionary, with repeats.
        progress: Called after each pair.

    Raises:
        InputError: Fewer than two seeds.
    """
    if len(seeds) < 2:
        raise InputError(f"claims: {len(seeds)} seeds give no interval, take at least 2")
    started = time.process_time()
    runs = run_trials(seeds, tokens=tokens, progress=progress)
    return facts(runs, tokens, time.process_time() - started)


def facts(runs: pl.DataFrame, tokens: int, seconds: float) -> dict[str, Any]:
    """Return the contents of the page from the rows of `run_trials`.

    Args:
        runs: The rows of all seeds.
        tokens: Training tokens of each dictionary.
        seconds: Processor time of the runs.
    """
    return {
        "seeds": sorted(runs["seed"].unique()),
        "tokens": tokens,
        "batch": BATCH,
        "seconds": seconds,
        "trainings": runs.height,
        "pairs": PAIRS,
        "ratios": RATIOS,
        "default_mu": DEFAULT_MU,
        "factor": FACTOR,
        **judge(runs),
    }


def judge(runs: pl.DataFrame) -> dict[str, Any]:
    """Turn the rows of `run_trials` into `search`, `best` and `claims`.

    `search` has a row per penalty and side. `exceeding` lists the penalties at which the false
    share of L1 is more than three times that of BatchTopK, with its whole interval. `best` is the
    penalty at which the L1 crosscoder is best by the truth. A claim has `says`, `figures`, `checks`
    and `verdict`.
    """
    shrinkage = runs.filter(pair="shrinkage")
    points = SEARCH["shrinkage"]
    best = max(points, key=lambda point: _goodness(_side(shrinkage, "l1", point)))
    default = ("squared", DEFAULT_MU)
    search = [
        {"norm": point[0], "mu": point[1], "entrant": side}
        | {name: interval(_side(shrinkage, side, point)[name].to_list()) for name in SEARCHED}
        | {"false_share": interval(_false_share(_side(shrinkage, side, point)))}
        | {
            f"auroc_{name}": interval(_side(shrinkage, side, point)[f"auroc_{name}"].to_list())
            for name in ("delta_norm", "nu_error")
        }
        for point in points
        for side in ("l1", "batchtopk")
    ]
    return {
        "search": search,
        "exceeding": [
            {"norm": norm, "mu": mu}
            for norm, mu in points
            if _exceeds(
                _false_share(_side(shrinkage, "l1", (norm, mu))),
                _false_share(_side(shrinkage, "batchtopk", (norm, mu))),
            )["holds"]
        ],
        "best": {"norm": best[0], "mu": best[1]},
        "true_l0": interval(_side(shrinkage, "l1", default)["true_l0"].to_list()),
        "claims": [
            *_artefacts(runs, {"default": default, "best": best}),
            *_comparisons(runs.filter(pair="scarce")),
        ],
    }


def _artefacts(runs: pl.DataFrame, points: dict[str, tuple[str, float]]) -> list[dict[str, Any]]:
    shrinkage, decoupling = runs.filter(pair="shrinkage"), runs.filter(pair="decoupling")
    sides = {
        (side, name): _side(shrinkage, side, point)
        for name, point in points.items()
        for side in ("l1", "batchtopk")
    }
    at = {"default": "default mu", "best": "mu best for L1"}
    titles = {"l1": "L1", "batchtopk": "BatchTopK"}

    def figures(label: str, column: str) -> dict[str, Values]:
        return {
            f"{label}, {titles[side]}, {at[name]}": rows[column].to_list()
            for (side, name), rows in sides.items()
        }

    shares = {key: _false_share(rows) for key, rows in sides.items()}
    both_models = {
        key: _sum(rows["confusion_shared_tuned-only"], rows["confusion_scaled_tuned-only"])
        for key, rows in sides.items()
    }
    twins = {
        side: _side(decoupling, side, points["default"])["decoupled"].to_list()
        for side in ("l1", "batchtopk")
    }
    l1 = {name: sides["l1", name] for name in points}
    return [
        _claim(
            "L1 crosscoders report tuned-only latents that are not specific to the tuned model",
            figures("tuned-only latents", "tuned_only")
            | figures("false tuned-only latents", "false_tuned_only")
            | {
                f"false share, {titles[side]}, {at[name]}": values
                for (side, name), values in shares.items()
            },
            {
                f"false share of L1 minus {FACTOR} times that of BatchTopK, {at[name]}": _less(
                    shares["l1", name], [_times(FACTOR, v) for v in shares["batchtopk", name]]
                )
                for name in points
            },
        ),
        _claim(
            "One cause is Complete Shrinkage: what the base has more weakly loses its base decoder",
            {
                f"tuned-only latents along features of both models, {titles[side]}, {at[name]}": v
                for (side, name), v in both_models.items()
            },
            {
                f"such latents, L1 minus BatchTopK, {at[name]}": _less(
                    both_models["l1", name], both_models["batchtopk", name]
                )
                for name in points
            },
        ),
        _claim(
            "Another cause is Latent Decoupling: a concept of both models is stored as twins",
            {
                f"tuned-only latents flagged for Latent Decoupling, {titles[s]}, default mu": v
                for s, v in twins.items()
            },
            {
                "flagged latents, L1": twins["l1"],
                "flagged latents, L1 minus BatchTopK": _less(twins["l1"], twins["batchtopk"]),
            },
        ),
        _claim(
            "Latent Scaling identifies the false ones: nu_error ranks an L1 crosscoder's latents "
            "better than Delta_norm",
            {
                f"AUROC of {score}, L1, {at[name]}": rows[f"auroc_{score}"].to_list()
                for name, rows in l1.items()
                for score in ("nu_error", "delta_norm")
            }
            | {
                f"share of the {which} tuned-only latents with nu_error >= 0.2, L1, {at[name]}": (
                    _flag_share(rows, which)
                )
                for name, rows in l1.items()
                for which in ("false", "true")
            },
            {
                f"AUROC of nu_error minus AUROC of Delta_norm, {at[name]}": _less(
                    rows["auroc_nu_error"].to_list(), rows["auroc_delta_norm"].to_list()
                )
                for name, rows in l1.items()
            }
            | {
                f"flagged share of the false minus that of the true, {at['default']}": _less(
                    _flag_share(l1["default"], "false"), _flag_share(l1["default"], "true")
                )
            },
        ),
        _claim(
            "BatchTopK avoids both",
            figures("tuned-only latents with nu_error >= 0.2", "shrunk")
            | figures("new features found", "recall_new"),
            {
                "tuned-only latents with nu_error >= 0.2, L1 minus BatchTopK, default mu": _less(
                    sides["l1", "default"]["shrunk"].to_list(),
                    sides["batchtopk", "default"]["shrunk"].to_list(),
                ),
                "flagged for Latent Decoupling, L1 minus BatchTopK, default mu": _less(
                    twins["l1"], twins["batchtopk"]
                ),
            },
        ),
    ]


def _comparisons(runs: pl.DataFrame) -> list[dict[str, Any]]:
    def of(entrant: str, column: str) -> list[float | None]:
        return runs.filter(entrant=entrant).sort("seed")[column].to_list()

    methods = ("crosscoder", "tuned-sae", "diff-sae")
    new = {method: of(method, "recall_new") for method in (*methods, "diff-sae x1", "diff-sae x8")}
    shared = {method: of(method, "recall_shared") for method in methods[:2]}
    gap = {method: _less(shared[method], new[method]) for method in shared}
    screened = of("base-sae", "screened_new")
    small, large = of("diff-sae x1", "fve"), of("diff-sae x8", "fve")
    return [
        _claim(
            "Tuned-SAE and diff-SAE find more tuned-specific features than the crosscoder",
            {f"new features found, {method}": new[method] for method in methods},
            {
                f"new features found, {method} minus crosscoder": _less(
                    new[method], new["crosscoder"]
                )
                for method in methods[1:]
            },
        ),
        _claim(
            "Screening a base-SAE by increase in activation finds fewer",
            {
                "new features found, base-SAE": screened,
                "features that grew found, base-SAE": of("base-sae", "screened_scaled"),
            },
            {
                f"new features found, {method} minus base-SAE": _less(new[method], screened)
                for method in methods
            },
        ),
        _claim(
            "Crosscoders prefer shared latents, and find specific ones only at higher frequency",
            {f"shared features found, {method}": v for method, v in shared.items()}
            | {f"new features found, {method}": new[method] for method in shared}
            | {
                f"mean frequency of the {kind} features found, crosscoder": of(
                    "crosscoder", f"frequency_{kind}"
                )
                for kind in ("new", "shared")
            },
            {
                "share of shared features found minus that of new, crosscoder": gap["crosscoder"],
                "the same difference, crosscoder minus tuned-SAE": _less(
                    gap["crosscoder"], gap["tuned-sae"]
                ),
                "frequency of new features found minus that of shared, crosscoder": _less(
                    of("crosscoder", "frequency_new"), of("crosscoder", "frequency_shared")
                ),
            },
        ),
        _claim(
            "A diff-SAE of expansion 1 still works",
            {f"FVE, {name}": of(name, "fve") for name in ("diff-sae x1", "diff-sae x8")}
            | {
                f"new features found, {name}": new[name]
                for name in ("diff-sae x1", "diff-sae x8", "crosscoder")
            },
            {
                f"FVE at expansion 1 minus {KEPT} of that at expansion 8": _less(
                    small, [_times(KEPT, value) for value in large]
                ),
                "new features found, diff-sae x1 minus the larger crosscoder": _less(
                    new["diff-sae x1"], new["crosscoder"]
                ),
            },
        ),
    ]


def _claim(
    says: str, figures: Mapping[str, Values], checks: Mapping[str, Values]
) -> dict[str, Any]:
    judged = [{"name": name} | _check(values) for name, values in checks.items()]
    holds = [check["holds"] for check in judged]
    verdict = "partly" if any(holds) else "not reproduced"
    return {
        "says": says,
        "figures": [{"name": name} | interval(values) for name, values in figures.items()],
        "checks": judged,
        "verdict": "reproduced" if all(holds) else verdict,
    }


def _check(values: Values) -> dict[str, Any]:
    found = interval(values)
    return found | {"holds": found["low"] is not None and found["low"] > 0}


def interval(values: Values) -> dict[str, Any]:
    """Return mean, low and high (95%, Student's t over seeds) and the number of seeds.

    Seeds without a value (None) do not count. With fewer than two there is no interval.
    """
    found = mean_interval(values)
    known = sum(value is not None for value in values)
    return {"mean": found.value, "low": found.low, "high": found.high, "seeds": known}


def _side(runs: pl.DataFrame, entrant: str, point: tuple[str, float]) -> pl.DataFrame:
    return runs.filter(entrant=entrant, norm=point[0], mu=point[1]).sort("seed")


def _exceeds(first: Values, second: Values) -> dict[str, Any]:
    """Return the check that the first is more than FACTOR times the second."""
    return _check(_less(first, [_times(FACTOR, value) for value in second]))


def _false_share(rows: pl.DataFrame) -> list[float | None]:
    """Return the share of tuned-only latents that are false; None if there are none."""
    counts = zip(rows["false_tuned_only"], rows["tuned_only"], strict=True)
    return [false / total if total else None for false, total in counts]


def _flag_share(rows: pl.DataFrame, which: str) -> list[float | None]:
    total = {"false": rows["false_tuned_only"], "true": rows["confusion_new_tuned-only"]}[which]
    counts = zip(rows[f"shrunk_{which}"], total, strict=True)
    return [flagged / number if number else None for flagged, number in counts]


def _goodness(rows: pl.DataFrame) -> float:
    """Return the mean over seeds of F1: new features found, true share of the tuned-only."""
    found = rows["recall_new"].to_list()
    true = [1.0 - (share if share is not None else 1.0) for share in _false_share(rows)]
    scores = [2 * p * r / (p + r) if p + r else 0.0 for p, r in zip(true, found, strict=True)]
    return float(np.mean(scores))


def _sum(first: pl.Series, second: pl.Series) -> list[float | None]:
    return (first + second).cast(pl.Float64).to_list()


def _times(factor: float | int, value: float | None) -> float | None:
    return None if value is None else factor * value


def _less(first: Values, second: Values) -> list[float | None]:
    pairs = zip(first, second, strict=True)
    return [None if a is None or b is None else float(a - b) for a, b in pairs]


def main() -> None:
    """Measure the claims and write `claims.json` and the page."""
    parser = argparse.ArgumentParser(description="Judge the claims of the post on planted pairs.")
    parser.add_argument("--out", type=Path, required=True, help="folder of claims.json, claims.md")
    parser.add_argument("--seeds", type=int, default=10, help="planted pairs and trainings of each")
    parser.add_argument("--first-seed", type=int, default=10, help="the first of the seeds")
    parser.add_argument("--tokens", type=int, default=300_000, help="training tokens, with repeats")
    parser.add_argument("--page", action="store_true", help="only write the page from the JSON")
    asked = parser.parse_args()
    file = asked.out / "claims.json"
    if not asked.page:
        numbers = range(asked.first_seed, asked.first_seed + asked.seeds)
        with Bars() as progress:
            result = measure_claims(numbers, tokens=asked.tokens, progress=progress)
        write_json(file, result | {"command": shlex.join(["python", *sys.argv])})
    print(build_claims(file, asked.out / "claims.md"))


if __name__ == "__main__":
    main()
