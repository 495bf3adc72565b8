"""What a player's first directions do: take them out of the organism, put them into the base."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from anaglyph.causal.span import basis_of, span_recovered, span_stepper
from anaglyph.pair import Side
from anaglyph.truth.game.arena import Arena
from anaglyph.truth.game.claims import Claim
from anaglyph.truth.organisms.card import Card
from anaglyph.truth.organisms.chats import Chat
from anaglyph.truth.organisms.evaluate import Answers, share_shown


def causal_check(arena: Arena, claims: Sequence[Claim], card: Card) -> dict[str, float | None]:
    """Test the span of the first directions that the claims name, all together.

    Returns:
        shown_removed: Share of the first probes that still show the behaviour in the organism
        without what the directions carry; shown_added: share that show it in the base with it;
        neutral_same: share of neutral answers of the base that stay the same word for word with it;
        kl_span: share of the KL gap that it closes. All null where no claim names a direction.
        whole_removed, whole_added: the same shares with the whole difference at the layer in place
        of the directions: what no player can exceed there, for the rest of the change lies in the
        layers behind.
    """
    names = ("shown_removed", "shown_added", "neutral_same", "kl_span")
    empty: dict[str, float | None] = dict.fromkeys((*names, "whole_removed", "whole_added"))
    named = [claim.direction for claim in claims if claim.direction is not None]
    if not named:
        return empty
    basis = basis_of([torch.from_numpy(each) for each in named[: arena.game.span]])
    kl = span_recovered(arena, basis, max_tokens=arena.game.causal_tokens)
    if not card.probes:
        return empty | {"kl_span": kl}
    neutral = card.neutral[: max(1, arena.game.checked // 2)]
    plain = arena.once("neutral", lambda: arena.replies(neutral, "base"))
    added, moved = _shown(arena, card, "base", basis, neutral)
    return {
        "shown_removed": _shown(arena, card, "tuned", basis)[0],
        "shown_added": added,
        "neutral_same": sum(a == b for a, b in zip(plain, moved, strict=True)) / len(neutral),
        "kl_span": kl,
        **arena.once("whole", lambda: _whole(arena, card)),
    }


def _whole(arena: Arena, card: Card) -> dict[str, float | None]:
    everything = torch.eye(arena.pair.d_tuned)
    return {
        "whole_removed": _shown(arena, card, "tuned", everything)[0],
        "whole_added": _shown(arena, card, "base", everything)[0],
    }


def _shown(
    arena: Arena,
    card: Card,
    into: Side,
    basis: Float[Tensor, "n d"],
    further: Sequence[str] = (),
) -> tuple[float, list[str]]:
    """Return the share of the first probes that show the behaviour, and replies to more prompts."""
    probes = card.probes[: arena.game.checked]
    prompts = [probe.prompt for probe in probes]
    replies = arena.replies(
        [*prompts, *further], into, lambda: span_stepper(arena.pair, into, arena.layer, basis)
    )
    asked, rest = replies[: len(prompts)], replies[len(prompts) :]
    chats = [Chat(prompt, reply) for prompt, reply in zip(prompts, asked, strict=True)]
    return share_shown(probes, Answers(chats, 0.0)), rest
