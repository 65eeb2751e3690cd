"""What is changed in SCOOP 0.7.2.0 on every side; its internals are taken as a fixed API.

* Only the broker listens: replies go through it, so that workers and the origin open no port.
* Only who knows the run's secret reaches it, and is read: SCOOP unpickles whatever comes.
* Status reports, which a thread sends on another thread's socket, and the resending that follows
  from them, are gone: the dispatcher knows what it is owed.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

import scoop
import zmq
from scoop import _types
from scoop._comm import scoopzmq
from scoop.bootstrap.__main__ import Bootstrap

from cluster.backends.kit import curve
from cluster.backends.scoop import job

_ANSWER = 20.0
# ZeroMQ itself sees that a connection is dead, and keeps it from being forgotten.
BEAT, DEAD = 5.0, 20.0


class _Silent:
    """Stands for the socket between workers: it is bound nowhere and reaches nobody."""

    def setsockopt(self, *_option: object) -> None:
        """Nothing to set."""

    def poll(self, _timeout: int = 0) -> int:
        """Nothing ever comes."""
        return 0

    def send_multipart(self, *_frames: object, **_flags: object) -> None:
        """Makes SCOOP send by the broker."""
        raise zmq.ZMQError(errno.EHOSTUNREACH)


class _Direct(_Silent):
    def __init__(self, name: str) -> None:
        self._name = name

    def bind(self, _address: str) -> None:
        """Name this process, once for both sockets; nothing is bound."""
        scoop.worker = self._name.encode()


class _Poller(zmq.Poller):
    """Polls what there is to poll."""

    def register(self, socket: Any, flags: int = zmq.POLLIN) -> None:
        """See zmq."""
        if not isinstance(socket, _Silent):
            super().register(socket, flags)


class _Zmq:
    """The module ``zmq`` as SCOOP's communicator sees it, perhaps with a context that is there."""

    Poller = _Poller

    def __init__(self, context: Any) -> None:
        self._context = context

    def Context(self) -> Any:  # noqa: N802 - as it is called there
        """The one that is there, or a fresh one."""
        return self._context or zmq.Context()

    def __getattr__(self, name: str) -> Any:
        return getattr(zmq, name)


def patch(secret: str, name: str, context: Any = None) -> None:
    """Change SCOOP in this process.

    Args:
        secret: of the run.
        name: of this process, drawn for it alone.
        context: of a broker of this process; None: that is reached by a network.
    """
    made = scoopzmq.ZMQCommunicator.createZMQSocket

    def create(self: Any, kind: int) -> Any:
        if kind == zmq.ROUTER:
            return _Direct(name)
        socket = made(self, kind)
        if context is None:
            curve.call(socket, secret, BEAT, DEAD)
        # SCOOP reads only what it has seen to be there, but for the broker's first answers.
        socket.setsockopt(zmq.RCVTIMEO, int(_ANSWER * 1000))
        socket.setsockopt(zmq.SNDTIMEO, int(_ANSWER * 1000))
        return socket

    scoopzmq.zmq = _Zmq(context)
    scoopzmq.ZMQCommunicator.createZMQSocket = create
    scoopzmq.ZMQCommunicator.addPeer = _nothing
    scoopzmq.ZMQCommunicator._reportFutures = _nothing
    _types.FutureQueue.askForPreviousFutures = _nothing


def bootstrap(address: str, ports: Sequence[int]) -> Bootstrap:
    """SCOOP's own start of a worker, with its arguments and without a command line.

    Args:
        address: where the broker listens, without brackets.
        ports: its two.
    """
    name = f"[{address}]" if ":" in address else address
    return _bootstrap(
        "--brokerHostname",
        name,
        "--externalBrokerHostname",
        address,
        "--taskPort",
        str(ports[0]),
        "--metaPort",
        str(ports[1]),
    )


def bootstrap_origin(place: str) -> Bootstrap:
    """The same for the origin, beside its broker."""

    def connect(self: Any, broker: Any) -> None:
        self.socket.connect(f"{place}-task")
        self.infoSocket.connect(f"{place}-info")
        self.infoSocket.setsockopt(zmq.SUBSCRIBE, b"")
        self.broker_set.add(broker)

    scoopzmq.ZMQCommunicator._addBroker = connect
    # An address of its own is all that it looks up by these.
    return _bootstrap(
        "--origin", "--brokerHostname", "127.0.0.1", "--taskPort", "9", "--metaPort", "9"
    )


def _bootstrap(*words: str) -> Bootstrap:
    start = Bootstrap()
    start.makeParser()
    more = ("--size", "2", "--workingDirectory", "", job.__file__)
    start.args = start.parser.parse_args([*words, *more])
    start.log = scoop.utils.initLogging(0)
    start.setScoop()
    return start


def _nothing(*_arguments: object) -> None:
    """In place of what SCOOP had better not do."""
