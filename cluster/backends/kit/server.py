"""A call engine's server on a host, started by the host's agent: the engine's ``serve``.

Its first line of input is ``{"module": name, "secret": text, "address": text, "slots": n}``. It
says what the engine announces, once that listens, ``{"beat": n}`` each second, and ``{"unfit":
text}`` where what the engine needs is not installed for this Python.
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

# What a slow network, 1 Mbit/s, carries within a second or two; a longer outcome travels alone.
_MOST_TOGETHER = 1 << 17


def main() -> None:
    """Serve until killed; the agent does that. Never started by hand."""
    run(_serve)


def _serve(first: Mapping[str, Any], say: Say) -> None:
    beat(say)
    try:
        engine = import_module(first["module"])
        engine.serve(Exchange(slots_address()).answer, first, say)
    except ImportError as error:
        say({"unfit": str(error)})


class Exchange:
    """What an engine's calls are about: tasks for this host's workers, and their outcomes.

    A text is a line ``[session, seconds]`` and, below it, tasks, a line each. The answer to one
    with tasks is empty and comes at once; that to one without has outcomes, a line each, and comes
    when there are some, or after so many seconds. A driver that begins, or begins again, numbers
    its session higher than any before it, which are over then: their outcomes go to nobody.

    Args:
        address: of the host's workers.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._session: _Session | None = None

    def answer(self, text: str) -> str:
        """The answer to a call; from any thread."""
        head, _, tasks = text.partition("\n")
        number, seconds = json.loads(head)
        session = self._session_of(int(number))
        if session is None:
            return ""
        return session.give(tasks) if tasks else session.take(float(seconds))

    def _session_of(self, number: int) -> _Session | None:
        """The one of that number, begun now where it is a new one; None where it is over."""
        with self._lock:
            current = self._session
            if current is None or number > current.number:
                self._session = _Session(number, self._address)
                if current is not None:
                    current.close()
            return self._session if self._session and self._session.number == number else None


class _Session:
    """A driver's tasks and outcomes: a connection to the workers of its own.

    With it the agent learns when nobody waits for what was not begun.
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
            # Where another session has begun, whoever asks is gone, and must not take anything.
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
        """In a thread: take in outcomes until the connection ends."""
        with self._connection, self._connection.makefile(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                with self._changed:
                    self._outcomes.append(line.rstrip("\n"))
                    self._changed.notify()
        if not self._closed:
            end("the agent of this host has gone")


if __name__ == "__main__":
    main()
