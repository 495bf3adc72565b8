"""Write docs/performance.md from the JSON of the benchmarks, and from nothing else."""

import json
from collections.abc import Callable
from typing import Any

from bench import RESULTS, ROOT, shown, table

PAGE = ROOT / "docs" / "performance.md"
INTRO = """# Performance

This page compares the speed and memory of anaglyph with other packages ("peers"). To measure on
your machine:

```
make bench
```

`make bench` writes the JSON files in [`performance/`](performance/), and `make bench-docs` makes
this page from them. Do not edit the page; change the benchmarks.

How to read the tables:

- All contenders of a table took turns within one run. A number is the median over rounds, with
  quartiles in brackets. "times ours" is the median over rounds of the ratio within a round.
- One *unit* is one encoder matrix product of the same shape, timed with the same threads in the
  same round. A step that computes every product in float32 takes more than one unit. Our step takes
  less where the processor multiplies bfloat16 in hardware (`dictionaries/screen.py`).
- Rounds are repeated while other processes use more than 0.15 cores, as long as time allows. Each
  table states how busy the machine was.
"""
STEP_NOTES = {
    "sae": "BatchTopK SAE, d=576, 8192 latents, k=32, batch 2048. sparsify selects per token, which "
    "is less work than selecting over the batch. Compare it with our TopK row.",
    "sae-dead": "The same with 20% dead latents, so that every package computes its auxiliary loss.",
    "crosscoder": "BatchTopK crosscoder, 2 x 576, 8192 latents; one unit is its own two products. "
    "The dense crosscoder is our re-implementation (`benchmarks/contenders/dense_crosscoder.py`), "
    "because the published one is not in a package registry.",
    "crosscoder-dead": "The crosscoder with 20% dead latents.",
    "wide": "d=2304, 18432 latents, batch 2048.",
    "wide-512": "d=2304, 18432 latents, batch 512.",
}
COLLECTION_NAMES = (
    "full forward with logits",
    "bare forward to the layer",
    "collect, one model",
    "collect, adapter pair",
)


def training(result: dict[str, Any]) -> list[str]:
    """Describe a training step."""
    rows = [["step", "ms", "units", "times ours"]]
    rows += [
        [r["name"], shown(r["milliseconds"], 0), shown(r["units"]), shown(r["times_ours"])]
        for r in result["rows"]
    ]
    found = [STEP_NOTES[result["case"]], "", table(rows)]
    if "auxiliary_units" in result:
        found += ["", f"Our auxiliary loss adds {shown(result['auxiliary_units'])} units a step."]
    return found


def time_to_fve(result: dict[str, Any]) -> list[str]:
    """Describe the time to an explained variance."""
    rows = [["FVE", "ours, s", "dictionary_learning, s", "ratio"]]
    rows += [
        [
            "-" if row[key] is None else f"{row[key]:.2f}"
            for key in ("fve", "seconds", "peer", "ratio")
        ]
        for row in result["rows"]
    ]
    rates = result["rates"]
    return [
        "Seconds of training steps until this FVE on held-out activations of the demo's fine-tune"
        " (layer 15) is reached; 4096 latents, k=32, batch 2048, one seed. The peer ran with our "
        f"learning rate ({rates['ours']:.2g}) and with its own ({rates['theirs']:.2g}); its better"
        " time is shown. A dash means that it was not reached in the time given.",
        "",
        table(rows),
    ]


def latent_scaling(result: dict[str, Any]) -> list[str]:
    """Describe Latent Scaling."""
    spec, few = result["spec"], result["one_by_one_timed_on"]
    slopes = result["growth_slopes"]
    rows = [
        ["", "median (quartiles)"],
        ["200k tokens, starting from the codes, seconds", shown(result["seconds_for_200k_tokens"])],
        ["dense products of the same sums, times ours", shown(result["dense_over_ours"], 1)],
        ["latent by latent, times ours", shown(result["one_by_one_over_ours"], 0)],
        ["encoding and scaling, in encodings", shown(result["encode_and_scale_over_encode"])],
        ["log-log slope over tokens", f"{slopes['tokens']:.2f}"],
        ["log-log slope over k", f"{slopes['k']:.2f}"],
    ]
    return [
        f"All {spec['latents']} latents, all targets, both models of a crosscoder of 2 x "
        f"{spec['d']}; {spec['k']:.0f} active per token. We timed {spec['tokens']} tokens per "
        'round and scaled the result to 200k. "Latent by latent" builds a [latents, tokens, d] '
        f"tensor; we timed it on {few['latents']} latents and {few['tokens']} tokens and scaled.",
        "",
        table(rows),
    ]


def collection(result: dict[str, Any]) -> list[str]:
    """Describe collecting."""
    spec = result["spec"]
    rows = [["", "tokens/s"]]
    rows += [[name, shown(result["tokens_per_second"][name], 0)] for name in COLLECTION_NAMES]
    return [
        f"{spec['model']}, layer {spec['layer']} of {spec['blocks']}, float32, {spec['tokens']} "
        "tokens of the demo's chats. The adapter of the pair starts at layer "
        f"{spec['first_adapted']}.",
        "",
        table(rows),
        "",
        f"Collecting reaches {shown(result['collect_share_of_bare'])} of the bare forward and "
        f"{shown(result['collect_over_full_forward'])} times the full forward with logits. The "
        f"pair costs {shown(result['adapter_pair_forwards'])} forwards of one model to the layer; "
        f"{result['adapter_pair_least_forwards']:.2f} is the least, so "
        f"{shown(result['adapter_pair_over_least'])} times that.",
    ]


