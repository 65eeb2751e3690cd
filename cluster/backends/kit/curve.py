"""ZeroMQ's sockets for those alone who know the run's secret, encrypted by its own CURVE.

Both ends derive a key pair for each side from the secret. CURVE proves the server's to its callers;
a gatekeeper (ZeroMQ's ZAP, RFC 27) compares the callers': without one, CURVE lets anybody in.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import zmq
from zmq.utils import z85

from cluster.backends.kit.identity import derived

# Of a message, in bytes: a longer one is taken in, before it can be looked at, from nobody.
LONGEST = 64 << 20
_DOMAIN = b"cluster"


def keep(context: Any, secret: str) -> None:
    """Let in who has the callers' key, at the servers of a context, as long as that lasts."""
    # Of a shadow of it: whoever closes the sockets of a context leaves this one to its thread.
    gate: Any = zmq.Context.shadow(context).socket(zmq.REP)
    gate.bind("inproc://zeromq.zap.01")
    key = keys(secret, "caller")[0]
    threading.Thread(target=_compare, args=(gate, key), daemon=True).start()


def serve(socket: Any, secret: str, beat: float, dead: float) -> None:
    """Make a socket a server; it must not be bound yet.

    Args:
        socket: of a context with a keeper.
        secret: of the run.
        beat: seconds between the signs of life of a connection.
        dead: seconds without one after which it is ended.
    """
    socket.curve_publickey, socket.curve_secretkey = keys(secret, "server")
    socket.curve_server, socket.zap_domain, socket.zap_enforce_domain = True, _DOMAIN, True
    _watch(socket, beat, dead)


def call(socket: Any, secret: str, beat: float, dead: float) -> None:
    """Make a socket a caller, as :func:`serve`; it must not be connected yet."""
    socket.curve_publickey, socket.curve_secretkey = keys(secret, "caller")
    socket.curve_serverkey = keys(secret, "server")[0]
    _watch(socket, beat, dead)


def keys(secret: str, side: str) -> tuple[bytes, bytes]:
    """The public and the private key of a side, 32 bytes each."""
    private = derived(secret, f"zeromq {side}")
    return z85.decode(zmq.curve_public(z85.encode(private))), private


def _watch(socket: Any, beat: float, dead: float) -> None:
    socket.heartbeat_ivl, socket.heartbeat_timeout = int(beat * 1000), int(dead * 1000)
    socket.maxmsgsize = LONGEST


def _compare(gate: Any, key: bytes) -> None:
    """In a thread: answer who is let in."""
    with gate, suppress(zmq.ContextTerminated):
        while True:
            version, request, _domain, _address, _identity, *proof = gate.recv_multipart()
            known = proof == [b"CURVE", key]
            status = (b"200", b"OK") if known else (b"400", b"not of this run")
            gate.send_multipart([version, request, *status, b"", b""])
