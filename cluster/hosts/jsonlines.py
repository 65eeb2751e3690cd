"""JSON lines over descriptors that never block, watched by a selector.

Whoever owns a wire reads what has come and writes what the other side takes; a peer that is slow,
frozen, cut off or hostile can therefore stop nobody.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_CHUNK = 1 << 16
_MOST = 1 << 20
_LONGEST_LINE = 16 << 20


class Connection:
    """Messages in both directions; the keys' data in the selector are handlers of an event mask.

    Args:
        source, sink: descriptors to read from and to write to; of a socket, the same twice. A
            source of None: nothing comes.
        selector: watches them.
        decode: makes a message of a line. ``bytes`` leaves it as it is, for one who passes it on.

    Attributes:
        ended: no more will come.
        wrong: why what came is no message, or empty; nothing is read after it.
    """

    def __init__(
        self,
        source: int | None,
        sink: int,
        selector: selectors.BaseSelector,
        decode: Callable[[bytes], Any] = json.loads,
    ) -> None:
        self.ended, self.wrong = source is None, ""
        self._source, self._sink, self._selector = source, sink, selector
        self._decode = decode
        self._incoming, self._outgoing = b"", bytearray()
        self._messages: list[Any] = []
        self._watched: dict[int, int] = {}
        for descriptor in (source, sink):
            if descriptor is not None:
                os.set_blocking(descriptor, False)
        self._watch()

    def queue(self, message: object) -> None:
        """Add a message to what is to be sent; ``send`` sends it."""
        self._outgoing += json.dumps(message, separators=(",", ":")).encode() + b"\n"

    def queue_lines(self, lines: bytes) -> None:
        """Add whole lines, each a message, as they are."""
        self._outgoing += lines

    def send(self) -> None:
        """Write what the other side takes now; the rest follows when it takes more."""
        try:
            written = os.write(self._sink, self._outgoing) if self._outgoing else 0
        except BlockingIOError:
            written = 0
        except OSError:
            # It is gone or going; its end will be seen where we read.
            written = len(self._outgoing)
        del self._outgoing[:written]
        self._watch()

    @property
    def has_messages(self) -> bool:
        """Whether a message has come that was not taken yet."""
        return bool(self._messages)

    def next(self) -> Any:
        """The oldest message that was not taken yet."""
        return self._messages.pop(0)

    def messages(self) -> list[Any]:
        """What has come since the last call."""
        messages, self._messages = self._messages, []
        return messages

    def read(self) -> None:
        """Take in what can be read now."""
        if self.ended or self.wrong or self._source is None:
            return
        data = take(self._source)
        self.ended = data is None
        *lines, self._incoming = (self._incoming + (data or b"")).split(b"\n")
        try:
            self._messages += map(self._decode, lines)
        except (ValueError, RecursionError) as error:
            self.wrong = f"what it sent is not JSON: {error}"
        if len(self._incoming) > _LONGEST_LINE:
            self.wrong, self._incoming = "it sent a line of more than 16 MiB", b""
        if self.ended or self.wrong:
            self._watch()

    def stop_sending(self) -> None:
        """Forget what was not taken, and watch the sink no more."""
        self._outgoing.clear()
        self._watch()

    def close(self) -> None:
        """Watch nothing any more; the descriptors are their owner's to close."""
        self.ended = True
        self.stop_sending()

    def _watch(self) -> None:
        """The source is watched until its end, the sink while something waits for it."""
        wanted: dict[int, int] = {}
        if self._source is not None and not self.ended and not self.wrong:
            wanted[self._source] = selectors.EVENT_READ
        if self._outgoing:
            wanted[self._sink] = wanted.get(self._sink, 0) | selectors.EVENT_WRITE
        if wanted == self._watched:
            return
        for descriptor in self._watched.keys() - wanted.keys():
            self._selector.unregister(descriptor)
        for descriptor, events in wanted.items():
            known = self._watched.get(descriptor)
            if known is None:
                self._selector.register(descriptor, events, self._on_event)
            elif known != events:
                self._selector.modify(descriptor, events, self._on_event)
        self._watched = wanted

    def _on_event(self, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self.send()
        if mask & selectors.EVENT_READ:
            self.read()


def take(descriptor: int) -> bytes | None:
    """What can be read now, up to a bound that keeps the loop turning; None at the end."""
    data = b""
    while len(data) < _MOST:
        try:
            chunk = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return data
        except OSError:
            return data or None  # the other side reset the connection
        if not chunk:
            return data or None
        data += chunk
    return data


class Listener:
    """A listening socket for processes of this user on this machine.

    It is an abstract Unix socket with a random name: it leaves no file, and the peer's user ID is
    checked on every connection.

    Args:
        selector: watches it.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._name = f"cluster-{os.urandom(16).hex()}"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(f"\0{self._name}")
        self._socket.listen(64)
        self._socket.setblocking(False)
        self._callers: list[socket.socket] = []
        selector.register(self._socket, selectors.EVENT_READ, lambda _mask: self._accept())

    @property
    def address(self) -> str:
        """The address for :func:`dial`."""
        return f"@{self._name}"

    def callers(self) -> list[socket.socket]:
        """The connections accepted since the last call."""
        callers, self._callers = self._callers, []
        return callers

    def close(self) -> None:
        """Accept no more connections."""
        if self._socket.fileno() >= 0:
            self._selector.unregister(self._socket)
            self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            connection, _ = self._socket.accept()
            if _user_of(connection) == os.getuid():
                self._callers.append(connection)
            else:
                connection.close()


def dial(address: str) -> socket.socket:
    """Connect to a :class:`Listener` of this machine.

    Raises:
        ConnectionError: the process that listened has ended.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(f"\0{address[1:]}")
    return connection


def _user_of(connection: socket.socket) -> int:
    """The peer's user ID, from its struct ucred: pid, uid and gid, 4 bytes each."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], sys.byteorder)
