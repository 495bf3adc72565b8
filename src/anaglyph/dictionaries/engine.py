"""One training step by hand: encode, select, reconstruct, and the gradient of every weight.

There is no autograd. The backward pass needs only the selected latents, so after the encoder
product it costs O(tokens * k * d). With error e_m = reconstruction - target of source m, and g_m
the gradient of the loss by e_m:

    d/dD_m[j] = sum_b f_bj g_m[b]               d/db_m = sum_b g_m[b]
    d/df_bj   = sum_m <g_m[b], D_m[j]>          (at active entries, zero elsewhere)
    d/dE_m[j] = sum_b (d/df_bj) x_m[b]          d/db_enc[j] = sum_b (d/df_bj)

where x_m is what the encoder read. If that is the target minus its decoder bias (an SAE), the
decoder bias also gets - sum_j (d/db_enc[j]) E_m[j].
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from anaglyph.core.processes import ALONE, Group
from anaglyph.dictionaries.auxiliary import auxiliary, auxiliary_tokens
from anaglyph.dictionaries.kernels import Active, Columns, Kernels
from anaglyph.dictionaries.methods import DictionaryMethod
from anaglyph.dictionaries.optimiser import Optimiser
from anaglyph.dictionaries.screen import Screen
from anaglyph.dictionaries.sparsity import Batch, Sparsity
from anaglyph.dictionaries.weights import Weights


class StepResult(NamedTuple):
    """The losses and active latents of a step."""

    loss: float
    auxiliary_loss: float
    """0.0 if no latent is dead."""
    penalty: float
    """The penalty of the sparsity."""
    active: Active


class Engine:
    """The weights in training, their gradients and every buffer of a step.

    Args:
        method: Says how inputs are centred and how errors make a loss.
        weights: Initial weights; changed in place.
        sparsity: Selects the active latents.
        kernels: The sparse operations.
        batch: Tokens per batch.
        dead_after: Tokens without firing after which a latent is dead.
        screened: Whether a rough product decides which activations to compute (``screen.py``), if
            the sparsity supports it.
        group: The processes that train together. Process r of n steps on the rows r, r + n, ... of
            each batch; gradients and counts are added up, so that all keep the same weights.
    """

    def __init__(
        self,
        method: DictionaryMethod,
        weights: Weights,
        sparsity: Sparsity,
        kernels: Kernels,
        *,
        batch: int,
        dead_after: int,
        screened: bool = False,
        group: Group = ALONE,
    ) -> None:
        self.method = method
        self.weights = weights
        self.sparsity = sparsity
        self.kernels = kernels
        self.dead_after = dead_after
        latents = len(weights.encoder_bias)
        widths = tuple(len(bias) for bias in weights.decoder_bias)
        device = str(weights.encoder_bias.device)
        self.group = sparsity.group = group
        sparsity.prepare(weights)
        self.optimiser = Optimiser(weights, kernels)
        self.gradients = weights.zeros_like()
        self.silent = torch.zeros(latents, dtype=torch.int64, device=device)
        """Tokens seen since each latent last fired."""
        self.norms = weights.norms((1.0,) * len(widths))
        prices = method.prices(latents)
        self.prices = None if prices is None else prices.to(device)
        self.runs = _runs(sparsity.prefixes(latents))
        self._screen = Screen(weights, kernels, batch) if screened else None
        self._pre = torch.empty(batch, latents, device=device)
        self._errors = tuple(torch.empty(batch, width, device=device) for width in widths)

    def step(self, targets: tuple[Tensor, ...], step: int, rate: float) -> StepResult:
        """Do one optimiser step on a batch, one [tokens, d] per source."""
        self.sparsity.begin(step)
        result, square = self.backward(targets)
        if self.group.size > 1:
            result, square = self._joined(result)
        squares = self.optimiser.step(self.gradients, square, step, rate)
        self.norms = torch.stack(squares).sqrt_().sum(0)
        if self.weights.threshold is not None:
            self.weights.threshold.clamp_(min=0)
        return result

    def _joined(self, result: StepResult) -> tuple[StepResult, float]:
        """Add up the gradients and losses of all processes; the auxiliary loss is whole already."""
        square = 0.0
        for gradient in self.gradients.named().values():
            self.group.total(gradient)
            square += float(torch.linalg.vector_norm(gradient, dtype=torch.float64)) ** 2
        loss, auxiliary_loss, penalty, active = result
        if not self.sparsity.learns_threshold:  # whose penalty is whole already
            penalty = self.group.sum(penalty)
        return StepResult(self.group.sum(loss), auxiliary_loss, penalty, active), square

    @property
    def scores(self) -> Tensor:
        """The factors from activations to scores, float32 [latents]."""
        return self.norms if self.prices is None else self.norms / self.prices

    def backward(self, targets: tuple[Tensor, ...]) -> tuple[StepResult, float]:
        """Set ``gradients``; return the losses and the gradients' squared norm."""
        weights, gradients, kernels = self.weights, self.gradients, self.kernels
        inputs = self._inputs(targets)
        pre = self._pre[: len(targets[0])]
        screen = self._screen if self.sparsity.can_screen else None
        if screen is None:
            self._encode(inputs, pre)
            self.sparsity.exact = None
        else:
            screen.product(inputs, pre)
            self.sparsity.exact = partial(screen.exact, inputs)
        active = self.sparsity.select(pre, weights.encoder_bias, self.scores)
        columns = kernels.columns(active, len(weights.encoder_bias))
        loss, errors, by_error = self._rebuild(active, targets)

        squares = self._decoder_gradients(active, columns, by_error)
        code_gradients = self._code_gradients(active, by_error)
        penalty = self._add_penalty(active, columns, by_error, code_gradients, squares)
        squares += [
            kernels.weight_gradients(columns, code_gradients, values, out)
            for values, out in zip(inputs, gradients.encoder, strict=True)
        ]
        ones = torch.ones(len(targets[0]), 1, device=pre.device)
        kernels.weight_gradients(columns, code_gradients, ones, gradients.encoder_bias[:, None])

        self.silent += int(self.group.sum(len(targets[0])))
        self.silent[self.group.total(columns.offsets.diff()) > 0] = 0
        auxiliary_loss = self._add_auxiliary(
            pre if screen is None else None, inputs, errors, squares
        )
        if self.method.constrained:
            self.method.constrain(gradients)
            squares[: len(errors)] = [rows.square().sum(1) for rows in gradients.decoder]

        small = [gradients.encoder_bias]
        if gradients.threshold is not None:
            small.append(gradients.threshold)
        for source, gradient in enumerate(by_error[0]):
            bias = gradients.decoder_bias[source]
            torch.sum(gradient, 0, out=bias)
            if self.method.centred:
                bias -= gradients.encoder_bias @ weights.encoder[source]
            small.append(bias)
        square = sum(float(rows.sum(dtype=torch.float64)) for rows in squares)
        square += sum(float(bias.square().sum()) for bias in small)
        return StepResult(loss, auxiliary_loss, penalty, active), square

    def _inputs(self, targets: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if not self.method.centred:
            return targets
        biases = self.weights.decoder_bias
        return tuple(values - bias for values, bias in zip(targets, biases, strict=True))

    def _encode(self, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        torch.mm(inputs[0], self.weights.encoder[0].T, out=out)
        for values, matrix in zip(inputs[1:], self.weights.encoder[1:], strict=True):
            out.addmm_(values, matrix.T)

    def _rebuild(
        self, active: Active, targets: tuple[Tensor, ...]
    ) -> tuple[float, tuple[Tensor, ...], list[tuple[Tensor, ...]]]:
        """Return the loss, the errors with all latents, and the gradient of each run of latents.

        The loss is the mean over the nested prefixes; most sparsities have one prefix.
        """
        errors = tuple(error[: len(targets[0])] for error in self._errors)
        for source, error in enumerate(errors):
            torch.sub(self.weights.decoder_bias[source], targets[source], out=error)
        loss, by_error = 0.0, []
        for run in self.runs:
            part, _ = _active_within(active, run, len(self.norms))
            for source, error in enumerate(errors):
                self.kernels.decode(part, self.weights.decoder[source], error)
            value, gradients = self.method.loss(errors)
            if self.group.size > 1:  # the mean of the whole batch
                share = len(errors[0]) / self.group.sum(len(errors[0]))
                value *= share
                for gradient in gradients:
                    gradient *= share
            loss += value / len(self.runs)
            by_error.append(gradients)
        if len(self.runs) > 1:
            for gradients in by_error:
                for gradient in gradients:
                    gradient /= len(self.runs)
            for smaller, larger in zip(by_error[-2::-1], by_error[:0:-1], strict=True):
                for gradient, more in zip(smaller, larger, strict=True):
                    gradient += more
        return loss, errors, by_error

    def _decoder_gradients(
        self, active: Active, columns: Columns, by_error: list[tuple[Tensor, ...]]
    ) -> list[Tensor]:
        squares = []
        for source, out in enumerate(self.gradients.decoder):
            parts = [
                self.kernels.weight_gradients(
                    _columns_within(columns, run),
                    active.values,
                    gradients[source],
                    out[run.start : run.stop],
                )
                for run, gradients in zip(self.runs, by_error, strict=True)
            ]
            squares.append(torch.cat(parts) if len(parts) > 1 else parts[0])
        return squares

    def _code_gradients(self, active: Active, by_error: list[tuple[Tensor, ...]]) -> Tensor:
        """Return the gradient of the reconstruction loss by the given codes."""
        out = torch.zeros_like(active.values)
        for run, gradients in zip(self.runs, by_error, strict=True):
            part, where = _active_within(active, run, len(self.norms))
            values = torch.zeros_like(part.values)
            for matrix, gradient in zip(self.weights.decoder, gradients, strict=True):
                self.kernels.code_gradients(part, matrix, gradient, values)
            out[where] = values
        return out

    def _add_penalty(
        self,
        active: Active,
        columns: Columns,
        by_error: list[tuple[Tensor, ...]],
        code_gradients: Tensor,
        squares: list[Tensor],
    ) -> float:
        norms = self.norms if self.prices is None else self.norms * self.prices
        penalty = self.sparsity.penalty(
            Batch(
                active,
                columns,
                norms,
                self.prices,
                lambda codes: self._code_gradients(codes, by_error),
            )
        )
        if penalty is None:
            return 0.0
        if penalty.by_value is not None:
            code_gradients += penalty.by_value
        if penalty.by_norm is not None:
            by_norm = penalty.by_norm if self.prices is None else penalty.by_norm * self.prices
            tiny = torch.finfo(by_norm.dtype).tiny
            for source, matrix in enumerate(self.weights.decoder):
                out = self.gradients.decoder[source]
                lengths = torch.linalg.vector_norm(matrix, dim=1).clamp_(min=tiny)
                out.addcmul_(matrix, (by_norm / lengths)[:, None])
                squares[source] = out.square().sum(1)
        if penalty.by_threshold is not None and self.gradients.threshold is not None:
            self.gradients.threshold.copy_(penalty.by_threshold)
        return penalty.loss

    def _add_auxiliary(
        self,
        pre: Tensor | None,
        inputs: tuple[Tensor, ...],
        errors: tuple[Tensor, ...],
        squares: list[Tensor],
    ) -> float:
        """Add the gradients of the auxiliary loss; without ``pre`` products are rough."""
        dead = (self.silent >= self.dead_after).nonzero()[:, 0]
        if len(dead) == 0:
            return 0.0
        batch, group = int(self.group.sum(len(inputs[0]))), self.group
        sample = auxiliary_tokens(batch, len(self.silent), len(dead))
        few = slice(0, len(range(group.rank, sample, group.size)))
        some = tuple(values[few] for values in inputs)
        if pre is None:
            matrices = (matrix[dead] for matrix in self.weights.encoder)
            parts = [rows @ matrix.T for rows, matrix in zip(some, matrices, strict=True)]
            products = torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
        else:
            products = pre[few][:, dead]
        extra = auxiliary(
            dead,
            products,
            some,
            tuple(error[few] for error in errors),
            self.weights,
            self.kernels,
            group,
        )
        if extra is None:
            return 0.0
        self.gradients.encoder_bias[dead] += extra.encoder_bias
        # Dead latents do not fire in this batch, so their gradients are zero until here.
        matrices = (*self.gradients.decoder, *self.gradients.encoder)
        additions = (*extra.decoder, *extra.encoder)
        for matrix, rows, square in zip(matrices, additions, squares, strict=True):
            matrix[dead] = rows
            square[dead] = rows.square().sum(1)
        return extra.loss


# Nested prefixes of a dictionary: the parts of sparse codes that belong to a run of latents. With
# prefixes of F_1 < F_2 < ... latents, a latent of run g (those between F_(g-1) and F_g) takes part
# in the reconstructions of prefix g and of all larger ones, so its gradient sums theirs.


def _active_within(active: Active, run: range, latents: int) -> tuple[Active, Tensor | slice]:
    """Return the entries of a run of latents, and their places in ``active``."""
    if len(run) == latents:
        return active, slice(None)
    inside = (active.indices >= run.start) & (active.indices < run.stop)
    return active.only(inside), inside


def _columns_within(columns: Columns, run: range) -> Columns:
    """Return the columns of a run of latents; entries keep their numbers."""
    offsets = columns.offsets[run.start : run.stop + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    return Columns(offsets - first, columns.tokens[first:last], columns.entries[first:last])


def _runs(prefixes: tuple[int, ...]) -> list[range]:
    """Return the runs of latents between the ends of the prefixes."""
    return [range(*pair) for pair in zip((0, *prefixes), prefixes, strict=False)]
