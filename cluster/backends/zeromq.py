"""The engine ``zeromq``: requests and replies over ZeroMQ, encrypted by its own CURVE.

A host's server listens on one port, at the address by which the host is reached. Both ends derive
two key pairs from the run's secret, the server's and the clients'. CURVE authenticates the server
to its clients; clients are authenticated by a ZAP handler (ZeroMQ RFC 27), without which CURVE
admits any client.
"""

from __future__ import annotations

import threading
from typing import Any

import zmq
from zmq.utils import z85

from cluster.backends.kit.calls import Announce, Call, CallEngine, Where, url
from cluster.backends.kit.identity import derived
from cluster.common.engines import Entry

ENTRY = Entry(
    "zeromq",
    "ZeroMQ's requests and replies to several hosts, encrypted by CURVE",
    needs=("zmq",),
    install="pip install 'cluster-montecarlo[zeromq]'",
    kind="hosted",
    routes=("to",),
)
# Threads that answer calls: a driver has two callers, and those of its predecessor may linger.
_ANSWERING = 4
_LONGEST, _HANDSHAKE, _BEAT, _DEAD = 64 << 20, 10_000, 2_000, 10_000  # bytes, milliseconds


class Engine(CallEngine):
    """A ZeroMQ server on every host."""

    module = __name__


def serve(draw: Call, first: Where, announce: Announce) -> None:
    """On a host: answer requests; see :mod:`cluster.backends.kit.calls`.

    Args:
        draw: turns the text of a request into that of its reply.
        first: ``address`` to listen at, and ``secret``.
        announce: called with the ``port``.
    """
    context = zmq.Context()
    gate, front, back = (context.socket(kind) for kind in (zmq.REP, zmq.ROUTER, zmq.DEALER))
    gate.bind("inproc://zeromq.zap.01")
    threading.Thread(target=_keep, args=(gate, _keys(first, "caller")[0])).start()
    back.bind("inproc://draw")
    for _ in range(_ANSWERING):
        threading.Thread(target=_answer, args=(context.socket(zmq.REP), draw)).start()
    _set_options(front, first, "server")
    front.curve_server, front.zap_domain, front.zap_enforce_domain = True, b"cluster", True
    announce({"port": front.bind_to_random_port(url("tcp", first["address"]))})
    zmq.proxy(front, back)


def dial(where: Where) -> Call:
    """In the driver: connect to a host's server; see :mod:`cluster.backends.kit.calls`.

    Args:
        where: ``address``, ``port``, ``secret``, and ``patience`` in seconds.
    """
    caller: Any = zmq.Context.instance().socket(zmq.REQ)
    _set_options(caller, where, "caller")
    caller.curve_serverkey = _keys(where, "server")[0]
    caller.rcvtimeo = caller.sndtimeo = int(where["patience"] * 1000)
    caller.connect(url("tcp", where["address"], where["port"]))
    return lambda text: caller.send_string(text) or caller.recv_string()  # send returns None


def _keep(gate: Any, key: bytes) -> None:
    """In a thread: the ZAP handler, which admits clients that have proved the clients' key."""
    while True:
        version, request, _domain, _address, _identity, *proof = gate.recv_multipart()
        known = proof == [b"CURVE", key]
        status = (b"200", b"OK") if known else (b"400", b"not of this run")
        gate.send_multipart([version, request, *status, b"", b""])


def _answer(replies: Any, draw: Call) -> None:
    """In a thread: answer requests one by one."""
    replies.connect("inproc://draw")
    while True:
        replies.send_string(draw(replies.recv_string()))


def _set_options(socket: Any, place: Where, side: str) -> None:
    socket.curve_publickey, socket.curve_secretkey = _keys(place, side)
    socket.linger, socket.maxmsgsize, socket.ipv6 = 0, _LONGEST, ":" in place["address"]
    socket.handshake_ivl, socket.heartbeat_ivl, socket.heartbeat_timeout = _HANDSHAKE, _BEAT, _DEAD


def _keys(place: Where, side: str) -> tuple[bytes, bytes]:
    """The public and the private key of one side, 32 bytes each."""
    private = derived(place["secret"], f"zeromq {side}")
    return z85.decode(zmq.curve_public(z85.encode(private))), private
