"""`public_arguments.py`, where types are not checked: with the suite's hook, that would refuse."""

import subprocess
import sys
from pathlib import Path


def test_what_the_functions_refuse_themselves():
    file = Path(__file__).with_name("public_arguments.py")
    options = ["--noconftest", "-q", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
