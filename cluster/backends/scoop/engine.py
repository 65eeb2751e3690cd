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

# Seconds after which a worker that reports another task than the broker gave it has lost the latter
# (SCOOP does not resend messages).
_ASTRAY = 5.0


@dataclass(eq=False)
class Worker:
    """A SCOOP worker that has connected to the broker.

    Attributes:
        has: ids of the tasks that the broker gave it last.
        given: when that was.
        at: the first task of the batch that it is working on, as it reports itself.
        barred: the broker has confirmed that it will give it no more tasks.
    """

    has: Sequence[int] = field(default_factory=list)
    given: float = 0.0
    at: int | None = None
    barred: bool = False


class Engine(DriverBackend):
    """One SCOOP worker per slot on each host, and one driver with the broker and the origin."""

    chooses = True
    driver = "cluster.backends.scoop.driver"
    process, what = "cluster.backends.scoop.worker", "its SCOOP worker"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._secret = ""  # each driver, with its broker, gets its own
        self._workers: dict[str, Worker] = {}
        # The broker's two ports at each address; empty: it was told to listen there.
        self._doors: dict[str, list[int]] = {}

    @staticmethod
    def health() -> Health:
        """Check that the installed SCOOP is the version that the backend works with."""
        reason, fix = refusal()
        if reason:
            return Health("scoop", False, reason, fix)
        return Health("scoop", True, f"SCOOP {VERSION}, the one that the backend works with")

    def _kinds(self) -> dict[str, Any]:
        return {}  # agents need not report which tasks begin: the broker tells who has them

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
        """Start a host's workers once the broker listens at the address at which it sees us.

        A worker belongs to one broker, so a new broker gets new workers.
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
        """Only after the broker's confirmation: until then, it may still give the host a task."""
        names = [remote.name for remote in self._remotes.get(host.name, ())]
        workers = [self._workers[name] for name in names if name in self._workers]
        return all(worker.barred for worker in workers) and super()._may_go(host)

    def _lost(self, host: Host) -> Iterator[Outcome]:
        """Replace the workers of a host that was lost or silent, and return its tasks.

        The workers may have missed messages of the broker, and SCOOP does not resend them. Tasks
        that wait in the driver are revoked there if the last host is gone: they are returned, too.
        """
        for remote in self._remotes.get(host.name, ()):
            remote.kill(host.reason, self._attention.now)
        before = set(self._taken)
        yield from super()._lost(host)
        self._say({"revoke": sorted(before - self._taken.keys())})

    def _forget(self, remote: RemoteProcess, reason: str) -> None:
        self._workers.pop(remote.name, None)
        super()._forget(remote, reason)

    # -- reports of the driver and the workers ----------------------------------------------------

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
        elif "kept" in message:  # its agent sends the rest of the batch; the worker is free again
            self._now_has(str(message["worker"]), [])

    def _on_listens(self, address: str, ports: list[int]) -> None:
        self._doors[address] = ports
        for host in self._ready_hosts.values():
            if host.hello.get("dispatcher") == address:
                self._join(host)

    def _on_sent(self, ids: Sequence[int], worker: str) -> None:
        """The broker has chosen the worker of these tasks, and so their host."""
        name = worker.rpartition(":")[0]  # a worker's name is its host's, a colon, random digits
        self._now_has(worker, ids)
        for number in ids:
            if number in self._taken:
                self._taken[number] = self._taken[number][0], name

    def _now_has(self, name: str, ids: Sequence[int]) -> None:
        if worker := self._workers.get(name):
            worker.has, worker.given = ids, self._attention.now

    def _refuse_all(self, address: str, reason: str) -> None:
        """Refuse the hosts that see us at an address where the broker cannot listen."""
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
        """Whether a worker has lost what the broker gave it, and some of that has no outcome."""
        owes = worker.has and worker.at != worker.has[0]
        late = now - worker.given > _ASTRAY
        return bool(owes and late and any(number in self._taken for number in worker.has))

    def _tell_of(self, remote: RemoteProcess, shut: bool) -> None:
        """Tell the driver whether the broker may give a worker tasks."""
        self._say({"host": {"name": remote.name, "shut": shut}})
