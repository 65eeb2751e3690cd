"""What stands between this project and dispy 4.15.2 on pycos 4.12.2, which nobody mends any more.

To be put in place before either is imported, on both sides; see :func:`install`. What is held off
here: unpickling whatever the network sends, TLS that is gone since Python 3.12, an accept that
waits for one peer's handshake, UDP, callbacks that fail since 3.11 and a client that hangs on 3.13.
"""

from __future__ import annotations

import inspect
import io
import pickle
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

from cluster.backends.dispy.seal import Seal

VERSION = "4.15.2"
# Every job's answer is a call of its own, and many nodes may have one at the same moment.
CALLERS = 1024

# All that dispy's messages are made of when no file travels and job and answer are text.
_ALLOWED = {
    ("dispy", "_Compute"),
    ("dispy", "_DispyJob_"),
    ("dispy", "_JobReply"),
    ("dispy", "DispyNodeAvailInfo"),
    ("builtins", "set"),
    ("builtins", "bytearray"),
}


class Refused(pickle.UnpicklingError):
    """A message holds what no message of ours does."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise Refused(f"{module}.{name} is in no message of ours")
        return super().find_class(module, name)


def deserialize(data: bytes, check: Callable[[Any], None] = lambda _found: None) -> Any:
    """What dispy sent; nothing that would run code is ever loaded.

    Raises:
        Refused: it holds anything else than the parts of dispy's messages.
    """
    found = _Unpickler(io.BytesIO(data)).load()
    check(found)
    return found


class _Shelf(dict[str, Any]):
    """dispy's file for recovery, which is not wanted: in memory, and safe in any thread."""

    def sync(self) -> None:
        """Nothing is written."""

    def close(self) -> None:
        """Nothing was opened."""


class _ArgSpec(NamedTuple):
    args: list[str]
    varargs: str | None
    keywords: str | None
    defaults: tuple[Any, ...] | None


def _argspec(function: Callable[..., Any]) -> _ArgSpec:
    """What Python removed in 3.11, and dispy asks about its callbacks."""
    return _ArgSpec(*inspect.getfullargspec(function)[:4])


class _NeverClosedInTwoSteps:
    """In place of the class by which pycos knows connections to end with a closing handshake.

    Messages tell their own length, so that nothing can be cut short unseen; and a peer that is
    gone would never answer.
    """


def install(seal: Seal | None, check: Callable[[Any], None] = lambda _found: None) -> Any:
    """Import dispy, mended, and return it.

    Args:
        seal: for all connections; None: plain ones (to stock nodes on a trusted network).
        check: called with everything that arrived, to refuse it by raising.
    """
    import pycos

    inspect.getargspec = _argspec  # type: ignore[attr-defined]
    pycos.deserialize = lambda data: deserialize(data, check)
    pycos.ssl = _tls(seal)
    import dispy
    import dispy.config

    if dispy.__version__ != VERSION:
        raise ImportError(f"dispy is {dispy.__version__}; this works with {VERSION} alone")
    for logger in (dispy.logger, pycos.logger):
        logger.stream = sys.stderr
        logger.setLevel(logger.WARNING)
    dispy.shelve = SimpleNamespace(open=lambda *_args, **_more: _Shelf())
    dispy._Cluster.udp_server = dispy._Cluster.tcp_server = no_server
    dispy._Cluster.broadcast_ping = silence
    return dispy


def _tls(seal: Seal | None) -> SimpleNamespace:
    """The module ``ssl`` as pycos uses it, with what is gone from it, and our contexts."""

    def wrap_socket(connection: socket.socket, **_more: Any) -> ssl.SSLSocket:
        assert seal is not None
        return seal.client(connection, handshake=False)

    names = {name: value for name, value in vars(ssl).items() if not name.startswith("_")}
    replaced = {"wrap_socket": wrap_socket, "SSLSocket": _NeverClosedInTwoSteps}
    return SimpleNamespace(**{**names, **replaced})


def no_server(_self: Any, *_args: Any, task: Any = None) -> Iterator[None]:
    """In place of a server of dispy's; a door of the kit lets callers in instead."""
    yield None


def silence(_self: Any, *_args: Any, **_more: Any) -> Iterator[None]:
    """In place of a call to everybody, by UDP."""
    yield None


def requests_of(owner: Any, *, sealed: bool) -> Callable[[socket.socket], None]:
    """What gives the callers of a door to a dispy client or node, as its own server would."""
    from pycos import AsyncSocket, Task

    proof = "sealed" if sealed else None

    def let_in(connection: socket.socket) -> None:
        address = connection.getpeername()
        Task(owner.tcp_req, AsyncSocket(connection, keyfile=proof, certfile=proof), address)

    return let_in
