"""A dictionary as a player: its claims are the latents that carry most of the difference."""

from functools import partial

import polars as pl

from anaglyph.causal import edit_kl
from anaglyph.causal.interventions import whole_dictionary
from anaglyph.dictionaries import Dictionary, train
from anaglyph.dictionaries.vectors import has_two_models, latent_vectors
from anaglyph.findings import difference_is_nil
from anaglyph.latents import candidates, score, top_examples
from anaglyph.latents.norms import TUNED_ONLY
from anaglyph.truth.game.arena import Arena
from anaglyph.truth.game.claims import MOST_CLAIMS, Claim
from anaglyph.truth.game.players.base import Answer, Player
from anaglyph.truth.planted.benchmark import Entrant

SPECIFIC = 0.3
"""Ratio of the base's strength to the tuned model's below which a latent is the latter's own."""

VERSION = 4
"""Of all dictionary players; raised by hand when they play otherwise."""


def dictionary_player(name: str) -> Player:
    """Return the player of `METHOD` or `METHOD:SPARSITY`.

    Raises:
        InputError: The method is unknown.
    """
    return partial(play, Entrant.parse(name))


def play(entrant: Entrant, arena: Arena) -> Answer:
    """Train, score and show the foremost latents.

    A dictionary has latents whatever it is trained on, so it abstains only where the activations do
    not differ at all.
    """
    if difference_is_nil(arena.store):
        return Answer([])
    game = arena.game
    dic = train(
        arena.store,
        entrant.method,
        latents=game.latents,
        tokens=game.tokens,
        seed=arena.seed,
        sparsity=entrant.sparsity,
        device=game.device,
        progress=arena.progress,
    )
    table = score(dic, arena.store, seed=arena.seed, progress=arena.progress)
    latents = candidates(table, MOST_CLAIMS)
    facts = {
        "fve": dic.stats["fve"],
        "l0": dic.stats["l0"],
        "tuned_specific": tuned_specific(table, two_models=has_two_models(dic)),
        **_recovered(arena, dic),
    }
    if not latents:
        return Answer([], facts)
    vectors, claims = latent_vectors(dic), []
    for shown in top_examples(dic, arena.store, latents, progress=arena.progress):
        latent = shown["latent"]
        direction = arena.unit(vectors[latent])
        if direction is None:  # a latent that does the same in both models
            continue
        offsets = arena.corpus.offsets
        places = [
            int(offsets[each["sequence"]]) + each["start"] + each["position"]
            for each in shown["examples"]
        ]
        claims.append(
            Claim(
                says=f"{entrant.name}/{latent}",
                words=arena.reader.around(places),
                promotes=arena.promoted(direction),
                direction=direction,
            )
        )
    return Answer(claims, facts)


def tuned_specific(table: pl.DataFrame, *, two_models: bool) -> int:
    """Count the live latents that are the tuned model's own: a crosscoder's by their norm class."""
    alive = table.filter(pl.col("alive"))
    if two_models:
        return alive.filter(pl.col("class") == TUNED_ONLY).height
    ratio = pl.col("beta_act_base") / pl.col("beta_act_tuned")
    return alive.filter(pl.col("beta_act_tuned") > 0, ratio < SPECIFIC).height


def _recovered(arena: Arena, dic: Dictionary) -> dict[str, float | None]:
    whole = whole_dictionary(dic)
    rows = edit_kl(arena, whole, dic, max_tokens=arena.game.causal_tokens)
    found = dict(zip(rows["intervention"], rows["recovered"], strict=True))
    return {
        "kl_reconstruction": found.get("reconstruction"),
        "kl_error": found.get("error"),
    }
