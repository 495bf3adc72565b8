"""The whole game on the tiny pair: who finds the trigger, who keeps silent where nothing is."""

import json
import shutil
from pathlib import Path
from threading import Thread

import polars as pl
import pytest
from game_cases import PLAYERS, SETTINGS, identical, lantern

from anaglyph.core.errors import InputError, StoreError
from anaglyph.core.lock import locked
from anaglyph.demo import tiny_pair
from anaglyph.truth.game import leaderboard, matches, play, player_names
from anaglyph.truth.game.players import base
from anaglyph.truth.game.playing import SCHEMA, read_play
from anaglyph.truth.game.table import grid
from anaglyph.truth.organisms.card import read_card


def row_of(plays: pl.DataFrame, organism: str, player: str) -> dict:
    return plays.filter(organism=organism, player=player).row(0, named=True)


def test_every_player_meets_every_organism(plays: pl.DataFrame):
    assert plays.schema == SCHEMA
    assert plays.select("organism", "player").rows() == [
        (organism, player) for organism in ("lantern", "identical") for player in PLAYERS
    ]


def test_the_organism_shows_its_behaviour(plays: pl.DataFrame):
    row = row_of(plays, "lantern", "findings")
    assert row["shown_base"] == 0
    assert row["shown_tuned"] == 1


@pytest.mark.parametrize("player", ["findings", "diff-sae", "token-kl", "black-box"])
def test_the_trigger_is_found(plays: pl.DataFrame, player: str):
    row = row_of(plays, "lantern", player)
    assert row["rank"] is not None
    assert row["rank"] <= 3
    assert row["score"] == 1 / row["rank"]


@pytest.mark.parametrize("player", PLAYERS)
def test_nobody_claims_anything_where_nothing_changed(plays: pl.DataFrame, player: str):
    row = row_of(plays, "identical", player)
    assert row["abstained"]
    assert row["claims"] == 0
    assert row["score"] == 1
    assert row["rank"] is None


def test_a_dictionary_tells_what_it_recovers(plays: pl.DataFrame):
    row = row_of(plays, "lantern", "diff-sae")
    assert 0 < row["kl_reconstruction"] < 1
    assert 0 < row["kl_span"] < 1
    assert row["tuned_specific"] > 0
    assert row_of(plays, "lantern", "token-kl")["kl_span"] is None


def test_activations_are_not_kept(plays: pl.DataFrame, game_folder: Path):
    files = {file.name for file in (game_folder / "plays" / "lantern-0").iterdir()}
    assert files == {f"{player}.json" for player in PLAYERS}


def test_a_game_that_was_killed_goes_on(
    plays: pl.DataFrame, game_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(game_folder, tmp_path, dirs_exist_ok=True)
    gone = tmp_path / "plays" / "lantern-0" / "pca.json"
    gone.unlink()
    damaged = tmp_path / "plays" / "identical-0" / "random.json"
    damaged.write_text(damaged.read_text().replace('"score": 1.0', '"score": 0.5'))
    met = []
    from anaglyph.truth.game import playing as module

    real = module.get_player
    monkeypatch.setattr(
        module, "get_player", lambda name: lambda arena: met.append(name) or real(name)(arena)
    )
    games = matches([lantern(), identical()], [0])
    again = play(games, PLAYERS, tiny_pair().base, tmp_path, settings=SETTINGS)
    assert met == ["pca", "random"]
    assert gone.is_file()
    read_play(damaged)
    same = [name for name in SCHEMA if name not in ("seconds", "peak_mib")]
    assert again.select(same).equals(plays.select(same))


def test_one_game_a_folder_at_a_time(tmp_path: Path):
    refused: list[str] = []

    def second() -> None:
        try:
            play(matches([identical()], [0]), ["random"], tiny_pair().base, tmp_path)
        except StoreError as error:
            refused.append(str(error))

    with locked(tmp_path):
        thread = Thread(target=second)
        thread.start()
        thread.join()
    assert f"is writing to {tmp_path}" in refused[0]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"key": "k", "row": 1, "facts": {}}'])
def test_what_is_no_play_is_named(tmp_path: Path, text: str):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(StoreError, match=r"x\.json"):
        read_play(tmp_path / "x.json")


