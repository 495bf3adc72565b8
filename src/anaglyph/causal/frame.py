"""From sums over sequences to the rows of a causal table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float64

from anaglyph.causal.interventions import Intervention
from anaglyph.causal.measures import MEASURES
from anaglyph.causal.patching import Measured, Plan
from anaglyph.core import stats as intervals
from anaglyph.pair import ModelPair, Side
from anaglyph.subject import Subject

_VALUES = ("kl", "recovered", "kl_other", "nll", "top1")
SCHEMA = {
    "intervention": pl.String,
    "dictionary": pl.String,
    "n_latents": pl.Int64,
    **{f"{name}{end}": pl.Float64 for name in _VALUES[:2] for end in ("", "_low", "_high")},
    "tokens": pl.Int64,
    "sequences": pl.Int64,
    "formula": pl.String,
    "layer": pl.Int64,
    "into": pl.String,
    "positions": pl.String,
    "edited_at": pl.String,
    "l0": pl.Float64,
    "push": pl.Float64,
    **{f"{name}{end}": pl.Float64 for name in _VALUES[2:] for end in ("", "_low", "_high")},
}
UNPATCHED = {"base": "tuned model", "tuned": "base model"}
"""By the model that is patched: the row of the other model as it is."""


def frame_of(
    subject: Subject,
    plan: Plan,
    measured: Measured,
    positions: Sequence[str],
    floor: float | None = None,
) -> pl.DataFrame:
    """Return one row an intervention and position, the baseline and the other model first.

    Args:
        subject: Both models, and the seed of the bootstrap.
        plan: What was put in where.
        measured: What came of it.
        positions: The places whose predictions count.
        floor: KL per token up to which the unpatched gap is numerical noise (see `noise`). Measured
            by the plan's first intervention if None, which must then be the exact activation.
    """
    if floor is None:
        floor = noise(subject.pair, plan.into, measured.exact_kl)
    start = {"tuned": "h_base", "base": "h_tuned"}[plan.into]
    other = UNPATCHED[plan.into]
    shared = {"layer": plan.layer, "into": plan.into}
    rows: list[tuple[dict[str, Any], np.ndarray]] = [
        ({"intervention": "none", "formula": start, "edited_at": "all"}, measured.none),
        ({"intervention": other, "formula": f"{other}, unpatched"}, measured.other),
    ]
    for number, edit in enumerate(plan.interventions):
        names = _names(edit, plan) | {"push": float(measured.push[number])}
        if edit.latents is not None:
            names["l0"] = float(measured.active[number])
        rows.append((names, measured.edited[number]))
    records = []
    for place, position in enumerate(positions):
        kept = measured.tokens[place] > 0
        draws = intervals.sequence_draws(int(kept.sum()), subject.seed) if kept.any() else None
        none = measured.none[0, place, kept]
        nil = none.sum() <= floor * measured.tokens[place].sum()
        for names, sums in rows:
            record = names | shared | {"positions": position, "sequences": int(kept.sum())}
            record["tokens"] = int(measured.tokens[place].sum())
            undefined = nil or names["intervention"] == other
            values = None if draws is None else _values(measured, place, kept, sums, draws)
            for name in _VALUES:
                found = intervals.Interval(None, None, None)
                if values is not None and draws is not None:
                    if name != "recovered":
                        found = values[name]
                    elif not undefined:
                        found = intervals.recovered(sums[0, place, kept], none, draws)
                record |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
            records.append(record)
    return pl.DataFrame(records, schema=SCHEMA)


def noise(pair: ModelPair, into: Side, exact: float) -> float:
    """Return the KL per token, nats, up to which the unpatched gap counts as numerical noise.

    Ten times what is left when h_tuned itself is put in (ideally 0), and what rounding each logit
    by eight units of the model's precision would give (KL is quadratic in it).
    """
    with pair.side(into) as model:
        precision = torch.finfo(model.dtype).eps
    return max(10 * exact, (8 * precision) ** 2)


def _values(
    measured: Measured,
    place: int,
    kept: np.ndarray,
    sums: np.ndarray,
    draws: Float64[np.ndarray, "draws sequences"],
) -> dict[str, intervals.Interval]:
    values = {}
    for number, name in enumerate(MEASURES):
        tokens = (measured.followed if name == "nll" else measured.tokens)[place, kept]
        values[name] = intervals.mean_kl(sums[number, place, kept], tokens, draws)
    return values


def _names(edit: Intervention, plan: Plan) -> dict[str, Any]:
    dic = plan.dictionary if edit.of_dictionary else None
    return {
        "intervention": edit.name,
        "dictionary": None if dic is None else dic.method,
        "n_latents": edit.n_latents,
        "formula": edit.formula,
        "edited_at": edit.at,
    }
