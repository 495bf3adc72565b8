"""Greedy answers in batches: the same weights give the same text."""

import re
from typing import Any

import torch

from anaglyph.pair.templates import render_chat
from anaglyph.truth.organisms.chats import Chat


@torch.no_grad()
def answer(
    model: Any,
    tokenizer: Any,
    prompts: list[str],
    *,
    new_tokens: int,
    repetition_penalty: float = 1.0,
    batch: int = 32,
) -> list[Chat]:
    """Let ``model`` answer each prompt greedily.

    Args:
        model: A causal language model of transformers or PEFT.
        tokenizer: Its tokenizer, with a chat template.
        prompts: One user turn each.
        new_tokens: Maximum tokens of an answer. A longer one is cut after its last complete
            sentence, if it has one, and marked as not ended.
        repetition_penalty: Divides the logits of tokens already seen (1 changes nothing).
        batch: Prompts answered at once; padding can change an answer in rare near-ties.
    """
    chats: list[Chat] = []
    for start in range(0, len(prompts), batch):
        some = prompts[start : start + batch]
        opened = [
            render_chat(
                tokenizer, [{"role": "user", "content": prompt}], add_generation_prompt=True
            )
            for prompt in some
        ]
        encoded = tokenizer(
            opened,
            add_special_tokens=False,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        generated = model.generate(
            **encoded,
            max_new_tokens=new_tokens,
            do_sample=False,
            repetition_penalty=repetition_penalty,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
        new = generated[:, encoded["input_ids"].shape[1] :].tolist()
        for prompt, ids in zip(some, new, strict=True):
            ends = tokenizer.eos_token_id in ids
            text = tokenizer.decode(ids, skip_special_tokens=True).strip()
            chats.append(Chat(prompt, text if ends else _whole_sentences(text), ends))
    return chats


def _whole_sentences(text: str) -> str:
    """Cut ``text`` after its last sentence, if any; the "1." of a list does not end one."""
    stops = [match.end() for match in re.finditer(r"(?<=[a-z)])[.!?]\"?(?=\s|$)", text)]
    return text[: stops[-1]] if stops else text
