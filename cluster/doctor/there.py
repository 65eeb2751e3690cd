"""The doctor's helper on a host: it reports what the host has, and tries connections.

The host's agent starts it with one line of input: ``{"listen": address, "port": number,
"modules": [...]}`` or ``{"reach": [[address, port, word], ...]}``. It answers with one line, and in
the first case then listens until it is killed.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cluster.hosts.worker import PipeLines, take_descriptors
from cluster.hosts.worker_pool import POOLS
from cluster.sampling.kernels import cache_folder

# Seconds to connect; a firewall that drops packets never answers.
TIMEOUT = 3.0
# Seconds that the helper listens, even if its agent fails to kill it.
_LIFETIME = 120.0
# Bytes to read of a peer's token, which is shorter.
_LONGEST_TOKEN = 64


def main() -> None:
    """Answer one request of the doctor. Only agents start this, over inherited descriptors."""
    lines = PipeLines(*take_descriptors())
    wanted = lines.read()
    if "reach" in wanted:
        lines.write({"reached": reached(wanted["reach"])})
        return
    try:
        server = TokenServer(wanted["listen"], wanted["port"])
    except OSError as error:
        lines.write({**facts(wanted["modules"]), "port": 0, "deaf": str(error)})
        return
    listening = {"port": server.port, "word": server.token, "deaf": ""}
    lines.write({**facts(wanted["modules"]), **listening})
    time.sleep(_LIFETIME)


def facts(modules: Sequence[str]) -> dict[str, Any]:
    """The properties of this host that affect a run's speed and safety.

    Args:
        modules: modules to report the versions of.

    Returns:
        ``cache``: folder of the kernels; ``free``: bytes on its disk; ``writable``; ``threads``:
        environment variables of thread pools; ``modules``: see :func:`versions`; ``root``.
    """
    try:
        folder = cache_folder()
    except OSError:
        folder = Path("/")  # without a home there is no cache; this is reported as not writable
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return {
        "cache": str(folder),
        "free": shutil.disk_usage(existing).free,
        "writable": os.access(existing, os.W_OK | os.X_OK),
        "threads": {name: os.environ.get(name, "") for name in POOLS},
        "modules": dict(versions(modules)),
        "root": os.geteuid() == 0,
    }


def versions(modules: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """The version of each module's package; None where it is not installed."""
    owners = packages_distributions() if modules else {}
    for name in modules:
        if not find_spec(name):
            yield name, None
            continue
        try:
            yield name, version(owners.get(name, [name])[0])
        except PackageNotFoundError:
            yield name, ""


class TokenServer:
    """Listens on one address, sends a random token to each client, and closes the connection.

    The token proves to a client that it reached this process, not another server at that port.

    Args:
        address: the only address to listen on.
        port: 0 takes any free port.

    Raises:
        OSError: it cannot listen there.
    """

    def __init__(self, address: str, port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.create_server((address, port), family=family)
        self.address, self.port = address, int(self._socket.getsockname()[1])
        self.token = os.urandom(8).hex()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Stop listening; the thread that serves ends by itself."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client:
                client.settimeout(TIMEOUT)
                _send(client, self.token)


def _send(client: socket.socket, token: str) -> None:
    try:
        client.sendall(token.encode())
    except OSError:
        return  # the client closed the connection; others may still come


def reached(places: Sequence[Sequence[Any]]) -> list[str]:
    """Try to connect to several token servers at once.

    Args:
        places: address, port and token of each.

    Returns:
        Why each connection failed; an empty text if it worked.
    """
    problems = ["it did not answer"] * len(places)

    def reach(index: int) -> None:
        address, port, token = places[index]
        try:
            problems[index] = _try(str(address), int(port), str(token))
        except OSError as error:
            problems[index] = error.strerror or str(error)

    threads = [threading.Thread(target=reach, args=(n,), daemon=True) for n in range(len(places))]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 2 * TIMEOUT
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return problems


def _try(address: str, port: int, token: str) -> str:
    with socket.create_connection((address, port), TIMEOUT) as connection:
        received = connection.recv(_LONGEST_TOKEN).decode(errors="replace")
    return "" if received == token else "something else answers there"


if __name__ == "__main__":
    main()
