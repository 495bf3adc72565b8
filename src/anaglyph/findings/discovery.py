"""From a store to typed findings: atoms of the difference, tested, located in both models, named.

The way: take a global map out (``align.py``), train a difference-SAE, fit the atoms that it and
random tokens lead to (``atoms.py``, ``stable.py``), test each over sequences (``significance.py``),
measure what either model has of it (``strengths.py``), and decide the kind (``kinds.py``).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from scipy.sparse import csc_matrix, csr_matrix

from anaglyph.core.files import temporary_folder
from anaglyph.core.progress import Progress, silent
from anaglyph.core.schemas import DetectionLimit, Finding
from anaglyph.core.settings import FindSettings
from anaglyph.core.stats import q_values
from anaglyph.dictionaries import Dictionary, Selection, Weights, get_method, train
from anaglyph.dictionaries.initial import survey
from anaglyph.findings.align import Alignment, align
from anaglyph.findings.atoms import Atoms, energies, support
from anaglyph.findings.kinds import Change, changes
from anaglyph.findings.limit import detection_limit
from anaglyph.findings.nil import NOISE
from anaglyph.findings.sample import Sample, column_medians, load_sample
from anaglyph.findings.shift import Shift, measure_shift
from anaglyph.findings.shown_by import cheap_directions, shown_by
from anaglyph.findings.significance import p_values
from anaglyph.findings.stable import stable_atoms
from anaglyph.findings.strengths import Strengths, measure_strengths
from anaglyph.store import PairedStore

LATENTS_A_DIMENSION = 4
MOST_LATENTS = 1024
K = 1.0
TOKENS, READINGS = 300_000, 16
"""What the difference-SAE is trained on: so many tokens, but none more often than that."""
BATCH = 1024
_OWN = "diff-sae"
EXCLUSIVE = ("new", "removed")
"""The kinds that are named of two models without common coordinates."""


@dataclass(frozen=True)
class Discovery:
    """What a store shows."""

    findings: tuple[Finding, ...]
    """Largest share of the difference first."""
    dictionary: Dictionary | None
    """The findings' atoms as latents of a difference dictionary; None if there are none, or if the
    base had to be mapped into the tuned model's space first."""
    atoms: tuple[int | None, ...]
    """Each finding's latent in ``dictionary``; None for a mean shift."""
    alignment: Alignment | None
    limit: DetectionLimit | None
    """What could have been seen; None if it was not asked for or cannot be said."""
    like_noise: frozenset[int] = frozenset()
    """Findings, by index, that are no more than noise in the weights shows (``decoys.py``)."""
    unasked: str | None = None
    """Why that could not be asked of a pair of models."""
    left_out: str | None = None
    """What was seen and not named, for two models without common coordinates."""
    unread: str | None = None
    """Why the findings are not compared with what changed weights write (``baselines.py``)."""
    codes: csc_matrix | None = None
    """How strongly each atom fires, tokens by atoms."""
    tokens: Int64[ndarray, " tokens"] | None = None
    """Index in the store of each of these tokens."""


