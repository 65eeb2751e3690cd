"""Copies bytes between a TLS connection and two descriptors, and starts an agent at its end."""

from __future__ import annotations

import json
import os
import select
import signal
import ssl
import subprocess
import sys
import time
from contextlib import suppress

from cluster.hosts.worker_pool import python_command

_CHUNK = 1 << 16
# Bytes buffered in each direction; beyond that nothing more is read from the faster side.
_MOST = 1 << 20
# Seconds to deliver what is still buffered when one side has ended.
_GRACE = 3.0
# Limits of a dispatcher's first message: bytes, and seconds until it must have arrived.
_LONGEST, _FIRST = 16 << 20, 10.0
# Seconds for an agent to end once its connection has ended; then it is killed.
DYING = 10.0


def carry(sealed: ssl.SSLSocket, source: int, sink: int, first: bytes = b"") -> None:
    """Copy bytes both ways until either side ends.

    Args:
        sealed: a connection whose handshake is complete.
        source: a descriptor; what is read from it is sent over the connection.
        sink: a descriptor; what is received from the connection is written to it.
        first: bytes to write to ``sink`` first.
    """
    _Pipe(sealed, source, sink, first).run()


def serve_agent(connection: ssl.SSLSocket, slots: int | None) -> None:
    """Run an agent on this host for the dispatcher at the other end, until either ends.

    Args:
        connection: one whose handshake is complete.
        slots: the most workers; None: as many as the dispatcher requests.

    Raises:
        OSError: the dispatcher sends no first message in time, or a malformed one.
    """
    first = _first_line(connection, slots)
    there, here = connection.getpeername(), connection.getsockname()
    # As sshd does it, so that the agent learns its addresses in the same way.
    told = f"{there[0]} {there[1]} {here[0]} {here[1]}"
    agent = subprocess.Popen(
        python_command(sys.executable, "cluster.hosts.agent"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "SSH_CONNECTION": told},
    )
    assert agent.stdin is not None
    assert agent.stdout is not None
    with agent.stdin, agent.stdout:
        carry(connection, agent.stdout.fileno(), agent.stdin.fileno(), first)
    try:
        agent.wait(DYING)
    except subprocess.TimeoutExpired:
        os.killpg(agent.pid, signal.SIGKILL)
        agent.wait()


def _first_line(connection: ssl.SSLSocket, slots: int | None) -> bytes:
    """The dispatcher's first message, with its slots limited.

    Raises:
        ConnectionError: none arrived, or it is malformed.
    """
    connection.settimeout(_FIRST)
    data = b""
    while b"\n" not in data:
        chunk = connection.recv(_CHUNK)
        if not chunk or len(data) > _LONGEST:
            raise ConnectionError("no first message")
        data += chunk
    line, _, rest = data.partition(b"\n")
    try:
        message = json.loads(line)
        message["way"] = "ssh"  # the agent then reads its addresses from SSH_CONNECTION
        node = message["node"]
        if slots is not None:
            node["slots"] = min(node["slots"] or slots, slots)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConnectionError(f"not a first message: {error}") from None
    return json.dumps(message).encode() + b"\n" + rest


class _Pipe:
    def __init__(self, sealed: ssl.SSLSocket, source: int, sink: int, first: bytes) -> None:
        self._sealed, self._source, self._sink = sealed, source, sink
        self._out, self._in = bytearray(), bytearray(first)
        self._ended = False
        sealed.setblocking(False)
        for descriptor in (source, sink):
            os.set_blocking(descriptor, False)

    def run(self) -> None:
        while not self._ended:
            self._turn(None)
        deadline = time.monotonic() + _GRACE
        while (self._out or self._in) and time.monotonic() < deadline:
            self._turn(_GRACE)

    def _turn(self, timeout: float | None) -> None:
        wanted = self._wanted()
        poll = select.poll()
        for descriptor, events in wanted.items():
            poll.register(descriptor, events)
        poll.poll(None if timeout is None else timeout * 1000)
        if not self._ended:
            self._read()
        self._write()

    def _wanted(self) -> dict[int, int]:
        """The events to wait for; a side is not read while the buffer for the other one is full."""
        wanted = {self._sealed.fileno(): 0}
        if not self._ended:
            wanted[self._sealed.fileno()] |= select.POLLIN * (len(self._in) < _MOST)
            wanted[self._source] = select.POLLIN * (len(self._out) < _MOST)
        if self._out:
            wanted[self._sealed.fileno()] |= select.POLLOUT
        if self._in:
            wanted[self._sink] = wanted.get(self._sink, 0) | select.POLLOUT
        return wanted

    def _read(self) -> None:
        with suppress(BlockingIOError):
            self._took(self._out, os.read(self._source, _CHUNK))
        try:
            # Until it would block: bytes that TLS has already decrypted do not wake poll().
            while len(self._in) < _MOST and not self._ended:
                self._took(self._in, self._sealed.recv(_CHUNK))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            self._ended = True

    def _took(self, buffer: bytearray, data: bytes) -> None:
        self._ended = self._ended or not data
        buffer += data

    def _write(self) -> None:
        try:
            if self._in:
                del self._in[: os.write(self._sink, self._in)]
        except BlockingIOError:
            pass
        except OSError:
            self._ended, self._in = True, bytearray()
        try:
            if self._out:
                del self._out[: self._sealed.send(self._out)]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            self._ended, self._out = True, bytearray()
