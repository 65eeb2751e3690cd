"""The hosts of a live run: those of the spec, changed by requests of users and by host files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cluster.backends.base import Backend
from cluster.common.errors import UsageError, did_you_mean
from cluster.hosts.nodes import Defaults, Node, NodeError, NodeList, read_hostfile
from cluster.ledger import NodeChangeRequest
from cluster.spec.request import placed, with_slots

# Modification time, size and inode: an editor may replace a file within the clock's resolution.
Stamp = tuple[int, int, int]
_NO_FILE = (0, 0, 0)


class Informed(Protocol):
    """The scheduler, which is informed of changes."""

    def on_hosts(self, added: Sequence[Node], drained: Sequence[str], why: str) -> None:
        """Hosts are being added and drained.

        Args:
            added: the new hosts.
            drained: the names of those to be drained.
            why: the cause, for messages.
        """

    def alarm(self, text: str) -> None:
        """Report and record a problem of no particular node."""


@dataclass
class WatchedFile:
    """A host file.

    Attributes:
        path: the file.
        nodes: its hosts when it was last read, by name.
        found: its stamp at the last look; None before the first.
        read: its stamp when it was last read; None: read before the run started.
    """

    path: Path
    nodes: Mapping[str, Node]
    found: Stamp | None = None
    read: Stamp | None = None

    def at_rest(self) -> bool:
        """Whether it changed since it was read, but not since the last look.

        Waiting for one look avoids reading a file that is being written.
        """
        before, self.found = self.found, _stamp(self.path)
        return self.found == before and self.found != self.read


class Membership:
    """The hosts of a live run.

    Args:
        listed: the spec's hosts.
        base: the folder that its host files are relative to.
        requests: returns the changes requested by users since the last call.
        answer: reports the result of a request: what changed, or an error.

    Attributes:
        nodes: the hosts now.

    Raises:
        UsageError: the spec has no host: ``nodes: auto`` outside a job.
    """

    def __init__(
        self,
        listed: NodeList,
        base: Path,
        requests: Callable[[], Iterable[NodeChangeRequest]],
        answer: Callable[[NodeChangeRequest, Mapping[str, object]], None],
    ) -> None:
        self.nodes = placed(listed.hosts)
        self._defaults: Defaults = listed.defaults
        self._requests, self._answer = requests, answer
        now = {node.host: node for node in self.nodes}
        self._files = [
            WatchedFile(base / path, {host: now[host] for host in hosts if host in now})
            for path, hosts in listed.files
        ]

    def look(self, core: Informed, backend: Backend) -> None:
        """Apply the changes requested by users and those of the host files."""
        for request in self._requests():
            self._apply(request, core, backend)
        for file in self._files:
            if file.at_rest():
                self._read(file, core, backend)

    def _apply(self, request: NodeChangeRequest, core: Informed, backend: Backend) -> None:
        try:
            self._check(request)
            added = self._change(request.add, request.drain, "requested", core, backend)
        except (NodeError, UsageError) as error:
            self._answer(request, {"error": error.message, "fix": error.fix})
        else:
            names = [node.host for node in added]
            self._answer(request, {"added": names, "drained": list(request.drain)})

    def _check(self, request: NodeChangeRequest) -> None:
        known = {node.host: node for node in self.nodes}
        for node in self._filled(request.add):
            if known.get(node.host) == node:
                raise UsageError(f"{node.host} is a host of this run already")
        for name in request.drain:
            if name not in known:
                fix = did_you_mean(name, known) or f"its hosts are {', '.join(known)}"
                raise UsageError(f"{name} is no host of this run", fix=fix)

    def _read(self, file: WatchedFile, core: Informed, backend: Backend) -> None:
        """Apply the changes of a host file; if it cannot be read, nothing changes."""
        file.read = file.found
        try:
            fresh = {node.host: node for node in self._filled(read_hostfile(file.path))}
            before, own = file.nodes, {node.host for node in self.nodes}
            # A host that a user has added or drained meanwhile is left alone, unless the file
            # now adds it again.
            added = [
                node
                for name, node in fresh.items()
                if before.get(name) != node and (name in before) == (name in own)
            ]
            gone = [name for name in before if name not in fresh and name in own]
            if added or gone:
                self._change(added, gone, f"{file.path} was changed", core, backend)
            file.nodes = fresh
        except (NodeError, UsageError) as error:
            fix = f"; {error.fix}" if error.fix else ""
            core.alarm(f"the hosts stay as they are: {error.message}{fix}")

    def _change(
        self, add: Sequence[Node], drain: Sequence[str], why: str, core: Informed, backend: Backend
    ) -> tuple[Node, ...]:
        added = self._filled(add)
        off = {*drain, *(node.host for node in added)}
        nodes = (*(node for node in self.nodes if node.host not in off), *added)
        if not nodes:
            raise UsageError("no host would be left", fix="stop the run, and resume it later")
        backend.resize(nodes)
        self.nodes = nodes
        core.on_hosts(added, drain, why)
        return added

    def _filled(self, nodes: Iterable[Node]) -> tuple[Node, ...]:
        return with_slots(self._defaults.fill(nodes))


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return _NO_FILE
    return status.st_mtime_ns, status.st_size, status.st_ino
