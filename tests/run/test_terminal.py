"""What the command line prints: aligned tables with a dash where a number is undefined."""

from anaglyph.cli.terminal import Bars, table_text


def test_columns_align_and_undefined_is_a_dash():
    text = table_text([{"name": "a", "x": 0.123456}, {"name": "long name", "x": None}])
    assert text.splitlines() == [
        "name       x",
        "---------  ------",
        "a          0.1235",
        "long name  -",
    ]


def test_no_rows_say_so():
    assert table_text([]) == "(none)"


def test_short_work_shows_nothing_and_a_task_may_come_twice(capsys):
    with Bars() as progress:
        for _ in range(2):
            progress("train", 0, 10)
            progress("train", 10, 10)
    assert "train" not in capsys.readouterr().err
