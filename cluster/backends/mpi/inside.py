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
from functools import partial
from typing import Any

from cluster.backends.base import (
    Backend,
    Items,
    LaunchedWorld,
    NodeEvent,
    Options,
    Pause,
    Source,
    adopt_world,
)
from cluster.backends.mpi.hand import Hand
from cluster.backends.mpi.world import DOWN, UP, Communicator, guarded, join
from cluster.common.backoff import ListeningClock
from cluster.common.errors import EngineError, UsageError
from cluster.hosts.connect import Judge, Jury, Patience, installing
from cluster.hosts.fingerprint import differences, failed, fingerprint, missing_module, probe, table
from cluster.hosts.nodes import Node, is_local
from cluster.hosts.prints import PrintedLines
from cluster.sampling.task import Outcome, Task, Work

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


def _other(world: Communicator) -> int:
    with selectors.SelectSelector() as selector:
        Hand(world, selector).serve()
    world.flush()
    world.leave()
    return 0


def _first(world: Communicator, command: Callable[[], int]) -> int:
    with selectors.SelectSelector() as selector:
        ensemble = Ensemble(world, selector)
        ensemble.gather()
        hosts = Counter(rank.host for rank in ensemble.ranks)
        nodes = tuple(Node(host, slots=count) for host, count in hosts.items())
        adopt_world(LaunchedWorld("mpi", nodes, lambda options: Inside(nodes, options, ensemble)))
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
        hello: what it said of itself in this run.
        accepted: it may be given tasks.
        refused: why it is not used in this run, and the cure; or empty.
        probes, asked, twice, lost_probes, remark, is_own: see
            :class:`cluster.hosts.connect.judge.Prober`; the first rank is the dispatcher.
        drawing: since when its next probe is awaited, of the ensemble's clock; None: no worker is
            there to draw it.
        overdue: a probe has not come back in its time.
        say: tells it something.
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
    accepted: bool = False
    refused: str = ""
    probes: dict[int, str] = field(default_factory=dict)
    asked: bool = False
    twice: int | None = None
    lost_probes: int = 0
    remark: str = ""
    is_own: bool = False
    drawing: float | None = None
    overdue: bool = False
    say: Callable[[object], None] = lambda _message: None
    taken: dict[int, Task] = field(default_factory=dict)
    works: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)
    heard: float = 0.0
    bye: bool = False

    @property
    def name(self) -> str:
        """As the run's table has its host."""
        return self.host

    @property
    def here(self) -> bool:
        """Whether it is on this machine."""
        return is_local(self.host)

    def begin(self) -> None:
        """A run begins: nothing of an earlier one counts."""
        self.usable, self.reason, self.broken, self.refused = 0, "not ready yet", False, ""
        self.hello, self.drawing, self.overdue, self.accepted = None, None, False, False
        self.asked, self.twice, self.lost_probes, self.remark = False, None, 0, ""
        self.probes.clear()
        self.taken.clear()
        self.works.clear()
        self.told.clear()

    def ask(self, number: int, work: Work, *, anew: bool = False) -> None:
        """Have it draw a further probe; its outcome is as of a task."""
        self.drawing = self.drawing if anew else self.heard
        few, task = probe(work, number)
        self.say({"more": few.to_json(self.told)})
        self.say(task)

    def drew(self, number: int, probe: str) -> None:
        """Take in how a probe came out there; the next one has its time from now on."""
        self.probes[number], self.drawing = probe, self.heard

    def installing(self, module: str) -> str:
        """The line that installs a module there that the kernel needs."""
        return installing(module, Node(self.host), sys.executable)

    def refuse(self, reason: str, fix: str = "") -> None:
        """Never use it again in this run."""
        self.refused = f"{reason} ({fix})" if fix else reason

    def accept(self) -> None:
        """It may be given tasks."""
        self.accepted = True

    def slots(self, now: float) -> int:
        """How many slots it has for tasks, now."""
        good = self.accepted and not self.refused and now - self.heard < _SILENT
        return self.usable if good else 0


