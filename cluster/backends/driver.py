"""An engine's driver: a process of its own that imports the engine, supervised by the dispatcher.

When an engine dies, hangs or must be killed, nothing else does: what was given to it is given to a
fresh one. The two sides talk JSON lines over a socket that is on no disk and answers only this
user; what the engine prints is for people. To the driver go ``{"setup": ...}``, ``{"host": ...}``,
``{"gone": name}``, ``{"work": ...}`` and ``{"task": [...], "node": name or null}``; from it come
``{"driver": pid}``, ``{"up": name, "slots": n, "reason": text}``, ``{"down": name, "reason":
text}``, ``{"outcome": [...]}``, ``{"lost": id, "reason": text}``, ``{"beat": n}`` each second and
``{"wrong": text, "fix": text}``.
"""

from __future__ import annotations

import json
import os
import selectors
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from cluster.backends.base import Options
from cluster.backends.hosted import Hosted
from cluster.common.backoff import ListeningClock
from cluster.common.descriptors import raised
from cluster.common.errors import EngineError
from cluster.hosts.child_process import Child
from cluster.hosts.connect import Host
from cluster.hosts.jsonlines import Connection, Listener, SocketConnection, dial
from cluster.hosts.nodes import Node
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
    """An engine of several hosts whose tasks travel through a driver."""

    def __init__(self, nodes: Sequence[Node], options: Options) -> None:
        super().__init__(nodes, options)
        self._driver: DriverProcess | None = None
        self._up: dict[str, tuple[int, str]] = {}
        self._ready_hosts: dict[str, Host] = {}
        self._barren = 0
        self._reason_down = "the engine is not up yet"

    # -- what an engine is ------------------------------------------------------------------------

    def _command(self) -> Sequence[str]:
        """The arguments that start its driver."""
        raise NotImplementedError

    def _environment(self) -> Mapping[str, str]:
        """The environment of its driver."""
        return os.environ

    def _setup(self, work: Work) -> dict[str, Any]:
        """What the driver is told first; the place for secrets."""
        return {}

    def _join(self, host: Host) -> None:
        """A ready host is to be used by a driver that does not know it yet."""
        raise NotImplementedError

    # -- what Hosted asks -------------------------------------------------------------------------

    def _begin(self, work: Work) -> None:
        self._work = work
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
        self._up.pop(host.name, None)
        self._say({"gone": host.name})

    def _slots(self, host: Host) -> int:
        return min(host.usable, self._up.get(host.name, (0, ""))[0])

    def _reason(self, host: Host) -> str:
        return self._up.get(host.name, (0, self._reason_down))[1]

    def _give(self, task: Task, host: Host | None) -> None:
        self._say({"task": task, "node": host.name if host else None})

    def _flush(self) -> None:
        if self._driver is not None:
            self._driver.send()

    def _tend(self) -> Iterator[Outcome]:
        if self._driver is None:
            return
        for message in self._driver.messages():
            yield from self._heard(message)
        if fault := self._driver.fault:
            yield from self._renew(fault)

    # -- the driver -------------------------------------------------------------------------------

    def _say(self, message: Mapping[str, Any]) -> None:
        if self._driver is not None:
            self._driver.say(message)

    def _start_driver(self) -> None:
        self._driver = DriverProcess(
            self._command(), self._environment(), self._selector, self.options.ready
        )
        self._driver.say({"setup": self._setup(self._work)})

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

    def _on_said(self, message: Mapping[str, Any]) -> None:
        """The driver said something that only its engine understands."""

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
