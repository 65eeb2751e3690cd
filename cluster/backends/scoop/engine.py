"""The engine ``scoop``: SCOOP's broker and origin here, its workers on the hosts."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.backends.base import Health
from cluster.backends.driver import DriverBackend
from cluster.backends.scoop.pin import VERSION, refusal
from cluster.backends.scoop.seal import fresh_key
from cluster.common.backoff import backoff
from cluster.common.errors import EngineError
from cluster.hosts.connect import Fleet, Host, HostState
from cluster.hosts.worker_pool import python_command
from cluster.sampling.task import Outcome, Work

_DRIVER = "cluster.backends.scoop.driver"
_WORKER = "cluster.backends.scoop.worker"
# A SCOOP worker that was not heard of for so long is stopped; one that says for so long that it is
# at something else than what the broker gave it will never have that drawn.
_SILENT, _ASTRAY = 10.0, 5.0
_STEADY, _LONGEST = 30.0, 15.0


@dataclass(eq=False)
class WorkerProcess:
    """One SCOOP worker of a host: there are as many as slots, so that each has one.

    Attributes:
        name: in SCOOP, another one at every start.
        command: the number under which the host's agent knows it; None: it is to be started.
        since, heard: when it was started, and when it was heard of last.
        joined, admitted: the broker has answered it, and may give it tasks.
        barred: the broker said that it gives it nothing any more.
        has, given: the tasks that the broker gave it last, and when.
        at: the first task of what it is having drawn, by its own words.
        ending: why it was ended.
        failures: how many ended in a row.
        due: when to start it.
    """

    name: str = ""
    command: int | None = None
    since: float = 0.0
    heard: float = 0.0
    joined: bool = False
    admitted: bool = False
    barred: bool = False
    has: Sequence[int] = field(default_factory=list)
    given: float = 0.0
    at: int | None = None
    ending: str = ""
    failures: int = 0
    due: float = 0.0

    def fault(self, now: float, ready: float, open_tasks: Collection[int]) -> str:
        """Why it is of no use any more, or empty."""
        if not self.joined:
            late = now - self.since > ready
            return f"its SCOOP worker did not join within {ready:g} s" if late else ""
        if now - self.heard > _SILENT:
            return f"its SCOOP worker was not heard of for {_SILENT:g} s"
        owes = self.has and self.heard - self.given > _ASTRAY and self.at != self.has[0]
        if owes and any(number in open_tasks for number in self.has):
            return "its SCOOP worker does not have what the broker gave it"
        return ""


class Engine(DriverBackend):
    """SCOOP's workers, started by the hosts' agents, and one driver with broker and origin."""

    chooses = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._seats: dict[str, list[WorkerProcess]] = {}
        self._doors: dict[str, list[int]] = {}

    @staticmethod
    def health() -> Health:
        """The version that is here."""
        reason, fix = refusal()
        if reason:
            return Health("scoop", False, reason, fix)
        return Health("scoop", True, f"SCOOP {VERSION}, the one that the backend works with")

    def _kinds(self) -> dict[str, Any]:
        return {}  # the broker tells which worker has a task

    def _command(self) -> Sequence[str]:
        return python_command(sys.executable, _DRIVER)

    def _setup(self, work: Work) -> dict[str, Any]:
        self._key = fresh_key()
        return {"key": self._key}

    def _begin(self, work: Work) -> None:
        reason, fix = refusal()
        if reason:
            raise EngineError(f"the dispatcher: {reason}", fix=fix)
        super()._begin(work)

    def _start_driver(self) -> None:
        self._doors.clear()
        super()._start_driver()

    def _join(self, host: Host) -> None:
        """Its SCOOP workers, if it has any, are those of a broker that is gone."""

    def _renew(self, fault: str) -> Iterator[Outcome]:
        for host in self._fleet.hosts.values() if self._fleet else ():
            self._leave(host, "")
        yield from super()._renew(fault)

    def _on_gone(self, host: Host) -> None:
        self._leave(host, host.reason)
        super()._on_gone(host)

    def _bar(self, host: Host, shut: bool) -> None:
        for seat in self._seats.get(host.name, ()):
            if seat.admitted:
                seat.barred = False
                self._say({"bar" if shut else "admit": seat.name})

    def _may_go(self, host: Host) -> bool:
        """Once the broker has said that it gives the host nothing more."""
        shut = all(seat.barred or not seat.admitted for seat in self._seats.get(host.name, ()))
        return shut and super()._may_go(host)

    def _revoke(self, fleet: Fleet, wanted: Collection[int]) -> Collection[int]:
        fresh = super()._revoke(fleet, wanted)
        if fresh:
            self._say({"revoke": sorted(fresh)})
        return fresh

    def _lost(self, host: Host) -> Iterator[Outcome]:
        """What no worker has is not kept for hosts that may come back."""
        before = set(self._taken)
        yield from super()._lost(host)
        self._say({"revoke": sorted(before - self._taken.keys())})

    # -- what is heard ----------------------------------------------------------------------------

    def _on_said(self, message: Mapping[str, Any]) -> None:
        if "listens" in message:
            self._doors[message["listens"]] = list(message["ports"])
        elif "deaf" in message:
            self._refuse_all(str(message["deaf"]), str(message["reason"]))
        elif "sent" in message:
            self._on_sent(message["sent"], str(message["worker"]))
        elif "barred" in message:
            for seat in self._seats.get(str(message["barred"]).rpartition(":")[0], ()):
                seat.barred = seat.barred or seat.name == message["barred"]
        elif "kept" in message:
            self._now_has(str(message["worker"]), [])

    def _on_sent(self, ids: Sequence[int], worker: str) -> None:
        """The broker gave these tasks to a worker."""
        name = worker.rpartition(":")[0]
        self._now_has(worker, ids)
        for number in ids:
            if number in self._taken:
                self._taken[number] = self._taken[number][0], name

    def _now_has(self, worker: str, ids: Sequence[int]) -> None:
        for seat in self._seats.get(worker.rpartition(":")[0], ()):
            if seat.name == worker:
                seat.has, seat.given = ids, self._attention.now

    def _refuse_all(self, address: str, reason: str) -> None:
        """The broker cannot listen where these hosts see us."""
        for host in self._fleet.hosts.values() if self._fleet else ():
            if host.hello.get("dispatcher") == address:
                host.refuse(
                    f"it sees this machine as {address}, where SCOOP's broker cannot listen:"
                    f" {reason}",
                    "use the backend ssh, which needs no connection from the hosts",
                )

    def _on_told(self, host: Host, message: dict[str, Any]) -> None:
        number = message.get("said", message.get("exited"))
        seats = self._seats.get(host.name, [])
        seat = next((each for each in seats if each.command == number), None)
        if seat is None or number is None:
            return
        if "exited" in message:
            self._lose_seat(host, seat, f"its SCOOP worker ended: {message['how']}")
        elif "unfit" in message["message"]:
            host.refuse(message["message"]["unfit"], message["message"]["fix"])
        else:
            seat.heard, seat.at = self._attention.now, message["message"].get("at")
            if not seat.joined:
                seat.joined = True
                self._count(host, "ready")

    # -- what is done -----------------------------------------------------------------------------

    def _tend(self) -> Iterator[Outcome]:
        yield from super()._tend()
        now = self._attention.now
        for host in self._fleet.hosts.values() if self._fleet else ():
            if host.standing in (HostState.READY, HostState.STARTING) and host.hello:
                self._tend_host(host, now)
            else:
                self._leave(host, host.reason)

    def _tend_host(self, host: Host, now: float) -> None:
        """Its SCOOP workers are started while it still shakes hands, to be there once it has."""
        address = str(host.hello["dispatcher"])
        ports = self._doors.get(address)
        if ports is None:
            self._doors[address] = []
            self._say({"listen": address})
        if not ports:
            return
        if host.name not in self._seats:
            self._seats[host.name] = [WorkerProcess() for _ in range(int(host.hello["slots"]))]
        for seat in self._seats[host.name]:
            self._tend_seat(host, seat, now)

    def _tend_seat(self, host: Host, seat: WorkerProcess, now: float) -> None:
        if seat.command is None:
            if now >= seat.due:
                self._start_seat(host, seat, now)
        elif not seat.ending:
            seat.ending = seat.fault(now, self.options.ready, self._taken)
            if seat.ending:
                host.kill(seat.command)
            elif host.ready and seat.joined and not seat.admitted and host.name not in self._shut:
                seat.admitted = True
                self._say({"admit": seat.name})

    def _start_seat(self, host: Host, seat: WorkerProcess, now: float) -> None:
        address = str(host.hello["dispatcher"])
        seat.name, seat.since = f"{host.name}:{secrets.token_hex(8)}", now
        first = {
            "key": self._key,
            "name": seat.name,
            "address": address,
            "ports": self._doors[address],
        }
        seat.command = host.start_module(_WORKER, first)

    def _lose_seat(self, host: Host, seat: WorkerProcess, how: str) -> None:
        """Another one is started, after a pause that grows."""
        reason, now = seat.ending or how, self._attention.now
        self._say({"left": seat.name, "reason": reason})
        failures = 0 if seat.joined and now - seat.since > _STEADY else seat.failures
        pause = backoff(failures - 1, 1.0, _LONGEST) if failures else 0.0
        seats = self._seats[host.name]
        seats[seats.index(seat)] = WorkerProcess(failures=failures + 1, due=now + pause)
        self._count(host, reason)

    def _leave(self, host: Host, reason: str) -> None:
        """End its SCOOP workers, or have them ended once it is heard again."""
        for seat in self._seats.pop(host.name, ()):
            if seat.command is not None:
                host.kill(seat.command)
                self._say({"left": seat.name, "reason": reason})
        self._up.pop(host.name, None)

    def _count(self, host: Host, reason: str) -> None:
        self._up[host.name] = sum(seat.joined for seat in self._seats[host.name]), reason
