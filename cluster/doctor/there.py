"""What is run on a host for the doctor: it tells what is there, and tries what can be reached.

Started by the host's agent, with one line of input: ``{"listen": address, "port": number,
"modules": [...]}`` or ``{"reach": [[address, port, word], ...]}``. It answers in one line, and in
the first case listens until it is killed.
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

# A firewall that drops answers nothing.
PATIENCE = 3.0
_LONGEST = 120.0
_WORD = 64


def main() -> None:
    """Answer one question. Started by an agent, never by hand."""
    lines = PipeLines(*take_descriptors())
    wanted = lines.read()
    if "reach" in wanted:
        lines.write({"reached": reached(wanted["reach"])})
        return
    try:
        door = Ear(wanted["listen"], wanted["port"])
    except OSError as error:
        lines.write({**facts(wanted["modules"]), "port": 0, "deaf": str(error)})
        return
    lines.write({**facts(wanted["modules"]), "port": door.port, "word": door.word, "deaf": ""})
    time.sleep(_LONGEST)


def facts(modules: Sequence[str]) -> dict[str, Any]:
    """What this host has, as far as a run's speed and safety depend on it.

    Args:
        modules: whose versions are told, None where they are missing.
    """
    try:
        folder = cache_folder()
    except OSError:
        folder = Path("/")  # where nothing can be written, as without a home
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


class Ear:
    """A port of one address that tells whoever connects a word, and hangs up.

    Args:
        address: the only one that it listens at.
        port: 0 is any that is free.

    Raises:
        OSError: nothing can listen there.
    """

    def __init__(self, address: str, port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.create_server((address, port), family=family)
        self.address, self.port = address, int(self._socket.getsockname()[1])
        self.word = os.urandom(8).hex()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:
                return
            with caller:
                caller.settimeout(PATIENCE)
                _send(caller, self.word)


def _send(caller: socket.socket, word: str) -> None:
    try:
        caller.sendall(word.encode())
    except OSError:
        return  # it has hung up


def reached(places: Sequence[Sequence[Any]]) -> list[str]:
    """Try to connect to several places at the same time.

    Args:
        places: address, port and the word that is told there.

    Returns:
        What went wrong at each; an empty text where it answered.
    """
    said = ["it did not answer"] * len(places)

    def reach(index: int) -> None:
        address, port, word = places[index]
        try:
            said[index] = _try(str(address), int(port), str(word))
        except OSError as error:
            said[index] = error.strerror or str(error)

    threads = [threading.Thread(target=reach, args=(n,), daemon=True) for n in range(len(places))]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 2 * PATIENCE
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return said


def _try(address: str, port: int, word: str) -> str:
    with socket.create_connection((address, port), PATIENCE) as connection:
        heard = connection.recv(_WORD).decode(errors="replace")
    return "" if heard == word else "something else answers there"


if __name__ == "__main__":
    main()
