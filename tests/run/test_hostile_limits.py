"""Files of strangers at the command line: refused in one line, within 5 s of processor and 1 GB."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anaglyph.demo import tiny_pair

# Forked from one process in which everything is imported, so that only the command is measured.
SCRIPT = """
import json, os, resource, sys, tempfile
import anaglyph.run.stages
from anaglyph import cli
from anaglyph.direct import amplify, tokens, weights
for name, words in json.load(sys.stdin):
    with tempfile.TemporaryFile() as out:
        child = os.fork()
        if child == 0:
            mapped = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            most = mapped + 2**30 + 2**28  # threads map stacks that they do not use
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
            for stream in (1, 2):
                os.dup2(out.fileno(), stream)
            sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))
            sys.argv = ["anaglyph", *words]
            code = 99
            try:
                cli.main()
            except SystemExit as end:
                code = end.code or 0
            finally:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(code)
        _, status, used = os.wait4(child, 0)
        out.seek(0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps([name, os.waitstatus_to_exitcode(status), out.read().decode(),
                          used.ru_utime + used.ru_stime, (used.ru_maxrss - before) / 1024]))
"""

CONFIGS: list[dict[str, Any]] = [
    {"num_hidden_layers": 10_000_000},
    {"hidden_size": 10**9},
    {"vocab_size": 10**12},
    {"max_position_embeddings": 10**11},
    {"num_attention_heads": 0},
    {"model_type": "no-such-model"},
    {"auto_map": {"AutoModelForCausalLM": "evil.Evil"}, "model_type": "evil"},
]
TEMPLATES = {
    "ranges": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}" * 9,
    "power": "{{ 9**9**9 }}",
    "string": "{{ 'a' * 10**10 }}",
    "join": "{{ (['a' * 1000] * 10000000)|join }}",
    "width": "{{ '%1000000000d' % 1 }}",
    "centre": "{{ 'a'|center(10000000000) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "nesting": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}"
    "{% endfor %}{{ n.x }}",
    "escape": "{{ ''.__class__.__mro__ }}",
}
ADAPTERS: list[dict[str, Any]] = [
    {"r": 10**9},
    {"lora_alpha": None},
    {"target_modules": "(a+)+b"},
    {"alpha_pattern": {"(a|a)*$": 1}},
    {"layer_replication": [[0, 10**9]]},
]
INDEXES: dict[str, Any] = {
    "escape": {"weight_map": {"a": "../../../etc/passwd"}},
    "list": [1],
    "number": {"weight_map": 5},
    "many": {"weight_map": {f"t{n}": "x" for n in range(300_000)}},
}


def header(value: Any, length: int | None = None) -> bytes:
    text = json.dumps(value).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + b"\0" * 64


WEIGHTS = {
    "shape": header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
    "length": header({}, 2**62),
    "names": header(
        {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)}
    ),
    "nothing": b"",
}


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, list[str]]]:
    """Every hostile file with a command that meets it."""
    place, pair = tmp_path_factory.mktemp("hostile"), tiny_pair()
    data = ["--data", str(pair.corpus[0]), "--out", str(place / "out")]
    found: list[tuple[str, list[str]]] = []

    def copy(name: str, source: Path = pair.base) -> Path:
        return Path(shutil.copytree(source, place / name))

    def edit(folder: Path, file: str, changes: dict[str, Any]) -> None:
        path = folder / file
        value = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(value | changes))

    def meet(name: str, *words: str | Path) -> None:
        found.append((name, [str(word) for word in words]))

    for number, changes in enumerate(CONFIGS):
        edit(copy(f"c{number}"), "config.json", changes)
        meet(f"config {changes}", "diff", place / f"c{number}", pair.tuned, *data)
    for name, template in TEMPLATES.items():
        folder = copy(f"t-{name}")
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        edit(folder, "tokenizer_config.json", {"chat_template": template})
        meet(f"template {name}", "diff", folder, pair.tuned, *data, "--chat-template", "base")
    for number, changes in enumerate(ADAPTERS):
        edit(copy(f"a{number}", pair.tuned), "adapter_config.json", changes)
        meet(f"adapter {changes}", "diff", pair.base, place / f"a{number}", *data)
        meet(f"weights of adapter {changes}", "weights", pair.base, place / f"a{number}")
    for name, index in INDEXES.items():
        folder = copy(f"i-{name}")
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        meet(f"index {name}", "weights", folder, pair.tuned)
    for name, content in WEIGHTS.items():
        folder = copy(f"w-{name}")
        (folder / "model.safetensors").write_bytes(content)
        meet(f"safetensors {name}", "diff", folder, pair.tuned, *data)
        meet(f"weights of safetensors {name}", "weights", folder, pair.tuned)
    for name, make in {"pipe": os.mkfifo, "device": lambda p: p.symlink_to("/dev/zero")}.items():
        file = place / f"{name}.json"
        make(file)
        meet(f"{name} as data", "collect", pair.base, pair.tuned, "--data", file, *data[2:])
        meet(f"{name} as model", "diff", file, pair.tuned, *data)
        meet(f"{name} as settings", "diff", pair.base, pair.tuned, *data, "--config", file)
        meet(f"{name} as prompts", "amplify", pair.base, pair.tuned, "--prompts", file)
        meet(f"{name} as completions", "tokens", pair.base, pair.tuned, "--completions", file)
        meet(f"{name} as template", "diff", pair.base, pair.tuned, *data, "--chat-template", file)
        for config in ("config.json", "tokenizer.json"):
            folder = copy(f"{name}-{config}")
            (folder / config).unlink()
            make(folder / config)
            meet(f"{name} as {config}", "diff", folder, pair.tuned, *data)
    return found


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc and forks")
def test_every_one_is_refused_soon_in_one_line(commands: list[tuple[str, list[str]]]):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=1400,
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(commands)
    wrong = [
        each
        for each in results
        if each[1] != 2
        or sum(line.startswith("error: ") for line in each[2].splitlines()) != 1
        or "Traceback" in each[2]
        or each[3] > 5
        or each[4] > 1000
    ]
    assert wrong == []
