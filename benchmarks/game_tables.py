"""Write the tables of docs/game.md from the results of `anaglyph game play --out DIR`.

    python benchmarks/game_tables.py [--add] DIR/leaderboard.json [OTHER/leaderboard.json ...]

Several games go into one page, which names the last command of each. The numbers are kept in
docs/performance/game.json. --add keeps the games that are there and replaces what was played again.
Without a file only the tables are rewritten.
"""

import argparse
from pathlib import Path
from typing import Any

import polars as pl
from bench import fill, table

from anaglyph.core.files import read_json, write_json
from anaglyph.report.game import LEGEND, game_tables
from anaglyph.truth.game import leaderboard
from anaglyph.truth.game.players import POST
from anaglyph.truth.game.playing import SCHEMA
from anaglyph.truth.game.table import grid
from anaglyph.truth.organisms.card import read_card

DOCS = Path(__file__).parents[1] / "docs"
NUMBERS = DOCS / "performance" / "game.json"
ORGANISMS = (
    "*In base*, *in organism*: share of the probes on which the model shows the behaviour. "
    "*Organism without Δ*, *base with Δ*: the same share (of the first probes, with short replies)"
    " when the whole difference at the layer is removed from the organism or added to the base. "
    "*Kept*: share of the answers that must stay and do. *Neutral KL*: KL on neutral chats, nats "
    "per token."
)
RANKS = 'The rank of the first claim that hits ("-": none):'


