"""Interchangeable implementations of the sparse operations, chosen by device.

``types.py`` says what an implementation offers; ``numba_kernels.py`` is the one for a CPU,
``torch_kernels.py`` the one for everything else and the reference that the other is tested with.
"""

import torch

from anaglyph.dictionaries.kernels.numba_kernels import NumbaKernels
from anaglyph.dictionaries.kernels.torch_kernels import TorchKernels
from anaglyph.dictionaries.kernels.types import Active, Adam, Columns, Kernels
from anaglyph.errors import InputError

__all__ = ["Active", "Adam", "Columns", "Kernels", "choose_kernels"]


def choose_kernels(name: str = "auto", device: str = "cpu") -> Kernels:
    """Return the implementation called ``name`` ("auto", "numba" or "torch") for a device.

    Raises:
        InputError: No implementation has that name, or it does not run on that device.
    """
    on_cpu = torch.device(device).type == "cpu"
    if name == "torch" or (name == "auto" and not on_cpu):
        return TorchKernels()
    if name in ("auto", "numba") and on_cpu:
        return NumbaKernels()
    raise InputError(f"kernels={name!r} on device {device!r}: use auto, numba (CPU) or torch")
