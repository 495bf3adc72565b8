"""The run's verdict: what the findings say at the layer, and whether anything lies behind it."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from anaglyph.causal import latent_kl, output_kl
from anaglyph.findings import DIFFERENCE, TRIALS, Discovery, Verdict, conclude, discover, nothing

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
        found = discover(
            bench.store,
            rate,
            seed,
            dictionaries={name: bench.dictionary(name) for name in names},
            trials=TRIALS,
            progress=bench.progress,
        )
        recovered = _recovered(bench, found)
        order = sorted(
            range(len(found.findings)), key=lambda i: (-(recovered.get(i) or -math.inf), i)
        )
        verdict = conclude(
            bench.store,
            found,
            order[:MOST_FINDINGS],
            rate,
            seed,
            recovered=recovered,
            progress=bench.progress,
        )
    for finding in verdict.findings:
        for example in finding.examples:
            bench.add_text(example)
    if bench.is_nil and not bench.pair.same_weights:
        return _after_the_layer(bench, verdict)
    return verdict


def _recovered(bench: "Workbench", found: Discovery) -> dict[int, float | None]:
    """Measure the KL that each of the largest findings closes alone, by index."""
    if found.dictionary is None:
        return {}
    atoms = [(i, atom) for i, atom in enumerate(found.atoms) if atom is not None]
    atoms = atoms[: bench.config.candidates]
    table = latent_kl(
        bench.pair,
        found.dictionary,
        bench.corpus,
        bench.run.state.layer,
        [atom for _, atom in atoms],
        seed=bench.config.seed,
        max_tokens=bench.config.causal_tokens,
        progress=bench.progress,
    )
    return dict(zip((i for i, _ in atoms), table["recovered"].to_list(), strict=True))


def _after_the_layer(bench: "Workbench", verdict: Verdict) -> Verdict:
    """Where the layer shows nothing, ask whether the models still predict differently."""
    kl = output_kl(
        bench.pair,
        bench.corpus,
        seed=bench.config.seed,
        max_tokens=bench.config.causal_tokens,
        progress=bench.progress,
    )
    if kl.value is None or kl.value <= OUTPUT_NOISE:
        said = f"{verdict.reason}, and so are their predictions (KL {kl.value or 0.0:.1g} nats)"
        return verdict.model_copy(update={"reason": said})
    said = (
        f"{verdict.reason}, yet their predictions differ by {kl.value:.3g} nats a token: "
        "the change lies in later layers; diff a later one"
    )
    return verdict.model_copy(update={"verdict": DIFFERENCE, "reason": said})
