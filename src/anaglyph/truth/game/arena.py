"""One organism as a player meets it: both models, the text they read and what they made of it.

What several players need is made once. The card stays out of sight.
"""

from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from anaglyph.behaviour.generate import continue_prompts, end_tokens, reply_texts, side_stepper
from anaglyph.behaviour.predictions import head_logits
from anaglyph.behaviour.prompts import all_prompt_ids
from anaglyph.core.errors import InputError
from anaglyph.core.files import read_settings
from anaglyph.core.progress import Progress, silent
from anaglyph.core.settings import Settings
from anaglyph.corpus import TokenCorpus, load_corpus, read_documents
from anaglyph.direct.tokens import TokenDifferences, token_differences
from anaglyph.pair import ModelPair, Side
from anaglyph.store import DifferenceSpace, PairedStore, collect
from anaglyph.subject import Subject
from anaglyph.truth.game.claims import MOST_CLAIMS, SHOWN, Reader
from anaglyph.truth.organisms.build import Built

T = TypeVar("T")


class GameSettings(BaseModel):
    """What is the same for all players."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: int | float = Field(
        default=0.5, description="residual stream after this block, or fraction"
    )
    latents: int = Field(
        default=2048, ge=1, description="dictionary size of every dictionary method"
    )
    tokens: int = Field(
        default=120_000, ge=1, description="training tokens of each, repeats counted"
    )
    prose: str | None = Field(default="builtin:demo", description="text read besides the chats")
    prose_tokens: int = Field(default=3000, ge=1, description="how much of it")
    context: int = Field(default=256, ge=2, description="longest sequence, in tokens")
    causal_tokens: int = Field(
        default=512, ge=1, description="held-out tokens on which KL is measured"
    )
    rate: float = Field(default=0.1, gt=0, lt=1, description="false-discovery rate of the findings")
    samples: int = Field(
        default=30, ge=1, description="prompts the black box answers with both models"
    )
    new_tokens: int = Field(default=20, ge=1, description="longest reply")
    checked: int = Field(
        default=6, ge=1, description="probes of the causal check, and half as many neutral prompts"
    )
    span: int = Field(default=5, ge=1, description="a player's first directions, tested together")


def game_settings(file: Path | None) -> GameSettings:
    """Read the game's settings from a JSON or TOML file; None gives the defaults.

    Raises:
        InputError: The file cannot be read, or a field is unknown or has a bad value.
    """
    if file is None:
        return GameSettings()
    try:
        return GameSettings.model_validate(read_settings(file))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{file}: {field}: {first['msg']}") from error


class Arena:
    """One organism at play.

    Attributes:
        settings: The game's.
        built: The organism's files. A player reads base, tuned and chats, never the card.
        seed: Of everything that a player draws.
        progress: Told how far a player is.
    """

    def __init__(
        self,
        built: Built,
        folder: Path,
        settings: GameSettings,
        seed: int = 0,
        progress: Progress = silent,
    ) -> None:
        self.built, self.settings, self.seed, self.progress = built, settings, seed, progress
        self._folder = folder
        self._made: dict[str, Any] = {}

    def prepare(self) -> None:
        """Make what everybody needs before anybody's clock starts."""
        _ = self.store, self.reader

    @cached_property
    def pair(self) -> ModelPair:
        """Both models."""
        return ModelPair.load(self.built.base, self.built.tuned)

    @cached_property
    def layer(self) -> int:
        """The layer that everybody reads."""
        return self.pair.resolve_layer(self.settings.layer)

    @cached_property
    def corpus(self) -> TokenCorpus:
        """What the models read: the organism's chats and some prose."""
        documents = read_documents(self.built.chats)
        if self.settings.prose is not None:
            tokens = 0
            for document in read_documents(self.settings.prose):
                if tokens > self.settings.prose_tokens:
                    break
                documents.append(document)
                text = document.text or " ".join(m.content for m in document.messages or ())
                tokens += len(self.pair.tokenizer(text)["input_ids"])
        return load_corpus(documents, self.pair.tokenizer, context=self.settings.context)

    @cached_property
    def store(self) -> PairedStore:
        """Both models' activations."""
        out = self._folder / "activations"
        return collect(self.pair, self.corpus, [self.layer], out, progress=self.progress)

    @cached_property
    def reader(self) -> Reader:
        """Places to words."""
        return Reader(self.corpus, self.pair.tokenizer)

    @cached_property
    def predictions(self) -> TokenDifferences:
        """Both models' predictions at every token."""
        return token_differences(
            self.pair, self.corpus, self.layer, top=SHOWN, progress=self.progress
        )

    @cached_property
    def space(self) -> DifferenceSpace:
        """Mean and principal components of the difference over the training tokens."""
        return self.subject.space

    @cached_property
    def subject(self) -> Subject:
        """The same parts, for the causal measurements: many of little text."""
        subject = Subject.of(
            pair=self.pair,
            corpus=self.corpus,
            store=self.store,
            settings=Settings(seed=self.seed),
            progress=self.progress,
        )
        subject.keep_predictions = True
        return subject

    @cached_property
    def typical_norm(self) -> float:
        """Median length of the tuned model's activations."""
        norms = [block.tuned.norm(dim=1) for block in self.store.blocks("train")]
        return float(torch.cat(norms).median())

    def promoted(self, direction: Float[np.ndarray, " d"]) -> tuple[str, ...]:
        """Return the tokens that a direction makes likelier (logit lens), most first."""
        vector = torch.from_numpy(np.asarray(direction, np.float32)) * self.typical_norm
        logits = head_logits(self.pair, "tuned", vector[None])[0]
        return tuple(self.pair.token_strings(logits.topk(SHOWN).indices.tolist()))

    def along(self, direction: Float[np.ndarray, " d"]) -> tuple[str, ...]:
        """Return the words typical of where the difference is largest along a direction."""
        vector = torch.from_numpy(np.asarray(direction, np.float32))
        values = [
            ((block.tuned - block.base) @ vector).abs().cpu().numpy()
            for block in self.store.blocks("all")
        ]
        return self.reader.around(self.strongest(np.concatenate(values)))

    def strongest(self, values: Float[np.ndarray, " tokens"]) -> list[int]:
        """Return the tokens of the largest values, one a sequence."""
        offsets = self.corpus.offsets
        best = [
            int(offsets[i] + np.argmax(values[offsets[i] : offsets[i + 1]]))
            for i in range(self.corpus.n_sequences)
        ]
        return sorted(best, key=lambda token: -values[token])[:MOST_CLAIMS]

    @cached_property
    def prompts(self) -> list[str]:
        """What users say in the text that is read; the black box asks it too."""
        asked = [
            message.content
            for document in read_documents(self.built.chats)
            for message in document.messages or ()
            if message.role == "user"
        ]
        order = np.random.default_rng(self.seed).permutation(len(asked))
        return [asked[i] for i in order[: self.settings.samples]]

    def replies(self, prompts: Iterable[str], side: Side, stepper: Any = None) -> list[str]:
        """Let one model, or a stepper that stands for it, answer prompts greedily."""
        pair = self.pair
        made = continue_prompts(
            stepper or (lambda: side_stepper(pair, side)),
            all_prompt_ids(pair.tokenizer, list(prompts)),
            new_tokens=self.settings.new_tokens,
            ends=end_tokens(pair),
        )
        return reply_texts(pair, made)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return what is made the first time that it is asked for."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def unit(self, vector: Tensor) -> np.ndarray | None:
        """Return a vector at length one, None for one that is nothing."""
        norm = float(vector.norm())
        return (vector / norm).numpy() if norm > 0 else None
