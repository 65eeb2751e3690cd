"""The engine that launches MPI worlds over the hosts of a spec.

A world has a coordinating rank on this machine and a rank on every host, beside its agent. MPI
cannot let a host join, so one that comes later gets a world of its own; and when a world is lost,
which as a rule any lost rank does to it, those of its hosts that are left get another one.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.backends.base import Health, Options
from cluster.backends.driver import DriverProcess
from cluster.backends.hosted import Hosted
from cluster.backends.mpi.fence import LOOPBACK
from cluster.backends.mpi.launcher import Launcher, command, environment, find, moved
from cluster.backends.mpi.rank import HERE
from cluster.backends.mpi.rsh import ADDRESS
from cluster.common.backoff import backoff
from cluster.common.errors import EngineError
from cluster.hosts.connect import Host, HostState
from cluster.hosts.connect.ssh import is_here
from cluster.hosts.jsonlines import Listener, SocketConnection
from cluster.hosts.nodes import Node
from cluster.hosts.scratch import private_folder, remove
from cluster.hosts.worker_pool import python_command
from cluster.sampling.task import Outcome, Task, Work

# Hosts that are ready within so many seconds of the first one share its world.
_GATHER = 1.5
_LAUNCH = 30.0
# Before the run is under way, a host is given up after so many worlds; then never, but each time
# later, up to so many seconds.
_STARTS, _LONGEST = 3, 60.0
# A rank says each second that it is there; one that hangs, or whom a firewall cuts off, does not.
# On a bad network its connection may pause longer than that of its host's agent.
_SILENT = 15.0
_FENCE = "cluster.backends.mpi.fence"
# The name of this machine among places; no host has one with a space.
_HERE = "this machine"
RISK = (
    "MPI listens at every address of {}, where no fence holds it: keep strangers away by a"
    " firewall, or take backend ssh"
)


@dataclass
class MpiRun:
    """One mpirun.

    Attributes:
        driver: its first rank.
        hosts: the births of its hosts' agents, by name.
        up: hosts whose rank is up, and when each was heard of last.
        brought: whether any outcome came of it.
    """

    driver: DriverProcess
    hosts: dict[str, int]
    up: dict[str, float] = field(default_factory=dict)
    brought: bool = False


def address_here(told: Iterable[str]) -> str:
    """Our own address: where all hosts see us, if that is one, and ours; else empty.

    A world without other hosts needs none but that of the machine itself.
    """
    seen = set(told) or {LOOPBACK}
    own = seen.pop()
    if seen:
        return ""
    family = socket.AF_INET6 if ":" in own else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as trial:
        try:
            trial.bind((own, 0))
        except OSError:
            return ""  # they see the address of something between us and them
    return own


def end(caller: SocketConnection, status: int) -> None:
    """Tell the launcher's remote shell, which waits for that, how its command ended."""
    caller.queue({"status": status})
    caller.send()
    caller.close()


