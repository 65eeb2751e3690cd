"""The engine of a process that mpirun or srun has started: its own world is the cluster.

Rank 0 is the dispatcher, with an agent beside it; every other rank is an agent itself. Each agent
has one slot, where its launcher put it. Whatever the spec says, no other host is used.
"""

from __future__ import annotations

import math
import os
import selectors
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cluster.backends.base import (
    Items,
    LaunchedWorld,
    NodeEvent,
    Options,
    Pause,
    Source,
    adopt_world,
)
from cluster.backends.hosted import Hosted
from cluster.backends.mpi.world import Communicator, Exchange, RankLines, guarded, join
from cluster.common.errors import EngineError, UsageError
from cluster.hosts.agent import become_agent, serve
from cluster.hosts.connect import Channel, Dial, Fleet, Host, HostState, Patience, start_agent
from cluster.hosts.nodes import Node
from cluster.hosts.prints import PrintedLines
from cluster.hosts.process_tree import die_with_parent
from cluster.hosts.scratch import hostname
from cluster.sampling.task import Outcome, Task, Work

_GATHER = 60.0
_FAREWELL = 5.0
_ORPHANED = 75
# A rank is never given up, and cannot be started anew: its launcher sees its end, and ends the
# world. For the same reason one whose dispatcher is stopped for a minute waits for it.
_PATIENCE = Patience(silence=150.0, lost=math.inf)


def play(command: Callable[[], int]) -> int:
    """Play the part of this process in its world; the command is for the first rank alone.

    Raises:
        EngineError: MPI cannot be used here.
        NotOneWorld: the processes of the launcher do not see each other.
    """
    world = join()
    return guarded(world, lambda: _first(world, command) if world.rank == 0 else _other(world))


def _other(world: Communicator) -> int:
    """Be an agent, for one run after the other, until the first rank ends that."""
    die_with_parent()
    become_agent()
    line = world.lines[0]
    line.queue({"host": hostname()})
    with Exchange(world) as selector:
        while "end" not in (first := _next(line, selector)):
            session = Session(line)
            serve(first, session, selector)
            if not session.ended:
                os._exit(_ORPHANED)  # the launcher ends what is left of the world
            session.close_input()
    line.queue({"bye": True})
    world.leave()
    return 0


def _next(line: RankLines, selector: selectors.BaseSelector) -> Mapping[str, Any]:
    """The next message, whenever it comes."""
    while not line.has_messages:
        selector.select()
    message: Mapping[str, Any] = line.next()
    return message


def _first(world: Communicator, command: Callable[[], int]) -> int:
    """Dispatch to all ranks, and part from them.

    Raises:
        EngineError: some do not say in a minute where they are.
    """
    hosts = [hostname(), *_answers(world, "host", _GATHER)]
    if missing := [rank for rank, host in enumerate(hosts) if host is None]:
        raise EngineError(f"these ranks of the MPI world say nothing: {missing}")
    counts = Counter[str]()
    ranks = []
    for rank, host in enumerate(hosts):
        ranks.append(RankNode(host, slots=1, rank=rank, index=counts[host]))
        counts[host] += 1
    nodes = tuple(Node(host, slots=count) for host, count in counts.items())
    dial = partial(_dial, world, {})
    adopt_world(LaunchedWorld("mpi", nodes, lambda options: Inside(ranks, options, world, dial)))
    words = ", ".join(f"{host} with {count}" for host, count in counts.items())
    sys.stderr.write(
        f"in an MPI world of {world.size} ranks: {words};"
        " the spec's backend and nodes are set aside\n"
    )
    code = command()
    for line in world.lines.values():
        line.queue({"end": True})
    # Where one does not answer, no farewell would end.
    if None in _answers(world, "bye", _FAREWELL):
        world.end(code)
    world.leave()
    return code


def _answers(world: Communicator, word: str, seconds: float) -> list[Any]:
    """What each other rank says under a word; None for one that does not in that time."""
    found: dict[int, Any] = {}
    deadline = time.monotonic() + seconds
    with Exchange(world) as selector:
        while len(found) < len(world.lines) and time.monotonic() < deadline:
            selector.select(0.1)
            for rank, line in world.lines.items():
                for message in line.messages():
                    if isinstance(message, dict) and word in message:
                        found[rank] = message[word]
    return [found.get(rank) for rank in world.lines]


@dataclass(frozen=True, slots=True)
class RankNode(Node):
    """A rank as a node of its own.

    Attributes:
        rank: its number.
        index: which slot of its host it is.
    """

    rank: int = 0
    index: int = 0

    @property
    def name(self) -> str:
        """Several ranks may be on one host."""
        return f"{self.host} rank {self.rank}"


