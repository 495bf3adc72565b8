"""Methods and sparsities by name; users can add their own.

A name maps to a class. Our classes register with a decorator. Others register through an entry
point, so installing a package is enough.
"""

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from anaglyph.core.errors import InputError
from anaglyph.core.validation import check_type

T = TypeVar("T")
C = TypeVar("C")


class Registry(Generic[T]):
    """A mapping from names to classes that also reads an entry-point group."""

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[C]], type[C]]:
        """Return a decorator that registers a class and sets its ``name``.

        Raises:
            InputError: Another class has the name.
        """

        def decorate(cls: type[C]) -> type[C]:
            known = self._classes.get(name)
            if known is not None and known.__qualname__ != cls.__qualname__:
                raise InputError(f"{self.kind} {name!r} is registered twice")
            # The user of the registry guarantees that the class is a T.
            entry: Any = cls
            entry.name = name
            self._classes[name] = entry
            return cls

        return decorate

    def names(self) -> list[str]:
        """Return all known names, installed entry points included."""
        installed = {entry.name for entry in entry_points(group=self.group)}
        return sorted(installed | set(self._classes))

    def get(self, name: str) -> type[T]:
        """Return the class of that name.

        Raises:
            InputError: There is none; the message lists the known names.
        """
        check_type(self.kind, name, str)
        if name in self._classes:
            return self._classes[name]
        for entry in entry_points(group=self.group):
            if entry.name == name:
                return self.register(name)(entry.load())
        raise InputError(f"unknown {self.kind} {name!r}; known: {', '.join(self.names())}")
