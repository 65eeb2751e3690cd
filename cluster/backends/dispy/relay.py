"""The dispatcher's connection to an attached node: a process that takes the place of ssh.

It copies bytes between the dispatcher and the agent that ``cluster node`` starts there, over one
TLS connection. If there is no agent, it reports the reason in the agent's place.
"""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Callable
from typing import Any

from cluster.backends.dispy.pipe import carry
from cluster.backends.dispy.probe import Place
from cluster.backends.dispy.seal import Seal
from cluster.common.errors import EngineError, UsageError
from cluster.common.secret import Secret
from cluster.hosts.worker import PipeLines, take_descriptors
from cluster.hosts.worker_pool import python_command

_CONNECT = 10.0


class Unfit(Exception):
    """Why no agent is reached: the reason, the fix, and whether retrying is pointless."""


def command(module: str, host: str, port: int, secret: Secret | None) -> list[str]:
    """The arguments that start such a process; they name where the secret is, not the secret.

    Args:
        module: the module to run.
        host: of the node.
        port: of the node.
        secret: where to read it; None: there is none.
    """
    env, file = (secret.env or "", secret.file or "") if secret else ("", "")
    return python_command(sys.executable, module, host, str(port), env, file)


def reached(serve: Callable[[str, int, str, int, int], None]) -> None:
    """Run such a process; if it fails, report the reason in the agent's place.

    Args:
        serve: called with the host, its port, the secret, and the descriptors to read from and
            write to the dispatcher.
    """
    source, sink = take_descriptors()
    host, port, env, file = sys.argv[1:]
    trouble: tuple[Any, ...]
    try:
        secret = Secret(env or None, file or None).read() if env or file else ""
        serve(host, int(port), secret, source, sink)
    except Unfit as error:
        trouble = error.args
    except (UsageError, EngineError) as error:
        trouble = (error.message, error.fix or "", isinstance(error, UsageError))
    else:
        return
    message = dict(zip(("unfit", "fix", "final"), trouble, strict=True))
    PipeLines(source, sink).write(message)


def main() -> None:
    """Carry until either side ends. Started by the dispatcher, never by hand."""
    reached(_serve)


def _serve(host: str, port: int, secret: str, source: int, sink: int) -> None:
    with _connect(host, port, Seal(secret)) as sealed:
        carry(sealed, source, sink)


def _connect(host: str, port: int, seal: Seal) -> ssl.SSLSocket:
    at = f"{host} port {port}"
    start = f"start one there: cluster node --port {port} --secret-file FILE"
    try:
        plain = socket.create_connection((host, port), _CONNECT)
    except socket.gaierror:
        fix = "correct the name, or give it an entry in /etc/hosts"
        raise Unfit("its name does not resolve", fix, True) from None
    except OSError as error:
        raise Unfit(f"no node answers at {at}: {_words(error)}", start, False) from None
    try:
        return seal.client(plain)
    except ssl.SSLCertVerificationError:
        fix = "use the file that the node there was started with"
        raise Unfit(f"the node at {at} does not accept our secret", fix, True) from None
    except ssl.SSLError as error:
        _refuse_stock(host, port)
        what = f"what answers at {at} is no node of ours ({error.reason or error})"
        raise Unfit(what, start, True) from None
    except OSError as error:
        _refuse_stock(host, port)
        what = f"the node at {at} did not shake hands: {_words(error)}"
        raise Unfit(what, start, False) from None


def _refuse_stock(host: str, port: int) -> None:
    """Refuse a stock dispynode, which cannot do TLS, with an error that says so.

    Raises:
        Unfit: it is one.
    """
    if Place(host, port, None).is_stock():
        what = f"what answers at {host} port {port} is no node of ours: it is a stock dispynode"
        fix = (
            f"start one of ours there: cluster node --port {port} --secret-file FILE; or, if the "
            "network is trusted, write dispy: {network: trusted}"
        )
        raise Unfit(what, fix, True) from None


def _words(error: OSError) -> str:
    return error.strerror or str(error)


if __name__ == "__main__":
    main()
