"""All hosts of a run, and what happens to them."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple

from cluster.handshake import fingerprint, is_drawn, is_lost, probed
from cluster.launch.host import Host, Patience, Reach, Standing, first_words
from cluster.launch.ssh import agent_command
from cluster.nodes import Node
from cluster.work import Outcome, Work

_GRACE = 3.0
Probed = Callable[[int, str], object]


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
        self._works = [work]
        self.patience = patience or Patience()
        self._selector, self._reach = selector, reach
        self._first = first_words(work, self.patience, slots=slots, tells=tells)
        self._here = fingerprint(work)
        self._known: dict[int, tuple[str, str]] = {}
        self._probed: Probed | None = None
        self._seen: dict[str, tuple[Standing, int]] = {}
        self._ending: list[tuple[Host, float]] = []
        self.hosts: dict[str, Host] = {}
        self.add(nodes)

    def hold_to(
        self, others: Sequence[Work], probes: Sequence[str | None], tell: Probed | None
    ) -> None:
        """Refuse hosts where a kernel's probe comes out otherwise than where the run was begun.

        Args:
            others: a work of each further kernel of a sweep.
            probes: how each came out there; None: the first host that draws it is what others are
                held to.
            tell: is then called with the kernel's number, and how it came out on that.
        """
        self._works += others
        self._probed = tell
        for number, probe in enumerate(probes):
            if probe is not None:
                self._known[number] = "where the run was begun", probe

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
                if isinstance(message, list) and message[0] < 0:
                    self._on_probe(host, Outcome.from_json(message))
                else:
                    yield Happening(host, Change.TOLD, message)
            if host.standing is Standing.STARTING and host.hello:
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

    def _on_probe(self, host: Host, outcome: Outcome) -> None:
        """A further kernel was probed there; where its worker died, it may be asked anew."""
        if is_lost(outcome, host.lost_probes):
            host.lost_probes += 1
            host.ask(-outcome.task, self._works[-outcome.task])
        else:
            host.probes[-outcome.task] = probed(outcome)

    def _judge(self, host: Host) -> None:
        """Accept a host that has shaken hands, if all probes came out as on the others.

        The further kernels of a sweep are asked for once the first one was drawn.
        """
        if host.probes and not host.asked:
            host.asked = True
            for number, work in enumerate(self._works[1:], 1):
                host.ask(number, work)
        if len(host.probes) < len(self._works):
            return
        held = {n: known for n, known in self._known.items() if n in host.probes}
        differing = [n for n, (_, known) in held.items() if known != host.probes[n]]
        if differing:
            self._refuse(host, differing[0], held[differing[0]][0])
        else:
            self._learn(host)
            host.accept()

    def _learn(self, host: Host) -> None:
        """Hold others to what came out on a host first; how a kernel fails there holds nobody."""
        for number, probe in host.probes.items():
            if number not in self._known and is_drawn(probe):
                self._known[number] = f"on {host.name}", probe
                if self._probed is not None:
                    self._probed(number, probe)

    def _refuse(self, host: Host, number: int, where: str) -> None:
        name = f" {self._works[number].source.name}" if len(self._works) > 1 else ""
        if not is_drawn(host.probes[number]):
            words = f"the kernel{name} {host.probes[number]} there, and did not {where}"
            host.refuse(words, "see that it can be imported and run there, or leave the host out")
            return
        host.refuse(
            f"a few samples of the kernel{name} came out differently there than {where}"
            " (another type of CPU, or other libraries)",
            "leave the host out, or run the kernel only on hosts of its kind",
        )

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
