"""The engine ``zeromq``: requests and replies over ZeroMQ, encrypted by its own CURVE.

A host's server listens on one port, at the address by which the host is reached, and lets in who
knows the run's secret; see :mod:`cluster.backends.kit.curve`.
"""

from __future__ import annotations

import threading
from typing import Any

import zmq

from cluster.backends.kit import curve
from cluster.backends.kit.calls import Announce, Call, CallEngine, Where, url
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
_BEAT, _DEAD = 2.0, 10.0
_HANDSHAKE = 10_000  # milliseconds


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
    front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    curve.keep(context, first["secret"])
    back.bind("inproc://draw")
    for _ in range(_ANSWERING):
        threading.Thread(target=_answer, args=(context.socket(zmq.REP), draw)).start()
    curve.serve(front, first["secret"], _BEAT, _DEAD)
    _set_options(front, first)
    announce({"port": front.bind_to_random_port(url("tcp", first["address"]))})
    zmq.proxy(front, back)


def dial(where: Where) -> Call:
    """In the driver: connect to a host's server; see :mod:`cluster.backends.kit.calls`.

    Args:
        where: ``address``, ``port``, ``secret``, and ``patience`` in seconds.
    """
    caller: Any = zmq.Context.instance().socket(zmq.REQ)
    curve.call(caller, where["secret"], _BEAT, _DEAD)
    _set_options(caller, where)
    caller.rcvtimeo = caller.sndtimeo = int(where["patience"] * 1000)
    caller.connect(url("tcp", where["address"], where["port"]))
    return lambda text: caller.send_string(text) or caller.recv_string()  # send returns None


def _answer(replies: Any, draw: Call) -> None:
    """In a thread: answer requests one by one."""
    replies.connect("inproc://draw")
    while True:
        replies.send_string(draw(replies.recv_string()))


def _set_options(socket: Any, place: Where) -> None:
    socket.linger, socket.ipv6, socket.handshake_ivl = 0, ":" in place["address"], _HANDSHAKE
