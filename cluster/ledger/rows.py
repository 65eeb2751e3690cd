"""The rows that readers of a store get."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from cluster.nodes import Node


class Run(NamedTuple):
    """A row of the table of runs; ``state`` is the recorded one, see :meth:`Ledger.state`."""

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


JSON_COLUMNS = ("definition", "goal", "ranges", "progress")


class Counted(NamedTuple):
    """A counted range of blocks; ``intact`` is False where its checksum does not hold."""

    first: int
    stop: int
    tally: str
    node: str
    intact: bool


class Wish(NamedTuple):
    """Other hosts for a run that is being computed: hosts to add, names of hosts to drain."""

    key: int
    add: tuple[Node, ...]
    drain: tuple[str, ...]

    @classmethod
    def read(cls, key: int, text: str) -> Wish:
        """From the columns of its row."""
        hosts = json.loads(text)
        return cls(key, tuple(map(Node.from_json, hosts["add"])), tuple(hosts["drain"]))


class Speed(NamedTuple):
    """Sums over a node's counted outcomes of a run, from which its speed and that's error come.

    n is the number of blocks of a task, w its wall seconds.
    """

    node: str
    tasks: int
    n: int
    w: float
    nn: int
    nw: float
    ww: float


class NodeTotals(NamedTuple):
    """Sums over a node's counted outcomes: tasks, blocks, wall and CPU seconds.

    ``lost``: seconds between dispatcher and worker and back, waiting in a queue included.
    """

    node: str
    tasks: int
    blocks: int
    wall: float
    cpu: float
    lost: float
