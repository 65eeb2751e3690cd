"""The engine ``dispy``: a dispynode on every host, private to the run, and dispy's client here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from cluster.backends.base import Options
from cluster.backends.dispy.relay import command
from cluster.backends.dispy.seal import fresh_secret
from cluster.backends.dispy.stock import RISK
from cluster.backends.driver import DriverBackend
from cluster.backends.kit.remote import RemoteProcess
from cluster.common.secret import Secret
from cluster.hosts.connect import Host, agent_command, start_agent
from cluster.hosts.nodes import Node
from cluster.sampling.task import Task

_STOCK, _RELAY = "cluster.backends.dispy.stock", "cluster.backends.dispy.relay"
# A job only waits for the host's workers; with as many again, none of these waits for a job.
_AHEAD = 2


def secret_of(options: Options) -> Secret | None:
    """Where the secret of nodes with ``attach`` is; None: they have none."""
    place: Secret | None = options.own.get("secret")
    return place


def is_trusted(options: Options) -> bool:
    """Whether nodes with ``attach`` are stock dispynodes, on a network that is trusted."""
    return options.own.get("network") == "trusted"


class Engine(DriverBackend):
    """Hosts' own dispynodes, started by their agents and known to one driver."""

    driver = "cluster.backends.dispy.driver"
    process, what = "cluster.backends.dispy.node", "its dispynode"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        secret = secret_of(self.options)
        if any(node.attach is not None for node in self.nodes) and secret is not None:
            secret.read()  # what is wrong with it is told before anything begins
        self._secret = fresh_secret()
        self._warned = False

    def _kinds(self) -> dict[str, Any]:
        reach = partial(self.reach, options=self.options)
        return {**super()._kinds(), "dial": partial(start_agent, reach=reach)}

    @staticmethod
    def reach(node: Node, options: Options) -> Sequence[str]:
        """The agent of a node that stands is reached through that."""
        if node.attach is None:
            return agent_command(node)
        secret = secret_of(options)
        module = _STOCK if is_trusted(options) else _RELAY
        return command(module, node.host, node.attach, secret)

    @staticmethod
    def foreign(node: Node, options: Options) -> str:
        """A stock dispynode."""
        stock = node.attach is not None and is_trusted(options)
        return "a stock dispynode" if stock else ""

    def _setup(self) -> dict[str, Any]:
        return {"secret": self._secret}

    def _join(self, host: Host) -> None:
        """A node serves the client that it began with; a fresh one gets a fresh node."""
        if self._is_stock(host):
            return
        # One that stands has named its ports; a firewall may know them.
        port = 0 if host.node.attach is None else host.node.attach + 1
        self._run_on(host, {**self._place(host), "port": port, "secret": self._secret})

    def _is_stock(self, host: Host) -> bool:
        """One that starts an agent for us, to which the tasks go, and nothing else."""
        return bool(self.foreign(host.node, self.options))

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

    def _on_process(self, host: Host, remote: RemoteProcess, said: Mapping[str, Any]) -> None:
        self._say({"host": {**self._place(host), "port": said["port"]}})

    def _on_said(self, message: Mapping[str, Any]) -> None:
        """The driver has no use for a node; where its host is there, a fresh one is tried."""
        name = message.get("useless", "")
        for node in self._remotes.get(name, ()):
            if node.heard is not None and self._ready_hosts[name].ready:
                node.kill(message["reason"], self._attention.now)

    def _place(self, host: Host) -> dict[str, Any]:
        """Where a host's node is, and where it finds us."""
        return {
            "name": host.name,
            "address": host.hello["address"],
            "here": host.hello["dispatcher"],
            "jobs": _AHEAD * int(host.hello["slots"]),
        }
