"""The contract between the dispatcher and an engine.

An engine only moves tasks: it has no retries, logs, files, clocks or statistics. It takes a task
from the source whenever a slot is free, calls :func:`cluster.sampling.task.perform` on the worker,
and yields exactly one outcome for each task that it took.
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
from cluster.hosts.prints import CapturedStream, PrintCapture, PrintedLines
from cluster.hosts.worker_pool import POOLS
from cluster.sampling.task import Outcome, Task, Work

if TYPE_CHECKING:
    from cluster.spec import Spec

__all__ = ["Entry", "Option"]  # re-exported, so that an engine's file imports from here only


class Pause(Enum):
    """What ``Source.take`` returns instead of a task."""

    NOW = "nothing now: ask again at the next outcome or tick"
    END = "no more: end when every task that was taken has an outcome"


class Source(Protocol):
    """Where an engine gets its tasks from; the dispatcher's side of the contract."""

    def take(self, node: str | None = None) -> Task | Pause:
        """A task for a slot of this node; None if the engine cannot choose the node."""

    def work_of(self, run: str) -> Work | None:
        """The work of this run's tasks; None: the work that ``Backend.run`` was given."""
        return None

    def revoked(self) -> Collection[int]:
        """Ids of tasks to end by force; each then gets an outcome without a tally."""
        return ()

    def avoided(self) -> Collection[str]:
        """Nodes that get no task now, for an engine that itself chooses the node."""
        return ()


class NodeEvent(NamedTuple):
    """A node joined, was lost, or changed its number of slots.

    Attributes:
        node: its name.
        slots: how many of its slots are usable now; 0: it is lost.
        reason: why, in words.
        asked: a user had it drained, so it does not count as lost.
    """

    node: str
    slots: int
    reason: str
    asked: bool = False

    def __str__(self) -> str:
        """As in the ledger: ``2 slots: ready``."""
        return f"{self.slots} slot{'' if self.slots == 1 else 's'}: {self.reason}"


# What an engine yields. It is a generator, because closing it is how the dispatcher stops it.
Item = Outcome | NodeEvent | PrintedLines | None
Items = Generator[Item, None, None]


@dataclass(frozen=True)
class Options:
    """An engine's settings beside its nodes, the same for all engines.

    Attributes:
        ready: seconds within which a worker must be ready.
        tick: seconds after which ``run`` yields None if nothing else happened.
        required: how many hosts must be ready before the first task; None: all.
        launch: seconds within which they must be.
        probing: seconds within which a probe of the kernel must have come back from a host.
        memory: bytes that a slot may use; 0: no limit.
        kernels: a work of each further kernel of a sweep, beside that of the first work.
        probes: the result of each kernel's probe at the run's first start; None: not probed yet.
        probed: called with the number of a kernel and its probe's result on the first host, if it
            was not probed yet.
        own: the engine's own options by name: all those of its ``ENTRY``.
        attaches: with these options, the engine can use nodes with ``attach``.
    """

    ready: float = 60.0
    tick: float = 1.0
    required: int | None = None
    launch: float = 30.0
    probing: float = 30.0
    memory: int = 0
    kernels: Sequence[Work] = ()
    probes: Sequence[str | None] = ()
    probed: Callable[[int, str], object] | None = None
    own: Mapping[str, Any] = field(default_factory=dict)
    attaches: bool = False

    @classmethod
    def of(cls, spec: Spec, backend: str | None = None) -> Self:
        """The settings that a spec has for its engine.

        Args:
            spec: the run's.
            backend: the engine's name, which may differ between points of a sweep; None: the
                spec's.
        """
        name = backend or spec.backend
        own, found = spec.engine_options(name), entry(name)
        return cls(
            required=spec.nodes.required,
            memory=spec.retry.memory or 0,
            own=own,
            attaches=found is not None and found.attaches(own),
        )


class Health(NamedTuple):
    """The result of an engine's own check of this machine, for ``cluster doctor``.

    Attributes:
        check: the name of what was checked.
        ok: whether the engine can work.
        message: what was found.
        fix: what to do if the engine cannot work.
    """

    check: str
    ok: bool
    message: str
    fix: str | None = None


