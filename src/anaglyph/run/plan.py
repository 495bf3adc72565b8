"""What a run will cost before it starts: time, peak memory and disk of every stage.

The formulas are those of docs/scale.md. They need the shape of the models, which `config.json`
holds (no weights are read), and the rates of the machine: measured here by a short probe, or those
of a GPU in `GPUS` for a machine that is described.
"""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from anaglyph.core.devices import resolve_device
from anaglyph.core.errors import InputError
from anaglyph.core.settings import Settings
from anaglyph.corpus import Reading, read_documents
from anaglyph.corpus.files import checked_kind
from anaglyph.corpus.reading import files_of
from anaglyph.dictionaries.config import default_tokens
from anaglyph.dictionaries.methods import get_method
from anaglyph.pair.numbers import check_numbers
from anaglyph.pair.quiet import loading
from anaglyph.pair.sources import locate
from anaglyph.pair.weight_files import ADAPTER_CONFIG
from anaglyph.run.layers import MOST_LAYERS, READ
from anaglyph.run.layers import TOKENS as SWEEP_TOKENS
from anaglyph.run.run import name_of

GB = 1e9
GPUS: dict[str, tuple[float, float, float, float]] = {
    "h200": (141, 989e12, 67e12, 4.8e12),
    "h100": (80, 989e12, 67e12, 3.35e12),
    "a100": (80, 312e12, 19.5e12, 2.0e12),
    "a100-40": (40, 312e12, 19.5e12, 1.55e12),
    "l40s": (48, 362e12, 91.6e12, 0.86e12),
    "a6000": (48, 155e12, 38.7e12, 0.77e12),
    "4090": (24, 165e12, 82.6e12, 1.01e12),
}
"""Memory in GB, dense bfloat16 and float32 FLOP/s, bytes/s: the makers' figures."""
USED = 0.4
"""Part of a GPU's peak that large products reach; an assumption, as no GPU has run this yet."""
USED_BANDWIDTH = 0.6
DISK_RATE = 1e9
"""Bytes read from disk a second, assumed."""
HOST_BYTES = 6e8
"""Memory of the process itself: torch, transformers and the compiled kernels."""
PASSES = 28
"""Bytes that Adam moves for each weight: four float32 read, three written."""
LONG = 600.0
"""Seconds from which `diff` prints the plan first."""


NOMINAL = ("a slow machine", 2e10, 2e10, 5e9)
"""What `diff` assumes before it measures: a run that is short here needs no plan."""
TOKEN_BYTES = 4.0
"""Bytes of text that make a token, roughly."""


@dataclass(frozen=True)
class Shape:
    """What of a model decides the cost of running it."""

    layers: int
    width: int
    vocabulary: int
    parameters: int
    block: float
    """Parameters of one decoder block."""

    def flops(self, layers: int, context: int | float, *, head: bool = False) -> int | float:
        """Return the operations of one token's forward pass through some layers."""
        attention = 2 * context * self.width
        return layers * (2 * self.block + attention) + head * 2 * self.width * self.vocabulary


@dataclass(frozen=True)
class Machine:
    """Rates and room of a machine.

    Attributes:
        name: For people.
        model_flops: Operations a second of the models' forward passes, all devices together.
        train_flops: The same of the dictionaries' float32 products.
        bandwidth: Bytes a second of one device's memory.
        devices: How many devices share the work.
        device_bytes: Memory of one device.
        host_bytes: Memory of the machine.
        disk_bytes: Free space; None if unknown.
        is_gpu: Whether models and dictionaries are in the memory of GPUs.
    """

    name: str
    model_flops: int | float
    train_flops: int | float
    bandwidth: int | float
    devices: int = 1
    device_bytes: int | float = 0
    host_bytes: int | float = 0
    disk_bytes: int | float | None = None
    is_gpu: bool = False


@dataclass(frozen=True)
class Cost:
    """One stage of the plan."""

    stage: str
    seconds: int | float
    memory: int | float
    """Peak bytes, of one device where the stage runs on GPUs."""
    disk: int | float
    """Bytes that stay on disk."""


