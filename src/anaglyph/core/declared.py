"""What classes declare about themselves, read from their source text.

Listing the dictionary methods must answer at once, and importing their classes loads torch, which
takes seconds. So the list is read from the same declarations without running them.
"""

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def declared_classes(folder: Path, attributes: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row for each class under a folder that is decorated with ``@register("NAME")``.

    Args:
        folder: Folder of Python files; base classes outside it are not followed.
        attributes: Class attributes to read. A value must be a literal, or the attribute of another
            class in the folder.

    Returns:
        Rows by name: "name", the attributes, and "description", the docstring's first line.

    Example:
        >>> rows = declared_classes(Path("src/anaglyph/dictionaries/methods"), ["kind"])
        >>> rows[0]["name"]
        'base-sae'
    """
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.py"))]
    classes = {
        node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)
    }
    rows = []
    for node in classes.values():
        for name in filter(None, map(_registered_name, node.decorator_list)):
            values = _attributes(node, classes)
            said = (ast.get_docstring(node) or "").partition("\n")[0]
            rows.append(
                {"name": name, **{key: values[key] for key in attributes}, "description": said}
            )
    return sorted(rows, key=lambda row: row["name"])


def _registered_name(decorator: ast.expr) -> str | None:
    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "register":
        return ast.literal_eval(decorator.args[0])
    return None


def _attributes(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(node.bases):
        if isinstance(base, ast.Name) and base.id in classes:
            found |= _attributes(classes[base.id], classes)
    for line in node.body:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            value = line.value
            if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name):
                owner = classes.get(value.value.id)
                if owner is not None:
                    found[line.targets[0].id] = _attributes(owner, classes).get(value.attr)
            elif not isinstance(value, ast.Name):
                found[line.targets[0].id] = ast.literal_eval(value)
    return found
