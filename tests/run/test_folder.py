"""The run folder: keys decide what is reused, and nothing that exists is lost by a mistake."""

import json

import pytest

from anaglyph.core.errors import InputError, StoreError
from anaglyph.core.settings import Settings
from anaglyph.run.folder import RunFolder

FACTS = {
    "base": "a",
    "tuned": "b",
    "data": ["c"],
    "layer": 1,
    "n_layers": 4,
    "settings": Settings(),
    "fingerprints": {"base": "1", "template": None},
    "corpus": {"tokens": 10},
    "threads": 1,
}


def finish(run: RunFolder, stage: str, key: str) -> None:
    with run.stage(stage, key, [f"{stage}.txt"]):
        (run.path / f"{stage}.txt").write_text(key)


def test_a_stage_is_done_only_under_its_key_and_with_its_files(tmp_path):
    run = RunFolder.begin(tmp_path / "run", **FACTS)
    assert not run.is_done("train", "k1")
    finish(run, "train", "k1")
    again = RunFolder.open(tmp_path / "run")
    assert again.is_done("train", "k1")
    assert not again.is_done("train", "k2")
    (tmp_path / "run" / "train.txt").unlink()
    assert not again.is_done("train", "k1")


def test_a_stage_that_fails_is_not_recorded_and_its_old_record_is_gone(tmp_path):
    run = RunFolder.begin(tmp_path / "run", **FACTS)
    finish(run, "train", "k1")

    def fail() -> None:
        with run.stage("train", "k2", ["train.txt"]):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    reopened = RunFolder.open(tmp_path / "run")
    assert not reopened.is_done("train", "k1")
    assert not reopened.is_done("train", "k2")


def test_beginning_again_keeps_what_is_finished(tmp_path):
    finish(RunFolder.begin(tmp_path / "run", **FACTS), "train", "k1")
    again = RunFolder.begin(tmp_path / "run", **{**FACTS, "layer": 2})
    assert again.is_done("train", "k1")
    # The record on disk still speaks of the earlier run until a stage of this one ends well.
    assert RunFolder.open(tmp_path / "run").state.layer == 1
    finish(again, "score", "k3")
    assert RunFolder.open(tmp_path / "run").state.layer == 2


MADE_FROM = [
    ("train/diff-sae", {"behave", "collect", "train/crosscoder", "score/crosscoder", "direct/pca"}),
    ("train/crosscoder", {"behave", "collect", "train/diff-sae", "score/diff-sae", "find", "link",
                          "causal/diff-sae", "direct/pca", "direct/attribution-diff-sae"}),
    ("find", {"behave", "collect", "train/crosscoder", "score/crosscoder", "train/diff-sae",
              "score/diff-sae", "causal/diff-sae", "direct/pca", "direct/attribution-diff-sae"}),
    ("collect", {"behave"}),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "left"), MADE_FROM)
@pytest.mark.parametrize("killed", [False, True])
def test_what_was_made_from_replaced_artifacts_is_finished_no_more(tmp_path, stage, left, killed):
    run = RunFolder.begin(tmp_path / "run", **FACTS)
    stages = {*left, "collect", "find", "link", "train/diff-sae", "train/crosscoder"}
    for name in (*stages, "score/crosscoder", "causal/diff-sae", "direct/attribution-diff-sae"):
        run.record(name, "k", 1.0, [])
    before = set(run.state.stages)
    run.record(stage, "k", 1.0, [])
    with run.stage(stage, "k", []):  # the same again
        pass
    assert set(run.state.stages) == before
    try:
        with run.stage(stage, "k2", []):
            if killed:
                raise RuntimeError
    except RuntimeError:
        left = left - {stage}
    else:
        left = left | {stage}
    assert set(RunFolder.open(run.path).state.stages) == left


def test_a_page_is_current_until_a_stage_is_made_again(tmp_path):
    run = RunFolder.begin(tmp_path / "run", **FACTS)
    finish(run, "find", "k1")
    key = run.key_of_page()
    run.record("report", key, 1.0, [])
    assert run.key_of_page() == key
    finish(run, "find", "k2")
    assert run.key_of_page() != key


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(InputError, match="not a run's"):
        RunFolder.begin(tmp_path, **FACTS)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(InputError, match="is a file"):
        RunFolder.begin(tmp_path / "thesis.tex", **FACTS)


