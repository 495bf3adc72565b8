"""Put a few directions of one model's activation into the other, in text and while it writes.

With ``Q`` an orthonormal basis of the directions, the activation of model m at a layer becomes
``h_m + Q Q^T (h_other - h_m)``: in the tuned model this removes what the directions carry, in the
base model it adds it. Everything else stays.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from anaglyph.behaviour.generate import (
    Stepper,
    layer_stepper,
    side_stepper,
    together,
)
from anaglyph.behaviour.steering import hooked
from anaglyph.causal.frame import frame_of
from anaglyph.causal.interventions import Activations, Intervention, exact
from anaglyph.causal.patching import Plan, measure
from anaglyph.causal.recovered import check_pair
from anaglyph.core.errors import InputError
from anaglyph.pair import ModelPair, Side
from anaglyph.subject import Subject

_INDEPENDENT = 1e-4
"""A direction that the ones before it explain but for this much of its length adds nothing."""


def basis_of(directions: Sequence[Float[Tensor, " d"]]) -> Float[Tensor, "n d"]:
    """Return orthonormal rows that span the directions; fewer where some are dependent.

    Raises:
        InputError: There is none, or one is zero or not finite.
    """
    if not directions:
        raise InputError("there are no directions")
    rows = torch.stack([direction.double() for direction in directions])
    norms = rows.norm(dim=1, keepdim=True)
    if not rows.isfinite().all() or (norms == 0).any():
        raise InputError("a direction is zero or not finite")
    _, sizes, basis = torch.linalg.svd(rows / norms, full_matrices=False)
    return basis[sizes > _INDEPENDENT * sizes[0]].float()


def span_recovered(
    subject: Subject, basis: Float[Tensor, "n d"], *, max_tokens: int
) -> float | None:
    """Return the share of the KL gap that the directions close (docs/maths.md, section 4).

    None where the layer shows no difference beyond numerical noise.

    Raises:
        InputError: The models' widths differ, or there is no held-out text.
    """
    check_pair(subject.pair)

    def edit(a: Activations) -> Tensor:
        return a.base + (a.tuned - a.base) @ basis.T @ basis

    span = Intervention("span", "h_base + Q Q^T Delta", edit, of_dictionary=False)
    plan = Plan(subject.layer, "tuned", [exact(), span])
    heldout = subject.corpus.draw_heldout(max_tokens, subject.seed)
    (found,) = measure(subject, heldout, [plan], ("all",))
    frame = frame_of(subject, plan, found, ("all",))
    return frame.filter(intervention="span")["recovered"][0]


def span_stepper(
    pair: ModelPair, into: Side, layer: int | float, basis: Float[Tensor, "n d"]
) -> Stepper:
    """Return a stepper of model ``into`` with the other's part along the directions.

    Both models read every token, each with a key-value cache of its own, the other one up to the
    layer.
    """
    layer = pair.resolve_layer(layer)
    other: Side = "base" if into == "tuned" else "tuned"
    patched, plain = side_stepper(pair, into), layer_stepper(pair, other, layer)

    def step(ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        there = plain(ids, mask, positions)
        rows = basis.to(there)
        with hooked(pair, into, layer, lambda hidden: hidden + (there - hidden) @ rows.T @ rows):
            return patched(ids, mask, positions)

    return together(step, patched, plain)
