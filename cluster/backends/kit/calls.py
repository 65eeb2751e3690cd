"""Call engines: their tasks travel in calls, and they consist of two functions in one file.

``serve(draw, first, announce)``
    runs on a host, in a process started by the host's agent, and never returns. It listens at
    ``first["address"]`` and nowhere else, calls ``announce({"port": n})`` once it does (anything
    else announced is passed on to ``dial``), and answers each call with the text that
    ``draw(text)`` returns within about a second. There are two concurrent callers, and neither may
    wait for the other. ``first`` also has the ``secret`` of the run and the host's ``slots``.

``dial(where)``
    runs in the driver, in a thread, and returns ``call(text) -> text``, which only that thread
    uses, one call at a time. ``where`` has whatever was announced, ``address``, ``secret``, and
    ``patience``: seconds within which a call should end. It and ``call`` may raise any exception:
    the tasks in progress are then given to other hosts, and the server is dialled again.

Neither may read anything from a peer that has not proved the secret. For engines that accept a
connected socket, :mod:`cluster.backends.kit.door` ensures that.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from cluster.backends.driver import DriverBackend
from cluster.backends.kit.remote import RemoteProcess
from cluster.common.engines import entries
from cluster.hosts.connect import Host

Call = Callable[[str], str]
Where = Mapping[str, Any]
Announce = Callable[[Where], object]


class CallEngine(DriverBackend):
    """A server on every host, started by the host's agent, and one driver that calls them.

    Attributes:
        module: the name of the engine's module, with ``serve`` and ``dial``.
    """

    module: ClassVar[str]
    driver = "cluster.backends.kit.links"
    process, what = "cluster.backends.kit.server", "its server"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._secret = secrets.token_hex(32)

    def _setup(self) -> dict[str, Any]:
        return {"module": self.module}

    def _join(self, host: Host) -> None:
        """Start a server, or introduce the existing one: servers outlive a driver."""
        if host.name not in self._remotes:
            self._run_on(host, {**self._first(host), "module": self.module})
            return
        (server,) = self._remotes[host.name]
        if server.said is not None:  # else it is still starting, and announces itself later
            self._tell_place(host, server.said)

    def _first(self, host: Host) -> dict[str, Any]:
        return {
            "secret": self._secret,
            "address": host.hello["address"],
            "slots": host.hello["slots"],
        }

    def _tell_place(self, host: Host, announced: Mapping[str, Any]) -> None:
        self._say({"host": {"name": host.name, **self._first(host), **announced}})

    def _on_process(self, host: Host, remote: RemoteProcess, said: Mapping[str, Any]) -> None:
        if "unfit" not in said:
            self._tell_place(host, said)
            return
        host.refuse(f"its server cannot start: {said['unfit']}", installation(self.module))


def installation(module: str) -> str:
    """The fix for a host that lacks an engine's module, or a package that the engine needs."""
    found = next((e for e in entries() if e.target.partition(":")[0] == module), None)
    if found is not None and found.package:
        return f"there: pip install {found.package}"
    return f"there: {found.install}" if found and found.install else "install there what it needs"


def url(scheme: str, address: str, port: int | None = None) -> str:
    """A URL as libraries expect it, with an IPv6 address in brackets.

    Args:
        scheme: such as ``tcp``.
        address: an IPv4 or IPv6 address, without brackets.
        port: None: the URL has no port.
    """
    name = f"[{address}]" if ":" in address else address
    return f"{scheme}://{name}" + (f":{port}" if port is not None else "")
