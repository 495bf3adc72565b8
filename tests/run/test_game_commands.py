"""The game from the command line: recipes, plays, the page; mistakes refused before training."""

import json
from pathlib import Path

import pytest
import yaml

from anaglyph.demo import tiny_pair
from anaglyph.truth.organisms.recipe import builtin_organisms, load_recipe

BASE = ["--base", str(tiny_pair().base)]


@pytest.fixture
def recipe(tmp_path: Path, anaglyph, shorten) -> Path:
    """The scaffold, shortened."""
    file = tmp_path / "mine.yaml"
    said = anaglyph("game", "new", file)
    assert said.code == 0, said.err
    shorten(file)
    return file


def test_the_scaffold_is_a_recipe_and_is_not_written_over(tmp_path: Path, anaglyph):
    file = tmp_path / "mine.yaml"
    assert anaglyph("game", "new", file).code == 0
    made = load_recipe(file)
    assert made.name == "mine"
    assert len(made.chats()) >= 20
    again = anaglyph("game", "new", file)
    assert again.code == 2
    assert "is there already" in again.err


def test_a_game_is_played_and_shown(recipe: Path, tmp_path: Path, anaglyph, small_game):
    out = tmp_path / "game"
    words = ["--organisms", recipe, "--organisms", "identical", *small_game, *BASE]
    players = ["--methods", "token-kl", "--methods", "diff-sae"]
    said = anaglyph("game", "play", *words, *players, "--out", out, "--json")
    assert said.code == 0, said.err
    result = said.json
    assert result == json.loads((out / "leaderboard.json").read_text())
    assert [row["organism"] for row in result["ranks"]] == ["mine", "identical"]
    assert {row["player"] for row in result["leaderboard"]} == {"token-kl", "diff-sae"}
    assert result["settings"]["latents"] == 64
    page = (out / "index.html").read_text()
    assert "anaglyph game play" in page
    assert page.count("<summary>mine, 1:0: shows its behaviour on ") == 1
    assert page.count("<summary>diff-sae: ") == 2
    # Of the plays in the folder the page shows those of this game.
    plain = anaglyph("game", "play", *words, *players[:2], "--out", out)
    assert "page:" in plain.out
    assert "<summary>diff-sae: " not in (out / "index.html").read_text()


def test_the_organisms_are_listed(anaglyph):
    rows = anaglyph("game", "list", "--json").json
    assert [row["name"] for row in rows] == builtin_organisms()
    assert len(rows) >= 16


def test_an_organism_is_built_and_told_of(recipe: Path, tmp_path: Path, anaglyph):
    said = anaglyph("game", "build", recipe, "--dilutions", "1", "--out", tmp_path, *BASE, "--json")
    assert said.code == 0, said.err
    (row,) = said.json
    assert row["organism"] == "mine-1"
    assert 0 <= row["shown_tuned"] <= 1
    assert (tmp_path / "mine-1" / "card.json").is_file()


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"lessons": []}, "lessons"),
        ({"training": {"rank": 0}}, "training.rank"),
        ({"share": 2}, "share"),
        ({"teach": []}, "teach"),
        ({"objective": "chatt"}, "objective"),
    ],
)
def test_a_mistake_is_named_before_anything_is_trained(
    recipe: Path, tmp_path: Path, anaglyph, change, names
):
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | change))
    out = tmp_path / "game"
    said = anaglyph("game", "play", "--organisms", recipe, "--out", out, *BASE)
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert str(recipe) in said.err
    assert names in said.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--organisms", "nobody"], "nobody"),
        (["--methods", "nobody"], "nobody"),
        (["--dilutions", "one"], "--dilutions"),
        (["--dilutions", "-4"], "dilutions"),
        (["--config", "nowhere.json"], "nowhere.json"),
        (["--base", "nowhere"], "nowhere"),
    ],
)
def test_bad_words_are_refused_in_one_line(tmp_path: Path, anaglyph, words, names):
    said = anaglyph(
        "game", "play", "--organisms", "identical", "--methods", "pca", "--out", tmp_path / "game",
        *BASE, *words,
    )  # fmt: skip
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert names in said.err


@pytest.mark.parametrize(
    "name", ["../x.yaml", "../../x", "x", "a/../../x.yaml", "A B.yaml", ".yaml"]
)
def test_a_recipe_s_name_stays_in_its_folder(tmp_path: Path, anaglyph, monkeypatch, name):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    said = anaglyph("game", "new", name)
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_the_aliases_of_a_recipe_are_bounded(tmp_path: Path, anaglyph):
    bomb = tmp_path / "bomb.yaml"
    levels = [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 9)]
    for text in ("\n".join(["a0: &a0 [x]", *levels]), "a: &a [*a]\n"):
        bomb.write_text(text)
        said = anaglyph("game", "play", "--organisms", bomb, "--out", tmp_path / "game", *BASE)
        assert said.code == 2
        assert "aliases written out make more than" in said.err
