"""From two models to a trained dictionary: ours against a script that uses the peers.

Both read the demo's chats at layer 15 and train for one epoch: a BatchTopK SAE on the activation
difference (against dictionary_learning) and a crosscoder (against its dense form in plain torch).
The script leaves each model after that layer too and keeps the activations in memory; we write them
to disk. Also shown: what a run of several dictionaries and seeds costs when one collection serves
all (ours) and when each training reads the models anew (the script), the parts as measured.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

from bench import Process, Watch, arguments, quiet_rounds, ratios, save, shown, spread

LAYER, LATENTS, K, BATCH, TOKENS = 15, 8192, 32, 2048, 8192
DICTIONARIES = 6
"""Trainings of a run: three methods, two seeds."""
PEERS: dict[str, tuple[str, str | None, int]] = {
    "diff-sae": ("peer_dictionary_learning.py", "dictionary_learning", 1),
    "crosscoder": ("dense_crosscoder.py", None, 2),
}
"""Per method: the peer's script, its environment, and the models a vector comes from."""


def main() -> None:
    """Play the rounds."""
    args = arguments(__doc__ or "")
    import numpy as np
    import torch

    import anaglyph as ag
    from anaglyph.core.devices import TOKEN_BUDGETS
    from anaglyph.core.threads import set_threads
    from anaglyph.corpus import load_corpus, padded_batches
    from anaglyph.demo import demo_pair

    set_threads(args.threads)
    demo = demo_pair()
    pair = ag.ModelPair.load(demo.base, demo.tuned, device=args.device)
    corpus = load_corpus(demo.corpus[1], pair.tokenizer, max_tokens=TOKENS)
    everything = np.arange(corpus.n_sequences)
    like = [rows[1:] for rows in padded_batches(corpus, everything, TOKEN_BUDGETS[args.device])]
    spec = {
        "d": pair.d_tuned, "latents": LATENTS, "k": K, "batch": BATCH, "dead": 0.0,
        "threads": args.threads, "device": args.device, "units": 1,
    }  # fmt: skip
    steps = max(1, corpus.n_tokens // BATCH)
    peers = {
        method: Process(script, spec | {"sources": sources}, peer)
        for method, (script, peer, sources) in PEERS.items()
    }
    for peer in peers.values():
        peer.turn(1)
    scratch = Path(tempfile.mkdtemp())

    def read() -> None:
        """Read both models as the script does: leave after the layer, keep all in memory."""
        for side in ("base", "tuned"):
            kept = [pair.run_to(side, ids, mask, [LAYER])[LAYER][mask.bool()] for ids, mask in like]
            torch.cat(kept)

    def collect() -> ag.PairedStore:
        shutil.rmtree(scratch / "store", ignore_errors=True)
        return ag.collect(pair, corpus, [LAYER], scratch / "store")

    def timed(work, *arguments):
        start = time.perf_counter()
        found = work(*arguments)
        return time.perf_counter() - start, found

    def play() -> tuple[dict[str, float], float]:
        watch = Watch(os.getpid())
        collected, store = timed(collect)
        read_in, _ = timed(read)
        others = [watch.others()]
        parts = {"our collecting": collected, "their reading": read_in}
        for method, peer in peers.items():
            watch = Watch(os.getpid())
            parts[f"our {method}"], _ = timed(
                lambda method=method: ag.train(
                    store, method, LATENTS, K, steps * BATCH, batch=BATCH, threads=args.threads
                )
            )
            others.append(watch.others())
            said = peer.turn(steps)
            parts[f"their {method}"] = sum(said["seconds"])
            others.append(said["others"])
        return parts, max(others)

    play()  # compiles, and fills the caches
    rounds, quietness = quiet_rounds(play, args)
    for peer in peers.values():
        peer.close()
    shutil.rmtree(scratch)
    seconds = {name: np.array([said[name] for said in rounds]) for name in rounds[0]}
    ours, theirs = seconds["our collecting"], seconds["their reading"]
    methods = {}
    for method in peers:
        mine, other = seconds[f"our {method}"], seconds[f"their {method}"]
        methods[method] = {
            "theirs_over_ours": ratios(theirs + other, ours + mine),
            "theirs_over_ours_run": ratios(
                DICTIONARIES * (theirs + other), ours + DICTIONARIES * mine
            ),
            "training_share_of_ours": float(np.median(mine / (ours + mine))),
            "training_share_of_theirs": float(np.median(other / (theirs + other))),
        }
    result = {
        "spec": spec | {"layer": LAYER, "tokens": corpus.n_tokens, "steps": steps},
        **quietness,
        "seconds": {name: spread(values.tolist()) for name, values in seconds.items()},
        "dictionaries": DICTIONARIES,
        "methods": methods,
    }
    path = save(f"end-to-end-{args.threads}-threads", args, result)
    for name, found in result["seconds"].items():
        print(f"{name}: {shown(found, 1)} s")
    for method, found in methods.items():
        print(f"one {method}: the script takes {shown(found['theirs_over_ours'])} times ours")
        print(f"{DICTIONARIES} of them: {shown(found['theirs_over_ours_run'])} times ours")
    print(f"other processes took {shown(result['others_cpu'])} cores; written to {path}")


if __name__ == "__main__":
    main()
