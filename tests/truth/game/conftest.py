"""A two-organism game on the tiny pair's base, played once for all tests of this folder."""

from pathlib import Path

import polars as pl
import pytest
from game_cases import PLAYERS, SETTINGS, identical, lantern

from anaglyph.demo import tiny_pair
from anaglyph.truth.game import matches, play


@pytest.fixture(scope="session")
def game_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("game")


@pytest.fixture(scope="session")
def plays(game_folder: Path) -> pl.DataFrame:
    games = matches([lantern(), identical()], [0])
    return play(games, PLAYERS, tiny_pair().base, game_folder, settings=SETTINGS)
