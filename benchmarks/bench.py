"""What the benchmarks share: peers in environments of their own, turns, ratios, JSON.

Contenders are processes that hold a trainer in memory (``contenders/worker.py``). They take turns
inside one run, round after round, so that whatever else the machine does hits all of them; what is
reported of two contenders is the median, with quartiles, of the ratio in each round. One *unit* is
one encoder matrix product of the same shape, with the same threads, timed in the same round.
"""

import argparse
import json
import os
import platform
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".bench"
RESULTS = ROOT / "docs" / "performance"
CONTENDERS = Path(__file__).parent / "contenders"

# What pip installs for each peer beside torch, and what it installs without dependencies: those of
# dictionary_learning read language models and pin packages that are gone.
PEERS = {
    "dictionary_learning": (["einops==0.8.1", "tqdm", "numpy"], ["dictionary-learning==0.1.0"]),
    "sparsify": (["eai-sparsify==1.3.3"], []),
    "sae_lens": (["sae-lens==6.54.12"], []),
}
# glibc hands large blocks back to the system at once; kept, dense steps are faster.
TUNED = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**34)}


def arguments(description: str, **choices: list[str]) -> argparse.Namespace:
    """Read the switches that all benchmarks have, and one more for each of ``choices``."""
    parser = argparse.ArgumentParser(description=description)
    for name, values in choices.items():
        parser.add_argument(f"--{name}", choices=values, action="append")
    parser.add_argument("--threads", type=int, choices=[1, 2], default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=3.3, help="no new round after this long")
    parser.add_argument("--quick", action="store_true", help="two rounds; not for publication")
    found = parser.parse_args()
    if found.quick:
        found.rounds = 2
    for name, values in choices.items():
        if getattr(found, name) is None:
            setattr(found, name, values)
    # Before torch and numba are imported: their pools are made once.
    os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = str(found.threads)
    return found


def interpreter(peer: str | None) -> str:
    """Return the Python of a peer's environment, made if it is not there; None is our own."""
    if peer is None:
        return sys.executable
    folder = CACHE / "peers" / peer
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        needed, bare = PEERS[peer]
        pin = ["-c", str(ROOT / "constraints.txt")]
        uv = shutil.which("uv")
        if uv:
            subprocess.run([uv, "venv", "--quiet", str(folder)], check=True)
            install = [uv, "pip", "install", "--quiet", "--python", str(python), *pin]
        else:
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            install = [str(python), "-m", "pip", "install", "--quiet", *pin]
        torch = next(
            line
            for line in (ROOT / "constraints.txt").read_text().splitlines()
            if line.startswith("torch==")
        )
        subprocess.run([*install, torch], check=True)
        subprocess.run([*install, *needed], check=True)
        if bare:
            subprocess.run([*install, "--no-deps", *bare], check=True)
        (folder / ".ready").touch()
    return str(python)


