"""What a user may give as an array, NumPy or torch, becomes a tensor of the expected shape."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anaglyph.core.errors import InputError

Array = NDArray[Any] | Tensor


def floats(name: str, array: Array, shape: str = "[tokens, d]") -> Tensor:
    """Return floating-point numbers of any precision as a tensor that shares memory if it can.

    Half precision becomes float32: what is computed from it would round at every step.

    Args:
        name: What the array is called in an error.
        array: A NumPy array or torch tensor, such as float16, bfloat16, float32 or float64.
        shape: The expected shape in words, such as "[tokens, d]"; its commas tell the dimensions.

    Raises:
        InputError: It is no array, has no floating-point numbers or another number of dimensions.

    Example:
        >>> floats("base", np.ones((2, 3), np.float16)).dtype
        torch.float32
    """
    check_floats(name, array, shape)
    tensor = array if isinstance(array, Tensor) else from_numpy(array)
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


def check_floats(name: str, array: Array, shape: str = "[tokens, d]") -> None:
    """Refuse what `floats` refuses, without a copy; arguments and errors as there."""
    _check_shape(name, array, shape)
    is_tensor = isinstance(array, Tensor)
    if not (array.is_floating_point() if is_tensor else array.dtype.kind == "f"):
        raise InputError(f"{name} must hold floating-point numbers, not {array.dtype}")


def integers(name: str, array: Array, shape: str) -> Tensor:
    """Return whole numbers of any width as an int64 tensor; arguments and errors as `floats`."""
    _check_shape(name, array, shape)
    kinds = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if not (array.dtype in kinds if isinstance(array, Tensor) else array.dtype.kind in "iu"):
        raise InputError(f"{name} must hold integers, not {array.dtype}")
    return (array if isinstance(array, Tensor) else from_numpy(array)).long()


def from_numpy(array: NDArray[Any]) -> Tensor:
    """Return a NumPy array as a tensor; copied if torch cannot share it.

    Torch refuses foreign byte orders, negative strides and long doubles, and warns of arrays that
    it may not write to, such as memory maps.
    """
    kind = array.dtype.newbyteorder("=")
    if kind == np.longdouble and kind.itemsize > 8:
        kind = np.dtype(np.float64)
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(np.require(array, kind, ["W"]))


def _check_shape(name: str, array: Array, shape: str) -> None:
    if not isinstance(array, np.ndarray | Tensor):
        kind = type(array).__name__
        raise InputError(f"{name} must be a NumPy array or torch tensor {shape}, not {kind}")
    if isinstance(array, Tensor) and (array.layout != torch.strided or array.is_meta):
        raise InputError(f"{name} must be a dense tensor with values, not {array.layout}")
    if array.ndim != shape.count(",") + 1:
        raise InputError(f"{name} must be {shape}, but has shape {list(array.shape)}")
