"""What looks that need no dictionary say of a finding: the weights' change, and where KL lies.

They are evidence beside the findings, not part of the decision: where a finding's direction is one
that a changed weight matrix writes, or its tokens are those at which predictions differ most, the
cheap look would have led there too.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from anaglyph.behaviour.outputs import kept_gap, kl_by_token
from anaglyph.core.errors import InputError, ModelError
from anaglyph.core.settings import FindSettings
from anaglyph.dictionaries import Dictionary
from anaglyph.direct.weights import directions, weight_changes
from anaglyph.findings.discovery import Discovery
from anaglyph.findings.texts import Texts
from anaglyph.subject import Subject

A_MATRIX = 3
"""Singular directions of a weight matrix's change that a finding is compared with."""


def with_baselines(
    subject: Subject, found: Discovery, settings: FindSettings, texts: Texts | None = None
) -> Discovery:
    """Return the findings with what cheap looks say of each in its evidence.

    Added are, to ``agreement``, "weight directions": the largest cosine (of either sign) with the
    leading directions that changed matrices write up to the layer; null where the change of a
    weight cannot be had from the models' files (`Discovery.unread` says why). And ``kl_here`` and
    ``kl_elsewhere``: mean KL of the models' predictions, nats a token, where the finding fires on
    held-out text and on all other tokens; null where there are none. Nothing is added to findings
    in a space that the base had to be mapped into, nor to mean shifts, which fire everywhere.

    Args:
        subject: Both models and their text; held-out sequences are used.
        found: The findings.
        settings: On how many held-out tokens.
        texts: On which held-out texts; without them some are drawn at random.

    Raises:
        InputError: The corpus has no held-out sequence.
    """
    dic = found.dictionary
    if dic is None:
        return found
    cosines, unread = None, None
    try:
        cosines = _written(subject, dic)
    except (InputError, ModelError) as error:
        # An adapter that is no product of two matrices, say: the run itself does not need this.
        unread = f"findings are not compared with what the changed weights write: {error}"
    if texts is None:
        drawn = subject.corpus.draw_heldout(settings.find_tokens, subject.seed)
        texts = Texts(drawn, np.ones(len(drawn)))
    known = kept_gap(subject, settings.find_tokens).by_token
    here, elsewhere = _kl(subject, dic, texts, known)
    findings = []
    for finding, atom in zip(found.findings, found.atoms, strict=True):
        if atom is not None:
            seen = finding.evidence["agreement"] | {
                "weight directions": None if cosines is None else float(cosines[atom])
            }
            facts = {"agreement": seen, "kl_here": here[atom], "kl_elsewhere": elsewhere[atom]}
            finding = finding.model_copy(update={"evidence": finding.evidence | facts})
        findings.append(finding)
    return replace(found, findings=tuple(findings), unread=unread)


def _written(subject: Subject, dic: Dictionary) -> Float64[ndarray, " atoms"]:
    """Return each atom's largest cosine with what the changed weights write up to the layer."""
    names, last = subject.pair.names, subject.layer
    changes = list(
        weight_changes(*names, rank=A_MATRIX, last_block=last, progress=subject.progress)
    )
    found = directions(changes, per_matrix=A_MATRIX)
    rows = [each.vector.double().numpy() for each in found if each.side == "writes"]
    atoms = dic.decoder[0].double().numpy()
    if not rows:
        return np.zeros(len(atoms))
    return np.abs(atoms @ np.stack(rows).T).max(1)


def _kl(
    subject: Subject, dic: Dictionary, texts: Texts, known: Mapping[int, ndarray]
) -> tuple[list[float | None], list[float | None]]:
    """Return mean KL at the tokens where each atom fires, and at all others.

    ``known`` is the KL at each token of the texts that were read before; others are read now.
    """
    corpus = subject.corpus
    new = np.array([i for i in texts.sequences.tolist() if i not in known], np.int64)
    known = {**known, **kl_by_token(subject, new)}
    tokens = np.concatenate([np.arange(*corpus.offsets[i : i + 2]) for i in texts.sequences])
    kl = np.concatenate([known[i] for i in texts.sequences.tolist()])
    counted = np.repeat(texts.weights, corpus.lengths[texts.sequences])
    fires = dic.encode(*subject.store.gather(tokens)).dense(dic.n_latents) > 0
    sums, counts = (
        np.stack([values @ there for there in (fires, ~fires)])
        for values in (counted * kl, counted)
    )
    here, elsewhere = (
        [float(total / count) if count else None for total, count in zip(*each, strict=True)]
        for each in zip(sums, counts, strict=True)
    )
    return here, elsewhere