def end_to_end(result: dict[str, Any]) -> list[str]:
    """Describe the way from two models to a dictionary."""
    spec, many = result["spec"], result["dictionaries"]
    seconds = [["", "seconds"]]
    seconds += [[name, shown(found, 1)] for name, found in result["seconds"].items()]
    rows = [["", "one dictionary", f"{many} from one collection", "training, ours", "theirs"]]
    for method, found in result["methods"].items():
        ratios = [shown(found[key]) for key in ("theirs_over_ours", "theirs_over_ours_run")]
        shares = [f"{found[f'training_share_of_{side}']:.0%}" for side in ("ours", "theirs")]
        rows.append([method, *ratios, *shares])
    return [
        f"{spec['tokens']} tokens of the demo's chats through both models to layer "
        f"{spec['layer']}, then one epoch of training ({spec['latents']} latents, k={spec['k']}, "
        f'batch {spec["batch"]}). "Theirs" is a script that also stops each model at the layer, '
        "keeps the activations in memory, and trains with dictionary_learning (diff-SAE) or with "
        "the dense crosscoder.",
        "",
        table(seconds),
        "",
        "How many times as long the script takes, and the share of the time that training takes "
        f"on each side; the rest is running the models. For {many} dictionaries or seeds the "
        "script runs the models for each training, and we run them once (the sum of the parts "
        "above).",
        "",
        table(rows),
    ]


def tokens_needed(result: dict[str, Any]) -> list[str]:
    """Describe how many tokens the same findings need."""
    rows = [["tokens", "findings", "found of the first ten", f"found of all {result['whole']}"]]
    keys = ("tokens", "findings", "of_ten", "of_all")
    rows += [[str(row[key]) for key in keys] for row in result["rows"]]
    return [
        "The demo pair: findings at the default rate, from part of the text and from all of it. A "
        "finding from all of the text counts as found if one from the part points the same way "
        "(cosine 0.7).",
        "",
        table(rows),
    ]


def growth(result: dict[str, Any]) -> list[str]:
    """Describe growth."""
    rows = [["grows with", "from", "to", "step", "step, upper half", "memory"]]
    for name, points in result["points"].items():
        ends = [str(points[place][name]) for place in (0, -1)]
        slopes = result["slopes"][name]
        shown_slopes = (slopes[key] for key in ("seconds", "seconds_upper_half", "peak_bytes"))
        rows.append([name, *ends, *(f"{value:.2f}" for value in shown_slopes)])
    start = ", ".join(f"{key}={value}" for key, value in result["start"].items())
    return [
        f"Log-log slopes of our training step. We vary one size at a time, starting from {start}.",
        "",
        table(rows),
    ]


def memory(result: dict[str, Any]) -> list[str]:
    """Describe memory."""
    sizes = {
        name: f"{result[f'{name}_bytes'] / 2**20:.0f} MiB"
        for name in ("store", "peak", "imports", "state", "beyond_state")
    }
    return [
        f"Training on all {result['tokens']} tokens of a store of {sizes['store']} has a peak "
        f"resident memory of {sizes['peak']}. Imports take {sizes['imports']}. The dictionary, its"
        f" gradients and its moments take {sizes['state']}; without these three the peak is "
        f"{sizes['beyond_state']}.",
    ]


def prescreen(result: dict[str, Any]) -> list[str]:
    """Describe the pre-screened encoder."""
    rows = [["encoder", "ms", "times exact", "recall"]]
    rows += [
        [r["name"], shown(r["milliseconds"], 0), shown(r["times_exact"]), f"{r['recall']:.4f}"]
        for r in result["rows"]
    ]
    return [result["note"], "", table(rows)]


SECTIONS: list[tuple[str, str, Callable[[dict[str, Any]], list[str]]]] = [
    ("Training step", "training-", training),
    ("Time to a given explained variance", "time-to-fve-", time_to_fve),
    ("Latent Scaling", "latent-scaling-", latent_scaling),
    ("Collecting activations", "collection-", collection),
    ("From two models to a dictionary", "end-to-end-", end_to_end),
    ("Tokens that findings need", "tokens-needed", tokens_needed),
    ("Growth", "growth-", growth),
    ("Memory", "memory", memory),
    ("Pre-screening the encoder", "prescreen", prescreen),
]


def main() -> None:
    """Write the page."""
    lines = [INTRO]
    for title, prefix, describe in SECTIONS:
        files = sorted(RESULTS.glob(f"{prefix}*.json"))
        if files:
            lines.append(f"## {title}\n")
        for file in files:
            result = json.loads(file.read_text(encoding="utf-8"))
            lines += [f"### {file.stem}\n", *describe(result), ""]
            machine = result["machine"]
            device = machine.get("gpu", f"{machine['cpu']}, {machine['cores']} cores")
            others = result.get("others_cpu")
            if isinstance(others, dict):
                others = others["median"]
            busy = "" if others is None else f" Other processes took {others:.2f} cores."
            threads = result["switches"]["threads"]
            lines.append(
                f"{result['made']}, {device}, {threads} thread{'s' * (threads > 1)}.{busy} "
                f"[JSON](performance/{file.name})\n"
            )
    PAGE.write_text("\n".join(lines), encoding="utf-8")
    print(f"{PAGE} written")


if __name__ == "__main__":
    main()
