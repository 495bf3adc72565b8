"""On which kinds of token a latent fires weakly, and on which strongly.

The few strong firings of a latent show what it stands for. Its many weak ones are often something
else, such as template tokens, and dominate the shares over all firings.
"""

import numpy as np
import polars as pl

from anaglyph.core.errors import InputError
from anaglyph.core.progress import Progress, silent
from anaglyph.corpus import ROLES
from anaglyph.dictionaries import Dictionary
from anaglyph.latents.reading import check_widths, scoring_codes
from anaglyph.latents.usage import usage
from anaglyph.store import PairedStore

BUCKETS = 4
# Codes computed with another number of threads differ by rounding, but not by more than this.
_ROUNDING = 1e-3


def bucket_usage(
    dic: Dictionary, store: PairedStore, table: pl.DataFrame, *, progress: Progress = silent
) -> pl.DataFrame:
    """Return the roles of each latent's active tokens by how strongly it fires there.

    The buckets are quarters of the latent's maximum activation: up to 25% (without 0), up to 50%,
    up to 75% and up to 100%; each includes its upper bound. The store is read once.

    Args:
        dic: The dictionary.
        store: The store from which ``table`` was computed.
        table: The result of ``score``; its ``max_activation`` sets the buckets.
        progress: Told after each block of tokens.

    Returns:
        One row per live latent and bucket, in that order: ``latent``, ``bucket`` (0
        to 3), ``low`` and ``high`` (its bounds, in units of the code), ``active_tokens``,
        ``template_share`` and ``share_ROLE`` for every role, null in an empty bucket.

    Raises:
        InputError: The table is not of this dictionary and store, or widths do not fit.
    """
    check_widths(dic, store)
    if "max_activation" not in table.columns or table.height != dic.n_latents:
        raise InputError(
            f"the table has {table.height} rows of {len(table.columns)} columns; give that which "
            f"score made of this dictionary of {dic.n_latents} latents"
        )
    largest = table["max_activation"].fill_null(0).to_numpy()
    firings = np.zeros(dic.n_latents * BUCKETS * len(ROLES), dtype=np.int64)
    done = 0
    for block in store.blocks():
        codes = scoring_codes(dic, block.base, block.tuned)
        limit = largest[codes.indices]
        if (codes.values > limit * (1 + _ROUNDING)).any():
            raise InputError(
                "codes go beyond the table's max_activation: it was made from another store or by "
                "another dictionary"
            )
        bucket = np.ceil(codes.values / limit * BUCKETS).astype(np.int64).clip(1, BUCKETS) - 1
        roles = store.roles[block.tokens[codes.tokens()]]
        place = (codes.indices.astype(np.int64) * BUCKETS + bucket) * len(ROLES) + roles
        firings += np.bincount(place, minlength=firings.size)
        done += block.tokens.size
        progress("buckets", done, store.n_tokens)
    alive = largest > 0
    rows = firings.reshape(-1, BUCKETS, len(ROLES))[alive].reshape(-1, len(ROLES))
    blank = np.zeros(len(rows))
    shares = usage(rows, blank, blank.astype(np.float32), store.n_tokens)
    bounds = np.arange(BUCKETS + 1) / BUCKETS * largest[alive, None]
    columns = {
        "latent": np.repeat(np.flatnonzero(alive), BUCKETS),
        "bucket": np.tile(np.arange(BUCKETS), np.count_nonzero(alive)),
        "low": bounds[:, :-1].reshape(-1),
        "high": bounds[:, 1:].reshape(-1),
        "active_tokens": shares["active_tokens"],
        "template_share": shares["template_share"],
        **{f"share_{role}": shares[f"share_{role}"] for role in ROLES},
    }
    return pl.DataFrame(columns).fill_nan(None)
