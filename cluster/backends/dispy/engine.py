"""The engine ``dispy``: a private dispynode for the run on every host, and dispy's client here."""

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
# Jobs per slot. A job only waits for the host's workers; with a second one in reserve, a worker
# need not wait for dispy when it has finished a task.
_AHEAD = 2


def secret_of(options: Options) -> Secret | None:
    """Where to read the secret of nodes with ``attach``; None: they have none."""
    place: Secret | None = options.own.get("secret")
    return place


def is_trusted(options: Options) -> bool:
    """Whether nodes with ``attach`` are stock dispynodes, on a trusted network."""
    return options.own.get("network") == "trusted"


class Engine(DriverBackend):
    """Dispynodes that the hosts' agents start, and one driver with dispy's client."""

    driver = "cluster.backends.dispy.driver"
    process, what = "cluster.backends.dispy.node", "its dispynode"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        secret = secret_of(self.options)
        if any(node.attach is not None for node in self.nodes) and secret is not None:
            secret.read()  # reports a missing or bad secret before anything is started
        self._secret = fresh_secret()
        self._warned = False

    def _kinds(self) -> dict[str, Any]:
        reach = partial(self.reach, options=self.options)
        return {**super()._kinds(), "dial": partial(start_agent, reach=reach)}

    @staticmethod
    def reach(node: Node, options: Options) -> Sequence[str]:
        """The command that connects to a node's agent: through the attached node, if it is one.

        Args:
            node: the host.
            options: the engine's, with the secret of attached nodes.
        """
        if node.attach is None:
            return agent_command(node)
        secret = secret_of(options)
        module = _STOCK if is_trusted(options) else _RELAY
        return command(module, node.host, node.attach, secret)

    @staticmethod
    def foreign(node: Node, options: Options) -> str:
        """``a stock dispynode`` for a node that is one; else empty."""
        stock = node.attach is not None and is_trusted(options)
        return "a stock dispynode" if stock else ""

    def _setup(self) -> dict[str, Any]:
        return {"secret": self._secret}

    def _join(self, host: Host) -> None:
        """Start a dispynode. A node serves a single client, so a new driver gets new nodes.

        A stock node gets none: its tasks go directly to the agent that it has started.
        """
        if self._is_stock(host):
            return
        # An attached node's dispynode has a known port, so that a firewall can be opened for it.
        port = 0 if host.node.attach is None else host.node.attach + 1
        self._run_on(host, {**self._place(host), "port": port, "secret": self._secret})

    def _is_stock(self, host: Host) -> bool:
        """Whether a host is a stock dispynode, which only starts an agent for us."""
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
        """Replace a node that the driver found unusable, if its host is up."""
        name = message.get("useless", "")
        for node in self._remotes.get(name, ()):
            if node.heard is not None and self._ready_hosts[name].ready:
                node.kill(message["reason"], self._attention.now)

    def _place(self, host: Host) -> dict[str, Any]:
        """The addresses of a host's node and of this machine, as each sees the other."""
        return {
            "name": host.name,
            "address": host.hello["address"],
            "here": host.hello["dispatcher"],
            "jobs": _AHEAD * int(host.hello["slots"]),
        }
