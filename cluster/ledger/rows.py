"""The rows that readers of a store get."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from cluster.common.errors import StoreError
from cluster.hosts.nodes import Node
from cluster.sampling.tally import Tally, TallyError
from cluster.sampling.task import checked


class Run(NamedTuple):
    """A row of the table of runs; ``state`` is the recorded one, see :meth:`Ledger.state`.

    Attributes:
        ranges: the counted blocks as merged ranges [first, stop); None: not recorded yet.
        faults: the damaged columns, which were left out, in words.
        total: the tally parsed from ``tally``.
        marks: checksums of the columns that say what the run is and how it ended.
    """

    key: int
    id: str
    name: str
    created: float
    request: str
    identity: str
    definition: dict[str, Any]
    goal: dict[str, Any]
    state: str
    stopped_by: str | None
    drained: bool | None
    counted: int | None
    tally: str | None
    ranges: list[list[int]] | None
    progress: dict[str, Any] | None
    faults: tuple[str, ...] = ()
    total: Tally | None = None
    marks: tuple[str | None, str | None] = (None, None)

    @property
    def backend(self) -> str:
        """The name of the engine that its spec asks for."""
        return str(self.definition["spec"]["backend"])


class SweepRow(NamedTuple):
    """A row of the table of sweeps.

    Attributes:
        asked: the places of the points that its starts were to compute; None: all.
        faults: the damaged columns, which were left out, in words.
    """

    key: int
    id: str
    name: str
    created: float
    request: str
    spec: dict[str, Any]
    stopped_by: str | None
    progress: dict[str, Any] | None
    asked: frozenset[int] | None
    faults: tuple[str, ...] = ()

    @property
    def backend(self) -> str:
        """The name of the engine that its spec asks for."""
        return str(self.spec["backend"])


#: What one start computes: a run alone, or a sweep.
JobRow = Run | SweepRow


class Damaged(NamedTuple):
    """A damaged row of the table of runs, or of sweeps.

    Attributes:
        key, id, name, created: as far as they can be read; 0.0 for an impossible time.
        error: what is wrong with it.
    """

    key: int
    id: str
    name: str
    created: float
    error: StoreError


class Counted(NamedTuple):
    """A counted range of blocks; ``intact`` is False if its checksum does not match.

    An impossible tally may still have a matching checksum: :meth:`read` checks both.
    """

    first: int
    stop: int
    tally: str
    node: str
    intact: bool

    def read(self, block: int) -> Tally | None:
        """Its tally; None if the row is damaged. ``block``: samples in a block."""
        if not self.intact:
            return None
        try:
            return checked(self.tally, (self.stop - self.first) * block)
        except TallyError:
            return None


class NodeChangeRequest(NamedTuple):
    """A request to a running dispatcher: hosts to add, names of hosts to drain."""

    key: int
    add: tuple[Node, ...]
    drain: tuple[str, ...]

    @classmethod
    def read(cls, key: int, hosts: Mapping[str, Any]) -> NodeChangeRequest:
        """From its key, and the JSON object of its hosts.

        Raises:
            NodeError, LookupError, TypeError, AttributeError: it names no hosts.
        """
        drain = tuple(hosts["drain"])
        if not all(isinstance(name, str) for name in drain):
            raise TypeError("names are text")
        return cls(key, tuple(map(Node.from_json, hosts["add"])), drain)


class Speed(NamedTuple):
    """Sums over a node's counted tasks of one run, from which a speed and its error are computed.

    ``n`` is the number of blocks in a task, ``w`` its wall seconds; ``nn`` is the sum of n * n, and
    so on.
    """

    node: str
    tasks: int
    n: int
    w: float
    nn: int
    nw: float
    ww: float


class NodeTotals(NamedTuple):
    """Sums over a node's counted tasks: tasks, blocks, wall and CPU seconds.

    ``lost``: seconds between dispatcher and worker and back, including time spent in queues.
    """

    node: str
    tasks: int
    blocks: int
    wall: float
    cpu: float
    lost: float
