"""What all engines of several hosts share: agents on the hosts, and one loop.

Kernels always run in the agents' worker processes; the agents alone tell whether a host is there.
What is left to an engine is how a task gets to a host and its outcome back.
"""

from __future__ import annotations

import selectors
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from cluster.backends.base import Backend, Items, NodeEvent, Options, Pause, Source
from cluster.common.backoff import ListeningClock
from cluster.common.engines import that_attach
from cluster.common.errors import NodesMissing, UsageError
from cluster.hosts.connect import Change, Fleet, Host, HostEvent, HostState, Patience
from cluster.hosts.fingerprint import is_one_machine
from cluster.hosts.nodes import Node
from cluster.hosts.prints import PrintedLines
from cluster.hosts.scratch import sweep
from cluster.sampling.task import Outcome, Task, Work

# A revoked task is answered for once its worker is killed, which is done at once.
_UNANSWERED = 15.0


class Hosted(Backend):
    """An engine of several hosts; a subclass says how tasks travel.

    Attributes:
        chooses: the engine itself chooses the host of a task; ``_give`` then gets none.
    """

    chooses = False

    def __init__(self, nodes: Sequence[Node], options: Options) -> None:
        super().__init__(nodes, options)
        self._selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._attention = ListeningClock()
        self._fleet: Fleet | None = None
        self._taken: dict[int, tuple[Task, str]] = {}
        self._told: dict[str, int] = {}
        self._named: dict[str, HostState | None] = {}
        self._revoked: dict[int, float] = {}
        self._leaving: set[str] = set()
        self._shut: set[str] = set()
        self._required = options.required or len(self.nodes)
        self._open = False

    def __exit__(self, *exc_info: object) -> None:
        self._stop()
        if self._fleet is not None:
            self._fleet.close()
        self._selector.close()

    # -- what an engine is ------------------------------------------------------------------------

    def _begin(self, work: Work) -> None:
        """The run begins; the agents are on their way."""

    def _stop(self) -> None:
        """The run is over; the agents are still there."""

    def _on_ready(self, host: Host) -> None:
        """A fresh agent of a host has shaken hands: start there what the engine needs."""

    def _on_gone(self, host: Host) -> None:
        """A host is lost, with all that ran there."""

    def _bar(self, host: Host, shut: bool) -> None:
        """Give no more tasks to a host, or give it some again; for an engine that chooses."""

    def _may_go(self, host: Host) -> bool:
        """Whether a host that is to leave has nothing to draw any more."""
        return all(name != host.name for _, name in self._taken.values())

    def _on_told(self, host: Host, message: dict[str, Any]) -> None:
        """An agent told of a command that the engine had it start."""

    def _slots(self, host: Host) -> int:
        """How many tasks of a ready host the engine can have drawn at a time."""
        return host.usable

    def _reason(self, host: Host) -> str:
        """Why the engine can use that many slots, in words."""
        return host.reason

    def _give(self, task: Task, host: Host | None) -> None:
        """Send a task on its way, to that host (None where the engine chooses)."""
        raise NotImplementedError

    def _flush(self) -> None:
        """Send what was given."""

    def _tend(self) -> Iterator[Outcome]:
        """See to the engine; what it brought back."""
        yield from ()

    # -- the loop ---------------------------------------------------------------------------------

    def run(self, work: Work, source: Source) -> Items:
        """See :meth:`Backend.run`."""
        sweep()  # an engine's files here, where its dispatcher was killed
        kinds = {"patience": Patience(probe=self.options.probing), **self._kinds()}
        self._fleet = fleet = Fleet(self.nodes, work, self._selector, **kinds)
        fleet.limit(self.options.memory)
        fleet.hold_to(self.options.kernels, self.options.probes, self.options.probed)
        self._deadline = self._attention.now + self.options.launch
        self._begin(work)
        ended = False
        while True:
            self._attention.look()
            for happening in fleet.tend():
                yield from self._on(happening, source)
            for outcome in self._tend():
                yield from self._passed_on(outcome)
            yield from self._overdue()
            yield from self._slot_changes(fleet)
            self._bar_hosts(fleet, source)
            yield from self._part(fleet)
            ended = (self._is_open(fleet) and self._feed(fleet, source)) or ended
            if ended and not self._taken:
                return
            self._revoke(fleet, source.revoked())
            self._flush()
            fleet.send()
            for key, mask in self._selector.select(self.options.tick):
                key.data(mask)
            yield None

    def resize(self, nodes: Sequence[Node]) -> None:
        """See :meth:`Backend.resize`."""
        for node in nodes:
            if node.attach is not None and not self.options.attaches:
                reason = f"{node.host}: this run cannot attach to a node that stands"
                raise UsageError(reason, fix=_how_to_attach())
        self.nodes = tuple(nodes)
        if self._fleet is not None:
            wanted = {node.host: node for node in nodes}
            hosts = self._fleet.hosts.items()
            # One that is to come back in another way leaves first, and is added when it is gone.
            self._leaving |= {name for name, host in hosts if wanted.get(name) != host.node}
            self._fleet.add(nodes)

    def _bar_hosts(self, fleet: Fleet, source: Source) -> None:
        """Tell an engine that chooses which hosts it may give nothing to."""
        if not self.chooses:
            return
        useless = (name for name, host in fleet.hosts.items() if host.ready and not host.usable)
        shut = fleet.hosts.keys() & {*self._leaving, *source.avoided(), *useless}
        for name in shut ^ (self._shut & fleet.hosts.keys()):
            self._bar(fleet.hosts[name], name in shut)
        self._shut = shut

    def _part(self, fleet: Fleet) -> Iterator[NodeEvent]:
        """Let hosts go that are to leave and have nothing to draw any more."""
        for name in sorted(self._leaving):
            host = fleet.hosts[name]
            if not self._may_go(host):
                continue
            self._on_gone(host)
            if name in self._shut:
                self._bar(host, False)
            fleet.remove(name)
            self._leaving.discard(name)
            self._shut.discard(name)
            self._told.pop(name, None)
            self._named.pop(name, None)
            yield NodeEvent(name, 0, "drained: all that it was given is answered", asked=True)
            fleet.add(self.nodes)

    def _kinds(self) -> dict[str, Any]:
        """What the agents do; see :class:`cluster.hosts.connect.Fleet`."""
        return {"tells": self.chooses}

    def _on(
        self, happening: HostEvent, source: Source
    ) -> Iterator[Outcome | NodeEvent | PrintedLines]:
        host, change, message = happening
        if change is Change.READY:
            self._brief(host, source)
            self._on_ready(host)
        elif change in (Change.GONE, Change.REFUSED):
            self._on_gone(host)
        if change is Change.TOLD:
            yield from self._hear(host, message)
        elif not host.ready:
            yield from self._lost(host)

    def _brief(self, host: Host, source: Source) -> None:
        """Tell a fresh agent of the tasks that an engine which chooses may still give it."""
        if self.chooses:
            for run in {task.run for task, _ in self._taken.values() if task.run}:
                host.introduce(source.work_of(run))
            host.say({"revoke": sorted(self._revoked)})

    def _hear(self, host: Host, message: Any) -> Iterator[Outcome | PrintedLines]:
        if isinstance(message, list):
            yield from self._passed_on(Outcome.from_json(message)._replace(node=host.name))
        elif "printed" in message:
            yield PrintedLines.from_json(message["printed"])._replace(node=host.name)
        elif "began" in message:
            task, _ = self._taken.get(message["began"], (None, ""))
            if task is not None:
                self._taken[task.id] = task, host.name
        else:
            self._on_told(host, message)

    def _passed_on(self, outcome: Outcome) -> Iterator[Outcome]:
        """An outcome; one of a task that was answered before is a late twin."""
        self._taken.pop(outcome.task, None)
        yield outcome

    def _lost(self, host: Host) -> Iterator[Outcome]:
        """Answer for a host that is gone or silent: what it had is offered to others.

        With the last one goes what an engine that chooses has not given to any.
        """
        left = self._fleet is not None and any(each.ready for each in self._fleet.hosts.values())
        for task, name in tuple(self._taken.values()):
            if name == host.name or not (name or left):
                yield self._without(task, host.reason, name, kind="stranded")

    def _without(self, task: Task, reason: str, name: str = "", kind: str = "returned") -> Outcome:
        """The answer for a task that a host, or the engine, has lost."""
        self._taken.pop(task.id, None)
        return Outcome.without_answer(task, kind, reason, None)._replace(node=name)

    def _slot_changes(self, fleet: Fleet) -> Iterator[NodeEvent]:
        for host in tuple(fleet.hosts.values()):  # one may be added meanwhile
            leaves = host.name in self._leaving
            slots = self._slots(host) if host.ready and not leaves else 0
            if slots != self._told.get(host.name, 0) or self._is_news(host):
                self._told[host.name] = slots
                self._named[host.name] = self._absence(host)
                words = "draining: it gets no more tasks" if leaves else self._words(host)
                if host.ready and host.remark:
                    words, host.remark = f"{words}; {host.remark}", ""
                yield NodeEvent(host.name, slots, words, leaves)

    def _is_news(self, host: Host) -> bool:
        """A host that does not come is named, also where it never had a slot; once each way."""
        absence = self._absence(host)
        return absence is not None and absence is not self._named.get(host.name)

    def _absence(self, host: Host) -> HostState | None:
        """AWAY or REFUSED where a host is not there; None where it is, or is tried first."""
        if host.standing is HostState.REFUSED:
            return HostState.REFUSED
        first = host.born <= 1 and host.standing is HostState.STARTING
        return None if host.ready or first or not host.born else HostState.AWAY

    def _words(self, host: Host) -> str:
        if host.ready:
            return self._reason(host) + self._counted_twice(host)
        reason = host.reason
        return f"{reason} ({host.fix})" if host.fix else reason

    def _counted_twice(self, host: Host) -> str:
        """What is told of a host that is the machine of one before it, and too much for that."""
        hosts = self._fleet.hosts.values() if self._fleet is not None else ()
        others = [
            each
            for each in hosts
            if each is not host
            and self._told.get(each.name)
            and is_one_machine(each.hello, host.hello)
        ]
        slots = host.usable + sum(each.usable for each in others)
        cores = int(host.hello.get("cores") or slots)
        if not others or slots <= cores:
            return ""
        names = " and ".join(each.name for each in others)
        return (
            f"; it is the same machine as {names}: {slots} slots on {cores}"
            f" core{'s' if cores > 1 else ''}, leave one of the names out"
        )

    def _is_open(self, fleet: Fleet) -> bool:
        """Whether tasks may be given: the required hosts are, or once were, ready.

        Raises:
            NodesMissing: they are not, and will not be in time.
        """
        if self._open:
            return True
        hosts = fleet.hosts.values()
        ready = sum(1 for host in hosts if host.ready and self._slots(host))
        required = min(self._required, len(hosts))
        never = sum(host.standing is HostState.REFUSED for host in hosts)
        # A probe that is being drawn has a limit of its own, and what it comes to is then told.
        late = self._attention.now > self._deadline and not fleet.deciding
        # All that is wrong is told at once: who may still turn out well, or not, is waited for.
        settled = not any(host.standing is HostState.STARTING for host in hosts)
        if ready >= required:
            self._open = True
        elif late or (len(hosts) - never < required and settled):
            raise self._missing(fleet, ready, required)
        return self._open

    def _missing(self, fleet: Fleet, ready: int, required: int) -> NodesMissing:
        lines = [
            f"{host.name}: {self._words(host)}"
            for host in fleet.hosts.values()
            if not (host.ready and self._slots(host))
        ]
        text = f"{ready} of {required} required hosts are ready; missing:\n" + "\n".join(lines)
        fix = f"mend them, or go on without them: --set nodes.required={ready}" if ready else None
        return NodesMissing(text, fix=fix)

    def _feed(self, fleet: Fleet, source: Source) -> bool:
        """Give tasks until the source pauses; True at its end."""
        if self.chooses:
            answer: Task | Pause = Pause.NOW
            while isinstance(answer := source.take(None), Task):
                self._start(answer, None, fleet, source)
            return answer is Pause.END
        ended = False
        for host in fleet.hosts.values():
            if self._told.get(host.name, 0) and host.ready:
                ended = self._feed_host(host, fleet, source) or ended
        return ended

    def _feed_host(self, host: Host, fleet: Fleet, source: Source) -> bool:
        while isinstance(answer := source.take(host.name), Task):
            self._start(answer, host, fleet, source)
        return answer is Pause.END

    def _start(self, task: Task, host: Host | None, fleet: Fleet, source: Source) -> None:
        if task.run:
            for each in [host] if host else fleet.hosts.values():
                each.introduce(source.work_of(task.run))
        self._taken[task.id] = task, host.name if host else ""
        self._give(task, host)

    def _overdue(self) -> Iterator[Outcome]:
        """Answer for revoked tasks that nobody answers, though their hosts are there."""
        now = self._attention.now
        for number in [n for n, since in self._revoked.items() if now - since > _UNANSWERED]:
            del self._revoked[number]
            if number in self._taken:
                task, name = self._taken[number]
                reason = f"revoked, and not answered for {_UNANSWERED:g} s"
                yield self._without(task, reason, name, kind="timeout")

    def _revoke(self, fleet: Fleet, wanted: Collection[int]) -> Collection[int]:
        """Have the agents kill what draws a task that was revoked; those that were just now."""
        revoked, now = self._taken.keys() & set(wanted), self._attention.now
        fresh = revoked - self._revoked.keys()
        self._revoked = {number: self._revoked.get(number, now) for number in revoked}
        for number in fresh:
            _, name = self._taken[number]
            for host in [fleet.hosts[name]] if name in fleet.hosts else fleet.hosts.values():
                host.say({"revoke": [number]})
        return fresh


def _how_to_attach() -> str:
    able = (f"{each.name} and {each.name}: {{{each.attach[0]}: ...}}" for each in that_attach())
    return f"leave attach out; or resume the run with backend {' or '.join(able)}"
