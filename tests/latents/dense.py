"""Slow, dense float64 references that share no code with the library."""

import numpy as np

from anaglyph.dictionaries import Codes


def to_codes(dense):
    """Return the sparse form of a [tokens, latents] matrix."""
    tokens, latents = np.nonzero(dense)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(tokens, minlength=len(dense)))])
    return Codes(
        latents.astype(np.int32),
        dense[tokens, latents].astype(np.float32),
        offsets.astype(np.int64),
    )


def least_squares(target, code, direction):
    """Solve ``min_b sum_x ||y(x) - b f(x) d||^2`` by writing the whole regressor out.

    Returns the solution (None where the regressor is zero) and the error that float32 inputs allow.
    """
    regressor = np.outer(code, direction).astype(np.float64).reshape(-1, 1)
    if not regressor.any():
        return None, 0.0
    solution = np.linalg.lstsq(regressor, target.astype(np.float64).reshape(-1), rcond=None)[0][0]
    size = np.linalg.norm(target) / np.linalg.norm(regressor)
    return solution, 1e-5 * max(size, 1.0)


def assert_beta(found, target, code, direction):
    """Check one beta against the dense solution; an undefined one must be NaN or None."""
    expected, tolerance = least_squares(target, code, direction)
    if expected is None:
        assert found is None or np.isnan(found)
    else:
        assert found is not None
        assert abs(found - expected) <= tolerance
