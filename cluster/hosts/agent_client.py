"""How an engine's process on a host reaches the workers there: through a socket of the agent."""

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

#: The environment variable with the address of the agent's socket.
SOCKET = "CLUSTER_SLOTS"
_CHUNK = 1 << 16


class Desk:
    """A persistent connection to this host's workers, for an engine's process.

    Args:
        address: of the agent's socket, see :func:`slots_address`.

    Raises:
        ConnectionError: the agent has ended.
    """

    def __init__(self, address: str) -> None:
        self._connection = dial(address)
        self._lines = Lines(bytes)

    def ask(
        self, tasks: Sequence[list[Any]], patience: float | None = None
    ) -> tuple[list[str], list[int]]:
        """Have tasks drawn, and wait for their outcomes.

        Args:
            tasks: each with the fields of :class:`cluster.sampling.task.Task`.
            patience: seconds to wait; the agent sends later outcomes to the dispatcher itself.
                None: wait for all.

        Returns:
            The outcomes as JSON texts, in the order in which they arrived; and the ids of the
            tasks that were left to the agent.

        Raises:
            ConnectionError: the agent has ended.
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
        """Close the connection; the agent drops its tasks that were not begun."""
        self._connection.close()

    def _leave(self, lines: list[bytes]) -> tuple[list[str], list[int]]:
        """Leave the remaining tasks to the agent.

        Its answer, an object, names them. Outcomes, which are lists, may still precede it.
        """
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
        """Wait until there is something to read; False if the deadline comes first."""
        if deadline is None:
            return True  # the read itself waits
        left = max(0.0, deadline - time.monotonic())
        return bool(select.select([self._connection], [], [], left)[0])

    def _read(self) -> list[bytes]:
        data = self._connection.recv(_CHUNK)
        if not data:
            raise ConnectionError("the agent of this host has gone")
        self._lines.take_in(data)
        return self._lines.messages()


def ask(address: str, task: list[Any]) -> list[Any]:
    """Have one task drawn, over a connection of its own.

    Args:
        address: of the agent's socket, see :func:`slots_address`.
        task: the fields of :class:`cluster.sampling.task.Task`.

    Returns:
        The fields of its outcome.

    Raises:
        ConnectionError: the agent has ended.
    """
    with closing(Desk(address)) as desk:
        (text,), _ = desk.ask([task])
    outcome: list[Any] = json.loads(text)
    return outcome


def slots_address() -> str:
    """The address of the agent's socket, for an engine's process.

    Raises:
        ClusterError: no agent started this process.
    """
    try:
        return os.environ[SOCKET]
    except KeyError:
        raise ClusterError("this process was not started by an agent") from None
