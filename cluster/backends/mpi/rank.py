"""What the ranks of a world do that the dispatcher has launched.

The first is the driver: it passes tasks from the dispatcher to the ranks, and outcomes back. Each
of the others passes them to the worker processes of its host's agent. Tasks and outcomes are lists,
which are passed on as the lines that they came as; whatever is for a rank itself is an object.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from cluster.backends.mpi.fence import LOOPBACK, OWN_ADDRESS, interface_of, is_held
from cluster.backends.mpi.world import Communicator, Exchange, guarded, join
from cluster.common.errors import EngineError
from cluster.hosts.jsonlines import Connection, dial
from cluster.hosts.process_tree import catch, die_with_parent
from cluster.hosts.worker import leave_it

_BEAT = 1.0


def main() -> None:
    """Be one of the ranks. Started by a launcher, never by hand."""
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        catch(number, leave_it)
    os.environ.update(transport(os.environ.get(OWN_ADDRESS, ""), os.environ.get("TMPDIR", "/tmp")))
    try:
        world = join(bytes)
    except EngineError as error:
        _complain(error)
    guarded(world, lambda: _serve(world))
    sys.stderr.flush()


def transport(address: str, folder: str) -> dict[str, str]:
    """Settings of the MPIs: how ranks talk to each other.

    Args:
        address: the one of this host over which they do; empty: any.
        folder: for files that need not outlive the world.
    """
    name = interface_of(address)
    # What MPICH stands on opens a port on every interface, where it is not told of one.
    named = {"UCX_NET_DEVICES": name, "FI_TCP_IFACE": name} if name else {}
    if address == LOOPBACK:
        # All are on this machine: Open MPI opens no port. The file is where it is always removed.
        return {**named, "OMPI_MCA_btl": "self,sm", "OMPI_MCA_btl_sm_backing_directory": folder}
    # Files in shared memory would outlive a rank that is killed; these few bytes need none.
    named |= {"OMPI_MCA_btl_tcp_if_include": name} if name else {}
    return {**named, "OMPI_MCA_btl": "self,tcp"}


def _complain(error: EngineError) -> None:
    """Tell the dispatcher, where this rank is beside it; and the launcher."""
    if "CLUSTER_DRIVER" in os.environ:
        from cluster.backends.driver import connect

        with selectors.SelectSelector() as selector:
            wire = connect(selector)
            wire.queue({"unfit": error.message, "fix": error.fix, "code": error.code})
            wire.send()
    sys.stderr.write(f"{error}\n")
    sys.exit(error.code)


def _serve(world: Communicator) -> int:
    with Exchange(world) as selector:
        role = Coordinator(world, selector) if world.rank == 0 else Relay(world, selector)
        role.serve()
    world.leave()
    return 0


def _is_list(line: bytes) -> bool:
    return line.startswith(b"[")


def joined(lines: Iterable[bytes]) -> bytes:
    """Those of some lines that are lists, as they travel."""
    return b"".join(line + b"\n" for line in lines if _is_list(line))


def objects(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The others of them, read."""
    return (json.loads(line) for line in lines if not _is_list(line))


class Coordinator:
    """The first rank: the dispatcher on one side, all other ranks on the other."""

    def __init__(self, world: Communicator, selector: Exchange) -> None:
        from cluster.backends.driver import connect

        self._lines, self._selector = world.lines, selector
        self._wire = connect(selector, bytes)
        self._ranks: dict[str, int] = {}
        self._to = 0
        self._here: list[list[str]] = []
        self._homeless: list[int] = []
        self._alive: set[str] = set()
        self._beaten, self._held = 0.0, is_held()

    def serve(self) -> None:
        """Until the dispatcher is gone."""
        while not self._wire.ended and not self._wire.wrong:
            self._pass_down(self._wire.messages())
            for rank, line in self._lines.items():
                self._pass_up(rank, line.messages())
            self._settle()
            self._beat()
            self._wire.send()
            for key, mask in self._selector.select(_BEAT):
                key.data(mask)
        for line in self._lines.values():
            line.queue({"end": True})

    def _pass_down(self, lines: list[bytes]) -> None:
        """Tasks go to the host that was named last before them."""
        for is_list, some in groupby(lines, _is_list):
            if is_list:
                self._lines[self._to].queue_lines(joined(some))
            for message in objects(some):
                if "to" in message:
                    self._to = self._ranks[message["to"]]
                elif "setup" in message:
                    self._here = list(message["setup"]["here"])

    def _pass_up(self, rank: int, lines: list[bytes]) -> None:
        self._wire.queue_lines(joined(lines))
        for message in objects(lines):
            if "node" in message:
                self._homeless.append(rank)
            elif "alive" in message:
                self._alive.add(message["alive"])
            else:
                self._ranks[message["up"]] = rank
                where = {"here": self._held, "there": message["held"]}
                self._wire.queue({"up": message["up"], "held": where})

    def _settle(self) -> None:
        """Tell ranks on this machine whose worker processes they are to use."""
        while self._homeless and self._here:
            name, address = self._here.pop(0)
            self._lines[self._homeless.pop(0)].queue({"name": name, "address": address})

    def _beat(self) -> None:
        if time.monotonic() - self._beaten > _BEAT:
            self._beaten = time.monotonic()
            self._wire.queue({"beat": 1})
            if self._alive:
                self._wire.queue({"alive": sorted(self._alive)})
                self._alive.clear()


class Relay:
    """A rank beside an agent: tasks go to its worker processes, outcomes come from them."""

    def __init__(self, world: Communicator, selector: Exchange) -> None:
        self._line, self._selector = world.lines[0], selector
        self._wire: Connection | None = None
        self._ended = False
        self._name, self._beaten = "", 0.0
        if "CLUSTER_NODE" in os.environ:
            self._meet(os.environ["CLUSTER_NODE"], os.environ["CLUSTER_SLOTS"])
        else:
            self._line.queue({"node": None})

    def serve(self) -> None:
        """Until the coordinator ends it, or the agent has gone."""
        while not self._ended:
            lines = self._line.messages()
            for message in objects(lines):
                self._on_message(message)
            # No task comes before it was said that we are up.
            if self._wire is not None:
                self._wire.queue_lines(joined(lines))
                self._pass_up(self._wire)
                self._beat()
            for key, mask in self._selector.select(_BEAT):
                key.data(mask)

    def _beat(self) -> None:
        if time.monotonic() - self._beaten > _BEAT:
            self._beaten = time.monotonic()
            self._line.queue({"alive": self._name})

    def _pass_up(self, wire: Connection) -> None:
        if outcomes := wire.messages():
            self._line.queue_lines(joined(outcomes))
        wire.send()
        if wire.ended or wire.wrong:
            raise ConnectionError("the agent of this host has gone")

    def _on_message(self, message: dict[str, Any]) -> None:
        if "end" in message:
            self._ended = True
        else:
            self._meet(message["name"], message["address"])

    def _meet(self, name: str, address: str) -> None:
        self._connection = dial(address)
        descriptor = self._connection.fileno()
        self._wire = Connection(descriptor, descriptor, self._selector, bytes)
        self._name = name
        self._line.queue({"up": name, "held": is_held()})


if __name__ == "__main__":
    main()
