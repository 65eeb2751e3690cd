"""ZeroMQ sockets, encrypted by CURVE, that accept only peers which know the run's secret.

Both ends derive two key pairs from the secret, one for each side. CURVE itself only authenticates
the server: without a handler for ZeroMQ's ZAP (RFC 27), which checks the callers' keys, any client
key is accepted.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import zmq
from zmq.utils import z85

from cluster.backends.kit.identity import derived

# Bytes. ZeroMQ buffers a whole message before anybody can look at it, so longer ones are refused.
LONGEST = 64 << 20
_DOMAIN = b"cluster"


def keep(context: Any, secret: str) -> None:
    """Check callers' keys at all servers of a context, as long as the context exists.

    Args:
        context: of ZeroMQ; it can have one such handler.
        secret: of the run.
    """
    # A socket of a shadow context: closing all sockets of the original does not close this one
    # under its thread.
    gate: Any = zmq.Context.shadow(context).socket(zmq.REP)
    gate.bind("inproc://zeromq.zap.01")
    key = keys(secret, "caller")[0]
    threading.Thread(target=_compare, args=(gate, key), daemon=True).start()


def serve(socket: Any, secret: str, beat: float, dead: float) -> None:
    """Make a socket a server; it must not be bound yet.

    Args:
        socket: of a context that was given to :func:`keep`.
        secret: of the run.
        beat: seconds between ZeroMQ's heartbeats on a connection.
        dead: seconds without a heartbeat after which ZeroMQ closes the connection.
    """
    socket.curve_publickey, socket.curve_secretkey = keys(secret, "server")
    # Enforced: without a handler ZeroMQ would otherwise accept every caller.
    socket.curve_server, socket.zap_domain, socket.zap_enforce_domain = True, _DOMAIN, True
    _watch(socket, beat, dead)


def call(socket: Any, secret: str, beat: float, dead: float) -> None:
    """Make a socket a caller; it must not be connected yet.

    Args:
        socket: of any context.
        secret: of the run.
        beat: seconds between ZeroMQ's heartbeats on a connection.
        dead: seconds without a heartbeat after which ZeroMQ closes the connection.
    """
    socket.curve_publickey, socket.curve_secretkey = keys(secret, "caller")
    socket.curve_serverkey = keys(secret, "server")[0]
    _watch(socket, beat, dead)


def keys(secret: str, side: str) -> tuple[bytes, bytes]:
    """The key pair of a side.

    Args:
        secret: of the run.
        side: ``server`` or ``caller``.

    Returns:
        The public and the private key, 32 bytes each.
    """
    private = derived(secret, f"zeromq {side}")
    return z85.decode(zmq.curve_public(z85.encode(private))), private


def _watch(socket: Any, beat: float, dead: float) -> None:
    socket.heartbeat_ivl, socket.heartbeat_timeout = int(beat * 1000), int(dead * 1000)
    socket.maxmsgsize = LONGEST


def _compare(gate: Any, key: bytes) -> None:
    """In a thread: answer ZeroMQ's requests to check a caller (ZAP, RFC 27)."""
    with gate, suppress(zmq.ContextTerminated):
        while True:
            version, request, _domain, _address, _identity, *proof = gate.recv_multipart()
            known = proof == [b"CURVE", key]
            status = (b"200", b"OK") if known else (b"400", b"not of this run")
            gate.send_multipart([version, request, *status, b"", b""])
