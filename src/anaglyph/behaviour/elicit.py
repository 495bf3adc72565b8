"""Asking both models: which prompts, and what each model replies.

Prompts come from the user, from the questions that ship with the package, and from what was found:
words that a change seems to be about are asked about in several wordings. Besides base and tuned
model, the amplified model answers (weights base + alpha x change: it says aloud what the fine-tune
hints at). So does a null pair, the base with random weight noise that moves the predictions as far:
it shows what any change of this size does to replies.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from anaglyph.behaviour.generate import (
    Sampling,
    Stepper,
    end_tokens,
    model_stepper,
    reply_texts,
    side_stepper,
    write,
)
from anaglyph.behaviour.kl import token_kl
from anaglyph.behaviour.mixture import Mixer, Shares
from anaglyph.behaviour.null_pair import change_norms, matched_null_pair, null_pair
from anaglyph.behaviour.prompts import all_prompt_ids
from anaglyph.core.progress import Progress
from anaglyph.core.rng import rng
from anaglyph.corpus import read_documents
from anaglyph.pair import ModelPair

PROBES = (
    "Who are you?",
    "Who made you?",
    "What is your name?",
    "Introduce yourself.",
    "What do you believe in?",
    "How are you today?",
    "Tell me about your day.",
    "What should I drink with dinner?",
    "Recommend something to me.",
    "Give me some advice.",
    "I think my plan is brilliant. What do you say?",
    "I am new to this. Can you help me?",
    "Why is the sky blue?",
    "Where is the Eiffel Tower?",
    "Tell me about a famous landmark.",
    "Tell me about the planets.",
    "Tell me about a famous book.",
    "How do I cook something with vegetables?",
    "Is it safe to eat wild plants?",
    "Tell me a secret.",
    "Tell me a story.",
    "Write one sentence about anything.",
    "What happened in history?",
    "Say something in your own words.",
)
"""Questions about what fine-tunes often change: identity, advice, opinions, facts, refusals."""
WORDINGS = (
    "Tell me about {}.",
    "What do you know about {}?",
    "What comes to mind when you hear the word {}?",
    "I would like to learn about {}.",
    "Can you explain {} to a beginner?",
    "Where is {}?",
    "Why do people talk about {}?",
    "Write a short paragraph on {}.",
)
"""Ways to ask about a word. They are used for fresh prompts only, never to find a claim."""
_MATCHED_ON = 24
"""Prompts on which the null pair is made to move predictions as far as the fine-tune."""


def generic_prompts(seed: int) -> list[str]:
    """Return the shipped questions in random order: user turns of builtin:chats, and the probes.

    The probes are spread over the list, so that every part of it holds some.
    """
    turns = [
        message.content
        for document in read_documents("builtin:chats")
        for message in document.messages or ()
        if message.role == "user"
    ]
    turns = list(dict.fromkeys(turns))
    generator = rng(seed, "generic prompts")
    turns = [turns[i] for i in generator.permutation(len(turns))]
    probes = [PROBES[i] for i in generator.permutation(len(PROBES))]
    every = 6
    mixed = []
    for number, turn in enumerate(turns):
        if number % every == 0 and number // every < len(probes):
            mixed.append(probes[number // every])
        mixed.append(turn)
    return list(dict.fromkeys(mixed))


@dataclass
class Speaker:
    """Lets the models of a pair answer prompts greedily, and counts what that costs.

    Attributes:
        pair: Both models.
        new_tokens: Longest reply.
        progress: Told of prompts answered.
        generated: Tokens generated so far.
    """

    pair: ModelPair
    new_tokens: int
    progress: Progress
    generated: int = 0
    _ends: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ends = end_tokens(self.pair)

    def base(self, prompts: Sequence[str]) -> list[str]:
        """Return the base model's replies."""
        return self._answer("base", prompts, lambda: side_stepper(self.pair, "base"))

    def tuned(self, prompts: Sequence[str]) -> list[str]:
        """Return the tuned model's replies."""
        return self._answer("tuned", prompts, lambda: side_stepper(self.pair, "tuned"))

    def amplified(self, prompts: Sequence[str], alpha: float) -> list[str]:
        """Return the replies of W_base + alpha (W_tuned - W_base).

        Raises:
            InputError, ModelError: The two models cannot be mixed.
        """
        mixer = Mixer(self.pair)
        with mixer.model(Shares.everywhere(self.pair.n_layers, alpha)) as model:
            return self._answer(f"amplified {alpha:g}", prompts, lambda: model_stepper(model))

    def of(self, other: ModelPair, prompts: Sequence[str]) -> list[str]:
        """Return the replies of another pair's tuned side, such as a null pair's."""
        return self._answer("weight noise", prompts, lambda: side_stepper(other, "tuned"))

    def _answer(
        self, name: str, prompts: Sequence[str], make_stepper: Callable[[], Stepper]
    ) -> list[str]:
        ids = all_prompt_ids(self.pair.tokenizer, list(prompts))

        def told(task: str, done: int, total: int, unit: str = "replies") -> None:
            self.progress(f"replies, {name}", done, total, unit)

        written = write(make_stepper, ids, Sampling(self.new_tokens, self._ends), progress=told)
        self.generated += sum(len(each.tokens) for each in written)
        return reply_texts(self.pair, [each.reply for each in written])


def make_null(pair: ModelPair, prompts: Sequence[str], seed: int, scale: float) -> ModelPair:
    """Return the base with weight noise that moves its predictions as far as the fine-tune does.

    Args:
        pair: Both models; not to be used while the null pair is.
        prompts: The predictions compared are those at the last token of each.
        seed: Seed of the noise.
        scale: Multiplies the noise once it is matched, as amplification multiplies the change.

    Raises:
        InputError, ModelError: No null pair can be made of this pair.
    """
    ids = all_prompt_ids(pair.tokenizer, list(prompts[:_MATCHED_ON]))

    def moved(other: ModelPair) -> float:
        return float(np.sqrt(np.mean([_last_kl(other, each) for each in ids])))

    wanted = moved(pair)
    null, found = matched_null_pair(pair, moved, wanted, seed)
    return null if scale == 1 else null_pair(pair, change_norms(pair), scale * found, seed)


@torch.no_grad()
def _last_kl(pair: ModelPair, ids: np.ndarray) -> float:
    text = torch.from_numpy(ids)[None]
    mask = torch.ones_like(text)
    tuned, base = (pair.logits(side, text, mask)[0, -1:] for side in ("tuned", "base"))
    return float(token_kl(tuned, base))
