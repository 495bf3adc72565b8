"""From documents to tokens: the template applied once, a role for every token, none left out.

Special tokens are never masked: the template's own tokens are where a chat model differs most from
its base.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8
from transformers import PreTrainedTokenizerBase

from anaglyph.core.errors import InputError
from anaglyph.corpus.documents import Document
from anaglyph.corpus.reading import read_documents
from anaglyph.corpus.templating import BOS, TEMPLATE, TEXT, ChatTemplate, roles_of_tokens
from anaglyph.corpus.tokens import TokenCorpus, offsets_of

_Encoded = tuple[Int32[np.ndarray, " tokens"], UInt8[np.ndarray, " tokens"]]
_BATCH = 256  # documents handed to the tokenizer at once


def tokenize(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerBase,
    *,
    context: int = 256,
    pack: bool = False,
    max_tokens: int | None = None,
) -> TokenCorpus:
    """Turn documents into sequences of tokens with roles.

    A chat is one sequence; what lies beyond the context is left out and counted in ``cut_tokens``.
    A text that is longer than the context becomes several sequences, each with the tokenizer's bos
    before it if the tokenizer adds one to a text. With ``pack`` all documents are joined, each text
    with the bos that the tokenizer adds and its eos after it, each chat as its template writes it,
    and the whole is cut every ``context`` tokens; the last sequence may be shorter.

    Roles: a token has the role that most of its characters have (`roles_of_tokens`): those of a
    message's content the message's role, all others of a chat "template". A text's tokens are
    "text", the special tokens that are added to it "template". The first token of a document is
    "bos" if it is the tokenizer's bos and does not come again: in ChatML it opens every turn and is
    a template token.

    Args:
        documents: What to read.
        tokenizer: A fast tokenizer; with a chat template if any document is a chat.
        context: Longest sequence, in tokens.
        pack: Join documents instead of keeping one to a sequence.
        max_tokens: Keep a random but fixed choice of whole sequences up to this many tokens.

    Raises:
        InputError: No document, a tokenizer without offsets, chats without a template, or a
            setting out of range.
    """
    if not documents:
        raise InputError("the corpus is empty: it holds no document")
    if not tokenizer.is_fast:
        raise InputError(
            "the tokenizer is a slow one, which cannot tell where in the text its tokens are; "
            "load its fast version (use_fast=True)"
        )
    if context < 2:
        raise InputError(f"context must be at least 2 tokens, got {context}")
    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"max_tokens must be positive, got {max_tokens}")

    cut = 0
    pieces: list[_Encoded] = []
    for document, (ids, roles) in zip(documents, _encode(documents, tokenizer), strict=True):
        if pack:
            pieces.append(_closed(ids, roles, document, tokenizer))
        elif document.messages is not None:
            pieces.append((ids[:context], roles[:context]))
            cut += max(len(ids) - context, 0)
        else:
            pieces.extend(_windows(ids, roles, context))
    token_ids = np.concatenate([ids for ids, _ in pieces])
    if pack:
        lengths = np.diff(np.append(np.arange(0, len(token_ids), context), len(token_ids)))
    else:
        lengths = np.array([len(ids) for ids, _ in pieces], np.int64)
    corpus = TokenCorpus(
        token_ids=token_ids,
        roles=np.concatenate([roles for _, roles in pieces]),
        offsets=offsets_of(lengths[lengths > 0]),
        context=context,
        cut_tokens=cut,
    )
    return corpus if max_tokens is None else corpus.limited(max_tokens)


def load_corpus(
    source: str | Path | Sequence[Document] | TokenCorpus,
    tokenizer: PreTrainedTokenizerBase,
    *,
    context: int = 256,
    pack: bool = False,
    max_tokens: int | None = None,
) -> TokenCorpus:
    """Read and tokenize whatever names a corpus.

    Args:
        source: A path or "builtin:NAME" (see `read_documents`), documents, or a corpus that is
            tokenized already, whose context and packing are its own.
        tokenizer: See `tokenize`, as for the other arguments.
        context: Longest sequence, in tokens.
        pack: Join documents instead of keeping one to a sequence.
        max_tokens: Keep a random but fixed choice of whole sequences up to this many tokens.

    Raises:
        InputError: See `read_documents` and `tokenize`.
    """
    if isinstance(source, TokenCorpus):
        return source if max_tokens is None else source.limited(max_tokens)
    documents = read_documents(source) if isinstance(source, str | Path) else source
    return tokenize(documents, tokenizer, context=context, pack=pack, max_tokens=max_tokens)


def _encode(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase
) -> Iterator[_Encoded]:
    """Encode every document whole, in order."""
    template = ChatTemplate(tokenizer)
    remaining = iter(documents)
    while batch := list(islice(remaining, _BATCH)):
        chats = [template.render(document) for document in batch if document.messages is not None]
        texts = [document.text for document in batch if document.text is not None]
        encoded_chats = _call(tokenizer, [text for text, _ in chats], special=False)
        encoded_texts = _call(tokenizer, texts, special=True)
        characters = iter(roles for _, roles in chats)
        for document in batch:
            if document.messages is not None:
                ids, spans, _ = next(encoded_chats)
                roles = roles_of_tokens(next(characters), spans)
            else:
                ids, _, added = next(encoded_texts)
                roles = np.where(added, TEMPLATE, TEXT).astype(np.uint8)
            bos = tokenizer.bos_token_id
            if len(ids) and ids[0] == bos and np.count_nonzero(ids == bos) == 1:
                roles[0] = BOS
            yield ids, roles


def _call(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], *, special: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Token ids [tokens], character spans [tokens, 2], and True where the tokenizer added one."""
    if not texts:
        return
    output = tokenizer(
        texts,
        add_special_tokens=special,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
        truncation=False,
        verbose=False,  # texts longer than the model's context are expected here
    )
    for ids, spans, added in zip(
        output["input_ids"], output["offset_mapping"], output["special_tokens_mask"], strict=True
    ):
        yield (
            np.array(ids, np.int32),
            np.array(spans, np.int64).reshape(-1, 2),
            np.array(added, bool),
        )


def _windows(
    ids: Int32[np.ndarray, " tokens"], roles: UInt8[np.ndarray, " tokens"], context: int
) -> Iterator[_Encoded]:
    """Cut a text into sequences; a bos before the text stands before each of them."""
    head = int(len(roles) > 0 and roles[0] == BOS)
    step = context - head
    for start in range(head, max(len(ids), head + 1), step):
        stop = start + step
        yield (
            np.concatenate([ids[:head], ids[start:stop]]),
            np.concatenate([roles[:head], roles[start:stop]]),
        )


def _closed(
    ids: Int32[np.ndarray, " tokens"],
    roles: UInt8[np.ndarray, " tokens"],
    document: Document,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[Int32[np.ndarray, " more_tokens"], UInt8[np.ndarray, " more_tokens"]]:
    """Put the eos after a text; a chat's template closes its turns itself."""
    eos = tokenizer.eos_token_id
    if document.messages is not None or eos is None or (len(ids) and ids[-1] == eos):
        return ids, roles
    return np.append(ids, eos).astype(np.int32), np.append(roles, TEMPLATE).astype(np.uint8)
