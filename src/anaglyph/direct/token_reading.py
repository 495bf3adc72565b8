"""Directions of the residual stream read as tokens, from the embedding matrices on disk alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from anaglyph.core.errors import ModelError
from anaglyph.direct.weight_files import ModelFiles
from anaglyph.direct.weights import Direction
from anaglyph.pair.sources import Source, locate
from anaglyph.pair.tokens import load_tokenizer, token_strings


def read_as_tokens(
    base: str | Path, tuned: str | Path, found: Sequence[Direction], top: int = 8
) -> list[tuple[list[str], list[str]]]:
    """Return the tokens at both ends of each direction.

    A direction that is written goes through the final norm's gain and the output embedding: the
    tokens that it raises and lowers (layers between are passed over). One that is read is compared
    with the input embedding: the tokens that would set it off most, either way.

    Raises:
        ModelError: A model or the tokenizer cannot be read.
    """
    sources = locate(base), locate(tuned)
    files, tokenizer = ModelFiles(sources[0]), _tokenizer(*sources)
    gain = files.final_gain()
    texts: list[tuple[list[str], list[str]]] = [([], [])] * len(found)
    for side, name, factor in (
        ("writes", files.unembedding, gain),
        ("reads", files.embedding, torch.ones_like(gain)),
    ):
        places = [i for i, direction in enumerate(found) if direction.side == side]
        if not places:
            continue
        if name is None:
            raise ModelError(f"the embedding of {base} was not found among its weights")
        vectors = factor * torch.stack([found[place].vector for place in places])
        vectors = _projected(files, name, vectors, side)
        for place, (high, low) in zip(places, _extremes(files, name, vectors, top), strict=True):
            texts[place] = (_strings(tokenizer, high), _strings(tokenizer, low))
    return texts


def _tokenizer(base: Source, tuned: Source) -> Any:
    """Return the tokenizer of the base, whose embeddings are read; the tuned model's without one.

    None where neither has one.
    """
    for source in (base, tuned):
        if source.tokenizer_fingerprint is not None:
            return load_tokenizer(source)
    return None


def _projected(
    files: ModelFiles, name: str, vectors: Float[Tensor, "directions d"], side: str
) -> Float[Tensor, "directions e"]:
    """Carry directions over to embeddings of another width, as some models (OPT-350m) have them."""
    if files.shape(name)[1] == vectors.shape[1]:
        return vectors
    projection = next((n for n in files.names if n.endswith("project_out.weight")), None)
    other = next((n for n in files.names if n.endswith("project_in.weight")), None)
    if projection is None or other is None:
        raise ModelError(
            f"{files.name} embeds in {files.shape(name)[1]} dimensions, its residual stream has"
            f" {vectors.shape[1]}: directions cannot be read as tokens"
        )
    if side == "writes":
        return vectors @ files.read(projection).float().T
    return vectors @ files.read(other).float()


def _extremes(
    files: ModelFiles, name: str, vectors: Float[Tensor, "directions d"], top: int
) -> list[tuple[list[int], list[int]]]:
    """Return the rows of a matrix with the largest and smallest dot products, slice by slice."""
    best = [torch.empty(len(vectors), 0) for _ in range(2)]
    rows = [torch.empty(len(vectors), 0, dtype=torch.int64) for _ in range(2)]
    start = 0
    for part in files.row_slices(name):
        scores = vectors @ part.T
        own = (start + torch.arange(len(part))).expand(len(vectors), -1)
        for end, sign in enumerate((1, -1)):
            best[end], rows[end] = _merge(best[end], rows[end], sign * scores, own, top)
        start += len(part)
    return list(zip(rows[0].tolist(), rows[1].tolist(), strict=True))


def _merge(
    best: Float[Tensor, "directions held"],
    rows: Int64[Tensor, "directions held"],
    scores: Float[Tensor, "directions more"],
    own: Int64[Tensor, "directions more"],
    top: int,
) -> tuple[Tensor, Tensor]:
    values, index = torch.cat([best, scores], dim=1).topk(
        min(top, best.shape[1] + scores.shape[1]), dim=1
    )
    return values, torch.cat([rows, own], dim=1).gather(1, index)


def _strings(tokenizer: Any, ids: list[int]) -> list[str]:
    if tokenizer is None:
        return [f"<row {i}>" for i in ids]
    known = tokenizer.vocab_size + len(tokenizer.get_added_vocab())
    # Embeddings are often padded beyond the vocabulary.
    return token_strings(tokenizer, [i for i in ids if i < known])
