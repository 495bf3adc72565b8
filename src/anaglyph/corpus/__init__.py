"""What the models read: documents, chat templates, token roles, sequences and their split."""

from anaglyph.corpus.account import BadRowError, Reading, SkippedRow
from anaglyph.corpus.documents import Document, Message
from anaglyph.corpus.reading import BUILTIN, read_documents, stream_documents
from anaglyph.corpus.roles import ROLES
from anaglyph.corpus.sample import sample_of, taken
from anaglyph.corpus.split import split_mask
from anaglyph.corpus.tokenizing import load_corpus, tokenize
from anaglyph.corpus.tokens import TokenCorpus, padded_batches

__all__ = [
    "BUILTIN",
    "ROLES",
    "BadRowError",
    "Document",
    "Message",
    "Reading",
    "SkippedRow",
    "TokenCorpus",
    "load_corpus",
    "padded_batches",
    "read_documents",
    "sample_of",
    "split_mask",
    "stream_documents",
    "taken",
    "tokenize",
]
