"""Changes to SCOOP 0.7.2.0, for workers and the origin; its internals are used as a fixed API.

* Only the broker listens. Replies go through it, so workers and the origin open no port.
* Only peers that know the run's secret can connect: SCOOP unpickles whatever it receives.
* Status reports are removed, because SCOOP sends them from a thread that does not own the socket;
  so is the resending that is based on them: the dispatcher knows which outcomes are missing.
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

# Seconds within which the broker must answer a process that connects.
_ANSWER = 20.0
# Seconds between ZeroMQ's heartbeats, and without one until it drops a connection. The heartbeats
# also keep firewalls from forgetting an idle connection.
BEAT, DEAD = 5.0, 20.0


class _Silent:
    """Takes the place of the socket between workers: not bound, and connected to nobody."""

    def setsockopt(self, *_option: object) -> None:
        """Ignore the option."""

    def poll(self, _timeout: int = 0) -> int:
        """No message ever arrives."""
        return 0

    def send_multipart(self, *_frames: object, **_flags: object) -> None:
        """Fail, upon which SCOOP sends the message through the broker.

        Raises:
            zmq.ZMQError: always.
        """
        raise zmq.ZMQError(errno.EHOSTUNREACH)


class _Direct(_Silent):
    def __init__(self, name: str) -> None:
        self._name = name

    def bind(self, _address: str) -> None:
        """Bind nothing, and replace the name that SCOOP has just made of the address."""
        scoop.worker = self._name.encode()


class _Poller(zmq.Poller):
    """A poller that ignores the sockets that only take a place."""

    def register(self, socket: Any, flags: int = zmq.POLLIN) -> None:
        """Register a real socket."""
        if not isinstance(socket, _Silent):
            super().register(socket, flags)


class _Zmq:
    """The module ``zmq`` as SCOOP's communicator sees it, with an existing context if given.

    The origin must share the broker's context: an address inside a process belongs to a context.
    """

    Poller = _Poller

    def __init__(self, context: Any) -> None:
        self._context = context

    def Context(self) -> Any:  # noqa: N802 - as it is called there
        """The existing context, or a new one."""
        return self._context or zmq.Context()

    def __getattr__(self, name: str) -> Any:
        return getattr(zmq, name)


def patch(secret: str, name: str, context: Any = None) -> None:
    """Apply the changes to SCOOP in this process.

    Args:
        secret: of the run.
        name: of this process, used by no other, not even by one that it replaces.
        context: of a broker in this process; None: the broker is reached over the network.
    """
    made = scoopzmq.ZMQCommunicator.createZMQSocket

    def create(self: Any, kind: int) -> Any:
        if kind == zmq.ROUTER:
            return _Direct(name)
        socket = made(self, kind)
        if context is None:
            curve.call(socket, secret, BEAT, DEAD)
        # SCOOP polls before it reads, except for the broker's first answer, for which it would
        # wait for ever.
        socket.setsockopt(zmq.RCVTIMEO, int(_ANSWER * 1000))
        socket.setsockopt(zmq.SNDTIMEO, int(_ANSWER * 1000))
        return socket

    scoopzmq.zmq = _Zmq(context)
    scoopzmq.ZMQCommunicator.createZMQSocket = create
    scoopzmq.ZMQCommunicator.addPeer = _nothing
    scoopzmq.ZMQCommunicator._reportFutures = _nothing
    _types.FutureQueue.askForPreviousFutures = _nothing


def bootstrap(address: str, ports: Sequence[int]) -> Bootstrap:
    """SCOOP's own bootstrap of a worker, called without its launcher.

    Args:
        address: where the broker listens, without brackets.
        ports: the broker's two ports, for tasks and for information.
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
    """SCOOP's own bootstrap of the origin, in the process of its broker.

    Args:
        place: the broker's address inside this process.
    """

    def connect(self: Any, broker: Any) -> None:
        self.socket.connect(f"{place}-task")
        self.infoSocket.connect(f"{place}-info")
        self.infoSocket.setsockopt(zmq.SUBSCRIBE, b"")
        self.broker_set.add(broker)

    scoopzmq.ZMQCommunicator._addBroker = connect
    # SCOOP only looks up its own address by these; `connect` above takes `place`.
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
    """Takes the place of functions of SCOOP that must not run."""