class Session:
    """A line to another rank for one run: both ends end theirs with an empty message.

    So it is what the dispatcher has of an agent, and what an agent has of the dispatcher.

    Args:
        line: to the other rank.
        before: the last session on that line; what still comes of it is dropped.

    Attributes:
        ended: the other end has ended it.
        words: nothing that is for people comes this way.
    """

    words = ""

    def __init__(self, line: RankLines, before: Session | None = None) -> None:
        self.ended, self._closed = False, False
        self._line, self._before = line, before

    @property
    def gone(self) -> bool:
        """See Channel."""
        return self.ended

    @property
    def wrong(self) -> str:
        """See Wire."""
        return self._line.wrong

    def queue(self, message: object) -> None:
        """Add a message to what is to be sent."""
        self._line.queue(message)

    def send(self) -> None:
        """Send it; see :class:`RankLines`."""
        self._line.send()

    def messages(self) -> Iterator[Any]:
        """What has come since the last call."""
        if self._before is not None:
            for _ in self._before.messages():
                pass
            self._before = None if self._before.ended else self._before
        while self._line.has_messages and not self.ended:
            if (message := self._line.next()) is None:
                self.ended = True
            else:
                yield message

    def close_input(self) -> None:
        """End it from this side."""
        if not self._closed:
            self._closed = True
            self._line.queue(None)

    def wait(self, deadline: float) -> None:
        """Wait for nothing: the rank stays."""

    def reap(self) -> str:
        """See Channel."""
        self.close_input()
        return "its rank ended it"


def _dial(
    world: Communicator, sessions: dict[str, Session], node: Node, selector: selectors.BaseSelector
) -> tuple[str, Channel]:
    """Reach the agent of a rank: it is that itself, but for the first one, which dispatches."""
    if not isinstance(node, RankNode) or not node.rank:
        return start_agent(node, selector)
    session = Session(world.lines[node.rank], sessions.get(node.name))
    sessions[node.name] = session
    return "mpi", session


class Inside(Hosted):
    """The ranks of this world; those of a host are its slots."""

    def __init__(
        self, ranks: Sequence[RankNode], options: Options, world: Communicator, dial: Dial
    ) -> None:
        super().__init__(ranks, options)
        self._selector.close()
        self._selector = Exchange(world)
        self._world, self._dial = world, dial
        self._ranks = {rank.name: rank for rank in ranks}
        self._on_host: dict[str, list[str]] = defaultdict(list)
        for rank in ranks:
            self._on_host[rank.host].append(rank.name)
        self._drawing: dict[str, set[int]] = defaultdict(set)

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        self._world.flush()

    def run(self, work: Work, source: Source) -> Items:
        """See :meth:`Backend.run`; what comes of a rank is of a slot of its host."""
        for item in super().run(work, source):
            if isinstance(item, Outcome):
                self._drawing[item.node].discard(item.task)
            if isinstance(item, Outcome | PrintedLines):
                rank = self._ranks[item.node]
                yield item._replace(node=rank.host, slot=rank.index)
            else:
                yield item

    def resize(self, nodes: Sequence[Node]) -> None:
        """See :meth:`Backend.resize`: a world keeps the size that its launcher gave it."""
        raise UsageError(
            "this run is in an MPI world that mpirun or srun started, with the hosts that it gave",
            fix="end it, and start it over other hosts with --resume",
        )

    def _kinds(self) -> dict[str, Any]:
        seconds = {"ready": self.options.ready, "probe": self.options.probing}
        return {"patience": replace(_PATIENCE, **seconds), "dial": self._dial}

    def _begin(self, work: Work) -> None:
        assert self._fleet is not None
        next(iter(self._fleet.hosts.values())).is_own = True

    def _slot_changes(self, fleet: Fleet) -> Iterator[NodeEvent]:
        """One event a host, for all that changed of its ranks."""
        reasons: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for event in super()._slot_changes(fleet):
            rank = self._ranks[event.node]
            reasons[rank.host][event.reason].append(str(rank.rank))
        for host, found in reasons.items():
            slots = sum(self._told.get(name, 0) for name in self._on_host[host])
            words = [
                f"rank{'s' if len(ranks) > 1 else ''} {', '.join(ranks)}: {reason}"
                for reason, ranks in found.items()
                if reason != "ready"
            ]
            yield NodeEvent(host, slots, "; ".join(words) or "ready")

    def _counted_twice(self, host: Host) -> str:
        """Nothing is said of ranks that share a host: that is for their launcher."""
        return ""

    def _is_open(self, fleet: Fleet) -> bool:
        """Whether tasks may be given: always, for no rank can come later.

        Raises:
            EngineError: no rank will ever draw anything.
        """
        hosts = fleet.hosts.values()
        if all(host.broken or host.standing is HostState.REFUSED for host in hosts):
            reasons = sorted({self._words(host) for host in hosts})
            raise EngineError(f"no rank of the MPI world can work: {'; '.join(reasons)}")
        return True

    def _feed(self, fleet: Fleet, source: Source) -> bool:
        """Give the tasks of each host to those of its ranks that have the fewest."""
        ended = False
        for host, names in self._on_host.items():
            ready = [fleet.hosts[name] for name in names if self._told.get(name)]
            while ready and isinstance(answer := source.take(host), Task):
                rank = min(ready, key=lambda rank: len(self._drawing[rank.name]))
                self._start(answer, rank, fleet, source)
            ended = (bool(ready) and answer is Pause.END) or ended
        return ended

    def _give(self, task: Task, host: Host | None) -> None:
        if host is not None:
            self._drawing[host.name].add(task.id)
            host.say({"tasks": [task]})
