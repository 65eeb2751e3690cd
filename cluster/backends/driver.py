"""An engine's driver: a process of its own that imports the engine, supervised by the dispatcher.

When an engine dies, hangs or must be killed, nothing else does: what was given to it is given to a
fresh one. The two sides talk JSON lines over a socket that is on no disk and answers only this
user; what the engine prints is for people. To the driver go ``{"setup": ...}``, ``{"host": ...}``,
``{"gone": name, "reason": text}``, ``{"revoke": [ids]}`` and ``{"task": [...], "node": name or
null}``; from it come ``{"driver": pid}``, ``{"up": name, "slots": n, "reason": text}``, ``{"down":
name, "reason": text}``, ``{"outcome": [...]}``, ``{"lost": id, "reason": text}``, ``{"beat": n}``
each second and ``{"wrong": text, "fix": text}``.
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
# A driver beats each second; one that does not is hung, or its machine is.
_SILENT = 10.0
# A driver that dies so many times in a row without bringing anything is not started again.
_STARTS = 3
_GRACE = 3.0


def connect(
    selector: selectors.BaseSelector, decode: Callable[[bytes], Any] = json.loads
) -> Connection:
    """The driver's side: a wire to the dispatcher that started this process."""
    raised()  # a connection or two to each host
    wire = SocketConnection(dial(os.environ[_ADDRESS]), selector, decode)
    wire.queue({"driver": os.getpid()})
    wire.send()
    return wire


class DriverProcess:
    """The dispatcher's side of one driver process.

    Args:
        command: its arguments; no shell is involved, and no secret is in them.
        environment: its environment, to which the socket's address is added.
        selector: watches it.
        ready: seconds within which it must connect.
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
        """Tell it something; what is said before it has connected waits for that."""
        if self._wire is None:
            self._unsent.append(message)
        else:
            self._wire.queue(message)

    def send(self) -> None:
        """Send what was said."""
        if self._wire is not None:
            self._wire.send()

    def messages(self) -> list[Any]:
        """What it said since the last call."""
        now = self._attention.look()
        if self._wire is None:
            self._meet()
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
        """Why it is of no use any more, or empty."""
        quiet = self._attention.now - self._heard
        if self._child.gone:
            return "it has ended"
        if self._wire is None:
            return f"it did not connect within {self._ready:g} s" if quiet > self._ready else ""
        if self._wire.ended or self._wire.wrong:
            return self._wire.wrong or "it closed its connection"
        return f"it was not heard of for {quiet:.0f} s" if quiet > _SILENT else ""

    def close(self, grace: float = _GRACE) -> str:
        """End it, by itself or by force; how it ended."""
        self._door.close()
        if self._wire is not None:
            self._wire.close()
        self._child.close_input()
        self._child.wait(time.monotonic() + grace)
        return self._child.reap()

    def _meet(self) -> None:
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
    """An engine of several hosts: a driver here, and processes of the engine's own on the hosts.

    The driver knows each process as a host, by the name that the process has here.

    Attributes:
        driver, process: the modules whose ``main`` they run.
        what: what the person is told that a process on a host is.
    """

    driver: ClassVar[str]
    process: ClassVar[str]
    what: ClassVar[str]

    def __init__(self, nodes: Sequence[Node], options: Options) -> None:
        super().__init__(nodes, options)
        self._driver: DriverProcess | None = None
        self._up: dict[str, tuple[int, str]] = {}
        self._ready_hosts: dict[str, Host] = {}
        self._remotes: dict[str, list[RemoteProcess]] = {}
        self._barren = 0
        self._reason_down = "the engine is not up yet"

    # -- what an engine is ------------------------------------------------------------------------

    def _command(self) -> Sequence[str]:
        """The arguments that start its driver."""
        return python_command(sys.executable, self.driver)

    def _setup(self) -> dict[str, Any]:
        """What the driver is told first; the place for secrets."""
        return {}

    def _join(self, host: Host) -> None:
        """A ready host is to be used by a driver that does not know it yet: see :meth:`_run_on`."""
        raise NotImplementedError

    def _on_process(self, host: Host, remote: RemoteProcess, said: Mapping[str, Any]) -> None:
        """A process of the engine on a host said something."""
        raise NotImplementedError

    def _on_said(self, message: Mapping[str, Any]) -> None:
        """The driver said something that only its engine understands."""

    # -- what Hosted asks -------------------------------------------------------------------------

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
        """The slots that each of its processes gives, and why so many."""
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
        """Have processes of the engine on a host, in the place of those that are there.

        Args:
            host: a ready one.
            first: what each is told first; the place for secrets.
            count: so many.
        """
        for remote in self._remotes.get(host.name, ()):
            remote.kill("", self._attention.now)
        self._remotes[host.name] = [
            RemoteProcess(self.what, host, self.process, first, self.options.ready)
            for _ in range(count)
        ]

    def _forget(self, remote: RemoteProcess, reason: str) -> None:
        """A process is gone, for this reason, with what it had."""
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
        """The driver is of no use: what it had is owed, and a fresh one is told of the hosts.

        Raises:
            EngineError: several in a row brought nothing.
        """
        assert self._driver is not None
        driver, self._driver = self._driver, None
        how = driver.close(grace=0.0)
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