def cards(folder: Path, plays: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the cards of the organisms that were played measured."""
    played = {(row["organism"], row["dilution"]) for row in plays}
    found = []
    for file in sorted(folder.glob("*/card.json")):
        card = read_card(file.parent)
        if (card.name, card.dilution) not in played:
            continue
        found.append(
            {
                "organism": card.name,
                "dilution": card.dilution,
                "holds": card.holds,
                "seconds": card.seconds,
                **card.measured.model_dump(),
            }
        )
    return found


def organisms(rows: list[dict[str, Any]], plays: pl.DataFrame) -> str:
    """Return the table of what the organisms do."""
    head = ["organism", "dilution", "in base", "in organism", "organism without Δ"]
    head += ["base with Δ", "kept", "neutral KL", "neutral answers, tokens", "training, s"]
    lines = [head]
    for row in rows:
        own = plays.filter(organism=row["organism"], dilution=row["dilution"])
        whole = [own[f"whole_{what}"].drop_nulls().first() for what in ("removed", "added")]
        shares = [row["shown_base"], row["shown_tuned"], *whole, row["kept_tuned"]]
        cells = ["–" if share is None else f"{share:.0%}" for share in shares]
        lengths = f"{row['neutral_tokens_base']:.0f} to {row['neutral_tokens_tuned']:.0f}"
        lines.append(
            [row["organism"], f"1:{row['dilution']}", *cells, f"{row['neutral_kl']:.3f}", lengths]
        )
        lines[-1].append(f"{row['seconds']:.0f}")
    return table(lines)


def post(plays: pl.DataFrame) -> list[str]:
    """Compare the dictionaries as the post does, on organisms that all of them played."""
    organism = ["organism", "dilution", "seed"]
    real = plays.filter(~pl.col("is_control") & pl.col("player").is_in(POST))
    real = real.filter(pl.col("player").n_unique().over(organism) == len(POST))
    lines = [["dictionary", "KL recovered", "by its error", "tuned-specific latents", "found"]]
    for name in POST:
        own = real.filter(player=name)
        if own.is_empty():
            continue
        low, middle, high = (own["kl_reconstruction"].quantile(q) for q in (0.25, 0.5, 0.75))
        error, own_latents = own["kl_error"].median(), own["tuned_specific"].median()
        found = own["rank"].is_not_null().sum()
        cells = ["–" if v is None else f"{v:.0%}" for v in (middle, low, high, error)]
        spread = f"{cells[0]} ({cells[1]} to {cells[2]})"
        lines.append([name, spread, cells[3], f"{own_latents:g}", f"{found} of {own.height}"])
    counts = {name: real.filter(player=name)["tuned_specific"].sum() for name in POST[:2]}
    said = (
        f"In the post, the L1 crosscoder reports tuned-only latents that a BatchTopK one does not. "
        f"Here L1 reports {counts[POST[1]]} and BatchTopK {counts[POST[0]]} over all organisms."
    )
    title = "The dictionaries that the post compares (medians and quartiles over organisms):"
    return ["", title, "", table(lines), "", said]


def carried(plays: pl.DataFrame) -> str:
    """Say what the players' directions carry, and compare diff-SAE and crosscoder."""
    real = plays.filter(~pl.col("is_control"))
    hit = real.filter(pl.col("player") == "findings", pl.col("rank").is_not_null())["organism"]
    own = real.filter(pl.col("organism").is_in(hit.implode())).group_by("player")
    means = own.agg(pl.col("kl_span").mean()).drop_nulls().sort("kl_span", descending=True)
    parts = [f"{name} {share:.0%}" for name, share in means.iter_rows()]
    said = (
        "KL recovered by the first five directions of a player (if it has any), mean over the "
        f"{len(hit)} organisms that the findings hit: {', '.join(parts)}."
    )
    pair = ("diff-sae", "crosscoder")
    wide = real.filter(pl.col("player").is_in(pair)).pivot(
        "player", index=["organism", "seed"], values="kl_reconstruction"
    )
    both = wide.select(pair).drop_nulls()
    more = int((both[pair[0]] > both[pair[1]]).sum())
    mean = " against ".join(f"{both[name].mean():.0%}" for name in pair)
    middle = " against ".join(f"{both[name].median():.0%}" for name in pair)
    return (
        f"{said} KL recovered by the whole reconstruction: the diff-SAE recovers more than the "
        f"crosscoder on {more} of {both.height}; mean {mean}, median {middle} (in the post 88 "
        "against 60%)."
    )


def page(result: dict[str, Any]) -> str:
    """Return the generated part of the page."""
    plays = pl.DataFrame(result["plays"], schema=SCHEMA)
    commands = ["```sh", *result["commands"], "```"]
    parts = [
        "These commands made the tables:",
        "",
        *commands,
        "",
        "### Organisms",
        "",
        ORGANISMS,
        "",
    ]
    parts.append(organisms(result["cards"], plays))
    for dilution in sorted(plays["dilution"].unique()):
        here = pl.col("dilution") == dilution
        met = plays.filter(here & ~pl.col("is_control"))["player"].unique().to_list()
        some = plays.filter((here | pl.col("is_control")) & pl.col("player").is_in(met))
        board, ranks = game_tables(leaderboard(some), grid(some.filter(dilution=dilution)))
        parts += ["", f"### Dilution 1:{dilution}", "", table(board), "", RANKS, "", table(ranks)]
        parts += ["", carried(plays.filter(dilution=dilution))]
    parts += post(plays)
    minutes = sum(row["seconds"] for row in result["plays"]) / 60
    training = sum(row["seconds"] for row in result["cards"]) / 60
    parts += [
        "",
        LEGEND,
        "",
        f"{len(result['plays'])} plays took {minutes:.0f} minutes and the trainings "
        f"{training:.0f}, not counting collecting, measuring the organisms, and the causal checks.",
    ]
    return "\n".join(parts)


def merged(games: list[dict[str, Any]]) -> dict[str, Any]:
    """Return games as one; of what was played in several of them, the last counts."""
    settings = games[0]["settings"]
    if any(game["settings"] != settings for game in games):
        raise SystemExit("the games were played with different settings")
    plays, made, commands = {}, {}, {}
    for game in games:
        rows = game["plays"]
        plays |= {(r["organism"], r["dilution"], r["seed"], r["player"]): r for r in rows}
        made |= {(r["organism"], r["dilution"]): r for r in game["cards"]}
        commands |= dict.fromkeys(game["commands"])
    return {
        "commands": list(commands),
        "settings": settings,
        # By organism; who played it stays in the order of the game.
        "plays": [plays[key] for key in sorted(plays, key=lambda key: key[:3])],
        "cards": [made[key] for key in sorted(made)],
    }


def main() -> None:
    """Copy the numbers, if a file is given, and write the tables."""
    parser = argparse.ArgumentParser(description="Write the tables of docs/game.md.")
    parser.add_argument("files", nargs="*", type=Path, help="leaderboard.json of each game")
    parser.add_argument("--add", action="store_true", help="keep the games that are there")
    asked = parser.parse_args()
    games = [read_json(NUMBERS)] if asked.add else []
    for file in asked.files:
        game = read_json(file)
        made = cards(file.parent / "organisms", game["plays"])
        games.append({**game, "commands": [game["command"]], "cards": made})
    if asked.files:
        write_json(NUMBERS, merged(games))
    fill(DOCS / "game.md", game=page(read_json(NUMBERS)))


if __name__ == "__main__":
    main()
