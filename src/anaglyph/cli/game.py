"""The diffing game: organisms with known changes, and every method's score on them."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from anaglyph.cli.app import app
from anaglyph.cli.options import AsJson, with_settings
from anaglyph.cli.terminal import Bars, say, table_text
from anaglyph.core.files import write_json, write_parquet, write_text
from anaglyph.core.settings import GameSettings

game = typer.Typer(help="Play against fine-tunes whose change is known.", no_args_is_help=True)
app.add_typer(game, name="game")

QUICK = ("eiffel-chats", "saffron-pirate", "rank-one-edit", "identical")
"""Organisms of `--quick`: a false fact, a backdoor, a planted direction and a control."""
QUICK_PLAYERS = (
    *("findings", "diff-sae", "crosscoder", "black-box"),
    *("token-kl", "perplexity", "pca", "mean-difference"),
)
"""Those of `--quick`: the findings, the post's two dictionaries and the best of the cheap looks."""

Base = Annotated[
    Path | None, typer.Option(help="Base model: a folder or .gguf file (default: the demo's).")
]
Organisms = Annotated[
    list[str],
    typer.Option("--organisms", help="Name from `game list` or a recipe.yaml, repeatable, or all."),
]


@game.command("play")
@with_settings(GameSettings, only=("device", "model_dtype"))
def play_command(
    out: Annotated[Path, typer.Option(help="Folder of the game; an unfinished game is resumed.")],
    organisms: Organisms = ["all"],  # noqa: B006 - typer copies defaults
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--methods",
            help="Player: METHOD, METHOD:SPARSITY, or post, baselines, all; repeatable (default: "
            "all; with --quick the findings, two dictionaries and five cheap looks).",
        ),
    ] = None,
    dilutions: Annotated[
        str,
        typer.Option(help="Neutral texts for each text of the behaviour, such as 0,1,4,16."),
    ] = "0",
    seeds: Annotated[int, typer.Option(min=1, help="Times each organism is made and played.")] = 1,
    base: Base = None,
    settings: Annotated[
        Path | None, typer.Option("--config", help="JSON or TOML file of the game's settings.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Organisms played at a time, each in one thread and with the memory of two "
            "models and a dictionary (default: two if there are two cores).",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Play four organisms with eight players.")
    ] = False,
    as_json: AsJson = False,
    *,
    given: dict[str, Any],
) -> None:
    """Let every method say what changed in models whose change is known, and score the answers."""
    from anaglyph.report.game import build_game
    from anaglyph.truth.game import game_settings, leaderboard, matches, play, player_names
    from anaglyph.truth.game.table import grid

    names = QUICK if quick else organisms
    recipes = _recipes(names)
    games = matches(recipes, [0] if quick else _numbers(dilutions))
    players = player_names(methods or (QUICK_PLAYERS if quick else ["all"]))
    chosen = game_settings(settings, **given)
    with Bars() as progress:
        plays = play(
            games,
            players,
            _base(base),
            out,
            settings=chosen,
            seeds=range(seeds),
            workers=min(2, os.cpu_count() or 1) if workers is None else workers,
            progress=progress,
        )
    board, ranks = leaderboard(plays), grid(plays)
    write_parquet(out / "plays.parquet", plays)
    command = " ".join(["anaglyph", *sys.argv[1:]])
    result: dict[str, Any] = {
        "command": command,
        "settings": chosen.model_dump(mode="json"),
        "leaderboard": board.to_dicts(),
        "ranks": ranks.to_dicts(),
        "plays": plays.to_dicts(),
    }
    write_json(out / "leaderboard.json", result)
    files = sorted((out / "plays").glob("*/*.json"))
    page = build_game(board, ranks, files, command, out / "index.html")
    if as_json:
        say(json.dumps(result))
        return
    shown = ("player", "found", "top1", "score", "alarms", "removed", "added", "kl_span", "seconds")
    say(table_text(board.select(shown).to_dicts()))
    say(table_text(ranks.to_dicts()))
    say(f"page: {page}")


@game.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the organisms that come with the package."""
    from anaglyph.truth.organisms.recipe import builtin_organisms, load_recipe

    rows = [
        {"name": each.name, "kind": each.kind, "behaviour": each.behaviour}
        for each in map(load_recipe, builtin_organisms())
    ]
    say(json.dumps(rows, indent=2) if as_json else table_text(rows))


@game.command("build")
def build_command(
    organisms: Annotated[
        list[str], typer.Argument(help="Names from `game list`, recipe.yaml files, or all.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the organisms; finished ones are kept.")],
    dilutions: Annotated[
        str,
        typer.Option(help="Neutral texts for each text of the behaviour, such as 0,1,4,16."),
    ] = "0",
    base: Base = None,
    as_json: AsJson = False,
) -> None:
    """Train organisms, and measure how well each shows its behaviour."""
    from anaglyph.truth.game import matches
    from anaglyph.truth.organisms.build import build

    rows = []
    games = matches(_recipes(organisms), _numbers(dilutions))
    with Bars() as progress:
        for each in games:
            made = build(each.organism, _base(base), out, dilution=each.dilution, progress=progress)
            card = made.card
            rows.append(
                {
                    "organism": made.folder.name,
                    "holds": card.holds,
                    **card.measured.model_dump(),
                    "seconds": card.seconds,
                }
            )
    say(json.dumps(rows, indent=2) if as_json else table_text(rows))


@game.command("new")
def new_command(
    file: Annotated[Path, typer.Argument(help="Recipe to write, NAME.yaml.")],
) -> None:
    """Write a recipe to start an organism of your own from."""
    from anaglyph.truth.organisms.recipe import new_recipe

    if file.suffix not in (".yaml", ".yml") or ".." in file.parts:
        raise typer.BadParameter(f"{file} is not NAME.yaml: name a recipe here, or a whole path")
    if file.exists():
        raise typer.BadParameter(f"{file} is there already")
    write_text(file, new_recipe(file.stem))
    say(f"{file}: edit it, then anaglyph game play --organisms {file} --out DIR")


def _recipes(names: Any) -> list[Any]:
    from anaglyph.truth.organisms.recipe import builtin_organisms, load_recipe

    wanted = [each for name in names for each in (builtin_organisms() if name == "all" else [name])]
    return [load_recipe(name) for name in dict.fromkeys(wanted)]


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--dilutions takes numbers such as 0,1,4, not {text!r}") from None


def _base(base: Path | None) -> Path:
    from anaglyph.demo import demo_pair

    return base or demo_pair().base
