"""Any flipped bit in a run folder is found, refused where it is read, and repaired by a command."""

import json
import random
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anaglyph.core.schemas import read_state, write_state
from anaglyph.core.seals import Seal
from anaglyph.run.folder import repair


def flip(path: Path, seed: int = 0) -> None:
    """Flip one bit of a file, anywhere."""
    data, draw = bytearray(path.read_bytes()), random.Random(f"{path.name} {seed}")
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def snapshot(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in artifacts(run)}


def shown(run: Path) -> dict[str, Any]:
    """Return the data that the page embeds."""
    text = (run / "report" / "index.html").read_text()
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def artifacts(run: Path) -> list[str]:
    return sorted(file.relative_to(run).as_posix() for file in run.rglob("*") if file.is_file())


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_finished_run_is_intact_and_every_file_is_vouched_for(finished: Path, anaglyph):
    said = anaglyph("verify", finished, "--json")
    assert said.code == 0, said.out
    assert said.json["intact"]
    assert said.json["damage"] == []
    assert said.json["unknown"] == []
    assert said.json["files"] == len(artifacts(finished))
    assert said.json["bytes"] == sum(file.stat().st_size for file in finished.rglob("*.*"))


def test_a_flipped_bit_in_any_file_is_found_and_its_repair_named(run: Path, anaglyph):
    for name in artifacts(run):
        for seed in range(2):
            whole = (run / name).read_bytes()
            flip(run / name, seed)
            said = anaglyph("verify", run, "--json")
            assert said.code == 1, name
            named = {each["file"]: each for each in said.json["damage"]}
            assert name in named, name
            assert "anaglyph " in named[name]["repair"]
            (run / name).write_bytes(whole)
        said = anaglyph("verify", run)
        assert said.code == 0, said.out


def test_the_words_name_file_and_command(run: Path, anaglyph):
    flip(run / "latents" / "crosscoder.parquet")
    (run / "notes.txt").write_text("mine")
    said = anaglyph("verify", run)
    assert said.code == 1
    assert "latents/crosscoder.parquet: " in said.out
    assert f"repair: anaglyph score {run} --name crosscoder" in said.out
    assert "not checked: notes.txt" in said.out
    assert "1 damaged" in said.out


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("findings.json", ["report"]),
        ("findings.json", ["find"]),
        ("behaviour.json", ["report"]),
        ("dictionaries/diff-sae/config.json", ["score", "--name", "diff-sae", "--seed", "5"]),
        (
            "dictionaries/diff-sae/weights.safetensors",
            ["score", "--name", "diff-sae", "--seed", "5"],
        ),
        ("latents/diff-sae.parquet", ["report"]),
        ("causal/diff-sae.parquet", ["report"]),
        ("examples/diff-sae.json", ["report"]),
        ("activations/manifest.json", ["pca"]),
        ("activations/shard-00000.safetensors", ["train", "--method", "base-sae"]),
        ("run.json", ["report"]),
    ],
)
def test_a_stage_refuses_what_is_damaged_or_makes_it_again(run, anaglyph, quick, file, command):
    whole = (run / file).read_bytes()
    flip(run / file, 7)
    words = quick if command[0] == "train" else []
    said = anaglyph(command[0], run, *command[1:], *words)
    if command[0] == file.partition("s.")[0].removesuffix("ing"):
        assert said.code == 0, said.err
        assert (run / file).read_bytes() == whole
    else:
        assert said.code == 2, said.out
        assert file in said.err
        of_shards = "run collect" if "shard" in file else "repair it with: anaglyph "
        assert of_shards in said.err or file == "run.json"
        assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    "name", ["findings.json", "latents/tuned-sae.parquet", "links.json", "behaviour.json"]
)
def test_the_named_command_repairs(run: Path, anaglyph, name):
    whole = (run / name).read_bytes()
    flip(run / name)
    (damage,) = anaglyph("verify", run, "--json").json["damage"]
    assert anaglyph(*damage["repair"].split()[1:]).code == 0
    assert (run / name).read_bytes() == whole
    said = anaglyph("verify", run, "--json")
    assert said.code == 0, said.out


