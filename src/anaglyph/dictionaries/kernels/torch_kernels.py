"""The sparse operations in plain torch, for any device and without compilation."""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from anaglyph.dictionaries.kernels.types import Active, Adam, Columns

# Numbers of a matrix that a CPU updates at a time, to fit its cache.
SLICE = 2**17


class TorchKernels:
    """See ``types.Kernels``."""

    def above(self, pre: Tensor, bias: Tensor, bounds: Tensor) -> Active:
        """Return the entries that exceed their bound."""
        exceeds = pre > bounds - bias
        tokens, latents = exceeds.nonzero(as_tuple=True)
        values = pre[tokens, latents] + bias[latents]
        counts = torch.bincount(tokens, minlength=pre.shape[0])
        return Active(latents.int(), values, _offsets(counts))

    def largest(self, active: Active, scores: Tensor, count: int) -> tuple[Active, float]:
        """Return the entries of largest score."""
        kth = torch.kthvalue(scores, len(scores) - count + 1).values
        keep = scores > kth
        tied = scores == kth
        # The first ties, in order, fill the places that the strictly larger ones leave.
        keep |= tied & (tied.cumsum(0) <= count - keep.sum())
        kept_before = _offsets(keep)
        kept = Active(active.indices[keep], active.values[keep], kept_before[active.offsets])
        return kept, float(kth)

    def decode(self, active: Active, decoder: Tensor, out: Tensor) -> None:
        """Add the sparse reconstruction to ``out``."""
        out += _bags(active.indices.long(), decoder, active.offsets, active.values)

    def code_gradients(
        self, active: Active, decoder: Tensor, gradient: Tensor, out: Tensor
    ) -> None:
        """Add the inner products to ``out``."""
        # The gradient of embedding_bag by its weights is this inner product. Indexing would gather
        # rows [active, d].
        values = active.values.detach().requires_grad_()
        with torch.enable_grad():
            rebuilt = _bags(active.indices.long(), decoder, active.offsets, values)
            out += torch.autograd.grad(rebuilt, values, gradient)[0]

    def columns(self, active: Active, n_latents: int) -> Columns:
        """Return the entries ordered by latent."""
        counts = torch.bincount(active.indices, minlength=n_latents)
        entries = active.indices.argsort(stable=True)
        tokens = torch.repeat_interleave(active.offsets.diff(), output_size=len(entries))
        return Columns(_offsets(counts), tokens[entries], entries)

    def weight_gradients(
        self, columns: Columns, values: Tensor, matrix: Tensor, out: Tensor
    ) -> Tensor:
        """Set the rows of ``out``."""
        out.copy_(_bags(columns.tokens, matrix, columns.offsets, values[columns.entries]))
        return torch.linalg.vector_norm(out, dim=1).square_()

    def cap_rows(self, codes: Tensor, limit: int) -> None:
        """Zero all but the largest of each row."""
        if limit < codes.shape[1]:
            values, places = codes.topk(limit, dim=1, sorted=False)
            codes.zero_().scatter_(1, places, values)

    def adam(
        self, weights: Tensor, gradient: Tensor, first: Tensor, second: Tensor, step: Adam
    ) -> Tensor:
        """Do one Adam step in place."""
        squares = torch.empty(len(weights), device=weights.device)
        height = len(weights)
        if weights.device.type == "cpu":
            height = max(1, SLICE // weights.shape[1])
        for start in range(0, len(weights), height):
            rows = slice(start, start + height)
            w, m, v = weights[rows], first[rows], second[rows]
            g = gradient[rows] * step.scale
            m.lerp_(g, 1 - step.beta1)
            v.mul_(step.beta2).addcmul_(g, g, value=1 - step.beta2)
            spread = torch.sqrt(v, out=g).mul_(step.correction2**-0.5).add_(step.epsilon)
            w.addcdiv_(m, spread, value=-step.rate / step.correction1)
            torch.linalg.vector_norm(w, dim=1, out=squares[rows])
        return squares.square_()


def _bags(indices: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of each bag's rows."""
    return embedding_bag(
        indices,
        rows,
        offsets,
        mode="sum",
        per_sample_weights=weights,
        include_last_offset=True,
    )


def _offsets(counts: Tensor) -> Tensor:
    start = torch.zeros(len(counts) + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=start[1:])
    return start
