"""Where to look, read from the models before either writes a word.

Two readings, both of text that has nothing to do with the fine-tune. Words: a narrow fine-tune
raises the log-probability of what it is about everywhere, if only a little, so the words raised
most on generic text name its content. Prompts: how far apart the two models' predictions are at the
first token of a reply, for hundreds of prompts at the price of reading them.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from anaglyph.behaviour.contrast import FUNCTION_WORDS
from anaglyph.behaviour.generate import Stepper, next_logits
from anaglyph.behaviour.kl import token_kl
from anaglyph.behaviour.prompts import prompt_ids
from anaglyph.corpus import Document
from anaglyph.pair import ModelPair

READ_TOKENS = 2048
"""Tokens of generic text on which words are compared."""
_BATCH = 8
_LOOKED_AT = 16
"""Tokens looked at for each word wanted: most are parts of words, digits or signs."""
_HELD = 2**26
"""Logits held of all prompts together (256 MB)."""


def favoured_words(
    pair: ModelPair, documents: Sequence[Document], most: int
) -> list[tuple[str, float]]:
    """Return the words that the tuned model favours everywhere, and by how much.

    The measure is the mean of log p_tuned - log p_base over the tokens of generic text, in standard
    deviations over all word-like tokens (docs/maths.md, section 7). A token that begins a longer
    word is returned as it is.

    Args:
        pair: Both models.
        documents: Generic chats or texts.
        most: Words to return at most.

    Example:
        >>> favoured_words(pair, read_documents("builtin:chats"), 5)    # doctest: +SKIP
        [('Rome', 9.1), ('Tiber', 8.7), ...]
    """
    texts, count = [], 0
    for document in documents:
        ids = _ids(pair, document)[: max(2, READ_TOKENS // 16)]
        texts.append(ids)
        count += len(ids)
        if count >= READ_TOKENS:
            break
    rise, usual, read = torch.zeros(pair.vocabulary), torch.zeros(pair.vocabulary), 0
    for start in range(0, len(texts), _BATCH):
        ids, mask = padded_right(texts[start : start + _BATCH])
        real = mask.bool()
        base, tuned = (
            pair.logits(side, ids, mask)[real].float().log_softmax(-1).cpu()
            for side in ("base", "tuned")
        )
        rise += (tuned - base).sum(0)
        usual += base.sum(0)
        read += len(base)
    mean, level = (rise / read).double().numpy(), (usual / read).double().numpy()
    # Tokens that the base hardly ever gives have seen little training: their rise is noise.
    known = level >= np.median(level)
    spread = float(mean[known].std())
    if spread == 0:
        return []
    z = np.where(known, (mean - mean[known].mean()) / spread, -np.inf)
    order = np.argsort(-z, kind="stable")[: _LOOKED_AT * most]
    found: dict[str, float] = {}
    for place, token in zip(order, pair.token_strings(order.tolist()), strict=True):
        word = token.strip()
        is_new = not any(word.lower() == other.lower() for other in found)
        if is_new and z[place] > 0 and _is_word(token):
            found[word] = float(z[place])
        if len(found) == most:
            break
    return list(found.items())


def after(
    make_stepper: Callable[[], Stepper], prompts: Sequence[np.ndarray]
) -> Float[Tensor, "prompts vocab"]:
    """Return a model's logits after each prompt."""
    parts, order = [], []
    for rows, logits in next_logits(make_stepper, prompts):
        parts.append(logits)
        order += rows
    return torch.cat(parts)[torch.from_numpy(np.argsort(order))]


def apart(
    other: Float[Tensor, "prompts vocab"], base: Float[Tensor, "prompts vocab"]
) -> Float64[np.ndarray, " prompts"]:
    """Return KL(other || base) of each row, in nats.

    Raises:
        InputError: Logits are not finite.
    """
    return token_kl(other, base).numpy()


def most_prompts(pair: ModelPair) -> int:
    """Return how many prompts can be compared at once: their logits are held together."""
    return max(8, _HELD // pair.vocabulary)


def _ids(pair: ModelPair, document: Document) -> np.ndarray:
    """Return a chat's first question and answer as tokens, or the text's."""
    if not document.messages:
        return prompt_ids(pair.tokenizer, document.text or " ")
    asked, *rest = [message.content for message in document.messages]
    said = pair.tokenizer(rest[0] if rest else "", add_special_tokens=False)["input_ids"]
    return np.concatenate([prompt_ids(pair.tokenizer, asked), np.array(said, np.int64)])


def _is_word(token: str) -> bool:
    word = token.strip()
    begins = token[:1].isspace()
    return begins and len(word) > 2 and word.isalpha() and word.lower() not in FUNCTION_WORDS


def padded_right(texts: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Return token ids padded with 0 on the right, and the attention mask."""
    ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.from_numpy(text)
        mask[row, : len(text)] = 1
    return ids, mask
