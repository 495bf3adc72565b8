"""The rules of the house that a machine can check: imports, forbidden calls, clean text."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "anaglyph"

# The way of the data: a room may import from those before it, never from a later one.
ROOMS = [
    "core",
    "pair",
    "corpus",
    "store",
    "subject",
    "dictionaries",
    "behaviour",
    "latents",
    "causal",
    "direct",
    "findings",
    "truth",
    "demo",
    "report",
    "run",
    "auditor",
    "cli",
    "__main__",
]
# These may speak to people; whatever stands below returns data.
SPEAKING = {"report", "cli"}


def room_of(file: Path) -> str:
    return file.relative_to(SOURCE).with_suffix("").parts[0]


def source_files() -> list[Path]:
    return [file for file in sorted(SOURCE.rglob("*.py")) if file != SOURCE / "__init__.py"]


def name_of(file: Path, source: Path = SOURCE) -> str:
    """Return a file's module, such as anaglyph.core.files."""
    parts = file.relative_to(source.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(source: Path = SOURCE) -> dict[str, set[str]]:
    """Return which modules each module names in its imports, wherever in the file they are.

    Imports inside functions and for type checking count. A package's own names, taken from its
    `__init__`, count as an import of the package.
    """
    modules = {name_of(file, source): file for file in sorted(source.rglob("*.py"))}
    graph: dict[str, set[str]] = {}
    for name, file in modules.items():
        found = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {each if each in modules else node.module for each in inner}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        graph[name] = (found & set(modules)) - {name}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return one circle of imports, its first module once more at the end; empty if none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for each in sorted(graph[name]):
            if found := walk(each, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


# The public names of `anaglyph` are loaded when they are first used.
GRAPH = {
    name: found - {SOURCE.name} for name, found in import_graph().items() if name != SOURCE.name
}


@pytest.mark.parametrize("file", source_files(), ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_one_way(file: Path):
    own = ROOMS.index(room_of(file))
    rooms = {name: name.split(".")[1] for name in GRAPH[name_of(file)] if "." in name}
    later = sorted(name for name, room in rooms.items() if ROOMS.index(room) > own)
    assert not later, f"{file.name} imports {', '.join(later)}, of rooms that come after its own"


def test_no_files_import_one_another_in_a_circle():
    assert " -> ".join(circle(GRAPH)) == ""


def test_a_circle_and_its_kind_are_noticed(tmp_path: Path):
    """Of type checking, inside a function, and through a package."""
    texts = {
        "__init__.py": "",
        "a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.b import B\n",
        "b.py": "def f():\n    import house.c\n",
        "c.py": "from house import a\n",
        "alone.py": "from house import c\n",
    }
    (tmp_path / "house").mkdir()
    for name, text in texts.items():
        (tmp_path / "house" / name).write_text(text)
    graph = import_graph(tmp_path / "house")
    assert graph["house.alone"] == {"house.c"}
    assert circle(graph) == ["house.a", "house.b", "house.c", "house.a"]
    (tmp_path / "house" / "c.py").write_text("")
    assert circle(import_graph(tmp_path / "house")) == []


def test_every_room_has_its_place():
    assert {room_of(file) for file in source_files()} <= set(ROOMS)


@pytest.mark.parametrize("file", source_files(), ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_forbidden_calls(file: Path):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.Assert), f"{file}:{node.lineno}: assert is no user error"
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in {"eval", "exec", "pickle.load", "pickle.loads"}, name
            given = {each.arg: ast.unparse(each.value) for each in node.keywords}
            assert name != "torch.load" or given.get("weights_only") == "True", name
            if room_of(file) not in SPEAKING:
                assert name != "print", f"{file}:{node.lineno}: methods return data"


def test_tracked_text_names_no_machine():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    # Written in pieces so that this file does not match itself.
    hosts = ["pypi" + ".org", "files.python" + "hosted", "registry." + "npmjs", "deb." + "debian"]
    pattern = re.compile(
        "|".join([re.escape(host) for host in hosts] + [r"/roo" + r"t/", "/wor" + "k/"])
    )
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in {".safetensors", ".png", ".gz", ".parquet"} or not path.is_file():
            continue
        match = pattern.search(path.read_text(encoding="utf-8", errors="replace"))
        assert match is None, f"{name} holds {match.group()!r}" if match else ""
