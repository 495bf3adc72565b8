"""Implementations of the sparse operations, chosen by device.

``types.py`` defines the interface. ``numba_kernels.py`` is for a CPU. ``torch_kernels.py`` is for
all other devices, and the reference in the tests. ``triton_kernels.py`` is for CUDA and only used
on request, because it has not run on a GPU yet.
"""

import importlib.util

import torch

from anaglyph.core.errors import InputError
from anaglyph.dictionaries.kernels.numba_kernels import NumbaKernels
from anaglyph.dictionaries.kernels.torch_kernels import TorchKernels
from anaglyph.dictionaries.kernels.types import Active, Adam, Columns, Kernels

__all__ = ["Active", "Adam", "Columns", "Kernels", "choose_kernels"]


def choose_kernels(name: str = "auto", device: str = "cpu") -> Kernels:
    """Return the implementation called ``name`` for a device.

    Args:
        name: "numba" (CPU), "triton" (CUDA), "torch" (any device), or "auto": numba on a CPU, else
            torch.
        device: Where the tensors are.

    Raises:
        InputError: No implementation has that name, it does not run on that device, or Triton is
            not installed.
    """
    kind = torch.device(device).type
    if name == "torch" or (name == "auto" and kind != "cpu"):
        return TorchKernels()
    if name in ("auto", "numba") and kind == "cpu":
        return NumbaKernels()
    if name == "triton" and kind == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise InputError(
                "kernels='triton' needs the triton extra: pip install 'anaglyph[triton]'"
            )
        # Imported late, because Triton is optional and takes a second to load.
        from anaglyph.dictionaries.kernels.triton_kernels import TritonKernels

        return TritonKernels()
    raise InputError(
        f"kernels={name!r} on device {device!r}: use auto, numba (CPU), triton (CUDA) or torch"
    )
