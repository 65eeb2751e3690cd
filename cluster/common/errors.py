"""The exceptions of this package: each carries its exit code and, if there is one, a fix.

The exit codes of the command line (those from 64 to 78 as in ``sysexits.h`` where they overlap):

====  =====================================================================
code  meaning
====  =====================================================================
0     done
1     failed: a block used up its attempts, or a check found a difference
2     bad spec or usage
3     partial: stopped by a limit, or every node was lost
69    no usable node, or the backend is not installed
74    input/output error of the store
75    locked: another process holds the run
78    the MPI launcher and the MPI library do not match
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

# Limits of what is printed: characters of one message, and problems of one spec.
_MAX_TEXT, _MAX_PROBLEMS = 600, 50


class ClusterError(Exception):
    """Base of every error that this package raises on purpose.

    Args:
        message: what went wrong, in one sentence.
        where: its location: ``file:line:column``, a run, a node.
        fix: what the user can do about it; a command if there is one.
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
    """An invalid command, argument or call."""

    code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding in a spec.

    Attributes:
        file: the spec's path as the user gave it, or ``--set`` for an override.
        line, column: 1-based; 0 if the finding has no position in the text.
        path: the dotted key, as in ``nodes[0].slots``; empty for the whole file.
        message: what was expected and what was found.
        fix: how to fix it, or None.
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
    """All problems of a spec at once, sorted by position."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        by_place = attrgetter("file", "line", "column", "path", "message")
        self.problems: Sequence[Problem] = tuple(sorted(set(problems), key=by_place))
        lines = [*map(str, self.problems[:_MAX_PROBLEMS])]
        if len(self.problems) > _MAX_PROBLEMS:
            lines.append(f"and {len(self.problems) - _MAX_PROBLEMS:,} more problems")
        super().__init__("\n".join(lines))

    def to_json(self) -> dict[str, object]:
        """The ``{"errors": [...]}`` document of the command line's ``--json``."""
        return {"errors": [problem.to_json() for problem in self.problems]}


class KernelError(UsageError):
    """A kernel that cannot be found, read or imported, or that has the wrong signature."""


class EngineError(ClusterError):
    """An engine that failed to start or died; errors of its library are translated to this."""

    code = 69


class NotOneWorld(EngineError):
    """The launcher's ranks do not form one MPI world: each would compute the whole run alone."""

    code = 78


class NodesMissing(EngineError):
    """Fewer hosts than the spec requires came up; nothing was started."""


class NoAnswer(ClusterError):
    """The process that computes a run does not respond."""

    code = 69


class StoreError(ClusterError):
    """The store could not be read or written."""

    code = 74


class Locked(ClusterError):
    """Another process holds the lock of the run."""

    code = 75


class Interrupted(ClusterError):
    """A signal ended the command before there was a run to drain.

    Args:
        number: the signal's; the exit code is 128 + number.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.code = 128 + number


class StopNow(BaseException):
    """Raised in the main thread by a signal handler; no ``except Exception`` catches it.

    Args:
        number: the signal's.
    """


def retold(code: int, document: Mapping[str, Any]) -> ClusterError:
    """Rebuild the error of a child command from its exit code and its ``--json`` document."""
    if "errors" in document:
        return SpecError(Problem(**problem) for problem in document["errors"])
    fields = document["error"]
    error = ClusterError(fields["message"], where=fields["where"], fix=fields["fix"])
    error.code = code
    return error


def shortened(text: str) -> str:
    """A message cut in its middle to about 600 characters: it may quote a value of any length."""
    if len(text) <= _MAX_TEXT:
        return text
    half = _MAX_TEXT // 2
    return f"{text[:half]} ... {text[-half:]}"


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """``did you mean 'slots'?`` for the closest known word, or None."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else None
