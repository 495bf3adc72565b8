"""How a training step's time and memory grow with tokens, width, dictionary and active latents.

One of the four is varied at a time, each point in a process of its own; the slope of the log-log
line is reported, over all points and over the upper half. Memory is what the process holds at its
peak beyond the imports.
"""

import math
import statistics

from bench import Process, Watch, arguments, save, table

START = {"d": 576, "latents": 8192, "k": 32, "batch": 2048, "sources": 1}
POINTS = {
    "batch": [512, 1024, 2048, 4096],
    "d": [288, 576, 1152, 2304],
    "latents": [2048, 4096, 8192, 16384],
    "k": [8, 16, 32, 64, 128],
}


def slope(points: list[tuple[float, float]]) -> float:
    """Return the slope of the least-squares line through the logarithms."""
    logs = [(math.log(x), math.log(max(y, 1e-9))) for x, y in points]
    return statistics.linear_regression(*zip(*logs, strict=True)).slope


def main() -> None:
    """Measure every point."""
    args = arguments(__doc__ or "", of=list(POINTS))
    found: dict[str, list[dict[str, float]]] = {}
    watch, others = Watch(0), []
    for name in args.of:
        found[name] = []
        for value in POINTS[name]:
            spec = {
                **START,
                name: value,
                "dead": 0.0,
                "threads": args.threads,
                "device": args.device,
                "units": 3,
            }
            process = Process("ours.py", spec)
            process.turn(4)
            turns = [process.turn(3) for _ in range(args.rounds)]
            process.close()
            others += [said["others"] for said in turns]
            found[name].append(
                {
                    name: value,
                    "seconds": statistics.median(s for said in turns for s in said["seconds"]),
                    "unit_seconds": statistics.median(
                        s for said in turns for s in said["unit_seconds"]
                    ),
                    "peak_bytes": turns[-1]["peak_bytes"],
                }
            )
    rows = [["grows with", "from", "to", "step", "step, upper half", "memory"]]
    slopes = {}
    for name, points in found.items():
        sizes = [point[name] for point in points]

        def line(values: list[float], sizes: list[float] = sizes, half: bool = False) -> float:
            pairs = list(zip(sizes, values, strict=True))
            return slope(pairs[len(pairs) // 2 - 1 :] if half else pairs)

        seconds = [point["seconds"] for point in points]
        slopes[name] = {
            "seconds": line(seconds),
            "seconds_upper_half": line(seconds, half=True),
            "peak_bytes": line([point["peak_bytes"] for point in points]),
        }
        ends = [str(sizes[0]), str(sizes[-1])]
        rows.append([name, *ends, *(f"{v:.2f}" for v in slopes[name].values())])
    result = {
        "start": START,
        "points": found,
        "slopes": slopes,
        "seconds": watch.wall(),
        "others_cpu": statistics.median(others),
    }
    path = save(f"growth-{args.threads}-threads", args, result)
    print(table(rows))
    print(f"other processes took {result['others_cpu']:.2f} cores; written to {path}")


if __name__ == "__main__":
    main()
