"""The strongest examples of a latent, with the strength of its direction in each model.

Each example comes from another sequence, so one document cannot fill the list. An example has three
rows of numbers: the code, and how far each model's activation reaches along the latent's unit
decoder, measured from that model's typical activation. The last two share one scale, so where they
differ, the models differ.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy import ndarray

from anaglyph.core.errors import InputError
from anaglyph.core.progress import Progress, silent
from anaglyph.corpus import ROLES
from anaglyph.dictionaries import Dictionary
from anaglyph.latents.centre import typical_activations
from anaglyph.latents.norms import BASE_ONLY, delta_norm, norm_classes, row_norms
from anaglyph.latents.ordinary import ordinary_sizes
from anaglyph.latents.reading import check_widths, decoders_of, renumbered, scoring_codes
from anaglyph.latents.scaling import SIDES
from anaglyph.store import PairedStore

# Tokens of windows encoded at once; also bounds the matrix of those tokens by their latents.
_WINDOW_TOKENS = 16384


def top_examples(
    dic: Dictionary,
    store: PairedStore,
    latents: Sequence[int],
    n: int = 8,
    window: int = 24,
    *,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Return the strongest examples of some latents, ready for JSON.

    If several sequences begin with the same tokens, only the first reading is shown. Tokens of
    massive activation are ranked as if they had ordinary size (``ordinary.py``).

    Args:
        dic: The dictionary. A base-SAE is read on the tuned model, as in ``score``.
        store: Activations of the pair that the dictionary belongs to.
        latents: Which latents; the result keeps their order.
        n: Maximum number of examples per latent, each from another sequence, strongest first.
        window: Tokens shown before and after the peak, within its sequence.
        progress: Told after each block of tokens.

    Returns:
        For each latent ``{"latent", "examples"}`` (no examples if it never fired); each example is
        ``sequence`` (index in the store), ``start`` (position in the sequence of the first token
        shown), ``position`` (index of the peak among those shown), and lists with one entry a
        token: ``token_ids``, ``roles`` (names), ``code``, ``base`` and ``tuned``. The last two are
        ``<h^m - median(h^m), d> / ||d||`` in units of the activations, ``d`` the latent's decoder:
        the tuned one of a crosscoder, or the base one if the latent's class is base-only. A model
        of another width than ``d`` has nulls.

    Raises:
        InputError: The dictionary's widths are not the store's, or an argument is out of range.
    """
    chosen = np.asarray(latents, dtype=np.int64)
    if chosen.size and not 0 <= chosen.min() <= chosen.max() < dic.n_latents:
        wrong = chosen[(chosen < 0) | (chosen >= dic.n_latents)][0]
        raise InputError(f"latent {wrong} is not within 0 to {dic.n_latents - 1}")
    if np.unique(chosen).size != chosen.size:
        raise InputError("latents lists a latent twice: name each once")
    if n < 1 or window < 0:
        raise InputError(f"n={n} must be at least 1 and window={window} at least 0")
    check_widths(dic, store)
    row_of_latent = np.full(dic.n_latents, -1, dtype=np.int64)
    row_of_latent[chosen] = np.arange(chosen.size)
    directions, centres = _directions(dic, chosen), typical_activations(store)
    sizes = ordinary_sizes(store, centres)
    strongest = _search(dic, store, row_of_latent, sizes, chosen.size, n, progress)
    found: list[dict[str, Any]] = []
    step = max(1, _WINDOW_TOKENS // (n * (2 * window + 1)))
    for start in range(0, chosen.size, step):
        part = slice(start, start + step)
        view = _View(directions[part], centres, window)
        peaks = strongest.tokens[part], strongest.sequences[part]
        found += _show(dic, store, chosen[part], peaks, view)
    return found


class Strongest:
    """The ``n`` strongest firings so far of some latents, each from another sequence.

    Rows are latents, columns are ranks. Equal values are ordered by token, so the result does not
    depend on how the tokens are divided into batches.

    Attributes:
        values: float32 [latents, n], -inf where there are fewer.
        tokens: int64 [latents, n], global token index, -1 where there are fewer.
        sequences: int64 [latents, n].
    """

    values: Float32[ndarray, "latents n"]
    tokens: Int64[ndarray, "latents n"]
    sequences: Int64[ndarray, "latents n"]

    def __init__(self, n_latents: int, n: int):
        self.values = np.full((n_latents, n), -np.inf, dtype=np.float32)
        self.tokens = np.full((n_latents, n), -1, dtype=np.int64)
        self.sequences = np.full((n_latents, n), -1, dtype=np.int64)

    def update(
        self,
        rows: Int64[ndarray, " firings"],
        values: Float32[ndarray, " firings"],
        tokens: Int64[ndarray, " firings"],
        sequences: Int64[ndarray, " firings"],
    ) -> None:
        """Take in firings: the row of each, its code, its token and its sequence."""
        # Most firings do not beat the weakest kept one and can be skipped.
        better = values > self.values[rows, -1]
        if not better.any():
            return
        kept_rows, kept_ranks = np.nonzero(self.tokens >= 0)
        rows = np.concatenate([kept_rows, rows[better]])
        values = np.concatenate([self.values[kept_rows, kept_ranks], values[better]])
        tokens = np.concatenate([self.tokens[kept_rows, kept_ranks], tokens[better]])
        sequences = np.concatenate([self.sequences[kept_rows, kept_ranks], sequences[better]])

        order = np.lexsort((tokens, -values, sequences, rows))
        rows, values, tokens, sequences = (a[order] for a in (rows, values, tokens, sequences))
        first = np.ones(rows.size, dtype=bool)
        first[1:] = (rows[1:] != rows[:-1]) | (sequences[1:] != sequences[:-1])
        rows, values, tokens, sequences = (a[first] for a in (rows, values, tokens, sequences))

        order = np.lexsort((tokens, -values, rows))
        rows, values, tokens, sequences = (a[order] for a in (rows, values, tokens, sequences))
        ranks = np.arange(rows.size) - np.searchsorted(rows, rows)
        fits = ranks < self.values.shape[1]
        place = rows[fits], ranks[fits]
        self.values[place] = values[fits]
        self.tokens[place] = tokens[fits]
        self.sequences[place] = sequences[fits]


def _search(
    dic: Dictionary,
    store: PairedStore,
    row_of_latent: Int64[ndarray, " latents"],
    sizes: Float64[ndarray, " tokens"],
    n_rows: int,
    n: int,
    progress: Progress,
) -> Strongest:
    strongest = Strongest(n_rows, n)
    sequence_of_token, fresh = store.sequence_of_tokens(), store.first_readings()
    done = 0
    for block in store.blocks():
        codes = scoring_codes(dic, block.base, block.tuned)
        rows = row_of_latent[codes.indices]
        places = block.tokens[codes.tokens()]
        wanted = (rows >= 0) & (codes.values > 0) & fresh[places]
        tokens = places[wanted]
        # A massive token would be the strongest of every latent that fires there at all.
        values = codes.values[wanted] * sizes[tokens].astype(np.float32)
        strongest.update(rows[wanted], values, tokens, sequence_of_token[tokens])
        done += block.tokens.size
        progress("examples", done, store.n_tokens)
    return strongest


def _directions(
    dic: Dictionary, chosen: Int64[ndarray, " chosen"]
) -> list[Float64[ndarray, " _"] | None]:
    """Return the unit vector along which each latent is measured; None if its decoder is zero."""
    decoders = {source: matrix[chosen] for source, matrix in decoders_of(dic).items()}
    rows = list(next(iter(decoders.values())))
    if dic.spec.kind == "crosscoder":
        delta = delta_norm(row_norms(decoders["base"]), row_norms(decoders["tuned"]))
        sides = np.where(norm_classes(delta) == BASE_ONLY, "base", "tuned")
        rows = [decoders[side][row] for row, side in enumerate(sides)]
    lengths = [np.linalg.norm(row.astype(np.float64)) for row in rows]
    return [row / length if length else None for row, length in zip(rows, lengths, strict=True)]


class _View(NamedTuple):
    """What is shown around a peak: along which directions, from which zeros, how far."""

    directions: list[Float64[ndarray, " _"] | None]
    centres: tuple[Float32[ndarray, " d_base"], Float32[ndarray, " d_tuned"]]
    window: int


def _show(
    dic: Dictionary,
    store: PairedStore,
    latents: Int64[ndarray, " rows"],
    found: tuple[Int64[ndarray, "rows n"], Int64[ndarray, "rows n"]],
    view: _View,
) -> list[dict[str, Any]]:
    """Return the entries of ``latents``, given tokens (-1: none) and sequences of their peaks."""
    directions, centres, window = view
    peaks, sequences = found
    rows, ranks = np.nonzero(peaks >= 0)
    peaks, sequences = peaks[rows, ranks], sequences[rows, ranks]
    bounds = store.sequence_offsets
    first = np.maximum(peaks - window, bounds[sequences])
    last = np.minimum(peaks + window + 1, bounds[sequences + 1])
    spans = [np.arange(*ends) for ends in zip(first, last, strict=True)]
    shown: list[dict[str, Any]] = [{"latent": int(j), "examples": []} for j in latents]
    if not spans:
        return shown
    tokens = np.unique(np.concatenate(spans))
    base, tuned = store.gather(tokens)
    codes = renumbered(scoring_codes(dic, base, tuned), latents, dic.n_latents).dense(latents.size)
    centred = [
        activation.double().numpy() - centre
        for activation, centre in zip((base, tuned), centres, strict=True)
    ]
    for row, peak, sequence, span in zip(rows, peaks, sequences, spans, strict=True):
        local = np.searchsorted(tokens, span)
        direction = directions[row]
        strips = {
            side: _along(activation[local], direction)
            for side, activation in zip(SIDES, centred, strict=True)
        }
        shown[row]["examples"].append(
            {
                "sequence": int(sequence),
                "start": int(span[0] - bounds[sequence]),
                "position": int(peak - span[0]),
                "token_ids": store.token_ids[span].tolist(),
                "roles": [ROLES[code] for code in store.roles[span]],
                "code": codes[local, row].tolist(),
                **strips,
            }
        )
    return shown


def _along(
    activations: Float64[ndarray, "tokens _"], direction: Float64[ndarray, " _"] | None
) -> list[float | None]:
    if direction is None or direction.size != activations.shape[1]:
        return [None] * len(activations)
    return (activations @ direction).tolist()
