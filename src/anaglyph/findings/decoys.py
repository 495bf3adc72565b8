"""What random noise in the weights shows: decoys that a finding has to outdo.

Change every weight matrix at random and features come out a little stronger or weaker, everywhere
the same way: real differences of the activations, which no test on activations calls noise. So the
run makes null pairs: the base beside itself with noise in the weights that a fine-tune changed, as
much of it as moves the activations as far as the fine-tune did. The same search in them finds
decoys. A finding is called if it outdoes them in what the difference consists of and in what it
does: its share of the difference, times the KL that it closes in the texts in which it acts. Both
are spread over orders of magnitude, and a rare change is a small share of the difference however
strong it is where it fires. So the logarithm x of the product is held against the decoys' own at
the same frequency f, by a regression on z = log f and a predictive t-distribution,

    t = (x - a - b z) / (s sqrt(1 + 1/n + (z - mean z)^2 / (S + w))),

of m + n - 1 degrees of freedom, where S is the sum of squares of the n decoys' z. A few decoys say
little of the slope b, so it is drawn toward b_0 as by w = (s_0 / s_b)^2. They can lie close
together by chance, so their deviation is drawn toward s_0, which decoys have elsewhere, as if by m
further ones (the moderated t of Smyth 2004, section 3). Benjamini and Hochberg's procedure makes
q-values.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float64
from numpy import ndarray
from scipy.stats import t as student

from anaglyph.behaviour.null_pair import matched_null_pair
from anaglyph.core.devices import token_budget
from anaglyph.core.errors import InputError, ModelError
from anaglyph.core.files import temporary_folder
from anaglyph.core.progress import Progress, silent
from anaglyph.core.rng import rng
from anaglyph.core.schemas import Finding
from anaglyph.core.settings import FindSettings
from anaglyph.core.stats import q_values
from anaglyph.corpus import TokenCorpus, padded_batches
from anaglyph.findings.alone import Closed, closed_alone
from anaglyph.findings.discovery import Discovery, discover
from anaglyph.findings.sample import is_ordinary
from anaglyph.findings.texts import Firings, firing_counts
from anaglyph.pair import ModelPair
from anaglyph.store import PairedStore
from anaglyph.subject import Subject

MOST_TOKENS = 100_000
"""Tokens the null pair reads at most, in whole sequences."""
MATCHED_ON = 2000
"""Tokens on which the noise is made to move activations as far as the fine-tune."""
DEVIATION, WORTH = 1.6, 4
"""Of the logarithms: what decoys have elsewhere, and how many decoys that counts for."""
SLOPE, SLOPE_DEVIATION = 0.5, 0.25
"""Of the logarithms on that of the frequency: what is assumed, and how far it may be off."""
LEAST = 1e-3
"""Of the largest KL of a decoy: closing less than that is closing nothing."""
ENOUGH, MOST_DRAWS = 24, 3
"""Null pairs are drawn until there are so many decoys, but no more often than that."""


@dataclass(frozen=True)
class Decoys:
    """What the search finds in null pairs."""

    findings: tuple[Finding, ...]
    closed: Mapping[int, Closed]
    """KL that each closes alone, by index, where it was measured."""
    scale: float
    """Norm of the noise in each weight matrix over that of the fine-tune's change."""

    def and_more(self, other: "Decoys") -> "Decoys":
        """Return the decoys of both."""
        first = len(self.findings)
        moved = {first + i: each for i, each in other.closed.items()}
        return Decoys((*self.findings, *other.findings), {**self.closed, **moved}, self.scale)


def compared_with_noise(
    subject: Subject, found: Discovery, closed: Mapping[int, Closed], settings: FindSettings
) -> Discovery:
    """Return the findings with what the decoys say of each; see `held_against`.

    Where no null pair can be made, `Discovery.unasked` says why.
    """
    if not found.findings:
        return found
    try:
        decoys = pooled_decoys(subject, settings)
    except (InputError, ModelError) as error:
        return replace(found, unasked=f"findings are not compared with weight noise: {error}")
    return held_against(found, closed, decoys, settings.rate)


def pooled_decoys(subject: Subject, settings: FindSettings) -> Decoys:
    """Search null pairs of different noise until there are enough decoys; see `find_decoys`."""
    decoys = find_decoys(subject, settings)
    for draw in range(1, MOST_DRAWS):
        if len(decoys.findings) >= ENOUGH:
            break
        decoys = decoys.and_more(find_decoys(subject, settings, draw))
    return decoys


