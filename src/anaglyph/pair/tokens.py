"""The one tokenizer and the one chat template through which both models read.

Different token ids or templates for the two models would themselves be a difference; so there is
one of each. Where the vocabularies differ a little, texts are read with the tokens that both models
have (`vocabulary.py`).
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from anaglyph.core.errors import InputError, ModelError
from anaglyph.core.files import digest, read_input
from anaglyph.pair.quiet import loading
from anaglyph.pair.sources import Source
from anaglyph.pair.spans import SpanTokenizer
from anaglyph.pair.templates import chosen_template
from anaglyph.pair.vocabulary import Tokens, Vocabulary, are_alike, match_rows, without_tokens

_PROBE_SECONDS = 4.0
_WAIT = 12
"""Times as long the process may take on a busy machine."""
_OUT_OF_TIME = 24
"""SIGXCPU, which Windows has no name for."""
_PROBE_MEMORY = 2**30  # bytes of address space, besides what the file itself needs
_FEW = 0.02
"""Share of a tokenizer's own tokens that one of the models may lack; their rows are borrowed."""


@dataclass
class Reader:
    """How a pair reads text.

    Attributes:
        tokenizer: The fast tokenizer, with the chat template that both models are given.
        fingerprint: Digest of its files.
        base: Tokens of the base; None if it has no tokenizer.
        tuned: Tokens of the tuned model; None if it has no tokenizer.
        own: Both models' own tokenizers, where they have one.
        chosen: Whether the user named the tokenizer.
        notes: Choices that a reader of the results should know, a line each.
    """

    tokenizer: Any
    fingerprint: str
    base: Tokens | None
    tuned: Tokens | None
    own: tuple[Any, Any] = (None, None)
    chosen: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def are_alike(self) -> bool:
        """Whether the two vocabularies are one, but for some tokens."""
        return are_alike(self.base, self.tuned)

    def spans(self, names: tuple[str, str]) -> SpanTokenizer:
        """Let each model read with its own tokenizer, compared at the ends of shared spans.

        Raises:
            InputError: The user named one tokenizer for both.
        """
        if self.chosen:
            raise InputError(
                f"tokenizer: {names[0]} and {names[1]} have different vocabularies, and each can"
                " only read with its own"
            )
        self.notes.append(
            f"{names[0]} and {names[1]} have different tokenizers: each reads with its own, and"
            " they are compared at the ends of the spans of text that both have"
        )
        for tokenizer in self.own:
            tokenizer.chat_template = tokenizer.chat_template or self.tokenizer.chat_template
        return SpanTokenizer(*self.own, self.tokenizer)

    def vocabulary(self, sizes: tuple[int, int]) -> Vocabulary | None:
        """Match the rows of both models; unless the user chose, read with shared tokens only.

        Where the tuned model lacks tokens that the base's tokenizer cannot do without, the tuned
        model's reads. None if neither tokenizer has only tokens that both models know.

        Args:
            sizes: Rows of both models' embeddings.
        """
        for tokens, size, side in zip(
            (self.base, self.tuned), sizes, ("the base", "the tuned model"), strict=True
        ):
            if beyond := sum(row >= size for row in (tokens or {}).values()):
                self.notes.append(f"{beyond} tokens of {side} have no row in its embeddings")
        found = match_rows(self.tokenizer.get_vocab(), self.base, self.tuned, sizes)
        if self.chosen:
            return found
        if not _is_read(self.tokenizer, found):
            other = next((o for o in self.own if o not in (None, self.tokenizer)), None)
            if other is None:
                return None
            found = match_rows(other.get_vocab(), self.base, self.tuned, sizes)
            if not _is_read(other, found):
                return None
            other.chat_template = self.tokenizer.chat_template
            self.tokenizer = other
            self.notes.append(f"texts are read with the {len(other.get_vocab())} tokens that both"
                              " models have")  # fmt: skip
        reader = self.tokenizer.get_vocab()
        kept = set(self.tokenizer.all_special_tokens)
        alone = {
            token
            for token in self.tokenizer.get_added_vocab().keys() - kept
            if reader[token] >= found.size or not found.shared[reader[token]]
        }
        without_tokens(self.tokenizer, alone)
        return found


def _is_read(tokenizer: Any, found: Vocabulary) -> bool:
    """Say whether both models have the tokens of a tokenizer, but for added ones and a few."""
    own = tokenizer.get_vocab()
    needed = {own[token] for token in own.keys() - tokenizer.get_added_vocab().keys()}
    lacked = sum(i < found.size and not bool(found.shared[i]) for i in needed)
    return lacked <= _FEW * len(needed)


