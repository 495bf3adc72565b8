"""A causal language model divided at its decoder blocks: run up to a block, or from a block on.

Design:

- The model's own ``forward`` always runs, so masks, rotary embeddings and per-layer attention types
  are the real ones. Running *to* a layer puts hooks on the wanted blocks and leaves by an exception
  from the last of them. Running *from* a layer replaces the skipped blocks.
- Blocks are found by search, not by model family: they are the one ``ModuleList`` as long as the
  model is deep. A family that passes hidden state from block to block (a shared key-value cache,
  for example) would give wrong results silently, so every model is tested once on four tokens.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from transformers import PreTrainedModel

from anaglyph.core.devices import Fitting
from anaglyph.core.errors import InputError, ModelError
from anaglyph.pair.names import is_text

_PROBE_LENGTH = 4
_USUAL = re.compile(r"(^|\.)(layers?|h|blocks?)$")
# Tables with a row for each position: parameters of some families, constants of others.
_PLACES = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings?)(\.weight)?$")


class LastBlockReached(BaseException):
    """Leaves the model's forward; not an ``Exception``, so that no handler catches it."""


def find_blocks(model: PreTrainedModel, depth: int) -> list[nn.Module]:
    """Return the decoder blocks of ``model``: its one outermost ``ModuleList`` of ``depth``.

    Those of towers for images and sound do not count. Of several, the one with a name that blocks
    usually have is meant.

    Raises:
        ModelError: No list, or more than one, has that length.
    """
    decoder: Any = model.get_decoder()
    if not any(isinstance(module, nn.ModuleList) for module in decoder.modules()):
        decoder = model.base_model  # some families call their output embedding the decoder
    found: dict[str, nn.ModuleList] = {}
    for name, module in decoder.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and len(module) == depth and not inside:
            found[name] = module
    text = {name: module for name, module in found.items() if is_text(name)}
    usual = {name: module for name, module in text.items() if _USUAL.search(name)}
    chosen = text if len(text) == 1 else usual
    if len(chosen) != 1:
        where = f"candidates are {', '.join(found)}" if found else "none has that length"
        raise ModelError(
            f"cannot tell which {depth} modules of {type(model).__name__} are its decoder blocks:"
            f" {where}"
        )
    return list(next(iter(chosen.values())))


