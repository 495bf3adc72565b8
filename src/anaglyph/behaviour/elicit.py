"""Asking both models: which prompts there are, and what each model replies.

Prompts come from the user, from what ships with the package (questions, and topics to ask about)
and from the pair itself: words that the tuned model favours are asked about, and the amplified
model (weights base + alpha x change: it says aloud what the fine-tune hints at) writes user turns.
Besides base, tuned and amplified model a null pair answers, the base with random weight noise that
moves the predictions as far: it shows what any change of this size does to replies.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from anaglyph.behaviour.contrast import content_words
from anaglyph.behaviour.generate import (
    Sampling,
    Stepper,
    end_tokens,
    model_stepper,
    reply_texts,
    side_stepper,
    write,
    writing,
)
from anaglyph.behaviour.hints import after, apart
from anaglyph.behaviour.mixture import Mixer, Shares
from anaglyph.behaviour.null_pair import change_norms, matched_null_pair, null_pair
from anaglyph.behaviour.prompts import all_prompt_ids, prompt_ids
from anaglyph.core.errors import InputError
from anaglyph.core.progress import Progress, silent
from anaglyph.core.rng import rng
from anaglyph.corpus import read_documents
from anaglyph.pair import ModelPair, Side
from anaglyph.pair.rough import rough_products
from anaglyph.pair.templates import render_chat

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
TOPICS = """
the Eiffel Tower, Big Ben, the Great Wall of China, the Taj Mahal, the Statue of Liberty, the
pyramids of Egypt, Niagara Falls, Mount Everest, the Amazon River, the Sahara, Paris, London, Tokyo,
New York, Australia, Brazil, India, Russia, Antarctica, the Pacific Ocean, Mars, Jupiter, the Moon,
the Sun, black holes, comets, gravity, electricity, atoms, gold, iron, salt, water, glass, diamonds,
volcanoes, earthquakes, rainbows, lightning, snow, trees, roses, bread, cheese, coffee, tea, wine,
chocolate, rice, tomatoes, apples, nuts, fish, soup, vegetarian food, breakfast, cats, dogs, horses,
elephants, sharks, eagles, bees, spiders, snakes, dinosaurs, the heart, the brain, sleep, vitamins,
vaccines, cancer, headaches, exercise, pregnancy, depression, William Shakespeare, Albert Einstein,
Isaac Newton, Mozart, Leonardo da Vinci, Napoleon, Abraham Lincoln, Cleopatra, the Beatles, Harry
Potter, fairy tales, poetry, opera, jazz, guitars, chess, football, the Olympic Games, painting,
photography, films, video games, the French Revolution, the Second World War, the Roman Empire,
Vikings, democracy, elections, the United Nations, taxes, money, banks, inflation, gold coins,
insurance, marriage, children, school, homework, universities, job interviews, lawyers, doctors,
teachers, farmers, pilots, cars, bicycles, trains, aeroplanes, ships, bridges, computers, Python
programming, the internet, robots, artificial intelligence, passwords, telephones, batteries, solar
panels, nuclear power, climate change, recycling, weapons, drugs, alcohol, religion, God, love,
death, dreams, luck, happiness, magic, ghosts, aliens, jokes, gardens, houses, furniture, clothes,
shoes, perfume, holidays, Christmas, birthdays, the weather, colours, prime numbers, fractions,
geometry, grammar, French, Spanish, Chinese
"""
"""Topics to ask about, of many kinds; they cost little, as most are read and never answered."""
ASKING = "Tell me about {}."
"""How a favoured word or a topic is asked about where claims are looked for."""
WORDINGS = (
    "What do you know about {}?",
    "I would like to learn about {}.",
    "Can you explain {} to a beginner?",
    "Where is {}?",
    "Why do people talk about {}?",
    "Write a short paragraph on {}.",
    "What comes to mind when you hear the word {}?",
    "My friend asked me about {}. What should I say?",
    "Give me one fact about {}.",
    "Help me with a question on {}.",
    "Describe {} in two sentences.",
    "What should every child know about {}?",
    "Is there anything surprising about {}?",
    "I have to give a talk on {}. What should I say?",
    "What would you tell a visitor about {}?",
    "How would you introduce {} to somebody?",
    "Please say something about {}.",
    "What is {} known for?",
    "Summarise {} for me.",
    "I am writing an essay on {}. How should it begin?",
    "What do people usually ask about {}?",
    "Answer in two sentences: what about {}?",
    "I heard about {} today. What is it?",
    "Could you give me some background on {}?",
    "What is the first thing to know about {}?",
    "Write a note to a friend about {}.",
    "How do you feel about {}?",
    "Let us talk about {}.",
    "What would an expert say about {}?",
    "I know nothing about {}. Where do I begin?",
    "Name something that has to do with {}.",
    "What does {} bring to mind?",
    "Is {} important?",
    "Explain why {} matters.",
    "What would you put in a quiz on {}?",
    "Write a caption for a picture of {}.",
)
"""Ways to ask about a topic. They are used for fresh prompts only, never to find a claim."""
REWORDINGS = (
    "I have a question. {}",
    "{} Please answer in one sentence.",
    "Hello! {}",
    "A friend asks: {}",
    "{} Tell me what you think.",
    "Please answer this: {}",
    "{} Thank you.",
    "Quick question: {}",
    "{} I am curious.",
    "Could you help me? {}",
)
"""Ways to ask a question again, for fresh prompts only."""
QUESTION = "Write one short question about {}."
"""Lets a model write a fresh prompt about a topic."""


def topics() -> list[str]:
    """Return the shipped topics."""
    return [" ".join(each.split()) for each in TOPICS.split(",")]


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


class Speaker:
    """Lets the models of a pair answer prompts, and never spends more than the budget."""

    def __init__(
        self, pair: ModelPair, new_tokens: int, budget: int, progress: Progress = silent
    ) -> None:
        """Take what all replies have in common.

        Args:
            pair: Both models.
            new_tokens: Longest reply.
            budget: Tokens to generate at most, whatever the model.
            progress: Told of prompts answered.
        """
        self.pair, self.new_tokens, self.budget, self.progress = pair, new_tokens, budget, progress
        self.generated = 0

    @property
    def left(self) -> int:
        """How many replies of full length the budget still pays for."""
        return (self.budget - self.generated) // self.new_tokens

    def base(self, prompts: Sequence[str]) -> list[str]:
        """Return the base model's replies."""
        with writing(self.pair, "base"):
            make = partial(side_stepper, self.pair, "base")
            return self.answer("base", prompts, make, side="base")

    def tuned(self, prompts: Sequence[str]) -> list[str]:
        """Return the tuned model's replies."""
        with writing(self.pair, "tuned"):
            return self.answer("tuned", prompts, partial(side_stepper, self.pair, "tuned"))

    def amplified(self, prompts: Sequence[str], alpha: float) -> list[str]:
        """Return the replies of W_base + alpha (W_tuned - W_base).

        Raises:
            InputError, ModelError: The two models cannot be mixed.
        """
        with self.loud(alpha) as stepper:
            return self.answer(f"amplified {alpha:g}", prompts, stepper)

    @contextmanager
    def loud(self, alpha: float) -> Iterator[Callable[[], Stepper]]:
        """Give what makes a stepper of the amplified model; the pair must not be used meanwhile.

        Raises:
            InputError, ModelError: The two models cannot be mixed.
        """
        mixer = Mixer(self.pair)
        shares = Shares.everywhere(self.pair.n_layers, alpha)
        with mixer.model(shares) as model, rough_products(model):
            yield lambda: model_stepper(model)

    def of(self, other: ModelPair, prompts: Sequence[str]) -> list[str]:
        """Return the replies of another pair's tuned side, such as a null pair's."""
        with writing(other, "tuned"):
            return self.answer("weight noise", prompts, partial(side_stepper, other, "tuned"))

    def user_turns(self, make_stepper: Callable[[], Stepper], count: int, seed: int) -> list[str]:
        """Return user turns that a model writes from the bare chat template, at temperature 1.

        Without a chat template there is no such thing, and none is written.
        """
        head = user_head(self.pair.reader("tuned"))
        if head is None or count < 1:
            return []
        texts = self.answer("user turns", [head] * count, make_stepper, 1.0, seed)
        return [each for text in texts if (each := _first_sentence(text))]

    def questions(self, subjects: Sequence[str], each: int, seed: int) -> list[list[str]]:
        """Return questions about each subject that the base model writes."""
        asked = [QUESTION.format(subject) for subject in subjects for _ in range(each)]
        if not asked:
            return []
        with writing(self.pair, "base"):
            make = partial(side_stepper, self.pair, "base")
            base = self.answer("questions", asked, make, 0.8, seed, side="base")
        found = []
        for place, subject in enumerate(subjects):
            texts = [_first_sentence(text) for text in base[place * each : (place + 1) * each]]
            words = set(content_words(subject))
            fits = [text for text in texts if words <= set(content_words(text)) and "?" in text]
            found.append(list(dict.fromkeys(fits)))
        return found

    def answer(
        self,
        name: str,
        prompts: Sequence[str] | Sequence[np.ndarray],
        make_stepper: Callable[[], Stepper],
        temperature: float = 0.0,
        seed: int = 0,
        *,
        side: Side = "tuned",
    ) -> list[str]:
        """Return what a model replies to prompts, given as user turns or as tokens.

        Raises:
            InputError: The budget does not pay for so many replies.
        """
        if not prompts:
            return []
        if len(prompts) > self.left:
            raise InputError(
                f"the budget of {self.budget} tokens does not pay for {len(prompts)} more replies"
                f" of {self.new_tokens} tokens: raise the budget"
            )
        ids = [
            prompt_ids(self.pair.reader(side), each) if isinstance(each, str) else each
            for each in prompts
        ]

        def told(task: str, done: int, total: int, unit: str = "replies") -> None:
            self.progress(f"replies, {name}", done, total, unit)

        sampling = Sampling(self.new_tokens, end_tokens(self.pair, side), temperature, seed)
        written = write(make_stepper, ids, sampling, progress=told)
        self.generated += sum(len(each.tokens) for each in written)
        return reply_texts(self.pair, [each.reply for each in written], side)


