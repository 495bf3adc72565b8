"""The claims as a player: it lets both models talk, and says in words what differs."""

from anaglyph.behaviour.behave import behave
from anaglyph.behaviour.contrast import content_words
from anaglyph.truth.game.arena import Arena
from anaglyph.truth.game.claims import MOST_CLAIMS, Claim
from anaglyph.truth.game.players.base import Answer, baseline


@baseline("behaviour")
def play(arena: Arena) -> Answer:
    """Show the verified claims, then what is seen but not verified; with none verified, abstain.

    It reads none of the organism's text: its prompts are the shipped ones.
    """
    said = behave(arena.pair, rate=arena.game.rate, seed=arena.seed, progress=arena.progress)
    verified = [claim for claim in said if claim.verified]
    facts = {"claims_verified": len(verified), "claims_seen": len(said)}
    if not verified:
        return Answer([], facts)
    claims = []
    for claim in said[:MOST_CLAIMS]:
        words = content_words(" ".join((claim.feature, claim.condition)))
        claims.append(Claim(says=claim.text, words=tuple(words)))
    return Answer(claims, facts)
