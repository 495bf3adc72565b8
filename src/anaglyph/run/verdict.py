"""The run's verdict: what the findings say at the layer, and whether anything lies behind it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from anaglyph.behaviour.outputs import output_kl
from anaglyph.findings import (
    DIFFERENCE,
    NO_DIFFERENCE,
    TRIALS,
    Verdict,
    conclude,
    discover_in_models,
    foremost,
    nothing,
    with_baselines,
)

if TYPE_CHECKING:
    from anaglyph.run.stages import Workbench

# KL, nats a token, below which two computations of one distribution may differ by rounding.
OUTPUT_NOISE = 1e-8
# A real fine-tune moves a little of everything; nobody reads further.
MOST_FINDINGS = 30


def verdict_of(bench: "Workbench", names: Sequence[str]) -> Verdict:
    """Judge a run by its dictionaries' tables and causal tables."""
    rate, seed = bench.config.rate, bench.config.seed
    if bench.is_nil:
        verdict = nothing(bench.store, rate, seed)
    else:
        found, recovered = discover_in_models(
            bench.pair,
            bench.corpus,
            bench.store,
            rate,
            seed,
            most=bench.config.candidates,
            max_tokens=bench.config.causal_tokens,
            dictionaries={name: bench.dictionary(name) for name in names},
            trials=TRIALS,
            progress=bench.progress,
        )
        found = with_baselines(
            bench.pair,
            bench.corpus,
            bench.store.layer,
            found,
            seed=seed,
            max_tokens=bench.config.causal_tokens,
            progress=bench.progress,
        )
        order = foremost(found, recovered)
        verdict = conclude(
            bench.store,
            found,
            order[:MOST_FINDINGS],
            rate,
            seed,
            recovered=recovered,
            progress=bench.progress,
        )
    for finding in (*verdict.findings, *verdict.like_noise):
        for example in finding.examples:
            bench.add_text(example)
    if bench.is_nil and not bench.pair.same_weights:
        return _after_the_layer(bench, verdict)
    if verdict.verdict == NO_DIFFERENCE and not bench.is_nil:
        # A silence over few texts can be want of power; how much behaviour differs says what for.
        said = f"{verdict.reason}; their predictions differ by {_kl(bench):.3g} nats a token"
        return verdict.model_copy(update={"reason": said})
    return verdict


def _kl(bench: "Workbench") -> float:
    """Return the KL between the models' predictions on held-out text, nats a token."""
    kl = output_kl(
        bench.pair,
        bench.corpus,
        seed=bench.config.seed,
        max_tokens=bench.config.causal_tokens,
        progress=bench.progress,
    )
    return kl.value or 0.0


def _after_the_layer(bench: "Workbench", verdict: Verdict) -> Verdict:
    """Where the layer shows nothing, ask whether the models still predict differently."""
    kl = _kl(bench)
    if kl <= OUTPUT_NOISE:
        said = f"{verdict.reason}, and so are their predictions (KL {kl:.1g} nats)"
        return verdict.model_copy(update={"reason": said})
    said = (
        f"{verdict.reason}, yet their predictions differ by {kl:.3g} nats a token: "
        "the change lies in later layers; diff a later one"
    )
    return verdict.model_copy(update={"verdict": DIFFERENCE, "reason": said})