@dataclass(frozen=True)
class Plan:
    """The cost of a run, stage by stage."""

    machine: Machine
    tokens: int
    stages: tuple[Cost, ...]
    notes: tuple[str, ...]

    @property
    def seconds(self) -> int | float:
        """Time of all stages."""
        return sum(cost.seconds for cost in self.stages)

    @property
    def memory(self) -> int | float:
        """Peak bytes of the hungriest stage."""
        return max(cost.memory for cost in self.stages)

    @property
    def disk(self) -> int | float:
        """Bytes on disk at the end."""
        return sum(cost.disk for cost in self.stages)

    def problem(self) -> str | None:
        """Return why the run cannot work, in one line; None if it fits."""
        machine = self.machine
        if machine.disk_bytes is not None and self.disk > machine.disk_bytes:
            return (
                f"the run needs {size(self.disk)} of disk and {size(machine.disk_bytes)} are free: "
                "use --store stream, --dtype bfloat16 or fewer --max-tokens"
            )
        room = machine.device_bytes if machine.is_gpu else machine.host_bytes
        worst = max(self.stages, key=lambda cost: cost.memory)
        if room and worst.memory > room:
            return (
                f"stage {worst.stage} needs {size(worst.memory)} of memory and there are "
                f"{size(room)}: use --model-dtype bfloat16, fewer --latents or a smaller --batch"
            )
        return None

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        return {
            "machine": asdict(self.machine),
            "tokens": self.tokens,
            "seconds": self.seconds,
            "memory_bytes": self.memory,
            "disk_bytes": self.disk,
            "stages": [asdict(cost) for cost in self.stages],
            "notes": list(self.notes),
            "problem": self.problem(),
        }


def shape_of(name: str | Path) -> Shape:
    """Return a model's shape from its configuration; a folder with only config.json is enough.

    Raises:
        ModelError: There is no configuration under that name, or its architecture is unknown.
    """
    path = Path(name).expanduser()
    folder = path.parent if path.name == "config.json" else path
    where, _, revision = str(folder).partition("@")
    if path.is_file() and path.suffix == ".gguf":
        where = str(locate(name).folder)
    with loading(f"cannot read the shape of {name}"), torch.device("meta"):
        revision = revision or "main"
        numbers, _ = PretrainedConfig.get_config_dict(where, revision=revision)
        check_numbers(numbers, f"the configuration of {name}")
        config = AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        return _shape_of(model, config.get_text_config())


def _shape_of(model: Any, text: Any) -> Shape:
    """Return the shape of a model on the meta device."""
    total = sum(parameter.numel() for parameter in model.parameters())
    outside = sum(
        parameter.numel()
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
        for parameter in module.parameters()
    )
    if getattr(text, "tie_word_embeddings", False):
        outside //= 2
    layers = int(text.num_hidden_layers)
    return Shape(
        layers, int(text.hidden_size), int(text.vocab_size), total, (total - outside) / layers
    )


def shapes_of(base: str, tuned: str) -> tuple[tuple[Shape, Shape], bool]:
    """Return both shapes, and whether the tuned model is an adapter over the base.

    Raises:
        ModelError: As in `shape_of`.
    """
    first, folder = shape_of(base), Path(tuned).expanduser()
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file():
        return (first, first), True
    return (first, first if tuned == base else shape_of(tuned)), False


def tokens_of(data: Sequence[str], max_tokens: int | None) -> int:
    """Return roughly how many tokens files of text have; 100,000 for what is on a hub.

    Raises:
        InputError: There are no such files, or one is not of a kind that can be read.
    """
    # What both models say to the shipped questions.
    found = 0 if data else 30_000
    for name in data:
        if name.startswith("builtin:"):
            for each in read_documents(name):
                turns = [each.text or "", *(turn.content for turn in each.messages or ())]
                found += round(sum(map(len, turns)) / TOKEN_BYTES)
            continue
        files = files_of(name, Reading())
        total = sum(file.stat().st_size for file in files if checked_kind(file))
        found += round(total / TOKEN_BYTES) if files else 100_000
    found = max(1, found)
    return found if max_tokens is None else min(found, max_tokens)