class Engine(Hosted):
    """MPI worlds that are ours."""

    def __init__(self, nodes: Sequence[Node], options: Options) -> None:
        super().__init__(nodes, options)
        self._worlds: list[MpiRun] = []
        self._ready: dict[str, tuple[Host, float]] = {}
        self._failures: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._last = self._said_last = ""
        self._door: Listener | None = None
        self._asking: list[SocketConnection] = []
        self._running: dict[tuple[str, int, int], SocketConnection] = {}
        self._folder: Path | None = None
        self._loose: set[str] = set()
        self._warned: set[str] = set()

    @staticmethod
    def health() -> Health:
        """What starts MPI worlds, here."""
        try:
            found = find(os.environ)
        except EngineError as error:
            return Health("mpirun", False, error.message, error.fix)
        version = ".".join(map(str, found.version))
        return Health("mpirun", True, f"{found.flavour} {version} ({found.path})")

    # -- what Hosted asks -------------------------------------------------------------------------

    def _begin(self, work: Work) -> None:
        self._launcher: Launcher = find(os.environ)
        self._door = Listener(self._selector)
        self._folder = private_folder()
        # As one word, and one file: that is all that some launchers take.
        shell = self._folder / "rsh"
        words = shlex.join(python_command(sys.executable, "cluster.backends.mpi.rsh"))
        shell.write_bytes(os.fsencode(f'#!/bin/sh\nexec {words} "$@"\n'))
        shell.chmod(0o700)
        self._shell = str(shell)

    def _stop(self) -> None:
        for world in self._worlds:
            world.driver.close()
        self._worlds.clear()
        for caller in (*self._asking, *self._running.values()):
            caller.close()
        if self._door is not None:
            self._door.close()
        if self._folder is not None:
            remove(self._folder)

    def _on_ready(self, host: Host) -> None:
        self._ready[host.name] = host, time.monotonic()

    def _on_gone(self, host: Host) -> None:
        self._ready.pop(host.name, None)
        for key in [key for key in self._running if key[0] == host.name]:
            end(self._running.pop(key), 255)
        for world in self._worlds:
            world.up.pop(host.name, None)

    def _on_told(self, host: Host, message: dict[str, Any]) -> None:
        if "exited" in message:
            caller = self._running.pop((host.name, host.born, message["exited"]), None)
            if caller is not None:
                self._said_last = f"{host.name}: {message['how']}; "
                end(caller, 0 if message["status"] == 0 else 255)

    def _slots(self, host: Host) -> int:
        return host.usable if self._world_of(host) else 0

    def _reason(self, host: Host) -> str:
        if self._world_of(host):
            return self._with_risk(host)
        return f"no MPI world with it is up; {self._last}".rstrip("; ")

    def _with_risk(self, host: Host) -> str:
        """Once for each place: MPI listens at every address there."""
        places = (self._loose & {_HERE, host.name}) - self._warned
        self._warned |= places
        if not places:
            return host.reason
        return f"{host.reason}; {RISK.format(' and '.join(sorted(places)))}"

    def _give(self, task: Task, host: Host | None) -> None:
        world = self._world_of(host) if host else None
        if world is not None and host is not None:
            world.driver.say({"task": task, "node": host.name})

    def _flush(self) -> None:
        for world in self._worlds:
            world.driver.send()

    def _tend(self) -> Iterator[Outcome]:
        self._run_commands()
        for world in tuple(self._worlds):
            for message in world.driver.messages():
                yield from self._heard(world, message)
            if fault := self._fault(world):
                yield from self._bury(world, fault)
        self._launch_what_waits()

    # -- worlds -----------------------------------------------------------------------------------

    def _world_of(self, host: Host) -> MpiRun | None:
        """The world through which a host is reached: that of its agent, if the rank there is up."""
        worlds = (w for w in self._worlds if w.hosts.get(host.name) == host.born)
        return next((world for world in worlds if host.name in world.up), None)

    def _launch_what_waits(self) -> None:
        """Start a world for the hosts that are in none; where one failed before, alone."""
        placed = {pair for world in self._worlds for pair in world.hosts.items()}
        waiting = [
            (host, since)
            for host, since in self._ready.values()
            if (host.name, host.born) not in placed and host.ready
        ]
        if not waiting:
            return
        expected = any(
            host.standing is HostState.STARTING
            for host in (self._fleet.hosts.values() if self._fleet else ())
        )
        first = min(since for _, since in waiting)
        if expected and time.monotonic() - first < _GATHER:
            return
        together = [host for host, _ in waiting if not self._failures.get(host.name)]
        alone = [host for host, _ in waiting if self._may_try(host.name)]
        for hosts in ([together] if together else []) + [[host] for host in alone]:
            self._launch(hosts)
        given_up = sum(self._failures.get(host.name, 0) >= _STARTS for host, _ in waiting)
        if not self._open and given_up == len(self.nodes):
            raise EngineError(f"no MPI world comes up: {self._last}")

    def _may_try(self, name: str) -> bool:
        """Whether a host without which worlds failed is to have another one, by itself."""
        failures = self._failures.get(name, 0)
        patient = self._open or failures < _STARTS
        return failures > 0 and patient and self._attention.now >= self._due[name]

    def _launch(self, hosts: list[Host]) -> None:
        here = [host for host in hosts if is_here(host.node)]
        there = [host for host in hosts if host not in here]
        assert self._door is not None
        own = address_here(str(h.hello["dispatcher"]) for h in there)
        more = {
            ADDRESS: self._door.address,
            "TMPDIR": str(self._folder),
            HERE: json.dumps([[h.name, h.hello["service"]] for h in here]),
        }
        words = command(
            self._launcher, self._shell, 1 + len(here), [h.hello["address"] for h in there], own
        )
        if own:
            words = [*python_command(sys.executable, _FENCE), own, *words]
        environ = {**environment(self._launcher, os.environ, self._shell), **more}
        driver = DriverProcess(words, environ, self._selector, _LAUNCH)
        driver.say({"setup": {}})
        born = {host.name: host.born for host in hosts}
        self._worlds.append(MpiRun(driver, born))

    def _heard(self, world: MpiRun, message: Mapping[str, Any]) -> Iterator[Outcome]:
        if "outcome" in message:
            world.brought = True
            yield Outcome.from_json(message["outcome"])
        elif "up" in message:
            if message["up"] in self._ready:
                world.up[message["up"]] = self._attention.now
            if not message["held"]["here"]:
                self._loose.add(_HERE)
            if not message["held"]["there"]:
                self._loose.add(message["up"])
        elif "wrong" in message:
            raise EngineError(str(message["wrong"]), fix=message["fix"])

    def _fault(self, world: MpiRun) -> str:
        if world.driver.age > _LAUNCH and not world.brought and not world.up:
            return f"it was not up within {_LAUNCH:g} s"
        return world.driver.fault or self._silence(world)

    def _silence(self, world: MpiRun) -> str:
        """Which rank says nothing, though its host does; empty where all is well."""
        now = self._attention.now
        for name, heard in world.up.items():
            if name not in self._ready or not self._ready[name][0].ready:
                world.up[name] = now  # the agent tells of that
            elif now - heard > _SILENT:
                return f"its rank on {name} was not heard of for {_SILENT:g} s"
        return ""

    def _bury(self, world: MpiRun, fault: str) -> Iterator[Outcome]:
        """A world is lost: what its hosts had is owed, and they wait for another one."""
        self._worlds.remove(world)
        how = world.driver.close(grace=0.0)
        # What a daemon said last tells more than what the launcher makes of it.
        self._last = f"the MPI world was lost: {fault}; {self._said_last}{how}"
        self._said_last = ""
        for name in world.hosts:
            failures = self._failures.get(name, 0)
            self._due[name] = self._attention.now + backoff(failures, 1.0, _LONGEST)
            self._failures[name] = 0 if world.brought else failures + 1
        for task, name in tuple(self._taken.values()):
            if name in world.hosts:
                yield self._without(task, self._last, name)

    # -- the launcher's commands ------------------------------------------------------------------

    def _run_commands(self) -> None:
        """Have agents run what launchers want to be run on their hosts."""
        assert self._door is not None
        self._asking += self._door.callers()
        for caller in tuple(self._asking):
            for wanted in caller.messages():
                self._asking.remove(caller)
                self._run(caller, str(wanted["host"]), str(wanted["command"]))

    def _run(self, caller: SocketConnection, address: str, text: str) -> None:
        found = (host for host, _ in self._ready.values() if host.hello.get("address") == address)
        host = next(found, None)
        if host is None:
            end(caller, 255)
            return
        # The one place with a shell: what the launcher wants to be run is a text for one.
        text = moved(text, self._launcher, str(host.hello["prefix"]))
        words = ["{python}", "-P", "-m", _FENCE, address, "/bin/sh", "-c", text]
        number = host.start(words, talks=False)
        self._running[host.name, host.born, number] = caller
