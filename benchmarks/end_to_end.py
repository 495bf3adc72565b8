"""From two models to a trained dictionary: ours against a script that uses the peers.

Both read the demo's chats at layer 15 and train a BatchTopK SAE of the tuned model for one epoch.
The script leaves each model after that layer too and keeps the activations in memory; we write them
to disk. Also shown: what a run of several dictionaries and seeds costs when one collection serves
all (ours) and when each training reads the model anew (the script), the parts as measured.
"""

import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from bench import Process, Watch, arguments, quiet_rounds, ratios, save, shown, spread

LAYER, LATENTS, K, BATCH, TOKENS = 15, 4096, 32, 1024, 8192
DICTIONARIES = 6
"""Trainings of a run: three methods, two seeds."""


def main() -> None:
    """Play the rounds."""
    args = arguments(__doc__ or "")
    import torch

    import anaglyph as ag
    from anaglyph.corpus import load_corpus, padded_batches
    from anaglyph.demo import demo_pair
    from anaglyph.dictionaries.threads import set_threads
    from anaglyph.store.collecting import TOKEN_BUDGETS

    set_threads(args.threads)
    demo = demo_pair()
    pair = ag.ModelPair.load(demo.base, demo.tuned, device=args.device)
    corpus = load_corpus(demo.corpus[1], pair.tokenizer, max_tokens=TOKENS)
    everything = torch.arange(corpus.n_sequences).numpy()
    like = [rows[1:] for rows in padded_batches(corpus, everything, TOKEN_BUDGETS[args.device])]
    spec = {
        "d": pair.d_tuned, "latents": LATENTS, "k": K, "batch": BATCH, "sources": 1, "dead": 0.0,
        "threads": args.threads, "device": args.device, "units": 1,
    }  # fmt: skip
    steps = max(1, corpus.n_tokens // BATCH)
    peer = Process("peer_dictionary_learning.py", spec, "dictionary_learning")
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
        trained, _ = timed(
            lambda: ag.train(
                store, "tuned-sae", LATENTS, K, steps * BATCH, batch=BATCH, threads=args.threads
            )
        )
        read_in, _ = timed(read)
        others = watch.others()
        said = peer.turn(steps)
        return {
            "our collecting": collected,
            "our training": trained,
            "their reading": read_in,
            "their training": sum(said["seconds"]),
        }, max(others, said["others"])

    play()  # compiles, and fills the caches
    rounds, quietness = quiet_rounds(play, args)
    peer.close()
    shutil.rmtree(scratch)
    parts = {name: [said[name] for said in rounds] for name in rounds[0]}
    ours = [a + b for a, b in zip(parts["our collecting"], parts["our training"], strict=True)]
    theirs = [a + b for a, b in zip(parts["their reading"], parts["their training"], strict=True)]
    served = [
        a + DICTIONARIES * b
        for a, b in zip(parts["our collecting"], parts["our training"], strict=True)
    ]
    result = {
        "spec": spec | {"layer": LAYER, "tokens": corpus.n_tokens, "steps": steps},
        **quietness,
        "seconds": {name: spread(values) for name, values in parts.items()},
        "theirs_over_ours": ratios(theirs, ours),
        "dictionaries": DICTIONARIES,
        "theirs_over_ours_run": ratios([DICTIONARIES * value for value in theirs], served),
        "training_share_of_ours": statistics.median(
            b / total for b, total in zip(parts["our training"], ours, strict=True)
        ),
    }
    path = save(f"end-to-end-{args.threads}-threads", args, result)
    for name, found in result["seconds"].items():
        print(f"{name}: {shown(found, 1)} s")
    print(f"one dictionary: the script takes {shown(result['theirs_over_ours'])} times ours")
    print(f"{DICTIONARIES} dictionaries: {shown(result['theirs_over_ours_run'])} times ours")
    print(f"other processes took {shown(result['others_cpu'])} cores; written to {path}")


if __name__ == "__main__":
    main()
