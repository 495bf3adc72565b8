"""One organism as a player meets it: a subject with the organism's text, and words for its places.

What several players need is made once. The card stays out of sight.
"""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anaglyph.behaviour.generate import (
    continue_prompts,
    end_tokens,
    reply_texts,
    side_stepper,
)
from anaglyph.behaviour.predictions import head_logits
from anaglyph.behaviour.prompts import all_prompt_ids
from anaglyph.core.files import read_settings
from anaglyph.core.progress import Progress, silent
from anaglyph.core.settings import GameSettings, TokensSettings, load_settings
from anaglyph.core.validation import validate
from anaglyph.corpus import TokenCorpus, load_corpus, read_documents
from anaglyph.direct.tokens import TokenDifferences, token_differences
from anaglyph.pair import Side
from anaglyph.subject import Subject
from anaglyph.truth.game.claims import MOST_CLAIMS, SHOWN, Reader
from anaglyph.truth.organisms.build import Built


def game_settings(file: Path | None, **given: Any) -> GameSettings:
    """Read the game's settings from a JSON or TOML file; what is given by name wins.

    Raises:
        InputError: The file cannot be read, or a field is unknown or has a bad value.
    """
    if file is None:
        return validate(GameSettings, given)
    return validate(GameSettings, read_settings(file) | given, str(file))


class Arena(Subject):
    """One organism at play.

    Attributes:
        game: The game's settings.
        built: The organism's files. A player reads base, tuned and chats, never the card.
    """

    def __init__(
        self,
        built: Built,
        folder: Path,
        game: GameSettings,
        seed: int = 0,
        progress: Progress = silent,
    ) -> None:
        """Meet an organism; activations go into ``folder``."""
        settings = load_settings(
            layer=game.layer,
            context=game.context,
            latents=game.latents,
            tokens=game.tokens,
            causal_tokens=game.causal_tokens,
            counts=(),
            edit_at=(),
            positions=("all",),
            rate=game.rate,
            candidates=MOST_CLAIMS,
            most_findings=MOST_CLAIMS,
            find_tokens=game.causal_tokens,
            trials=0,
            seed=seed,
            device=game.device,
            model_dtype=game.model_dtype,
        )
        super().__init__(
            str(built.base),
            str(built.tuned),
            [str(built.chats)],
            folder / "activations",
            settings,
            progress,
        )
        # Many tables are measured on little text: both models' own runs are kept.
        self.keep_predictions = True
        self.built, self.game = built, game

    def prepare(self) -> None:
        """Make what everybody needs before anybody's clock starts."""
        if "store" not in vars(self):
            self.collect()
        _ = self.reader

    @cached_property
    def corpus(self) -> TokenCorpus:
        """What the models read: the organism's chats and some prose."""
        documents = list(read_documents(self.built.chats))
        if self.game.prose is not None:
            tokens = 0
            for document in read_documents(self.game.prose):
                if tokens > self.game.prose_tokens:
                    break
                documents.append(document)
                text = document.text or " ".join(m.content for m in document.messages or ())
                tokens += len(self.pair.tokenizer(text)["input_ids"])
        return load_corpus(documents, self.pair.tokenizer, context=self.game.context)

    @cached_property
    def reader(self) -> Reader:
        """Places to words."""
        return Reader(self.corpus, self.pair.tokenizer)

    @cached_property
    def predictions(self) -> TokenDifferences:
        """Both models' predictions at every token."""
        return token_differences(self, TokensSettings(top=SHOWN))

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
        return [asked[i] for i in order[: self.game.samples]]

    def replies(self, prompts: Iterable[str], side: Side, stepper: Any = None) -> list[str]:
        """Let one model, or a stepper that stands for it, answer prompts greedily."""
        pair = self.pair
        made = continue_prompts(
            stepper or (lambda: side_stepper(pair, side)),
            all_prompt_ids(pair.tokenizer, list(prompts)),
            new_tokens=self.game.new_tokens,
            ends=end_tokens(pair),
        )
        return reply_texts(pair, made)

    def unit(self, vector: Tensor) -> np.ndarray | None:
        """Return a vector at length one, None for one that is nothing."""
        norm = float(vector.norm())
        return (vector / norm).numpy() if norm > 0 else None
