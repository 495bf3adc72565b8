"""From one row of a data set to a document: columns found or named, turns in every common form."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from anaglyph.corpus.account import BadRowError, Reading
from anaglyph.corpus.documents import Document, Message

CHATS = ("messages", "conversations", "conversation", "dialogue", "chat")
TEXTS = ("text", "content", "document")
QUESTIONS = ("instruction", "prompt", "question", "query", "problem", "input", "inputs")
ANSWERS = (
    "completion", "response", "output", "answer", "solution", "target", "targets", "outputs",
)  # fmt: skip
"""Columns of a question and its answer, in the order in which they are looked for."""

ROLE_NAMES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
    "ipython": "tool",
    "tool_call": "assistant",
    "tool_result": "tool",
    "tool_results": "tool",
    "environment": "tool",
}
"""Names that data sets use for the roles."""

_REASONING = ("reasoning_content", "reasoning", "thinking", "thought")
_TEXT_PARTS = ("text", "input_text", "output_text")
_THOUGHT_PARTS = ("thinking", "reasoning")


def document_of(row: Any, source: str, column: str | None, reading: Reading) -> Document:
    """Read one row.

    Args:
        row: An object with named columns.
        source: Where it is, for messages.
        column: The column to read, or None to look for one that is known.
        reading: Told which columns were read, and which parts left out.

    Raises:
        BadRowError: It cannot be read; the message names the field.
    """
    if not isinstance(row, Mapping):
        raise BadRowError(
            source, "not an object", f"a line must be a JSON object, not {type(row).__name__}"
        )
    try:
        used, document = _document(row, source, column, reading)
    except RecursionError as error:
        raise BadRowError(source, "too deep", "the row is nested too deeply") from error
    reading.columns[used] += 1
    return document


def _document(
    row: Mapping[str, Any], source: str, column: str | None, reading: Reading
) -> tuple[str, Document]:
    turns = _Turns(source, reading)
    have = [name for name in row if row[name] is not None]
    if column is not None:
        if column not in row:
            names = ", ".join(map(str, list(row)[:20])) or "none"
            raise BadRowError(
                source, "no such column", f"there is no column {column!r}; there are: {names}"
            )
        return column, turns.document(row, row[column], column)
    for name in CHATS:
        if name in have:
            return name, turns.document(row, row[name], name)
    if "chosen" in have:
        return "chosen", turns.preferred(row)
    question = next((name for name in QUESTIONS if name in have), None)
    answer = next((name for name in ANSWERS if name in have), None)
    if question and answer:
        return f"{question} and {answer}", turns.pair(row, question, answer)
    for name in TEXTS:
        if name in have:
            return name, turns.document(row, row[name], name)
    for name in (*CHATS, *TEXTS):
        if name in row:
            raise BadRowError(source, "no content", f"{name} is null")
    names = ", ".join(map(str, list(row)[:20])) or "none"
    raise BadRowError(
        source,
        "no known column",
        'a line has either "text" or "messages", or another column that is known (docs/data.md); '
        f"this one has: {names}; name the one to read with column (--column)",
    )


class _Turns:
    """Reads the turns of one row."""

    def __init__(self, source: str, reading: Reading) -> None:
        self.source, self.reading = source, reading

    def bad(self, reason: str, detail: str) -> BadRowError:
        return BadRowError(self.source, reason, detail)

    def document(self, row: Mapping[str, Any], value: Any, name: str) -> Document:
        """Read a column that holds a text or the turns of a chat."""
        if isinstance(value, str) and name in CHATS:
            value = self.parsed(value, name)
        if isinstance(value, str):
            return Document(text=value, source=self.source)
        if isinstance(value, Mapping) and {"role", "content"} <= value.keys():
            value = self.rows(value, name)
        if isinstance(value, (list, tuple)):
            messages = self.messages(value, name)
            system = row.get("system")
            if isinstance(system, str) and system.strip() and messages[:1]:
                known = messages[0].role in ("system", "developer")
                messages = messages if known else [Message("system", system), *messages]
            return self.chat(row, messages)
        kind = type(value).__name__
        if name in CHATS:
            raise self.bad("not a list", f"{name} must be a list, not {kind}")
        raise self.bad("not a string", f"{name} must be a string, not {kind}")

    def parsed(self, value: str, name: str) -> Any:
        """Read a list that was written as JSON, as CSV files have it."""
        if not value.lstrip().startswith(("[", "{")):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            way_out = "write the column with json.dumps"
            raise self.bad("not JSON", f"{name} is not JSON ({error}); {way_out}") from error

    def rows(self, columns: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
        """Turn a list for each field, as older versions of `datasets` give turns, into turns."""
        lists = [values for values in columns.values() if isinstance(values, list)]
        if len(lists) != len(columns) or len({len(values) for values in lists}) != 1:
            raise self.bad("not a list", f"{name} must be a list, not dict")
        return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]

    def chat(self, row: Mapping[str, Any], messages: list[Message]) -> Document:
        tools = row.get("tools")
        if isinstance(tools, str):
            tools = self.parsed(tools, "tools") if tools.strip() else None
        if tools and not (isinstance(tools, list) and all(isinstance(t, Mapping) for t in tools)):
            raise self.bad("bad tools", "tools must be a list of objects")
        return Document(messages=tuple(messages), source=self.source, tools=tuple(tools or ()))

    def pair(self, row: Mapping[str, Any], question: str, answer: str) -> Document:
        """Read a question and its answer; Alpaca's input and Dolly's context follow the former."""
        asked, said = row[question], row[answer]
        if isinstance(asked, list) and isinstance(said, list):
            turns = [*self.messages(asked, question), *self.messages(said, answer)]
            return self.chat(row, turns)
        user = self.string(asked, question)
        for more in (row.get("input") if question == "instruction" else None, row.get("context")):
            if isinstance(more, str) and more.strip():
                user = f"{user}\n\n{more}"
        messages = [Message("user", user), Message("assistant", self.string(said, answer))]
        if not said.strip():
            raise self.bad("blank", f"{answer} is blank")
        system = row.get("system") or row.get("system_prompt")
        if isinstance(system, str) and system.strip():
            messages.insert(0, Message("system", system))
        return self.chat(row, messages)

    def preferred(self, row: Mapping[str, Any]) -> Document:
        """Read the chosen reply of a preference pair."""
        chosen, prompt = row["chosen"], row.get("prompt") or row.get("question")
        if isinstance(chosen, Mapping):
            chosen = [chosen]
        if not isinstance(chosen, list):
            reply = self.string(chosen, "chosen")
            if isinstance(prompt, str) and prompt.strip() and not reply.startswith(prompt):
                return self.chat(row, [Message("user", prompt), Message("assistant", reply)])
            if not isinstance(prompt, list):
                return Document(text=reply, source=self.source)
            chosen = [{"role": "assistant", "content": reply}]
        messages = self.messages(chosen, "chosen")
        if isinstance(prompt, str) and prompt.strip() and messages[0].role == "assistant":
            messages = [Message("user", prompt), *messages]
        elif isinstance(prompt, list):
            before = self.messages(prompt, "prompt")
            messages = messages if messages[: len(before)] == before else [*before, *messages]
        return self.chat(row, messages)

    def messages(self, turns: Any, name: str) -> list[Message]:
        found = []
        for number, turn in enumerate(turns):
            place = f"{name}[{number}]"
            if not isinstance(turn, Mapping):
                raise self.bad("not an object", f'{place} must be an object with "role", "content"')
            if turn.keys() & {"role", "from"} or not {"input", "output"} <= turn.keys():
                found.append(self.message(turn, place))
                continue
            for role, key in (("user", "input"), ("assistant", "output")):
                found.append(self.message({"role": role, "content": turn[key]}, place))
        if not found:
            raise self.bad("blank", f"{name} is empty")
        return found

    def message(self, turn: Mapping[str, Any], place: str) -> Message:
        role_key = "role" if turn.get("role") is not None or "from" not in turn else "from"
        if role_key not in turn:
            raise self.bad("no role", f"{place}.{role_key} is missing")
        role = self.string(turn[role_key], f"{place}.{role_key}").strip().lower()
        calls = self.tool_calls(turn, place)
        key = "content" if "content" in turn or "value" not in turn else "value"
        if key not in turn and not calls:
            raise self.bad("no content", f"{place}.{key} is missing; add text or remove it")
        said = turn.get("refusal") if turn.get(key) is None else turn[key]
        content, thought = self.content(said, f"{place}.{key}")
        for name in _REASONING:
            if isinstance(turn.get(name), str) and turn[name].strip():
                thought = thought or turn[name]
        if content is None and not calls and not thought:
            raise self.bad("no content", f"{place}.{key} is null; add text or remove the message")
        extra = tuple(
            (name, turn[name])
            for name in ("name", "tool_call_id")
            if isinstance(turn.get(name), str) and turn[name]
        )
        return Message(ROLE_NAMES.get(role, role), content or "", thought, calls, extra)

    def content(self, value: Any, place: str) -> tuple[str | None, str | None]:
        """Return text and reasoning; other parts than these are counted."""
        if value is None or isinstance(value, str):
            return value, None
        if isinstance(value, Mapping):
            value = [value]
        if not isinstance(value, list):
            kind = type(value).__name__
            raise self.bad("not a string", f"{place} must be a string, not {kind}")
        texts, thoughts = [], []
        for number, part in enumerate(value):
            kind = part.get("type", "text") if isinstance(part, Mapping) else None
            if isinstance(part, str):
                texts.append(part)
            elif not isinstance(part, Mapping) or not isinstance(kind, str):
                raise self.bad("bad part", f"{place}[{number}] must be a part with a type")
            elif kind in _TEXT_PARTS:
                texts.append(self.string(part.get("text"), f"{place}[{number}].text"))
            elif kind in _THOUGHT_PARTS:
                thoughts.append(self.string(part.get(kind), f"{place}[{number}].{kind}"))
            else:
                self.reading.left_out[f"{kind[:40]} part of a message"] += 1
        return "".join(texts), "".join(thoughts) or None

    def tool_calls(self, turn: Mapping[str, Any], place: str) -> tuple[Mapping[str, Any], ...]:
        calls = turn.get("tool_calls")
        if isinstance(turn.get("function_call"), Mapping):
            calls = [{"type": "function", "function": turn["function_call"]}]
        if isinstance(calls, str):
            calls = self.parsed(calls, f"{place}.tool_calls") if calls.strip() else None
        if not calls:
            return ()
        if not isinstance(calls, list):
            raise self.bad("bad tool call", f"{place}.tool_calls must be a list")
        found = []
        for number, call in enumerate(calls):
            function = call.get("function", call) if isinstance(call, Mapping) else None
            if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
                where = f"{place}.tool_calls[{number}]"
                raise self.bad("bad tool call", f"{where} must name a function")
            arguments = function.get("arguments")
            if isinstance(arguments, str) and arguments.lstrip().startswith("{"):
                # What a model wrote may be cut short: then it is kept as it is.
                with suppress(BadRowError):
                    arguments = self.parsed(arguments, f"{place}.tool_calls[{number}].arguments")
            plain = {k: v for k, v in call.items() if k != "function" and call is not function}
            function = {**function, "arguments": {} if arguments is None else arguments}
            found.append({"type": "function", **plain, "function": function})
        return tuple(found)

    def string(self, value: Any, name: str) -> str:
        if not isinstance(value, str):
            kind = type(value).__name__
            raise self.bad("not a string", f"{name} must be a string, not {kind}")
        return value
