"""The engine that launches MPI worlds over the hosts of a spec.

A world has a coordinating rank on this machine and one rank beside the agent of every host. A host
cannot join a running world, so one that comes later gets its own. A lost rank usually ends the
whole world; its remaining hosts then get another one.
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

# Hosts that are ready within this many seconds of the first one share its world.
_GATHER = 1.5
# Seconds for a world to start. Launchers can hang for ever, for example behind a firewall.
_LAUNCH = 30.0
# Worlds of a host that may fail before the run has started; then the host is given up. Later it is
# never given up, but tried after growing pauses, of at most this many seconds.
_STARTS, _LONGEST = 3, 60.0
# Seconds without a heartbeat after which a rank hangs or is cut off; MPI itself reports neither.
# Longer than an agent's, because on a bad network MPI's connection may pause longer than ssh's.
_SILENT = 15.0
_FENCE = "cluster.backends.mpi.fence"
# This machine in the set of unguarded places; no host name contains a space.
_HERE = "this machine"
RISK = (
    "MPI listens at every address of {}, where no fence holds it: keep strangers away by a"
    " firewall, or take backend ssh"
)


@dataclass
class MpiRun:
    """One launched world.

    Attributes:
        driver: its mpirun, and the first rank, which connects to us.
        hosts: its hosts by name, each with the number of the agent that it had at the launch. A
            host with a newer agent is not in this world: its rank ended with the older one.
        up: hosts whose rank is up, with the time of each rank's last heartbeat.
        brought: whether it has brought any outcome.
    """

    driver: DriverProcess
    hosts: dict[str, int]
    up: dict[str, float] = field(default_factory=dict)
    brought: bool = False


def address_here(told: Iterable[str]) -> str:
    """The address of this machine that all hosts see; empty if there is no such address.

    Args:
        told: for each host elsewhere, the address at which it sees this machine. None of them:
            the world stays on this machine, and the loopback address will do.
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
            return ""  # the hosts see a router (NAT), whose address is not ours to bind
    return own


def end(caller: SocketConnection, status: int) -> None:
    """Tell the launcher's remote shell how its command ended, and close the connection.

    Args:
        caller: the connection of the remote shell.
        status: the exit status, which the shell returns to its launcher.
    """
    caller.queue({"status": status})
    caller.send()
    caller.close()


class Engine(Hosted):
    """MPI worlds that we launch and end."""

    def __init__(self, nodes: Sequence[Node], options: Options) -> None:
        super().__init__(nodes, options)
        self._worlds: list[MpiRun] = []
        # Ready hosts by name, and since when.
        self._ready: dict[str, tuple[Host, float]] = {}
        # Of each host: consecutive worlds that failed, and when to launch the next one.
        self._failures: dict[str, int] = {}
        self._due: dict[str, float] = {}
        # Why the last world was lost, and how the last command of a launcher ended.
        self._last = self._said_last = ""
        # The launchers' remote shells: where they connect, those that have not asked for anything
        # yet, and those that wait for a command, by host, its agent's number, and the command's.
        self._door: Listener | None = None
        self._asking: list[SocketConnection] = []
        self._running: dict[tuple[str, int, int], SocketConnection] = {}
        self._launcher: Launcher | None = None
        self._folder: Path | None = None
        self._shell = ""
        # Places where MPI's sockets are not confined to one address, and those already reported.
        self._loose: set[str] = set()
        self._warned: set[str] = set()

    @staticmethod
    def health() -> Health:
        """Check that there is an mpirun that can launch our worlds."""
        try:
            found = find(os.environ)
        except EngineError as error:
            return Health("mpirun", False, error.message, error.fix)
        version = ".".join(map(str, found.version))
        return Health("mpirun", True, f"{found.flavour} {version} ({found.path})")

    # -- the hooks of Hosted ----------------------------------------------------------------------

    def _begin(self, work: Work) -> None:
        self._launcher = find(os.environ)
        self._door = Listener(self._selector)
        self._folder = private_folder()
        # A script, because MPICH's launcher takes a remote shell as one file without arguments.
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
                # 255 is what ssh returns for its own errors, and what launchers expect.
                end(caller, 0 if message["status"] == 0 else 255)

    def _slots(self, host: Host) -> int:
        return host.usable if self._world_of(host) else 0

    def _reason(self, host: Host) -> str:
        if self._world_of(host):
            return self._with_risk(host)
        return f"no MPI world with it is up; {self._last}".rstrip("; ")

    def _with_risk(self, host: Host) -> str:
        """The host's reason, with a warning, once per place, where MPI listens at all addresses."""
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
                yield from self._drop_world(world, fault)
        self._launch_waiting()

    # -- worlds -----------------------------------------------------------------------------------

    def _world_of(self, host: Host) -> MpiRun | None:
        """The world of a host's current agent, if the rank there is up."""
        worlds = (w for w in self._worlds if w.hosts.get(host.name) == host.born)
        return next((world for world in worlds if host.name in world.up), None)

    def _launch_waiting(self) -> None:
        """Launch worlds for the hosts without one.

        Each host whose last world failed gets one of its own, so that it cannot take others along.
        """
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
        """Whether a host whose last world failed may now have another one."""
        failures = self._failures.get(name, 0)
        patient = self._open or failures < _STARTS
        return failures > 0 and patient and self._attention.now >= self._due[name]

    def _launch(self, hosts: list[Host]) -> None:
        here = [host for host in hosts if is_here(host.node)]
        there = [host for host in hosts if host not in here]
        assert self._launcher is not None
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
        if own:  # without an address of ours, there is nothing to confine the sockets to
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
        """Which rank is silent although its host is not; empty if none is."""
        now = self._attention.now
        for name, heard in world.up.items():
            if name not in self._ready or not self._ready[name][0].ready:
                world.up[name] = now  # the host is silent or lost; Hosted handles that
            elif now - heard > _SILENT:
                return f"its rank on {name} was not heard of for {_SILENT:g} s"
        return ""

    def _drop_world(self, world: MpiRun, fault: str) -> Iterator[Outcome]:
        """Remove a lost world: return its hosts' tasks, and let the hosts wait for another one."""
        self._worlds.remove(world)
        # By force: a launcher that hangs may ignore SIGTERM for minutes.
        how = world.driver.close(grace=0.0)
        # The last output of a daemon says more than the launcher's summary.
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
        """Have the agents run the commands that launchers gave to their remote shells."""
        assert self._door is not None
        self._asking += self._door.callers()
        for caller in tuple(self._asking):
            for wanted in caller.messages():
                self._asking.remove(caller)
                self._run(caller, str(wanted["host"]), str(wanted["command"]))

    def _run(self, caller: SocketConnection, address: str, text: str) -> None:
        assert self._launcher is not None
        found = (host for host, _ in self._ready.values() if host.hello.get("address") == address)
        host = next(found, None)
        if host is None:
            end(caller, 255)
            return
        # The only use of a shell: launchers compose their remote command as shell text.
        text = moved(text, self._launcher, str(host.hello["prefix"]))
        words = ["{python}", "-P", "-m", _FENCE, address, "/bin/sh", "-c", text]
        number = host.start(words, talks=False)
        self._running[host.name, host.born, number] = caller
