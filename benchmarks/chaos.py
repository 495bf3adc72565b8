"""What anaglyph survives: kills, signals, two writers, damage, full disks, hostile files, fuzz.

    python benchmarks/chaos.py                    # at most 15 minutes; exits 1 if anything is lost
    python benchmarks/chaos.py --minutes 60       # longer, for docs/reliability.md

A tiny pair is diffed again and again, each time in a process that is forked from this one, in which
everything is imported. Something is done to each. A run survives if the same command then ends with
the artifacts of an undisturbed run, byte for byte but for clocks, or if the fault was refused in
one line. It is lost if artifacts differ, if damage passes, or if nothing but deleting the folder
helps. A foreign exception is a traceback, or any exit code but 0, 1 (of verify), 2, 130, 143 and
the kill's own.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

# Read where the libraries are imported, below.
os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

import anaglyph.run.stages  # noqa: F401 - for the processes that are forked
from anaglyph import cli
from anaglyph.core.errors import AnaglyphError
from anaglyph.core.files import read_json, read_settings
from anaglyph.core.schemas import read_behaviour, read_state, read_verdict
from anaglyph.demo import tiny_pair
from anaglyph.dictionaries import saving
from anaglyph.report.records import ExamplesRecord, read
from anaglyph.store.format import map_tensors, read_manifest
from anaglyph.truth.game.playing import read_play
from anaglyph.truth.organisms.card import read_card
from anaglyph.truth.organisms.recipe import load_recipe

FEW = {
    **{"counts": [1], "nu": [0.3], "single_latents": 2, "causal_tokens": 512, "latents": 128},
    **{"candidates": 2, "find_tokens": 1024, "trials": 1, "replant_below": 0.0, "tokens": 60000},
    **{"budget": 2800, "methods": ["diff-sae"], "threads": 1, "layer": 1},
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

    def add(self, survived: bool, foreign: bool = False, note: str = "", faults: int = 1) -> None:
        """Count faults that were survived, or of which one was not."""
        self.injected += faults
        self.lost += not survived
        self.survived += faults - (not survived)
        self.foreign += foreign
        if note and (foreign or not survived):
            self.notes.append(note)


@dataclass
class Done:
    """How a process ended.

    Attributes:
        code: Its exit code; minus the signal that killed it.
        out: What it printed.
        err: What it printed on its error stream.
        seconds: Time from its start, or from the signal that it was sent.
        processor: Processor seconds, with those of its children.
        mib: Memory that it had at most, beyond what it was forked with.
    """

    code: int
    out: str
    err: str
    seconds: float
    processor: float
    mib: float

    @property
    def foreign(self) -> bool:
        """Whether it ended otherwise than a person is told of."""
        return self.code not in FINE or "Traceback" in self.err

    @property
    def refused(self) -> bool:
        """Whether it refused in one line, after what took long was told."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return self.code == 2 and len(lines) == 1


class Child:
    """A command in a process of its own, forked from this one."""

    def __init__(self, words: Sequence[str | Path], file_bytes: int | None = None) -> None:
        self._files = [tempfile.TemporaryFile("w+", errors="replace") for _ in range(2)]  # noqa: SIM115
        self.start = time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become([file.fileno() for file in self._files], [str(w) for w in words], file_bytes)

    def ends(self, seconds: float) -> bool:
        """Wait so long; tell whether it has ended."""
        until = time.monotonic() + seconds
        while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > until:
                return False
            time.sleep(0.005)
        return True

    def signal(self, number: signal.Signals) -> Done:
        """Send it a signal and wait for its end."""
        self.start = time.monotonic()
        os.kill(self.pid, number)
        return self.wait()

    def wait(self, seconds: float = 300) -> Done:
        """Wait for its end; a process that hangs is killed, and so foreign."""
        ended = self.ends(seconds)
        if not ended:
            os.kill(self.pid, signal.SIGKILL)
        _, status, used = os.wait4(self.pid, 0)
        took = time.monotonic() - self.start
        out, err = (_text(file) for file in self._files)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        mib = max(0, used.ru_maxrss - before) / 1024
        code = os.waitstatus_to_exitcode(status) if ended else 99
        return Done(code, out, err, took, used.ru_utime + used.ru_stime, mib)


def _text(file: IO[str]) -> str:
    file.seek(0)
    text = file.read()
    file.close()
    return text


