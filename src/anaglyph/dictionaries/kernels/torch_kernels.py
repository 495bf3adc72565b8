"""The sparse operations in plain torch: any device, no compilation."""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from anaglyph.dictionaries.kernels.types import Active, Adam, Columns

# Gathered rows [active, d] are taken in slices, so that they do not outgrow the batch itself.
SLICE = 16384


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
        # The first ties in order of appearance fill what the strictly larger ones leave.
        keep |= tied & (tied.cumsum(0) <= count - keep.sum())
        kept_before = _offsets(keep)
        kept = Active(active.indices[keep], active.values[keep], kept_before[active.offsets])
        return kept, float(kth)

    def decode(self, active: Active, decoder: Tensor, out: Tensor) -> None:
        """Add the sparse reconstruction to ``out``."""
        out += embedding_bag(
            active.indices.long(),
            decoder,
            active.offsets,
            mode="sum",
            per_sample_weights=active.values,
            include_last_offset=True,
        )

    def code_gradients(
        self, active: Active, decoder: Tensor, gradient: Tensor, out: Tensor
    ) -> None:
        """Add the inner products to ``out``."""
        counts = active.offsets.diff()
        tokens = torch.repeat_interleave(counts, output_size=len(active.indices))
        for start in range(0, len(tokens), SLICE):
            part = slice(start, start + SLICE)
            rows = gradient[tokens[part]]
            out[part] += (rows * decoder[active.indices[part]]).sum(1)

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
        out.copy_(
            embedding_bag(
                columns.tokens,
                matrix,
                columns.offsets,
                mode="sum",
                per_sample_weights=values[columns.entries],
                include_last_offset=True,
            )
        )
        return out.square().sum(1)

    def cap_rows(self, codes: Tensor, limit: int) -> None:
        """Zero all but the largest of each row."""
        if limit < codes.shape[1]:
            values, places = codes.topk(limit, dim=1, sorted=False)
            codes.zero_().scatter_(1, places, values)

    def adam(
        self, weights: Tensor, gradient: Tensor, first: Tensor, second: Tensor, step: Adam
    ) -> Tensor:
        """Do one Adam step in place."""
        gradient = gradient * step.scale
        first.lerp_(gradient, 1 - step.beta1)
        second.mul_(step.beta2).addcmul_(gradient, gradient, value=1 - step.beta2)
        spread = (second / step.correction2).sqrt_().add_(step.epsilon)
        weights.addcdiv_(first, spread, value=-step.rate / step.correction1)
        return weights.square().sum(1)


def _offsets(counts: Tensor) -> Tensor:
    start = torch.zeros(len(counts) + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=start[1:])
    return start
