"""The engine of a process that mpirun or srun has started: it computes in that world.

Rank 0 is the dispatcher, with an agent as a child process; every other rank is itself an agent.
Each agent has one slot, on the cores where the launcher put it. The hosts of the spec are not used.
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

# Seconds for all ranks to report their hosts, and to say goodbye.
_GATHER = 60.0
_FAREWELL = 5.0
# The exit code of a rank whose dispatcher is silent (EX_TEMPFAIL: a resume continues the run).
_ORPHANED = 75
# A rank is never given up, because it cannot be restarted: if it ends, its launcher ends the world.
# For the same reason its agent waits longer than others for a silent dispatcher.
_PATIENCE = Patience(silence=150.0, lost=math.inf)


def play(command: Callable[[], int]) -> int:
    """Run this process's part in its world.

    Args:
        command: what the user's command does; only the first rank runs it. Returns an exit code.

    Returns:
        The exit code of this rank.

    Raises:
        EngineError: MPI cannot be used here.
        NotOneWorld: the launcher's processes are not in one MPI world.
    """
    world = join()
    return guarded(world, lambda: _first(world, command) if world.rank == 0 else _other(world))


def _other(world: Communicator) -> int:
    """Serve as an agent for one run after the other, until the first rank ends the world."""
    die_with_parent()
    become_agent()
    line = world.lines[0]
    line.queue({"host": hostname()})
    with Exchange(world) as selector:
        while "end" not in (first := _next(line, selector)):
            session = RankSession(line)
            serve(first, session, selector)
            if not session.ended:
                # The dispatcher is silent. MPI_Finalize would wait for it; the launcher ends the
                # other ranks.
                os._exit(_ORPHANED)
            session.close_input()
    line.queue({"bye": True})
    world.leave()
    return 0


def _next(line: RankLines, selector: selectors.BaseSelector) -> Mapping[str, Any]:
    """Wait for the next message, without a deadline: between two runs a user may take hours."""
    while not line.has_messages:
        selector.select()
    message: Mapping[str, Any] = line.next()
    return message


def _first(world: Communicator, command: Callable[[], int]) -> int:
    """Run the command with this world as its hosts, and end the world.

    Raises:
        EngineError: some ranks did not report their host in time.
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
    # MPI_Finalize waits for every rank; if one does not answer, abort the world instead.
    if None in _answers(world, "bye", _FAREWELL):
        world.end(code)
    world.leave()
    return code


def _answers(world: Communicator, word: str, seconds: float) -> list[Any]:
    """One value from each other rank.

    Args:
        world: of the ranks.
        word: the key of the value in a rank's message.
        seconds: how long to wait.

    Returns:
        The values in the order of the ranks; None for a rank that did not answer in time.
    """
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
    """A rank as a node.

    Attributes:
        rank: its number in the world.
        index: the slot of its host that it is, from 0.
    """

    rank: int = 0
    index: int = 0

    @property
    def name(self) -> str:
        """Unique, also if several ranks are on one host."""
        return f"{self.host} rank {self.rank}"


class RankSession:
    """The use of a line to another rank for one run; each end closes its side with a null.

    It is a ``Channel`` for the dispatcher, and a ``Wire`` for an agent.

    Args:
        line: to the other rank.
        before: the previous session on the line, whose remaining messages are dropped.

    Attributes:
        ended: the other end has closed it.
        words: empty: the output of a rank goes to its launcher.
    """

    words = ""

    def __init__(self, line: RankLines, before: RankSession | None = None) -> None:
        self.ended, self._closed = False, False
        self._line, self._before = line, before

    @property
    def gone(self) -> bool:
        """Whether the rank has closed the session; a rank itself ends only with the world."""
        return self.ended

    @property
    def wrong(self) -> str:
        """Why the line is unusable; empty if it is not."""
        return self._line.wrong

    def queue(self, message: object) -> None:
        """Queue a message."""
        self._line.queue(message)

    def send(self) -> None:
        """Do nothing: the world's selector sends what is queued, see :class:`RankLines`."""
        self._line.send()

    def messages(self) -> Iterator[Any]:
        """The messages of this session since the last call."""
        if self._before is not None:
            # Both sessions share one line: what precedes the null is still the previous one's.
            for _ in self._before.messages():
                pass
            self._before = None if self._before.ended else self._before
        while self._line.has_messages and not self.ended:
            if (message := self._line.next()) is None:
                self.ended = True
            else:
                yield message

    def close_input(self) -> None:
        """Close this side."""
        if not self._closed:
            self._closed = True
            self._line.queue(None)

    def wait(self, deadline: float) -> None:
        """Return at once: the rank does not end with the session."""

    def reap(self) -> str:
        """Close this side; the rank stays for the next run."""
        self.close_input()
        return "its rank ended it"


def _dial(
    world: Communicator,
    sessions: dict[str, RankSession],
    node: Node,
    selector: selectors.BaseSelector,
) -> tuple[str, Channel]:
    """Open a session with a rank, which is an agent; the first one needs an agent process."""
    if not isinstance(node, RankNode) or not node.rank:
        return start_agent(node, selector)
    session = RankSession(world.lines[node.rank], sessions.get(node.name))
    sessions[node.name] = session
    return "mpi", session


class Inside(Hosted):
    """The ranks of this world as hosts with one slot; people and the ledger see the real hosts.

    Args:
        ranks: all ranks, the first one included.
        options: of the run.
        world: of the ranks.
        dial: opens the channel to the agent of a rank.
    """

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
        # The ends of the sessions are queued, and no selector waits any more that would send them.
        self._world.flush()

    def run(self, work: Work, source: Source) -> Items:
        """Draw tasks on the ranks, and attribute what a rank yields to a slot of its host.

        Args:
            work: the work of tasks that name no run of their own.
            source: provides the tasks, by host.

        Raises:
            EngineError: no rank can draw.
        """
        for item in super().run(work, source):
            if isinstance(item, Outcome):
                self._drawing[item.node].discard(item.task)
            if isinstance(item, Outcome | PrintedLines):
                rank = self._ranks[item.node]
                yield item._replace(node=rank.host, slot=rank.index)
            else:
                yield item

    def resize(self, nodes: Sequence[Node]) -> None:
        """Refuse: the size of a world is fixed by its launcher.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "this run is in an MPI world that mpirun or srun started, with the hosts that it gave",
            fix="end it, and start it over other hosts with --resume",
        )

    def _kinds(self) -> dict[str, Any]:
        seconds = {"ready": self.options.ready, "probe": self.options.probing}
        return {"patience": replace(_PATIENCE, **seconds), "dial": self._dial}

    def _begin(self, work: Work) -> None:
        assert self._fleet is not None
        # Rank 0 draws on this machine, like the reference, so it is no second opinion on a probe.
        next(iter(self._fleet.hosts.values())).is_own = True

    def _slot_changes(self, fleet: Fleet) -> Iterator[NodeEvent]:
        """One event per host for all changes of its ranks."""
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
        """No warning: where ranks share a host, the launcher was told to do so."""
        return ""

    def _is_open(self, fleet: Fleet) -> bool:
        """Whether tasks may be given: always, because no rank can join later.

        Raises:
            EngineError: no rank can ever draw.
        """
        hosts = fleet.hosts.values()
        if all(host.broken or host.standing is HostState.REFUSED for host in hosts):
            reasons = sorted({self._words(host) for host in hosts})
            raise EngineError(f"no rank of the MPI world can work: {'; '.join(reasons)}")
        return True

    def _feed(self, fleet: Fleet, source: Source) -> bool:
        """Give each task of a host to the rank there that has the fewest."""
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
