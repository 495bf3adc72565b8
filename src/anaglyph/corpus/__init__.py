"""What the models read: documents, chat templates, token roles, sequences and their split."""

from anaglyph.corpus.documents import Document, Message
from anaglyph.corpus.reading import BUILTIN, read_documents
from anaglyph.corpus.split import split_mask
from anaglyph.corpus.templating import ROLES
from anaglyph.corpus.tokenizing import load_corpus, tokenize
from anaglyph.corpus.tokens import TokenCorpus, padded_batches

__all__ = [
    "BUILTIN",
    "ROLES",
    "Document",
    "Message",
    "TokenCorpus",
    "load_corpus",
    "padded_batches",
    "read_documents",
    "split_mask",
    "tokenize",
]
