"""Commands in a shell: closed and full streams, readers that have gone, numbers beyond counting."""

import subprocess
import sys
from pathlib import Path

import pytest

BAD = "no-such-command"
CASES = [
    ("methods >&-", 0),
    ("methods >&- 2>&- <&-", 0),
    (f"{BAD} 2>&-", 2),
    (f"{BAD} >&- 2>&-", 2),
    (f"{BAD} 2>/dev/full", 2),
    ("methods >/dev/full", 2),
    ("methods --json >/dev/full", 2),
    ("--help >/dev/full", 2),
    ("methods --json | true", 141),
    ("--version | true", 141),
    ("diff --help | true", 141),
    (f"planted --preset easy --seeds {'9' * 23}", 2),
]


@pytest.mark.parametrize(("words", "code"), CASES)
def test_streams(tmp_path: Path, words: str, code: int):
    script = f"{sys.executable} -m anaglyph {words}; exit ${{PIPESTATUS[0]}}"
    command = ["bash", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone(tmp_path: Path):
    script = f"mkdir x; cd x; rmdir ../x; {sys.executable} -P -m anaglyph methods"
    command = ["bash", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: the current folder is gone; change to one that is there\n"
