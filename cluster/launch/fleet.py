"""All hosts of a run, and what happens to them."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple

from cluster.handshake import fingerprint, is_drawn
from cluster.launch.host import Host, Patience, Reach, Standing, first_words
from cluster.launch.ssh import agent_command
from cluster.nodes import Node
from cluster.work import Work

_GRACE = 3.0


class Change(Enum):
    """What became of a host."""

    READY = "a fresh agent of it has shaken hands"
    SLOTS = "it has another number of usable slots, or is silent, or heard again"
    GONE = "its agent is lost, with all that it had"
    REFUSED = "it will not be used"
    TOLD = "its agent said something that is for the engine"


class Happening(NamedTuple):
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
        slots: whether the agents keep worker processes.
        tells: whether they say which tasks an engine's processes begin.
        reach: the command that reaches the agent of a node.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        work: Work,
        selector: selectors.BaseSelector,
        patience: Patience | None = None,
        *,
        slots: bool = True,
        tells: bool = False,
        reach: Reach = agent_command,
    ) -> None:
        self.patience = patience or Patience()
        self._selector, self._reach = selector, reach
        self._first = first_words(work, self.patience, slots=slots, tells=tells)
        self._here = fingerprint(work)
        self._probe: tuple[str, str] | None = None
        self._probed: Callable[[str], object] | None = None
        self._seen: dict[str, tuple[Standing, int]] = {}
        self._ending: list[tuple[Host, float]] = []
        self.hosts: dict[str, Host] = {}
        self.add(nodes)

    def hold_to(self, probe: str | None, tell: Callable[[str], object] | None) -> None:
        """Refuse hosts where the kernel's probe comes out otherwise than where the run was begun.

        Args:
            probe: how it came out there; None: the first host is what others are held to.
            tell: is then called with how it came out on that.
        """
        self._probed = tell
        if probe is not None:
            self._probe = "where the run was begun", probe

    def add(self, nodes: Sequence[Node]) -> None:
        """Reach these as well."""
        for node in nodes:
            if node.host not in self.hosts:
                host = Host(
                    node, self._first, self._here, self._selector, self.patience, self._reach
                )
                self.hosts[node.host] = host
                self._seen[node.host] = (host.standing, 0)

    def remove(self, name: str) -> None:
        """Have no more to do with a host: its agent is told to end, and given a moment for it."""
        host = self.hosts.pop(name)
        host.close()
        self._ending.append((host, time.monotonic() + _GRACE))

    def tend(self) -> Iterator[Happening]:
        """See to every host, and tell what happened."""
        self._end_removed()
        for host in tuple(self.hosts.values()):
            for message in host.tend():
                yield Happening(host, Change.TOLD, message)
            if host.standing is Standing.STARTING and host.hello and host.probe is not None:
                self._judge(host)
            yield from self._changes(host)

    def send(self) -> None:
        """Send what was said to the hosts."""
        for host in self.hosts.values():
            host.send()

    def close(self) -> None:
        """End all agents at once: by themselves, after a moment by force."""
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

    def _judge(self, host: Host) -> None:
        """Accept a host that has shaken hands, if the kernel's probe came out as on the others."""
        assert host.probe is not None
        known = self._probe or (f"on {host.name}", host.probe)
        if known[1] != host.probe:
            host.refuse(
                f"a few samples of the kernel came out differently there than {known[0]}"
                " (another type of CPU, or other libraries)",
                "leave the host out, or run the kernel only on hosts of its kind",
            )
            return
        if self._probe is None and self._probed is not None and is_drawn(host.probe):
            self._probed(host.probe)
        self._probe = known
        host.accept()

    def _changes(self, host: Host) -> Iterator[Happening]:
        before, usable = self._seen[host.name]
        now = host.standing
        self._seen[host.name] = (now, host.usable)
        if now is before and usable == host.usable:
            return
        up = (Standing.READY, Standing.SILENT)
        if before in up and now not in up:
            yield Happening(host, Change.GONE)
        if now is Standing.REFUSED and before is not now:
            yield Happening(host, Change.REFUSED)
        if now is Standing.READY and before not in up:
            yield Happening(host, Change.READY)
        if now in up:
            yield Happening(host, Change.SLOTS)
