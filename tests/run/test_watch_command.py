"""The command `watch` on a finished run."""

from pathlib import Path


def test_the_command_scores_prompts_of_a_run(finished: Path, tmp_path: Path, anaglyph):
    file = tmp_path / "prompts.txt"
    file.write_text("What is a delta?\nWhere does the silver owl sleep?\n")
    said = anaglyph("watch", finished, "--prompts", file, "--directions", "5", "--json")
    assert said.code == 0, said.err
    assert [each["prompt"] for each in said.json["prompts"]] == file.read_text().splitlines()
    assert said.json["threshold"] > 0
    said = anaglyph("watch", finished)
    assert said.code == 2
    assert "--prompt" in said.err
