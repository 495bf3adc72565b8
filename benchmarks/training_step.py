"""How long a training step takes: ours and the peers', in units and as ratios.

Contenders take turns; a row with 20% dead latents stands beside each that has an auxiliary loss,
and one with a tuned allocator beside each peer.
"""

import argparse
import statistics
from typing import Any

from bench import TUNED, Process, arguments, quiet_rounds, ratios, save, shown, spread, table

NARROW = {"d": 576, "latents": 8192, "k": 32, "batch": 2048, "sources": 1}
WIDE = {"d": 2304, "latents": 18432, "k": 32, "batch": 2048, "sources": 1}
CASES: dict[str, dict[str, Any]] = {
    "sae": NARROW,
    "sae-dead": {**NARROW, "dead": 0.2},
    "crosscoder": {**NARROW, "sources": 2},
    "crosscoder-dead": {**NARROW, "sources": 2, "dead": 0.2},
    "wide": WIDE,
    "wide-512": {**WIDE, "batch": 512},
}
# Steps a turn: a step of ours is short, one of the others long enough by itself.
STEPS = {
    "ours": 3,
    "ours, exact product": 3,
    "ours, torch only": 2,
    "ours, none dead": 3,
    "sparsify": 2,
}
PEERS = ("dictionary_learning", "sparsify", "sae_lens")


def contenders(case: str, spec: dict[str, Any]) -> dict[str, Process]:
    """Start everyone who takes part in a case."""
    found = {"ours": Process("ours.py", spec)}
    found["ours, exact product"] = Process("ours.py", {**spec, "screened": False})
    if spec["dead"]:
        found["ours, none dead"] = Process("ours.py", {**spec, "dead": 0.0})
    if case == "sae":
        found["ours, torch only"] = Process("ours.py", {**spec, "kernels": "torch"})
        found["ours, TopK"] = Process("ours.py", {**spec, "sparsity": "topk"})
    if spec["sources"] == 2:
        found["dense crosscoder"] = Process("dense_crosscoder.py", spec)
        if not spec["dead"]:
            found["dense crosscoder, allocator tuned"] = Process(
                "dense_crosscoder.py", spec, None, TUNED
            )
        return found
    for peer in PEERS:
        if case == "wide" and peer == "sae_lens":
            continue  # ten minutes of its own
        script = f"peer_{peer}.py"
        found[peer] = Process(script, spec, peer)
        if case == "sae":
            found[f"{peer}, allocator tuned"] = Process(script, spec, peer, TUNED)
    return found


def run(case: str, spec: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Let the contenders of a case take turns; return its rows."""
    everyone = contenders(case, spec)
    for name, process in everyone.items():
        # Ours starts with a full selection and compiles; the peers' first step allocates.
        process.turn(6 if name.startswith("ours") else 1)

    def play() -> tuple[dict[str, dict[str, Any]], float]:
        said = {name: process.turn(STEPS.get(name, 1)) for name, process in everyone.items()}
        wall = sum(each["wall"] for each in said.values())
        return said, sum(each["others"] * each["wall"] for each in said.values()) / wall

    rounds, quietness = quiet_rounds(play, args)
    for process in everyone.values():
        process.close()
    seconds = {
        name: [statistics.median(said[name]["seconds"]) for said in rounds] for name in everyone
    }
    units = [statistics.median(said["ours"]["unit_seconds"]) for said in rounds]
    result = {
        "case": case,
        "spec": spec,
        **quietness,
        "unit_milliseconds": spread([1000 * value for value in units]),
        "rows": [
            {
                "name": name,
                "milliseconds": spread([1000 * value for value in taken]),
                "units": ratios(taken, units),
                "times_ours": ratios(taken, seconds["ours"]),
                "dead": rounds[-1][name]["dead"],
            }
            for name, taken in seconds.items()
        ],
    }
    if "ours, none dead" in seconds:
        added = [
            (a - b) / unit
            for a, b, unit in zip(seconds["ours"], seconds["ours, none dead"], units, strict=True)
        ]
        result["auxiliary_units"] = spread(added)
    return result


def describe(result: dict[str, Any]) -> str:
    """Return the table of a result."""
    rows = [["step", "ms", "units", "times ours"]]
    rows += [
        [
            row["name"],
            shown(row["milliseconds"], 0),
            shown(row["units"]),
            shown(row["times_ours"]),
        ]
        for row in result["rows"]
    ]
    return table(rows)


def main() -> None:
    """Run the cases asked for."""
    args = arguments(__doc__ or "", case=list(CASES))
    for case in args.case:
        spec = {
            "dead": 0.0,
            **CASES[case],
            "threads": args.threads,
            "device": args.device,
            "units": 1 if case == "wide" else 3,
        }
        result = run(case, spec, args)
        suffix = f"{args.threads}-threads" if args.device == "cpu" else args.device
        path = save(f"training-{case}-{suffix}", args, result)
        print(f"\n{case}, {suffix}: one unit is {shown(result['unit_milliseconds'], 1)} ms")
        print(describe(result))
        if "auxiliary_units" in result:
            print(f"auxiliary loss: {shown(result['auxiliary_units'])} units")
        print(f"other processes took {shown(result['others_cpu'])} cores; written to {path}")


if __name__ == "__main__":
    main()