def _become(streams: list[int], words: list[str], file_bytes: int | None) -> None:
    """Be the command, in a process that was just forked; does not return."""
    code = 98
    try:
        for number, stream in enumerate(streams, 1):
            os.dup2(stream, number)
        sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))  # noqa: SIM115
        if file_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
        sys.argv = ["anaglyph", *words]
        cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def call(*words: str | Path) -> Done:
    """Run a command to its end."""
    return Child(words).wait()


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
        done = call(*self.command(self.whole))
        if done.code != 0:
            sys.exit(f"the undisturbed run failed: {done.err}")
        self.seconds = done.seconds
        self.expected = artifacts(self.whole)

    def command(self, out: Path) -> list[str]:
        """Return the words of the command that makes or resumes a run."""
        return [*self.words, "--out", str(out), "--config", str(self.settings)]

    def fresh(self, name: str) -> Path:
        """Return a path where nothing is."""
        shutil.rmtree(self.place / name, ignore_errors=True)
        return self.place / name

    def copy(self, name: str) -> Path:
        """Return a copy of the undisturbed run."""
        return Path(shutil.copytree(self.whole, self.fresh(name)))

    def ends_well(self, out: Path) -> bool:
        """Resume a run, and compare it with the undisturbed one."""
        done = call(*self.command(out))
        return done.code == 0 and self.is_whole(out)

    def is_whole(self, out: Path) -> bool:
        """Tell whether a run is as the undisturbed one."""
        left = [path for path in out.rglob("*") if path.name.endswith((".tmp", ".lock"))]
        return not left and artifacts(out) == self.expected


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
    """Send a run a signal again and again, each time later in its way, until it ends."""
    out, sent, wrong = bench.fresh("interrupted"), 0, []
    foreign = False
    while True:
        child = Child(bench.command(out))
        # Ever later: a stage that keeps nothing half done must come to its end some time.
        reach = bench.seconds * (0.2 + 0.1 * sent)
        if child.ends(bench.draw.uniform(0.05, reach)):
            done = child.wait()
            break
        done, sent = child.signal(number), sent + 1
        told = done.err.count("resume.\n") == 1 and done.code == 128 + number
        if number == signal.SIGKILL:
            told = done.code == -number
        if done.code == 0:  # it was at its end
            break
        foreign |= done.foreign
        if not told or done.seconds > 2:
            wrong.append(f"{number.name}: exit {done.code}, {done.seconds:.1f} s")
    well = not wrong and done.code == 0 and bench.is_whole(out)
    tally.add(well, foreign or done.foreign, "; ".join(wrong) or done.err[-200:], max(1, sent))


SECOND = [
    *(["train", "--seed", "3"], ["train", "--method", "base-sae"], ["score"], ["find"], ["causal"]),
    *(["behave", "--seed", "4"], ["report"], ["collect"], ["diff"], ["pca"], ["weights"]),
    *(["attribute"], ["tokens"], ["verify"]),
]


def two_writers(bench: Bench, tally: Tally) -> None:
    """Start every other command in a run that is being made; the run must be right."""
    out = bench.fresh("two")
    first = Child(bench.command(out))
    while not (out / "run.json").exists() and not first.ends(0.05):
        pass
    for words in bench.draw.sample(SECOND, len(SECOND)):
        time.sleep(bench.draw.uniform(0, bench.seconds / 20))
        over = first.ends(0)
        second = call(words[0], out, *words[1:])
        told = second.refused and "is writing to" in second.err
        # What it reads may not be there yet; after the first has ended, it may do its work.
        early = second.refused and ("run first" in second.err or "run that stage" in second.err)
        early |= "run `train`" in second.err or "no paired store" in second.err
        tally.add(told or early or over or first.ends(0), second.foreign, second.err[-200:])
        if over:
            break
    done = first.wait()
    tally.add(done.code == 0 and bench.ends_well(out), done.foreign, done.err[-200:])


def damaged(bench: Bench, tally: Tally) -> None:
    """Flip bits and delete files: verify must name each, and diff must repair one."""
    out = bench.copy("damaged")
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    for file in bench.draw.sample(files, len(files)):
        content, name = bytearray(file.read_bytes()), file.relative_to(out).as_posix()
        whole = bytes(content)
        content[bench.draw.randrange(len(content))] ^= 1 << bench.draw.randrange(8)
        file.write_bytes(content)
        said = call("verify", out, "--json")
        named = said.code == 1 and name in said.out
        tally.add(named, said.foreign, f"{name}: not named")
        file.write_bytes(whole)
    file = bench.draw.choice(files)
    content = bytearray(file.read_bytes())
    content[bench.draw.randrange(len(content))] ^= 1 << bench.draw.randrange(8)
    file.write_bytes(content)
    vanished = bench.draw.choice([path for path in files if path.name != "run.json"])
    vanished.unlink()
    names = f"{file.relative_to(out)} flipped, {vanished.relative_to(out)} gone"
    done = call(*bench.command(out))
    if done.refused and "put it back" in done.err:  # run.json and the manifest, both
        shutil.rmtree(out / "activations")
        done = call(*bench.command(out))
    shutil.rmtree(out / "run.json.damaged", ignore_errors=True)
    (out / "run.json.damaged").unlink(missing_ok=True)
    well = done.code == 0 and bench.is_whole(out)
    tally.add(well, done.foreign, f"{names}: not repaired: {done.err[-200:]}", 2)


def full_disk(bench: Bench, tally: Tally) -> None:
    """Let no file grow beyond a random size, as on a full disk; then resume without the limit."""
    out = bench.fresh("full")
    most = int(2 ** bench.draw.uniform(12, 23))
    done = Child(bench.command(out), file_bytes=most).wait()
    told = done.code == 0 or (done.refused and "cannot write" in done.err)
    tally.add(told and bench.ends_well(out), done.foreign, f"{most} bytes: {done.err[-200:]}")


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
    ("tokenizer_config.json", {"chat_template": "{{ 9**9**9 }}"}),
    ("tokenizer_config.json", {"chat_template": "{{ ''.__class__.__mro__ }}"}),
]  # fmt: skip


