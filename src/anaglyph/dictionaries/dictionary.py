"""A trained dictionary: raw activations in, sparse codes out, and back.

Training scales activations; the scale is folded into the weights, so nothing here knows of it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from anaglyph.core.arrays import Array, floats
from anaglyph.core.devices import resolve_device
from anaglyph.core.errors import InputError, StoreError
from anaglyph.core.files import as_path
from anaglyph.core.settings import DictionarySettings
from anaglyph.core.validation import check_type
from anaglyph.dictionaries import saving
from anaglyph.dictionaries.codes import Codes
from anaglyph.dictionaries.kernels import Active, choose_kernels
from anaglyph.dictionaries.methods import DictionaryMethod, get_method
from anaglyph.dictionaries.outliers import pull_factors, pull_in
from anaglyph.dictionaries.saving import Selection
from anaglyph.dictionaries.sparsity import make_sparsity
from anaglyph.dictionaries.weights import Weights
from anaglyph.store.arrays import check_sides

# Pre-activations [tokens, latents] are held for one block of tokens at a time.
BLOCK_BYTES = 64 * 2**20


class Dictionary:
    """The weights of one method, with how to select and how well they did.

    A latent is active where f_j * s_j exceeds ``threshold``, s_j = sum_m w_m ||d_j^m|| with
    ``source_weights`` w_m: 1 for an SAE; for a crosscoder the models' scales relative to their
    mean, so that a model of large activations does not decide alone. Where the method prices its
    latents, s_j is divided by the price; where ``weights`` have a threshold for each latent, that
    is what f_j has to exceed. Tokens of massive activation
    (beyond ``radii``, if given) are encoded as ``outliers.py`` says.
    """

    def __init__(
        self,
        method: DictionaryMethod,
        weights: Weights,
        selection: Selection,
        *,
        config: dict[str, Any] | None = None,
        stats: dict[str, Any] | None = None,
    ) -> None:
        """Bring weights and settings together.

        Args:
            method: What the dictionary reads and rebuilds.
            weights: Encoders, decoders and biases, for raw activations.
            selection: How active latents are selected.
            config: The settings of the training, kept for the record.
            stats: How well the dictionary did, as ``train`` returns it.

        Raises:
            InputError: The weights do not fit each other or the method.
        """
        self._method = method
        self.weights = weights
        self.k, self.sparsity = selection.k, selection.sparsity
        self.threshold, self.radii = selection.threshold, selection.radii
        self.source_weights = selection.source_weights or (1.0,) * len(method.sources)
        self.config = config or {}
        self.stats = stats or {}
        _check(method, weights)
        self._place(torch.device("cpu"))
        if self._select.learns_threshold and weights.threshold is None:
            raise InputError(f"{self.sparsity} needs a threshold for each latent")

    def on(self, device: str | torch.device) -> "Dictionary":
        """Let this dictionary encode and reconstruct on a device, and return it.

        Its weights, and what goes in and comes out, stay on the CPU.

        Raises:
            InputError: There is no such device here.
        """
        self._place(resolve_device(device) if isinstance(device, str) else device)
        return self

    def _place(self, device: torch.device) -> None:
        self._placed = self.weights.to(device)
        self._norms = self._placed.norms(self.source_weights)
        prices = self._method.prices(self.n_latents)
        if prices is not None:
            self._norms /= prices.to(device)
        self._kernels = choose_kernels(device=str(device))
        budgets = None if self.k is None else self._method.budgets(self.k, self.n_latents)
        # Checked already; a dictionary without latents is allowed here.
        settings = DictionarySettings.model_construct(sparsity=self.sparsity, k=self.k)
        self._select = make_sparsity(settings, self._kernels, budgets=budgets)
        self._select.threshold = self.threshold

    @property
    def method(self) -> str:
        """Name of the method."""
        return self._method.name

    @property
    def spec(self) -> DictionaryMethod:
        """The method itself: kind, sources, inputs, scaling targets."""
        return self._method

    @property
    def n_latents(self) -> int:
        """Number of latents."""
        return len(self.weights.encoder_bias)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each source."""
        return tuple(matrix.shape[1] for matrix in self.weights.decoder)

    @property
    def encoder(self) -> tuple[Tensor, ...]:
        """Encoder of each source, float32 [latents, d]."""
        return self.weights.encoder

    @property
    def encoder_bias(self) -> Float[Tensor, " latents"]:
        """Encoder bias."""
        return self.weights.encoder_bias

    @property
    def decoder(self) -> tuple[Tensor, ...]:
        """Decoder of each source, float32 [latents, d]."""
        return self.weights.decoder

    @property
    def decoder_bias(self) -> tuple[Tensor, ...]:
        """Decoder bias of each source, float32 [d]."""
        return self.weights.decoder_bias

    @property
    def decoders(self) -> Float32[np.ndarray, "sources latents d"]:
        """All decoders as one array; ``decoder`` serves sources of differing widths.

        Raises:
            InputError: The sources differ in width.
        """
        if len(set(self.widths)) > 1:
            raise InputError(f"decoders of widths {self.widths} are no one array; use decoder")
        return torch.stack(self.decoder).numpy()

    def encode(self, base: Array, tuned: Array) -> Codes:
        """Return the codes of tokens whose raw activations in both models are given.

        Args:
            base: [tokens, d_base], NumPy or torch, floating-point numbers of any precision.
            tuned: [tokens, d_tuned] of the same tokens.

        Raises:
            InputError: No tokens, a wrong shape, unequal numbers of tokens, NaN or inf.
        """
        check_sides(base, tuned)
        sides = floats("base", base), floats("tuned", tuned)
        self._method.widths(base.shape[1], tuned.shape[1])
        return self.encode_inputs(self._method.inputs(*sides))

    def encode_inputs(self, inputs: Sequence[Array]) -> Codes:
        """Return the codes of the sources' own inputs; a base-SAE may so be fed h_tuned.

        Args:
            inputs: [tokens, d] of each source, as ``encode`` takes them.

        Raises:
            InputError: As ``encode``.
        """
        inputs, placed = self._checked(inputs), self._placed
        device = placed.encoder_bias.device
        block = max(1, BLOCK_BYTES // (4 * self.n_latents))
        pre = torch.empty(min(block, len(inputs[0])), self.n_latents, device=device)
        parts = []
        for start in range(0, len(inputs[0]), block):
            rows = tuple(values[start : start + block].float() for values in inputs)
            factors = self.pull_factors(rows)
            rows = pull_in(rows, self.decoder_bias, factors)
            rows = tuple(values.to(device) for values in rows)
            out = pre[: len(rows[0])]
            for source, values in enumerate(rows):
                if self._method.centred:
                    values = values - placed.decoder_bias[source]
                if source == 0:
                    torch.mm(values, placed.encoder[source].T, out=out)
                else:
                    out.addmm_(values, placed.encoder[source].T)
            if placed.threshold is None:
                active = self._select.infer(out, placed.encoder_bias, self._norms)
            else:
                active = self._kernels.above(out, placed.encoder_bias, placed.threshold)
            active = Active(*(part.cpu() for part in active))
            tokens = torch.repeat_interleave(active.offsets.diff())
            values = active.values / factors[tokens]
            parts.append(Codes(active.indices.numpy(), values.numpy(), active.offsets.numpy()))
        return Codes.join(parts)

    def pull_factors(self, inputs: Sequence[Array]) -> Float[Tensor, " tokens"]:
        """Return 1 for ordinary tokens, less for those of massive activation (``outliers.py``)."""
        if self.radii is None:
            return torch.ones(len(inputs[0]))
        named = zip(self._method.sources, inputs, strict=True)
        tensors = tuple(floats(source, values) for source, values in named)
        return pull_factors(tensors, self.decoder_bias, self.radii)

    def reconstruct(self, codes: Codes) -> tuple[Float[Tensor, "tokens _"], ...]:
        """Return the reconstruction of each source, biases included.

        Raises:
            InputError: The codes have latents that the dictionary has not.
        """
        check_type("codes", codes, Codes, "encode gives them")
        if len(codes.indices) and not 0 <= codes.indices.min() <= codes.indices.max() < (
            self.n_latents
        ):
            raise InputError(f"codes name latents outside 0..{self.n_latents - 1}")
        placed = self._placed
        parts = map(torch.from_numpy, (codes.indices, codes.values, codes.offsets))
        active = Active(*(part.to(placed.encoder_bias.device) for part in parts))
        rebuilt = []
        for matrix, bias in zip(placed.decoder, placed.decoder_bias, strict=True):
            out = bias.repeat(codes.n_tokens, 1)
            self._kernels.decode(active, matrix, out)
            rebuilt.append(out.cpu())
        return tuple(rebuilt)

    def decode(self, codes: Codes) -> Tensor | tuple[Tensor, ...]:
        """Return ``reconstruct``, without the tuple if there is one source."""
        rebuilt = self.reconstruct(codes)
        return rebuilt[0] if len(rebuilt) == 1 else rebuilt

    def difference(self, codes: Codes) -> Float[Tensor, "tokens d"] | None:
        """Return h_tuned - h_base as rebuilt, biases included; None if the method cannot say."""
        return self._method.difference(self.reconstruct(codes))

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``weights.safetensors`` into ``folder``."""
        settings = {
            "method": self.method,
            "k": self.k,
            "sparsity": self.sparsity,
            "threshold": self.threshold,
            "source_weights": list(self.source_weights),
            "radii": self.radii and list(self.radii),
            "config": self.config,
            "stats": self.stats,
            "options": self._method.options,
        }
        saving.write(as_path(folder), self.weights, settings)

    @classmethod
    def load(cls, folder: str | Path) -> "Dictionary":
        """Read what ``save`` wrote.

        Raises:
            StoreError: A file is missing or damaged, the two do not fit, or the method or sparsity
                is not known here.
        """
        weights, saved = saving.read(as_path(folder))
        try:
            method = get_method(saved.method, saved.options)
            return cls(method, weights, saved, config=saved.config, stats=saved.stats)
        except InputError as error:
            raise StoreError(f"{Path(folder) / 'config.json'}: {error}") from error

    def _checked(self, inputs: Sequence[Array]) -> tuple[Tensor, ...]:
        sources = self._method.sources
        if len(inputs) != len(sources):
            raise InputError(f"{self.method} reads {', '.join(sources)}: got {len(inputs)} arrays")
        checked = []
        for source, width, array in zip(sources, self.widths, inputs, strict=True):
            shape = f"[tokens, {width}]"
            values = floats(source, array, shape)
            if values.shape[1] != width:
                raise InputError(f"{source} must be {shape}, but has shape {list(values.shape)}")
            if len(values) == 0:
                raise InputError(f"{source} is empty: its shape is {list(values.shape)}")
            # A sum is finite only if all its terms are, and costs no mask of the same size.
            if not torch.isfinite(values.sum(dtype=torch.float64)):
                rows = (~values.isfinite()).any(1).nonzero()[:, 0].tolist()
                if rows:  # else only the sum is too large
                    raise InputError(
                        f"{source} has NaN or inf at {len(rows)} tokens; the first is {rows[0]}"
                    )
            checked.append(values.detach().cpu())
        return tuple(checked)


def _check(method: DictionaryMethod, weights: Weights) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in weights.named().items()}
    widths = tuple(len(bias) for bias in weights.decoder_bias)
    expected = Weights.shapes(len(weights.encoder_bias), widths)
    if weights.threshold is not None:
        expected["threshold"] = (len(weights.encoder_bias),)
    if len(widths) != len(method.sources) or found != expected:
        raise InputError(f"weights do not fit {method.name} of {method.sources}: {found}")
