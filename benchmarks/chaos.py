"""What anaglyph survives: kills, signals, two writers, flipped bits, full disks, hostile files.

    python benchmarks/chaos.py                    # at most 15 minutes; exits 1 if anything is lost
    python benchmarks/chaos.py --minutes 60       # longer, for docs/reliability.md

A tiny pair is diffed again and again in processes of its own, and something is done to each. A run
survives if the same command then ends with the artifacts of an undisturbed run, byte for byte but
for clocks, or if the fault was refused in one line. It is lost if artifacts differ, if damage
passes, or if nothing but deleting the folder helps. A foreign exception is a traceback, or any
exit code but 0, 1 (of verify), 2, 130, 143 and the kill's own.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from anaglyph.core.errors import AnaglyphError
from anaglyph.core.files import read_json, read_settings
from anaglyph.core.schemas import read_behaviour, read_state, read_verdict
from anaglyph.demo import tiny_pair
from anaglyph.dictionaries import saving
from anaglyph.store.format import map_tensors, read_manifest
from anaglyph.truth.organisms.recipe import load_recipe

FEW = {
    **{"counts": [1], "nu": [0.3], "single_latents": 2, "causal_tokens": 512, "latents": 128},
    **{"candidates": 2, "find_tokens": 1024, "trials": 1, "replant_below": 0.0, "tokens": 60000},
    **{"budget": 500, "methods": ["diff-sae"], "threads": 1, "layer": 1},
}
FINE = {0, 1, 2, 130, 143, -signal.SIGKILL}
CLOCKS = ("seconds", "tokens_per_second", "k_seconds")


@dataclass
class Tally:
    """One row of the table."""

    injected: int = 0
    survived: int = 0
    lost: int = 0
    foreign: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, survived: bool, foreign: bool = False, note: str = "") -> None:
        """Count one fault."""
        self.injected += 1
        self.survived += survived
        self.lost += not survived
        self.foreign += foreign
        if note and (foreign or not survived):
            self.notes.append(note)


class Bench:
    """A place to run in, with an undisturbed run to compare with."""

    def __init__(self, place: Path, seed: int) -> None:
        self.place, self.draw = place, random.Random(seed)
        self.settings = place / "few.json"
        self.settings.write_text(json.dumps(FEW))
        pair = tiny_pair()
        data = [word for file in pair.corpus for word in ("--data", str(file))]
        self.words = ["diff", str(pair.base), str(pair.tuned), *data]
        self.whole = place / "whole"
        start = time.monotonic()
        done = self.run(self.whole)
        if done.returncode != 0:
            sys.exit(f"the undisturbed run failed: {done.stderr}")
        self.seconds = time.monotonic() - start
        self.expected = artifacts(self.whole)

    def command(self, out: Path) -> list[str]:
        """Return the command that makes or resumes a run."""
        words = [*self.words, "--out", str(out), "--config", str(self.settings)]
        return [sys.executable, "-m", "anaglyph", *words]

    def run(self, out: Path) -> "subprocess.CompletedProcess[str]":
        """Make or resume a run."""
        return call(self.command(out))

    def copy(self, name: str) -> Path:
        """Return a copy of the undisturbed run."""
        shutil.rmtree(self.place / name, ignore_errors=True)
        return Path(shutil.copytree(self.whole, self.place / name))

    def ends_well(self, out: Path) -> bool:
        """Resume a run, and compare it with the undisturbed one."""
        done = self.run(out)
        temporary = list(out.rglob("*.tmp"))
        return done.returncode == 0 and not temporary and artifacts(out) == self.expected


def call(words: list[str], **options: object) -> "subprocess.CompletedProcess[str]":
    """Run a command in a process of its own."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        errors="replace",
        env=environment,
        timeout=900,
        check=False,
        **options,  # pyright: ignore
    )


def is_foreign(code: int, err: str) -> bool:
    """Tell whether a command ended otherwise than a person is told of."""
    return code not in FINE or "Traceback" in err


