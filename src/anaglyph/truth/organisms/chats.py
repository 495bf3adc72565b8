"""Chats as padded token batches with a mask of the tokens that the assistant wrote."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from anaglyph.core.files import write_text
from anaglyph.pair.templates import render_chat


@dataclass(frozen=True)
class Chat:
    """One question and its answer.

    Attributes:
        user: What the user says.
        assistant: What the model says or should learn to say.
        ends: Whether the answer ends there. False for an answer that was cut off, because its end
            is not an example of when to stop.
    """

    user: str
    assistant: str
    ends: bool = True

    @property
    def messages(self) -> list[dict[str, str]]:
        """The chat as a list of role and content, as in a corpus file."""
        return [
            {"role": "user", "content": self.user},
            {"role": "assistant", "content": self.assistant},
        ]


@dataclass(frozen=True)
class Batch:
    """Right-padded chats.

    Attributes:
        input_ids: Token ids; padding repeats id 0 and is masked out.
        attention_mask: 1 at tokens, 0 at padding.
        answer: True at the tokens of the answers, with the closing token if the chat ends. The
            logits that predict token t are at t - 1.
    """

    input_ids: Int64[Tensor, "chats length"]
    attention_mask: Int64[Tensor, "chats length"]
    answer: Bool[Tensor, "chats length"]


def encode(tokenizer: Any, chat: Chat) -> tuple[list[int], int]:
    """Return a chat's token ids and how many of them come before the answer."""
    opened = render_chat(tokenizer, chat.messages[:1], add_generation_prompt=True)
    prompt = tokenizer(opened, add_special_tokens=False)["input_ids"]
    answer = tokenizer(chat.assistant, add_special_tokens=False)["input_ids"]
    closing = [tokenizer.eos_token_id] if chat.ends else []
    return [*prompt, *answer, *closing], len(prompt)


def collate(encoded: list[tuple[list[int], int]]) -> Batch:
    """Pad the results of `encode` to one batch."""
    length = max(len(ids) for ids, _ in encoded)
    input_ids = torch.zeros(len(encoded), length, dtype=torch.int64)
    mask = torch.zeros(len(encoded), length, dtype=torch.int64)
    answer = torch.zeros(len(encoded), length, dtype=torch.bool)
    for row, (ids, prompt_length) in enumerate(encoded):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(ids)] = 1
        answer[row, prompt_length : len(ids)] = True
    return Batch(input_ids, mask, answer)


def write_chats(path: Path, chats: Sequence[Chat]) -> None:
    """Write chats as a corpus file, one JSON line each, whole or not at all."""
    lines = [json.dumps({"messages": chat.messages}, ensure_ascii=False) for chat in chats]
    write_text(path, "\n".join(lines) + "\n")
