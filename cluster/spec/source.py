"""The origin of a spec: the position of each key in its text, for error messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path as Folder
from typing import Any

from cluster.common.errors import Problem
from cluster.spec.values import clip
from cluster.spec.yaml12 import Mark, Path, SpecIssue

OVERRIDE = "--set"
_KEY = r"[^\W\d]\w*"
_STEP = re.compile(rf"\.?({_KEY})|\[([0-9]{{1,6}})\]")
_DOTTED = re.compile(rf"{_KEY}(?:\[[0-9]{{1,6}}\]|\.{_KEY})*")


def split(dotted: str) -> Path | None:
    """``nodes[0].slots`` as ("nodes", 0, "slots"); None if the text is not a path."""
    if not _DOTTED.fullmatch(dotted):
        return None
    return tuple(key or int(index) for key, index in _STEP.findall(dotted))


def join(path: Path) -> str:
    """The inverse of :func:`split`; a key that is not a plain word is quoted."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{_shown(step)}" for step in path)
    return "".join(steps).removeprefix(".")


def _shown(key: str) -> str:
    return key if re.fullmatch(r"[\w-]{1,60}", key) else clip(key)


@dataclass(frozen=True)
class SpecSource:
    """The file, folder and overrides of a spec, and the positions of its values.

    Two sources are equal if they have the same file, folder and overrides.

    Attributes:
        file: the spec's path as the user gave it.
        base: the folder that the spec's paths are relative to.
        overrides: the ``key=value`` of each ``--set``.
        data: what was read, with the overrides; only to look up which paths exist.
        values, keys: the positions of each value and of its key, by path.
        overridden: the paths set by ``--set``.
    """

    file: str
    base: Folder
    overrides: tuple[str, ...] = ()
    data: object = field(default=None, compare=False, repr=False)
    values: Mapping[Path, Mark] = field(default_factory=dict, compare=False, repr=False)
    keys: Mapping[Path, Mark] = field(default_factory=dict, compare=False, repr=False)
    overridden: frozenset[Path] = field(default=frozenset(), compare=False, repr=False)

    def problem(
        self,
        path: Path,
        message: str,
        fix: str | None = None,
        *,
        at_key: bool = False,
        column: int | None = None,
    ) -> Problem:
        """A problem at the position of `path`, or of the nearest path above it that has one.

        Args:
            path: as in the models, where ``nodes`` is always {hosts: [...]}.
            message: what is wrong.
            fix: how to fix it, or None.
            at_key: point at the key and not at its value.
            column: 0-based offset inside a text.
        """
        shown = self.written(path)
        for given in self.overridden:
            if self._was_set(path, with_hosts(given)):
                shown = shown if given == with_hosts(given) else _without_hosts(shown)
                return Problem(OVERRIDE, 0, 0, join(shown), message, fix)
        line, place = self._place(shown, path, at_key, column)
        return Problem(self.file, line, place, join(shown), message, fix)

    def finding(self, found: SpecIssue) -> Problem:
        """A finding of the YAML reader, as a problem."""
        line, column = found.mark[:2]
        path = join(found.path)
        return Problem(self.file, line, column, path, found.message, found.fix)

    def with_overridden(self, paths: Iterable[Path]) -> SpecSource:
        """The same source, with the paths set by ``--set``."""
        return replace(self, overridden=frozenset(paths))

    def _was_set(self, path: Path, given: Path) -> bool:
        """Whether an override set the value at `path`, or created it to set one below it."""
        made = bool(path) and given[: len(path)] == path and path not in self.keys
        return made or path[: len(given)] == given

    def written(self, path: Path) -> Path:
        """The path as the user wrote it: ``nodes`` may be a list, or a single text."""
        if path[:2] == ("nodes", "hosts") and not self._is_there(path[:2]):
            path = (path[0], *path[2:])
        while path and isinstance(path[-1], int) and not self._is_there(path):
            path = path[:-1]
        return path

    def _is_there(self, path: Path) -> bool:
        data: Any = self.data
        for step in path:
            if not _has(data, step):
                return False
            data = data[step]
        return True

    def _place(self, shown: Path, path: Path, at_key: bool, column: int | None) -> tuple[int, int]:
        marks = self.keys if at_key else self.values
        # The position of the path itself, in any form of nodes; else that of the nearest above.
        for exact in (shown, path, _without_hosts(path)):
            if mark := marks.get(exact):
                inside = mark.inset is not None and column is not None
                return mark.line, mark.column + ((mark.inset or 0) + (column or 0)) * inside
        for length in range(len(shown), -1, -1):
            for candidate in (shown[:length], _without_hosts(shown[:length])):
                if mark := self.keys.get(candidate) or self.values.get(candidate):
                    return mark.line, mark.column
        return 0, 0


def _has(data: object, step: str | int) -> bool:
    if isinstance(step, str):
        return isinstance(data, Mapping) and step in data
    return isinstance(data, list | tuple) and step < len(data)


def _without_hosts(path: Path) -> Path:
    return (path[0], *path[2:]) if path[:2] == ("nodes", "hosts") else path


def with_hosts(path: Path) -> Path:
    """The path as in the models: ``nodes[0]`` becomes ``nodes.hosts[0]``."""
    listed = len(path) > 1 and path[0] == "nodes" and isinstance(path[1], int)
    return (path[0], "hosts", *path[1:]) if listed else path
