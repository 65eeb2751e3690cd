"""Patches for dispy 4.15.2 on pycos 4.12.2, which are not maintained any more.

:func:`install` applies them before either is imported, in the driver and on the hosts. They
prevent: unpickling whatever the network sends; the use of ``ssl.wrap_socket``, which Python 3.12
removed; an accept loop that waits for one peer's handshake; UDP; callbacks that fail since Python
3.11; and a client that hangs on 3.13.
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
# Concurrent handshakes: each answer of a job is a connection, and many nodes may answer at once.
CALLERS = 1024

# The only types in dispy's messages, given that no files are sent and jobs and answers are text.
_ALLOWED = {
    ("dispy", "_Compute"),
    ("dispy", "_DispyJob_"),
    ("dispy", "_JobReply"),
    ("dispy", "DispyNodeAvailInfo"),
    ("builtins", "set"),
    ("builtins", "bytearray"),
}


class Refused(pickle.UnpicklingError):
    """A message contains a type that none of ours does."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # The only way by which a pickle can name code; everything else in it is plain data.
        if (module, name) not in _ALLOWED:
            raise Refused(f"{module}.{name} is in no message of ours")
        return super().find_class(module, name)


def deserialize(data: bytes, check: Callable[[Any], None] = lambda _found: None) -> Any:
    """Unpickle a message of dispy, without loading anything that could run code.

    Args:
        data: the pickle.
        check: called with the result, to refuse it by raising.

    Raises:
        Refused: it contains a type that dispy's messages do not have.
    """
    found = _Unpickler(io.BytesIO(data)).load()
    check(found)
    return found


class _Shelf(dict[str, Any]):
    """Replaces dispy's recovery file by memory.

    The file is not used, and from Python 3.13 on it is SQLite, which fails in dispy's other thread.
    """

    def sync(self) -> None:
        """Do nothing: there is no file."""

    def close(self) -> None:
        """Do nothing: there is no file."""


class _ArgSpec(NamedTuple):
    args: list[str]
    varargs: str | None
    keywords: str | None
    defaults: tuple[Any, ...] | None


def _argspec(function: Callable[..., Any]) -> _ArgSpec:
    """``inspect.getargspec``, which Python 3.11 removed, and by which dispy checks callbacks."""
    return _ArgSpec(*inspect.getfullargspec(function)[:4])


class _NeverClosedInTwoSteps:
    """Takes the place of ``SSLSocket``, whose instances pycos would close with a handshake.

    The closing handshake is not needed, since messages contain their length and a truncated one is
    noticed; and a peer that is gone would never answer it.
    """


def install(seal: Seal | None, check: Callable[[Any], None] = lambda _found: None) -> Any:
    """Apply the patches, and import dispy.

    Args:
        seal: for all connections; None: plain ones (to stock nodes on a trusted network).
        check: called with every message that arrives, to refuse it by raising.

    Returns:
        The module ``dispy``.

    Raises:
        ImportError: dispy is missing, or not the version that the patches fit.
    """
    import pycos

    inspect.getargspec = _argspec  # type: ignore[attr-defined]
    pycos.deserialize = lambda data: deserialize(data, check)
    pycos.ssl = _tls(seal)
    import dispy
    import dispy.config

    if dispy.__version__ != VERSION:
        raise ImportError(f"dispy is {dispy.__version__}; this works with {VERSION} alone")
    for logger in (dispy.logger, pycos.logger):  # by default they write to standard output
        logger.stream = sys.stderr
        logger.setLevel(logger.WARNING)
    dispy.shelve = SimpleNamespace(open=lambda *_args, **_more: _Shelf())
    dispy._Cluster.udp_server = dispy._Cluster.tcp_server = no_server
    dispy._Cluster.broadcast_ping = silence
    return dispy


def _tls(seal: Seal | None) -> SimpleNamespace:
    """The module ``ssl`` as pycos uses it, with the removed ``wrap_socket``, and our contexts."""

    def wrap_socket(connection: socket.socket, **_more: Any) -> ssl.SSLSocket:
        assert seal is not None
        return seal.client(connection, handshake=False)

    names = {name: value for name, value in vars(ssl).items() if not name.startswith("_")}
    replaced = {"wrap_socket": wrap_socket, "SSLSocket": _NeverClosedInTwoSteps}
    return SimpleNamespace(**{**names, **replaced})


def no_server(_self: Any, *_args: Any, task: Any = None) -> Iterator[None]:
    """Takes the place of dispy's servers: the kit's ``Door`` accepts connections instead."""
    yield None


def silence(_self: Any, *_args: Any, **_more: Any) -> Iterator[None]:
    """Takes the place of dispy's broadcasts by UDP."""
    yield None


def requests_of(owner: Any, *, sealed: bool) -> Callable[[socket.socket], None]:
    """A function that passes a door's connections to dispy, as its own server would.

    Args:
        owner: dispy's client or node.
        sealed: whether the connections are TLS.
    """
    from pycos import AsyncSocket, Task

    proof = "sealed" if sealed else None

    def let_in(connection: socket.socket) -> None:
        address = connection.getpeername()
        Task(owner.tcp_req, AsyncSocket(connection, keyfile=proof, certfile=proof), address)

    return let_in
