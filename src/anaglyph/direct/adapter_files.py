"""A LoRA adapter's change, read from its A and B without a base model."""

import math
import re

from jaxtyping import Float
from torch import Tensor

from anaglyph.core.errors import ModelError
from anaglyph.core.files import read_json
from anaglyph.direct.weight_files import TensorFiles
from anaglyph.pair.sources import Source

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.*)\.lora_(embedding_)?([AB])(?:\.weight)?$")


class AdapterFiles(TensorFiles):
    """The tensors of a PEFT LoRA adapter, by the path of the module that they change.

    Attributes:
        products: Paths changed by scale * B A.
        replaced: Paths whose weight the adapter holds whole, and the tensor's name.
    """

    def __init__(self, source: Source) -> None:
        """Open the adapter.

        Raises:
            ModelError: It is not a LoRA, or of a variant that does more than add a product.
        """
        super().__init__(source.folder, source.name)
        config = read_json(source.folder / "adapter_config.json")
        if config.get("peft_type") != "LORA":
            raise ModelError(
                f"{source.name} is an adapter of kind {config.get('peft_type')}: only LoRA is read"
                " from its factors; merge it and give the whole model"
            )
        if config.get("use_dora"):
            raise ModelError(
                f"{source.name} is a DoRA, which rescales the base's weights: merge it and give the"
                " whole model"
            )
        self._config = config
        self._factors: dict[str, dict[str, str]] = {}
        self._embeddings: set[str] = set()
        self.replaced: dict[str, str] = {}
        for name in self.names:
            path = name.removeprefix(_PREFIX)
            factor = _FACTOR.fullmatch(path)
            if factor:
                self._factors.setdefault(factor[1], {})[factor[3]] = name
                if factor[2]:
                    self._embeddings.add(factor[1])
            elif path.endswith(".weight") and "lora_" not in path:
                self.replaced[path.removesuffix(".weight").replace(".base_layer", "")] = name
            else:
                raise ModelError(
                    f"{source.name} holds {name}, which is no factor of a LoRA: merge it and give"
                    " the whole model"
                )
        for path, pair in self._factors.items():
            if set(pair) != {"A", "B"}:
                raise ModelError(f"{source.name} lacks one of the two factors of {path}")
        self.products = list(self._factors)

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
        patterns = self._config.get("alpha_pattern") or {}
        alpha = next(
            (
                value
                for pattern, value in patterns.items()
                if re.fullmatch(rf"(.*\.)?({pattern})", path)
            ),
            self._config["lora_alpha"],
        )
        return alpha / (math.sqrt(rank) if self._config.get("use_rslora") else rank)