class Process:
    """A contender in its process.

    Args:
        script: File name in ``contenders``.
        spec: What it is to make.
        peer: Whose environment it runs in; None for ours.
        environment: Variables besides the inherited ones.
    """

    def __init__(
        self,
        script: str,
        spec: dict[str, Any],
        peer: str | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        threads = str(spec["threads"])
        self._process = subprocess.Popen(
            [interpreter(peer), str(CONTENDERS / script), json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": threads,
                "NUMBA_NUM_THREADS": threads,
                "MKL_NUM_THREADS": threads,
                **(environment or {}),
            },
        )
        self._read()

    def _read(self) -> dict[str, Any]:
        for line in self._process.stdout or ():
            if line.startswith("{"):  # packages greet when they are imported
                return json.loads(line)
        raise SystemExit(f"a contender died: {self._process.args}")

    def turn(self, steps: int) -> dict[str, Any]:
        """Let it do some steps; return what it says of them, and what others took meanwhile."""
        if self._process.stdin is None:
            raise SystemExit("a contender has no input")
        watch = Watch(self._process.pid)
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        said = self._read()
        return {**said, "others": watch.others(), "wall": watch.wall()}

    def close(self) -> None:
        """End it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


class Watch:
    """Tells how much of the machine other processes take while one process works."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._start, self._busy, self._own = time.perf_counter(), _busy(), _own(pid)

    def wall(self) -> float:
        """Return the seconds since the start."""
        return time.perf_counter() - self._start

    def others(self) -> float:
        """Return the cores that others took since the start, on average."""
        return max(0.0, _busy() - self._busy - (_own(self._pid) - self._own)) / self.wall()


def _busy() -> float:
    """Return the CPU seconds that all processes of the machine have used."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


BUSY = 0.15
"""A round during which other processes took more cores than this, on average, is repeated."""


def quiet_rounds(
    play: Callable[[], tuple[T, float]], args: argparse.Namespace
) -> tuple[list[T], dict[str, Any]]:
    """Play rounds until enough of them had the machine to themselves, or time is up.

    Args:
        play: Plays a round; returns it, and how many cores other processes took meanwhile.
        args: Says how many rounds and minutes.

    Returns:
        The rounds that count, in order, and what to report of it: if too few were quiet, the
        quietest that there were.
    """
    start = time.perf_counter()
    played: list[tuple[T, float]] = []
    while sum(others <= BUSY for _, others in played) < args.rounds:
        elapsed = time.perf_counter() - start
        if len(played) >= args.rounds and elapsed > 60 * args.minutes:
            break
        played.append(play())
        if args.quick and len(played) == args.rounds:
            break
    ranked = sorted(range(len(played)), key=lambda place: played[place][1])
    kept = sorted(ranked[: args.rounds])
    return [played[place][0] for place in kept], {
        "rounds": len(kept),
        "rounds_played": len(played),
        "others_cpu": spread([played[place][1] for place in kept]),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Return the median and the quartiles."""
    if len(values) < 2:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def ratios(over: list[float], under: list[float]) -> dict[str, float]:
    """Return the spread of the ratios round by round."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of packages in our environment."""
    from importlib.metadata import version

    return {name: version(name) for name in packages}


def machine(device: str = "cpu") -> dict[str, Any]:
    """Describe the machine."""
    name = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    found = {"cpu": name, "cores": os.cpu_count(), "python": platform.python_version()}
    if device == "cuda":
        import torch

        found["gpu"] = torch.cuda.get_device_name()
    return found


def save(name: str, args: argparse.Namespace, result: dict[str, Any]) -> Path:
    """Write a result; a quick one does not go to the documentation."""
    folder = CACHE / "quick" if args.quick else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    switches = {key: value for key, value in vars(args).items() if key != "quick"}
    made = {
        "benchmark": name,
        "script": f"benchmarks/{Path(sys.argv[0]).name}",
        "made": time.strftime("%Y-%m-%d", time.gmtime()),
        "switches": switches,
        "machine": machine(args.device),
        "versions": versions("torch", "numba", "numpy", "transformers"),
    }
    path.write_text(json.dumps({**made, **result}, indent=1) + "\n", encoding="utf-8")
    return path


def table(rows: list[list[str]]) -> str:
    """Lay out rows, the first being the head, as a Markdown table."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def command(arguments: str) -> dict[str, Any]:
    """Run an `anaglyph` command that prints JSON rows; return it, its rows and its time."""
    start, before = time.perf_counter(), _processor_seconds()
    whole = [sys.executable, "-m", "anaglyph", *shlex.split(arguments), "--json"]
    done = subprocess.run(whole, check=True, stdout=subprocess.PIPE, text=True)
    return {
        "command": f"anaglyph {arguments}",
        "seconds": time.perf_counter() - start,
        "processor_seconds": _processor_seconds() - before,
        "rows": json.loads(done.stdout),
    }


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def fill(page: Path, **blocks: str) -> None:
    """Put text between the marks ``<!-- NAME -->`` and ``<!-- end of NAME -->`` of a page."""
    text = page.read_text(encoding="utf-8")
    for name, block in blocks.items():
        before, rest = text.split(f"<!-- {name} -->")
        after = rest.split(f"<!-- end of {name} -->")[1]
        text = f"{before}<!-- {name} -->\n{block}\n<!-- end of {name} -->{after}"
    page.write_text(text, encoding="utf-8")


def shown(found: dict[str, float], digits: int = 2) -> str:
    """Show a spread as ``median (low to high)``."""
    return "{median:.{n}f} ({low:.{n}f} to {high:.{n}f})".format(n=digits, **found)
