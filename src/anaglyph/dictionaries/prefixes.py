"""Nested prefixes of a dictionary: the parts of sparse codes that belong to a run of latents.

With prefixes of F_1 < F_2 < ... latents, a latent of run g (from F_(g-1) to F_g) is part of the
reconstructions of prefix g and of all larger ones. So its gradient is the sum of theirs.
"""

import torch
from torch import Tensor

from anaglyph.dictionaries.kernels import Active, Columns


def active_within(active: Active, run: range, latents: int) -> tuple[Active, Tensor | slice]:
    """Return the entries of a run of latents, and their places in ``active``."""
    if len(run) == latents:
        return active, slice(None)
    inside = (active.indices >= run.start) & (active.indices < run.stop)
    before = torch.zeros(len(inside) + 1, dtype=torch.int64, device=inside.device)
    torch.cumsum(inside, 0, out=before[1:])
    part = Active(active.indices[inside], active.values[inside], before[active.offsets])
    return part, inside


def columns_within(columns: Columns, run: range) -> Columns:
    """Return the columns of a run of latents; entries keep their numbers."""
    offsets = columns.offsets[run.start : run.stop + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    return Columns(offsets - first, columns.tokens[first:last], columns.entries[first:last])


def runs(prefixes: tuple[int, ...]) -> list[range]:
    """Return the runs of latents between the ends of the prefixes."""
    return [range(*pair) for pair in zip((0, *prefixes), prefixes, strict=False)]