def discover(
    store: PairedStore,
    settings: FindSettings,
    seed: int,
    *,
    dictionaries: Mapping[str, Dictionary] | None = None,
    progress: Progress = silent,
) -> Discovery:
    """Find what differs; see `find`. With trials, measure what could have been seen (`limit.py`).

    The starting points are the latents of the given difference dictionaries, or of one trained
    here, and draws of random tokens (``stable.py``).
    """
    sample, rate = load_sample(store, seed), settings.rate
    alignment = align(sample.base, sample.tuned, sample.heldout, related=store.related)
    if alignment is not None:
        sample = replace(sample, base=alignment(sample.base))
    given = dict(dictionaries or {})
    starts = [] if alignment else [d for d in given.values() if d.spec.sources == ("difference",)]
    if not starts:
        if alignment is None:
            own = _trained(store, seed, progress)
        else:
            with _stored(sample) as mapped:
                own = _trained(mapped, seed, progress)
        starts = [own]
        given.setdefault(_OWN, own)
    delta = sample.tuned - sample.base
    floor = NOISE[store.dtype] * float(np.sqrt(np.square(sample.tuned).mean()))
    rows = [dic.decoder[0].numpy() for dic in starts]
    atoms, again = stable_atoms(delta[~sample.heldout], rows, floor, seed)
    limit = None
    if settings.trials:

        def start(tuned: ndarray) -> ndarray:
            with _stored(replace(sample, tuned=tuned)) as spiked:
                return _trained(spiked, seed).decoder[0].numpy()

        limit = detection_limit(sample, atoms, settings, floor, seed, start)
    codes = atoms.codes(delta)
    shift = measure_shift(sample, delta, support(codes)[0])
    p = p_values(delta, sample.sequences, atoms, codes)
    # One family: a mean shift is one more thing that could be called by mistake.
    q = q_values(np.append(p, [] if shift is None else [shift.p_value]))
    sure = q[: len(p)] <= rate
    tested = _Tested(
        Atoms(atoms.directions[sure], atoms.offset, atoms.noise),
        codes[:, sure].tocsr(),
        p[sure],
        q[: len(p)][sure],
        again[sure],
    )
    findings = _of_atoms(sample, delta, tested, given, alignment, seed)
    if shift is not None and q[-1] <= rate:
        share = shift.norm[0] ** 2 / max(float(np.square(delta).sum(1).mean()), 1e-30)
        findings.append((_shift_finding(shift, float(q[-1]), share), None))
        findings.sort(key=lambda row: -row[0].evidence["difference_share"])
    left_out = None
    if store.d_base != store.d_tuned or not store.related:
        # The map between the models is only as good as a rotation and one scale: what differs in
        # strength or angle may be the map's fault. What one model lacks is not.
        kept = [row for row in findings if row[0].kind in EXCLUSIVE]
        if len(kept) < len(findings):
            left_out = (
                f"{len(findings) - len(kept)} differences of strength or angle are not named: two"
                " models without common coordinates have no common measure of them"
            )
        findings = kept
    plain = None
    if alignment is None and len(tested.atoms.directions):
        plain = _as_dictionary(store, tested.atoms, seed)
    return Discovery(
        tuple(finding.model_copy(update={"layers": (store.layer,)}) for finding, _ in findings),
        plain,
        tuple(atom for _, atom in findings),
        alignment,
        limit,
        left_out=left_out,
        codes=csc_matrix(tested.codes),
        tokens=sample.tokens,
    )


class _Tested(NamedTuple):
    """The atoms that passed the test, their codes, and how sure and how stable each is."""

    atoms: Atoms
    codes: csr_matrix
    p: Float[ndarray, " atoms"]
    q: Float[ndarray, " atoms"]
    again: Float[ndarray, " atoms"]


def _of_atoms(
    sample: Sample,
    delta: Float[ndarray, "tokens d"],
    tested: _Tested,
    dictionaries: Mapping[str, Dictionary],
    alignment: Alignment | None,
    seed: int,
) -> list[tuple[Finding, int | None]]:
    """Return the findings of the atoms with the atom of each, largest share first."""
    atoms, codes = tested.atoms, tested.codes
    if not len(atoms.directions):
        return []
    strengths = measure_strengths(sample, atoms, codes)
    counts = support(codes)[1]
    total = float(np.square(delta - column_medians(delta), dtype=np.float64).sum())
    share = energies(codes) / max(total, 1e-30)
    cheap = cheap_directions(delta)
    found: list[tuple[float, Finding, int | None]] = []
    for change in changes(sample, atoms, csc_matrix(codes), strengths, seed):
        rows = list(change.atoms)
        facts = {
            "p_value": float(tested.p[rows].max()),
            "difference_share": float(share[rows].sum()),
            "found_again": float(tested.again[rows].min()),
            "active_tokens": int(counts[rows].sum()),
            "fires": float(counts[rows].sum()) / len(delta),
            **_evidence(change, strengths),
        }
        q_value = float(tested.q[rows].max())
        finding = _finding(change, q_value, facts, atoms, dictionaries, cheap, alignment)
        found.append((facts["difference_share"], finding, rows[0]))
    found.sort(key=lambda row: -row[0])
    return [(finding, atom) for _, finding, atom in found]