def before_running(
    base: str, tuned: str, data: Sequence[str], out: Path, settings: Settings
) -> Plan | None:
    """Return the plan of a run that takes over ten minutes here; None of a shorter one.

    Raises:
        InputError: The run does not fit on the disk or in memory.
        ModelError: As in `shape_of`.
    """
    shapes, one_copy = shapes_of(base, tuned)
    tokens = tokens_of(data, settings.collect.max_tokens)
    room = shutil.disk_usage(_existing(out)).free
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    slow = Machine(*NOMINAL, host_bytes=memory, disk_bytes=room)
    if resolve_device(settings.device).type == "cpu":
        rough = plan(shapes, tokens, settings, slow, one_copy=one_copy)
        if rough.seconds < LONG and rough.problem() is None:
            return None
    found = plan(shapes, tokens, settings, this_machine(out, settings), one_copy=one_copy)
    problem = found.problem()
    if problem is not None:
        raise InputError(problem)
    return found if found.seconds > LONG else None


def _existing(folder: Path) -> Path:
    return next(each for each in (folder, *folder.absolute().parents) if each.is_dir())


def described(gpu: str, gpus: int, settings: Settings) -> Machine:
    """Return a machine of some GPUs.

    Raises:
        InputError: The GPU is not in `GPUS`, or there are none of it.
    """
    if gpu not in GPUS:
        raise InputError(f"gpu {gpu!r} is unknown: use one of {', '.join(GPUS)}")
    if gpus < 1:
        raise InputError(f"gpus is {gpus}: it must be at least 1")
    memory, half, single, bandwidth = GPUS[gpu]
    return Machine(
        f"{gpus} x {gpu}",
        gpus * USED * (half if settings.model_dtype == "bfloat16" else single),
        gpus * USED * single,
        USED_BANDWIDTH * bandwidth,
        gpus,
        memory * GB,
        is_gpu=True,
    )


def this_machine(out: Path, settings: Settings) -> Machine:
    """Measure this machine for about a second: one product, one pass through memory."""
    device = resolve_device(settings.device)
    kind = getattr(torch, settings.model_dtype)
    flops = {
        each: 2 * 512 * 512 * 1024 / _seconds(_product(device, each))
        for each in {kind, torch.float32}
    }
    values = torch.ones(4_000_000, device=device)
    bandwidth = 3 * values.nbytes / _seconds(lambda: values.add(1))
    is_gpu = device.type == "cuda"
    return Machine(
        "this machine",
        flops[kind],
        flops[torch.float32],
        bandwidth,
        device_bytes=torch.cuda.get_device_properties(device).total_memory if is_gpu else 0,
        host_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        disk_bytes=shutil.disk_usage(_existing(out)).free,
        is_gpu=is_gpu,
    )


def _product(device: torch.device, kind: torch.dtype) -> Callable[[], Any]:
    one = torch.ones(512, 512, dtype=kind, device=device)
    other = torch.ones(512, 1024, dtype=kind, device=device)
    return lambda: one @ other


