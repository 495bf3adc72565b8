"""A pretended GPU: tensors that say they are on a device "pretended" and compute on the CPU.

As on a real GPU, an operation on tensors of both devices is an error, `.numpy()` is refused, and
values have to be copied to and fro. So code that makes a tensor on a fixed device fails here as it
would on a GPU, and the numbers can be compared with the CPU's. What it cannot show: CUDA's own
kernels, their rounding, streams, pinned memory and speed.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from anaglyph.core import devices

NAME = "pretended"
_setup_privateuseone_for_python_backend(NAME)
PRETENDED = torch.device(NAME, 0)
# What CUDA takes from the CPU as well: the indexes of an indexing.
_CPU_INDEX = ("aten.index.", "aten.index_put", "aten._index_put")


class Pretended(torch.Tensor):
    """A tensor of the pretended GPU; ``held`` has its values."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "Pretended":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=PRETENDED,
        )
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:  # pyright: ignore
        return f"Pretended({self.held})"

    def numpy(self, **_: Any) -> Any:  # pyright: ignore
        raise TypeError("a tensor of the pretended GPU has no NumPy array: copy it to the CPU")

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, given = str(func), []
        args, kwargs = _map(_noted(given), args), _map(_noted(given), kwargs or {})
        target = kwargs.get("device")
        strangers = [tuple(t.shape) for t in given if not isinstance(t, Pretended) and t.ndim > 0]
        if strangers and not name.startswith(("aten.copy_", *_CPU_INDEX)):
            raise RuntimeError(f"{name}: tensors on the CPU among those of the GPU: {strangers}")
        owners = {id(t.held): t for t in given if isinstance(t, Pretended)}
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        result = func(*args, **kwargs)
        if name.startswith("aten.copy_") and not isinstance(given[0], Pretended):
            return given[0]
        if target is not None and torch.device(target).type == "cpu":
            return result.clone() if id(result) in owners else result
        return _map(lambda t: owners.get(id(t), _placed(t)), result)


def _map(change: Any, value: Any) -> Any:
    """Change everything inside lists, tuples and dicts; quicker than torch's general walk."""
    if isinstance(value, dict):
        return {name: _map(change, each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_map(change, each) for each in value)
    return change(value)


def _noted(given: list[torch.Tensor]) -> Any:
    def held(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            given.append(value)
        return _held(value)

    return held


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Pretended) else value


def _placed(value: Any) -> Any:
    return Pretended(value) if type(value) is torch.Tensor else value


def _empty(size: Any, dtype: Any = None, **_: Any) -> torch.Tensor:
    return Pretended(torch.empty(size, dtype=dtype, device="cpu"))


def _empty_strided(size: Any, stride: Any, dtype: Any = None, **_: Any) -> torch.Tensor:
    return Pretended(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))


def _copy_from(source: Any, target: Any, non_blocking: bool = False) -> Any:
    _held(target).copy_(_held(source))
    return target


_LIBRARY = torch.library.Library("aten", "IMPL")
_LIBRARY.impl("empty.memory_format", _empty, "PrivateUse1")
_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
_LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")


class _Torch:
    """torch with one GPU in the machine, as `core/devices.py` asks for it."""

    cuda = SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 1, empty_cache=lambda: None
    )

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def device(self, name: str) -> torch.device:
        return PRETENDED if name.startswith("cuda") else torch.device(name)


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine have a GPU: "cuda" and "auto" then mean the pretended one."""
    monkeypatch.setattr(devices, "torch", _Torch())
