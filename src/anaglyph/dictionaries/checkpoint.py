"""The state of an unfinished training, so that a run that was stopped resumes bit for bit.

It has the weights, both moments, the firing counters, the step and the sparsity's state. The data
order needs no state, because the store can skip to any batch.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from anaglyph.core.errors import StoreError
from anaglyph.core.files import atomic_path, first_line, parse_json
from anaglyph.dictionaries.engine import Engine


class Checkpoint:
    """Save the engine to one file, at most every ``interval`` seconds.

    Args:
        path: The file, or None to save nothing.
        key: Digest of settings and store; a file with another key is ignored.
        interval: Minimum seconds between two saves.
    """

    def __init__(self, path: Path | None, key: str, interval: float = 60.0) -> None:
        self.path = path
        self.key = key
        self.interval = interval
        self._saved_at = time.monotonic()
        self._step = 0

    def restore(self, engine: Engine) -> tuple[int, float]:
        """Load a saved state into the engine, if there is one.

        Returns:
            The number of steps done and the seconds they took; (0, 0.0) if nothing is saved.

        Raises:
            StoreError: The file is damaged.
        """
        if self.path is None or not self.path.exists():
            return 0, 0.0
        try:
            with safe_open(self.path, framework="pt") as file:
                said = file.metadata()
                state = parse_json(said["state"])
                if state["key"] != self.key:
                    return 0, 0.0
                tensors = _tensors(engine)
                saved = {name: file.get_tensor(name) for name in tensors}
                if said["digest"] != _digest(said["state"], saved):
                    raise ValueError("its bytes are not those that were written")
                for name, tensor in tensors.items():
                    tensor.copy_(saved[name])
            engine.sparsity.restore(state["sparsity"])
        except (
            *(SafetensorError, KeyError, TypeError, ValueError, RuntimeError),
            *(OSError, AttributeError),
        ) as error:
            raise StoreError(
                f"checkpoint {self.path} is damaged, delete it to start over: {first_line(error)}"
            ) from error
        self._step = state["step"]
        return self._step, state["seconds"]

    def save_if_due(self, engine: Engine, step: int, seconds: float) -> None:
        """Save the state after ``step`` steps unless the last save is recent."""
        if self.path is None or time.monotonic() - self._saved_at < self.interval:
            return
        if not all(bool(tensor.isfinite().all()) for tensor in _tensors(engine).values()):
            return  # the last good state is worth more
        state: dict[str, Any] = {
            "key": self.key,
            "step": step,
            "seconds": seconds,
            "sparsity": engine.sparsity.state(),
        }
        text, tensors = json.dumps(state), _tensors(engine)
        with atomic_path(self.path) as temporary:
            save_file(tensors, temporary, {"state": text, "digest": _digest(text, tensors)})
        self._saved_at = time.monotonic()
        self._step = step

    @property
    def kept(self) -> str:
        """Say which state is in the file, for the error of a training that cannot go on."""
        return "" if self._step == 0 else f"; the state after step {self._step} is in {self.path}"

    def remove(self) -> None:
        """Delete the file after the training."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _digest(state: str, tensors: dict[str, Tensor]) -> str:
    """Return a digest of a state and its tensors."""
    hasher = hashlib.blake2b(state.encode(), digest_size=16)
    for name in sorted(tensors):
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        hasher.update(name.encode())
        hasher.update(flat.view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def _tensors(engine: Engine) -> dict[str, Tensor]:
    # The norms can be computed from the weights, but not to the last bit.
    tensors = {"silent": engine.silent, "norms": engine.norms}
    parts = {
        "weights": engine.weights,
        "first": engine.optimiser.first,
        "second": engine.optimiser.second,
    }
    for part, weights in parts.items():
        tensors |= {f"{part}.{name}": tensor for name, tensor in weights.named().items()}
    return tensors