def _seconds(work: Callable[[], Any]) -> float:
    """Return the least time of several tries: the others waited for somebody else."""
    work()
    best = float("inf")
    for _ in range(7):
        start = time.perf_counter()
        result = work()
        if result.device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def plan(
    shapes: tuple[Shape, Shape],
    tokens: int,
    settings: Settings,
    machine: Machine,
    *,
    one_copy: bool = False,
) -> Plan:
    """Return the cost of every stage of `diff`.

    Args:
        shapes: Of base and tuned.
        tokens: Tokens of the text.
        settings: Of the run.
        machine: Where it runs.
        one_copy: Whether the tuned model is an adapter over the base.
    """
    collecting, training = settings.collect, settings.train
    base, tuned = shapes
    layers = _layers(settings, base.layers)
    reached, furthest = layers[0] + 1, max(layers) + 1
    item = 2 if settings.model_dtype == "bfloat16" else 4
    kept = 2 if collecting.dtype == "bfloat16" else 4
    widths = (base.width, tuned.width)
    row = sum(widths) * kept
    every = len(layers) * row
    streamed = collecting.store == "stream"
    stored = min(tokens, collecting.sample_tokens) if streamed else tokens
    models = item * (base.parameters + (0 if one_copy else tuned.parameters))
    notes = [f"{base.parameters / 1e9:.3g}B parameters each, {item} bytes a parameter"]
    host = 0.0 if machine.is_gpu else HOST_BYTES
    on_each = models / machine.devices if models > 0.8 * machine.device_bytes else models
    if machine.is_gpu and on_each < models:
        notes.append("the models are larger than a GPU: their layers are divided over all")
    if machine.devices > 1:
        notes.append(
            "assumes that work divides evenly over GPUs; torchrun shares collect and train only"
        )
    logits = 3 * 1024 * base.vocabulary * 8
    context = collecting.context

    def running(count: int | float, layers: int, *, head: bool = False) -> int | float:
        """Return the seconds in which both models read that many tokens."""
        work = sum(shape.flops(layers, context / 2, head=head) for shape in shapes)
        return count * work / machine.model_flops

    costs = [Cost("load", 2 * models / DISK_RATE, host + on_each, 0)]
    window = min(tokens, collecting.window) * row if streamed else 2 * min(65_536, tokens) * every
    if "auto" in collecting.layers:
        notes.append(f"assumes that --layers auto chooses layers {', '.join(map(str, layers))}")
        visited = min(base.layers, MOST_LAYERS)
        patched = SWEEP_EDITS * visited * min(SWEEP_TOKENS, HELD_OUT * stored) / 2
        work = running(patched, base.layers // 2 + 1, head=True)
        work += running(min(READ, stored), base.layers, head=True)
        costs.append(Cost("layers", FIXED + work, host + on_each + logits, 1e4))
    costs.append(
        Cost("collect", running(stored, furthest), host + on_each + window, stored * (every + 5))
    )
    if settings.behave.behaviour:
        # A token at a time: the weights are read once for every step of a batch.
        steps = BEHAVE_READINGS * settings.behave.budget / BEHAVE_BATCH
        reading = steps * item * base.parameters / machine.bandwidth
        work = BEHAVE_READINGS * settings.behave.budget
        costs.append(
            Cost(
                "behave",
                reading + running(work, base.layers, head=True),
                host + on_each + logits,
                2e5,
            )
        )
    usable = round(0.9 * tokens)
    wanted = training.tokens or (usable if streamed else default_tokens(usable))
    if streamed:
        costs.append(
            Cost("stream", running(min(wanted, usable), reached), host + on_each + window, 0)
        )
    trained, memory = [], 0
    for method in training.methods:
        spec = get_method(method, training.options)
        sources = spec.widths(*widths)
        k = training.k if isinstance(training.k, int | float) else spec.default_k
        seconds, room = _training(
            machine, sum(sources), training.latents, k, wanted, training.batch
        )
        if training.k == "auto":
            seconds *= 2
        memory = memory + room if streamed else room
        if machine.is_gpu:
            seconds /= machine.devices
        trained.append((name_of(method, training.sparsity), sources, k, seconds, memory))
    for name, sources, _, seconds, room in trained:
        total = memory + window + on_each if streamed else room + 256 * 2**20
        costs.append(
            Cost(f"train/{name}", seconds, host + total, 8 * training.latents * sum(sources))
        )
    for name, sources, k, _, _ in trained:
        width = sum(sources)
        work = SCORE_PASSES * stored * 2 * width * training.latents / machine.train_flops
        work += stored * k * width * 4 * SCORE_READS / machine.bandwidth
        room = 8 * training.latents * width + 64 * 2**20 * 2
        costs.append(Cost(f"score/{name}", FIXED + work, host + room, 200 * training.latents))
    sampled = min(stored, FIND_TOKENS)
    rest = base.layers - reached
    search = sampled * tuned.width * FIND_OPERATIONS / machine.train_flops
    # At each layer the pair and a null pair, at the first the detection limit.
    searched = search * (2 * len(layers) + settings.find.trials / 72)
    held = min(settings.find.find_tokens, HELD_OUT * stored)
    patched = held * (settings.find.candidates + 2 + GRADIENTS)  # in both pairs, one model each
    read = min(stored, FIND_TOKENS) / 2
    for layer in layers:
        searched += running(patched, base.layers - layer - 1, head=True) + running(read, layer + 1)
    costs.append(
        Cost(
            "find",
            FIXED + searched + running(held * 4, base.layers, head=True),
            host + on_each + 6 * sampled * tuned.width * 4,
            1e6,
        )
    )
    causal = settings.causal
    edits = 8 + 3 * (len(causal.nu) + len(causal.counts)) + len(causal.counts)
    for name, *_ in trained:
        judged_tokens = min(causal.causal_tokens, HELD_OUT * stored)
        passes = running(judged_tokens * edits / 2, rest, head=True)
        judged = judged_tokens * edits * base.vocabulary * CAUSAL_BYTES / machine.bandwidth
        costs.append(Cost(f"causal/{name}", FIXED + passes + judged, host + on_each + logits, 1e5))
    costs.append(Cost("report", 1.0, host, 1e6))
    return Plan(machine, tokens, tuple(costs), tuple(notes))


def _layers(settings: Settings, depth: int) -> list[int]:
    """Return the layers that a run reads, those that it would choose at the quarters of depth."""
    asked = settings.collect.layers or (settings.collect.layer,)
    named = [each for each in asked if each != "auto"] or [0.5, 0.75, 0.25]
    found = [each if isinstance(each, int) else int(each * depth) for each in named]
    return list(dict.fromkeys(min(each, depth - 1) for each in found))


FIXED = 1.0
"""Seconds that a stage takes whatever its size: compiled kernels are loaded, tables are written."""
BEHAVE_READINGS = 1.5
"""Tokens that are generated or scored for each token of the budget."""
BEHAVE_BATCH = 16
SCORE_PASSES = 2.0
SCORE_READS = 12.0
FIND_TOKENS = 65_536
FIND_OPERATIONS = 160_000.0
"""For each token and each entry of its activation, of one search."""
GRADIENTS = 12.0
"""Forward passes that the path's gradients cost, a model and token."""
SWEEP_EDITS = 4.0
"""Edits of each layer in the pass that chooses layers."""
HELD_OUT = 0.13
CAUSAL_BYTES = 40.0


def _training(
    machine: Machine, width: int, latents: int, k: int | float, tokens: int, batch: int
) -> tuple[int | float, int | float]:
    """Return seconds and bytes of one training."""
    steps = -(-tokens // batch)
    weights = 2 * latents * width
    product = 2 * batch * latents * width / machine.train_flops
    selecting = 3 * 4 * batch * latents / machine.bandwidth
    sparse = 5 * batch * k * width * 4 / machine.bandwidth
    adam = PASSES * weights / machine.bandwidth
    memory = 4 * 4 * weights + 4 * batch * (latents + 4 * width) + 6 * batch * latents
    return steps * (product + selecting + sparse + adam), memory


def size(number: int | float) -> str:
    """Return bytes as people read them."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number / 1e3:.3g} kB"


def duration(seconds: int | float) -> str:
    """Return a time as people read it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def rows(found: Plan) -> list[dict[str, Any]]:
    """Return the plan as a table for a terminal."""
    return [
        {
            "stage": cost.stage,
            "time": duration(cost.seconds),
            "peak memory": size(cost.memory),
            "disk": size(cost.disk),
        }
        for cost in (*found.stages, Cost("all", found.seconds, found.memory, found.disk))
    ]
