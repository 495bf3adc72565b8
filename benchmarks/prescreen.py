"""Does an approximate product, then an exact one on what survives, beat the exact encoder?

The exact path is the encoder product and the filter over it. The screens compute a cheap product
first: int8 (torch's dynamic quantised linear), bfloat16, and float32 on a random projection to a
quarter of the dimensions. Entries above the exact threshold less a slack are then computed exactly,
one inner product each. The slack is what brings the recall of the truly active entries to 99.9%.
Activations are the demo's real ones; weights are those of a few hundred training steps.
"""

import os
import statistics
import time

from bench import Watch, arguments, quiet_rounds, ratios, save, shown, spread, table
from demo_activations import demo_store

LATENTS, K, BATCH, RECALL = 8192, 32, 2048, 0.999
NOTE = (
    "We set the slack of each screen on one batch so that 99.9% of the active entries pass it. All "
    "entries that pass are then computed exactly. Recall is measured on another batch. Real "
    "activations of the demo pair, 8192 latents, k=32, batch 2048."
)


def main() -> None:
    """Set the slacks, then play the rounds."""
    args = arguments(__doc__ or "")
    import torch

    import anaglyph as ag
    from anaglyph.core.threads import set_threads
    from anaglyph.dictionaries.kernels import Active, choose_kernels

    set_threads(args.threads)
    store = demo_store()
    steps = 20 if args.quick else 200
    dic = ag.train(store, "tuned-sae", LATENTS, K, steps * BATCH, seed=0)
    values = torch.cat([block.tuned for block in store.blocks("train")])
    centre, weights = dic.decoder_bias[0], dic.encoder[0].contiguous()
    values = values - centre
    usual = values.norm(dim=1) < 5 * values.norm(dim=1).median()
    order = torch.randperm(int(usual.sum()), generator=torch.Generator().manual_seed(0))
    tuning, testing = values[usual][order[: 2 * BATCH]].split(BATCH)
    kernels, bias = choose_kernels(), dic.encoder_bias
    norms = dic.weights.norms((1.0,))
    limits = (dic.threshold or 0.0) / norms
    pre = torch.empty(BATCH, LATENTS)

    def exact(rows: torch.Tensor) -> Active:
        torch.mm(rows, weights.T, out=pre)
        return kernels.above(pre, bias, limits)

    linear = torch.nn.Linear(weights.shape[1], LATENTS, bias=False)
    linear.weight.data.copy_(weights)
    quantised = torch.ao.quantization.quantize_dynamic(
        torch.nn.Sequential(linear), {torch.nn.Linear}, torch.qint8
    )
    half = weights.bfloat16()
    random = torch.randn(weights.shape[1], weights.shape[1] // 4).div_(weights.shape[1] ** 0.5 / 2)
    narrow = weights @ random
    screens = {
        "int8": quantised,
        "bfloat16": lambda rows: (rows.bfloat16() @ half.T).float(),
        "projection to d/4": lambda rows: torch.mm(rows @ random, narrow.T),
    }

    def missed(rough: torch.Tensor, truth: Active) -> torch.Tensor:
        tokens = torch.repeat_interleave(truth.offsets.diff())
        latents = truth.indices.long()
        return limits[latents] - (rough[tokens, latents] + bias[latents])

    def screened(rows: torch.Tensor, product, slack: float) -> Active:
        rough = product(rows)
        found = kernels.above(rough, bias, (limits - slack).clamp_(min=0))
        sums = torch.zeros_like(found.values)
        kernels.code_gradients(found, weights, rows, sums)
        return found._replace(values=sums + bias[found.indices.long()])

    slacks, recalls, survivors = {}, {}, {}
    with torch.no_grad():
        for name, product in screens.items():
            gap = missed(product(tuning), exact(tuning))
            slacks[name] = max(0.0, float(gap.kthvalue(int(RECALL * len(gap))).values))
            gap = missed(product(testing), exact(testing))
            recalls[name] = float((gap < slacks[name]).float().mean())
            found = screened(testing, product, slacks[name])
            survivors[name] = len(found.indices) / BATCH

    def timed(work) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    @torch.no_grad()
    def play() -> tuple[dict[str, float], float]:
        watch = Watch(os.getpid())
        said = {"exact": statistics.median(timed(lambda: exact(testing)) for _ in range(3))}
        for name, product in screens.items():
            said[name] = statistics.median(
                timed(lambda p=product, s=slacks[name]: screened(testing, p, s)) for _ in range(3)
            )
            said[f"{name}, product only"] = statistics.median(
                timed(lambda p=product: p(testing)) for _ in range(3)
            )
        return said, watch.others()

    play()
    rounds, quietness = quiet_rounds(play, args)
    rows = []
    for name in rounds[0]:
        taken = [said[name] for said in rounds]
        screen = name.removesuffix(", product only")
        rows.append(
            {
                "name": name,
                "milliseconds": spread([1000 * value for value in taken]),
                "times_exact": ratios(taken, [said["exact"] for said in rounds]),
                "recall": recalls.get(screen, 1.0),
                "survivors": survivors.get(screen),
            }
        )
    best = min(row["times_exact"]["median"] for row in rows if row["name"] in screens)
    verdict = f"The best screen takes {best:.2f} times as long as the exact encoder. "
    if best >= 1:
        verdict = f"Negative: the package has no screen. {verdict}"
    path = save(
        f"prescreen-{args.threads}-threads",
        args,
        {"note": verdict + NOTE, **quietness, "rows": rows},
    )
    head = ["encoder", "ms", "times exact", "recall", "survivors"]
    lines = [
        [
            row["name"],
            shown(row["milliseconds"], 0),
            shown(row["times_exact"]),
            f"{row['recall']:.4f}",
            "-" if row["survivors"] is None else f"{row['survivors']:.0f}",
        ]
        for row in rows
    ]
    print(table([head, *lines]))
    print(f"other processes took {shown(quietness['others_cpu'])} cores; written to {path}")


if __name__ == "__main__":
    main()
