"""What all engines of several hosts share: agents on the hosts, and one main loop.

Kernels always run in the agents' worker processes, and only the agents decide whether a host is
up. An engine merely carries tasks to hosts and outcomes back.
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

# Seconds to wait for the outcome of a revoked task. Its worker is killed at once, so if none comes
# the engine has lost the task. Without this limit such a task would keep a run from draining.
_UNANSWERED = 15.0


class Hosted(Backend):
    """An engine of several hosts; a subclass defines how tasks travel.

    Attributes:
        chooses: the engine itself chooses the host of a task, so ``_give`` gets no host.
    """

    chooses = False

    def __init__(self, nodes: Sequence[Node], options: Options) -> None:
        super().__init__(nodes, options)
        self._selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._attention = ListeningClock()
        self._fleet: Fleet | None = None
        # Tasks without an outcome, by id, and the host of each; empty: not known (yet).
        self._taken: dict[int, tuple[Task, str]] = {}
        # Slots of each host, and its absence, as last reported by a NodeEvent.
        self._told: dict[str, int] = {}
        self._named: dict[str, HostState | None] = {}
        # When each revoked task was revoked.
        self._revoked: dict[int, float] = {}
        # Hosts that are draining, and hosts that an engine which chooses must give nothing.
        self._leaving: set[str] = set()
        self._shut: set[str] = set()
        self._required = options.required or len(self.nodes)
        self._deadline = 0.0
        self._open = False

    def __exit__(self, *exc_info: object) -> None:
        self._stop()
        if self._fleet is not None:
            self._fleet.close()
        self._selector.close()

    # -- what an engine is ------------------------------------------------------------------------

    def _begin(self, work: Work) -> None:
        """Start the engine; the agents are being started at the same time."""

    def _stop(self) -> None:
        """Stop the engine; the agents still run."""

    def _on_ready(self, host: Host) -> None:
        """Start what the engine needs on a host whose new agent has completed its handshake."""

    def _on_gone(self, host: Host) -> None:
        """Forget a host that was lost together with all processes on it."""

    def _bar(self, host: Host, shut: bool) -> None:
        """Stop giving tasks to a host, or resume it; for an engine that chooses."""

    def _may_go(self, host: Host) -> bool:
        """Whether a draining host has no task left."""
        return all(name != host.name for _, name in self._taken.values())

    def _on_told(self, host: Host, message: dict[str, Any]) -> None:
        """Handle an agent's report about a command that the engine started there."""

    def _slots(self, host: Host) -> int:
        """How many tasks the engine can have drawn on a ready host at the same time."""
        return host.usable

    def _reason(self, host: Host) -> str:
        """The reason for that number of slots, for people."""
        return host.reason

    def _give(self, task: Task, host: Host | None) -> None:
        """Queue a task for a host; None if the engine chooses it."""
        raise NotImplementedError

    def _flush(self) -> None:
        """Send the queued tasks."""

    def _tend(self) -> Iterator[Outcome]:
        """Do the engine's periodic work, and yield the outcomes that have arrived."""
        yield from ()

    # -- the loop ---------------------------------------------------------------------------------

    def run(self, work: Work, source: Source) -> Items:
        """Start the agents, and draw tasks on every host that is ready.

        Args:
            work: the work of tasks that name no run of their own; its kernel is the first probed.
            source: provides the tasks.

        Raises:
            NodesMissing: fewer hosts than required are ready in time.
            EngineError: the engine itself failed.
        """
        sweep()  # removes files of engines here whose dispatcher was killed
        kinds = {"patience": Patience(probe=self.options.probing), **self._kinds()}
        self._fleet = fleet = Fleet(self.nodes, work, self._selector, **kinds)
        fleet.limit(self.options.memory)
        fleet.hold_to(self.options.kernels, self.options.probes, self.options.probed)
        self._deadline = self._attention.now + self.options.launch
        self._begin(work)
        ended = False
        while True:
            self._attention.look()
            for event in fleet.tend():
                yield from self._on(event, source)
            for outcome in self._tend():
                yield from self._answered(outcome)
            yield from self._overdue()
            # Before feeding: the dispatcher must know a host's slots when it gives it tasks.
            yield from self._slot_changes(fleet)
            self._bar_hosts(fleet, source)
            yield from self._remove_drained(fleet)
            ended = (self._is_open(fleet) and self._feed(fleet, source)) or ended
            if ended and not self._taken:
                return
            # After feeding, so that a task that was taken and revoked in this turn is covered.
            self._revoke(fleet, source.revoked())
            self._flush()
            fleet.send()
            for key, mask in self._selector.select(self.options.tick):
                key.data(mask)
            yield None

    def resize(self, nodes: Sequence[Node]) -> None:
        """Add new hosts at once, and drain those that are gone from the list or changed.

        Raises:
            UsageError: a node has ``attach``, which this run's options do not allow.
        """
        for node in nodes:
            if node.attach is not None and not self.options.attaches:
                reason = f"{node.host}: this run cannot attach to a node that stands"
                raise UsageError(reason, fix=_how_to_attach())
        self.nodes = tuple(nodes)
        if self._fleet is not None:
            wanted = {node.host: node for node in nodes}
            hosts = self._fleet.hosts.items()
            # A host whose settings changed leaves first, and is added again once it is removed.
            self._leaving |= {name for name, host in hosts if wanted.get(name) != host.node}
            self._fleet.add(nodes)

    def _bar_hosts(self, fleet: Fleet, source: Source) -> None:
        """Tell an engine that chooses which hosts must get no tasks now."""
        if not self.chooses:
            return
        useless = (name for name, host in fleet.hosts.items() if host.ready and not host.usable)
        shut = fleet.hosts.keys() & {*self._leaving, *source.avoided(), *useless}
        for name in shut ^ (self._shut & fleet.hosts.keys()):
            self._bar(fleet.hosts[name], name in shut)
        self._shut = shut

    def _remove_drained(self, fleet: Fleet) -> Iterator[NodeEvent]:
        """Remove the draining hosts that have no task left."""
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
        """Keyword arguments for :class:`cluster.hosts.connect.Fleet`."""
        return {"tells": self.chooses}

    def _on(self, event: HostEvent, source: Source) -> Iterator[Outcome | NodeEvent | PrintedLines]:
        host, change, message = event
        if change is Change.READY:
            self._prepare_agent(host, source)
            self._on_ready(host)
        elif change in (Change.GONE, Change.REFUSED):
            self._on_gone(host)
        if change is Change.TOLD:
            yield from self._on_message(host, message)
        elif not host.ready:
            yield from self._lost(host)

    def _prepare_agent(self, host: Host, source: Source) -> None:
        """Prepare a new agent for tasks that an engine which chooses has already been given.

        The engine may still send them to this host, without the dispatcher knowing in advance.
        """
        if self.chooses:
            for run in {task.run for task, _ in self._taken.values() if task.run}:
                host.introduce(source.work_of(run))
            host.say({"revoke": sorted(self._revoked)})

    def _on_message(self, host: Host, message: Any) -> Iterator[Outcome | PrintedLines]:
        if isinstance(message, list):
            yield from self._answered(Outcome.from_json(message)._replace(node=host.name))
        elif "printed" in message:
            yield PrintedLines.from_json(message["printed"])._replace(node=host.name)
        elif "began" in message:
            task, _ = self._taken.get(message["began"], (None, ""))
            if task is not None:
                self._taken[task.id] = task, host.name
        else:
            self._on_told(host, message)

    def _answered(self, outcome: Outcome) -> Iterator[Outcome]:
        """Yield an outcome; the dispatcher compares late copies with what it has counted."""
        self._taken.pop(outcome.task, None)
        yield outcome

    def _lost(self, host: Host) -> Iterator[Outcome]:
        """Return the tasks of a host that is lost or silent, so that others can draw them.

        If no host is left, that includes the tasks that an engine which chooses has given to none.
        """
        any_left = self._fleet is not None and any(h.ready for h in self._fleet.hosts.values())
        for task, name in tuple(self._taken.values()):
            if name == host.name or not (name or any_left):
                yield self._without(task, host.reason, name, kind="stranded")

    def _without(self, task: Task, reason: str, name: str = "", kind: str = "returned") -> Outcome:
        """The outcome of a task that a host or the engine has lost."""
        self._taken.pop(task.id, None)
        return Outcome.without_answer(task, kind, reason, None)._replace(node=name)

    def _slot_changes(self, fleet: Fleet) -> Iterator[NodeEvent]:
        for host in tuple(fleet.hosts.values()):  # the consumer of the events may resize
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
        """Whether an absence has to be reported, even of a host that never had a slot.

        It is reported once, and again only if the host changes between AWAY and REFUSED.
        """
        absence = self._absence(host)
        return absence is not None and absence is not self._named.get(host.name)

    def _absence(self, host: Host) -> HostState | None:
        """AWAY or REFUSED if a host is missing; None if it is up, or in its first attempt."""
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
        """A warning if several names are one machine, with more slots than cores; else empty."""
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
        """Whether tasks may be given: the required hosts are ready, or once were.

        Raises:
            NodesMissing: they are not, and cannot be in time.
        """
        if self._open:
            return True
        hosts = fleet.hosts.values()
        ready = sum(1 for host in hosts if host.ready and self._slots(host))
        required = min(self._required, len(hosts))
        never = sum(host.standing is HostState.REFUSED for host in hosts)
        # A probe in progress has its own deadline; failing earlier would hide its result.
        late = self._attention.now > self._deadline and not fleet.deciding
        # Wait for hosts that are still starting, so that one error names all that is wrong.
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
        """Give tasks until the source pauses; True if it has ended."""
        if self.chooses:
            answer: Task | Pause = Pause.NOW
            while isinstance(answer := source.take(None), Task):
                self._start(answer, None, fleet, source)
            return answer is Pause.END
        ended = False
        for host in fleet.hosts.values():
            # Only hosts whose slots were reported: the dispatcher knows no others.
            if self._told.get(host.name, 0) and host.ready:
                ended = self._feed_host(host, fleet, source) or ended
        return ended

    def _feed_host(self, host: Host, fleet: Fleet, source: Source) -> bool:
        while isinstance(answer := source.take(host.name), Task):
            self._start(answer, host, fleet, source)
        return answer is Pause.END

    def _start(self, task: Task, host: Host | None, fleet: Fleet, source: Source) -> None:
        if task.run:
            # The agents need the work of a run before its first task. If the engine chooses the
            # host, the task may reach any of them.
            for each in [host] if host else fleet.hosts.values():
                each.introduce(source.work_of(task.run))
        self._taken[task.id] = task, host.name if host else ""
        self._give(task, host)

    def _overdue(self) -> Iterator[Outcome]:
        """Give up revoked tasks that have no outcome in time, although their hosts are up."""
        now = self._attention.now
        for number in [n for n, since in self._revoked.items() if now - since > _UNANSWERED]:
            del self._revoked[number]
            if number in self._taken:
                task, name = self._taken[number]
                reason = f"revoked, and not answered for {_UNANSWERED:g} s"
                yield self._without(task, reason, name, kind="timeout")

    def _revoke(self, fleet: Fleet, wanted: Collection[int]) -> Collection[int]:
        """Have the agents kill the workers of revoked tasks; returns the newly revoked ids."""
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