class Ensemble:
    """All ranks, as the first one sees them. It outlives engines: there is but one world.

    Attributes:
        ranks: by their numbers.
        attention: the clock of what is heard.
        hand: what the first rank draws with itself.
        run: the number of the run that goes on; what belongs to another is not heard.
    """

    def __init__(self, world: Communicator, selector: selectors.BaseSelector) -> None:
        self.world, self.selector = world, selector
        self.hand = Hand(world, selector)
        self.ranks = [
            Rank(is_own=not number, say=partial(world.queue, number, DOWN))
            for number in range(world.size)
        ]
        self.run = 0
        self.attention = ListeningClock()
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
        self._patience = Patience()

    def run(self, work: Work, source: Source) -> Items:
        """See :meth:`Backend.run`."""
        self._begin(work)
        ended = False
        try:
            while True:
                for rank, message in self._all.heard():
                    yield from self._hear(rank, message)
                self._hold_ranks()
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
        jury = Jury(self.options.probes, self.options.probed)
        self._judge = Judge([work, *self.options.kernels], jury, self._patience.probe)
        self._begun = self._all.attention.look()
        self._all.run += 1
        for rank in self._ranks:
            rank.begin()
        limits = {"ready": self.options.ready, "memory": self.options.memory}
        wanted = {"run": self._all.run, "work": work.to_json(), **limits}
        self._all.tell({"work": wanted})

    # -- what the ranks say -----------------------------------------------------------------------

    def _hear(self, rank: Rank, message: Any) -> Iterator[Outcome | PrintedLines]:
        if isinstance(message, list):
            outcome = Outcome.from_json(message)._replace(node=rank.host, slot=rank.index)
            if outcome.task < 0:
                self._judge.on_outcome(rank, outcome)
                return
            rank.taken.pop(outcome.task, None)
            yield outcome
        elif "printed" in message:
            printed = PrintedLines.from_json(message["printed"])
            yield printed._replace(node=rank.host, slot=rank.index)
        elif "hello" in message:
            rank.hello = message["hello"]
            if found := differences(self._here, message["hello"]):
                what = ", ".join(each.what for each in found)
                rank.refuse(f"it differs in {what}:\n{table(rank.host, found)}")
        elif "probe" in message:
            rank.drew(0, str(message["probe"]))
        elif "usable" in message:
            self._on_usable(rank, message)

    def _on_usable(self, rank: Rank, message: Any) -> None:
        rank.usable, rank.reason = int(message["usable"]), str(message["reason"])
        rank.broken = bool(message["broken"])
        if rank.usable and rank.drawing is None:
            rank.drawing = self._all.attention.now
        if rank.broken and (module := missing_module(rank.reason)):
            rank.refuse(f"no worker starts there: {rank.reason}", rank.installing(module))

    def _hold_ranks(self) -> None:
        """Accept or refuse the ranks whose probes can be judged; the first one's are our own."""
        now = self._all.attention.now
        for rank in self._ranks:
            rank.overdue = rank.drawing is not None and now - rank.drawing > self._patience.probe
            if not (rank.accepted or rank.refused or rank.hello is None):
                self._judge.judge(rank, not any(map(self._is_awaited, self._ranks)))
        first = self._ranks[0]
        late = first.drawing is None and now - self._begun > self._patience.others
        if first.refused or first.broken or late:
            for number in range(len(self._judge.works)):
                self._judge.jury.own.setdefault(number, failed(first.refused or first.reason))

    def _is_awaited(self, rank: Rank) -> bool:
        """Whether the probes of a rank may still come, and tell."""
        if rank.refused or rank.broken or not self._judge.owes(rank):
            return False
        return rank.drawing is not None or (
            self._all.attention.now - self._begun < self._patience.others
        )

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
                words = refused[host] or reasons[host] or "ready"
                yield NodeEvent(host, count, "; ".join([words, *self._remarks(host)]))
        self._check_any_left()

    def _remarks(self, host: str) -> Iterator[str]:
        """What is to be told of a host once."""
        for rank in self._ranks:
            if rank.host == host and rank.remark:
                yield rank.remark
                rank.remark = ""

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
