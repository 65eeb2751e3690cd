"""How an engine's process on a host reaches the workers there: by a socket of the host's agent."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from cluster.common.errors import ClusterError
from cluster.hosts.jsonlines import Lines, dial

#: The environment variable that says where.
SOCKET = "CLUSTER_SLOTS"
_CHUNK = 1 << 16


class Desk:
    """A lasting connection to this host's workers, for an engine's process.

    Args:
        address: of the environment variable ``CLUSTER_SLOTS``.

    Raises:
        ConnectionError: the agent has gone.
    """

    def __init__(self, address: str) -> None:
        self._connection = dial(address)
        self._lines = Lines(bytes)

    def ask(
        self, tasks: Sequence[list[Any]], patience: float | None = None
    ) -> tuple[list[str], list[int]]:
        """Have tasks drawn, and wait for their outcomes.

        Args:
            tasks: the fields of :class:`cluster.sampling.task.Task`, of each.
            patience: seconds after which the agent is to tell the rest to the dispatcher itself;
                None: all are waited for.

        Returns:
            The outcomes as JSON texts, in the order in which they came about; and the ids of the
            tasks that were left to the agent.

        Raises:
            ConnectionError: the agent has gone.
        """
        self._send(*tasks)
        deadline = None if patience is None else time.monotonic() + patience
        lines: list[bytes] = []
        while len(lines) < len(tasks):
            if not self._waits(deadline):
                return self._leave(lines)
            lines += self._read()
        return [line.decode() for line in lines], []

    def close(self) -> None:
        """Have no more to do with them."""
        self._connection.close()

    def _leave(self, lines: list[bytes]) -> tuple[list[str], list[int]]:
        """An object says what was left; it comes after all outcomes, which are lists."""
        self._send({"leave": True})
        while not lines or not lines[-1].startswith(b"{"):
            lines += self._read()
        *outcomes, last = lines
        return [line.decode() for line in outcomes], json.loads(last)["left"]

    def _send(self, *messages: object) -> None:
        for message in messages:
            self._lines.queue(message)
        self._connection.sendall(self._lines.outgoing)
        self._lines.outgoing.clear()

    def _waits(self, deadline: float | None) -> bool:
        """Until something can be read (or ever is): False where the deadline comes first."""
        if deadline is None:
            return True
        left = max(0.0, deadline - time.monotonic())
        return bool(select.select([self._connection], [], [], left)[0])

    def _read(self) -> list[bytes]:
        data = self._connection.recv(_CHUNK)
        if not data:
            raise ConnectionError("the agent of this host has gone")
        self._lines.take_in(data)
        return self._lines.messages()


def ask(address: str, task: list[Any]) -> list[Any]:
    """Have one task drawn; see :class:`Desk`."""
    with closing(Desk(address)) as desk:
        (text,), _ = desk.ask([task])
    outcome: list[Any] = json.loads(text)
    return outcome


def slots_address() -> str:
    """Where this host's workers are asked, for an engine's process."""
    try:
        return os.environ[SOCKET]
    except KeyError:
        raise ClusterError("this process was not started by an agent") from None