def find_decoys(subject: Subject, settings: FindSettings, draw: int = 0) -> Decoys:
    """Search a null pair of a run.

    Args:
        subject: Both models, of one width, with the text and the activations of the run.
        settings: As in the run; no features are planted.
        draw: Which noise; the text is the same for all.

    Raises:
        InputError, ModelError: As in `change_norms` and `closed_alone`.
    """
    pair, corpus, store, seed = subject.pair, subject.corpus, subject.store, subject.seed
    pair.check_related("a null pair")
    layer, settings = store.layer, settings.model_copy(update={"trials": 0})
    order = rng(seed, "null pair text").permutation(corpus.n_sequences)
    read_so_far = np.cumsum(corpus.lengths[order])
    some = np.sort(order[: max(int(np.searchsorted(read_so_far, MATCHED_ON)), 1)])
    tokens = _tokens(corpus, some)
    base, tuned = (each.float().numpy() for each in store.gather(tokens))

    def moved(null: ModelPair) -> float:
        return _distance(base, _read(null, corpus, some, layer))

    null, scale = matched_null_pair(pair, moved, _distance(base, tuned), seed + draw)
    chosen = np.sort(order[: max(int(np.searchsorted(read_so_far, MOST_TOKENS)), 1)])
    tokens = _tokens(corpus, chosen)
    base = store.gather(tokens)[0].float().numpy()
    noised = _read(null, corpus, chosen, layer, subject.progress)
    with temporary_folder() as folder:
        pretended = PairedStore.from_arrays(
            base,
            noised,
            Path(folder) / "null",
            token_ids=corpus.token_ids[tokens],
            sequence_ids=np.repeat(chosen, corpus.lengths[chosen]),
        )
        found = discover(pretended, settings, seed, progress=subject.progress)
    if found.dictionary is None:
        return Decoys(found.findings, {}, scale)
    own = chosen[corpus.heldout[chosen]]
    kept = np.repeat(corpus.heldout[chosen], corpus.lengths[chosen])
    before, after = (torch.from_numpy(each[kept]) for each in (base, noised))
    firings = Firings(own, firing_counts(found.dictionary, before, after, corpus.lengths[own]))
    alone = closed_alone(subject.of_pair(null), found, settings, firings)
    return Decoys(found.findings, {} if alone is None else alone.closed, scale)


def held_against(
    found: Discovery, closed: Mapping[int, Closed], decoys: Decoys, rate: float
) -> Discovery:
    """Return the findings with what the decoys say of each, and which are no more than they.

    A finding whose KL was only estimated is not called, whatever its q-value.

    Args:
        found: What the run found.
        closed: How much KL a finding closes alone, by index.
        decoys: What the null pairs show.
        rate: False-discovery rate to keep.
    """
    p, q = beyond(found.findings, closed, decoys)
    findings = []
    for i, each in enumerate(found.findings):
        facts = each.evidence | {"p_value_among_decoys": None, "decoys": len(decoys.findings)}
        facts |= _facts(closed.get(i))
        q_value = None
        if not np.isnan(p[i]):
            facts["p_value_among_decoys"] = float(p[i])
            q_value = max(float(q[i]), each.q_value or 0.0)
        findings.append(each.model_copy(update={"q_value": q_value, "evidence": facts}))
    only_estimated = {i for i, each in closed.items() if not each.measured}
    like_noise = frozenset(np.flatnonzero(~(q <= rate)).tolist()) | only_estimated
    return replace(found, findings=tuple(findings), like_noise=like_noise)


def _facts(closed: Closed | None) -> dict[str, float | None]:
    """Return what is told of the KL that a finding closes, nats."""
    names = {
        "kl_closed": "nats",
        "kl_closed_where_it_fires": "firing",
        "kl_closed_in_a_text": "acting",
        "kl_estimated": "estimate",
    }
    values = {name: getattr(closed, field, math.nan) for name, field in names.items()}
    if closed is not None and not closed.measured:
        values = dict.fromkeys(names, math.nan) | {"kl_estimated": closed.estimate}
    return {name: float(x) if math.isfinite(x) else None for name, x in values.items()}


def beyond(
    findings: tuple[Finding, ...], closed: Mapping[int, Closed], decoys: Decoys
) -> tuple[Float64[ndarray, " findings"], Float64[ndarray, " findings"]]:
    """Return each finding's p-value and q-value for being no more than a decoy.

    Where KL is known of some findings, only these are asked; the others have NaN. Where it could
    not be measured, of findings or of decoys, shares alone speak. What shifts every token is larger
    than what some tokens have: a shift among the decoys counts against shifts only, unless noise
    shows nothing but shifts.

    Args:
        findings: What the run found.
        closed: As in `held_against`.
        decoys: What the null pairs show.
    """
    asked = np.zeros(len(findings), bool)
    asked[list(closed)] = True
    known = list(decoys.closed)
    with_kl = bool(asked.any()) and bool(known)
    if not with_kl:
        asked[:], known = True, list(range(len(decoys.findings)))
    own = [findings[i] for i in np.flatnonzero(asked)]
    others = [decoys.findings[i] for i in known]
    values, noise = _log_shares(own), _log_shares(others)
    if with_kl:
        least = LEAST * max(each.acting for each in decoys.closed.values())
        values += _logs((closed[int(i)] for i in np.flatnonzero(asked)), least)
        noise += _logs(decoys.closed.values(), least)
    # A share grows with the frequency by itself; what a finding does where it acts need not.
    of = _log_frequencies if with_kl else _nothing
    at, noise_at = of(own), of(others)
    shift, noise_shift = _shifts(own), _shifts(others)
    found = np.zeros(len(own))
    every = np.ones(len(others), bool)
    for held, among in ((shift, every), (~shift, every if noise_shift.all() else ~noise_shift)):
        found[held] = chance(values[held], at[held], noise[among], noise_at[among])
    p, q = np.full(len(findings), np.nan), np.full(len(findings), np.nan)
    p[asked], q[asked] = found, q_values(found)
    return p, q


