"""Adam over all weights of a dictionary, with a learning-rate schedule and one global clip."""

import torch
from torch import Tensor

from anaglyph.dictionaries.kernels import Adam, Kernels
from anaglyph.dictionaries.weights import Weights

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
CLIP = 1.0
THRESHOLD_RATE = 10.0
"""Learned thresholds are as large as activations, so they must move further than weights. With a
factor of 1, the L0 of a short JumpReLU run on real activations ends at 26 for k = 32; with 10 at
30."""


def default_rate(width: int, steps: int) -> float:
    """Return the peak rate for activations of that width, scaled to unit variance a dimension.

    Adam moves every weight by about the rate, so a decoder row of given norm turns by about
    rate * sqrt(width) per step. So the rate falls with sqrt(width), and with sqrt(steps) for runs
    of more than a thousand steps. It is 0.002 for width 576 (the best of 0.0005 to 0.002 on real
    activations) and 0.006 for 64 (0.003 to 0.01 work equally well on planted ones). At the paper's
    width and length it is the paper's 1e-4.
    """
    return 0.05 * (width * max(1.0, steps / 1000)) ** -0.5


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Return the rate of a step: warm-up, constant, linear decay over the last fifth.

    The warm-up takes the paper's 1000 steps, or a tenth of a shorter run.
    """
    warmup = min(1000, steps // 10)
    rise = (step + 1) / (warmup + 1)
    fall = (steps - step) / max(1.0, steps / 5)
    return peak * min(1.0, rise, fall)


class Optimiser:
    """Adam's moments of every weight, and its step."""

    def __init__(self, weights: Weights, kernels: Kernels) -> None:
        self.first = weights.zeros_like()
        self.second = weights.zeros_like()
        self._weights = weights
        self._kernels = kernels

    def step(self, gradients: Weights, square: float, step: int, rate: float) -> tuple[Tensor, ...]:
        """Update all weights.

        Args:
            gradients: Gradient of every weight.
            square: Squared norm of all gradients together.
            step: Steps done before this one.
            rate: Learning rate.

        Returns:
            The squared norms of each decoder's rows after the step.
        """
        constants = Adam(
            rate,
            BETA1,
            BETA2,
            EPSILON,
            1 - BETA1 ** (step + 1),
            1 - BETA2 ** (step + 1),
            min(1.0, CLIP / max(square**0.5, 1e-30)),
        )
        squares = {}
        gradient, first, second = gradients.named(), self.first.named(), self.second.named()
        for name, weights in self._weights.named().items():
            factor = THRESHOLD_RATE if name == "threshold" else 1.0
            squares[name] = self._kernels.adam(
                torch.atleast_2d(weights),
                torch.atleast_2d(gradient[name]),
                torch.atleast_2d(first[name]),
                torch.atleast_2d(second[name]),
                constants._replace(rate=factor * rate),
            )
        return tuple(squares[f"decoder.{source}"] for source in range(len(gradients.decoder)))
