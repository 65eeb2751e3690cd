"""The engine ``scoop``: SCOOP's broker and origin here, its workers on the hosts."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.backends.driver import Driven
from cluster.backends.scoop.seal import fresh_key
from cluster.launch import Host, is_here
from cluster.slots import python_command
from cluster.work import Outcome, Work

_DRIVER = "cluster.backends.scoop.driver"
_WORKER = "cluster.backends.scoop.worker"
_LONGEST = 15.0
_LOOPBACK = "127.0.0.1"


@dataclass
class Seat:
    """One SCOOP worker of a host.

    Attributes:
        command: the number under which the host's agent knows it; None: it is to be started.
        worker: its name in SCOOP; empty before it has joined.
        failures: how many ended in a row.
        due: when to start it.
    """

    command: int | None = None
    worker: str = ""
    failures: int = 0
    due: float = 0.0


class Engine(Driven):
    """SCOOP's workers, started by the hosts' agents, and one driver with broker and origin."""

    chooses = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._seats: dict[str, list[Seat]] = {}
        self._broker: list[Any] = []
        self._address = ""
        self._astray: list[tuple[int, str]] = []
        self._closed: set[str] = set()

    def _command(self) -> Sequence[str]:
        return python_command(sys.executable, _DRIVER)

    def _setup(self, work: Work) -> dict[str, Any]:
        self._key = fresh_key()
        return {"key": self._key, "address": self._address}

    def _begin(self, work: Work) -> None:
        """The broker listens where the hosts see us, which the first of them tells."""
        self._work = work

    def _start_driver(self) -> None:
        self._broker = []
        self._closed.clear()
        self._shut.clear()  # a fresh driver is told of it anew
        super()._start_driver()

    def _join(self, host: Host) -> None:
        seen = str(host.hello["dispatcher"])
        if self._driver is None:
            if seen == _LOOPBACK and any(not is_here(node) for node in self.nodes):
                return  # others cannot reach that; this host waits for the first of them
            self._address = seen
            self._start_driver()
        self._leave(host)
        # One more than slots: with it no slot waits for SCOOP between two tasks.
        self._seats[host.name] = [Seat() for _ in range(int(host.hello["slots"]) + 1)]

    def _leave(self, host: Host) -> None:
        for seat in self._seats.pop(host.name, []):
            if seat.command is not None:
                host.kill(seat.command)

    def _on_gone(self, host: Host) -> None:
        self._seats.pop(host.name, None)
        super()._on_gone(host)

    def _bar(self, host: Host, shut: bool) -> None:
        self._say({"shut" if shut else "open": host.name})
        self._closed.discard(host.name)

    def _may_go(self, host: Host) -> bool:
        """Once the broker has said that it gives the host nothing more."""
        idle = not any(seat.worker for seat in self._seats.get(host.name, ()))
        return (idle or host.name in self._closed) and super()._may_go(host)

    def _on_said(self, message: Mapping[str, Any]) -> None:
        if "broker" in message:
            self._broker = list(message["broker"])
        elif "shut" in message:
            self._closed.add(str(message["shut"]))
        elif "sent" in message:
            self._note(int(message["sent"]), str(message["node"]))

    def _note(self, number: int, name: str) -> None:
        """The broker gave a task to a worker of that host."""
        task, _ = self._taken.get(number, (None, ""))
        if task is not None:
            self._taken[number] = task, name
            host = self._ready_hosts.get(name)
            if host is None or not host.ready:
                self._astray.append((number, name))

    def _on_told(self, host: Host, message: dict[str, Any]) -> None:
        number = message.get("said", message.get("exited"))
        seats = self._seats.get(host.name, [])
        seat = next((each for each in seats if each.command == number), None)
        if seat is None or number is None:
            return
        if "said" in message:
            seat.worker, seat.failures = str(message["message"]["worker"]), 0
            self._up[host.name] = int(host.hello["slots"]), "ready"
        else:
            self._lose_worker(host, seat, str(message["how"]))

    def _lose_worker(self, host: Host, seat: Seat, how: str) -> None:
        """Another one is started, after a pause that grows."""
        if seat.worker:
            self._say({"left": seat.worker})
        seat.command, seat.worker = None, ""
        seat.due = time.monotonic() + min(2.0**seat.failures - 1.0, _LONGEST)
        seat.failures += 1
        if not any(each.worker for each in self._seats[host.name]):
            self._up[host.name] = 0, f"its SCOOP workers ended: {how}"

    def _tend(self) -> Iterator[Outcome]:
        yield from super()._tend()
        astray, self._astray = self._astray, []
        for number, name in astray:
            if number in self._taken:
                yield self._without(self._taken[number][0], f"{name} is silent", name)
        if self._broker:
            self._start_workers(time.monotonic())

    def _start_workers(self, now: float) -> None:
        for name, host in self._ready_hosts.items():
            if name not in self._seats:
                self._join(host)
            for seat in self._seats.get(name, []):
                if seat.command is None and now >= seat.due:
                    self._start_worker(host, seat)

    def _start_worker(self, host: Host, seat: Seat) -> None:
        address, *ports = self._broker
        first = {"key": self._key, "name": host.name, "address": address, "ports": ports}
        here = is_here(host.node)
        command = python_command("{python}", _WORKER) if here else ["{python}", "-P", "-m", _WORKER]
        seat.command = host.start(command, first=first)