def _trained(store: PairedStore, seed: int, progress: Progress = silent) -> Dictionary:
    """Train a difference-SAE."""
    return train(
        store,
        _OWN,
        latents=min(MOST_LATENTS, LATENTS_A_DIMENSION * store.d_tuned),
        k=K,
        tokens=min(TOKENS, READINGS * store.n_tokens),
        batch=BATCH,
        seed=seed,
        device="cpu",  # small, and the rest of the search is on the CPU
        progress=progress,
    )


@contextmanager
def _stored(sample: Sample) -> Iterator[PairedStore]:
    """Put activations into a store that is gone afterwards."""
    with temporary_folder() as folder:
        yield PairedStore.from_arrays(
            sample.base, sample.tuned, Path(folder) / "store", sequence_ids=sample.sequences
        )


def _as_dictionary(store: PairedStore, atoms: Atoms, seed: int) -> Dictionary:
    method = get_method("diff-sae")
    directions = torch.from_numpy(atoms.directions)
    weights = Weights(
        (directions,),
        torch.zeros(len(directions)),
        (directions,),
        (torch.from_numpy(atoms.offset),),
    )
    radii = survey(store, method, seed).radii
    selection = Selection(k=1.0, threshold=atoms.threshold, radii=radii)
    return Dictionary(method, weights, selection)


def _finding(
    change: Change,
    q_value: float,
    facts: dict[str, Any],
    atoms: Atoms,
    dictionaries: Mapping[str, Dictionary],
    cheap: Mapping[str, Float[ndarray, "_ d"]],
    alignment: Alignment | None,
) -> Finding:
    base, tuned = change.direction_base, change.direction_tuned
    if base is not None and alignment is not None:
        base = alignment.back(base)
    difference = atoms.directions[change.atoms[0]]
    latents, seen = shown_by(dictionaries, cheap, difference, {"base": base, "tuned": tuned})
    value, low, high = change.effect
    before = change.frequency_base or (None, None, None)
    after = change.frequency_tuned or (None, None, None)
    return Finding(
        kind=change.kind,
        direction_base=_plain(base),
        direction_tuned=_plain(tuned),
        effect=value,
        low=low,
        high=high,
        q_value=q_value,
        frequency_base=before[0],
        frequency_base_low=before[1],
        frequency_base_high=before[2],
        frequency_tuned=after[0],
        frequency_tuned_low=after[1],
        frequency_tuned_high=after[2],
        latents=latents,
        evidence=facts | {"agreement": seen},
        direction=None if alignment is not None else _plain(difference),
    )


def _evidence(change: Change, strengths: Strengths) -> dict[str, Any]:
    atom = change.atoms[0]
    facts: dict[str, Any] = {}
    for name in ("beta_base", "beta_tuned", "share"):
        estimate = getattr(strengths, name)
        facts |= {
            name: float(estimate.value[atom]),
            f"{name}_low": float(estimate.low[atom]),
            f"{name}_high": float(estimate.high[atom]),
        }
    if change.elsewhere is not None:
        facts |= {
            "elsewhere": float(change.elsewhere.relative.value[0]),
            "elsewhere_deviations": float(change.elsewhere.deviations),
            "context_overlap": change.elsewhere.overlap,
        }
    return facts


def _shift_finding(shift: Shift, q_value: float, share: float) -> Finding:
    value, low, high = shift.norm
    return Finding(
        kind="mean-shift",
        direction_base=None,
        direction_tuned=_plain(shift.direction),
        effect=value,
        low=low,
        high=high,
        q_value=q_value,
        frequency_tuned=1.0,
        direction=_plain(shift.direction),
        evidence={
            "p_value": shift.p_value,
            "relative_norm": shift.relative,
            "difference_share": share,
        },
    )


def _plain(direction: ndarray | None) -> tuple[float, ...] | None:
    if direction is None:
        return None
    exact = direction.astype(np.float64)
    return tuple((exact / np.linalg.norm(exact)).tolist())
