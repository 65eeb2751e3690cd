"""What the ranks of a world do that the dispatcher has launched.

The first is the driver: it passes tasks from the dispatcher to the ranks, and outcomes back. Each
of the others passes them to the worker processes of its host's agent, as the lines that they came
as. Tasks and outcomes are lists; whatever is for a rank itself is an object.
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

#: The environment variable that tells ranks beside the dispatcher whose workers they are to use:
#: the name and the address of each, from the rank after the first on.
HERE = "CLUSTER_MPI_HERE"
_BEAT = 1.0


def main() -> None:
    """Be one of the ranks. Started by a launcher, never by hand."""
    die_with_parent()
    leave_signals()
    os.environ.update(transport(os.environ.get(OWN_ADDRESS, ""), os.environ.get("TMPDIR", "/tmp")))
    first = not told_rank(os.environ)
    try:
        world = join(json.loads if first else bytes)
    except EngineError as error:
        _refuse(error, first)
    guarded(world, lambda: _coordinate(world) if first else _relay(world))
    sys.stderr.flush()


def _refuse(error: EngineError, first: bool) -> NoReturn:
    """Tell the dispatcher, or the launcher, why there is no world."""

    def make(_setup: object) -> Carrier:
        raise error

    if first:
        from cluster.backends.kit.carry import carry

        carry(make)
    sys.stderr.write(f"{error}\n")
    sys.exit(error.code)


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


def _coordinate(world: Communicator) -> int:
    from cluster.backends.kit.carry import carry

    coordinator = Coordinator(world)
    carry(lambda _setup: coordinator, Exchange(world), coordinator.close)
    return 0


class Coordinator:
    """The first rank, which carries tasks to all others: a ``Carrier`` of the kit."""

    def __init__(self, world: Communicator) -> None:
        self.wake = os.eventfd(0)  # the world's selector looks for messages by itself
        self._world, self._held = world, is_held()
        self._ranks: dict[str, int] = {}

    def join(self, host: Mapping[str, Any]) -> None:
        """See Carrier: a world is of the hosts that it was launched with."""

    def leave(self, name: str, reason: str) -> None:
        """See Carrier: with a host its world ends."""

    def revoke(self, ids: Sequence[int]) -> None:
        """See Carrier: a rank passes a task on at once, to an agent that is told of this too."""

    def send(self, task: Sequence[Any], name: str | None) -> None:
        """See Carrier: a task for the rank of a host."""
        self._world.lines[self._ranks[name or ""]].queue(task)

    def tend(self) -> Iterator[Mapping[str, Any]]:
        """See Carrier; what a rank says each second is its beat."""
        for rank, line in self._world.lines.items():
            for message in line.messages():
                if isinstance(message, list):
                    yield {"outcome": message}
                else:
                    self._ranks[message["up"]] = rank
                    yield {**message, "held": {"here": self._held, "there": message["held"]}}

    def close(self) -> None:
        """End the world in order."""
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
    """Those of some lines that are lists, as they travel."""
    return b"".join(line + b"\n" for line in lines if _is_list(line))


class Relay:
    """A rank beside an agent: tasks go to its worker processes, outcomes come from them."""

    def __init__(self, world: Communicator, selector: Exchange) -> None:
        self._line, self._selector = world.lines[0], selector
        if "CLUSTER_NODE" in os.environ:
            name, address = os.environ["CLUSTER_NODE"], os.environ["CLUSTER_SLOTS"]
        else:
            name, address = json.loads(os.environ[HERE])[world.rank - 1]
        self._wire = SocketConnection(dial(address), selector, bytes)
        self._up, self._beaten = {"up": name, "held": is_held()}, 0.0

    def serve(self) -> None:
        """Until the coordinator ends it, or the agent has gone."""
        lines: list[bytes] = []
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