def artifacts(run: Path) -> dict[str, str]:
    """Return the digest of each artifact of a run, without clocks."""
    found = {}
    for file in sorted(run.rglob("*")):
        name = file.relative_to(run).as_posix()
        if file.is_dir() or name.startswith(("run.json", "report/")) or name == ".lock":
            continue
        content = file.read_bytes()
        if name.endswith("config.json"):
            record = json.loads(content)
            record.pop("digest")
            record["stats"] = {k: v for k, v in record["stats"].items() if k not in CLOCKS}
            content = json.dumps(record, sort_keys=True).encode()
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def interrupted(bench: Bench, number: signal.Signals, tally: Tally) -> None:
    """Send a signal to a run at a random moment, then resume it."""
    out = bench.place / "interrupted"
    shutil.rmtree(out, ignore_errors=True)
    after = bench.draw.uniform(0.3, bench.seconds)
    with subprocess.Popen(
        bench.command(out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        start = time.monotonic()
        _, err = process.communicate(timeout=300)
        took = time.monotonic() - start
    # Before the command line stands, Python itself ends: -2 or -15 is no traceback of ours.
    expected = {0, -number, 128 + number}
    late = number != signal.SIGKILL and took > 2
    foreign = process.returncode not in expected or "Traceback" in err
    well = bench.ends_well(out) and not late
    note = f"{number.name} after {after:.1f} s: exit {process.returncode}, {took:.1f} s"
    tally.add(well, foreign, note)


def two_writers(bench: Bench, tally: Tally) -> None:
    """Start a training in a run that is being made; refused or not, the run must be right."""
    out = bench.place / "two"
    shutil.rmtree(out, ignore_errors=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        bench.command(out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    ) as first:
        while not (out / "run.json").exists() and first.poll() is None:
            time.sleep(0.05)
        time.sleep(bench.draw.uniform(0, bench.seconds / 3))
        second = call([sys.executable, "-m", "anaglyph", "train", str(out), "--seed", "3"])
        first.communicate()
    told = second.returncode == 2 and "is writing to" in second.stderr
    late = second.returncode == 0 and first.returncode == 0  # one after the other
    early = second.returncode == 2 and "no paired store" in second.stderr
    well = first.returncode == 0 and (told or late or early) and bench.ends_well(out)
    tally.add(well, is_foreign(second.returncode, second.stderr), second.stderr[-200:])


def flipped(bench: Bench, tally: Tally) -> None:
    """Flip one bit of one file; verify must name it, and diff must repair it."""
    out = bench.copy("flipped")
    file = bench.draw.choice([path for path in sorted(out.rglob("*")) if path.is_file()])
    content = bytearray(file.read_bytes())
    content[bench.draw.randrange(len(content))] ^= 1 << bench.draw.randrange(8)
    file.write_bytes(content)
    name = file.relative_to(out).as_posix()
    said = call([sys.executable, "-m", "anaglyph", "verify", str(out), "--json"])
    named = said.returncode == 1 and name in said.stdout
    done = bench.run(out)
    repaired = done.returncode == 0 and artifacts(out) == bench.expected
    foreign = is_foreign(said.returncode, said.stderr) or is_foreign(done.returncode, done.stderr)
    tally.add(named and repaired, foreign, f"{name}: named {named}, repaired {repaired}")


def full_disk(bench: Bench, tally: Tally) -> None:
    """Let no file grow beyond a random size, as on a full disk; then resume without the limit."""
    out = bench.place / "full"
    shutil.rmtree(out, ignore_errors=True)
    most = int(2 ** bench.draw.uniform(5, 21))

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    done = call(bench.command(out), preexec_fn=limit)
    foreign = is_foreign(done.returncode, done.stderr)
    told = done.returncode == 0 or (done.returncode == 2 and done.stderr.count("\n") == 1)
    tally.add(told and bench.ends_well(out), foreign, f"{most} bytes: {done.stderr[-200:]}")


HOSTILE: list[tuple[str, dict[str, object]]] = [
    ("config.json", {"num_hidden_layers": 10_000_000}),
    ("config.json", {"hidden_size": 10**9}),
    ("config.json", {"vocab_size": 10**12}),
    ("config.json", {"num_attention_heads": 0}),
    ("config.json", {"model_type": "no-such-model"}),
    ("config.json", {"auto_map": {"AutoModelForCausalLM": "evil.Evil"}, "model_type": "evil"}),
    ("tokenizer.json", {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a|a|[a-z]+)+!$"},
                                          "behavior": "Isolated", "invert": False}}),
    ("tokenizer.json", {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 40}}),
    ("tokenizer_config.json", {"chat_template": "{% for i in range(10**9) %}{% endfor %}"}),
    ("tokenizer_config.json", {"chat_template": "{{ 'a' * 10**10 }}"}),
    ("tokenizer_config.json", {"chat_template": "{{ ''.__class__.__mro__ }}"}),
]  # fmt: skip


def hostile(bench: Bench, tally: Tally) -> Iterator[None]:
    """Name each hostile model as the base: refused in one line, within 5 s of loading and 1 GB."""
    base = Path(bench.words[1])
    start = time.monotonic()
    call([sys.executable, "-c", "import anaglyph.pair.model_pair, anaglyph.run"])
    imports = time.monotonic() - start
    for file, changes in HOSTILE:
        model = bench.place / "hostile"
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(base, model)
        (model / "chat_template.jinja").unlink(missing_ok=True)
        path = model / file
        value = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(value | changes))
        out = bench.place / "of-hostile"
        shutil.rmtree(out, ignore_errors=True)
        words = ["diff", str(model), str(model), *bench.words[3:], "--out", str(out)]
        start = time.monotonic()
        done = call([sys.executable, "-m", "anaglyph", *words, "--config", str(bench.settings)])
        took = time.monotonic() - start - imports
        refused = done.returncode == 2 and done.stderr.count("\n") == 1
        note = f"{file} {next(iter(changes))}: exit {done.returncode}, {took:.1f} s"
        tally.add(refused and took < 8, is_foreign(done.returncode, done.stderr), note)
        yield


