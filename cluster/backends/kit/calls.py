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
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from cluster.backends.driver import DriverBackend
from cluster.backends.kit.remote import RemoteProcess
from cluster.common.engines import entries
from cluster.hosts.connect import Host
from cluster.hosts.worker_pool import python_command
from cluster.sampling.task import Outcome, Work

Call = Callable[[str], str]
Where = Mapping[str, Any]
Announce = Callable[[Where], object]

_DRIVER = "cluster.backends.kit.links"
_SERVER = "cluster.backends.kit.server"


class CallEngine(DriverBackend):
    """A server on every host, started by the host's agent, and one driver that calls them.

    Attributes:
        module: the engine's own, which has ``serve`` and ``dial``.
    """

    module: ClassVar[str]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._secret = secrets.token_hex(32)
        self._servers: dict[str, RemoteProcess] = {}
        self._places: dict[str, dict[str, Any]] = {}

    def _command(self) -> Sequence[str]:
        return python_command(sys.executable, _DRIVER)

    def _setup(self, work: Work) -> dict[str, Any]:
        return {"module": self.module}

    def _join(self, host: Host) -> None:
        """A server outlives a driver: a fresh one is told of those that there are."""
        if host.name not in self._servers:
            first = {**self._first(host), "module": self.module}
            ready = self.options.ready
            self._servers[host.name] = RemoteProcess("its server", host, _SERVER, first, ready)
        elif host.name in self._places:
            self._say({"host": self._places[host.name]})

    def _first(self, host: Host) -> dict[str, Any]:
        return {
            "secret": self._secret,
            "address": host.hello["address"],
            "slots": host.hello["slots"],
        }

    def _on_gone(self, host: Host) -> None:
        self._servers.pop(host.name, None)
        self._places.pop(host.name, None)
        super()._on_gone(host)

    def _on_told(self, host: Host, message: dict[str, Any]) -> None:
        server = self._servers.get(host.name)
        said = server.hear(message, self._attention.now) if server else None
        if said is None:
            return
        if "unfit" in said:
            host.refuse(f"its server cannot start: {said['unfit']}", installation(self.module))
            return
        self._places[host.name] = {"name": host.name, **self._first(host), **said}
        self._say({"host": self._places[host.name]})

    def _tend(self) -> Iterator[Outcome]:
        for name, server in self._servers.items():
            used = bool(self._up.get(name, (0, ""))[0])
            if reason := server.tend(self._attention.now, used=used):
                self._places.pop(name, None)
                self._say({"gone": name})
                self._up[name] = 0, reason
        yield from super()._tend()


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
