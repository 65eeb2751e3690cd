"""The dispatcher's way to a standing node: a process that is to it what ssh is to another host.

It speaks with the agent that ``cluster node`` starts there, over one sealed connection, and
carries what both say; where that is not to be had, it says in the agent's place why.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys

from cluster.backends.dispy.pipe import carry
from cluster.backends.dispy.probe import Place
from cluster.backends.dispy.seal import Seal
from cluster.common.errors import UsageError
from cluster.common.secret import Secret
from cluster.hosts.worker_pool import python_command

_CONNECT = 10.0


def relay_command(host: str, port: int, secret: Secret) -> list[str]:
    """The arguments that start a relay; the secret itself is not among them."""
    env, file = secret.env or "", secret.file or ""
    return python_command(sys.executable, __name__, host, str(port), env, file)


def main() -> None:
    """Carry until either side ends. Started by the dispatcher, never by hand."""
    host, port, env, file = sys.argv[1:]
    try:
        seal = Seal(Secret(env or None, file or None).read())
        with _connect(host, int(port), seal) as sealed:
            carry(sealed, 0, 1)
    except UsageError as error:
        _tell(error.message, error.fix or "", final=True)
    except _Trouble as trouble:
        _tell(*trouble.args)


class _Trouble(Exception):
    """Why there is no connection: in words, what to do, and whether trying again is no use."""


def _connect(host: str, port: int, seal: Seal) -> ssl.SSLSocket:
    at = f"{host} port {port}"
    start = f"start one there: cluster node --port {port} --secret-file FILE"
    try:
        plain = socket.create_connection((host, port), _CONNECT)
    except socket.gaierror:
        fix = "correct the name, or give it an entry in /etc/hosts"
        raise _Trouble("its name does not resolve", fix, True) from None
    except OSError as error:
        raise _Trouble(f"no node answers at {at}: {_words(error)}", start, False) from None
    try:
        return seal.client(plain)
    except ssl.SSLCertVerificationError:
        fix = "use the file that the node there was started with"
        raise _Trouble(f"the node at {at} does not accept our secret", fix, True) from None
    except ssl.SSLError as error:
        _refuse_stock(host, port)
        what = f"what answers at {at} is no node of ours ({error.reason or error})"
        raise _Trouble(what, start, True) from None
    except OSError as error:
        _refuse_stock(host, port)
        what = f"the node at {at} did not shake hands: {_words(error)}"
        raise _Trouble(what, start, False) from None


def _refuse_stock(host: str, port: int) -> None:
    """Say so where it is a dispynode as dispy ships it, which knows nothing of TLS."""
    if Place(host, port, None).is_stock():
        what = f"what answers at {host} port {port} is no node of ours: it is a stock dispynode"
        fix = (
            f"start one of ours there: cluster node --port {port} --secret-file FILE; or, if the "
            "network is trusted, write dispy: {network: trusted}"
        )
        raise _Trouble(what, fix, True) from None


def _words(error: OSError) -> str:
    return error.strerror or str(error)


def _tell(reason: str, fix: str, final: bool) -> None:
    sys.stdout.write(json.dumps({"unfit": reason, "fix": fix, "final": final}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
