"""Peak memory of training from a store of 4 GB, and of walking through it.

The store is written once, in float32. A process of its own then trains on every training token and
scores nothing; its peak resident memory counts whatever of the store it has mapped.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from bench import CACHE, arguments, save

WIDTH, LATENTS, BYTES = 576, 8192, 4 * 2**30


def status(field: str) -> int:
    """Return a field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"this system does not tell {field}")


def train(folder: str, tokens: int) -> None:
    """Train, and print what it took; runs in a process of its own."""
    import anaglyph as ag
    from anaglyph.store import PairedStore

    before = status("VmRSS")
    store = PairedStore.open(folder)
    dic = ag.train(store, method="tuned-sae", latents=LATENTS, k=32, tokens=tokens, seed=0)
    state = 4 * sum(tensor.nbytes for tensor in dic.weights.named().values())
    said = {
        "imports_bytes": before,
        "peak_bytes": status("VmHWM"),
        "state_bytes": state,
        "tokens": tokens,
        "fve": dic.stats["fve"],
    }
    print(json.dumps(said))


def main() -> None:
    """Make the store if need be, and measure."""
    args = arguments(__doc__ or "")
    import numpy as np
    import torch

    from anaglyph.store import PairedStore

    size = BYTES // 8 if args.quick else BYTES
    tokens = size // (2 * 4 * WIDTH)
    folder, source = CACHE / f"large-store-{size}", CACHE / "large.npy"
    if not folder.exists():
        random = torch.Generator().manual_seed(0)
        rows = np.lib.format.open_memmap(source, "w+", np.float32, (tokens, WIDTH))
        mixing = torch.randn(64, WIDTH, generator=random)
        for start in range(0, tokens, 2**14):
            part = rows[start : start + 2**14]
            part[:] = torch.randn(len(part), 64, generator=random).relu() @ mixing
        PairedStore.from_arrays(rows, rows, folder, sequence_ids=np.arange(tokens) // 256)
        source.unlink()
    done = subprocess.run(
        [sys.executable, __file__, "--child", str(folder), str(tokens)],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        check=True,
    )
    said = json.loads(done.stdout.splitlines()[-1])
    said["store_bytes"] = sum(file.stat().st_size for file in folder.iterdir())
    said["beyond_state_bytes"] = said["peak_bytes"] - said["state_bytes"]
    path = save("memory", args, {"spec": {"d": WIDTH, "latents": LATENTS}, **said})
    for name in ("store", "peak", "imports", "state", "beyond_state"):
        print(f"{name}: {said[f'{name}_bytes'] / 2**20:.0f} MiB")
    print(f"written to {path}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        train(sys.argv[2], int(sys.argv[3]))
    else:
        main()
