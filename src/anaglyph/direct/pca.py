"""The shape of the difference: its principal components, and the tokens that it sits on.

docs/maths.md, section 7; both stream once through the stored activations of one layer. The post
found that much of what a chat model adds sits on the chat template's own tokens, which is why the
share is counted token by token and not only by role.
"""

from collections.abc import Iterator

import numpy as np
import polars as pl
from jaxtyping import Float, Float64
from torch import Tensor

from anaglyph.core.errors import InputError
from anaglyph.core.progress import Progress, silent
from anaglyph.corpus import ROLES
from anaglyph.store import DifferenceSpace, PairedStore


def difference_pca(
    store: PairedStore, components: int = 16, *, block: int = 8192, progress: Progress = silent
) -> pl.DataFrame:
    """Return the principal components of the difference over the training tokens.

    Columns: component (0 is the mean difference), square (mean square of Delta along it about the
    origin for the mean, about the mean for the others), share (of the mean of ||Delta||^2),
    cumulative, direction (unit vector; null for a mean of zero). The largest entry of a component
    is positive, because a component has no sign. The shares of the mean and of all d components add
    up to 1.

    Args:
        store: Activations of both models.
        components: Most components to return.
        block: Tokens read at a time.
        progress: Told of tokens read.

    Raises:
        InputError: The models' widths differ, or ``components`` is not positive.
    """
    _check_width(store)
    if components < 1:
        raise InputError(f"{components} components: at least 1 must be asked for")

    def differences() -> Iterator[Tensor]:
        done = 0
        for part in store.blocks("train", block):
            yield part.tuned - part.base
            done += len(part.tokens)
            progress("difference PCA", done, store.n_tokens)
        progress("difference PCA", store.n_tokens, store.n_tokens)

    space = DifferenceSpace.of(differences())
    kept = space.components[:components]
    largest = np.take_along_axis(kept, np.abs(kept).argmax(1, keepdims=True), axis=1)
    norm = float(np.linalg.norm(space.mean))
    squares = np.concatenate([[norm**2], space.deviations[:components] ** 2])
    moved = space.mean_square > 0
    vectors = [(space.mean / norm).tolist() if norm > 0 else None]
    vectors += (kept * np.sign(largest)).tolist()
    return pl.DataFrame(
        {
            "component": np.arange(len(squares)),
            "square": squares,
            "share": _over(squares, space.mean_square if moved else None),
            "cumulative": _over(squares.cumsum(), space.mean_square if moved else None),
            "direction": pl.Series(vectors, dtype=pl.List(pl.Float32)),
        }
    )


def _over(values: Float64[np.ndarray, " rows"], whole: float | None) -> pl.Series:
    shares = [None] * len(values) if whole is None else (values / whole).tolist()
    return pl.Series(shares, dtype=pl.Float64)


def difference_by_token(
    store: PairedStore, *, least: int = 1, block: int = 8192, progress: Progress = silent
) -> pl.DataFrame:
    """Return how much of the difference sits on each role and on each of its tokens.

    Columns: role, token_id (null for the row of the whole role), tokens, token_share (of all
    tokens), difference_share (of the sum of ||Delta||^2 over all tokens), ratio (difference_share /
    token_share: above 1 where the difference is concentrated), mean_norm (mean ||Delta||),
    relative_norm (mean of ||Delta|| / ||h_base||; null where h_base is zero somewhere). Roles come
    first, then tokens, each by difference_share.

    Args:
        store: Activations of both models; all tokens are counted.
        least: Leave out tokens that come up less often in their role.
        block: Tokens read at a time.
        progress: Told of tokens read.

    Raises:
        InputError: The models' widths differ.
    """
    _check_width(store)
    norm, base_norm = np.empty(store.n_tokens), np.empty(store.n_tokens)
    done = 0
    for part in store.blocks("all", block):
        norm[part.tokens] = _norms(part.tuned - part.base)
        base_norm[part.tokens] = _norms(part.base)
        done += len(part.tokens)
        progress("difference by token", done, store.n_tokens)
    frame = pl.DataFrame(
        {
            "role": np.array(ROLES)[store.roles],
            "token_id": store.token_ids,
            "square": norm**2,
            "norm": norm,
            "relative": np.divide(
                norm, base_norm, out=np.full_like(norm, np.nan), where=base_norm > 0
            ),
        }
    )
    whole = float((norm**2).sum())
    by_role = _shares(frame, ["role"], whole).with_columns(
        pl.lit(None, dtype=pl.Int32).alias("token_id")
    )
    by_token = _shares(frame, ["role", "token_id"], whole).filter(pl.col("tokens") >= least)
    columns = ["role", "token_id", "tokens", "token_share", "difference_share", "ratio"]
    columns += ["mean_norm", "relative_norm"]
    return pl.concat([by_role.select(columns), by_token.select(columns)])


def _shares(frame: pl.DataFrame, keys: list[str], whole: float) -> pl.DataFrame:
    share = pl.col("square").sum() / whole if whole > 0 else pl.lit(None, dtype=pl.Float64)
    return (
        frame.group_by(keys)
        .agg(
            pl.len().cast(pl.Int64).alias("tokens"),
            (pl.len() / len(frame)).alias("token_share"),
            share.alias("difference_share"),
            pl.col("norm").mean().alias("mean_norm"),
            pl.col("relative").mean().fill_nan(None).alias("relative_norm"),
        )
        .with_columns((pl.col("difference_share") / pl.col("token_share")).alias("ratio"))
        .sort("difference_share", *keys, descending=[True] + [False] * len(keys))
    )


def _norms(values: Float[Tensor, "tokens d"]) -> Float64[np.ndarray, " tokens"]:
    return values.double().norm(dim=1).numpy()


def _check_width(store: PairedStore) -> None:
    if store.d_base != store.d_tuned:
        raise InputError(
            f"the base's activations have width {store.d_base} and the tuned model's"
            f" {store.d_tuned}: there is no difference to look at"
        )