def hostile(bench: Bench, tally: Tally) -> None:
    """Name each hostile model as the base: refused in one line, within 5 s and 1 GB."""
    base = Path(bench.words[1])
    for file, changes in HOSTILE:
        model = Path(shutil.copytree(base, bench.fresh("hostile")))
        (model / "chat_template.jinja").unlink(missing_ok=True)
        path = model / file
        value = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(value | changes))
        words = ["diff", model, model, *bench.words[3:], "--out", bench.fresh("of-hostile")]
        done = call(*words, "--config", bench.settings)
        soon = done.processor < 5 and done.mib < 1000
        note = f"{file} {next(iter(changes))}: exit {done.code}, {done.processor:.1f} s of "
        note += f"processor, {done.mib:.0f} MiB: {done.err[-200:]}"
        tally.add(done.refused and soon, done.foreign, note)


READERS: dict[str, Callable[[Path], object]] = {
    "run.json": read_state,
    "findings.json": read_verdict,
    "behaviour.json": read_behaviour,
    "activations/manifest.json": lambda path: read_manifest(path.parent),
    "activations/shard-00000.safetensors": map_tensors,
    "dictionaries/diff-sae/config.json": lambda path: saving.read(path.parent),
    "dictionaries/diff-sae/weights.safetensors": lambda path: saving.read(path.parent),
    "examples/diff-sae.json": lambda path: read(path, ExamplesRecord),
    "reading.json": read_json,
    "settings.json": read_settings,
    "settings.toml": read_settings,
    "recipe.yaml": load_recipe,
    "card.json": lambda path: read_card(path.parent),
    "play.json": read_play,
}


def fuzz(bench: Bench, tally: Tally, seconds: float) -> None:
    """Change bytes of every kind of file and read it: a value, or an error of ours."""
    report = bench.place / "fuzz.json"
    child = os.fork()  # reading may start threads, which no fork survives
    if child == 0:
        found = Tally()
        try:
            _fuzz(bench, found, seconds)
        finally:
            report.write_text(json.dumps(asdict(found)))
            os._exit(0)
    os.waitpid(child, 0)
    for name, value in json.loads(report.read_text()).items():
        setattr(tally, name, value)


def _fuzz(bench: Bench, tally: Tally, seconds: float) -> None:
    out = bench.copy("fuzzed")
    (out / "settings.json").write_text(json.dumps(FEW))
    (out / "settings.toml").write_text('latents = 64\nmethods = ["diff-sae"]\n[find]\nrate = 0.1\n')
    recipe = Path(saving.__file__).parents[1] / "truth" / "organisms" / "new.yaml"
    (out / "recipe.yaml").write_bytes(recipe.read_bytes())
    (out / "card.json").write_bytes(tiny_pair().card.read_bytes())
    (out / "play.json").write_text(json.dumps({"key": "k", "row": {}, "facts": {}, "claims": []}))
    whole = {name: (out / name).read_bytes()[: 2**16] for name in READERS}
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
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place), given.seed)
        print(f"undisturbed: {bench.seconds:.0f} s, {len(bench.expected)} artifacts", flush=True)
        kinds: dict[str, Callable[[Tally], None]] = {
            "fuzzed files": lambda tally: fuzz(bench, tally, 60 * given.minutes / 8),
            "hostile models": lambda tally: hostile(bench, tally),
            "SIGKILL": lambda tally: interrupted(bench, signal.SIGKILL, tally),
            "SIGINT": lambda tally: interrupted(bench, signal.SIGINT, tally),
            "SIGTERM": lambda tally: interrupted(bench, signal.SIGTERM, tally),
            "flipped bits, deleted files": lambda tally: damaged(bench, tally),
            "two writers": lambda tally: two_writers(bench, tally),
            "full disk": lambda tally: full_disk(bench, tally),
        }
        tallies = {name: Tally() for name in kinds}
        once = {"fuzzed files", "hostile models"}
        # Rounds differ in length: next is the kind that has had the least time.
        spent = dict.fromkeys(kinds, 0.0)
        while time.monotonic() < end:
            name = min(spent, key=lambda kind: spent[kind])
            start = time.monotonic()
            kinds[name](tallies[name])
            spent[name] = float("inf") if name in once else spent[name] + time.monotonic() - start
            print(f"{name}: {json.dumps(asdict(tallies[name]))[:300]}", file=sys.stderr, flush=True)
    print("\n| fault | injected | survived | lost | foreign exceptions |\n|---|---|---|---|---|")
    for name, tally in tallies.items():
        print(f"| {name} | {tally.injected} | {tally.survived} | {tally.lost} | {tally.foreign} |")
    for name, tally in tallies.items():
        for note in tally.notes[:10]:
            print(f"{name}: {note}")
    sys.exit(any(tally.lost or tally.foreign for tally in tallies.values()))


if __name__ == "__main__":
    main()
