"""The engines whose tasks travel by calls: two functions each, in the engine's own file.

``serve(draw, first, announce)``
    runs on a host, in a process that the host's agent started, and never returns. It listens at
    ``first["address"]`` and nowhere else, calls ``announce({"port": n})`` once it does (what else
    is announced is passed on to ``dial``), and answers each call with what ``draw(text)`` returns:
    a text, within about a second. Calls come from two callers at the same time, and must not wait
    for each other. ``first`` also has the ``secret`` of the run, and the host's ``slots``.

``dial(where)``
    runs in the driver, in a thread of its own, and returns ``call(text) -> text``, which that
    thread alone uses, one call after the other. ``where`` has what was announced, ``address``,
    ``secret``, and ``patience``: seconds within which a call is to end. It and ``call`` may raise
    anything: then what was under way is given to others, and it is dialled anew.

Neither reads anything of a peer that has not proved the secret: see
:mod:`cluster.backends.kit.door`, which does that for engines that take a connected socket.
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
        module: the engine's own, which has ``serve`` and ``dial``.
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
        """A server outlives a driver: a fresh one is told of those that there are."""
        if host.name not in self._remotes:
            self._run_on(host, {**self._first(host), "module": self.module})
            return
        (server,) = self._remotes[host.name]
        if server.said is not None:
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
    """What to do on a host that lacks an engine's module, or one that this needs."""
    found = next((e for e in entries() if e.target.partition(":")[0] == module), None)
    if found is not None and found.package:
        return f"there: pip install {found.package}"
    return f"there: {found.install}" if found and found.install else "install there what it needs"


def url(scheme: str, address: str, port: int | None = None) -> str:
    """A place as libraries are told it; an IPv6 address stands in brackets."""
    name = f"[{address}]" if ":" in address else address
    return f"{scheme}://{name}" + (f":{port}" if port is not None else "")
