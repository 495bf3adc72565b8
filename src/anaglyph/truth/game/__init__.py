"""The diffing game: model organisms with known changes, and every method's score on them."""

from anaglyph.core.settings import GameSettings
from anaglyph.truth.game.arena import Arena, game_settings
from anaglyph.truth.game.players import player_names
from anaglyph.truth.game.playing import Match, matches, play
from anaglyph.truth.game.table import leaderboard

__all__ = [
    "Arena",
    "GameSettings",
    "Match",
    "game_settings",
    "leaderboard",
    "matches",
    "play",
    "player_names",
]
