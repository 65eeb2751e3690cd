"""The contract between the dispatcher and an engine.

An engine moves tasks and nothing else: no retry, log, file, clock or statistics. It asks the
source for a task whenever a slot is free, calls :func:`cluster.sampling.task.perform` on the
worker, and yields exactly one outcome for each task it took.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from inspect import isabstract
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

from cluster.common.descriptors import raised
from cluster.common.engines import Entry, Option, built_in, cure, entry, imported, names
from cluster.common.errors import EngineError, UsageError, did_you_mean
from cluster.hosts.connect import agent_command
from cluster.hosts.nodes import Node
from cluster.hosts.prints import Hearing, Overheard, PrintedLines
from cluster.hosts.worker_pool import POOLS
from cluster.sampling.task import Outcome, Task, Work

if TYPE_CHECKING:
    from cluster.spec import Spec

__all__ = ["Entry", "Option"]  # for the files of engines, which find all that they need here


class Pause(Enum):
    """What a source answers where it has no task."""

    NOW = "nothing now: ask again at the next outcome or tick"
    END = "no more: end when all that was taken is answered"


class Source(Protocol):
    """Where an engine gets its tasks from; the dispatcher's side of the contract."""

    def take(self, node: str | None = None) -> Task | Pause:
        """A task for a slot of this node (None where the engine cannot choose)."""

    def work_of(self, run: str) -> Work | None:
        """What the tasks of this run are of; None for the work that ``run`` was given."""
        return None

    def revoked(self) -> Collection[int]:
        """Ids of tasks to end by force; each is then answered as lost. Empty most of the time."""
        return ()

    def avoided(self) -> Collection[str]:
        """Nodes that get no task now; for an engine that chooses by itself."""
        return ()


class NodeEvent(NamedTuple):
    """A node joined or was lost, and why; ``slots`` is how many of its slots are usable now.

    ``asked``: the person had it drained, which is no loss.
    """

    node: str
    slots: int
    reason: str
    asked: bool = False

    def __str__(self) -> str:
        """As the ledger has it: ``2 slots: ready``."""
        return f"{self.slots} slot{'' if self.slots == 1 else 's'}: {self.reason}"


# What an engine yields: a generator, so that closing it is the way to stop.
Item = Outcome | NodeEvent | PrintedLines | None
Items = Generator[Item, None, None]


@dataclass(frozen=True)
class Options:
    """What an engine may be told beside its nodes; one frozen object for all engines.

    Attributes:
        ready: seconds within which a worker must be ready.
        tick: seconds after which ``run`` yields None if nothing else happened.
        required: so many hosts must be ready before the first task; None: all.
        launch: seconds within which they must be.
        probing: seconds within which a probe of the kernel must have come back from a host.
        timeout: seconds for one block, where only the node itself can end one that hangs.
        memory: bytes that a slot may use; 0: no limit.
        kernels: a work of each further kernel of a sweep, beside that of the first work.
        probes: how the probe of each kernel came out where the run was begun; None: nobody asked.
        probed: is told of a kernel, by its number, how it came out on the first host, where nobody
            had asked before.
        own: the engine's own options, by their names: those of its ``ENTRY``, all of them.
        attaches: by these it can work on nodes that stand by themselves, those with ``attach``.
    """

    ready: float = 60.0
    tick: float = 1.0
    required: int | None = None
    launch: float = 30.0
    probing: float = 30.0
    timeout: float = 3600.0
    memory: int = 0
    kernels: Sequence[Work] = ()
    probes: Sequence[str | None] = ()
    probed: Callable[[int, str], object] | None = None
    own: Mapping[str, Any] = field(default_factory=dict)
    attaches: bool = False

    @classmethod
    def of(cls, spec: Spec, backend: str | None = None) -> Self:
        """What a spec tells its engine.

        Args:
            spec: the one of the run.
            backend: the engine's name; without it, the spec's. A sweep may be over several.
        """
        name = backend or spec.backend
        own, found = spec.engine_options(name), entry(name)
        return cls(
            required=spec.nodes.required,
            timeout=spec.retry.timeout,
            memory=spec.retry.memory or 0,
            own=own,
            attaches=found is not None and found.attaches(own),
        )


class Health(NamedTuple):
    """What an engine finds of its own on this machine, for ``cluster doctor``.

    Attributes:
        check: what was looked at, in a word.
        ok: whether the engine can work with it.
        message: what was found.
        fix: what to do where it cannot.
    """

    check: str
    ok: bool
    message: str
    fix: str | None = None


