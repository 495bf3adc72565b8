"""Every promise of SECURITY.md names tests that there are."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_each_promise_is_held_by_a_test():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = [line for line in text.partition("## Promises")[2].splitlines() if line.startswith("| ")]
    promises = [row for row in rows[1:] if row.count("|") == 3 and "`tests/" in row]
    assert len(promises) > 15
    for promise in promises:
        for file, test in TEST.findall(promise):
            code = (ROOT / file).read_text(encoding="utf-8")
            assert not test or f"def {test}(" in code, promise
