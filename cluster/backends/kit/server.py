"""A call engine's server on a host, started by the host's agent: it runs the engine's ``serve``.

Its first line of input is ``{"module": name, "secret": text, "address": text, "slots": n}``. It
sends whatever the engine announces once it listens, ``{"beat": n}`` each second, and ``{"unfit":
text}`` if this Python lacks what the engine needs.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from cluster.backends.kit.process import Say, beat, end, run
from cluster.hosts.agent_client import slots_address
from cluster.hosts.jsonlines import dial

# Characters of outcomes in one answer: a slow network (1 Mbit/s) carries them within a second or
# two, well before the link counts as silent. A longer outcome travels alone.
_MOST_TOGETHER = 1 << 17


def main() -> None:
    """Serve until killed; the agent does that. Never started by hand."""
    run(_serve)


def _serve(first: Mapping[str, Any], say: Say) -> None:
    beat(say)  # before the import, which may be slow
    try:
        engine = import_module(first["module"])
        engine.serve(CallHandler(slots_address()).answer, first, say)
    except ImportError as error:
        say({"unfit": str(error)})


class CallHandler:
    """Answers an engine's calls: they bring tasks for this host's workers, or take outcomes.

    The text of a call is a line ``[session, seconds]``, followed by tasks, one per line. A call
    with tasks gets an empty answer at once. A call without gets outcomes, one per line, as soon as
    there are any, and an empty answer after that many seconds. A driver that starts or restarts
    uses a higher session number than any before. That ends the earlier sessions, whose outcomes
    are dropped.

    Args:
        address: of the socket of the host's agent, which passes tasks to the workers.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._session: _Session | None = None

    def answer(self, text: str) -> str:
        """The answer to a call. May be called from any thread, several at a time."""
        head, _, tasks = text.partition("\n")
        number, seconds = json.loads(head)
        session = self._session_of(int(number))
        if session is None:
            return ""
        return session.give(tasks) if tasks else session.take(float(seconds))

    def _session_of(self, number: int) -> _Session | None:
        """The session of that number, created if it is the highest so far; None if it is over."""
        with self._lock:
            current = self._session
            if current is None or number > current.number:
                self._session = _Session(number, self._address)
                if current is not None:
                    current.close()
            return self._session if self._session and self._session.number == number else None


class _Session:
    """One driver's tasks and outcomes, with a connection of its own to the agent.

    When that connection ends, the agent drops the session's tasks that no worker has begun.
    """

    def __init__(self, number: int, address: str) -> None:
        self.number = number
        self._connection = dial(address)
        self._outcomes: deque[str] = deque()
        self._changed, self._sending = threading.Condition(), threading.Lock()
        self._closed = False
        threading.Thread(target=self._read, daemon=True).start()

    def give(self, tasks: str) -> str:
        with self._sending:
            self._connection.sendall(f"{tasks}\n".encode())
        return ""

    def take(self, seconds: float) -> str:
        with self._changed:
            self._changed.wait_for(lambda: self._outcomes or self._closed, seconds)
            # A closed session belongs to a dead driver: its outcomes must not go to anybody.
            return "" if self._closed else "\n".join(self._some())

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._connection.shutdown(socket.SHUT_RDWR)
            self._changed.notify_all()

    def _some(self) -> Iterable[str]:
        size = 0
        while self._outcomes and size < _MOST_TOGETHER:
            size += len(self._outcomes[0])
            yield self._outcomes.popleft()

    def _read(self) -> None:
        """In a thread: collect outcomes until the connection ends."""
        with self._connection, self._connection.makefile(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                with self._changed:
                    self._outcomes.append(line.rstrip("\n"))
                    self._changed.notify()
        if not self._closed:
            end("the agent of this host has gone")


if __name__ == "__main__":
    main()