class Backend(ABC):
    """An engine. ``with`` brings it up and takes down exactly what it brought up."""

    #: Runs kernels in the dispatcher's own process, which their crash or hang therefore takes.
    in_process: ClassVar[bool] = False

    def __init__(self, nodes: Sequence[Node], options: Options) -> None:
        self.nodes = tuple(nodes)
        self.options = options
        raised()  # each slot and each host takes some files

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None

    @abstractmethod
    def run(self, work: Work, source: Source) -> Items:
        """Yield outcomes in any order, node events, and None about once a second between them.

        What a kernel prints while it draws a task is yielded before the outcome of that, as far
        as the engine hears of it.

        Ends when the source says END and every task taken is answered. Closing the generator
        cancels what has not begun and returns promptly.

        Raises:
            EngineError: the engine itself failed; what was not yielded is still owed.
        """

    @staticmethod
    def health() -> Health | None:
        """What is to be said of this machine before the engine is used; None: nothing."""
        return None

    @staticmethod
    def has_agent(_node: Node, _options: Options) -> bool:
        """Whether an agent runs on a node, which can be asked; for an engine of several hosts."""
        return True

    @staticmethod
    def reach(node: Node, options: Options) -> Sequence[str]:
        """The command that reaches the agent of a node, for an engine of several hosts."""
        return agent_command(node)

    def resize(self, nodes: Sequence[Node]) -> None:
        """Work on these nodes from now on, between two items of ``run``.

        New ones are brought up as at the start. Those that are gone, or are told of otherwise,
        get no more tasks, and end when those that they have are answered.

        Raises:
            UsageError: this engine cannot.
        """
        raise UsageError("this backend works on the hosts that it began with", fix=_RESTART)


_RESTART = "stop the run, then resume it with --set nodes=... or another backend"


# The engines of this package, each as its own file says what it is.
TABLE = built_in()


class LaunchedWorld(NamedTuple):
    """Where this process is seated, whatever specs say: in a world that somebody else launched."""

    backend: str
    nodes: tuple[Node, ...]
    engine: Callable[[Options], Backend]


_SEATS: list[LaunchedWorld] = []


def adopt_world(place: LaunchedWorld) -> None:
    """Make all engines of this process from now on those of that place."""
    _SEATS.append(place)


def launched_world() -> LaunchedWorld | None:
    """Where this process is seated, if it is anywhere."""
    return _SEATS[-1] if _SEATS else None


def create(name: str, nodes: Sequence[Node], options: Options | None = None) -> Backend:
    """The engine of that name, imported now.

    Raises:
        UsageError: no such backend.
        EngineError: it is not installed here.
    """
    if (place := launched_world()) is not None:
        return place.engine(options or Options())
    return kind(name)(nodes, options or Options())


def kind(name: str) -> type[Backend]:
    """The class of the engine of that name, imported now.

    Raises:
        UsageError: no such backend.
        EngineError: it is not installed here, or, from another distribution, it is broken.
    """
    found = need(name)
    made = imported(found)
    if reason := _misfit(found, made):
        raise EngineError(f"{found.target} {reason}", fix=cure(found))
    engine: type[Backend] = made
    return engine


def _misfit(found: Entry, made: object) -> str:
    """Why an object is not the engine that its entry says; empty where it is."""
    if not (isinstance(made, type) and issubclass(made, Backend)):
        return "is not a class that inherits from cluster.backends.base.Backend"
    if isabstract(made):
        return "has no method run"
    if made.in_process is not (found.kind == "in_process"):
        return f"has in_process = {made.in_process}, but its ENTRY says kind={found.kind!r}"
    return ""


def need(name: str) -> Entry:
    """The entry of a backend that can be used here.

    Raises:
        UsageError: no such backend.
        EngineError: it is not installed here, or its registration is broken.
    """
    found = entry(name)
    if found is None:
        fix = did_you_mean(name, names()) or f"known: {', '.join(names())}"
        raise UsageError(f"no backend is named {name!r}", fix=fix)
    if found.trouble:
        raise EngineError(found.trouble, fix=cure(found))
    if not found.usable:
        raise EngineError(f"the backend {name} is not installed here", fix=found.install)
    return found


def proven(found: Entry) -> Entry:
    """The entry; one of another distribution is imported first, to see whether that works."""
    if not found.package or not found.usable:
        return found
    try:
        kind(found.name)
    except EngineError as error:
        return found._replace(trouble=error.message)
    return found


def ready_at_home(options: Options) -> str:
    """What an engine that runs kernels in this process says of itself when it begins."""
    if not options.memory:
        return "ready"
    return "ready; retry.memory is not kept: kernels run in the dispatcher's own process"


@contextmanager
def kernels_at_home(hearing: Hearing | None = None) -> Iterator[None]:
    """What an engine owes this process when it runs kernels in it.

    The thread pools of libraries that are still to be loaded are held to one thread; and what a
    kernel prints, or does to standard output, goes to standard error: our output is data.
    """
    for name in POOLS:
        os.environ.setdefault(name, "1")
    ours, kept = sys.stdout, os.dup(1)
    ours.flush()
    os.dup2(2, 1)
    theirs = sys.stdout = os.fdopen(os.dup(2), "w", buffering=1, errors="replace")
    errors = sys.stderr
    if hearing is not None:
        sys.stdout, sys.stderr = Overheard(hearing, theirs), Overheard(hearing, errors)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = ours, errors
        with suppress(OSError):  # a kernel may have closed what is below it
            theirs.close()
        os.dup2(kept, 1)
        os.close(kept)
