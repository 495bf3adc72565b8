"""What random noise in the weights shows: decoys that a finding has to outdo.

Change every weight matrix at random and features come out a little stronger or weaker, everywhere
the same way: real differences of the activations, which no test on activations calls noise. So the
run makes a null pair: the base beside itself with noise in the weights that a fine-tune changed, as
much of it as moves the activations as far as the fine-tune did. The same search in it finds decoys.
A finding is called if it outdoes them in what the difference consists of and in what it does: its
share of the difference, times the KL between the two models that it closes alone, in nats a token.
Both are spread over orders of magnitude, so the logarithm x of the product is held against the
decoys' own by a predictive t-distribution,

    t = (x - mean) / (s sqrt(1 + 1/n)),  s^2 = (m s_0^2 + (n - 1) s_n^2) / (m + n - 1),

of m + n - 1 degrees of freedom, where s_n is the deviation of the n decoys. Few decoys can lie
close together by chance, so s is drawn toward s_0, which decoys have elsewhere, as if by m further
ones (the moderated t of Smyth 2004, section 3). Benjamini and Hochberg's procedure makes q-values.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray
from scipy.stats import t as student

from anaglyph.behaviour.null_pair import matched_null_pair
from anaglyph.core.devices import token_budget
from anaglyph.core.errors import InputError, ModelError
from anaglyph.core.progress import Progress, silent
from anaglyph.core.rng import rng
from anaglyph.core.schemas import Finding
from anaglyph.core.settings import FindSettings
from anaglyph.core.stats import q_values
from anaglyph.corpus import TokenCorpus, padded_batches
from anaglyph.findings.alone import Closed, closed_alone
from anaglyph.findings.discovery import Discovery, discover
from anaglyph.findings.sample import is_ordinary
from anaglyph.pair import ModelPair
from anaglyph.store import PairedStore
from anaglyph.subject import Subject

MOST_TOKENS = 100_000
"""Tokens the null pair reads at most, in whole sequences."""
MATCHED_ON = 2000
"""Tokens on which the noise is made to move activations as far as the fine-tune."""
FEWEST = 4
"""With fewer decoys, noise shows nothing to speak of, and there is nothing to hold findings to."""
DEVIATION, WORTH = 1.6, 4
"""Of the logarithms: what decoys have elsewhere, and how many decoys that counts for."""
LEAST = 1e-3
"""Of the KL between the two models of the null pair: closing less than that is closing nothing."""


@dataclass(frozen=True)
class Decoys:
    """What the search finds in the null pair."""

    findings: tuple[Finding, ...]
    closed: Mapping[int, Closed]
    """KL that each closes alone, by index, where it was measured."""
    scale: float
    """Norm of the noise in each weight matrix over that of the fine-tune's change."""


def compared_with_noise(
    subject: Subject, found: Discovery, closed: Mapping[int, Closed], settings: FindSettings
) -> Discovery:
    """Return the findings with what the decoys say of each; see `held_against`.

    Where no null pair can be made, `Discovery.unasked` says why.
    """
    if not found.findings:
        return found
    try:
        decoys = find_decoys(subject, settings)
    except (InputError, ModelError) as error:
        return replace(found, unasked=f"findings are not compared with weight noise: {error}")
    return held_against(found, closed, decoys, settings.rate)


def find_decoys(subject: Subject, settings: FindSettings) -> Decoys:
    """Search the null pair of a run.

    Args:
        subject: Both models, of one width, with the text and the activations of the run.
        settings: As in the run; no features are planted.

    Raises:
        InputError, ModelError: As in `change_norms` and `edit_kl`.
    """
    pair, corpus, store, seed = subject.pair, subject.corpus, subject.store, subject.seed
    layer, settings = store.layer, settings.model_copy(update={"trials": 0})
    order = rng(seed, "null pair text").permutation(corpus.n_sequences)
    read_so_far = np.cumsum(corpus.lengths[order])
    some = np.sort(order[: max(int(np.searchsorted(read_so_far, MATCHED_ON)), 1)])
    tokens = _tokens(corpus, some)
    base, tuned = (each.float().numpy() for each in store.gather(tokens))

    def moved(null: ModelPair) -> float:
        return _distance(base, _read(null, corpus, some, layer))

    null, scale = matched_null_pair(pair, moved, _distance(base, tuned), seed)
    chosen = np.sort(order[: max(int(np.searchsorted(read_so_far, MOST_TOKENS)), 1)])
    tokens = _tokens(corpus, chosen)
    base = store.gather(tokens)[0].float().numpy()
    noised = _read(null, corpus, chosen, layer, subject.progress)
    with tempfile.TemporaryDirectory() as folder:
        pretended = PairedStore.from_arrays(
            base,
            noised,
            Path(folder) / "null",
            token_ids=corpus.token_ids[tokens],
            sequence_ids=np.repeat(chosen, corpus.lengths[chosen]),
        )
        found = discover(pretended, settings, seed, progress=subject.progress)
        closed = closed_alone(subject.of_pair(null), found, settings)
    return Decoys(found.findings, closed, scale)


