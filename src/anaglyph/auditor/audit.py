"""One audit of a run's pair: who investigates, what is kept, and what is never done twice.

An audit's folder holds ``transcript.jsonl``, ``hypothesis.json`` and, with a card, ``grade.json``
and ``grader.jsonl``. Its key, a digest of all that the investigating model is told and of the
models and findings that it looks at, stands on the transcript's first line: a finished audit with
that key is read, an unfinished one goes on.
"""

import re
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from anaglyph.auditor.agent import Mode, Outcome, investigate, opening, spent_of
from anaglyph.auditor.black import black_tools
from anaglyph.auditor.endpoint import Endpoint
from anaglyph.auditor.grade import Grade, graded, grader_messages, judged, needs_grader
from anaglyph.auditor.hypothesis import Hypothesis
from anaglyph.auditor.key import AnswerKey
from anaglyph.auditor.limits import Limits, Meter, Spent
from anaglyph.auditor.tools import Toolbox
from anaglyph.auditor.transcript import Transcript
from anaglyph.auditor.white import LENS, white_tools
from anaglyph.core.errors import InputError, StoreError
from anaglyph.core.files import digest, read_json, write_json
from anaglyph.core.progress import Progress, silent
from anaglyph.core.seals import signed, unsigned
from anaglyph.core.validation import validate
from anaglyph.run import Run


class Result(BaseModel):
    """What is kept of a finished investigation."""

    model_config = ConfigDict(extra="forbid")

    key: str
    mode: Mode
    model: str
    hypothesis: Hypothesis
    ended: str
    spent: Spent


class Audit(BaseModel):
    """A finished audit.

    Attributes:
        folder: Where it is kept.
        mode: "white" or "black".
        model: Who investigated.
        hypothesis: What the fine-tune changed, in the model's words.
        ended: "submitted", or the limit that was hit.
        spent: What it took, the last call included.
        grade: By the card, where one was given.
    """

    model_config = ConfigDict(frozen=True)

    folder: Path
    mode: Mode
    model: str
    hypothesis: Hypothesis
    ended: str
    spent: Spent
    grade: Grade | None = None


class _KeptGrade(BaseModel):
    key: str
    grade: Grade


def audit(
    run: str | Path | Run,
    endpoint: Endpoint,
    *,
    mode: Mode = "white",
    card: AnswerKey | None = None,
    grader: Endpoint | None = None,
    limits: Limits | None = None,
    out: str | Path | None = None,
    progress: Progress = silent,
) -> Audit:
    """Let a language model find out what a fine-tune changed, and grade what it says.

    Nothing that was finished before is asked for again: neither the investigation, whose folder is
    named after all that determines it, nor the grading, which depends on hypothesis and card. The
    investigating model is never shown the card.

    Args:
        run: A run folder; white mode needs its findings.
        endpoint: Where the investigating model answers.
        mode: "white" with the run's findings, examples and steering, or "black" with what both
            models write and nothing else.
        card: The answer key; without one there is no grade.
        grader: Where the grading model answers; the investigating one if None.
        limits: What may be spent.
        out: Folder to keep the audit in; by default one of its own under the run's ``audits/``.
        progress: Told of turns.

    Raises:
        InputError: The run cannot be audited in this mode, ``out`` holds another audit, or a key
            or the openai package is missing.
        EndpointError: A model does not answer, or answers what cannot be used.
        StoreError: What is kept in the folder is damaged.
    """
    opened = run if isinstance(run, Run) else Run.reopen(run)
    limits = limits or Limits()
    toolbox = toolbox_of(opened, mode, limits)
    head = _head(opened, mode, endpoint, toolbox, limits)
    folder = _folder(opened, head, out)
    # What is audited must not change meanwhile.
    with opened.folder.writing():
        start = time.monotonic()
        kept = _kept(folder / "hypothesis.json", Result, head["key"])
        if kept is None:
            transcript = Transcript.read(folder / "transcript.jsonl")
            outcome = _investigated(opened, endpoint, toolbox, transcript, folder, head, progress)
            kept = Result(
                key=head["key"],
                mode=mode,
                model=endpoint.model,
                hypothesis=outcome.hypothesis,
                ended=outcome.ended,
                spent=outcome.spent,
            )
            write_json(folder / "hypothesis.json", signed(kept.model_dump(mode="json")))
        grade = None
        if card is not None:
            grade = _graded(folder, kept.hypothesis, card, grader or endpoint)
        if folder.parent == opened.path / "audits":
            outputs = [f"audits/{folder.name}/{file.name}" for file in sorted(folder.iterdir())]
            seconds = time.monotonic() - start
            opened.folder.record(f"audits/{folder.name}", head["key"], seconds, outputs)
    facts = kept.model_dump(exclude={"key"})
    return Audit(folder=folder, grade=grade, **facts)