def bound_length(model: PreTrainedModel) -> None:
    """Let a model that has a row for each position refuse what is longer, whoever runs it.

    On a GPU an index out of range ends the process. Models that compute their positions read on.
    """
    tables = (*model.named_parameters(), *model.named_buffers())
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest is None or not any(is_text(n) and _PLACES.search(n) for n, _ in tables):
        return

    def check(_model: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        # A mask covers what is in the cache too.
        known = (given.get("attention_mask"), given.get("input_ids"), *args)
        length = next((each.shape[-1] for each in known if each is not None), 0)
        if length > longest:
            raise InputError(
                f"{model.name_or_path or type(model).__name__} has positions for {longest} tokens,"
                f" and is asked to read {length}: lower --context or --new-tokens, or shorten the"
                " prompts"
            )

    model.register_forward_pre_hook(check, with_kwargs=True)


class BlockModel:
    """One Hugging Face causal language model, addressed by decoder block.

    Attributes:
        model: The model itself, in evaluation mode with frozen parameters.
        blocks: Its decoder blocks in order.
        depth: Their number.
        width: Length of the residual stream's vectors.
        vocabulary: Length of the logits' vectors.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Find the blocks and check on a few tokens that the model can be divided between them.

        Raises:
            ModelError: The blocks cannot be found, the logits are not finite, or logits computed
                from the middle of the model differ from those of the whole model.
        """
        config = model.config.get_text_config()
        self.model = model.eval().requires_grad_(False)
        # Where a decoder's settings also name an encoder, the plain name is the encoder's.
        names = ("decoder_layers", "num_decoder_layers", "num_hidden_layers")
        self.depth = int(next(n for name in names if (n := getattr(config, name, None))))
        self.width = int(config.hidden_size)
        self.vocabulary = int(config.vocab_size)
        self.blocks = find_blocks(model, self.depth)
        self._tuple_length: int | None = None
        self._fitting = Fitting()
        bound_length(model)
        self._prove()

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.model.device

    @torch.no_grad()
    def run_to(
        self,
        input_ids: Int64[Tensor, "batch length"],
        attention_mask: Int64[Tensor, "batch length"],
        layers: Sequence[int],
        *,
        start: tuple[int, Float[Tensor, "batch length d"]] | None = None,
    ) -> dict[int, Float[Tensor, "batch length d"]]:
        """Return the outputs of blocks ``layers``; later blocks and the logits are not computed.

        ``start`` is a block and its output: then no block up to it is computed, and ``layers`` must
        come after it. Where memory is too small for the batch, it runs in halves.
        """
        parts = self._fitting.run(
            lambda part: self._run_to(
                input_ids[part],
                attention_mask[part],
                layers,
                None if start is None else (start[0], start[1][part]),
            ),
            *input_ids.shape,
        )
        return {layer: _joined([each[layer] for each in parts]) for layer in parts[0]}

    def _run_to(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        layers: Sequence[int],
        start: tuple[int, Tensor] | None,
    ) -> dict[int, Tensor]:
        reached: dict[int, Tensor] = {}
        last = max(layers)

        def keep(layer: int) -> Callable[..., None]:
            def hook(_block: nn.Module, _inputs: Any, output: Any) -> None:
                reached[layer] = _hidden(output)
                if layer == last:
                    raise LastBlockReached

            return hook

        handles = [self.blocks[layer].register_forward_hook(keep(layer)) for layer in set(layers)]
        try:
            with ExitStack() as stack:
                if start is not None:
                    self._skip(stack, *start)
                self._forward(input_ids, attention_mask)
        except LastBlockReached:
            pass
        finally:
            for handle in handles:
                handle.remove()
        for hidden in reached.values():
            if hidden.shape != (*input_ids.shape, self.width):
                raise ModelError(
                    f"{type(self.model).__name__} cannot be divided at its blocks: they do not hand"
                    f" on one vector a token (shape {list(hidden.shape)} for"
                    f" {list(input_ids.shape)} tokens of width {self.width}); `weights` still works"
                )
        return reached

    def run_from(
        self,
        layer: int,
        edited: Float[Tensor, "batch length d"],
        input_ids: Int64[Tensor, "batch length"],
        attention_mask: Int64[Tensor, "batch length"],
        keep: Bool[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "*places vocab"]:
        """Return the logits when block ``layer`` outputs ``edited``; no block up to it is computed.

        Gradients flow back to ``edited`` if it requires them. ``keep`` as in `logits`.
        """
        edited = edited.to(device=self.device, dtype=self.model.dtype)

        def run(part: slice) -> Tensor:
            with ExitStack() as stack:
                self._skip(stack, layer, edited[part])
                return self._forward(input_ids[part], attention_mask[part], _part(keep, part))

        with torch.set_grad_enabled(edited.requires_grad):
            return _joined(self._fitting.run(run, *input_ids.shape))

    def _skip(self, stack: ExitStack, layer: int, output: Tensor) -> None:
        """Replace blocks 0 to ``layer``; the last of them returns ``output``."""

        def hand_on(*args: Any, **kwargs: Any) -> Any:
            return self._as_output(args[0] if args else kwargs["hidden_states"])

        def hand_in(*_args: Any, **_kwargs: Any) -> Any:
            return self._as_output(output)

        for block in self.blocks[:layer]:
            stack.enter_context(forward_replaced(block, hand_on))
        stack.enter_context(forward_replaced(self.blocks[layer], hand_in))

    @torch.no_grad()
    def logits(
        self,
        input_ids: Int64[Tensor, "batch length"],
        attention_mask: Int64[Tensor, "batch length"],
        keep: Bool[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "*places vocab"]:
        """Return the whole model's logits, [batch, length, vocab].

        With ``keep``, those after the tokens where it is true, [kept, vocab]: the output embedding,
        a third of a small model's work, is computed nowhere else.
        """

        def run(part: slice) -> Tensor:
            return self._forward(input_ids[part], attention_mask[part], _part(keep, part))

        return _joined(self._fitting.run(run, *input_ids.shape))

    def probe_logits(self) -> Float[Tensor, "one length vocab"]:
        """Return the logits on a few fixed tokens, to compare the model with itself."""
        return self.logits(*self._probe())

    def _probe(self) -> tuple[Tensor, Tensor]:
        ids = torch.arange(_PROBE_LENGTH, device=self.device)[None] % self.vocabulary
        return ids, torch.ones_like(ids)

    def _forward(
        self, input_ids: Tensor, attention_mask: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        with ExitStack() as stack:
            head = None if keep is None else self.model.get_output_embeddings()
            if head is not None:
                whole = head.forward

                def at_kept(hidden: Tensor) -> Tensor:
                    return whole(hidden[keep][None])

                stack.enter_context(forward_replaced(head, at_kept))
            logits = self.model(
                input_ids=input_ids.to(self.device),
                attention_mask=attention_mask.to(self.device),
                use_cache=False,
            ).logits
        if keep is None:
            return logits
        # Some families multiply by the output embedding themselves.
        return logits[keep] if logits.shape[:2] == keep.shape else logits[0]

    def _as_output(self, hidden: Tensor) -> Any:
        """Return ``hidden`` as a block of this family returns it: a tensor or a tuple."""
        if self._tuple_length is None:
            return hidden
        return (hidden, *[None] * (self._tuple_length - 1))

    def _prove(self) -> None:
        ids, mask = self._probe()

        def look(_block: nn.Module, _inputs: Any, output: Any) -> None:
            self._tuple_length = len(output) if isinstance(output, tuple | list) else None

        handle = self.blocks[0].register_forward_hook(look)
        try:
            whole = self.logits(ids, mask)
        finally:
            handle.remove()
        if not whole.isfinite().all():
            name = self.model.name_or_path or type(self.model).__name__
            raise ModelError(f"{name} gives NaN or inf: its weights are damaged")
        middle = self.depth // 2
        hidden = self.run_to(ids, mask, [middle])[middle]
        why = ""
        try:
            resumed = self.run_from(middle, hidden, ids, mask)
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            resumed, why = torch.full_like(whole, torch.nan), f" ({type(error).__name__})"
        if not torch.allclose(resumed, whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max())):
            raise ModelError(
                f"{type(self.model).__name__} cannot be resumed from layer {middle}{why}: its later"
                " blocks depend on more than the residual stream, such as keys and values of"
                " earlier blocks; `weights` still works"
            )


def _part(keep: Tensor | None, part: slice) -> Tensor | None:
    return None if keep is None else keep[part]


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _hidden(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple | list) else output


@contextmanager
def forward_replaced(block: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace ``block.forward`` on the instance, and restore it afterwards."""
    before = vars(block).get("forward")
    vars(block)["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del vars(block)["forward"]
        else:
            vars(block)["forward"] = before
