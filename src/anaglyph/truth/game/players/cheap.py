"""Baselines that train nothing: predictions, the mean difference, PCA, the weights."""

import numpy as np
import polars as pl

from anaglyph.core.rng import rng
from anaglyph.core.settings import LensSettings
from anaglyph.direct.lens import difference_lens
from anaglyph.direct.token_reading import read_as_tokens
from anaglyph.direct.weights import directions, weight_changes
from anaglyph.findings import difference_is_nil
from anaglyph.truth.game.arena import Arena
from anaglyph.truth.game.claims import MOST_CLAIMS, SHOWN, Claim
from anaglyph.truth.game.players.base import Answer, baseline

_LENS_TEXTS = 64
_PLACES = 8  # as many as a latent shows


@baseline("token-kl")
def token_kl(arena: Arena) -> Answer:
    """Show the tokens where the predictions differ most, and what the tuned model says there."""
    table = arena.predictions.tokens
    kl = table["kl"].to_numpy()
    if not kl.max() > 0:
        return Answer([])
    claims = []
    for token in arena.strongest(kl):
        likely = [int(table["top_tuned"][token])]
        claims.append(
            Claim(
                says=f"KL {kl[token]:.3g} nats at token {token}",
                words=arena.reader.around([token]),
                promotes=tuple(arena.pair.token_strings(likely)),
            )
        )
    return Answer(claims, {"mean_kl": float(kl.mean())})


@baseline("favoured-tokens")
def favoured_tokens(arena: Arena) -> Answer:
    """Show the next tokens that the fine-tune raises most, each a claim."""
    if not arena.predictions.tokens["kl"].max():
        return Answer([])
    rows = arena.predictions.favoured.filter(
        pl.col("by") == "all", pl.col("favoured_by") == "tuned", pl.col("measure") == "probability"
    ).sort("rank")
    texts = arena.pair.token_strings(rows["token_id"].to_list())
    return Answer([Claim(says="favoured token", promotes=(text,)) for text in texts[:MOST_CLAIMS]])


@baseline("perplexity")
def perplexity(arena: Arena) -> Answer:
    """Show the texts that the tuned model finds likelier than the base does, by the most."""
    gain = arena.predictions.tokens.select(
        "sequence",
        (pl.col("next_logprob_tuned") - pl.col("next_logprob_base")).alias("gain"),
    ).drop_nulls()
    ranked = (
        gain.group_by("sequence")
        .agg(pl.col("gain").mean())
        .sort(["gain", "sequence"], descending=[True, False])
    )
    if not ranked["gain"].abs().max():
        return Answer([])
    return Answer(
        [
            Claim(says=f"text {s}: {g:+.3g} nats a token", words=arena.reader.of_sequences([s]))
            for s, g in ranked.head(MOST_CLAIMS).iter_rows()
        ]
    )


@baseline("mean-difference")
def mean_difference(arena: Arena) -> Answer:
    """Read the mean difference at the first positions as tokens, and over all tokens."""
    if difference_is_nil(arena.store):
        return Answer([])
    settings = LensSettings(texts=_LENS_TEXTS, top=SHOWN, strengths=(1.0,), new_tokens=1)
    lens = difference_lens(arena, settings, arena.prompts[:1])
    claims = []
    read = lens.tokens.filter(pl.col("pair") == "tuned").sort("position", "method", "rank")
    for (position, method), rows in read.group_by(["position", "method"], maintain_order=True):
        texts = arena.pair.token_strings(rows["token_id"].to_list())
        claims.append(Claim(says=f"position {position}, {method}", promotes=tuple(texts)))
    mean = arena.space.mean
    norm = np.linalg.norm(mean)
    if norm > 0:
        unit = (mean / norm).astype(np.float32)
        whole = Claim("mean over all tokens", arena.along(unit), arena.promoted(unit), unit)
        claims.insert(0, whole)
    return Answer(claims[:MOST_CLAIMS])


@baseline("pca")
def pca(arena: Arena) -> Answer:
    """Show the principal components of the difference."""
    if difference_is_nil(arena.store):
        return Answer([])
    claims = []
    for number, component in enumerate(arena.space.components[:MOST_CLAIMS].astype(np.float32)):
        ends = arena.promoted(component)[: SHOWN // 2] + arena.promoted(-component)[: SHOWN // 2]
        claims.append(Claim(f"component {number}", arena.along(component), ends, component))
    return Answer(claims)


@baseline("weight-svd")
def weight_svd(arena: Arena) -> Answer:
    """Show the strongest directions of the weights' change, read as tokens. No text is read."""
    built = arena.built
    changes = [change for change in weight_changes(built.base, built.tuned) if change.norm > 0]
    found = sorted(directions(changes, per_matrix=1), key=lambda d: -d.sigma)[:MOST_CLAIMS]
    if not found:
        return Answer([])
    claims = []
    for direction, (high, low) in zip(
        found, read_as_tokens(built.base, built.tuned, found, SHOWN // 2), strict=True
    ):
        written = direction.side == "writes" and (direction.layer or 0) <= arena.layer
        claims.append(
            Claim(
                says=f"{direction.matrix}, {direction.side}",
                promotes=(*high, *low),
                direction=direction.vector.float().numpy() if written else None,
            )
        )
    return Answer(claims)


@baseline("random")
def random(arena: Arena) -> Answer:
    """Show places drawn at random, each with a direction drawn at random: the level of chance."""
    if difference_is_nil(arena.store):
        return Answer([])
    generator = rng(arena.seed, "random player")
    claims = []
    for _ in range(MOST_CLAIMS):
        places = generator.choice(arena.corpus.n_tokens, _PLACES, replace=False).tolist()
        direction = generator.standard_normal(arena.pair.d_tuned).astype(np.float32)
        direction /= np.linalg.norm(direction)
        claims.append(
            Claim("drawn", arena.reader.around(places), arena.promoted(direction), direction)
        )
    return Answer(claims)
