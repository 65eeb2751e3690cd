"""All hosts of a run, and the events on them."""

from __future__ import annotations

import selectors
import time
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple

from cluster.hosts.connect.host import (
    Dial,
    Host,
    HostState,
    Patience,
    first_words,
    start_agent,
)
from cluster.hosts.connect.judge import Judge
from cluster.hosts.connect.jury import Jury, Probed
from cluster.hosts.connect.own import Own
from cluster.hosts.fingerprint import fingerprint
from cluster.hosts.nodes import Node
from cluster.sampling.task import Outcome, Work

# Seconds for an agent to end by itself before its connection is closed by force.
_GRACE = 3.0


class Change(Enum):
    """The kind of an event on a host."""

    READY = "a fresh agent of it has shaken hands"
    SLOTS = "it has another number of usable slots, or is silent, or heard again"
    GONE = "its agent is lost, with all that it had"
    REFUSED = "it will not be used"
    TOLD = "its agent said something that is for the engine"


class HostEvent(NamedTuple):
    """An event on a host.

    Attributes:
        host: the host.
        change: what happened.
        message: the agent's message, if the change is TOLD.
    """

    host: Host
    change: Change
    message: Any = None


class Fleet:
    """The agents of a run's hosts.

    Args:
        nodes: the hosts.
        work: the run's first work, whose kernel every host probes.
        selector: watches all connections.
        patience: timeouts; None: the defaults.
        tells: whether agents report which tasks an engine's processes begin.
        dial: opens the channel to the agent of a node.

    Attributes:
        patience: the timeouts.
        hosts: the hosts by name, without those that were removed.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        work: Work,
        selector: selectors.BaseSelector,
        patience: Patience | None = None,
        *,
        tells: bool = False,
        dial: Dial = start_agent,
    ) -> None:
        self.patience = patience or Patience()
        self._judge = Judge([work], Jury(), self.patience.probe)
        self._selector, self._dial = selector, dial
        self._first = first_words(work, self.patience, tells=tells)
        self._here = fingerprint(work)
        self._own: Own | None = None
        self._begun = time.monotonic()
        self._seen: dict[str, tuple[HostState, int]] = {}
        self._ending: list[tuple[Host, float]] = []
        self.hosts: dict[str, Host] = {}
        self.add(nodes)

    def hold_to(
        self, others: Sequence[Work], probes: Sequence[str | None], tell: Probed | None
    ) -> None:
        """Refuse hosts where the probe of a kernel has another result than the reference.

        Args:
            others: a work of each further kernel of a sweep.
            probes: each kernel's reference, as recorded at the run's first start; None: it has to
                be found, see :mod:`cluster.hosts.connect.jury`.
            tell: called with a kernel's number and its reference once that was found.
        """
        works = [*self._judge.works, *others]
        self._judge = Judge(works, Jury(probes, tell), self.patience.probe)

    def limit(self, memory: int) -> None:
        """Set the limit of memory per slot in bytes (0: none), for agents started from now on."""
        self._first["memory"] = memory

    def add(self, nodes: Sequence[Node]) -> None:
        """Add those hosts that are not in the fleet yet."""
        for node in nodes:
            if node.name not in self.hosts:
                host = Host(
                    node, self._first, self._here, self._selector, self.patience, self._dial
                )
                self.hosts[node.name] = host
                self._seen[node.name] = (host.standing, 0)

    def remove(self, name: str) -> None:
        """Remove a host at once; its agent is given a moment to end, which is not waited for."""
        host = self.hosts.pop(name)
        host.close()
        self._ending.append((host, time.monotonic() + _GRACE))

    @property
    def deciding(self) -> bool:
        """Whether a probe is being drawn; it has a deadline of its own."""
        hosts = self.hosts.values()
        drawing = any(h.standing is HostState.STARTING and h.drawing is not None for h in hosts)
        return drawing or (self._own is not None and not self._own.settled)

    def tend(self) -> Iterator[HostEvent]:
        """Do the periodic work for every host, and yield the events since the last call."""
        self._end_removed()
        for host in tuple(self.hosts.values()):  # the consumer of the events may add or remove one
            for message in host.tend():
                # The tasks of further probes have negative ids; the engine must not see these.
                if isinstance(message, list) and message[0] < 0:
                    self._judge.on_outcome(host, Outcome.from_json(message))
                else:
                    yield HostEvent(host, Change.TOLD, message)
            if host.standing is HostState.STARTING and host.hello:
                complete = not any(map(self._is_awaited, self.hosts.values()))
                self._judge.judge(host, complete)
            yield from self._changes(host)
        self._draw()

    def _draw(self) -> None:
        """Draw the probes on this machine, too, while the agents are being started."""
        if self._own is None:
            nodes = [host.node for host in self.hosts.values()]
            self._own = Own(self._judge, nodes, self._selector, self.patience)
        self._own.tend()

    def send(self) -> None:
        """Send the messages that were queued for the hosts."""
        for host in self.hosts.values():
            host.send()

    def close(self) -> None:
        """End all agents in parallel: give them one common deadline, then use force."""
        if self._own is not None:
            self._own.close()
        for host in self.hosts.values():
            host.close()
        deadline = time.monotonic() + _GRACE
        for host in (*self.hosts.values(), *(host for host, _ in self._ending)):
            host.end(deadline)
        self.hosts.clear()
        self._ending.clear()

    def _end_removed(self) -> None:
        now = time.monotonic()
        for host, deadline in [each for each in self._ending if each[0].ended or now > each[1]]:
            host.end(now)
            self._ending.remove((host, deadline))

    def _is_awaited(self, host: Host) -> bool:
        """Whether the other hosts' judgement should wait for the probes of this one.

        Only for a host in its first attempt: one that was lost may never come back.
        """
        if host.standing is not HostState.STARTING or host.born > 1:
            return False
        early = time.monotonic() - self._begun < self.patience.others
        return self._judge.owes(host) and (early or host.drawing is not None)

    def _changes(self, host: Host) -> Iterator[HostEvent]:
        before, usable = self._seen[host.name]
        now = host.standing
        self._seen[host.name] = (now, host.usable)
        if now is before and usable == host.usable:
            return
        # A silent host still has its agent and its processes: only its slots do not count.
        up = (HostState.READY, HostState.SILENT)
        if before in up and now not in up:
            yield HostEvent(host, Change.GONE)
        if now is HostState.REFUSED and before is not now:
            yield HostEvent(host, Change.REFUSED)
        if now is HostState.READY and before not in up:
            yield HostEvent(host, Change.READY)
        if now in up:
            yield HostEvent(host, Change.SLOTS)
