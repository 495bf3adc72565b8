"""ModelPair: a base model and its fine-tune, run on the same tokens through the same template."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import PreTrainedModel

from anaglyph.core.arrays import Array, floats, integers
from anaglyph.core.devices import resolve_device, resolve_dtype
from anaglyph.core.errors import InputError, ModelError
from anaglyph.core.files import digest
from anaglyph.core.validation import check_type
from anaglyph.pair.blocks import BlockModel
from anaglyph.pair.loading import (
    Adapter,
    load_model,
    same_tensors,
    shape_notes,
    vocabulary_rows,
)
from anaglyph.pair.quiet import loading
from anaglyph.pair.sources import Source, locate, pair_notes
from anaglyph.pair.spans import SpanTokenizer
from anaglyph.pair.tokens import Reader, decoded, shared_tokenizer, token_strings
from anaglyph.pair.vocabulary import REST, Vocabulary, arrange, lengthen

Side = Literal["base", "tuned"]


@runtime_checkable
class Overlay(Protocol):
    """What makes a tuned model of the base in place, and the base of that again."""

    on: bool

    def switch(self, on: bool) -> None:
        """Let it act, or not."""
        ...

    def first_block(self, blocks: list[nn.Module]) -> int:
        """Return the first decoder block whose output can differ, or one before it."""
        ...


class ModelPair:
    """Two models of one shape, one tokenizer and one chat template.

    An adapter pair shares the base's weights: one copy in memory, with the adapter switched on only
    while the tuned side runs. A pair is therefore not to be used from two threads at once.

    Attributes:
        tokenizer: The shared fast tokenizer, with the chat template both models are given.
        names: Base and tuned as the user named them.
        n_layers: Number of the base's decoder blocks. Layers are counted in the base; in a tuned
            model of another depth they are those at the same fraction (`layer_of`).
        d_base: Width of base's residual stream.
        d_tuned: Width of tuned's residual stream.
        vocabulary: Length of the logits.
        tokens: Which rows of both models' embeddings are the same token; None where all are.
        spans: The tokenizer, if it joins two; token ids then stand for spans of text.
        related: Whether the two have one architecture and one tokenizer, so that activations can
            be subtracted, weights mixed and one model patched with the other's activations.
        vocabulary_facts: What differs between the two vocabularies, as plain data.
        fingerprints: Digests of file contents: base, tuned, tokenizer, template.
        same_weights: Both sides are the very same weights; they are then one object.
        adapted_from: First block whose output an adapter can change (``n_layers`` if it changes
            only the output embedding); None for a pair of whole models.
        has_adapter: Whether a PEFT adapter makes the tuned model, rather than other weights.
        notes: Choices made while loading that a reader of the results should know.
    """

    def __init__(
        self,
        base: BlockModel,
        tuned: BlockModel,
        adapter: Overlay | None,
        tokenizer: Any,
        *,
        names: tuple[str, str],
        fingerprints: dict[str, str],
        notes: Sequence[str] = (),
        tokens: Vocabulary | None = None,
        related: bool = True,
    ) -> None:
        """Join two loaded models; ``load`` is the way to get them from files."""
        self._models = {"base": base, "tuned": tuned}
        self._adapter = adapter
        self.tokenizer = tokenizer
        self.names = names
        self.fingerprints = fingerprints
        self.notes = tuple(notes)
        self.spans = tokenizer if isinstance(tokenizer, SpanTokenizer) else None
        self.related = related
        self.n_layers = base.depth
        self.d_base = base.width
        self.d_tuned = tuned.width
        self.vocabulary_facts = {} if tokens is None else tokens.facts
        self.tokens = None if tokens is None or tokens.is_plain else tokens
        self._ids = base.vocabulary
        self.vocabulary = self._ids + int(tokens is not None and tokens.has_rest)
        self.same_weights = fingerprints["base"] == fingerprints["tuned"]
        self.adapted_from = adapter.first_block(base.blocks) if adapter else None
        self.has_adapter = isinstance(adapter, Adapter)

    @classmethod
    def load(
        cls,
        base: str | Path,
        tuned: str | Path,
        *,
        device: str = "auto",
        dtype: str = "float32",
        local_files_only: bool = False,
        convert: bool = False,
        tokenizer: str | None = None,
        chat_template: str | None = None,
    ) -> "ModelPair":
        """Load a base model and its fine-tune.

        Args:
            base: Hugging Face folder, hub id (``NAME@REVISION``) or ``.gguf`` file. A GGUF file is
                converted once to float32 in ``$ANAGLYPH_CACHE`` (default ``~/.cache/anaglyph``).
            tuned: The same, or a PEFT adapter's folder or hub id.
            device: "auto" (a CUDA GPU if there is one), "cpu", "cuda", "cuda:N" or "mps".
            dtype: "float32" or "bfloat16".
            local_files_only: Do not ask the hub for what is not in its local cache.
            convert: Convert pickled weights (``.bin``) once to safetensors; see `locate`.
            tokenizer: Which one reads: "base", "tuned", or a folder or hub id with another one. If
                None the base's, without the tokens that the tuned model lacks.
            chat_template: "base", "tuned" or a file; None takes the tuned model's if it has one.

        Raises:
            ModelError: A model is missing, damaged or does not fit its partner.
            InputError: ``device`` or ``dtype`` is unknown or not available, or the tokenizer or
                template that is named does not exist.
        """
        where, kind = resolve_device(device), resolve_dtype(dtype)
        sources = (
            locate(base, local_files_only=local_files_only, convert=convert),
            locate(tuned, local_files_only=local_files_only, convert=convert),
        )
        if sources[0].is_adapter:
            raise ModelError(f"{base} is an adapter; base must be a whole model")
        shapes = [] if sources[1].is_adapter else shape_notes(*sources)
        reader = shared_tokenizer(*sources, tokenizer, chat_template)
        sizes = vocabulary_rows(*sources)
        same = sources[0].fingerprint == sources[1].fingerprint
        if not (same or shapes or sources[1].is_adapter or reader.are_alike):
            same = same_tensors(*sources)
        if same:
            # The same weights are the same tokens, whatever the files call them.
            reader.base = reader.tuned = None
        names = (str(base), str(tuned))
        alike = same or sources[1].is_adapter or reader.are_alike
        tokens = reader.vocabulary(sizes) if alike else None
        if tokens is None and not sources[1].is_adapter:
            return cls._of_two_tokenizers(sources, reader, shapes, (where, kind))
        if tokens is None:
            raise ModelError(f"the tokenizer of adapter {tuned} is not that of {base}")
        if shapes and reader.chosen and not tokens.shared.all():
            raise InputError(
                "tokenizer: the one that is named has tokens that one of the models lacks, and"
                " rows cannot be borrowed from a model of another width"
            )

        first = load_model(sources[0], where, kind)
        prints = _fingerprints(*sources, reader)
        if same:
            prints["tuned"] = prints["base"]
        notes = [*pair_notes(*sources), *shapes, *reader.notes, *tokens.notes(names)]
        given: dict[str, Any] = {"names": names, "fingerprints": prints, "notes": notes}
        given["tokens"], given["related"] = tokens, not shapes
        if same:
            one = BlockModel(first)
            return cls(one, one, None, reader.tokenizer, **given)
        if not sources[1].is_adapter:
            second = load_model(sources[1], where, kind)
            if not tokens.is_plain:
                arrange(first, second, tokens)
            return cls(BlockModel(first), BlockModel(second), None, reader.tokenizer, **given)
        return cls._adapted(first, sources, tokens, reader.tokenizer, given)

    @classmethod
    def _of_two_tokenizers(
        cls,
        sources: tuple[Source, Source],
        reader: Reader,
        shapes: list[str],
        place: tuple[torch.device, torch.dtype],
    ) -> "ModelPair":
        """Join two models that have no token ids in common."""
        base, tuned = sources
        spans = reader.spans((base.name, tuned.name))
        prints = _fingerprints(base, tuned, reader)
        prints["tokenizer"] = digest([each.tokenizer_fingerprint for each in sources])
        return cls(
            BlockModel(load_model(base, *place)),
            BlockModel(load_model(tuned, *place)),
            None,
            spans,
            names=(base.name, tuned.name),
            fingerprints=prints,
            notes=[*pair_notes(base, tuned), *shapes, *reader.notes],
            related=False,
        )

    @classmethod
    def _adapted(
        cls,
        model: Any,
        sources: tuple[Source, Source],
        tokens: Vocabulary,
        tokenizer: Any,
        given: dict[str, Any],
    ) -> "ModelPair":
        """Lay an adapter over a loaded base."""
        if (tokens.base != tokens.tuned)[tokens.shared.numpy()].any():
            raise ModelError(
                f"the tokenizer of adapter {sources[1].name} gives tokens other ids than that of"
                f" {sources[0].name}: the adapter was made for another base"
            )
        where, kind = model.device, model.dtype
        if tokens.size > model.config.get_text_config().vocab_size:
            lengthen(model, tokens.size)
        first = BlockModel(model)
        before = first.probe_logits()
        adapter = Adapter(model, *sources)
        adapter.switch(True)
        with loading(f"adapter {sources[1].name} cannot be run layer by layer"):
            BlockModel(model)
        adapter.switch(False)
        # Again, because an adapter may put whole blocks of its own in the place of the base's.
        own = torch.from_numpy(tokens.base >= 0)
        if torch.equal(before[..., own], first.probe_logits()[..., own]):
            first = BlockModel(model)
            return cls(first, first, adapter, tokenizer, **given)
        tuned = BlockModel(adapter.merged())
        whole = load_model(sources[0], where, kind)
        if not tokens.is_plain:
            arrange(whole, tuned.model, tokens)
        given["notes"] += [
            f"adapter {sources[1].name} changes the base's own weights and cannot be switched off:"
            " it was merged into a second copy of the base"
        ]
        return cls(BlockModel(whole), tuned, None, tokenizer, **given)

    def overlaid(self, overlay: Overlay, name: str) -> "ModelPair":
        """Return the base beside itself under an overlay, with the same tokenizer.

        Both pairs then share the base's weights: use one at a time.

        Args:
            overlay: Made for the base of this pair, switched off.
            name: Of the model that it makes; unlike any other overlay's on this base.
        """
        base = self._models["base"]
        tuned = digest({"base": self.fingerprints["base"], "overlay": name})
        return ModelPair(
            base,
            base,
            overlay,
            self.tokenizer,
            names=(self.names[0], name),
            fingerprints=self.fingerprints | {"tuned": tuned},
            notes=self.notes,
            tokens=self.tokens,
        )

    def resolve_layer(self, layer: int | float) -> int:
        """Return a layer's index: of an int itself, of a float in [0, 1] that fraction of depth.

        Raises:
            InputError: The layer is not one of this model's.
        """
        if isinstance(layer, float):
            if not 0 <= layer <= 1:
                raise InputError(f"layer {layer} is out of range: a fraction lies in 0.0 to 1.0")
            return min(self.n_layers - 1, int(layer * self.n_layers))
        check_type("layer", layer, int, "give an index or a fraction")
        if isinstance(layer, bool) or not 0 <= layer < self.n_layers:
            raise InputError(
                f"layer {layer} is out of range: the model has {self.n_layers} layers"
                f" (0 to {self.n_layers - 1})"
            )
        return layer

    def layer_of(self, side: Side, layer: int) -> int:
        """Return which block of one model a layer is: the one at the same fraction of the depth."""
        depth = self._models[side].depth
        return max(0, round((layer + 1) * depth / self.n_layers) - 1)

    def block(self, side: Side, layer: int) -> nn.Module:
        """Return the decoder block of one model that a layer is the output of."""
        return self._models[side].blocks[self.layer_of(side, layer)]

    def reader(self, side: Side) -> Any:
        """Return the tokenizer that one model reads with."""
        return self.tokenizer if self.spans is None else self.spans.side(side)

    def check_related(self, what: str) -> None:
        """Refuse what needs two models of one architecture and one tokenizer.

        Raises:
            ModelError: The two are not.
        """
        if not self.related:
            raise ModelError(
                f"{what} needs two models of one architecture with one tokenizer, which"
                f" {self.names[0]} and {self.names[1]} are not; crosscoders, findings and behave"
                " work without"
            )

    def run_to(
        self,
        side: Side,
        input_ids: Array,
        attention_mask: Array,
        layers: Sequence[int],
        *,
        start: tuple[int, Float[Tensor, "batch length d"]] | None = None,
    ) -> dict[int, Float[Tensor, "batch length d"]]:
        """Return one model's residual stream at the outputs of decoder blocks ``layers``.

        For the last block this is before the final norm. Nothing past the last of ``layers`` is
        computed. Values at padding are there but mean nothing.

        Args:
            side: Which model.
            input_ids: What it reads.
            attention_mask: 1 at tokens, 0 at padding.
            layers: Where.
            start: An earlier layer and what its block gives, in place of what it would give.

        Raises:
            InputError: A layer, token id or the padding is out of order.
        """
        wanted = [self.resolve_layer(layer) for layer in layers]
        if not wanted:
            raise InputError("layers is empty: name at least one")
        input_ids, attention_mask = self._checked(input_ids, attention_mask)
        own = [self.layer_of(side, layer) for layer in wanted]
        with self._running(side) as model:
            if self.spans is None:
                at = None
                if start is not None:
                    first = self.layer_of(side, self.resolve_layer(start[0]))
                    at = (first, start[1].to(device=model.device, dtype=model.model.dtype))
                found = model.run_to(input_ids, attention_mask, own, start=at)
            else:
                ids, mask, ends = self.spans.expanded(side, input_ids, attention_mask)
                ends, rows = ends.to(model.device), torch.arange(len(ids), device=model.device)
                reached = model.run_to(ids, mask, own)
                found = {layer: hidden[rows[:, None], ends] for layer, hidden in reached.items()}
        return {layer: found[place] for layer, place in zip(wanted, own, strict=True)}

    def run_both_to(
        self,
        input_ids: Array,
        attention_mask: Array,
        layers: Sequence[int],
    ) -> dict[Side, dict[int, Float[Tensor, "batch length _"]]]:
        """Return what ``run_to`` gives of each model, computing once what they have in common.

        The blocks before the first that an adapter changes give the same output in both: base and
        tuned then share those tensors. Of ``same_weights`` all are shared.

        Raises:
            InputError: As ``run_to``.
        """
        input_ids, attention_mask = self._checked(input_ids, attention_mask)
        wanted = sorted({self.resolve_layer(layer) for layer in layers})
        shared = self.n_layers if self.same_weights else self.adapted_from or 0
        if not wanted or shared == 0:
            return {
                "base": self.run_to("base", input_ids, attention_mask, layers),
                "tuned": self.run_to("tuned", input_ids, attention_mask, layers),
            }
        own = [layer for layer in wanted if layer >= shared]
        # The last shared output is where the tuned model goes on from.
        reads = [*wanted, shared - 1] if own else wanted
        base = self.run_to("base", input_ids, attention_mask, reads)
        tuned = {layer: base[layer] for layer in wanted if layer < shared}
        if own:
            with self._running("tuned") as model:
                start = (shared - 1, base[shared - 1])
                tuned |= model.run_to(input_ids, attention_mask, own, start=start)
        return {"base": {layer: base[layer] for layer in wanted}, "tuned": tuned}

    def run_from(
        self,
        side: Side,
        layer: int,
        edited: Array,
        input_ids: Array,
        attention_mask: Array,
    ) -> Float[Tensor, "batch length vocab"]:
        """Return one model's logits when decoder block ``layer`` outputs ``edited``.

        Blocks 0 to ``layer`` are not computed. Gradients flow to ``edited`` if it asks for them.

        Raises:
            InputError: A layer, shape, token id or the padding is out of order.
        """
        layer = self.layer_of(side, self.resolve_layer(layer))
        input_ids, attention_mask = self._checked(input_ids, attention_mask)
        self._check_predictions()
        with self._running(side) as model:
            edited = floats("edited activations", edited, "[batch, length, d]")
            expected = (*input_ids.shape, model.width)
            if tuple(edited.shape) != expected:
                raise InputError(
                    f"edited activations have shape {tuple(edited.shape)}, the tokens and model"
                    f" need {expected}"
                )
            return self.shared(side, model.run_from(layer, edited, input_ids, attention_mask))

    def logits(
        self,
        side: Side,
        input_ids: Array,
        attention_mask: Array,
    ) -> Float[Tensor, "batch length vocab"]:
        """Return one model's logits.

        Raises:
            InputError: A token id or the padding is out of order.
        """
        input_ids, attention_mask = self._checked(input_ids, attention_mask)
        self._check_predictions()
        with self._running(side) as model:
            return self.shared(side, model.logits(input_ids, attention_mask))

    @torch.no_grad()
    def span_logprobs(
        self, side: Side, input_ids: Array, attention_mask: Array
    ) -> Float[Tensor, "batch length"]:
        """Return one model's log-probability of each span given those before it, in nats.

        The sum over the span's tokens; 0 for the first span and at padding. Two models of any
        tokenizers can be compared by it: each spells the same text.

        Raises:
            InputError: A span or the padding is out of order.
        """
        input_ids, attention_mask = self._checked(input_ids, attention_mask)
        ids, mask = input_ids, attention_mask
        ends = torch.arange(ids.shape[1]).expand(ids.shape)
        if self.spans is not None:
            ids, mask, ends = self.spans.expanded(side, input_ids, attention_mask)
        with self._running(side) as model:
            logits = model.logits(ids, mask).float().log_softmax(-1).cpu()
        steps = logits[:, :-1].gather(2, ids[:, 1:, None])[:, :, 0] * mask[:, 1:]
        sums = torch.nn.functional.pad(steps.double().cumsum(1), (1, 0))
        upto = sums.gather(1, ends)
        found = torch.nn.functional.pad(upto.diff(dim=1), (1, 0))
        return torch.where(attention_mask.bool(), found, 0.0)

    def shared(
        self, side: Side, logits: Float[Tensor, "*batch ids"]
    ) -> Float[Tensor, "*batch vocab"]:
        """Return logits of one side's Hugging Face model over the tokens that both models have.

        docs/maths.md, section 4. `logits` and `run_from` return such logits.
        """
        return logits if self.tokens is None else self.tokens.shared_logits(side, logits)

    def foreseen(self, ids: Int64[np.ndarray, "*shape"]) -> Int64[np.ndarray, "*shape"]:
        """Return token ids with -1 for those that only one of the models can predict."""
        if self.tokens is None:
            return ids
        return np.where((ids >= 0) & self.tokens.shared.numpy()[ids.clip(0)], ids, -1)

    @contextmanager
    def side(self, side: Side) -> Iterator[PreTrainedModel]:
        """Give the Hugging Face model of one side, for generation; its adapter is on meanwhile."""
        with self._running(side) as model:
            yield model.model

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Return the text each token stands for, leading space included."""
        if self.spans is not None:
            return self.spans.texts([int(i) for i in ids])
        extra = {} if self.tokens is None else self.tokens.texts | {self.tokens.size: REST}
        return token_strings(self.tokenizer, [int(i) for i in ids], extra)

    def decoded(self, ids: Sequence[int], side: Side = "tuned") -> str:
        """Return the text of one model's reply, special tokens left out."""
        return decoded(self.reader(side), ids, {} if self.tokens is None else self.tokens.texts)

    @contextmanager
    def _running(self, side: str) -> Iterator[BlockModel]:
        if side not in self._models:
            raise InputError(f"side {side!r} is unknown: use base or tuned")
        if self._adapter is None:
            yield self._models[side]
            return
        before = self._adapter.on
        self._adapter.switch(side == "tuned")
        try:
            yield self._models[side]
        finally:
            self._adapter.switch(before)

    def _check_predictions(self) -> None:
        if self.spans is not None:
            raise ModelError(
                f"{self.names[0]} and {self.names[1]} have different tokenizers: they predict no"
                " common tokens, so that there is no KL and no patching between them; `tokens`"
                " compares the likelihood of spans"
            )

    def _checked(self, input_ids: Array, attention_mask: Array) -> tuple[Tensor, Tensor]:
        input_ids = integers("token ids", input_ids, "[batch, length]")
        # times 1: a mask may be of booleans
        attention_mask = integers("attention mask", attention_mask * 1, "[batch, length]")
        if attention_mask.shape != input_ids.shape:
            raise InputError(
                f"token ids {tuple(input_ids.shape)} and attention mask"
                f" {tuple(attention_mask.shape)} must both be [batch, length]"
            )
        if input_ids.numel() == 0:
            raise InputError("token ids are empty")
        low, high = int(input_ids.min()), int(input_ids.max())
        size = self._ids if self.spans is None else len(self.spans.spans)
        if low < 0 or high >= size:
            raise InputError(
                f"token id {low if low < 0 else high} is outside the vocabulary of {size}"
            )
        # Positions are counted from the left edge, so padding there would shift them.
        if not attention_mask[:, 0].all() or (attention_mask.diff(dim=1) > 0).any():
            raise InputError("sequences must start at the left edge and be padded on the right")
        return input_ids, attention_mask


def _fingerprints(base: Source, tuned: Source, reader: Reader) -> dict[str, str]:
    tuned_print = tuned.fingerprint
    if tuned.is_adapter:
        tuned_print = digest({"base": base.fingerprint, "adapter": tuned.fingerprint})
    return {
        "base": base.fingerprint,
        "tuned": tuned_print,
        "tokenizer": reader.fingerprint,
        "template": digest(reader.tokenizer.chat_template),
    }