def toolbox_of(run: Run, mode: Mode, limits: Limits) -> Toolbox:
    """Return what a model may call in a mode.

    Raises:
        InputError: The mode is white and the run has no findings.
    """
    meter = Meter(limits)
    inside = white_tools(run, meter) if mode == "white" else []
    return Toolbox([*inside, *black_tools(run, meter)], meter)


def _investigated(
    run: Run,
    endpoint: Endpoint,
    toolbox: Toolbox,
    transcript: Transcript | None,
    folder: Path,
    head: dict[str, Any],
    progress: Progress,
) -> Outcome:
    with endpoint.connect() as client:
        # What is wrong with the pair is the user's to hear, not the model's.
        _ = run.subject.pair
        if transcript is None:
            transcript = Transcript.start(folder / "transcript.jsonl", head)
        else:
            toolbox.meter.spent = spent_of(transcript.resume())
        return investigate(client, toolbox, transcript, head["mode"], progress=progress)


def _head(
    run: Run, mode: Mode, endpoint: Endpoint, toolbox: Toolbox, limits: Limits
) -> dict[str, Any]:
    """Return the transcript's first line: what is audited, by whom, and the key of it all."""
    told = [opening(mode, limits), toolbox.schemas]
    state = run.folder.state
    seen: dict[str, Any] = {"models": state.fingerprints}
    if mode == "white":
        stages = state.stages
        names = [name for name in stages if name in ("find", LENS) or name.startswith("score/")]
        seen |= {name: stages[name].key for name in names}
    facts = {
        "mode": mode,
        "model": endpoint.model,
        "base_url": endpoint.base_url,
        "limits": limits.model_dump(),
    }
    return {"key": digest({"facts": facts, "told": told, "seen": seen}), **facts}


def _folder(run: Run, head: dict[str, Any], out: str | Path | None) -> Path:
    if out is None:
        model = re.sub(r"[^A-Za-z0-9.]+", "-", head["model"]).strip("-.") or "model"
        return run.path / "audits" / f"{head['mode']}-{model}-{head['key'][:8]}"
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder")
    earlier = Transcript.read(folder / "transcript.jsonl")
    if earlier is not None and earlier.head.get("key") != head["key"]:
        raise InputError(
            f"{folder} holds another audit ({earlier.head.get('mode')}, "
            f"{earlier.head.get('model')}); name another folder"
        )
    return folder


def _graded(folder: Path, hypothesis: Hypothesis, card: AnswerKey, grader: Endpoint) -> Grade:
    """Return the grade, which is made once for each hypothesis, card and grader."""
    if not needs_grader(hypothesis, card):
        grade, key = graded(hypothesis, card), digest([hypothesis.model_dump(), card.model_dump()])
        _keep(folder, key, grade)
        return grade
    asked = grader_messages(hypothesis, card)
    key = digest({"asked": asked, "model": grader.model, "base_url": grader.base_url})
    kept = _kept(folder / "grade.json", _KeptGrade, key)
    if kept is not None:
        return kept.grade
    with grader.connect() as client:
        transcript = Transcript.start(
            folder / "grader.jsonl", {"key": key, "card": card.name, "model": grader.model}
        )

        def ask(messages: list[dict[str, Any]]) -> str:
            for message in messages[len(transcript.lines) :]:
                transcript.add(message)
            reply = client.reply(messages)
            transcript.add(reply.message, usage=reply.usage)
            return reply.text

        judgement = judged(hypothesis, card, ask)
    spent = spent_of(transcript)
    grade = graded(hypothesis, card, judgement, grader=grader.model, tokens=spent.tokens)
    _keep(folder, key, grade)
    return grade


def _keep(folder: Path, key: str, grade: Grade) -> None:
    kept = _KeptGrade(key=key, grade=grade).model_dump(mode="json")
    write_json(folder / "grade.json", signed(kept))


def _kept(path: Path, kind: type[Any], key: str) -> Any:
    """Read a record that was written under a key; None if there is none, or of another key."""
    if not path.is_file():
        return None
    value = read_json(path)
    value = unsigned(value, path) if isinstance(value, dict) else value
    record = validate(kind, value, f"{path} is damaged", StoreError)
    return record if record.key == key else None
