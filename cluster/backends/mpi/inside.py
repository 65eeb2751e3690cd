"""The engine of a process that mpirun or srun has started: its own world is the cluster.

Rank 0 is the dispatcher; every rank, rank 0 too, draws in one slot. Whatever the spec says, no
other process is started anywhere.
"""

from __future__ import annotations

import json
import selectors
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.backends.base import Backend, Items, NodeEvent, Options, Pause, Seat, Source, settle
from cluster.backends.mpi.hand import Hand
from cluster.backends.mpi.world import DOWN, UP, World, guarded, join
from cluster.errors import EngineError, UsageError
from cluster.handshake import differences, fingerprint, is_drawn, table
from cluster.nodes import Node
from cluster.patience import Attention
from cluster.work import Outcome, Task, Work

_GATHER = 60.0
_FAREWELL = 5.0
_BEAT = 1.0
# As for hosts: three heartbeats of two seconds.
_SILENT = 6.0


def play(command: Callable[[], int]) -> int:
    """Play the part of this process in its world; the command is for the first rank alone.

    Raises:
        EngineError: MPI cannot be used here.
        NotOneWorld: the processes of the launcher do not see each other.
    """
    world = join()
    return guarded(world, lambda: _first(world, command) if world.rank == 0 else _other(world))


def _other(world: World) -> int:
    with selectors.SelectSelector() as selector:
        Hand(world, selector).serve()
    world.flush()
    world.leave()
    return 0


def _first(world: World, command: Callable[[], int]) -> int:
    with selectors.SelectSelector() as selector:
        ensemble = Ensemble(world, selector)
        ensemble.gather()
        hosts = Counter(rank.host for rank in ensemble.ranks)
        nodes = tuple(Node(host, slots=count) for host, count in hosts.items())
        settle(Seat("mpi", nodes, lambda options: Inside(nodes, options, ensemble)))
        words = ", ".join(f"{host} with {count}" for host, count in hosts.items())
        sys.stderr.write(
            f"in an MPI world of {world.size} ranks: {words};"
            " the spec's backend and nodes are set aside\n"
        )
        code = command()
        ensemble.part(code)
    return code


@dataclass
class Rank:
    """What the coordinator knows of a rank.

    Attributes:
        host, index: where it is, and which slot of that host it is.
        usable, reason, broken: of its worker process, as it said.
        hello, probe: what it said of itself in this run.
        refused: why it is not used in this run, or empty.
        taken: its tasks.
        works, told: the runs whose work it knows, and the kernels whose text.
        heard: when, of the ensemble's clock.
        bye: it has parted.
    """

    host: str = ""
    index: int = 0
    usable: int = 0
    reason: str = "not ready yet"
    broken: bool = False
    hello: dict[str, Any] | None = None
    probe: str | None = None
    refused: str = ""
    taken: dict[int, Task] = field(default_factory=dict)
    works: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)
    heard: float = 0.0
    bye: bool = False

    def begin(self) -> None:
        """A run begins: nothing of an earlier one counts."""
        self.usable, self.reason, self.broken, self.refused = 0, "not ready yet", False, ""
        self.hello, self.probe = None, None
        self.taken.clear()
        self.works.clear()
        self.told.clear()

    def slots(self, now: float) -> int:
        """How many slots it has for tasks, now."""
        shaken = self.hello is not None and self.probe is not None
        good = shaken and not self.refused and now - self.heard < _SILENT
        return self.usable if good else 0


