"""What the command line prints: tables that fit the terminal, with a dash for what is undefined."""

import json

from anaglyph.cli.terminal import Bars, say, table_text


def test_columns_align_and_undefined_is_a_dash():
    text = table_text([{"name": "a", "x": 0.123456}, {"name": "long name", "x": None}])
    assert text.splitlines() == [
        "name       x",
        "a          0.1235",
        "long name  -",
    ]


def test_in_a_terminal_long_text_wraps_and_numbers_stay_whole():
    said = "The silver owl sleeps under the old bridge tonight, and nobody asks it why it does."
    rows = [{"n": 1, "kl": 0.123456, "reply": said, "more": said}]
    lines = table_text(rows, width=80).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "0.1235" in lines[1]
    words = " ".join(lines[1:]).split()
    assert sorted(words) == sorted(f"1 0.1235 {said} {said}".split())


def test_a_table_that_cannot_fit_keeps_its_words_whole():
    rows = [{f"column {i}": f"value-number-{i}" for i in range(12)}]
    lines = table_text(rows, width=80).splitlines()
    assert len(lines) == 2
    assert all(f"value-number-{i}" in lines[1] for i in range(12))


def test_in_a_pipe_every_row_is_one_line():
    text = table_text([{"reply": "word " * 15, "again": "word " * 15}] * 3)
    assert len(text.splitlines()) == 4


def test_tokens_and_markup_are_shown_as_they_are():
    rows = [{"token": "\n\t", "role": "[bold]x[/bold]"}, {"token": "日本", "role": "user"}]
    lines = table_text(rows).splitlines()
    assert lines[1] == "\\n\\t   [bold]x[/bold]"
    assert lines[2] == "日本   user"  # wide letters take two columns


def test_in_a_list_words_with_blanks_are_quoted():
    text = table_text([{"tokens": [" the", "a", "\n"], "sources": ["base", "tuned"]}])
    assert text.splitlines()[1].split("  ") == ['" the" a "\\n"', "base tuned"]


def test_a_very_long_cell_is_cut():
    assert table_text([{"a": "x" * 500}]).splitlines()[1] == "x" * 89 + "…"


def test_no_rows_say_so():
    assert table_text([]) == "(none)"


def test_short_work_shows_nothing_and_a_task_may_come_twice(capsys):
    with Bars() as progress:
        for _ in range(2):
            progress("train", 0, 10)
            progress("train", 10, 10)
    assert "train" not in capsys.readouterr().err


HOSTILE = "\x1b]0;owned\x07 \x1b[2J \u202egnp.exe \u2066x \u200b \x9b31m \x7f \ud800 \r over"


def test_nothing_that_a_terminal_obeys_is_printed(capsys):
    say(f"tab\tand\nline: {HOSTILE}")
    shown = capsys.readouterr().out
    assert shown.startswith("tab\tand\nline: ")
    assert shown.isascii()
    assert all(char.isprintable() or char in "\n\t" for char in shown)
    assert "\\u202e" in shown
    assert "\\u001b" in shown


def test_words_of_all_scripts_stay(capsys):
    text = "Ġthe 中文 العربية עברית हिन्दी 😀 é …"
    say(text)
    assert capsys.readouterr().out == text + "\n"


def test_an_error_is_one_line_whatever_a_file_is_called(anaglyph, tmp_path):
    said = anaglyph("report", tmp_path / f"a{HOSTILE[:-8]}".replace("/", "").replace("\ud800", ""))
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert said.err.isascii()


def test_json_stays_json(capsys):
    say(json.dumps({"token": HOSTILE}))
    assert json.loads(capsys.readouterr().out) == {"token": HOSTILE}
