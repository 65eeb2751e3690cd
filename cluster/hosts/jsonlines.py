"""JSON lines over non-blocking descriptors, watched by a selector.

The owner of a connection reads what has arrived and writes what the peer accepts. So a peer that is
slow, suspended, cut off or hostile cannot block anybody.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol

_CHUNK = 1 << 16
# Bytes read from one descriptor in one turn of the loop, so that a busy peer cannot starve others.
_MOST = 1 << 20
# Bytes. A hostile peer could otherwise fill the memory with a line that never ends.
_LONGEST_LINE = 16 << 20


class Speaker(Protocol):
    """A peer with which messages are exchanged without blocking, over any channel."""

    def queue(self, message: object) -> None:
        """Queue a message; :meth:`send` sends it."""

    def send(self) -> None:
        """Send what the peer accepts now; the rest follows when it accepts more."""

    def messages(self) -> Iterable[Any]:
        """The messages since the last call."""


class Lines:
    """Messages to and from a peer, as lines of bytes; how these travel is up to the owner.

    Args:
        decode: turns a line into a message. ``bytes`` keeps the line, for passing it on.

    Attributes:
        ended: nothing more will arrive.
        wrong: why what arrived is malformed; empty: it is not. Nothing is read after that.
        outgoing: the bytes of queued messages that were not sent yet.
    """

    def __init__(self, decode: Callable[[bytes], Any] = json.loads) -> None:
        self.ended, self.wrong = False, ""
        self.outgoing = bytearray()
        self._decode, self._incoming = decode, b""
        self._messages: deque[Any] = deque()

    def queue(self, message: object) -> None:
        """Queue a message."""
        self.outgoing += json.dumps(message, separators=(",", ":")).encode() + b"\n"

    def queue_lines(self, lines: bytes) -> None:
        """Queue encoded messages: complete lines, each with its newline."""
        self.outgoing += lines

    def take_in(self, data: bytes) -> None:
        """Decode the messages in received bytes; an incomplete last line waits for its rest."""
        *lines, self._incoming = (self._incoming + data).split(b"\n")
        try:
            self._messages.extend(map(self._decode, lines))
        except (ValueError, RecursionError) as error:  # deep nesting exhausts json's recursion
            self.wrong = f"what it sent is not JSON: {error}"
        if len(self._incoming) > _LONGEST_LINE:
            self.wrong, self._incoming = "it sent a line of more than 16 MiB", b""

    @property
    def has_messages(self) -> bool:
        """Whether there is a message that was not taken yet."""
        return bool(self._messages)

    def next(self) -> Any:
        """Take the oldest message."""
        return self._messages.popleft()

    def messages(self) -> list[Any]:
        """Take all messages that have arrived."""
        messages = list(self._messages)
        self._messages.clear()
        return messages


class Connection(Lines):
    """Messages over descriptors, which are made non-blocking.

    The data of a key in the selector is a handler, to be called with the event mask.

    Args:
        source: the descriptor to read from; None: the peer sends nothing.
        sink: the descriptor to write to; for a socket, the same as ``source``.
        selector: watches the descriptors.
        decode: see :class:`Lines`.
    """

    def __init__(
        self,
        source: int | None,
        sink: int,
        selector: selectors.BaseSelector,
        decode: Callable[[bytes], Any] = json.loads,
    ) -> None:
        super().__init__(decode)
        self.ended = source is None
        self._source, self._sink, self._selector = source, sink, selector
        self._watched: dict[int, int] = {}
        for descriptor in (source, sink):
            if descriptor is not None:
                os.set_blocking(descriptor, False)
        self._watch()

    def send(self) -> None:
        """Write what the peer accepts now; the rest follows when it accepts more."""
        try:
            written = os.write(self._sink, self.outgoing) if self.outgoing else 0
        except BlockingIOError:
            written = 0
        except OSError:
            # The peer has closed its side. Reading reports its end, after what it sent last.
            written = len(self.outgoing)
        del self.outgoing[:written]
        self._watch()

    def read(self) -> None:
        """Read what has arrived."""
        if self.ended or self.wrong or self._source is None:
            return
        data = take(self._source)
        self.ended = data is None
        self.take_in(data or b"")
        if self.ended or self.wrong:
            self._watch()

    def stop_sending(self) -> None:
        """Discard what was not sent, and stop watching the sink."""
        self.outgoing.clear()
        self._watch()

    def close(self) -> None:
        """Stop watching the descriptors; their owner has to close them."""
        self.ended = True
        self.stop_sending()

    def _watch(self) -> None:
        """Watch the source until its end, and the sink only while there is something to send.

        A sink is almost always writable: watching it all the time would make the loop spin.
        """
        wanted: dict[int, int] = {}
        if self._source is not None and not self.ended and not self.wrong:
            wanted[self._source] = selectors.EVENT_READ
        if self.outgoing:
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
    """The bytes that can be read now, up to a limit; None at the end of the input."""
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


class SocketConnection(Connection):
    """Messages over a socket, which is closed with the connection.

    Args:
        connection: the socket.
        selector: watches it.
        decode: see :class:`Lines`.
    """

    def __init__(
        self,
        connection: socket.socket,
        selector: selectors.BaseSelector,
        decode: Callable[[bytes], Any] = json.loads,
    ) -> None:
        super().__init__(connection.fileno(), connection.fileno(), selector, decode)
        self._connection = connection

    @property
    def gone(self) -> bool:
        """Whether the peer has closed it, or sent something malformed."""
        return self.ended or bool(self.wrong)

    def close(self) -> None:
        """Close the socket; what was not sent is discarded."""
        super().close()
        self._connection.close()


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
        # A caller may have closed its connection again before accept() is called.
        self._socket.setblocking(False)
        self._callers: list[SocketConnection] = []
        selector.register(self._socket, selectors.EVENT_READ, lambda _mask: self._accept())

    @property
    def address(self) -> str:
        """The address for :func:`dial`."""
        return f"@{self._name}"

    def callers(self) -> list[SocketConnection]:
        """The connections accepted since the last call; the caller closes them."""
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
                self._callers.append(SocketConnection(connection, self._selector))
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
