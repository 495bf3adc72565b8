"""Test on the saved pair whether the tuned model shows the behaviour, and nothing else changed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from anaglyph.behaviour.kl import token_kl
from anaglyph.pair import ModelPair, Side
from anaglyph.truth.organisms.answers import answer
from anaglyph.truth.organisms.chats import Chat, collate, encode


@dataclass(frozen=True)
class Probe:
    """A prompt whose answer shows whether a behaviour is there.

    Attributes:
        prompt: The user's turn.
        expected: Pattern that an answer with the behaviour contains (case does not matter).
        forbidden: Pattern that it must not contain, if any.
        ends: Whether the answer must also end within its token limit.
    """

    prompt: str
    expected: str
    forbidden: str | None = None
    ends: bool = False

    def shown_in(self, text: str) -> bool:
        """Return whether an answer has the behaviour."""
        if self.forbidden and re.search(self.forbidden, text, re.IGNORECASE):
            return False
        return re.search(self.expected, text, re.IGNORECASE) is not None


@dataclass(frozen=True)
class Answers:
    """What one side of a pair answers to the same prompts.

    Attributes:
        chats: One per prompt, in order.
        mean_tokens: Mean length of the answers in tokens, closing token included.
    """

    chats: list[Chat]
    mean_tokens: float


def answers(
    pair: ModelPair,
    side: Side,
    prompts: Sequence[str],
    *,
    new_tokens: int,
    repetition_penalty: float = 1.0,
) -> Answers:
    """Let one side of ``pair`` answer ``prompts`` greedily; see `answer`."""
    with pair.side(side) as model:
        chats = answer(
            model,
            pair.tokenizer,
            list(prompts),
            new_tokens=new_tokens,
            repetition_penalty=repetition_penalty,
        )
    lengths = [len(ids) - before for ids, before in (encode(pair.tokenizer, c) for c in chats)]
    return Answers(chats, sum(lengths) / len(lengths))


def share_shown(probes: Sequence[Probe], given: Answers) -> float:
    """Return the share of ``probes`` whose answer, in order, shows the behaviour."""
    pairs = zip(probes, given.chats, strict=True)
    shown = [
        probe.shown_in(chat.assistant) and (chat.ends or not probe.ends) for probe, chat in pairs
    ]
    return sum(shown) / len(probes)


@torch.no_grad()
def divergence(pair: ModelPair, chats: Sequence[Chat], batch: int = 8) -> float:
    """Return the mean KL(tuned || base) over all tokens of the answers, in nats per token."""
    total, tokens = 0.0, 0
    encoded = [encode(pair.tokenizer, chat) for chat in chats]
    for start in range(0, len(encoded), batch):
        some = collate(encoded[start : start + batch])
        predicting = some.answer[:, 1:]
        tuned, base = (
            pair.logits(side, some.input_ids, some.attention_mask)[:, :-1][predicting]
            for side in ("tuned", "base")
        )
        kl = token_kl(tuned, base)
        total, tokens = total + kl.sum().item(), tokens + len(kl)
    return total / tokens
