"""Seconds of training until a dictionary explains a given share of real activations' variance.

Ours and dictionary_learning's BatchTopK trainer see the same batches of the demo's fine-tune at the
same size, k and batch, and take turns of ten steps; evaluations, on held-out tokens and the same
for all, are not counted. The peer runs at our rate and at its own default; the better one counts.
"""

from bench import Process, Watch, arguments, save, table
from demo_activations import demo_file

SIZE = {"d": 576, "latents": 4096, "k": 32, "batch": 2048, "sources": 1}
LEVELS = [0.6, 0.65, 0.7, 0.75, 0.8, 0.85]
TURN = 10


def main() -> None:
    """Train until the peer's time is up."""
    args = arguments(__doc__ or "")
    ours = 0.05 * SIZE["d"] ** -0.5
    theirs = 2e-4 / (SIZE["latents"] / 2**14) ** 0.5
    spec = {
        **SIZE,
        "dead": 0.0,
        "threads": args.threads,
        "device": args.device,
        "units": 1,
        "file": str(demo_file()),
    }
    peer = "peer_dictionary_learning.py"
    everyone = {
        "ours": Process("ours.py", {**spec, "rate": ours}),
        "dictionary_learning, our rate": Process(
            peer, {**spec, "rate": ours}, "dictionary_learning"
        ),
        "dictionary_learning, its rate": Process(
            peer, {**spec, "rate": theirs}, "dictionary_learning"
        ),
    }
    curves: dict[str, list[tuple[int, float, float]]] = {name: [] for name in everyone}
    watch, others = Watch(0), []
    while watch.wall() < 60 * (0.5 if args.quick else args.minutes):
        for name, process in everyone.items():
            said = process.turn(TURN)
            before = curves[name][-1] if curves[name] else (0, 0.0, 0.0)
            seconds = before[1] + sum(said["seconds"])
            curves[name].append((before[0] + TURN, seconds, said["fve"]))
            others.append(said["others"])
    for process in everyone.values():
        process.close()
    reached = {
        name: {
            str(level): next((seconds for _, seconds, fve in curve if fve >= level), None)
            for level in LEVELS
        }
        for name, curve in curves.items()
    }
    rows = []
    for level in map(str, LEVELS):
        peers = [at[level] for name, at in reached.items() if name != "ours"]
        known = [seconds for seconds in peers if seconds is not None]
        mine = reached["ours"][level]
        ratio = min(known) / mine if known and mine else None
        rows.append({"fve": float(level), "seconds": mine, "peer": min(known, default=None)})
        rows[-1]["ratio"] = ratio
    result = {
        "spec": {key: value for key, value in spec.items() if key != "file"},
        "rates": {"ours": ours, "theirs": theirs},
        "others_cpu": sum(others) / len(others),
        "curves": curves,
        "rows": rows,
    }
    path = save(f"time-to-fve-{args.threads}-threads", args, result)
    head = ["FVE", "ours, s", "dictionary_learning, s", "ratio"]
    shown = [["-" if v is None else f"{v:.2f}" for v in row.values()] for row in rows]
    print(table([head, *shown]))
    print(f"other processes took {result['others_cpu']:.2f} cores; written to {path}")


if __name__ == "__main__":
    main()
