"""Interchangeable implementations of the sparse operations, chosen by device.

``types.py`` says what an implementation offers; ``numba_kernels.py`` is the one for a CPU,
``triton_kernels.py`` the one for a GPU with Triton, ``torch_kernels.py`` the one for everything
else and the reference that the others are tested with.
"""

import importlib.util

import torch

from anaglyph.dictionaries.kernels.numba_kernels import NumbaKernels
from anaglyph.dictionaries.kernels.torch_kernels import TorchKernels
from anaglyph.dictionaries.kernels.types import Active, Adam, Columns, Kernels
from anaglyph.errors import InputError

__all__ = ["Active", "Adam", "Columns", "Kernels", "choose_kernels"]


def choose_kernels(name: str = "auto", device: str = "cpu") -> Kernels:
    """Return the implementation called ``name`` for a device.

    Args:
        name: "numba" (CPU), "triton" (CUDA), "torch" (any device), or "auto": numba on a CPU,
            triton on CUDA where it is installed, else torch.
        device: Where the tensors are.

    Raises:
        InputError: No implementation has that name, it does not run on that device, or Triton is
            not installed.
    """
    kind = torch.device(device).type
    has_triton = importlib.util.find_spec("triton") is not None
    if name == "torch":
        return TorchKernels()
    if name in ("auto", "numba") and kind == "cpu":
        return NumbaKernels()
    if name == "triton" and kind == "cuda" and not has_triton:
        raise InputError("kernels='triton' needs the triton extra: pip install 'anaglyph[triton]'")
    if name in ("auto", "triton") and kind == "cuda" and has_triton:
        # Imported late: Triton is no dependency, and takes a second.
        from anaglyph.dictionaries.kernels.triton_kernels import TritonKernels

        return TritonKernels()
    if name == "auto":
        return TorchKernels()
    raise InputError(
        f"kernels={name!r} on device {device!r}: use auto, numba (CPU), triton (CUDA) or torch"
    )
