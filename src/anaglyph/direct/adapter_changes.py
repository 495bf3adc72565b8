"""An adapter's change of each weight of the base: from its factors, or as peft merges it."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from anaglyph.core.errors import ModelError
from anaglyph.direct.adapter_files import AdapterFiles
from anaglyph.direct.matching import Vocabularies
from anaglyph.direct.matrix_change import MatrixChange, change_of, product_svd, residual_side
from anaglyph.direct.weight_files import ModelFiles, block_of
from anaglyph.pair.loading import Adapter, load_model
from anaglyph.pair.merging import AdaptedModule
from anaglyph.pair.sources import Source

Changes = Iterator[tuple[str, Callable[[], Iterable[MatrixChange]]]]
"""Names, which tell the decoder block, and what makes the changes of the weights under them."""
_ROUNDING = 1e-6
"""Norm of a change as a share of the weight's, up to which it is rounding of a rewritten base."""


def adapter_changes(
    base: ModelFiles, source: Source, rank: int | None, seed: int, notes: list[str]
) -> Changes:
    """Yield the name of each module that an adapter changes, and what makes its changes.

    Raises:
        ModelError: The adapter cannot be read or does not fit the base.
    """
    adapter = AdapterFiles(source)
    if adapter.not_factors is None:
        modules = [name.removesuffix(".weight") for name in base.names]
        if not adapter.fits(modules):
            adapter.not_factors = "changes other modules than its configuration names"
    if adapter.not_factors is None:
        yield from _from_factors(base, adapter, rank, seed, notes)
        return
    notes.append(
        f"adapter {source.name} {adapter.not_factors}: the base was loaded and each layer merged"
        " by peft"
    )
    yield from _merged(base, source, rank, seed)


def _from_factors(
    base: ModelFiles, adapter: AdapterFiles, rank: int | None, seed: int, notes: list[str]
) -> Changes:
    vocabularies = Vocabularies(base.source, adapter.source)

    def product(path: str) -> list[MatrixChange]:
        b, a = adapter.factors(path)
        shape, norm = (b.shape[0], a.shape[1]), None
        stored = _stored(base, f"{path}.weight")
        if stored is not None:
            own = base.shape(stored)
            if shape != own and shape[1:] == own[1:] and stored in (base.embedding, base.head):
                rows = vocabularies.rows(path, own[0], shape[0])
                notes.extend(note for note in rows.notes if note not in notes)
                b, shape = b[rows.tuned], (len(rows.tuned), shape[1])
            elif sorted(own) != sorted(shape):
                raise ModelError(
                    f"the adapter changes {path} by a matrix of {list(shape)}, the base's has"
                    f" {list(own)}"
                )
            norm = math.sqrt(sum(float(part.square().sum()) for part in base.row_slices(stored)))
        left, singular, right = product_svd(b, a)
        size, kept = (
            float(singular.double().norm()),
            (left[:, :rank], singular[:rank], right[:, :rank]),
        )
        residual = residual_side(path, shape, base.width)
        return [MatrixChange(path, block_of(f"{path}."), shape, size, norm, *kept, residual)]

    def replacement(path: str) -> list[MatrixChange]:
        new, stored = adapter.read(adapter.replaced[path]), _stored(base, f"{path}.weight")
        original = None if stored is None else base.read(stored)
        if original is None or original.shape[1:] != new.shape[1:]:
            raise ModelError(f"the adapter replaces {path}, which does not fit the base")
        if len(new) != len(original):
            if stored not in (base.embedding, base.head):
                raise ModelError(f"the adapter replaces {path}, which does not fit the base")
            rows = vocabularies.rows(path, len(original), len(new))
            notes.extend(note for note in rows.notes if note not in notes)
            new, original = new[rows.tuned], original[rows.base]
        if path not in adapter.products:
            return [change_of(base, f"{path}.weight", new, original, rank, seed)]
        if not torch.equal(new.double(), original.double()):
            # PEFT stores the embedding under a LoRA as well; usually it is the base's own.
            raise ModelError(
                f"the adapter changes {path} both by factors and as a whole: merge it and give the"
                " whole model"
            )
        return []

    for path in adapter.products:
        yield f"{path}.weight", partial(product, path)
    for path in adapter.replaced:
        yield f"{path}.weight", partial(replacement, path)


def _merged(base: ModelFiles, source: Source, rank: int | None, seed: int) -> Changes:
    model = load_model(base.source, torch.device("cpu"), torch.float32)
    adapter = Adapter(model, base.source, source)
    inside: set[int] = set()

    def change(name: str, new: Tensor, own: Tensor) -> Iterator[MatrixChange]:
        stored = _stored(base, name)
        # The base under some adapters is not its own any more: what is on disk is. Weights that
        # the loader puts together of several (experts) are read from memory.
        original = own if stored is None else base.read(stored)
        if new.shape != original.shape:
            raise ModelError(
                f"{source.name} changes {name} of shape {list(new.shape)}, the base's has"
                f" {list(original.shape)}"
            )
        moved = float((new.double() - original.double()).norm())
        if moved <= (_ROUNDING * float(original.double().norm()) if adapter.rewrites_base else 0):
            new = original
            if not name.endswith(".weight"):
                return
        yield change_of(base, name, new, original, rank, seed)

    def changes(module: AdaptedModule) -> Iterator[MatrixChange]:
        own = dict(module.original.named_parameters())
        for name, new in module.merged().items():
            yield from change(f"{module.path}.{name}", new, own[name].data)

    for module in adapter.modules():
        inside |= {id(parameter) for parameter in module.wrapper.parameters()}
        yield f"{module.path}.", partial(changes, module)
    if adapter.trains_biases:
        for name, parameter in model.named_parameters():
            if name.endswith("bias") and id(parameter) not in inside:
                yield name, partial(change, name, parameter.data, parameter.data)


def _stored(base: ModelFiles, name: str) -> str | None:
    """Return the base's tensor of a parameter; the input embedding's for a head tied to it."""
    found = base.find_weight(name)
    if found is None and name.removesuffix(".weight").endswith(("lm_head", "embed_out")):
        return base.unembedding
    return found
