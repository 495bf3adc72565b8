"""ModelPair: a base model and its fine-tune, run on the same tokens through the same template."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from anaglyph.core.arrays import Array, floats, integers
from anaglyph.core.devices import resolve_device, resolve_dtype
from anaglyph.core.errors import InputError, ModelError
from anaglyph.core.files import digest
from anaglyph.pair.blocks import BlockModel
from anaglyph.pair.loading import (
    Adapter,
    check_same_shape,
    load_model,
)
from anaglyph.pair.sources import Source, locate, pair_notes
from anaglyph.pair.tokens import shared_tokenizer, token_strings

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
        n_layers: Number of decoder blocks of each model.
        d_base: Width of base's residual stream.
        d_tuned: Width of tuned's residual stream.
        vocabulary: Length of the logits.
        fingerprints: Digests of file contents: base, tuned, tokenizer, template.
        same_weights: Both sides are the very same files; they are then one object.
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
    ) -> None:
        """Join two loaded models; ``load`` is the way to get them from files."""
        self._models = {"base": base, "tuned": tuned}
        self._adapter = adapter
        self.tokenizer = tokenizer
        self.names = names
        self.fingerprints = fingerprints
        self.notes = tuple(notes)
        self.n_layers = base.depth
        self.d_base = base.width
        self.d_tuned = tuned.width
        self.vocabulary = base.vocabulary
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
    ) -> "ModelPair":
        """Load a base model and its fine-tune.

        Args:
            base: Hugging Face folder, hub id (``NAME@REVISION``) or ``.gguf`` file. A GGUF file is
                converted once to float32 in ``$ANAGLYPH_CACHE`` (default ``~/.cache/anaglyph``).
            tuned: The same, or a PEFT adapter's folder or hub id.
            device: "auto" (a CUDA GPU if there is one), "cpu", "cuda", "cuda:N" or "mps".
            dtype: "float32" or "bfloat16".
            local_files_only: Do not ask the hub for what is not in its local cache.

        Raises:
            ModelError: A model is missing, damaged or does not fit its partner.
            InputError: ``device`` or ``dtype`` is unknown or not available.
        """
        where, kind = resolve_device(device), resolve_dtype(dtype)
        sources = (
            locate(base, local_files_only=local_files_only),
            locate(tuned, local_files_only=local_files_only),
        )
        if sources[0].is_adapter:
            raise ModelError(f"{base} is an adapter; base must be a whole model")
        if not sources[1].is_adapter:
            check_same_shape(*sources)
        tokenizer, tokenizer_fingerprint, notes = shared_tokenizer(*sources)

        first = BlockModel(load_model(sources[0], where, kind))
        second, adapter = first, None
        if sources[1].is_adapter:
            before = first.probe_logits()
            adapter = Adapter(first.model, *sources)
            # Again, because an adapter may put whole blocks of its own in the place of the base's.
            if torch.equal(before, first.probe_logits()):
                first = second = BlockModel(first.model)
            else:
                second, adapter = BlockModel(adapter.merged()), None
                first = BlockModel(load_model(sources[0], where, kind))
                notes.append(
                    f"adapter {tuned} changes the base's own weights and cannot be switched off: it"
                    " was merged into a second copy of the base"
                )
        elif sources[1].fingerprint != sources[0].fingerprint:
            second = BlockModel(load_model(sources[1], where, kind))
        return cls(
            first,
            second,
            adapter,
            tokenizer,
            names=(str(base), str(tuned)),
            fingerprints=_fingerprints(*sources, tokenizer, tokenizer_fingerprint),
            notes=[*pair_notes(*sources), *notes],
        )

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
        if isinstance(layer, bool) or not 0 <= layer < self.n_layers:
            raise InputError(
                f"layer {layer} is out of range: the model has {self.n_layers} layers"
                f" (0 to {self.n_layers - 1})"
            )
        return layer

    def run_to(
        self,
        side: Side,
        input_ids: Array,
        attention_mask: Array,
        layers: Sequence[int],
    ) -> dict[int, Float[Tensor, "batch length d"]]:
        """Return one model's residual stream at the outputs of decoder blocks ``layers``.

        For the last block this is before the final norm. Nothing past the last of ``layers`` is
        computed. Values at padding are there but mean nothing.

        Raises:
            InputError: A layer, token id or the padding is out of order.
        """
        wanted = [self.resolve_layer(layer) for layer in layers]
        if not wanted:
            raise InputError("layers is empty: name at least one")
        input_ids, attention_mask = self._checked(input_ids, attention_mask)
        with self._running(side) as model:
            return model.run_to(input_ids, attention_mask, wanted)

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
        layer = self.resolve_layer(layer)
        input_ids, attention_mask = self._checked(input_ids, attention_mask)
        with self._running(side) as model:
            edited = floats("edited activations", edited, "[batch, length, d]")
            expected = (*input_ids.shape, model.width)
            if tuple(edited.shape) != expected:
                raise InputError(
                    f"edited activations have shape {tuple(edited.shape)}, the tokens and model"
                    f" need {expected}"
                )
            return model.run_from(layer, edited, input_ids, attention_mask)

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
        with self._running(side) as model:
            return model.logits(input_ids, attention_mask)

    @contextmanager
    def side(self, side: Side) -> Iterator[PreTrainedModel]:
        """Give the Hugging Face model of one side, for generation; its adapter is on meanwhile."""
        with self._running(side) as model:
            yield model.model

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Return the text each token stands for, leading space included."""
        return token_strings(self.tokenizer, [int(i) for i in ids])

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
        if low < 0 or high >= self.vocabulary:
            raise InputError(
                f"token id {low if low < 0 else high} is outside the vocabulary of"
                f" {self.vocabulary}"
            )
        # Positions are counted from the left edge, so padding there would shift them.
        if not attention_mask[:, 0].all() or (attention_mask.diff(dim=1) > 0).any():
            raise InputError("sequences must start at the left edge and be padded on the right")
        return input_ids, attention_mask


def _fingerprints(
    base: Source, tuned: Source, tokenizer: Any, tokenizer_fingerprint: str
) -> dict[str, str]:
    tuned_print = tuned.fingerprint
    if tuned.is_adapter:
        tuned_print = digest({"base": base.fingerprint, "adapter": tuned.fingerprint})
    return {
        "base": base.fingerprint,
        "tuned": tuned_print,
        "tokenizer": tokenizer_fingerprint,
        "template": digest(tokenizer.chat_template),
    }