class Backend(ABC):
    """An engine. As a context manager, it ends exactly the processes that it has started.

    Args:
        nodes: the hosts to work on.
        options: its settings.
    """

    #: Kernels run in the dispatcher's own process, so one that crashes or hangs takes it along.
    in_process: ClassVar[bool] = False

    def __init__(self, nodes: Sequence[Node], options: Options) -> None:
        self.nodes = tuple(nodes)
        self.options = options
        raised()  # raises the limit of open files: each slot and each host needs some

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None

    @abstractmethod
    def run(self, work: Work, source: Source) -> Items:
        """Take tasks from a source, and yield their outcomes in any order.

        Node events are yielded as well, and None at least once in ``options.tick`` seconds. What a
        kernel prints while it draws a task is yielded before the outcome of the task, if the
        engine captures it.

        The generator ends when the source has returned ``Pause.END`` and every task taken has its
        outcome. Closing it cancels tasks that have not begun, and returns promptly.

        Args:
            work: the work of tasks that name no run of their own.
            source: provides the tasks.

        Raises:
            EngineError: the engine itself failed. Tasks without an outcome are drawn again.
        """

    @staticmethod
    def health() -> Health | None:
        """Check this machine before the engine is used; None: there is nothing to check."""
        return None

    @staticmethod
    def foreign(_node: Node, _options: Options) -> str:
        """What an attached node is that is not our own software, for people; empty if none."""
        return ""

    @staticmethod
    def reach(node: Node, options: Options) -> Sequence[str]:
        """The command that connects to the agent of a node, for an engine of several hosts."""
        return agent_command(node)

    def resize(self, nodes: Sequence[Node]) -> None:
        """Change the nodes; called between two items of ``run``.

        New nodes are started as at the beginning. Nodes that are no longer listed, or are listed
        with other settings, get no more tasks, and are ended once their tasks have outcomes.

        Raises:
            UsageError: this engine cannot change its nodes.
        """
        raise UsageError("this backend works on the hosts that it began with", fix=_RESTART)


_RESTART = "stop the run, then resume it with --set nodes=... or another backend"


# The engines of this package, by the entry in each engine's file.
TABLE = built_in()


class LaunchedWorld(NamedTuple):
    """An MPI world that the user's mpirun or srun has launched, with this process in it.

    Its engine replaces the spec's.

    Attributes:
        backend: the name of the engine.
        nodes: the hosts of the world.
        engine: makes the engine.
    """

    backend: str
    nodes: tuple[Node, ...]
    engine: Callable[[Options], Backend]


_WORLDS: list[LaunchedWorld] = []


def adopt_world(world: LaunchedWorld) -> None:
    """Use the engine of this world for everything that this process computes from now on."""
    _WORLDS.append(world)


def launched_world() -> LaunchedWorld | None:
    """The world that this process belongs to, or None."""
    return _WORLDS[-1] if _WORLDS else None


def create(name: str, nodes: Sequence[Node], options: Options | None = None) -> Backend:
    """Import an engine by its name, and make it.

    Args:
        name: the backend.
        nodes: the hosts to work on.
        options: its settings; None: the defaults.

    Raises:
        UsageError: there is no such backend.
        EngineError: it is not installed here, or its registration is broken.
    """
    if (world := launched_world()) is not None:
        return world.engine(options or Options())
    return kind(name)(nodes, options or Options())


def kind(name: str) -> type[Backend]:
    """Import the class of an engine by its name.

    Raises:
        UsageError: there is no such backend.
        EngineError: it is not installed here, or its registration is broken.
    """
    found = need(name)
    made = imported(found)
    if reason := _misfit(found, made):
        raise EngineError(f"{found.target} {reason}", fix=cure(found))
    engine: type[Backend] = made
    return engine


def node_that_stands() -> Callable[..., Any]:
    """The class of attached nodes, of the engine that has such nodes.

    Raises:
        EngineError: the engine is not installed here.
    """
    found = need(next(each.name for each in built_in() if each.node))
    made: Callable[..., Any] = imported(found._replace(target=found.node))
    return made


def _misfit(found: Entry, made: object) -> str:
    """Why an object is not an engine as its entry describes; empty if it is."""
    if not (isinstance(made, type) and issubclass(made, Backend)):
        return "is not a class that inherits from cluster.backends.base.Backend"
    if isabstract(made):
        return "has no method run"
    if made.in_process is not (found.kind == "in_process"):
        return f"has in_process = {made.in_process}, but its ENTRY says kind={found.kind!r}"
    return ""


def need(name: str) -> Entry:
    """The entry of a backend, which must be usable here.

    Raises:
        UsageError: there is no such backend.
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
    """The entry; if it is another distribution's, with any error of its import filled in."""
    if not found.package or not found.usable:
        return found
    try:
        kind(found.name)
    except EngineError as error:
        return found._replace(trouble=error.message)
    return found


def in_process_reason(options: Options) -> str:
    """The reason in the first node event of an engine that runs kernels in this process."""
    if not options.memory:
        return "ready"
    return "ready; retry.memory is not kept: kernels run in the dispatcher's own process"


@contextmanager
def kernels_at_home(capture: PrintCapture | None = None) -> Iterator[None]:
    """Prepare this process for kernels that run in it, and restore its standard output afterwards.

    Libraries that are loaded from now on use one thread. What kernels print goes to standard error,
    because this process's standard output is data.

    Args:
        capture: captures what kernels print through Python's streams; None: nothing is captured.
    """
    for name in POOLS:
        os.environ.setdefault(name, "1")
    ours, kept = sys.stdout, os.dup(1)
    ours.flush()
    os.dup2(2, 1)
    theirs = sys.stdout = os.fdopen(os.dup(2), "w", buffering=1, errors="replace")
    errors = sys.stderr
    if capture is not None:
        sys.stdout, sys.stderr = CapturedStream(capture, theirs), CapturedStream(capture, errors)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = ours, errors
        with suppress(OSError):  # a kernel may have closed its descriptor
            theirs.close()
        os.dup2(kept, 1)
        os.close(kept)
