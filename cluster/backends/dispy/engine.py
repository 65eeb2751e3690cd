"""The engine ``dispy``: a dispynode on every host, private to the run, and dispy's client here."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cluster.backends.base import Options
from cluster.backends.dispy.relay import relay_command
from cluster.backends.dispy.seal import fresh_secret
from cluster.backends.dispy.stock import RISK, stock_command
from cluster.backends.driver import Driven
from cluster.common.backoff import backoff
from cluster.common.secret import Secret
from cluster.hosts.connect import Host, agent_command
from cluster.hosts.nodes import Node
from cluster.hosts.worker_pool import python_command
from cluster.sampling.task import Outcome, Task, Work

_DRIVER = "cluster.backends.dispy.driver"
_NODE = "cluster.backends.dispy.node"
# A job only waits for the host's workers; with as many again, none of these waits for a job.
_AHEAD = 2
_LONGEST = 15.0
# A dispynode says each second that it is alive; one that is stopped does not.
_SILENT = 6.0
_UNREACHED = "its dispynode cannot be reached from here: does a firewall let TCP through?"


def secret_of(options: Options) -> Secret | None:
    """Where the secret of nodes with ``attach`` is; None: they have none."""
    place: Secret | None = options.own.get("secret")
    return place


def is_trusted(options: Options) -> bool:
    """Whether nodes with ``attach`` are stock dispynodes, on a network that is trusted."""
    return options.own.get("network") == "trusted"


@dataclass
class Started:
    """The dispynode of a host.

    Attributes:
        command: the number under which the host's agent knows it; None: it is to be started.
        failures: how many ended in a row.
        due: when to start it.
        heard: when it last said something; 0 before its first word.
        missed: since when it takes no tasks, though its host is there.
    """

    command: int | None = None
    failures: int = 0
    due: float = 0.0
    heard: float = 0.0
    missed: float = 0.0


class Engine(Driven):
    """Hosts' own dispynodes, started by their agents and known to one driver."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        secret = secret_of(self.options)
        if any(node.attach is not None for node in self.nodes) and secret is not None:
            secret.read()  # what is wrong with it is told before anything begins
        self._secret = fresh_secret()
        self._warned = False
        self._nodes: dict[str, Started] = {}

    def _kinds(self) -> dict[str, Any]:
        return {**super()._kinds(), "reach": partial(self.reach, options=self.options)}

    @staticmethod
    def reach(node: Node, options: Options) -> Sequence[str]:
        """The agent of a node that stands is reached through that."""
        if node.attach is None:
            return agent_command(node)
        secret = secret_of(options)
        if is_trusted(options):
            return stock_command(node.host, node.attach, secret, options)
        assert secret is not None
        return relay_command(node.host, node.attach, secret)

    @staticmethod
    def has_agent(node: Node, options: Options) -> bool:
        """A stock dispynode has none."""
        return node.attach is None or not is_trusted(options)

    def _command(self) -> Sequence[str]:
        return python_command(sys.executable, _DRIVER)

    def _setup(self, work: Work) -> dict[str, Any]:
        return {"secret": self._secret}

    def _join(self, host: Host) -> None:
        """A node serves the client that it began with; a fresh one gets a fresh node."""
        if self._is_stock(host):
            return
        known = self._nodes.get(host.name)
        if known is not None and known.command is not None:
            host.kill(known.command)
        self._nodes[host.name] = Started()
        self._start_node(host, self._nodes[host.name])

    def _is_stock(self, host: Host) -> bool:
        """One that knows nothing of us: what stands in its agent's place carries the tasks."""
        return not self.has_agent(host.node, self.options)

    def _slots(self, host: Host) -> int:
        return host.usable if self._is_stock(host) else super()._slots(host)

    def _reason(self, host: Host) -> str:
        if not self._is_stock(host):
            return super()._reason(host)
        words = host.reason if self._warned else f"{host.reason}; {RISK}"
        self._warned = True
        return words

    def _give(self, task: Task, host: Host | None) -> None:
        if host is not None and self._is_stock(host):
            host.say({"tasks": [task]})
        else:
            super()._give(task, host)

    def _on_gone(self, host: Host) -> None:
        self._nodes.pop(host.name, None)
        super()._on_gone(host)

    def _on_told(self, host: Host, message: dict[str, Any]) -> None:
        started = self._nodes.get(host.name)
        if started is None or started.command is None:
            return
        if message.get("said") == started.command:
            self._hear_node(host, started, message["message"])
        elif message.get("exited") == started.command:
            self._lose_node(host, started, f"its dispynode ended: {message['how']}")

    def _tend(self) -> Iterator[Outcome]:
        now = self._attention.now
        for name, started in self._nodes.items():
            host = self._ready_hosts[name]
            if started.command is None and now >= started.due:
                self._start_node(host, started)
            elif not host.ready:
                started.heard = started.heard and now
                started.missed = now
            elif started.command is not None and (fault := self._fault(name, started, now)):
                host.kill(started.command)
                self._lose_node(host, started, fault)
        yield from super()._tend()

    def _fault(self, name: str, started: Started, now: float) -> str:
        """Why a node that was started is of no use, or empty."""
        if self._up.get(name, (0, ""))[0]:
            started.missed = now
        if started.heard and now - started.heard > _SILENT:
            return f"its dispynode was silent for {_SILENT:g} s"
        if now - started.missed > self.options.ready:
            return f"its dispynode took no tasks for {self.options.ready:g} s"
        return ""

    def _hear_node(self, host: Host, started: Started, message: dict[str, Any]) -> None:
        started.heard = self._attention.now
        if "port" in message:
            self._say({"host": {**self._place(host), "port": message["port"]}})
        else:
            started.failures = 0

    def _on_said(self, message: Mapping[str, Any]) -> None:
        """The driver cannot reach a node; where its host is there, a fresh one is tried."""
        started = self._nodes.get(message.get("deaf", ""))
        if started is None or started.command is None:
            return
        host = self._ready_hosts[message["deaf"]]
        if host.ready and started.heard:
            host.kill(started.command)
            self._lose_node(host, started, _UNREACHED)

    def _lose_node(self, host: Host, started: Started, reason: str) -> None:
        """Another one is started, after a pause that grows."""
        self._say({"gone": host.name})
        self._up[host.name] = 0, reason
        started.command, started.heard = None, 0.0
        started.due = self._attention.now + backoff(started.failures, 1.0, _LONGEST)
        started.failures += 1

    def _start_node(self, host: Host, started: Started) -> None:
        node = host.node
        # One that stands has named its ports; a firewall may know them.
        port = 0 if node.attach is None else node.attach + 1
        wanted = {**self._place(host), "port": port, "secret": self._secret}
        started.command = host.start_module(_NODE, wanted)
        started.missed = self._attention.now

    def _place(self, host: Host) -> dict[str, Any]:
        """Where a host's node is, and where it finds us."""
        return {
            "name": host.name,
            "address": host.hello["address"],
            "here": host.hello["dispatcher"],
            "jobs": _AHEAD * int(host.hello["slots"]),
        }
