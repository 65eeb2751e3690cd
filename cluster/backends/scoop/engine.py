"""The engine ``scoop``: SCOOP's broker and origin here, its workers on the hosts."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.backends.base import Health
from cluster.backends.driver import DriverBackend
from cluster.backends.kit.remote import RemoteProcess
from cluster.backends.scoop.pin import VERSION, refusal
from cluster.common.errors import EngineError
from cluster.hosts.connect import Host
from cluster.sampling.task import Outcome, Work

# A worker that says for so long that it is at something else than what the broker gave it will
# never have that drawn.
_ASTRAY = 5.0


@dataclass(eq=False)
class Worker:
    """A SCOOP worker that the broker has answered.

    Attributes:
        has, given: the tasks that the broker gave it last, and when.
        at: the first task of what it is having drawn, by its own words.
        barred: the broker has said that it gives it nothing any more.
    """

    has: Sequence[int] = field(default_factory=list)
    given: float = 0.0
    at: int | None = None
    barred: bool = False


class Engine(DriverBackend):
    """SCOOP's workers, as many as slots on each host, and one driver with broker and origin."""

    chooses = True
    driver = "cluster.backends.scoop.driver"
    process, what = "cluster.backends.scoop.worker", "its SCOOP worker"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._workers: dict[str, Worker] = {}
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

    def _setup(self) -> dict[str, Any]:
        self._secret = secrets.token_hex(32)
        self._doors.clear()
        self._workers.clear()
        return {"secret": self._secret}

    def _begin(self, work: Work) -> None:
        reason, fix = refusal()
        if reason:
            raise EngineError(f"the dispatcher: {reason}", fix=fix)
        super()._begin(work)

    def _join(self, host: Host) -> None:
        """Its workers are those of one broker, and start once that listens where the host sees us.

        A fresh broker gets fresh ones.
        """
        address = str(host.hello["dispatcher"])
        ports = self._doors.get(address)
        first = {"secret": self._secret, "name": host.name, "address": address, "ports": ports}
        self._run_on(host, first, int(host.hello["slots"]) if ports else 0)
        if ports is None:
            self._doors[address] = []
            self._say({"host": {"listen": address}})

    def _bar(self, host: Host, shut: bool) -> None:
        for remote in self._remotes.get(host.name, ()):
            if worker := self._workers.get(remote.name):
                worker.barred = False
                self._tell_of(remote, shut)

    def _may_go(self, host: Host) -> bool:
        """Once the broker has said that it gives the host nothing more."""
        names = [remote.name for remote in self._remotes.get(host.name, ())]
        workers = [self._workers[name] for name in names if name in self._workers]
        return all(worker.barred for worker in workers) and super()._may_go(host)

    def _lost(self, host: Host) -> Iterator[Outcome]:
        """Its workers may have missed what the broker sent them: once it is heard, it gets others.

        What no worker has is not kept for hosts that may come back.
        """
        for remote in self._remotes.get(host.name, ()):
            remote.kill(host.reason, self._attention.now)
        before = set(self._taken)
        yield from super()._lost(host)
        self._say({"revoke": sorted(before - self._taken.keys())})

    def _forget(self, remote: RemoteProcess, reason: str) -> None:
        self._workers.pop(remote.name, None)
        super()._forget(remote, reason)

    # -- what is heard ----------------------------------------------------------------------------

    def _on_said(self, message: Mapping[str, Any]) -> None:
        if "listens" in message:
            self._on_listens(str(message["listens"]), list(message["ports"]))
        elif "deaf" in message:
            self._refuse_all(str(message["deaf"]), str(message["reason"]))
        elif "sent" in message:
            self._on_sent(message["sent"], str(message["worker"]))
        elif "barred" in message:
            if worker := self._workers.get(str(message["barred"])):
                worker.barred = True
        elif "kept" in message:
            self._now_has(str(message["worker"]), [])

    def _on_listens(self, address: str, ports: list[int]) -> None:
        self._doors[address] = ports
        for host in self._ready_hosts.values():
            if host.hello.get("dispatcher") == address:
                self._join(host)

    def _on_sent(self, ids: Sequence[int], worker: str) -> None:
        """The broker gave these tasks to a worker."""
        name = worker.rpartition(":")[0]
        self._now_has(worker, ids)
        for number in ids:
            if number in self._taken:
                self._taken[number] = self._taken[number][0], name

    def _now_has(self, name: str, ids: Sequence[int]) -> None:
        if worker := self._workers.get(name):
            worker.has, worker.given = ids, self._attention.now

    def _refuse_all(self, address: str, reason: str) -> None:
        """The broker cannot listen where these hosts see us."""
        for host in self._fleet.hosts.values() if self._fleet else ():
            if host.hello.get("dispatcher") == address:
                host.refuse(
                    f"it sees this machine as {address}, where SCOOP's broker cannot listen:"
                    f" {reason}",
                    "use the backend ssh, which needs no connection from the hosts",
                )

    def _on_process(self, host: Host, remote: RemoteProcess, said: Mapping[str, Any]) -> None:
        if "unfit" in said:
            host.refuse(said["unfit"], said["fix"])
        elif "joined" in said:
            remote.name = str(said["joined"])
            self._workers[remote.name] = Worker()
            self._tell_of(remote, host.name in self._shut)
        elif worker := self._workers.get(remote.name):
            worker.at, now = said["at"], self._attention.now
            if self._is_astray(worker, now):
                remote.kill(f"{self.what} does not have what the broker gave it", now)

    def _is_astray(self, worker: Worker, now: float) -> bool:
        """Whether the broker gave it what it has not, and will never have."""
        owes = worker.has and worker.at != worker.has[0]
        late = now - worker.given > _ASTRAY
        return bool(owes and late and any(number in self._taken for number in worker.has))

    def _tell_of(self, remote: RemoteProcess, shut: bool) -> None:
        """Have the broker give a worker tasks, or none."""
        self._say({"host": {"name": remote.name, "shut": shut}})
