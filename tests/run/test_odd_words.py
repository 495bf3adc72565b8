"""Each place of the command line that takes a file or a folder is given what is neither."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anaglyph.demo import tiny_pair

PAIR = tiny_pair()
MODELS = [PAIR.base, PAIR.tuned]
TEXT = ["--data", PAIR.corpus[0], "--max-tokens", "64"]
ASK = ["--prompt", "a", "--new-tokens", "1"]
OF_RUNS = ("report", "verify", "find", "pca", "diff", "train", "causal")
PLACES: dict[str, Callable[[Any, Path], list[Any]]] = {
    **{name: lambda file, _, name=name: [name, file] for name in ("report", "verify", "find")},
    **{
        name: lambda file, _, name=name: [name, file] for name in ("pca", "diff", "train", "causal")
    },
    "gate of": lambda file, run: ["gate", file, "--policy", run / "run.json"],
    "policy": lambda file, run: ["gate", run, "--policy", file],
    "config": lambda file, _: ["plan", *MODELS, "--config", file],
    "plan --data": lambda file, _: ["plan", *MODELS, "--data", file],
    "plan of": lambda file, _: ["plan", file, PAIR.tuned],
    "weights of": lambda file, _: ["weights", PAIR.base, file],
    "behave of": lambda file, _: ["behave", file, PAIR.tuned],
    "behave --prompts": lambda file, _: ["behave", *MODELS, "--prompts", file],
    "watch --prompts": lambda file, run: ["watch", run, "--prompts", file],
    "steer --prompts": lambda file, run: ["steer", run, "--prompts", file, "--latent", "1"],
    "screen": lambda file, run: ["screen", run, "--prompts", file, "--score", "a"],
    "array": lambda file, run: ["steer", run, *ASK, "--direction", f"{file}.npy"],
    "row": lambda file, run: ["steer", run, *ASK, "--direction", f"{file}.parquet:0"],
    "amplify": lambda file, _: ["amplify", *MODELS, "--prompts", file],
    "lens": lambda file, _: ["lens", *MODELS, "--prompts", file],
    "stitch": lambda file, _: ["stitch", *MODELS, *TEXT, "--questions", file],
    "completions": lambda file, _: ["tokens", *MODELS, "--completions", file],
    "card": lambda file, run: ["audit", run, "--model", "m", "--card", file],
    "recipe": lambda file, run: ["game", "build", f"{file}.yaml", "--out", run.parent / "game"],
    "game": lambda file, run: ["game", "play", "--out", run.parent / "game", "--config", file],
}
OUT: dict[str, Callable[[Any], list[Any]]] = {
    "collect --out": lambda out: ["collect", *MODELS, *TEXT, "--out", out],
    "weights --out": lambda out: ["weights", *MODELS, "--out", out],
    "planted --out": lambda out: ["planted", "--preset", "easy", "--out", out],
    "build --out": lambda out: ["game", "build", "identical", "--base", PAIR.base, "--out", out],
}
TEXTS = ("screen", "amplify", "lens", "stitch")
ESCAPES = "two\nlines \x1b[31m"
CONTENT = {
    **{"empty": b"", "nothing": b"\0", "utf16": "a".encode("utf-16"), "deep": b"[" * 50_000},
    **{"nan": b'{"rate": NaN, "allowed_kl": NaN}', "number": b"5", "huge": b'{"seed": 1e300}'},
    **{"surrogate": b'{"prompt": "\\ud800"}', "types": b'{"seed": [], "prompt": {}, "train": 1}'},
}


def odd(place: Path, ending: str = "") -> dict[str, Any]:
    """Make what is no file, or no file that can be used; return names by what they are."""
    names: dict[str, Any] = {what: place / f"{what}{ending}" for what in CONTENT}
    for what, file in names.items():
        file.write_bytes(CONTENT[what])
    makers: dict[str, Callable[[Path], object]] = {
        "folder": Path.mkdir,
        "link to nothing": lambda file: file.symlink_to("nothing at all"),
        "link to itself": lambda file: file.symlink_to(file.name),
        "pipe": os.mkfifo,
        "device": lambda file: file.symlink_to("/dev/zero"),
        ESCAPES: lambda file: file.write_bytes(b"{"),
        "missing": lambda _: None,
    }
    for what, make in makers.items():
        names[what] = place / f"{what}{ending}"
        make(names[what])
    names["too long"] = place / ("x" * 5000 + ending)
    names["under a file"] = place / f"number{ending}" / f"x{ending}"
    names["not UTF-8"] = place / f"\udcff{ending}"
    names["null byte"] = f"a\0b{ending}"
    return names


def refused(said, where: str) -> None:
    assert said.code == 2, f"{where}: {said}"
    assert said.err.splitlines()[-1].startswith("error: "), f"{where}: {said}"
    assert said.err.count("error: ") == 1, f"{where}: {said}"
    assert "\x1b[31m" not in said.err, where


SLOW = [pytest.param(ending, marks=pytest.mark.slow) for ending in (".json", ".toml")]


@pytest.mark.parametrize("ending", [".jsonl", *SLOW])
def test_what_is_no_file_is_refused_in_one_line(finished: Path, anaglyph, tmp_path: Path, ending):
    """Of every content some kind of file may be good; these are for none of these places."""
    before = {file: file.stat().st_mtime_ns for file in finished.rglob("*")}
    for what, file in odd(tmp_path, ending).items():
        for place, words in PLACES.items():
            if (what, place) in {("empty", "config"), ("empty", "game")} and ending == ".toml":
                continue  # no settings at all
            if what in CONTENT or what == ESCAPES:
                if place in ("array", "row", "recipe", "plan --data"):
                    continue  # other tests have them; a plan looks at sizes only
                if ending != ".jsonl" and ("prompts" in place or place in TEXTS):
                    continue  # any line of text is a prompt
            refused(anaglyph(*words(file, finished)), f"{what}, {place}")
    assert before == {file: file.stat().st_mtime_ns for file in finished.rglob("*")}


def test_a_place_to_write_that_is_none(anaglyph, tmp_path: Path):
    for what, file in odd(tmp_path).items():
        if what in ("folder", "missing"):
            continue
        for place, words in OUT.items():
            refused(anaglyph(*words(file)), f"{what}, {place}")
            if place == "collect --out":
                shutil.rmtree(tmp_path / "nothing at all", ignore_errors=True)
