"""How few tokens reach the same findings: the demo pair read in part and in whole.

The findings of all the text are what the others are held against, ordered by their share of the
difference: one comes back if a finding of the part points the same way (cosine 0.7 or more of the
direction in either model).
"""

import tempfile
from pathlib import Path

import numpy as np
from bench import arguments, save, table

LAYER, SHARES, SAME = 15, (0.125, 0.25, 0.5, 1.0), 0.7


def main() -> None:
    """Find with each share of the text."""
    args = arguments(__doc__ or "")
    import anaglyph as ag
    from anaglyph.core.threads import set_threads
    from anaglyph.corpus import load_corpus, read_documents
    from anaglyph.demo import demo_pair

    set_threads(args.threads)
    demo = demo_pair()
    pair = ag.ModelPair.load(demo.base, demo.tuned)
    documents = [document for source in demo.corpus for document in read_documents(source)]
    corpus = load_corpus(documents, pair.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        store = ag.collect(pair, corpus, [LAYER], Path(folder) / "store")
        blocks = list(store.blocks("all"))
        base, tuned = (
            np.concatenate([getattr(block, side).numpy() for block in blocks])
            for side in ("base", "tuned")
        )
    sequence = np.repeat(np.arange(corpus.n_sequences), corpus.lengths)
    order = np.random.default_rng(0).permutation(corpus.n_sequences)
    found, tokens = {}, {}
    for share in SHARES[-2:] if args.quick else SHARES:
        chosen = np.isin(sequence, order[: round(share * corpus.n_sequences)])
        tokens[share] = int(chosen.sum())
        with tempfile.TemporaryDirectory() as folder:
            part = ag.PairedStore.from_arrays(
                base[chosen],
                tuned[chosen],
                folder,
                sequence_ids=sequence[chosen],
                token_ids=corpus.token_ids[chosen],
            )
            found[share] = ag.find(part, seed=0)
    whole = found[1.0]
    rows = []
    for share, findings in found.items():
        again = [any(_same(one, other) for other in findings) for one in whole]
        rows.append(
            {
                "share": share,
                "tokens": tokens[share],
                "findings": len(findings),
                "of_ten": sum(again[:10]),
                "of_all": sum(again),
            }
        )
    path = save("tokens-needed", args, {"layer": LAYER, "whole": len(whole), "rows": rows})
    head = ["tokens", "findings", "of the first ten", "of all"]
    keys = ("tokens", "findings", "of_ten", "of_all")
    print(table([head, *([str(row[key]) for key in keys] for row in rows)]))
    print(f"written to {path}")


def _same(one, other) -> bool:
    for side in ("direction_base", "direction_tuned"):
        first, second = getattr(one, side), getattr(other, side)
        if first is not None and second is not None and np.dot(first, second) >= SAME:
            return True
    return False


if __name__ == "__main__":
    main()
