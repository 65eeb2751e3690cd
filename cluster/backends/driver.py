"""An engine's driver: a process of its own that imports the engine, supervised by the dispatcher.

An engine that dies, hangs or has to be killed takes nothing else with it: its tasks are given to a
new driver. The two sides exchange JSON lines over an abstract Unix socket, which accepts only this
user; standard output is not used for them, because engines print on it. The dispatcher sends
``{"setup": ...}``, ``{"host": ...}``, ``{"gone": name, "reason": text}``, ``{"revoke": [ids]}`` and
``{"task": [...], "node": name or null}``. The driver sends ``{"driver": pid}``, ``{"up": name,
"slots": n, "reason": text}``, ``{"down": name, "reason": text}``, ``{"outcome": [...]}``,
``{"lost": id, "reason": text}``, ``{"beat": n}`` each second, and ``{"wrong": text, "fix": text}``.
"""

from __future__ import annotations

import json
import os
import selectors
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from cluster.backends.base import Options
from cluster.backends.hosted import Hosted
from cluster.backends.kit.remote import RemoteProcess
from cluster.common.backoff import ListeningClock
from cluster.common.descriptors import raised
from cluster.common.errors import EngineError
from cluster.hosts.child_process import Child
from cluster.hosts.connect import Fleet, Host
from cluster.hosts.jsonlines import Connection, Listener, SocketConnection, dial
from cluster.hosts.nodes import Node
from cluster.hosts.worker_pool import python_command
from cluster.sampling.task import Outcome, Task, Work

_ADDRESS = "CLUSTER_DRIVER"
# A driver sends a heartbeat each second; without one for this long, it hangs.
_SILENT = 10.0
# After this many drivers in a row that died without any outcome, the engine has failed.
_STARTS = 3
# Seconds for a driver to end by itself before it is killed.
_GRACE = 3.0


def connect(
    selector: selectors.BaseSelector, decode: Callable[[bytes], Any] = json.loads
) -> Connection:
    """Connect a driver to the dispatcher that started this process.

    Args:
        selector: watches the connection.
        decode: see :class:`cluster.hosts.jsonlines.Lines`.
    """
    raised()  # the limit of open files: an engine has one or two connections per host
    wire = SocketConnection(dial(os.environ[_ADDRESS]), selector, decode)
    wire.queue({"driver": os.getpid()})
    wire.send()
    return wire