def test_opening_what_is_no_run_or_damaged_says_so(tmp_path):
    with pytest.raises(InputError, match=r"no run\.json"):
        RunFolder.open(tmp_path)
    RunFolder.begin(tmp_path / "run", **FACTS)
    record = tmp_path / "run" / "run.json"
    state = json.loads(record.read_text())
    record.write_text(json.dumps(state | {"layer": 2}))
    with pytest.raises(
        StoreError, match=r"run\.json is damaged: its fields do not have the digest"
    ):
        RunFolder.open(tmp_path / "run")
    del state["layer"], state["digest"]
    record.write_text(json.dumps(state))
    with pytest.raises(StoreError, match="layer"):
        RunFolder.open(tmp_path / "run")


def test_only_what_is_as_it_was_written_is_done(tmp_path):
    run = RunFolder.begin(tmp_path / "run", **FACTS)
    finish(run, "find", "k1")
    artifact = tmp_path / "run" / "find.txt"
    for content in ("k2", "k", "k11"):
        artifact.write_text(content)
        assert not run.is_done("find", "k1")
        with pytest.raises(StoreError, match=r"find\.txt .*; repair it with: anaglyph find"):
            run.check_stage("find")
    artifact.write_text("k1")
    assert run.is_done("find", "k1")
    run.check_stage("find")


def test_two_commands_on_one_run_keep_what_both_finished(tmp_path):
    """Each opened the run before the other finished its stage."""
    first = RunFolder.begin(tmp_path / "run", **FACTS)
    second = RunFolder.open(tmp_path / "run")
    finish(first, "train", "k1")
    finish(second, "find", "k2")
    stages = RunFolder.open(tmp_path / "run").state.stages
    assert {name: stage.key for name, stage in stages.items()} == {"train": "k1", "find": "k2"}


def test_settings_changed_by_another_command_are_noticed(tmp_path):
    first = RunFolder.begin(tmp_path / "run", **FACTS)
    other = RunFolder.begin(tmp_path / "run", **{**FACTS, "layer": 2})
    finish(other, "find", "k")
    with pytest.raises(StoreError, match="another command has changed the settings"):
        finish(first, "train", "k")


def test_what_a_kill_left_before_the_first_save_is_no_obstacle(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".run.json.123.tmp").write_text("{")
    (run / ".lock").write_text("")
    RunFolder.begin(run, **FACTS)
    assert [file.name for file in run.iterdir()] == ["run.json"]


def test_temporary_files_go_wherever_they_are_and_others_stay(tmp_path):
    run = RunFolder.begin(tmp_path / "run", **FACTS)
    (run.path / "dictionaries" / "x").mkdir(parents=True)
    for name in (".config.json.9.tmp", ".mine.tmp", "a.9.tmp"):
        (run.path / "dictionaries" / "x" / name).write_text("")
    finish(run, "train", "k1")
    left = {file.name for file in (run.path / "dictionaries" / "x").iterdir()}
    assert left == {".mine.tmp", "a.9.tmp"}


@pytest.mark.parametrize("damage", [lambda text: text[:-9], lambda text: text.replace("k1", "k3")])
def test_a_damaged_record_vouches_for_nothing_and_is_kept(tmp_path, damage):
    run = tmp_path / "run"
    finish(RunFolder.begin(run, **FACTS), "train", "k1")
    damaged = damage((run / "run.json").read_text())
    (run / "run.json").write_text(damaged)
    with pytest.raises(StoreError, match=r"run\.json is damaged"):
        RunFolder.open(run)
    again = RunFolder.begin(run, **FACTS)
    assert again.state.stages == {}
    assert (run / "run.json.damaged").read_text() == damaged
    assert RunFolder.open(run).state.stages == {}


def test_a_record_of_another_program_or_version_is_not_replaced(tmp_path):
    for text in ('{"name": "mine"}', "shopping"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(StoreError, match=r"damaged|earlier"):
            RunFolder.begin(tmp_path, **FACTS)
        assert (tmp_path / "run.json").read_text() == text


@pytest.mark.parametrize("where", ["start", "middle", "end"])
def test_every_flipped_bit_of_the_record_is_refused_or_harmless(tmp_path, where):
    run = RunFolder.begin(tmp_path / "run", **FACTS)
    finish(run, "train", "k1")
    record, state = tmp_path / "run" / "run.json", RunFolder.open(tmp_path / "run").state
    whole = record.read_bytes()
    third = len(whole) // 3
    first = {"start": 0, "middle": third, "end": 2 * third}[where]
    for at in range(first, first + third):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        record.write_bytes(damaged)
        try:
            assert RunFolder.open(tmp_path / "run").state == state
        except StoreError:
            continue


def test_a_stage_never_run_is_asked_for_by_name(tmp_path):
    run = RunFolder.begin(tmp_path / "run", **FACTS)
    with pytest.raises(InputError, match="collect"):
        run.key_of("collect")