@pytest.mark.slow
def test_diff_repairs_everything(run: Path, anaglyph, tiny_arguments, quick, few):
    for name in artifacts(run):
        flip(run / name)
    (run / "activations" / "manifest.json").unlink()
    said = anaglyph("verify", run, "--json")
    assert [each["file"] for each in said.json["damage"]] == ["run.json"]
    said = anaglyph("diff", *tiny_arguments, "--out", run, "--layer", "1", *quick, *few)
    assert said.code == 2
    assert "put it back, or delete" in said.err
    shutil.rmtree(run / "activations")
    said = anaglyph("diff", *tiny_arguments, "--out", run, "--layer", "1", *quick, *few)
    assert said.code == 0, said.err
    said = anaglyph("verify", run, "--json")
    assert said.code == 0
    assert said.json["unknown"] == ["run.json.damaged"]


@pytest.mark.parametrize("damage", ["flipped", "deleted"])
def test_a_lost_manifest_of_the_run_is_made_again(run: Path, anaglyph, damage):
    manifest = run / "activations" / "manifest.json"
    whole = {file.name: file.read_bytes() for file in manifest.parent.iterdir()}
    if damage == "deleted":
        manifest.unlink()
    else:
        flip(manifest)
    (found,) = anaglyph("verify", run, "--json").json["damage"]
    assert found["repair"] == f"anaglyph collect {run}"
    said = anaglyph("collect", run)
    assert said.code == 0, said.err
    assert {file.name: file.read_bytes() for file in manifest.parent.iterdir()} == whole
    assert anaglyph("verify", run).code == 0


@pytest.mark.parametrize("damage", ["deleted", "emptied", "overwritten"])
def test_a_lost_record_is_made_again(run: Path, anaglyph, tiny_arguments, few, damage):
    """Nothing vouches for the stages any more, but the activations need not be made again."""
    record = run / "run.json"
    record.write_bytes(b"" if damage == "emptied" else b"\0" * 512)
    if damage == "deleted":
        record.unlink()
    said = anaglyph("verify", run, "--json")
    assert said.code == 1
    (found,) = said.json["damage"]
    assert found["file"] == "run.json"
    assert "anaglyph diff" in found["repair"]
    for words in (["report"], ["find"], ["pca"], ["diff"]):
        said = anaglyph(words[0], run, *words[1:])
        assert said.code == 2
        assert "run.json" in said.err
    before = snapshot(run)
    words = [*tiny_arguments, "--out", run, "--layer", "1", *few]
    said = anaglyph("collect", *words)
    assert said.code == 0, said.err
    after = snapshot(run)
    assert {k: v for k, v in after.items() if k.startswith("activations")} == {
        k: v for k, v in before.items() if k.startswith("activations")
    }
    assert anaglyph("verify", run).code == 0


def test_a_folder_of_others_is_not_taken_for_a_run(tmp_path: Path, anaglyph, tiny_arguments):
    """Somebody else's run.json, where no activations are."""
    (tmp_path / "run.json").write_text('{"format": 2, "name": "a marathon"}')
    said = anaglyph("collect", *tiny_arguments, "--out", tmp_path)
    assert said.code == 2
    assert "run.json is damaged" in said.err
    assert (tmp_path / "run.json").read_text() == '{"format": 2, "name": "a marathon"}'


def test_all_bytes_are_checked_only_where_asked(run: Path, anaglyph, monkeypatch):
    """A byte between the samples of a large file."""
    monkeypatch.setattr(Seal, "_sample", lambda seal, _: seal.sample)
    shard = run / "activations" / "shard-00000.safetensors"
    whole = shard.read_bytes()
    flip(shard)
    assert anaglyph("report", run).code == 0
    (found,) = anaglyph("verify", run, "--json").json["damage"]
    assert found["repair"] == f"anaglyph collect {run} --verify"
    said = anaglyph("train", run, "--verify")
    assert said.code == 2
    assert shard.name in said.err
    assert anaglyph("collect", run, "--verify").code == 0
    assert shard.read_bytes() == whole


