"""The contract between the dispatcher and an engine.

An engine moves tasks and nothing else: no retry, log, file, clock or statistics. It asks the
source for a task whenever a slot is free, calls :func:`cluster.sampling.task.perform` on the
worker, and yields exactly one outcome for each task it took.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from cluster.common.descriptors import raised
from cluster.common.errors import EngineError, UsageError, did_you_mean
from cluster.common.secret import Secret
from cluster.hosts.connect import agent_command
from cluster.hosts.nodes import Node
from cluster.hosts.prints import Hearing, Overheard, Printed
from cluster.hosts.worker_pool import POOLS
from cluster.sampling.task import Outcome, Task, Work

if TYPE_CHECKING:
    from cluster.spec import Spec


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
Item = Outcome | NodeEvent | Printed | None
Items = Generator[Item, None, None]


@dataclass(frozen=True)
class Options:
    """What an engine may be told beside its nodes; one frozen object for all engines.

    Attributes:
        ready: seconds within which a worker must be ready.
        tick: seconds after which ``run`` yields None if nothing else happened.
        required: so many hosts must be ready before the first task; None: all.
        launch: seconds within which they must be.
        secret: where the secret of nodes with ``attach`` is; None: they have none.
        trusted: those are stock dispynodes, on a network that is trusted.
        timeout: seconds for one block, where only the node itself can end one that hangs.
        memory: bytes that a slot may use; 0: no limit.
        kernels: a work of each further kernel of a sweep, beside that of the first work.
        probes: how the probe of each kernel came out where the run was begun; None: nobody asked.
        probed: is told of a kernel, by its number, how it came out on the first host, where nobody
            had asked before.
    """

    ready: float = 60.0
    tick: float = 1.0
    required: int | None = None
    launch: float = 30.0
    secret: Secret | None = None
    trusted: bool = False
    timeout: float = 3600.0
    memory: int = 0
    kernels: Sequence[Work] = ()
    probes: Sequence[str | None] = ()
    probed: Callable[[int, str], object] | None = None

    @classmethod
    def of(cls, spec: Spec) -> Self:
        """What a spec tells its engine."""
        place = spec.dispy.secret if spec.dispy else None
        file = str(spec.base / place.file) if place and place.file else None
        return cls(
            required=spec.nodes.required,
            secret=Secret(place.env, file) if place else None,
            trusted=spec.dispy is not None and spec.dispy.network == "trusted",
            timeout=spec.retry.timeout,
            memory=spec.retry.memory or 0,
        )


class Backend(ABC):
    """An engine. ``with`` brings it up and takes down exactly what it brought up."""

    #: Runs kernels in the dispatcher's own process, which their crash or hang therefore takes.
    in_process = False

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


class Entry(NamedTuple):
    """A backend: what it is, what it needs, how to get that, and whether it has several hosts."""

    name: str
    summary: str
    needs: tuple[str, ...] = ()
    install: str | None = None
    hosted: bool = False

    @property
    def usable(self) -> bool:
        """Whether everything that it needs is installed here."""
        return all(find_spec(module) for module in self.needs)


TABLE = (
    Entry("serial", "one slot, in the dispatcher's own process: the plain baseline"),
    Entry("threads", "threads of the dispatcher's own process: for kernels that release the GIL"),
    Entry("processes", "worker processes on this machine: the default"),
    Entry(
        "ssh", "worker processes on several hosts, over plain ssh; no port is opened", hosted=True
    ),
    Entry(
        "dispy",
        "real dispynodes on several hosts, over mutual TLS",
        ("dispy", "pycos", "cryptography"),
        "pip install 'cluster-montecarlo[dispy]'",
        hosted=True,
    ),
    Entry(
        "scoop",
        "SCOOP's futures on several hosts, every message signed",
        ("scoop", "zmq", "greenlet"),
        "pip install 'cluster-montecarlo[scoop]'",
        hosted=True,
    ),
    Entry(
        "mpi",
        "one MPI world over several hosts, or the one that mpirun or srun started",
        ("mpi4py",),
        "pip install 'cluster-montecarlo[mpi]'",
        hosted=True,
    ),
)


class Seat(NamedTuple):
    """Where this process is seated, whatever specs say: in a world that somebody else launched."""

    backend: str
    nodes: tuple[Node, ...]
    engine: Callable[[Options], Backend]


_SEATS: list[Seat] = []


def settle(place: Seat) -> None:
    """Make all engines of this process from now on those of that place."""
    _SEATS.append(place)


def seat() -> Seat | None:
    """Where this process is seated, if it is anywhere."""
    return _SEATS[-1] if _SEATS else None


def create(name: str, nodes: Sequence[Node], options: Options | None = None) -> Backend:
    """The engine of that name, imported now.

    Raises:
        UsageError: no such backend.
        EngineError: it is not installed here.
    """
    if (place := seat()) is not None:
        return place.engine(options or Options())
    return kind(name)(nodes, options or Options())


def kind(name: str) -> type[Backend]:
    """The class of the engine of that name, imported now.

    Raises:
        UsageError: no such backend.
        EngineError: it is not installed here.
    """
    need(name)
    found: type[Backend] = import_module(f"cluster.backends.{name}").Engine
    return found


def need(name: str) -> None:
    """Refuse a backend that cannot be used here.

    Raises:
        UsageError: no such backend.
        EngineError: it is not installed here.
    """
    entry = next((row for row in TABLE if row.name == name), None)
    if entry is None:
        known = [row.name for row in TABLE]
        fix = did_you_mean(name, known) or f"known: {', '.join(known)}"
        raise UsageError(f"no backend is named {name!r}", fix=fix)
    if not entry.usable:
        raise EngineError(f"the backend {name} is not installed here", fix=entry.install)


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