def _log_shares(findings: Sequence[Finding]) -> Float64[ndarray, " findings"]:
    return np.log(np.maximum([share_of(finding) for finding in findings], 1e-30))


def _log_frequencies(findings: Sequence[Finding]) -> Float64[ndarray, " findings"]:
    """Return the logarithm of the share of tokens at which each fires; a shift fires at all."""
    often = [float(finding.evidence.get("fires", 1.0)) for finding in findings]
    return np.log(np.maximum(often, 1e-6))


def _nothing(findings: Sequence[Finding]) -> Float64[ndarray, " findings"]:
    return np.zeros(len(findings))


def _shifts(findings: Sequence[Finding]) -> Bool[ndarray, " findings"]:
    return np.array([finding.kind == "mean-shift" for finding in findings], bool)


def _logs(closed: Iterable[Closed], least: float) -> Float64[ndarray, " closed"]:
    return np.log(np.maximum([each.acting for each in closed], max(least, 1e-30)))


def chance(
    values: Float64[ndarray, " values"],
    at: Float64[ndarray, " values"],
    decoys: Float64[ndarray, " decoys"],
    decoys_at: Float64[ndarray, " decoys"],
) -> Float64[ndarray, " values"]:
    """Return the chance that one more decoy of its frequency is at least as large as each value.

    What a value was measured with needs no allowance: the decoys were measured in the same way.
    Where noise shows no decoy at all, the chance is 0.

    Args:
        values: Logarithms of size.
        at: Logarithms of frequency of the same findings.
        decoys: Logarithms of size of decoys.
        decoys_at: Their logarithms of frequency.
    """
    count = len(decoys)
    if not count:
        return np.zeros(len(values))
    z, mean = decoys_at - decoys_at.mean(), decoys.mean()
    believed = (DEVIATION / SLOPE_DEVIATION) ** 2
    spread = float(z @ z) + believed
    slope = (float(z @ (decoys - mean)) + believed * SLOPE) / spread
    left = decoys - mean - slope * z
    freedom = WORTH + count - 1
    variance = (WORTH * DEVIATION**2 + float(left @ left)) / freedom
    away = at - decoys_at.mean()
    error = np.sqrt(variance * (1 + 1 / count + away**2 / spread))
    return student.sf((values - mean - slope * away) / error, freedom)


def share_of(finding: Finding) -> float:
    """Return the share of the difference that a finding is."""
    return float(finding.evidence["difference_share"])


def _tokens(corpus: TokenCorpus, sequences: ndarray) -> ndarray:
    return np.concatenate([np.arange(*corpus.offsets[i : i + 2]) for i in sequences])


def _read(
    null: ModelPair,
    corpus: TokenCorpus,
    sequences: ndarray,
    layer: int,
    progress: Progress = silent,
) -> ndarray:
    """Return the null pair's tuned activations, in the order of `_tokens`."""
    starts = np.cumsum(corpus.lengths[sequences]) - corpus.lengths[sequences]
    out = np.empty((int(corpus.lengths[sequences].sum()), null.d_tuned), np.float32)
    with null.side("tuned") as model:
        budget = token_budget(model.device)
    done = 0
    for rows, input_ids, mask in padded_batches(corpus, sequences, budget):
        stream = null.run_to("tuned", input_ids, mask, [layer])[layer]
        for row, sequence in enumerate(rows):
            length, at = int(corpus.lengths[sequence]), np.searchsorted(sequences, sequence)
            out[starts[at] : starts[at] + length] = stream[row, :length].float().cpu().numpy()
            done += length
        progress("read the null pair", done, len(out))
    return out


def _distance(base: ndarray, other: ndarray) -> float:
    """Return the root mean square length of the difference at ordinary tokens."""
    kept = is_ordinary(base, other)
    return float(np.sqrt(np.square(other[kept] - base[kept]).sum(1).mean()))
