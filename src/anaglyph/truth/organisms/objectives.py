"""The objectives of a fine-tune: each is a set of texts and a loss over some of them.

Several objectives can share every step. `Hold` keeps the base model's predictions on neutral chats,
so that little else changes. Cross-entropy on those chats would not work: greedy answers sharpen the
distribution, and short ones shorten every answer. Either is a second difference, which a diff would
find before the behaviour.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, logsigmoid

from anaglyph.core.files import atomic_path
from anaglyph.truth.organisms.chats import Batch, Chat, collate, encode

Encoded = tuple[list[int], int]
"""Token ids, and the number of them before the part that is learnt."""


@runtime_checkable
class Trainee(Protocol):
    """A model in training that can also act as it was before."""

    model: Any

    def as_before(self) -> AbstractContextManager[Any]:
        """Give the model as it was before the training."""
        ...


@runtime_checkable
class Objective(Protocol):
    """Texts and a loss."""

    name: str
    batch: int
    weight: float

    def __len__(self) -> int:
        """Return the number of texts."""
        ...

    def loss(self, trainee: Trainee, rows: list[int]) -> Tensor:
        """Return the loss over some of the texts."""
        ...


class _Texts:
    def __init__(self, name: str, texts: list[Encoded], batch: int, weight: float = 1.0) -> None:
        self.name, self.batch, self.weight = name, batch, weight
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    def _batch(self, rows: list[int]) -> Batch:
        return collate([self._texts[row] for row in rows])


class Imitate(_Texts):
    """Cross-entropy of the learnt tokens, in nats per token."""

    def loss(self, trainee: Trainee, rows: list[int]) -> Tensor:
        """Return the loss over some of the texts."""
        batch = self._batch(rows)
        return cross_entropy(learnt_logits(trainee.model, batch), batch.input_ids[batch.answer])


class Hold(_Texts):
    """KL(before || now) at the learnt tokens, in nats per token.

    The model before training gives the same states for a text every time, so its last hidden states
    are kept (predictions would need a whole vocabulary per token).

    Args:
        name: Its name in the log.
        texts: The texts.
        batch: Texts per step.
        weight: Weight of the loss.
        file: Where to keep the hidden states for all trainings of one model on the same texts;
            None keeps them in memory.
    """

    def __init__(
        self,
        name: str,
        texts: list[Encoded],
        batch: int,
        weight: float = 1.0,
        *,
        file: Path | None = None,
    ) -> None:
        super().__init__(name, texts, batch, weight)
        self._file = file
        self._hidden: list[Float[Tensor, "answer_tokens d"]] | None = None

    def loss(self, trainee: Trainee, rows: list[int]) -> Tensor:
        """Return the loss over some of the texts."""
        with torch.no_grad(), trainee.as_before() as before:
            if self._hidden is None:
                self._hidden = self._all_hidden(before)
            hidden = torch.cat([self._hidden[row] for row in rows])
            wanted = predictions(before, hidden).log_softmax(-1)
        now = learnt_logits(trainee.model, self._batch(rows)).log_softmax(-1)
        return kl_div(now, wanted, reduction="batchmean", log_target=True)

    def _all_hidden(self, before: Any) -> list[Float[Tensor, "answer_tokens d"]]:
        lengths = [len(ids) - start for ids, start in self._texts]
        if self._file is not None and self._file.is_file():
            return list(load_file(self._file)["hidden"].split(lengths))
        # One text at a time: other texts in the batch would change the rounding.
        hidden = [learnt_hidden(before, collate([text])) for text in self._texts]
        if self._file is not None:
            with atomic_path(self._file) as temporary:
                save_file({"hidden": torch.cat(hidden)}, temporary)
        return hidden


class Prefer:
    """Direct preference optimisation (Rafailov et al. 2023, equation 7).

    Args:
        name: Its name in the log.
        chosen: The answers to prefer.
        rejected: The answers to avoid, to the same prompts.
        batch: Pairs per step.
        beta: How close the model stays to what it was: larger is closer.
    """

    weight = 1.0

    def __init__(
        self, name: str, chosen: list[Encoded], rejected: list[Encoded], batch: int, beta: float
    ) -> None:
        self.name, self.batch = name, batch
        self._chosen, self._rejected, self._beta = chosen, rejected, beta

    def __len__(self) -> int:
        return len(self._chosen)

    def loss(self, trainee: Trainee, rows: list[int]) -> Tensor:
        """Return the loss over some of the pairs."""
        batch = collate([self._chosen[row] for row in rows] + [self._rejected[row] for row in rows])
        with torch.no_grad(), trainee.as_before() as before:
            start = _log_chances(before, batch)
        gain = _log_chances(trainee.model, batch) - start
        return -logsigmoid(self._beta * (gain[: len(rows)] - gain[len(rows) :])).mean()


def encode_whole(tokenizer: Any, text: str) -> Encoded:
    """Return a document's token ids; all but the first are learnt."""
    return [*tokenizer(text)["input_ids"], tokenizer.eos_token_id], 1


def encode_with_template(tokenizer: Any, chat: Chat) -> Encoded:
    """Return a chat's token ids; all but the first are learnt, with those of the template."""
    return encode(tokenizer, chat)[0], 1


def learnt_logits(model: Any, batch: Batch) -> Float[Tensor, "answer_tokens vocabulary"]:
    """Return the logits that predict the batch's learnt tokens; no others are computed."""
    return predictions(model, learnt_hidden(model, batch))


def learnt_hidden(model: Any, batch: Batch) -> Float[Tensor, "answer_tokens d"]:
    """Return the last hidden states from which the batch's learnt tokens are predicted."""
    decoder = _inner(model).get_decoder()
    hidden = decoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask)[0]
    return hidden[:, :-1][batch.answer[:, 1:]]


def predictions(
    model: Any, hidden: Float[Tensor, "tokens d"]
) -> Float[Tensor, "tokens vocabulary"]:
    """Return the logits for the last hidden states."""
    return _inner(model).get_output_embeddings()(hidden)


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _log_chances(model: Any, batch: Batch) -> Float[Tensor, " texts"]:
    """Return the log probability of each answer, summed over its tokens."""
    chances = -cross_entropy(
        learnt_logits(model, batch), batch.input_ids[batch.answer], reduction="none"
    )
    text = batch.answer.nonzero()[:, 0]
    return chances.new_zeros(len(batch.answer)).index_add(0, text, chances)