def test_a_folder_that_is_being_written_is_not_judged(run: Path, anaglyph):
    hold = (
        "import sys; from pathlib import Path; from anaglyph.core.lock import locked\n"
        "with locked(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        for words in (["verify"], ["train", "--seed", "3"], ["find"], ["report"], ["collect"]):
            said = anaglyph(words[0], run, *words[1:])
            assert said.code == 2, words
            assert f"process {writer.pid} on this host is writing to {run}" in said.err
        assert writer.stdin is not None
        writer.stdin.close()
    assert anaglyph("verify", run).code == 0


def test_a_run_folder_has_its_own_models_and_text(run: Path, anaglyph, tiny_arguments):
    for words in (["--data", "x.txt"], ["--out", "elsewhere"]):
        said = anaglyph("diff", run, *words)
        assert said.code == 2
        assert words[0] in said.err
    assert anaglyph("diff", run, tiny_arguments[1]).code == 2
    assert anaglyph("diff", "no-run").code == 2
    said = anaglyph("diff", run, "--json")
    assert said.code == 0, said.err
    assert json.loads((run / "findings.json").read_text())["findings"] == said.json["findings"]


def test_another_seed_leaves_no_table_of_the_first_dictionary(run: Path, anaglyph, quick):
    """The page of a dictionary that was trained again has nothing that was made from the first."""
    whole = snapshot(run)
    assert anaglyph("train", run, "--method", "diff-sae", "--seed", "3", *quick).code == 0
    said = anaglyph("verify", run, "--json")
    assert said.code == 0
    assert {"latents/diff-sae.parquet", "causal/diff-sae.parquet", "findings.json"} <= set(
        said.json["unknown"]
    )
    assert anaglyph("report", run).code == 0
    assert shown(run)["verdict"] is None
    each = {each["name"]: each for each in shown(run)["dictionaries"]}
    assert each["diff-sae"]["latents"] is None
    assert each["diff-sae"]["causal"] is None
    assert each["crosscoder"]["latents"] is not None
    assert anaglyph("diff", run).code == 0
    again = snapshot(run)
    for name in ("findings.json", "latents/diff-sae.parquet", "causal/diff-sae.parquet"):
        assert again[name] == whole[name]


def test_what_a_killed_stage_left_is_not_shown(run: Path, anaglyph):
    """A record that is gone vouches for nothing, whatever files are there."""
    state = read_state(run / "run.json")
    for stage in ("score/crosscoder", "link"):
        state.stages.pop(stage, None)
    write_state(run / "run.json", state)
    (run / "examples" / "crosscoder.json").write_text("{")
    (run / "links.json").write_text("{")
    (run / "direct").mkdir()
    (run / "direct" / "pca.parquet").write_text("not of this run")
    assert anaglyph("report", run).code == 0
    each = {each["name"]: each for each in shown(run)["dictionaries"]}
    assert each["crosscoder"]["latents"] is None
    assert shown(run)["direct"] == []


def test_the_terminal_says_when_the_page_is_old(run: Path, anaglyph):
    assert f"report: {run}/report/index.html\n" in anaglyph("diff", run).out
    said = anaglyph("find", run, "--rate", "0.3")
    assert f"is of earlier stages; renew it with: anaglyph report {run}" in said.out


STAGES = [
    *("collect", "behave", "train/x:l1", "score/x", "causal/x", "find", "link", "report"),
    *("direct/attribution-x", "direct/screening-x", "direct/layers", "direct/tokens"),
    *("direct/tokens-completions", "direct/pca", "direct/lens", "direct/weights", "direct/stitch"),
    *("direct/amplify", "audits/white-x"),
]


@pytest.mark.parametrize("stage", STAGES)
def test_commands_that_repair_are_commands(anaglyph, stage: str):
    words = shlex.split(repair(stage, Path("a run")))
    assert words[2].removesuffix(",") == "a run"
    assert anaglyph(words[1], "--help").code == 0


def test_a_record_without_the_text_it_is_of(run: Path, anaglyph):
    """A record that somebody has edited, whose digest they removed as the message says."""
    value = json.loads((run / "run.json").read_text())
    del value["digest"], value["corpus"]["fingerprint"]
    (run / "run.json").write_text(json.dumps(value))
    said = anaglyph("tokens", run, "--max-tokens", "64")
    assert said.code == 2
    assert "have changed since the run" in said.err
