"""Prompts: read from a file, and put into the template that both models share."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from anaglyph.core.errors import InputError
from anaglyph.core.files import parse_json, read_input
from anaglyph.pair.templates import render_chat


@dataclass(frozen=True)
class Completion:
    """A prompt and a continuation whose likelihood is asked for.

    Attributes:
        prompt: The user's turn; "" for a text without one.
        completion: What follows.
    """

    prompt: str
    completion: str


def read_prompts(path: str | Path) -> list[str]:
    """Read prompts: one a line, or JSONL with "prompt" or "messages" (the first user turn).

    Raises:
        InputError: The file cannot be read, holds no prompt, or a line is out of order.
    """
    path = Path(path)
    if path.suffix != ".jsonl":
        prompts = [line.strip() for line in read_input(path).split("\n") if line.strip()]
    else:
        prompts = [_prompt(row, where) for where, row in _rows(path)]
    if not prompts:
        raise InputError(f"{path} holds no prompt")
    return prompts


def read_completions(path: str | Path) -> list[Completion]:
    """Read JSONL with "completion" and, where there is one, "prompt".

    Raises:
        InputError: The file cannot be read, is empty, or a line is out of order.
    """
    found = []
    for where, row in _rows(Path(path)):
        prompt, completion = row.get("prompt", ""), row.get("completion")
        if not isinstance(prompt, str) or not isinstance(completion, str) or not completion:
            raise InputError(f'{where}: needs "completion" (text) and may have "prompt" (text)')
        found.append(Completion(prompt, completion))
    if not found:
        raise InputError(f"{path} holds no completion")
    return found


def prompt_ids(tokenizer: Any, prompt: str) -> Int64[np.ndarray, " tokens"]:
    """Return a prompt's tokens up to where the reply begins.

    With a chat template the prompt is the user's turn; without one it is plain text, before which
    the tokenizer puts what it always puts. An empty prompt is at least the bos token, if any.

    Raises:
        InputError: The prompt comes out empty, or the chat template refuses it.
    """
    if tokenizer.chat_template is not None and prompt:
        turns = [{"role": "user", "content": prompt}]
        text = render_chat(tokenizer, turns, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        ids = tokenizer(prompt)["input_ids"]
    if len(ids) == 0 and tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id]
    if len(ids) == 0:
        raise InputError("a prompt is empty, and the tokenizer has no bos to begin with")
    return np.array(ids, np.int64)


def all_prompt_ids(tokenizer: Any, prompts: Sequence[str]) -> list[Int64[np.ndarray, " tokens"]]:
    """Return `prompt_ids` of each prompt.

    Raises:
        InputError: There are no prompts, or one of them is empty.
    """
    if not prompts:
        raise InputError("there are no prompts")
    return [prompt_ids(tokenizer, prompt) for prompt in prompts]


def _prompt(row: dict[str, Any], where: str) -> str:
    messages = row.get("messages") or []
    try:
        turns = [turn["content"] for turn in messages if turn["role"] == "user"]
    except (TypeError, KeyError) as error:
        raise InputError(f"{where}: messages need role and content") from error
    prompt = row.get("prompt", turns[0] if turns else None)
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError(f'{where}: needs "prompt" (text), or "messages" with a user turn')
    return prompt


def _rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    rows = []
    for number, line in enumerate(read_input(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = parse_json(line, unique=True)
            json.dumps(row, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"{where} holds a lone surrogate: write the character") from error
        except ValueError as error:
            raise InputError(f"{where} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{where} must be an object")
        rows.append((where, row))
    return rows