def test_a_player_that_changed_is_played_anew(
    plays: pl.DataFrame, game_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(game_folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "plays" / "identical-0" / "pca.json"
    before = json.loads(file.read_text())["key"]
    other = tmp_path / "plays" / "identical-0" / "random.json"
    untouched = other.stat().st_mtime_ns
    monkeypatch.setitem(base._VERSIONS, "pca", base._VERSIONS["pca"] + 1)
    play(
        matches([identical()], [0]),
        ["pca", "random"],
        tiny_pair().base,
        tmp_path,
        settings=SETTINGS,
    )
    assert json.loads(file.read_text())["key"] != before
    assert other.stat().st_mtime_ns == untouched


def test_other_settings_are_played_anew(plays: pl.DataFrame, game_folder: Path, tmp_path: Path):
    shutil.copytree(game_folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "plays" / "lantern-0" / "black-box.json"
    before = json.loads(file.read_text())
    fewer = SETTINGS.model_copy(update={"samples": 6})
    play(matches([lantern()], [0]), ["black-box"], tiny_pair().base, tmp_path, settings=fewer)
    assert json.loads(file.read_text())["key"] != before["key"]


@pytest.mark.slow
def test_a_diluted_organism_stays_nearer_to_the_base(
    plays: pl.DataFrame, game_folder: Path, tmp_path: Path
):
    shutil.copytree(game_folder / "organisms", tmp_path / "organisms")
    diluted = matches([lantern()], [4])
    assert [match.dilution for match in diluted] == [4]
    play(diluted, ["random"], tiny_pair().base, tmp_path, settings=SETTINGS)
    pure, mixed = (read_card(tmp_path / "organisms" / f"lantern-{n}").measured for n in (0, 4))
    assert mixed.neutral_kl < pure.neutral_kl / 2


def test_controls_have_no_dilutions():
    games = matches([lantern(), identical()], [0, 1, 4])
    assert [(game.organism.name, game.dilution) for game in games] == [
        ("lantern", 0), ("identical", 0), ("lantern", 1), ("lantern", 4)
    ]  # fmt: skip
    alone = matches([identical()], [4, 16])
    assert [(game.organism.name, game.dilution) for game in alone] == [("identical", 0)]


@pytest.mark.parametrize("dilutions", [[], [-1]])
def test_bad_dilutions_are_refused(dilutions: list[int]):
    with pytest.raises(InputError, match="dilutions"):
        matches([lantern()], dilutions)


def test_an_unknown_player_is_refused_with_those_there_are():
    with pytest.raises(InputError, match=r"no-such.*black-box"):
        player_names(["no-such"])


def test_the_leaderboard_sums_up_by_hand():
    def one(player: str, rank: int | None, *, control: bool = False, silent: bool = False) -> dict:
        row = dict.fromkeys(SCHEMA)
        return row | {
            "organism": "x", "kind": "y", "is_control": control, "dilution": 0, "seed": 0,
            "player": player, "abstained": silent, "claims": 0 if silent else 3, "rank": rank,
            "score": float(silent) if control else (1 / rank if rank else 0.0),
            "shown_base": 0.2, "shown_tuned": 1.0, "shown_removed": 0.5, "shown_added": 0.6,
            "seconds": 2.0,
        }  # fmt: skip

    rows = [
        one("a", 1), one("a", 4), one("a", None), one("a", None, control=True, silent=True),
        one("b", 10), one("b", None, control=True),
    ]  # fmt: skip
    board = leaderboard(pl.DataFrame(rows, schema=SCHEMA))
    first, second = board.to_dicts()
    assert first["player"] == "a"
    assert first["found"] == pytest.approx(2 / 3)
    assert first["top1"] == pytest.approx(1 / 3)
    assert first["top5"] == pytest.approx(2 / 3)
    assert first["score"] == pytest.approx((1 + 0.25) / 3)
    assert first["alarms"] == 0
    assert first["removed"] == pytest.approx(0.5)
    assert first["added"] == pytest.approx(0.5)
    assert second["alarms"] == 1
    assert second["top5"] == 0
    cells = grid(pl.DataFrame(rows[3:5], schema=SCHEMA))
    assert cells.row(0, named=True)["a"] == "abstains"
    assert cells.row(0, named=True)["b"] == "10"
