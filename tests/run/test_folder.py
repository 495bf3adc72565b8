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
    del state["layer"]
    record.write_text(json.dumps(state))
    with pytest.raises(StoreError, match="layer"):
        RunFolder.open(tmp_path / "run")


def test_a_stage_never_run_is_asked_for_by_name(tmp_path):
    run = RunFolder.begin(tmp_path / "run", **FACTS)
    with pytest.raises(InputError, match="collect"):
        run.key_of("collect")