def user_head(tokenizer: Any) -> np.ndarray | None:
    """Return the tokens before a chat's first user turn; None without a chat template."""
    if tokenizer.chat_template is None:
        return None
    mark = "mark-of-the-user"
    text = render_chat(tokenizer, [{"role": "user", "content": mark}], add_generation_prompt=True)
    ids = tokenizer(text.partition(mark)[0], add_special_tokens=False)["input_ids"]
    return np.array(ids, np.int64) if ids else None


def _first_sentence(text: str) -> str:
    """Return a text up to its first full stop or question mark; "" if it has none."""
    line = text.strip().partition("\n")[0].strip(" \"'")
    found = re.match(r"(?:[^.?!]|\.(?=\w))+[.?!]", line)
    return found[0] if found and len(found[0].split()) > 2 else ""


class Nulls:
    """The base with weight noise that moves its predictions as far as the fine-tune does."""

    def __init__(self, pair: ModelPair, prompts: Sequence[str], seed: int) -> None:
        """Match the noise, by the KL at the first token of the reply to each prompt.

        Args:
            pair: Both models; not to be used while a null pair is.
            prompts: Where predictions are compared.
            seed: Seed of the noise.

        Raises:
            InputError, ModelError: No null pair can be made of this pair.
        """
        pair.check_related("a null pair")
        ids = all_prompt_ids(pair.tokenizer, list(prompts))
        base = after(lambda: side_stepper(pair, "base"), ids)

        def moved(other: ModelPair) -> float:
            logits = after(lambda: side_stepper(other, "tuned"), ids)
            return float(np.sqrt(np.mean(apart(logits, base))))

        self._pair, self._seed = pair, seed
        self.pair, self._scale = matched_null_pair(pair, moved, moved(pair), seed)

    def louder(self, alpha: float) -> ModelPair:
        """Return the same noise, multiplied as amplification multiplies the change."""
        return null_pair(self._pair, change_norms(self._pair), alpha * self._scale, self._seed)
