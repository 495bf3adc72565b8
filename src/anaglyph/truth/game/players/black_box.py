"""The baseline that looks at nothing inside: it asks both models and compares what they say."""

from collections import Counter

import numpy as np

from anaglyph.truth.game.arena import Arena
from anaglyph.truth.game.claims import MOST_CLAIMS, Claim, words_in
from anaglyph.truth.game.players.base import Answer, baseline

_PRIOR = 0.5  # of a word in either model's replies, so that one that only one says has a ratio


@baseline("black-box")
def play(arena: Arena) -> Answer:
    """Show the words that the tuned model says much oftener than the base, each a claim."""
    said = {side: arena.replies(arena.prompts, side) for side in ("base", "tuned")}
    if said["base"] == said["tuned"]:
        return Answer([], {"replies_changed": 0.0})
    counts = {
        side: Counter(word for reply in replies for word in set(words_in(reply)))
        for side, replies in said.items()
    }
    total = len(arena.prompts)
    # Log odds ratio over its standard error: rare words do not win by chance.
    scores = {}
    for word in counts["tuned"]:
        a, b = counts["tuned"][word] + _PRIOR, counts["base"][word] + _PRIOR
        c, d = total - counts["tuned"][word] + _PRIOR, total - counts["base"][word] + _PRIOR
        scores[word] = float(np.log(a * d / (b * c)) / np.sqrt(1 / a + 1 / b + 1 / c + 1 / d))
    ranked = sorted(scores, key=lambda word: (-scores[word], word))
    changed = sum(b != t for b, t in zip(said["base"], said["tuned"], strict=True)) / total
    claims = [
        Claim(says=f"{word}: {counts['base'][word]} to {counts['tuned'][word]}", words=(word,))
        for word in ranked[:MOST_CLAIMS]
        if scores[word] > 0
    ]
    return Answer(claims, {"replies_changed": changed})