class Ensemble:
    """All ranks, as the first one sees them. It outlives engines: there is but one world.

    Attributes:
        ranks: by their numbers.
        attention: the clock of what is heard.
        hand: what the first rank draws with itself.
        run: the number of the run that goes on; what belongs to another is not heard.
    """

    def __init__(self, world: World, selector: selectors.BaseSelector) -> None:
        self.world, self.selector = world, selector
        self.hand = Hand(world, selector)
        self.ranks = [Rank() for _ in range(world.size)]
        self.run = 0
        self.attention = Attention()
        self._beaten = 0.0

    def gather(self) -> None:
        """Learn where every rank is.

        Raises:
            EngineError: some do not say, in a minute.
        """
        self._until(lambda rank: bool(rank.host), _GATHER)
        if missing := [n for n, rank in enumerate(self.ranks) if not rank.host]:
            raise EngineError(f"these ranks of the MPI world say nothing: {missing}")
        counts = Counter[str]()
        for rank in self.ranks:
            rank.index = counts[rank.host]
            counts[rank.host] += 1

    def part(self, code: int) -> None:
        """Part from all ranks. Where one does not answer, no farewell would end: end the world."""
        self.tell({"end": True})
        self._until(lambda rank: rank.bye, _FAREWELL)
        if all(rank.bye for rank in self.ranks):
            self.world.leave()
        else:
            self.world.end(code)

    def tell(self, message: object) -> None:
        """Tell all ranks something."""
        for number in range(self.world.size):
            self.world.queue(number, DOWN, message)

    def heard(self) -> Iterator[tuple[Rank, Any]]:
        """What the ranks said since the last call, about the run that goes on."""
        self.hand.tend()
        now = self.attention.look()
        if now - self._beaten > _BEAT:
            self._beaten = now
            self.tell({"beat": self.run})
        self.world.flush()
        for number, lines in self.world.arrived(UP):
            rank = self.ranks[number]
            rank.heard = now
            for message in map(json.loads, lines):
                if isinstance(message, list):
                    if message[0] == self.run:
                        yield rank, message[1:]
                elif message["run"] == self.run:
                    yield rank, message

    def wait(self, most: float) -> None:
        """Until something may have happened."""
        for key, mask in self.selector.select(min(self.world.patience, most)):
            key.data(mask)

    def _until(self, true: Callable[[Rank], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not all(map(true, self.ranks)) and time.monotonic() < deadline:
            for rank, message in self.heard():
                if isinstance(message, dict):
                    rank.host = message.get("seat", rank.host)
                    rank.bye = rank.bye or "bye" in message
            self.wait(0.1)


class Inside(Backend):
    """The ranks of this world, a slot each."""

    def __init__(self, nodes: tuple[Node, ...], options: Options, ensemble: Ensemble) -> None:
        super().__init__(nodes, options)
        self._all, self._ranks = ensemble, ensemble.ranks
        self._told: dict[str, tuple[int, str]] = {}
        self._revoked: set[int] = set()
        self._probe: tuple[str, str] | None = None

    def run(self, work: Work, source: Source) -> Items:
        """See :meth:`Backend.run`."""
        self._begin(work)
        ended = False
        try:
            while True:
                for rank, message in self._all.heard():
                    yield from self._hear(rank, message)
                yield from self._changes()
                ended = self._feed(source) or ended
                if ended and not any(rank.taken for rank in self._ranks):
                    return
                self._revoke(source)
                self._all.world.flush()
                self._all.wait(self.options.tick)
                yield None
        finally:
            self._all.tell({"rest": self._all.run})
            self._all.world.flush()
            self._all.hand.tend()

    def resize(self, nodes: Sequence[Node]) -> None:
        """See :meth:`Backend.resize`: a world keeps the size that its launcher gave it."""
        raise UsageError(
            "this run is in an MPI world that mpirun or srun started, with the hosts that it gave",
            fix="end it, and start it over other hosts with --resume",
        )

    def _begin(self, work: Work) -> None:
        self._here = fingerprint(work)
        if self.options.probes and (begun := self.options.probes[0]) is not None:
            self._probe = "where the run was begun", begun
        self._all.run += 1
        for rank in self._ranks:
            rank.begin()
        wanted = {"run": self._all.run, "work": work.to_json(), "ready": self.options.ready}
        self._all.tell({"work": wanted})

    # -- what the ranks say -----------------------------------------------------------------------

    def _hear(self, rank: Rank, message: Any) -> Iterator[Outcome]:
        if isinstance(message, list):
            outcome = Outcome.from_json(message)._replace(node=rank.host, slot=rank.index)
            rank.taken.pop(outcome.task, None)
            yield outcome
        elif "hello" in message:
            rank.hello = message["hello"]
            self._judge(rank)
        elif "probe" in message:
            rank.probe = message["probe"]
            self._judge(rank)
        elif "usable" in message:
            rank.usable, rank.reason = int(message["usable"]), str(message["reason"])
            rank.broken = bool(message["broken"])

    def _judge(self, rank: Rank) -> None:
        """Refuse a rank that would draw other numbers."""
        if rank.hello is not None and (found := differences(self._here, rank.hello)):
            what = ", ".join(each.what for each in found)
            rank.refused = f"it differs in {what}:\n{table(rank.host, found)}"
        elif rank.probe is not None:
            if self._probe is None:
                self._learn(rank.host, rank.probe)
            elif self._probe[1] != rank.probe:
                rank.refused = (
                    f"a few samples of the kernel came out differently there than {self._probe[0]}"
                )

    def _learn(self, host: str, probe: str) -> None:
        """Hold others, and a resume, to what came out first; how a kernel fails holds nobody."""
        if is_drawn(probe):
            self._probe = f"on {host}", probe
            if self.options.probed is not None:
                self.options.probed(0, probe)

    def _changes(self) -> Iterator[Outcome | NodeEvent]:
        """What became of the slots; what a silent rank had is answered for."""
        now = self._all.attention.now
        slots = Counter[str]({node.host: 0 for node in self.nodes})
        refused: dict[str, str] = {}
        reasons: dict[str, str] = {}
        for rank in self._ranks:
            slots[rank.host] += rank.slots(now)
            if now - rank.heard > _SILENT:
                yield from self._lost(rank, now)
            refused[rank.host] = refused.get(rank.host) or rank.refused
            reasons[rank.host] = reasons.get(rank.host) or ("" if rank.usable else rank.reason)
        for host, count in slots.items():
            if self._told.get(host, (0, "")) != (count, refused[host]):
                self._told[host] = count, refused[host]
                yield NodeEvent(host, count, refused[host] or reasons[host] or "ready")
        self._check_any_left()

    def _lost(self, rank: Rank, now: float) -> Iterator[Outcome]:
        reason = rank.reason = f"a rank was not heard of for {now - rank.heard:.0f} s"
        for task in rank.taken.values():
            outcome = Outcome.without_answer(task, "returned", reason, None)
            yield outcome._replace(node=rank.host, slot=rank.index)
        rank.taken.clear()

    def _check_any_left(self) -> None:
        if all(rank.refused or rank.broken for rank in self._ranks):
            reasons = {rank.refused or rank.reason for rank in self._ranks}
            raise EngineError(f"no rank of the MPI world can work: {'; '.join(sorted(reasons))}")

    # -- what they are told -----------------------------------------------------------------------

    def _feed(self, source: Source) -> bool:
        ended = False
        now = self._all.attention.now
        for host, (slots, _) in self._told.items():
            if slots:
                ended = self._feed_host(host, now, source) or ended
        return ended

    def _feed_host(self, host: str, now: float, source: Source) -> bool:
        ready = [rank for rank in self._ranks if rank.host == host and rank.slots(now)]
        while ready and isinstance(answer := source.take(host), Task):
            rank = min(ready, key=lambda rank: len(rank.taken))
            self._give(rank, answer, source)
        return bool(ready) and answer is Pause.END

    def _give(self, rank: Rank, task: Task, source: Source) -> None:
        number = self._ranks.index(rank)
        if task.run and task.run not in rank.works:
            rank.works.add(task.run)
            if (work := source.work_of(task.run)) is not None:
                self._all.world.queue(number, DOWN, {"more": work.to_json(rank.told)})
        rank.taken[task.id] = task
        self._all.world.queue(number, DOWN, task)

    def _revoke(self, source: Source) -> None:
        revoked = set(source.revoked())
        fresh, self._revoked = revoked - self._revoked, revoked
        for number, rank in enumerate(self._ranks if fresh else ()):
            if ids := sorted(fresh & rank.taken.keys()):
                self._all.world.queue(number, DOWN, {"revoke": ids})