def held_against(
    found: Discovery, closed: Mapping[int, Closed], decoys: Decoys, rate: float
) -> Discovery:
    """Return the findings with what the decoys say of each, and which are no more than they.

    Args:
        found: What the run found.
        closed: How much KL a finding closes alone, by index.
        decoys: What the null pair shows.
        rate: False-discovery rate to keep.
    """
    p, q = beyond(found.findings, closed, decoys)
    findings = []
    for i, each in enumerate(found.findings):
        facts = each.evidence | {"p_value_among_decoys": None, "kl_closed": None}
        if i in closed:
            facts["kl_closed"] = closed[i].nats
        q_value = None
        if not np.isnan(p[i]):
            facts["p_value_among_decoys"] = float(p[i])
            q_value = max(float(q[i]), each.q_value or 0.0)
        findings.append(each.model_copy(update={"q_value": q_value, "evidence": facts}))
    like_noise = frozenset(np.flatnonzero(~(q <= rate)).tolist())
    return replace(found, findings=tuple(findings), like_noise=like_noise)


def beyond(
    findings: tuple[Finding, ...], closed: Mapping[int, Closed], decoys: Decoys
) -> tuple[Float64[ndarray, " findings"], Float64[ndarray, " findings"]]:
    """Return each finding's p-value and q-value for being no more than a decoy.

    Where KL was measured of some findings, only these are asked: the others are smaller, and have
    NaN. Where it could not be measured, of findings or of decoys, shares alone speak. What shifts
    every token is larger than what some tokens have: a shift among the decoys counts against
    shifts only.

    Args:
        findings: What the run found.
        closed: As in `held_against`.
        decoys: What the null pair shows.
    """
    values, noise = _log_shares(findings), _log_shares(decoys.findings)
    shift, noise_shift = _shifts(findings), _shifts(decoys.findings)
    asked = np.zeros(len(findings), bool)
    asked[list(closed)] = True
    if asked.any() and len(decoys.closed) >= FEWEST:
        put_through = list(decoys.closed)
        least = LEAST * next(iter(decoys.closed.values())).gap
        values[list(closed)] += _logs(closed.values(), least)
        noise = noise[put_through] + _logs(decoys.closed.values(), least)
        noise_shift = noise_shift[put_through]
    else:
        asked[:] = True
    p, q = np.full(len(findings), np.nan), np.full(len(findings), np.nan)
    p[asked & shift] = chance(values[asked & shift], noise)
    p[asked & ~shift] = chance(values[asked & ~shift], noise[~noise_shift])
    q[asked] = q_values(p[asked])
    return p, q


def _log_shares(findings: Sequence[Finding]) -> Float64[ndarray, " findings"]:
    return np.log(np.maximum([share_of(finding) for finding in findings], 1e-30))


def _shifts(findings: Sequence[Finding]) -> Bool[ndarray, " findings"]:
    return np.array([finding.kind == "mean-shift" for finding in findings], bool)


def _logs(closed: Iterable[Closed], least: float) -> Float64[ndarray, " closed"]:
    return np.log(np.maximum([each.nats for each in closed], least))


def chance(
    values: Float64[ndarray, " values"], decoys: Float64[ndarray, " decoys"]
) -> Float64[ndarray, " values"]:
    """Return the chance that one more decoy is at least as large as each value.

    What a value was measured with needs no allowance: the decoys were measured in the same way.
    """
    count = len(decoys)
    if count < FEWEST:
        return np.zeros(len(values))
    freedom = WORTH + count - 1
    variance = (WORTH * DEVIATION**2 + (count - 1) * decoys.var(ddof=1)) / freedom
    return student.sf((values - decoys.mean()) / np.sqrt(variance * (1 + 1 / count)), freedom)


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
