"""What the ranks of a world do that the dispatcher has launched.

The first is the driver: it passes tasks from the dispatcher to the ranks, and outcomes back. Each
of the others passes them to the worker processes of its host's agent.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import time
from typing import Any

from cluster.backends.mpi.world import DOWN, UP, World, guarded, join
from cluster.errors import EngineError
from cluster.family import die_with_parent
from cluster.wire import Wire, dial
from cluster.worker import leave_it

_BEAT = 1.0


def main() -> None:
    """Be one of the ranks. Started by a launcher, never by hand."""
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, leave_it)
    # Files in shared memory would outlive a rank that is killed; these few bytes need none.
    os.environ.update({"OMPI_MCA_btl": "self,tcp"})
    try:
        world = join()
    except EngineError as error:
        _complain(error)
    guarded(world, lambda: _serve(world))
    sys.stderr.flush()


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


def _serve(world: World) -> int:
    with selectors.SelectSelector() as selector:
        role = Coordinator(world, selector) if world.rank == 0 else Relay(world, selector)
        role.serve()
    world.flush()
    world.leave()
    return 0


class Coordinator:
    """The first rank: the dispatcher on one side, all other ranks on the other."""

    def __init__(self, world: World, selector: selectors.BaseSelector) -> None:
        from cluster.backends.driver import connect

        self._world, self._selector = world, selector
        self._wire = connect(selector)
        self._ranks: dict[str, int] = {}
        self._here: list[list[str]] | None = None
        self._homeless: list[int] = []
        self._beaten = 0.0

    def serve(self) -> None:
        """Until the dispatcher is gone."""
        while not self._wire.ended and not self._wire.wrong:
            for message in self._wire.messages():
                self._on_message(message)
            for rank, lines in self._world.arrived(UP):
                for line in lines:
                    self._on_line(rank, json.loads(line))
            self._settle()
            self._beat()
            self._world.flush()
            self._wire.send()
            for key, mask in self._selector.select(self._world.patience):
                key.data(mask)
        for rank in range(1, self._world.size):
            self._world.queue(rank, DOWN, {"end": True})

    def _on_message(self, message: dict[str, Any]) -> None:
        if "task" in message:
            self._world.queue(self._ranks[message["node"]], DOWN, message["task"])
        elif "setup" in message:
            self._here = list(message["setup"]["here"])

    def _on_line(self, rank: int, message: Any) -> None:
        if isinstance(message, list):
            self._wire.queue({"outcome": message})
        elif "node" in message:
            self._homeless.append(rank)
        else:
            self._ranks[message["up"]] = rank
            self._wire.queue({"up": message["up"], "slots": 1, "reason": f"over MPI, rank {rank}"})

    def _settle(self) -> None:
        """Tell ranks on this machine whose worker processes they are to use."""
        while self._homeless and self._here:
            name, address = self._here.pop(0)
            self._world.queue(self._homeless.pop(0), DOWN, {"name": name, "address": address})

    def _beat(self) -> None:
        if time.monotonic() - self._beaten > _BEAT:
            self._beaten = time.monotonic()
            self._wire.queue({"beat": 1})


class Relay:
    """A rank beside an agent: tasks go to its worker processes, outcomes come from them."""

    def __init__(self, world: World, selector: selectors.BaseSelector) -> None:
        self._world, self._selector = world, selector
        self._wire: Wire | None = None
        self._ended = False
        if "CLUSTER_NODE" in os.environ:
            self._meet(os.environ["CLUSTER_NODE"], os.environ["CLUSTER_SLOTS"])
        else:
            self._say({"node": None})

    def serve(self) -> None:
        """Until the coordinator ends it, or the agent has gone."""
        while not self._ended:
            for _, lines in self._world.arrived(DOWN):
                for line in lines:
                    self._on_message(json.loads(line))
            if self._wire is not None:
                for outcome in self._wire.messages():
                    self._say(outcome)
                self._wire.send()
                if self._wire.ended or self._wire.wrong:
                    raise ConnectionError("the agent of this host has gone")
            self._world.flush()
            for key, mask in self._selector.select(self._world.patience):
                key.data(mask)

    def _on_message(self, message: Any) -> None:
        if isinstance(message, list):
            assert self._wire is not None  # no task comes before it was said that we are up
            self._wire.queue(message)
        elif "end" in message:
            self._ended = True
        else:
            self._meet(message["name"], message["address"])

    def _meet(self, name: str, address: str) -> None:
        self._connection = dial(address)
        self._wire = Wire(self._connection.fileno(), self._connection.fileno(), self._selector)
        self._say({"up": name})

    def _say(self, message: object) -> None:
        self._world.queue(0, UP, message)


if __name__ == "__main__":
    main()
