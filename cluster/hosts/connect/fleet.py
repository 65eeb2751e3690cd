"""All hosts of a run, and what happens to them."""

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

_GRACE = 3.0


class Change(Enum):
    """What became of a host."""

    READY = "a fresh agent of it has shaken hands"
    SLOTS = "it has another number of usable slots, or is silent, or heard again"
    GONE = "its agent is lost, with all that it had"
    REFUSED = "it will not be used"
    TOLD = "its agent said something that is for the engine"


class HostEvent(NamedTuple):
    """What happened to which host; ``message`` where its agent said something."""

    host: Host
    change: Change
    message: Any = None


class Fleet:
    """The agents of a run's hosts.

    Args:
        nodes: the hosts.
        work: the run's first work.
        selector: watches all connections.
        tells: whether they say which tasks an engine's processes begin.
        dial: reaches an agent of a node.
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
        """Refuse hosts where a kernel's probe comes out otherwise than it should.

        Args:
            others: a work of each further kernel of a sweep.
            probes: how each came out where the run was begun; None: this is to be judged, see
                :mod:`cluster.hosts.connect.jury`.
            tell: is then called with the kernel's number, and how it came out.
        """
        works = [*self._judge.works, *others]
        self._judge = Judge(works, Jury(probes, tell), self.patience.probe)

    def limit(self, memory: int) -> None:
        """Let no slot use more bytes than these, 0: any; for agents that have not started."""
        self._first["memory"] = memory

    def add(self, nodes: Sequence[Node]) -> None:
        """Reach these as well."""
        for node in nodes:
            if node.name not in self.hosts:
                host = Host(
                    node, self._first, self._here, self._selector, self.patience, self._dial
                )
                self.hosts[node.name] = host
                self._seen[node.name] = (host.standing, 0)

    def remove(self, name: str) -> None:
        """Have no more to do with a host: its agent is told to end, and given a moment for it."""
        host = self.hosts.pop(name)
        host.close()
        self._ending.append((host, time.monotonic() + _GRACE))

    @property
    def deciding(self) -> bool:
        """Whether a probe is being drawn, which has its own limit in time."""
        hosts = self.hosts.values()
        drawing = any(h.standing is HostState.STARTING and h.drawing is not None for h in hosts)
        return drawing or (self._own is not None and not self._own.settled)

    def tend(self) -> Iterator[HostEvent]:
        """See to every host, and tell what happened."""
        self._end_removed()
        for host in tuple(self.hosts.values()):
            for message in host.tend():
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
        """Have the probes drawn here, too; the hosts are on their way already."""
        if self._own is None:
            nodes = [host.node for host in self.hosts.values()]
            self._own = Own(self._judge, nodes, self._selector, self.patience)
        self._own.tend()

    def send(self) -> None:
        """Send what was said to the hosts."""
        for host in self.hosts.values():
            host.send()

    def close(self) -> None:
        """End all agents at once: by themselves, after a moment by force."""
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
        """Whether the probes of a host that is tried first may still come, and tell."""
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
        up = (HostState.READY, HostState.SILENT)
        if before in up and now not in up:
            yield HostEvent(host, Change.GONE)
        if now is HostState.REFUSED and before is not now:
            yield HostEvent(host, Change.REFUSED)
        if now is HostState.READY and before not in up:
            yield HostEvent(host, Change.READY)
        if now in up:
            yield HostEvent(host, Change.SLOTS)