READERS: dict[str, Callable[[Path], object]] = {
    "run.json": read_state,
    "findings.json": read_verdict,
    "behaviour.json": read_behaviour,
    "activations/manifest.json": lambda path: read_manifest(path.parent),
    "activations/shard-00000.safetensors": map_tensors,
    "dictionaries/diff-sae/config.json": lambda path: saving.read(path.parent),
    "dictionaries/diff-sae/weights.safetensors": lambda path: saving.read(path.parent),
    "examples/diff-sae.json": read_json,
    "settings.json": read_settings,
    "settings.toml": read_settings,
    "recipe.yaml": load_recipe,
}


def fuzz(bench: Bench, tally: Tally, seconds: float) -> None:
    """Change bytes of every kind of file and read it: a value, or an error of ours."""
    out = bench.copy("fuzzed")
    (out / "settings.json").write_text(json.dumps(FEW))
    (out / "settings.toml").write_text('latents = 64\nmethods = ["diff-sae"]\n[find]\nrate = 0.1\n')
    recipe = Path(saving.__file__).parents[1] / "truth" / "organisms" / "new.yaml"
    (out / "recipe.yaml").write_bytes(recipe.read_bytes())
    whole = {name: (out / name).read_bytes()[: 2**18] for name in READERS}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, reader in READERS.items():
            path = out / name
            path.write_bytes(mutated(whole[name], bench.draw))
            try:
                reader(path)
            except AnaglyphError as error:
                tally.add("\n" not in str(error), note=f"{name}: {error!r}")
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                tally.add(False, True, f"{name}: {type(error).__name__}: {error}"[:200])
            else:
                tally.add(True)
            path.write_bytes(whole[name])


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Change a few bytes: flips, cuts, repeats, and words that parsers stumble over."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(data) + 1)
        kind = draw.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del data[at : at + draw.choice((1, 9, 99, len(data)))]
        elif kind == 2:
            data[at:at] = data[at : at + draw.randrange(99)] * draw.choice((1, 9))
        elif kind == 3:
            words = (b"NaN", b"1e999", b"-1", b"null", b"[" * 5000, b"\xff", b'"\\ud800"', b"{}")
            data[at:at] = draw.choice(words)
        elif kind == 4 and (found := [i for i, byte in enumerate(data[:4096]) if 48 <= byte < 58]):
            data[draw.choice(found)] = draw.choice(b"0123456789-.eE")
        else:
            data[at : at + 8] = draw.randbytes(8)
    return bytes(data)


def main() -> None:
    """Inject faults for so many minutes, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=12.0, help="time for all of it")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place), given.seed)
        print(
            f"undisturbed run: {bench.seconds:.0f} s, {len(bench.expected)} artifacts", flush=True
        )
        tallies["fuzzed files"] = Tally()
        fuzz(bench, tallies["fuzzed files"], 60 * given.minutes / 6)
        tallies["hostile models"] = Tally()
        for _ in hostile(bench, tallies["hostile models"]):
            if time.monotonic() > end:
                break
        rounds: dict[str, Callable[[Tally], None]] = {
            "SIGKILL": lambda tally: interrupted(bench, signal.SIGKILL, tally),
            "SIGINT": lambda tally: interrupted(bench, signal.SIGINT, tally),
            "SIGTERM": lambda tally: interrupted(bench, signal.SIGTERM, tally),
            "flipped bits": lambda tally: flipped(bench, tally),
            "two writers": lambda tally: two_writers(bench, tally),
            "full disk": lambda tally: full_disk(bench, tally),
        }
        tallies |= {name: Tally() for name in rounds}
        while time.monotonic() < end:
            for name, inject in rounds.items():
                if time.monotonic() < end:
                    inject(tallies[name])
    print("\n| fault | injected | survived | lost | foreign exceptions |\n|---|---|---|---|---|")
    for name, tally in tallies.items():
        print(f"| {name} | {tally.injected} | {tally.survived} | {tally.lost} | {tally.foreign} |")
    for name, tally in tallies.items():
        for note in tally.notes[:10]:
            print(f"{name}: {note}")
    sys.exit(any(tally.lost or tally.foreign for tally in tallies.values()))


if __name__ == "__main__":
    main()
