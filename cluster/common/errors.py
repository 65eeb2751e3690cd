"""One tree of errors: each carries its exit code and, where there is one, its cure.

The exit codes are those of the command line (and, where they overlap, of ``sysexits.h``):

====  =====================================================================
code  meaning
====  =====================================================================
0     done
1     failed: a block is out of attempts, or a check found a difference
2     bad spec or usage
3     partial: stopped by a limit, or by the loss of every node
69    no usable node, or the backend is not installed
74    input/output error of the store
75    locked: another process holds the run
78    the launcher is of one MPI, the library of another
130   stopped by SIGINT (143: by SIGTERM)
====  =====================================================================
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from operator import attrgetter
from typing import Any

# What people are shown of a spec's problems: characters of one, and how many.
_MOST_TEXT, _MOST_TOLD = 600, 50


class ClusterError(Exception):
    """Base of every error that this package raises on purpose.

    Args:
        message: what went wrong, in one sentence.
        where: the place it was seen at: ``file:line:column``, a run, a node.
        fix: what the person can do about it; a command where there is one.
    """

    code = 1

    def __init__(self, message: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        cure = f" ({self.fix})" if self.fix else ""
        return f"{place}{self.message}{cure}"

    def to_json(self) -> dict[str, object]:
        """The ``{"error": {...}}`` document of the command line's ``--json``."""
        error = {"code": self.code, "message": self.message, "where": self.where, "fix": self.fix}
        return {"error": error}


class UsageError(ClusterError):
    """A command, an argument or a call that cannot be meant."""

    code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding in a spec.

    Attributes:
        file: the spec as the person named it, or ``--set`` for an override.
        line, column: 1-based; 0 where the finding has no place in the text.
        path: the key, dotted, as in ``nodes[0].slots``; empty for the whole file.
        message: what was expected and what came.
        fix: how to mend it, or None.
    """

    file: str
    line: int
    column: int
    path: str
    message: str
    fix: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", shortened(self.message))
        object.__setattr__(self, "fix", self.fix and shortened(self.fix))

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        key = f"{self.path}: " if self.path else ""
        cure = f"; {self.fix}" if self.fix else ""
        return f"{place}: {key}{self.message}{cure}"

    def to_json(self) -> dict[str, object]:
        """The object of the ``errors`` list of ``--json``."""
        return {name: getattr(self, name) for name in self.__slots__}


class SpecError(UsageError):
    """Everything that is wrong with a spec, at once and in order of place."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        by_place = attrgetter("file", "line", "column", "path", "message")
        self.problems: Sequence[Problem] = tuple(sorted(set(problems), key=by_place))
        lines = [*map(str, self.problems[:_MOST_TOLD])]
        if len(self.problems) > _MOST_TOLD:
            lines.append(f"and {len(self.problems) - _MOST_TOLD:,} more of the kind")
        super().__init__("\n".join(lines))

    def to_json(self) -> dict[str, object]:
        """The ``{"errors": [...]}`` document of the command line's ``--json``."""
        return {"errors": [problem.to_json() for problem in self.problems]}


class KernelError(UsageError):
    """A kernel that cannot be found, read, imported or called as one."""


class EngineError(ClusterError):
    """An engine that could not be started or went away; foreign errors are translated to it."""

    code = 69


class NotOneWorld(EngineError):
    """The ranks of a launcher do not see each other: each would compute everything alone."""

    code = 78


class NodesMissing(EngineError):
    """Fewer hosts than the spec requires came up: nothing was begun."""


class NoAnswer(ClusterError):
    """The process that computes a run does not answer."""

    code = 69


class StoreError(ClusterError):
    """The store could not be read or written."""

    code = 74


class Locked(ClusterError):
    """Another process holds the run."""

    code = 75


class Interrupted(ClusterError):
    """A command that a signal ended, before a run was there that could drain."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.code = 128 + number


class StopNow(BaseException):
    """Raised in the main thread by a signal; passes through every ``except Exception``.

    Args:
        number: the signal's.
    """


def retold(code: int, document: Mapping[str, Any]) -> ClusterError:
    """The error that another process of ours ended with, from its ``--json`` document."""
    if "errors" in document:
        return SpecError(Problem(**problem) for problem in document["errors"])
    told = document["error"]
    error = ClusterError(told["message"], where=told["where"], fix=told["fix"])
    error.code = code
    return error


def shortened(text: str) -> str:
    """A text for people: what was quoted may be as long as a file, and its ends say enough."""
    if len(text) <= _MOST_TEXT:
        return text
    half = _MOST_TEXT // 2
    return f"{text[:half]} ... {text[-half:]}"


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """``did you mean 'slots'?`` for the closest known word, or None."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else None