class DriverProcess:
    """The dispatcher's side of one driver process.

    Args:
        command: its arguments; no shell is involved, and they contain no secret.
        environment: its environment, to which the socket's address is added.
        selector: watches its connection and its output.
        ready: seconds within which it must connect.

    Raises:
        EngineError: the command could not be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        selector: selectors.BaseSelector,
        ready: float,
    ) -> None:
        self._ready = ready
        self._door = Listener(selector)
        self._wire: SocketConnection | None = None
        self._attention = ListeningClock()
        self._since = self._heard = self._attention.now
        self._unsent: list[Any] = []
        try:
            self._child = Child(
                command,
                selector,
                talks=False,
                environment={**environment, _ADDRESS: self._door.address},
            )
        except OSError as error:
            self._door.close()
            raise EngineError(f"the engine could not be started: {error}") from None

    def say(self, message: Mapping[str, Any] | Task) -> None:
        """Queue a message; before the driver has connected, the message is kept for it."""
        if self._wire is None:
            self._unsent.append(message)
        else:
            self._wire.queue(message)

    def send(self) -> None:
        """Send the queued messages."""
        if self._wire is not None:
            self._wire.send()

    def messages(self) -> list[Any]:
        """The messages since the last call, without heartbeats."""
        now = self._attention.look()
        if self._wire is None:
            self._accept()
        messages = self._wire.messages() if self._wire else []
        if messages:
            self._heard = now
        return [each for each in messages if "beat" not in each]

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return self._attention.now - self._since

    @property
    def fault(self) -> str:
        """Why it is unusable; empty if it is healthy."""
        quiet = self._attention.now - self._heard
        if self._child.gone:
            return "it has ended"
        if self._wire is None:
            return f"it did not connect within {self._ready:g} s" if quiet > self._ready else ""
        if self._wire.ended or self._wire.wrong:
            return self._wire.wrong or "it closed its connection"
        return f"it was not heard of for {quiet:.0f} s" if quiet > _SILENT else ""

    def close(self, grace: float = _GRACE) -> str:
        """End it, by force if it does not end by itself.

        Args:
            grace: seconds to wait before it is killed.

        Returns:
            How it ended, for people.
        """
        self._door.close()
        if self._wire is not None:
            self._wire.close()
        self._child.close_input()
        self._child.wait(time.monotonic() + grace)
        return self._child.reap()

    def _accept(self) -> None:
        for caller in self._door.callers():
            if self._wire is not None:
                caller.close()
                continue
            self._wire, self._heard = caller, self._attention.now
            for message in self._unsent:
                caller.queue(message)
            self._unsent.clear()
            caller.send()


class DriverBackend(Hosted):
    """An engine of several hosts: one driver here, and processes of the engine on the hosts.

    To the driver each such process is a host; it knows it by the name of its ``RemoteProcess``.

    Attributes:
        driver: the module whose ``main`` the driver runs.
        process: the module whose ``main`` the processes on the hosts run.
        what: what messages for people call such a process, such as ``its server``.
    """

    driver: ClassVar[str]
    process: ClassVar[str]
    what: ClassVar[str]

    def __init__(self, nodes: Sequence[Node], options: Options) -> None:
        super().__init__(nodes, options)
        self._driver: DriverProcess | None = None
        # Slots and reason of each process, by its name, as the driver reported them.
        self._up: dict[str, tuple[int, str]] = {}
        self._ready_hosts: dict[str, Host] = {}
        # The processes on each host, by the host's name.
        self._remotes: dict[str, list[RemoteProcess]] = {}
        # Drivers in a row that were lost without an outcome.
        self._barren = 0
        self._reason_down = "the engine is not up yet"

    # -- what an engine is ------------------------------------------------------------------------

    def _command(self) -> Sequence[str]:
        """The arguments that start its driver."""
        return python_command(sys.executable, self.driver)

    def _setup(self) -> dict[str, Any]:
        """The driver's first message; secrets go here, because others can read arguments."""
        return {}

    def _join(self, host: Host) -> None:
        """Introduce a ready host to a driver that does not know it yet; see :meth:`_run_on`."""
        raise NotImplementedError

    def _on_process(self, host: Host, remote: RemoteProcess, said: Mapping[str, Any]) -> None:
        """Handle a message of a process of the engine on a host."""
        raise NotImplementedError

    def _on_said(self, message: Mapping[str, Any]) -> None:
        """Handle a message of the driver that only this engine has."""

    # -- the hooks of Hosted ----------------------------------------------------------------------

    def _begin(self, work: Work) -> None:
        self._start_driver()

    def _stop(self) -> None:
        if self._driver is not None:
            self._driver.close()
            self._driver = None

    def _on_ready(self, host: Host) -> None:
        self._ready_hosts[host.name] = host
        self._join(host)

    def _on_gone(self, host: Host) -> None:
        self._ready_hosts.pop(host.name, None)
        for remote in self._remotes.pop(host.name, ()):
            self._forget(remote, host.reason)

    def _slots(self, host: Host) -> int:
        return min(host.usable, sum(slots for slots, _ in self._states(host)))

    def _reason(self, host: Host) -> str:
        return min(self._states(host), default=(0, self._reason_down))[1]

    def _states(self, host: Host) -> list[tuple[int, str]]:
        """Slots and reason of each process on a host that the driver has reported."""
        names = [remote.name for remote in self._remotes.get(host.name, ())]
        return [self._up[name] for name in names if name in self._up]

    def _give(self, task: Task, host: Host | None) -> None:
        self._say({"task": task, "node": host.name if host else None})

    def _revoke(self, fleet: Fleet, wanted: Collection[int]) -> Collection[int]:
        fresh = super()._revoke(fleet, wanted)
        if fresh:
            self._say({"revoke": sorted(fresh)})
        return fresh

    def _flush(self) -> None:
        if self._driver is not None:
            self._driver.send()

    def _tend(self) -> Iterator[Outcome]:
        now = self._attention.now
        for name, remotes in self._remotes.items():
            for remote in remotes:
                if reason := remote.tend(now, used=bool(self._up.get(remote.name, (0, ""))[0])):
                    self._forget(remote, reason)
                    # The next process may take another name; until then the host's stands for it.
                    self._up[name] = 0, reason
                    remote.name = name
        if self._driver is None:
            return
        for message in self._driver.messages():
            yield from self._heard(message)
        if fault := self._driver.fault:
            yield from self._renew(fault)

    def _on_told(self, host: Host, message: dict[str, Any]) -> None:
        for remote in self._remotes.get(host.name, ()):
            said = remote.hear(message, self._attention.now)
            if said is not None:
                self._on_process(host, remote, said)

    # -- the processes on the hosts ---------------------------------------------------------------

    def _run_on(self, host: Host, first: Mapping[str, Any], count: int = 1) -> None:
        """Run processes of the engine on a host; any that run there are killed first.

        Args:
            host: a ready host.
            first: the first message of each process, which may contain secrets.
            count: the number of processes.
        """
        for remote in self._remotes.get(host.name, ()):
            remote.kill("", self._attention.now)
        self._remotes[host.name] = [
            RemoteProcess(self.what, host, self.process, first, self.options.ready)
            for _ in range(count)
        ]

    def _forget(self, remote: RemoteProcess, reason: str) -> None:
        """Tell the driver that a process is lost, and why; the driver reports its tasks as lost."""
        self._say({"gone": remote.name, "reason": reason})
        self._up.pop(remote.name, None)

    # -- the driver -------------------------------------------------------------------------------

    def _say(self, message: Mapping[str, Any]) -> None:
        if self._driver is not None:
            self._driver.say(message)

    def _start_driver(self) -> None:
        self._driver = DriverProcess(
            self._command(), os.environ, self._selector, self.options.ready
        )
        self._driver.say({"setup": self._setup()})

    def _heard(self, message: Mapping[str, Any]) -> Iterator[Outcome]:
        if "outcome" in message:
            self._barren = 0
            yield Outcome.from_json(message["outcome"])
        elif "lost" in message:
            task, name = self._taken.get(message["lost"], (None, ""))
            if task is not None:
                yield self._without(task, str(message["reason"]), name)
        elif "up" in message:
            self._up[message["up"]] = int(message["slots"]), str(message["reason"])
        elif "down" in message:
            self._up[message["down"]] = 0, str(message["reason"])
        elif "wrong" in message:
            raise EngineError(str(message["wrong"]), fix=message.get("fix"))
        else:
            self._on_said(message)

    def _renew(self, fault: str) -> Iterator[Outcome]:
        """Replace a failed driver: return its tasks, and introduce the hosts to a new one.

        Raises:
            EngineError: several drivers in a row brought no outcome.
        """
        assert self._driver is not None
        driver, self._driver = self._driver, None
        how = driver.close(grace=0.0)  # it has failed already: waiting would stall the loop
        self._reason_down = f"the engine's driver was lost: {fault}; {how}"
        self._up.clear()
        for task, name in tuple(self._taken.values()):
            yield self._without(task, self._reason_down, name)
        self._barren += 1
        if self._barren >= _STARTS:
            raise EngineError(self._reason_down)
        self._start_driver()
        for host in tuple(self._ready_hosts.values()):
            with suppress(KeyError):
                self._join(host)
