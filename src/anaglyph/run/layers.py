"""Which layers a run reads, if it is to choose them: `--layers auto`.

One pass without dictionaries, over the few texts of many in which the predictions differ most. At
each layer l let K(l) be the KL to the tuned model with the base's activation put in there: that
much of the change is formed up to l. Let R(l) be what 16 principal components of the difference,
fitted on every other text, close of K(l) in the rest, in nats a token: that much is formed and can
be read from few directions. The layers are the first at which R reaches 50%, 75% and 25% of its
largest value. The first of these is that of the dictionaries. Earlier layers show what the change
starts from, later ones what is formed last. The last block is left out: a direction of its output
is a change of single next tokens.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy import ndarray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from anaglyph.behaviour.outputs import kl_by_token
from anaglyph.causal import layer_sweep
from anaglyph.core.errors import AnaglyphError, InputError
from anaglyph.core.files import digest, read_json, write_json
from anaglyph.core.seals import signed, unsigned
from anaglyph.core.settings import CausalSettings
from anaglyph.core.validation import validate
from anaglyph.run.folder import LAYERS
from anaglyph.subject import Subject

READABLE = (0.5, 0.75, 0.25)
"""Shares of the most that can be read at any layer; the first layer to reach each is chosen."""
RANK = 16
READ, TOKENS = 4096, 512
"""Tokens that are searched for texts in which predictions differ, and of these on which edits are
judged; components are fitted on as many."""
MOST_LAYERS = 8
"""Layers that the pass visits, evenly spread over deeper models."""
NOTHING = 1e-8
"""Nats a token that rounding alone may give."""
CODE = 1
"""Raised by hand when another rule would choose."""


class Readable(BaseModel):
    """What the pass measured at one layer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: int = Field(description="The layer.")
    formed: FiniteFloat = Field(
        description="KL with the base's activation here, nats a token: formed up to this layer."
    )
    readable: FiniteFloat = Field(
        description="What the principal components of the difference close of it, nats a token."
    )
    mean: FiniteFloat = Field(description="What the mean difference closes of it, nats a token.")


class ChosenLayers(BaseModel):
    """The contents of layers.json: the layers of `--layers auto` and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = Field(description="Digest of all that determines the choice.")
    layers: tuple[int, ...] = Field(description="The layers, that of the dictionaries first.")
    reason: str = Field(description="The choice in a sentence.")
    measured: tuple[Readable, ...] = Field(description="What the pass measured, by layer.")


def chosen_layers(subject: Subject, folder: Path) -> ChosenLayers:
    """Return the layers that a run reads; what `layers.json` says is not measured again.

    Args:
        subject: Both models and the text.
        folder: The run folder.

    Raises:
        InputError: One model cannot be patched with the other's activations.
    """
    if not subject.pair.related or subject.pair.d_base != subject.pair.d_tuned:
        raise InputError(
            "layers: auto puts activations of one model into the other, and these two have no "
            "common coordinates; name the layers, such as --layers 5,10,15"
        )
    key = digest(
        {
            "pair": subject.pair.fingerprints,
            "corpus": subject.corpus.fingerprint,
            "computed": subject.computed,
            "code": CODE,
        }
    )
    kept = read_choice(folder)
    if kept is not None and kept.key == key:
        return kept
    measured = _measured(subject)
    layers, reason = choose(measured)
    chosen = ChosenLayers(key=key, layers=layers, reason=reason, measured=tuple(measured))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / LAYERS, signed(chosen.model_dump(mode="json")))
    return chosen


def choose(measured: list[Readable]) -> tuple[tuple[int, ...], str]:
    """Return the layers and the reason; what was measured is in the order of the layers.

    Example:
        >>> found = [Readable(layer=i, formed=9, readable=3 * i, mean=0) for i in range(4)]
        >>> choose(found)[0]
        (2, 3, 1)
    """
    most = max(each.readable for each in measured)
    if most <= NOTHING:
        layer = measured[len(measured) // 2].layer
        return (layer,), f"layer {layer}, the middle: nothing can be read of a change at any layer"
    firsts = [next(each for each in measured if each.readable >= x * most) for x in READABLE]
    chosen = {each.layer: each.readable / most for each in firsts}
    said = ", ".join(f"layer {layer} ({share:.0%})" for layer, share in chosen.items())
    reason = (
        f"{said}: the first at which {RANK} directions carry 50%, 75% and 25% of the most that "
        f"they carry at any layer ({most:.3g} nats a token)"
    )
    return tuple(chosen), reason


def _measured(subject: Subject) -> list[Readable]:
    depth, width = subject.pair.n_layers, subject.pair.d_tuned
    last = max(depth - 2, 0)
    visited = np.unique(np.linspace(0, last, min(last + 1, MOST_LAYERS)).round().astype(int))
    rank = min(RANK, width // 2)
    settings = CausalSettings(positions=("all",), edit_at=(), causal_tokens=TOKENS)
    swept = layer_sweep(
        subject, visited.tolist(), settings, ranks=(rank,), texts=_where_they_differ(subject)
    )
    found = []
    for layer in visited.tolist():
        rows = swept.filter(layer=layer)
        kl: dict[str, Any] = dict(rows.select("intervention", "kl").iter_rows())
        none = kl["none"]
        readable, mean = none - kl[f"pca rank {rank}"], none - kl["mean difference"]
        found.append(Readable(layer=layer, formed=none, readable=readable, mean=mean))
    return found


def _where_they_differ(
    subject: Subject,
) -> tuple[Int64[ndarray, " fitted"], Int64[ndarray, " judged"]]:
    """Return two halves of the texts in which predictions differ most a token.

    The user's seed plays no part: another seed reads the same activations.
    """
    corpus = subject.corpus
    drawn = corpus.draw(np.ones(corpus.n_sequences, bool), READ, seed=0)
    kl = kl_by_token(subject, drawn)
    mean = np.array([kl[sequence].mean() for sequence in drawn.tolist()])
    order = drawn[np.argsort(-mean, kind="stable")]
    taken = order[: max(int((corpus.lengths[order].cumsum() <= 2 * TOKENS).sum()), 2)]
    return np.sort(taken[1::2] if len(taken) > 1 else taken), np.sort(taken[::2])


def read_choice(folder: Path) -> ChosenLayers | None:
    """Read an earlier choice; None if there is none or it is damaged: it can be made again."""
    path = folder / LAYERS
    try:
        value = read_json(path) if path.is_file() else None
        return validate(ChosenLayers, unsigned(value, path)) if isinstance(value, dict) else None
    except AnaglyphError:
        return None
