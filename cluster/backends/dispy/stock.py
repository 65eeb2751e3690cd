"""The connection to a stock dispynode: a process here, which has it start an agent by a dispy job.

The job connects back to this process, which then copies bytes between agent and dispatcher, as ssh
does elsewhere; so a stock node has the same agent as every host. If there is no agent, this process
reports the reason in its place. dispy's own messages are not encrypted, and the node runs whatever
it is sent: this is for trusted networks only.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import socket
import ssl
import time
from contextlib import suppress
from typing import Any

from cluster.backends.dispy.client import Client, Event
from cluster.backends.dispy.pipe import carry
from cluster.backends.dispy.probe import Place, Unreachable
from cluster.backends.dispy.relay import Unfit, reached
from cluster.backends.dispy.shim import VERSION
from cluster.backends.kit.door import Door, server_context
from cluster.common.errors import EngineError
from cluster.hosts.process_tree import die_with_parent

RISK = (
    "network: trusted: a stock dispynode runs whatever the network sends it, unencrypted; "
    "anybody who reaches its port can use it"
)
_TICK = 0.5
# Seconds within which a free node must accept us, and its job must connect back.
_TAKEN, _CALLED = 8.0, 20.0


def main() -> None:
    """Copy until either side ends. Started by the dispatcher, never by hand."""
    die_with_parent()
    reached(_serve)
    # dispy's threads and exit handlers may wait for ever.
    os._exit(0)


def _serve(host: str, port: int, secret: str, source: int, sink: int) -> None:
    place = _place(host, port, secret)
    stock = StockNode(place, secret)
    try:
        with stock.agent() as connection:
            carry(connection, source, sink)
    finally:
        stock.part()


def _place(host: str, port: int, secret: str) -> Place:
    """Where the node is; it has answered, and accepted the secret.

    Raises:
        Unfit: it has not.
    """
    try:
        place = Place(socket.gethostbyname(host), port, None, secret)
    except OSError:
        raise Unfit("its name does not resolve", "correct the name", True) from None
    try:
        place.info()
    except Unreachable as error:
        raise Unfit(error.message, f"start dispynode.py -p {port - 1} there", False) from None
    except EngineError as error:
        fix = (
            "name in dispy.secret the one that it was started with (dispynode.py -s); a node of "
            "ours (cluster node) is met without network: trusted"
        )
        raise Unfit(error.message, fix, True) from None
    return place


class StockNode:
    """A stock dispynode, and the agent that it starts for us.

    Args:
        place: where it listens.
        token: dispy's secret.
    """

    def __init__(self, place: Place, token: str) -> None:
        self._place, self._last = place, place.info()["scheduler_ip"]
        self._client = Client(None, token)
        self._secret, self._here = secrets.token_hex(32), _own_address(place)
        self._agents: list[ssl.SSLSocket] = []
        self._taken = False

    def agent(self) -> ssl.SSLSocket:
        """Start an agent there, and return the connection to it.

        Raises:
            Unfit: that failed.
        """
        try:
            door = Door(self._here, 0, server_context(self._secret))
            door.open(self._let_in)
            self._client.add(self._place.address, self._place.port, 1, self._here)
        except OSError as error:
            words = f"nothing can listen at {self._here}, where it sees us: {error}"
            raise Unfit(words, "use a host of ssh", False) from None
        deadline = time.monotonic() + _TAKEN
        while not self._agents:
            select.select([self._client.events.bell], [], [], _TICK)
            for event in self._client.events.take():
                if event.kind == "up":
                    self._taken, deadline = True, time.monotonic() + _CALLED
                    self._start(door.port)
                elif event.kind in ("answer", "lost"):
                    raise _failed(event)
            if time.monotonic() > deadline:
                raise self._late(door.port)
        return self._agents.pop()

    def part(self) -> None:
        """Release the node, which otherwise stays reserved for us."""
        if self._client.begun:
            with suppress(EngineError):
                self._place.release(self._client.held(self._place.address))

    def _start(self, port: int) -> None:
        asked: dict[str, Any] = {
            "address": self._here,
            "port": port,
            "secret": self._secret,
            "patience": _CALLED,
            "slots": int(self._place.info()["cpus"]),
        }
        self._client.submit("agent", self._place.address, json.dumps(asked))

    def _let_in(self, connection: socket.socket) -> None:
        """Keep an agent's connection, and wake :meth:`agent`. Called in the connection's thread."""
        assert isinstance(connection, ssl.SSLSocket)
        self._agents.append(connection)
        self._client.events.ring()

    def _late(self, port: int) -> Unfit:
        """Why there is no agent in time."""
        if self._taken:
            words = f"its job did not connect to {self._here} port {port}, where it sees us"
            return Unfit(words, "let the node reach this machine", False)
        # A reserved node does not answer other clients. It names its last client, also once that
        # has gone.
        words = (
            "it answers and does not take us: it is held by another client (the last that it "
            f"took came from {self._last or 'nowhere'}), or its dispy is not {VERSION}"
        )
        fix = f"wait for that client, or start it anew; there, pip install dispy=={VERSION}"
        return Unfit(words, fix, False)


def _failed(event: Event) -> Unfit:
    """The reason in the answer of a job that ended without an agent."""
    found = json.loads(event.text) if event.kind == "answer" else {}
    if "unfit" in found:
        return Unfit(found["unfit"], "install the same cluster for the Python there", True)
    return Unfit(f"it started no agent: {event.text}", "see the node's own output", False)


def _own_address(place: Place) -> str:
    """Our own address on the route to a node; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe_socket:
        probe_socket.connect((place.address, place.port))
        address: str = probe_socket.getsockname()[0]
        return address


if __name__ == "__main__":
    main()
