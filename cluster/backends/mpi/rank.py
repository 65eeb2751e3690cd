"""The ranks of a world that the dispatcher has launched.

The first rank is the driver: it passes tasks from the dispatcher to the other ranks, and outcomes
back. Each other rank relays them to and from the workers of its host's agent, as lines that it does
not parse. Tasks and outcomes are lists; a message for a rank itself is an object.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from cluster.backends.mpi.fence import LOOPBACK, OWN_ADDRESS, interface_of, is_held
from cluster.backends.mpi.world import Communicator, Exchange, guarded, join, told_rank
from cluster.common.errors import EngineError
from cluster.hosts.jsonlines import SocketConnection, dial
from cluster.hosts.process_tree import die_with_parent, leave_signals

if TYPE_CHECKING:
    from cluster.backends.kit.carry import Carrier

#: The environment variable with the hosts of the ranks on the dispatcher's machine, from rank 1 on:
#: the name of each, and the address of its agent's socket. Elsewhere the agent's environment tells.
HERE = "CLUSTER_MPI_HERE"
_BEAT = 1.0


def main() -> None:
    """Run one rank. Started by a launcher, never by hand."""
    die_with_parent()
    leave_signals()
    # Before `join`: the libraries read these when mpi4py is imported.
    os.environ.update(transport(os.environ.get(OWN_ADDRESS, ""), os.environ.get("TMPDIR", "/tmp")))
    first = not told_rank(os.environ)
    try:
        world = join(json.loads if first else bytes)
    except EngineError as error:
        _refuse(error, first)
    guarded(world, lambda: _coordinate(world) if first else _relay(world))
    sys.stderr.flush()


def _refuse(error: EngineError, first: bool) -> NoReturn:
    """Report why this rank cannot join a world: to the dispatcher, or on standard error."""

    # As the driver of a world that failed: the dispatcher then gets the error with its fix.
    def make(_setup: object) -> Carrier:
        raise error

    if first:
        from cluster.backends.kit.carry import carry

        carry(make)
    sys.stderr.write(f"{error}\n")
    sys.exit(error.code)


def transport(address: str, folder: str) -> dict[str, str]:
    """Environment variables by which the MPIs choose how ranks communicate.

    Args:
        address: of this host, the only one to use; empty: any.
        folder: for files that are removed with the world.
    """
    name = interface_of(address)
    # MPICH's transports (UCX, libfabric) open a port on every interface unless one is named.
    named = {"UCX_NET_DEVICES": name, "FI_TCP_IFACE": name} if name else {}
    if address == LOOPBACK:
        # All ranks are on this machine: without tcp, Open MPI opens no port. Its shared memory is a
        # file; in this folder it is removed even if the ranks are killed.
        return {**named, "OMPI_MCA_btl": "self,sm", "OMPI_MCA_btl_sm_backing_directory": folder}
    # Without sm: its files in /dev/shm would survive a killed rank, and the messages are small.
    named |= {"OMPI_MCA_btl_tcp_if_include": name} if name else {}
    return {**named, "OMPI_MCA_btl": "self,tcp"}


def _coordinate(world: Communicator) -> int:
    from cluster.backends.kit.carry import carry

    coordinator = Coordinator(world)
    carry(lambda _setup: coordinator, Exchange(world), coordinator.close)
    return 0


class Coordinator:
    """The first rank, a ``Carrier`` of the kit, which passes tasks to all others.

    Args:
        world: of the ranks.
    """

    def __init__(self, world: Communicator) -> None:
        self.wake = os.eventfd(0)  # never readable: the world's selector polls for messages
        self._world, self._held = world, is_held()
        self._ranks: dict[str, int] = {}

    def join(self, host: Mapping[str, Any]) -> None:
        """Do nothing: a world only has the hosts that it was launched with."""

    def leave(self, name: str, reason: str) -> None:
        """Do nothing: the world ends with any of its hosts."""

    def revoke(self, ids: Sequence[int]) -> None:
        """Do nothing: ranks pass tasks on at once, and the agents revoke them."""

    def send(self, task: Sequence[Any], name: str | None) -> None:
        """Queue a task for the rank of a host."""
        self._world.lines[self._ranks[name or ""]].queue(task)

    def tend(self) -> Iterator[Mapping[str, Any]]:
        """Pass on outcomes and heartbeats; each heartbeat of a rank also says that it is up."""
        for rank, line in self._world.lines.items():
            for message in line.messages():
                if isinstance(message, list):
                    yield {"outcome": message}
                else:
                    self._ranks[message["up"]] = rank
                    yield {**message, "held": {"here": self._held, "there": message["held"]}}

    def close(self) -> None:
        """End the other ranks, and leave the world together with them."""
        for line in self._world.lines.values():
            line.queue({"end": True})
        self._world.leave()


def _relay(world: Communicator) -> int:
    with Exchange(world) as selector:
        Relay(world, selector).serve()
    world.leave()
    return 0


def _is_list(line: bytes) -> bool:
    return line.startswith(b"[")


def joined(lines: Iterable[bytes]) -> bytes:
    """The lines that are lists (tasks or outcomes), joined for sending."""
    return b"".join(line + b"\n" for line in lines if _is_list(line))


class Relay:
    """A rank beside an agent: it passes tasks to the agent's workers, and their outcomes back.

    Args:
        world: of the ranks.
        selector: watches the connection to the agent.

    Raises:
        ConnectionError: the agent has ended.
    """

    def __init__(self, world: Communicator, selector: Exchange) -> None:
        self._line, self._selector = world.lines[0], selector
        if "CLUSTER_NODE" in os.environ:
            name, address = os.environ["CLUSTER_NODE"], os.environ["CLUSTER_SLOTS"]
        else:
            name, address = json.loads(os.environ[HERE])[world.rank - 1]
        self._wire = SocketConnection(dial(address), selector, bytes)
        self._up, self._beaten = {"up": name, "held": is_held()}, 0.0

    def serve(self) -> None:
        """Relay until the coordinator ends this rank.

        Raises:
            ConnectionError: the agent has ended.
        """
        lines: list[bytes] = []
        # The only object that the coordinator sends is the end.
        while all(map(_is_list, lines)):
            self._wire.queue_lines(joined(lines))
            self._pass_up(self._wire)
            if time.monotonic() - self._beaten > _BEAT:
                self._beaten = time.monotonic()
                self._line.queue(self._up)
            for key, mask in self._selector.select(_BEAT):
                key.data(mask)
            lines = self._line.messages()

    def _pass_up(self, wire: SocketConnection) -> None:
        if outcomes := wire.messages():
            self._line.queue_lines(joined(outcomes))
        wire.send()
        if wire.gone:
            raise ConnectionError("the agent of this host has gone")


if __name__ == "__main__":
    main()
