"""What a job of a cluster does: run one command, and end it in time when the job is preempted."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STOPPING = 60.0
"""Seconds that a preempted command may take to end; then it is killed, and loses no more."""
POLL = 0.2


@dataclass
class Command:
    """What a job does: run a command, with its output in a log, until it ends.

    submitit calls ``checkpoint`` when the job is preempted or its time is over, and queues what
    that returns.
    """

    words: tuple[str, ...]
    log: str
    _running: "subprocess.Popen[bytes] | None" = None

    def __call__(self) -> None:
        """Run the command; the job ends with its exit code."""
        with Path(self.log).open("ab") as log:
            self._running = subprocess.Popen(self.words, stdout=log, stderr=log)
        # Not wait(): a signal's handler could not wait for the process within it.
        while (code := self._running.poll()) is None:
            time.sleep(POLL)
        if code != 0:
            raise SystemExit(code if code > 0 else 128 - code)

    def checkpoint(self) -> Any:
        """End the command, which keeps its work, and return what is to be queued again."""
        from submitit.helpers import DelayedSubmission

        if self._running is not None:
            self._running.terminate()
            try:
                self._running.wait(STOPPING)
            except subprocess.TimeoutExpired:
                self._running.kill()
        return DelayedSubmission(Command(self.words, self.log))
