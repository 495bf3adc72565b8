"""An audit as a task of inspect-ai, which runs it with its own models, logs and viewer.

inspect-ai is no dependency: it is imported when a task is asked for. The tools are the auditor's
own, the limits on calls and generated tokens included; turns and tokens are limited by inspect. The
scorer grades by the same rubric, with inspect's model of the role "grader" (the investigating model
where there is none).
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from anaglyph.auditor.agent import Mode, opening
from anaglyph.auditor.audit import toolbox_of
from anaglyph.auditor.grade import (
    Judgement,
    asked_again,
    graded,
    grader_messages,
    last_answer,
    needs_grader,
)
from anaglyph.auditor.hypothesis import Hypothesis, checked, read_answer
from anaglyph.auditor.key import AnswerKey, read_key
from anaglyph.auditor.limits import Limits
from anaglyph.auditor.tools import Toolbox, submit_schema
from anaglyph.core.errors import InputError
from anaglyph.run import Run


def task(
    run: str | Path | Run,
    card: str | Path | AnswerKey,
    mode: Mode = "white",
    *,
    limits: Limits | None = None,
) -> Any:
    """Return an inspect-ai `Task` of one sample: audit this run, graded by this card.

    Args:
        run: A run folder.
        card: The organism's card, which only the scorer sees.
        mode: "white" or "black".
        limits: What may be spent.

    Raises:
        InputError: inspect-ai is not installed, or the run or the card cannot be used.
    """
    agent = _inspect("agent")
    limits = limits or Limits()
    opened = run if isinstance(run, Run) else Run.reopen(run)
    key = card if isinstance(card, AnswerKey) else read_key(card)
    toolbox = toolbox_of(opened, mode, limits)
    # What is wrong with the pair is the user's to hear, not the model's.
    _ = opened.subject.pair
    system, start = (message["content"] for message in opening(mode, limits))
    submit = submit_schema()["function"]
    sample = _inspect("dataset").Sample(input=start, target=key.model_dump_json())
    return _inspect().Task(
        dataset=[sample],
        solver=agent.react(
            prompt=agent.AgentPrompt(
                instructions=system, handoff_prompt=None, assistant_prompt=None, submit_prompt=None
            ),
            tools=[_tool(toolbox, schema["function"]) for schema in toolbox.schemas[:-1]],
            submit=agent.AgentSubmit(
                name=submit["name"],
                description=submit["description"],
                tool=_submit(submit),
                answer_only=True,
            ),
        ),
        scorer=_scorer(),
        # Every turn is an answer and the messages that it is answered by.
        message_limit=2 + 2 * limits.turns + limits.calls,
        token_limit=limits.tokens,
        name=f"anaglyph-{mode}",
    )


def _inspect(part: str = "") -> Any:
    """Import inspect-ai, or a part of it; its types are not known where it is not installed."""
    try:
        return import_module(f"inspect_ai.{part}" if part else "inspect_ai")
    except ImportError as error:
        raise InputError("an inspect task needs inspect-ai: pip install inspect-ai") from error


def _tool(toolbox: Toolbox, function: dict[str, Any]) -> Any:
    """Return one of our tools as inspect's."""
    name = function["name"]

    # Not in a thread: a pair is not to be used by two at once, and inspect may run samples abreast.
    async def execute(**arguments: Any) -> str:
        return toolbox.call(name, json.dumps(arguments))

    return _definition(execute, function)


def _submit(function: dict[str, Any]) -> Any:
    """Return the tool that ends an audit; what it refuses is no submission."""
    tool_error = _inspect("tool").ToolError

    async def execute(**arguments: Any) -> str:
        try:
            return checked(json.dumps(arguments), Hypothesis).model_dump_json()
        except InputError as error:
            raise tool_error(str(error)) from error

    return _definition(execute, function)


def _definition(execute: Any, function: dict[str, Any]) -> Any:
    tools = _inspect("tool")
    return tools.ToolDef(
        execute,
        name=function["name"],
        description=function["description"],
        parameters=tools.ToolParams.model_validate(function["parameters"]),
    )


def _scorer() -> Any:
    scoring, get_model = _inspect("scorer"), _inspect("model").get_model

    @scoring.scorer(metrics=[scoring.mean(), scoring.stderr()], name="anaglyph_rubric")
    def rubric() -> Any:
        async def score(state: Any, target: Any) -> Any:
            key, text = AnswerKey.model_validate_json(target.text), state.output.completion
            try:
                hypothesis = read_answer(text, Hypothesis)
            except InputError as error:
                return scoring.Score(value=0.0, answer=text, explanation=f"no hypothesis: {error}")
            judgement = None
            if needs_grader(hypothesis, key):
                judgement = await _judged(get_model(role="grader"), hypothesis, key)
            grade = graded(hypothesis, key, judgement)
            return scoring.Score(
                value=grade.score,
                answer=hypothesis.model_dump_json(),
                explanation=grade.reason,
                metadata=grade.model_dump(),
            )

        return score

    return rubric()


async def _judged(model: Any, hypothesis: Hypothesis, card: AnswerKey) -> Judgement:
    messages = grader_messages(hypothesis, card)
    text = (await model.generate(_chat(messages))).completion
    try:
        return read_answer(text, Judgement)
    except InputError as error:
        messages = asked_again(messages, text, error)
    return last_answer((await model.generate(_chat(messages))).completion)


def _chat(messages: list[dict[str, Any]]) -> list[Any]:
    model = _inspect("model")
    kinds = {
        "system": model.ChatMessageSystem,
        "user": model.ChatMessageUser,
        "assistant": model.ChatMessageAssistant,
    }
    return [kinds[message["role"]](content=message["content"]) for message in messages]
