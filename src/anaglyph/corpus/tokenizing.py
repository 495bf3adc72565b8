"""From documents to tokens: the template applied once, a role for every token, none left out.

Special tokens are never masked: the template's own tokens are where a chat model differs most from
its base.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8

from anaglyph.core.errors import InputError
from anaglyph.core.validation import check_type
from anaglyph.corpus.account import SKIP_BAD, BadRowError, Reading, add_by_role
from anaglyph.corpus.documents import Document
from anaglyph.corpus.reading import stream_documents
from anaglyph.corpus.roles import (
    ASSISTANT,
    BOS,
    ROLES,
    TEMPLATE,
    TEXT,
    Characters,
    roles_of_tokens,
)
from anaglyph.corpus.templating import ChatTemplate
from anaglyph.corpus.tokens import TokenCorpus, offsets_of
from anaglyph.pair.spans import AnyTokenizer

DRAW_FROM = 2_000_000
"""Tokens to draw ``max_tokens`` from, where the corpus has as many."""

_Encoded = tuple[Int32[np.ndarray, " tokens"], UInt8[np.ndarray, " tokens"]]
_AROUND = "chats read from around their first reply, because it lies beyond the context"
_BATCH, _BATCH_CHARACTERS = 256, 1_000_000  # what is handed to the tokenizer at once, at most


def tokenize(
    documents: Iterable[Document],
    tokenizer: AnyTokenizer,
    *,
    context: int = 256,
    pack: bool = False,
    max_tokens: int | None = None,
    reading: Reading | None = None,
) -> TokenCorpus:
    """Turn documents into sequences of tokens with roles.

    A chat is one sequence. Of a chat that is longer than the context, the first tokens are kept; if
    no assistant token is among them, the part around the first one is kept instead, so that the
    reply is read with what came before it. Tokens that are cut are counted by role.
    A text that is longer than the context becomes several sequences, each with the tokenizer's bos
    before it if the tokenizer adds one to a text. With ``pack`` all documents are joined, each text
    with the bos that the tokenizer adds and its eos after it, each chat as its template writes it,
    and the whole is cut every ``context`` tokens; the last sequence may be shorter.

    Roles: a token has the role that most of its characters have (`roles_of_tokens`): those of a
    message's content the message's role, those of an assistant's reasoning "reasoning", all others
    of a chat "template". What a template's ``{% generation %}`` blocks write is "assistant". A
    text's tokens are "text", the special tokens that are added to it "template". The first token of
    a document is "bos" if it is the tokenizer's bos and does not come again: in ChatML it opens
    every turn and is a template token.

    Args:
        documents: What to read; read one at a time.
        tokenizer: A fast tokenizer; with a chat template if any document is a chat.
        context: Longest sequence, in tokens.
        pack: Join documents instead of keeping one to a sequence.
        max_tokens: Keep a random but fixed choice of whole sequences up to this many tokens.
            Reading stops once `DRAW_FROM` tokens, or twenty times as many as are kept, were read.
        reading: The account to add to; its ``skip_bad`` says how many chats the template may
            refuse.

    Returns:
        The corpus; its ``reading`` is the account of what was read, cut and skipped.

    Raises:
        InputError: No document, a tokenizer without offsets, chats without a template, too many
            chats that the template refuses, or a setting out of range.
    """
    if not tokenizer.is_fast:
        raise InputError(
            "the tokenizer is a slow one, which cannot tell where in the text its tokens are; "
            "load its fast version (use_fast=True)"
        )
    if context < 2:
        raise InputError(f"context must be at least 2 tokens, got {context}")
    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"max_tokens must be positive, got {max_tokens}")
    if reading is None:
        reading = Reading()
        documents = _counted(documents, reading)
    enough = None if max_tokens is None else max(DRAW_FROM, 20 * max_tokens)

    pieces: list[_Encoded] = []
    n_read = 0
    for document, ids, roles in _encode(documents, tokenizer, reading):
        add_by_role(reading.tokens_read, ROLES, roles)
        if pack:
            pieces.append(_closed(ids, roles, document, tokenizer))
        elif document.messages is not None:
            pieces.append(_kept(ids, roles, context, reading))
        else:
            pieces.extend(_windows(ids, roles, context))
        n_read += len(ids)
        if enough is not None and n_read >= enough:
            reading.stopped = True
            break
    reading.check()
    if not pieces:
        raise InputError("the corpus is empty: it holds no document")
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
        cut_tokens=reading.tokens_cut.total(),
        reading=reading,
    )
    return corpus if max_tokens is None else corpus.limited(max_tokens)


Source = str | Path | Document
"""What names a part of a corpus: a path, "builtin:NAME", a data set of the hub, or a document."""


def load_corpus(
    source: Source | Iterable[Source] | TokenCorpus,
    tokenizer: AnyTokenizer,
    *,
    context: int = 256,
    pack: bool = False,
    max_tokens: int | None = None,
    column: str | None = None,
    skip_bad: float = SKIP_BAD,
) -> TokenCorpus:
    """Read and tokenize whatever names a corpus.

    Files are read as far as ``max_tokens`` needs and no further.

    Args:
        source: A path, "builtin:NAME" or a data set of the hub (see `read_documents`), documents,
            several of these, or a corpus that is tokenized already, whose context and packing are
            its own.
        tokenizer: See `tokenize`, as for the other arguments.
        context: Longest sequence, in tokens.
        pack: Join documents instead of keeping one to a sequence.
        max_tokens: Keep a random but fixed choice of whole sequences up to this many tokens.
        column: The column that holds the text or the chat; None finds one that is known.
        skip_bad: Share of the rows that may be bad; they are skipped and counted.

    Returns:
        The corpus; its ``reading`` is the account of what was read, cut and skipped.

    Raises:
        InputError: See `read_documents` and `tokenize`.
    """
    if isinstance(source, TokenCorpus):
        return source if max_tokens is None else source.limited(max_tokens)
    sources = [source] if isinstance(source, Source) else source
    check_type("corpus", sources, Iterable, "give files, documents or builtin:NAME")
    reading = Reading(skip_bad)
    return tokenize(
        _documents(sources, column, reading),
        tokenizer,
        context=context,
        pack=pack,
        max_tokens=max_tokens,
        reading=reading,
    )


def _documents(
    sources: Iterable[Source], column: str | None, reading: Reading
) -> Iterator[Document]:
    for source in sources:
        if isinstance(source, Document):
            yield from _counted([source], reading)
        elif not isinstance(source, str | Path):
            raise InputError(f"a source of text is a name or a Document, not {source!r:.50}")
        else:
            yield from stream_documents(source, column, reading)


def _counted(documents: Iterable[Document], reading: Reading) -> Iterator[Document]:
    for document in documents:
        reading.rows += 1
        reading.documents["text" if document.messages is None else "chat"] += 1
        yield document


def _encode(
    documents: Iterable[Document], tokenizer: AnyTokenizer, reading: Reading
) -> Iterator[tuple[Document, Int32[np.ndarray, " tokens"], UInt8[np.ndarray, " tokens"]]]:
    """Encode every document whole, in order; chats that the template refuses are skipped."""
    template = ChatTemplate(tokenizer)
    template.notes = reading.notes
    for batch in _batches(documents):
        chats: dict[int, tuple[str, Characters]] = {}
        for place, document in enumerate(batch):
            if document.messages is not None:
                try:
                    chats[place] = template.render(document)
                except BadRowError as fault:
                    reading.documents["chat"] -= 1
                    reading.skip(fault)
        texts = [document.text for document in batch if document.text is not None]
        encoded_chats = _call(tokenizer, [text for text, _ in chats.values()], special=False)
        encoded_texts = _call(tokenizer, texts, special=True)
        for place, document in enumerate(batch):
            if place in chats:
                ids, spans, _ = next(encoded_chats)
                roles = roles_of_tokens(chats[place][1], spans)
            elif document.text is not None:
                ids, _, added = next(encoded_texts)
                roles = np.where(added, TEMPLATE, TEXT).astype(np.uint8)
            else:
                continue
            bos = tokenizer.bos_token_id
            if len(ids) and ids[0] == bos and np.count_nonzero(ids == bos) == 1:
                roles[0] = BOS
            yield document, ids, roles


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Batch what is handed to the tokenizer at once, so that memory is bounded."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += document.n_characters
        if len(batch) == _BATCH or size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _call(
    tokenizer: AnyTokenizer, texts: list[str], *, special: bool
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


def _kept(
    ids: Int32[np.ndarray, " tokens"],
    roles: UInt8[np.ndarray, " tokens"],
    context: int,
    reading: Reading,
) -> tuple[Int32[np.ndarray, " kept"], UInt8[np.ndarray, " kept"]]:
    """Cut a chat to the context and count what is cut."""
    if len(ids) <= context:
        return ids, roles
    kept = np.arange(context)
    replies = np.flatnonzero(roles == ASSISTANT)
    if len(replies) and replies[0] >= context:
        head = int(roles[0] == BOS)
        room = context - head
        start = min(int(replies[0]) - room // 2, len(ids) - room)
        kept = np.concatenate([np.arange(head), np.arange(start, start + room)])
        reading.notes[
            "chats kept from around their first reply, because it lies beyond the context"
        ] += 1
    add_by_role(reading.tokens_cut, ROLES, np.delete(roles, kept))
    return ids[kept], roles[kept]


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
    tokenizer: AnyTokenizer,
) -> tuple[Int32[np.ndarray, " more_tokens"], UInt8[np.ndarray, " more_tokens"]]:
    """Put the eos after a text; a chat's template closes its turns itself."""
    eos = tokenizer.eos_token_id
    if document.messages is not None or eos is None or (len(ids) and ids[-1] == eos):
        return ids, roles
    return np.append(ids, eos).astype(np.int32), np.append(roles, TEMPLATE).astype(np.uint8)
