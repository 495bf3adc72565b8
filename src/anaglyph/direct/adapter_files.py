"""An adapter's tensors; a LoRA's change is read from its A and B without a base model."""

import math
import re
from collections.abc import Iterable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from anaglyph.core.errors import ModelError
from anaglyph.direct.weight_files import TensorFiles
from anaglyph.pair.numbers import check_adapter
from anaglyph.pair.sources import Source

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.*)\.lora_(embedding_)?([AB])(?:\.weight)?$")


_PLAIN = {
    "use_dora": "is a DoRA, which rescales the base's weights",
    "use_qalora": "is a QA-LoRA",
    "use_bdlora": "is a block-diagonal LoRA",
    "lora_bias": "has biases in its factors",
    "target_parameters": "changes parameters in stacks (target_parameters)",
    "trainable_token_indices": "trains single tokens",
    "layer_replication": "repeats layers",
    "arrow_config": "routes between adapters",
    "kasa_config": "is a KaSA",
    "monteclora_config": "is a MonteCLoRA",
    "alora_invocation_tokens": "acts on part of the prompt",
}
"""What a LoRA may be besides s B A, by the field of the configuration that says so."""


class AdapterFiles(TensorFiles):
    """The tensors of a PEFT adapter, by the path of the module that they change.

    Attributes:
        source: Where they are.
        not_factors: Why the change is not s B A, which can be read from the files; None if it is.
        products: Paths changed by scale * B A.
        replaced: Paths whose weight the adapter holds whole, and the tensor's name.
    """

    def __init__(self, source: Source) -> None:
        """Open the adapter.

        Raises:
            ModelError: Its configuration cannot be read, or it lacks one of a pair of factors.
        """
        super().__init__(source)
        self.source = source
        self._config = check_adapter(source)
        self._factors: dict[str, dict[str, str]] = {}
        self._embeddings: set[str] = set()
        self.replaced: dict[str, str] = {}
        self.not_factors = self._why_not_factors()
        self.products: list[str] = []
        if self.not_factors is not None:
            return
        for name in self.names:
            path = name.removeprefix(_PREFIX)
            factor = _FACTOR.fullmatch(path)
            if factor and len(self.shape(name)) == 2:
                self._factors.setdefault(factor[1], {})[factor[3]] = name
                if factor[2]:
                    self._embeddings.add(factor[1])
            elif path.endswith(".weight") and "lora_" not in path:
                # Newer versions store the module before and after as well.
                if path.endswith(".original_module.weight"):
                    continue
                plain = re.sub(r"\.(base_layer|modules_to_save)(?=\.)", "", path)
                if plain == path or plain.removesuffix(".weight") not in self.replaced:
                    self.replaced[plain.removesuffix(".weight")] = name
            else:
                self.not_factors = f"holds {name}, which is not a factor of a LoRA"
                return
        for path, pair in self._factors.items():
            if set(pair) != {"A", "B"}:
                raise ModelError(f"{source.name} lacks one of the two factors of {path}")
            rank = self.shape(pair["A"])[0]
            if rank != self._by_pattern("rank_pattern", path, self._config.get("r", 8)):
                self.not_factors = f"has factors of rank {rank}, which its configuration does not"
                return
        self.products = list(self._factors)

    def fits(self, modules: Iterable[str]) -> bool:
        """Tell whether the adapter changes the modules that its configuration names, and no others.

        Where this cannot be told, PEFT has to lay it over the base.

        Args:
            modules: Paths of the base's modules.
        """
        config = self._config
        if config.get("layers_to_transform") is not None or config.get("layers_pattern"):
            return True
        if config.get("target_modules") == "all-linear":
            return True
        named = {path for path in modules if _names(config.get("target_modules"), path)}
        named -= {path for path in named if _names(config.get("exclude_modules"), path)}
        return named == set(self.products)

    def _why_not_factors(self) -> str | None:
        config = self._config
        kind = config.get("peft_type")
        if kind != "LORA":
            return f"is of kind {kind}"
        start = config.get("init_lora_weights", True)
        if isinstance(start, str) and start not in ("gaussian", "eva"):
            return f"starts from the base's weights (init_lora_weights {start!r})"
        if config.get("bias") not in (None, "none"):
            return "trains biases"
        return next((reason for field, reason in _PLAIN.items() if config.get(field)), None)

    def factors(self, path: str) -> tuple[Float[Tensor, "out r"], Float[Tensor, "r in"]]:
        """Return B, scaled, and A of one module; their product is the change [out, in].

        An embedding's change comes as [vocabulary, width], as the embedding itself is.
        """
        names = self._factors[path]
        a, b = self.read(names["A"]).float(), self.read(names["B"]).float()
        scale = self._scale(path, a.shape[0])
        if path in self._embeddings:
            return scale * a.T, b.T  # an embedding's weight is (B A)^T
        return scale * b, a

    def _scale(self, path: str, rank: int) -> float:
        alpha = self._by_pattern("alpha_pattern", path, self._config.get("lora_alpha", 8))
        if not isinstance(alpha, int | float):
            raise ModelError(f"lora_alpha of {self.name} is {alpha!r} for {path}: not a number")
        return alpha / (math.sqrt(rank) if self._config.get("use_rslora") else rank)

    def _by_pattern(self, field: str, path: str, default: Any) -> Any:
        patterns = self._config.get(field) or {}
        keys = (key for key in patterns if re.match(rf"(.*\.)?({key})$", path))
        return patterns.get(next(keys, None), default)


def _names(targets: Any, path: str) -> bool:
    """Tell whether a configuration's targets name a module, by PEFT's rule."""
    if isinstance(targets, str):
        return re.fullmatch(targets, path) is not None
    listed = targets if isinstance(targets, list) else []
    return any(path == name or path.endswith(f".{name}") for name in listed)