def shared_tokenizer(
    base: Source, tuned: Source, tokenizer: str | None = None, chat_template: str | None = None
) -> Reader:
    """Return the tokenizer and the template that both models read with.

    Unless they are named, the tokenizer is the base's, and the template the tuned model's own where
    it has one: it is what the fine-tune was trained on. Otherwise it is the base's, or none.

    Args:
        base: The base model.
        tuned: Its fine-tune.
        tokenizer: "base", "tuned", or a folder or hub id with another one.
        chat_template: "base", "tuned", or a file with another one.

    Raises:
        ModelError: Neither model has a tokenizer, or it is not a fast one.
        InputError: What is named is not there.
    """
    readers = {
        source.name: load_tokenizer(source) for source in (base, tuned) if _has_tokenizer(source)
    }
    own, other = readers.get(base.name), readers.get(tuned.name)
    notes: list[str] = []
    if tokenizer not in (None, "base", "tuned"):
        chosen = _load(Path(str(tokenizer)).expanduser(), str(tokenizer))
        fingerprint = digest(chosen.backend_tokenizer.to_str())
    else:
        if not readers and tokenizer is None:
            raise ModelError(
                f"neither {base.name} nor {tuned.name} has a tokenizer: name one (--tokenizer PATH)"
            )
        owner = tuned if tokenizer == "tuned" or (tokenizer is None and own is None) else base
        if owner.name not in readers:
            raise InputError(f"tokenizer: {owner.name} has none")
        chosen, fingerprint = readers[owner.name], str(owner.tokenizer_fingerprint)
        if owner is not base and tokenizer is None:
            notes.append(f"tokenizer of {tuned.name} used for both models (base has none)")
    vocabularies = [None if each is None else each.get_vocab() for each in (own, other)]
    templates = (
        chosen_template((own or chosen).chat_template),
        chosen_template(getattr(other, "chat_template", None) or _template_file(tuned.folder)),
    )
    template, said = _template(chat_template, templates, (base.name, tuned.name))
    chosen.chat_template = template
    reader = Reader(chosen, fingerprint, vocabularies[0], vocabularies[1], (own, other))
    reader.chosen, reader.notes = tokenizer is not None, [*notes, *said]
    return reader


Named = tuple[str | None, str | None]


def _template(
    wanted: str | None, own: tuple[Named, Named], names: tuple[str, str]
) -> tuple[str | None, list[str]]:
    """Return the chat template, and notes on the choice."""
    if wanted not in (None, "base", "tuned"):
        return read_input(Path(str(wanted)).expanduser(), ModelError), [
            f"chat template of {wanted} used"
        ]
    side = ("base", "tuned").index(wanted) if wanted else int(own[1][0] is not None)
    template, name = own[side]
    if wanted and template is None:
        raise InputError(f"chat_template: {names[side]} has none")
    notes = []
    if wanted is None and side and template != own[0][0]:
        had = "differs from base's" if own[0][0] else "base has none"
        notes.append(f"chat template of {names[1]} used for both models ({had})")
    if name not in (None, "default"):
        notes.append(f'of several chat templates {name!r} is used (none is called "default")')
    return template, notes


def token_strings(
    tokenizer: Any, ids: Sequence[int], extra: Mapping[int, str] | None = None
) -> list[str]:
    """Return the text each token stands for, leading space included.

    A token that is only part of a character has no text of its own and is given as the vocabulary
    writes it; a row without a token as its number.

    Args:
        tokenizer: Of the pair.
        ids: The tokens.
        extra: Texts of tokens that the tokenizer does not know.
    """
    strings = []
    for i in ids:
        if extra and i in extra:
            strings.append(extra[i])
            continue
        text, twice = _text(tokenizer, [i]), _text(tokenizer, [i, i])
        # Some decoders strip a text's first space; what a repetition adds still has it.
        if twice.startswith(text):
            text = twice[len(text) :]
        whole = text and "\ufffd" not in text
        written = None if whole else tokenizer.convert_ids_to_tokens(i)
        strings.append(text if whole else str(f"<row {i}>" if written is None else written))
    return strings


def decoded(tokenizer: Any, ids: Sequence[int], extra: Mapping[int, str]) -> str:
    """Return the text of some tokens, special ones left out but for those of ``extra``."""
    parts = [
        "".join(extra[i] for i in run)
        if is_extra
        else tokenizer.decode(list(run), skip_special_tokens=True)
        for is_extra, run in groupby(ids, extra.__contains__)
    ]
    return "".join(parts).strip()


def _text(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _has_tokenizer(source: Source) -> bool:
    return source.tokenizer_fingerprint is not None


def load_tokenizer(source: Source) -> Any:
    """Return a model's own fast tokenizer.

    Raises:
        ModelError: It cannot be loaded, or is not a fast one.
    """
    return _load(source.folder, source.name, str(source.tokenizer_fingerprint))


def _load(folder: Path, name: str, fingerprint: str = "") -> Any:
    if (folder / "tokenizer.json").is_file():
        _probe(str(folder / "tokenizer.json"), fingerprint)
    with loading(f"cannot load the tokenizer of {name}"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise ModelError(f"{name} has no fast tokenizer, which token roles need")
    return tokenizer


@cache
def _probe(file: str, _fingerprint: str) -> None:
    """Let a process with bounded time and memory tokenize a few texts, before this one does.

    Raises:
        ModelError: The tokenizer's rules take too long or too much memory.
    """
    memory = _PROBE_MEMORY + 40 * Path(file).stat().st_size
    slow = f"{file} is refused: its rules take too long for a few lines of text"
    seconds = int(_PROBE_SECONDS + Path(file).stat().st_size / 2**20)
    command = [sys.executable, "-P", str(Path(__file__).with_name("tokenizer_probe.py"))]
    try:
        done = subprocess.run(
            [*command, file, str(memory), str(seconds)],
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            # Processor time is what is bounded: a busy machine refuses no tokenizer.
            timeout=_WAIT * seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(slow) from error
    if done.returncode == -_OUT_OF_TIME:
        raise ModelError(slow)
    # The engine of the rules gives up after so many steps, with a panic.
    if b"PanicException" in done.stderr:
        raise ModelError(f"{file} is refused: its rules take too many steps for a few lines")
    # A damaged file is told of by the loader; killed by a signal is out of memory.
    if done.returncode < 0 or b"MemoryError" in done.stderr:
        raise ModelError(f"{file} is refused: its rules take too much memory for a few lines")


def _template_file(folder: Path) -> str | None:
    file = folder / "chat_template.jinja"
    return read_input(file, ModelError) if file.is_file() else None
