"""How often `behave` claims something of a pair in which nothing was learned.

Twenty null pairs: weight noise of three sizes (times the change of a real fine-tune) with five
seeds each, the base rounded to 8, 7 and 6 bits and to bfloat16, and the base itself. Writes
docs/performance/behaviour-nulls.json.

    python benchmarks/behaviour.py --tiny --budget 6000 --reply-tokens 20
    python benchmarks/behaviour.py --budget 20000
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from anaglyph.behaviour.behave import behaviour_of
from anaglyph.behaviour.null_pair import change_norms, null_pair
from anaglyph.core.files import write_json
from anaglyph.core.settings import BehaveSettings
from anaglyph.demo import demo_pair, tiny_pair
from anaglyph.pair import ModelPair

OUT = Path(__file__).parent.parent / "docs/performance/behaviour-nulls.json"
SIZES = (0.5, 1.0, 2.0)
SEEDS = range(1, 6)


class Rounded:
    """The base's weights rounded in place, and the base of that again (`pair.Overlay`)."""

    def __init__(self, model: torch.nn.Module, bits: int) -> None:
        self.on = False
        self._other = [(p, _rounded(p.data, bits)) for p in model.parameters() if p.ndim > 1]

    def switch(self, on: bool) -> None:
        """Let the rounding act, or not."""
        if on == self.on:
            return
        for place, (parameter, other) in enumerate(self._other):
            self._other[place] = (parameter, parameter.data)
            parameter.data = other
        self.on = on

    def first_block(self, blocks: list[torch.nn.Module]) -> int:
        """Return 0: the embedding is rounded as well."""
        return 0


def _rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Return a matrix in bfloat16 (16 bits), or in steps of its rows' largest entries (8 bits)."""
    if bits == 16:
        return weight.bfloat16().float()
    step = weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / (2 ** (bits - 1) - 1)
    return (weight / step).round() * step


def null_pairs(pair: ModelPair, base: Path) -> Iterator[tuple[str, ModelPair]]:
    """Yield each null pair with its name."""
    norms = change_norms(pair)
    for size in SIZES:
        for seed in SEEDS:
            yield f"noise {size:g} seed {seed}", null_pair(pair, norms, size, seed)
    for bits, name in ((8, "8 bits"), (7, "7 bits"), (6, "6 bits"), (16, "bfloat16")):
        with pair.side("base") as model:
            rounded = Rounded(model, bits)
        yield name, pair.overlaid(rounded, name)
    yield "identical", ModelPair.load(base, base)


def main() -> None:
    """Run all null pairs, and write what was claimed of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="use the tiny pair")
    parser.add_argument("--budget", type=int, default=20_000)
    parser.add_argument("--reply-tokens", type=int, default=28)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    paths = tiny_pair() if given.tiny else demo_pair()
    pair = ModelPair.load(paths.base, paths.tuned)
    settings = BehaveSettings(budget=given.budget, reply_tokens=given.reply_tokens)
    rows = []
    for name, null in null_pairs(pair, paths.base):
        start = time.monotonic()
        said = behaviour_of(null, settings)
        rows.append(
            {
                "pair": name,
                "changed": said.changed,
                "claims": [claim.text for claim in said.claims],
                "generated": said.generated,
                "smallest": said.smallest,
                "seconds": round(time.monotonic() - start, 1),
            }
        )
        write_json(
            given.out,
            {
                "command": " ".join(["python benchmarks/behaviour.py", *sys.argv[1:]]),
                "budget": given.budget,
                "reply_tokens": given.reply_tokens,
                "cores": os.cpu_count(),
                "pairs": len(rows),
                "pairs_with_claims": sum(bool(row["claims"]) for row in rows),
                "rows": rows,
            },
        )


if __name__ == "__main__":
    main()
