"""The engine ``dispy``: a dispynode on every host, private to the run, and dispy's client here."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from cluster.backends.base import Options
from cluster.backends.dispy.relay import relay_command
from cluster.backends.dispy.seal import fresh_secret
from cluster.backends.dispy.stock import RISK, stock_command
from cluster.backends.driver import DriverBackend
from cluster.backends.kit.remote import RemoteProcess
from cluster.common.secret import Secret
from cluster.hosts.connect import Host, agent_command, start_agent
from cluster.hosts.nodes import Node
from cluster.hosts.worker_pool import python_command
from cluster.sampling.task import Outcome, Task, Work

_DRIVER = "cluster.backends.dispy.driver"
_NODE = "cluster.backends.dispy.node"
# A job only waits for the host's workers; with as many again, none of these waits for a job.
_AHEAD = 2
_NONE = (0, "")
_UNREACHED = "its dispynode cannot be reached from here: does a firewall let TCP through?"


def secret_of(options: Options) -> Secret | None:
    """Where the secret of nodes with ``attach`` is; None: they have none."""
    place: Secret | None = options.own.get("secret")
    return place


def is_trusted(options: Options) -> bool:
    """Whether nodes with ``attach`` are stock dispynodes, on a network that is trusted."""
    return options.own.get("network") == "trusted"


class Engine(DriverBackend):
    """Hosts' own dispynodes, started by their agents and known to one driver."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        secret = secret_of(self.options)
        if any(node.attach is not None for node in self.nodes) and secret is not None:
            secret.read()  # what is wrong with it is told before anything begins
        self._secret = fresh_secret()
        self._warned = False
        self._nodes: dict[str, RemoteProcess] = {}

    def _kinds(self) -> dict[str, Any]:
        reach = partial(self.reach, options=self.options)
        return {**super()._kinds(), "dial": partial(start_agent, reach=reach)}

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
        if known := self._nodes.get(host.name):
            known.kill("", self._attention.now)
        # One that stands has named its ports; a firewall may know them.
        port = 0 if host.node.attach is None else host.node.attach + 1
        first = {**self._place(host), "port": port, "secret": self._secret}
        self._nodes[host.name] = RemoteProcess(
            "its dispynode", host, _NODE, first, self.options.ready
        )

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
        known = self._nodes.get(host.name)
        said = known.hear(message, self._attention.now) if known else None
        if said is not None:
            self._say({"host": {**self._place(host), "port": said["port"]}})

    def _tend(self) -> Iterator[Outcome]:
        for name, known in self._nodes.items():
            if reason := known.tend(self._attention.now, used=bool(self._up.get(name, _NONE)[0])):
                self._say({"gone": name})
                self._up[name] = 0, reason
        yield from super()._tend()

    def _on_said(self, message: Mapping[str, Any]) -> None:
        """The driver cannot reach a node; where its host is there, a fresh one is tried."""
        known = self._nodes.get(message.get("deaf", ""))
        if known and known.heard is not None and self._ready_hosts[message["deaf"]].ready:
            known.kill(_UNREACHED, self._attention.now)

    def _place(self, host: Host) -> dict[str, Any]:
        """Where a host's node is, and where it finds us."""
        return {
            "name": host.name,
            "address": host.hello["address"],
            "here": host.hello["dispatcher"],
            "jobs": _AHEAD * int(host.hello["slots"]),
        }
