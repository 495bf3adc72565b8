"""The text of a run that was given none: what both models reply to the shipped questions."""

import json
from pathlib import Path

from anaglyph.behaviour.elicit import Speaker, generic_prompts
from anaglyph.core.errors import AnaglyphError
from anaglyph.core.files import write_text
from anaglyph.run.folder import ELICITED, RunFolder
from anaglyph.subject import Subject

PROMPTS = 240
"""Shipped questions that both models answer."""
REPLY_TOKENS = 48


def _is_damaged(out: Path) -> bool:
    """Tell whether the run's record says that the replies are not as they were written."""
    try:
        collected = RunFolder.open(out).state.stages.get("collect")
    except AnaglyphError:  # no record, or none that can be believed
        return False
    seal = None if collected is None else collected.seals.get(ELICITED)
    return seal is not None and seal.problem(out / ELICITED, whole=True) is not None


def write_replies(subject: Subject, out: Path) -> Path:
    """Write both models' replies as chats into the run folder; kept replies are not made again.

    A reply that is the same from both models is written once.

    Args:
        subject: Both models.
        out: The run folder.

    Raises:
        InputError: The folder holds other files than a run's.
    """
    RunFolder.check(out)
    path = out / ELICITED
    if path.is_file() and not _is_damaged(out):
        return path
    prompts = generic_prompts(subject.seed)[:PROMPTS]
    speaker = Speaker(subject.pair, REPLY_TOKENS, 2 * PROMPTS * REPLY_TOKENS, subject.progress)
    rows = []
    for prompt, base, tuned in zip(
        prompts, speaker.base(prompts), speaker.tuned(prompts), strict=True
    ):
        for reply in dict.fromkeys((base, tuned)):
            if reply:
                turns = [("user", prompt), ("assistant", reply)]
                rows.append({"messages": [{"role": r, "content": c} for r, c in turns]})
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path
