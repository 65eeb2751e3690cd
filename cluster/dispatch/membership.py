"""The hosts of a run or sweep while it runs: the spec's, and what wishes and files make of them."""

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

Stamp = tuple[int, int, int]
_NO_FILE = (0, 0, 0)


class Informed(Protocol):
    """Who decides what is computed on the hosts: the core of one run, or those of many."""

    def on_hosts(self, added: Sequence[Node], drained: Sequence[str], why: str) -> None:
        """Hosts are to come and to go, before they do."""

    def alarm(self, text: str) -> None:
        """Tell, and record, what is wrong with no node in particular."""


@dataclass
class Watched:
    """A host file, what it said last, and how it was found: now, and when it was read."""

    path: Path
    nodes: Mapping[str, Node]
    found: Stamp | None = None
    read: Stamp | None = None

    def at_rest(self) -> bool:
        """Whether it has changed since it was read, and stayed as it is since the last look."""
        before, self.found = self.found, _stamp(self.path)
        return self.found == before and self.found != self.read


class Membership:
    """Which hosts a run is to work on.

    Args:
        listed: the spec's hosts.
        base: the folder that its host files are relative to.
        wishes: what people wished for since it was asked last.
        answer: tells one of them what became of the wish.

    Attributes:
        nodes: the hosts now.
    """

    def __init__(
        self,
        listed: NodeList,
        base: Path,
        wishes: Callable[[], Iterable[NodeChangeRequest]],
        answer: Callable[[NodeChangeRequest, Mapping[str, object]], None],
    ) -> None:
        self.nodes = placed(listed.hosts)
        self._defaults: Defaults = listed.defaults
        self._wishes, self._answer = wishes, answer
        now = {node.host: node for node in self.nodes}
        self._files = [
            Watched(base / path, {host: now[host] for host in hosts if host in now})
            for path, hosts in listed.files
        ]

    def look(self, core: Informed, backend: Backend) -> None:
        """Take in what was wished for, and what host files say by now."""
        for wish in self._wishes():
            self._grant(wish, core, backend)
        for file in self._files:
            if file.at_rest():
                self._read(file, core, backend)

    def _grant(self, wish: NodeChangeRequest, core: Informed, backend: Backend) -> None:
        try:
            self._check(wish)
            added = self._change(wish.add, wish.drain, "asked for", core, backend)
        except (NodeError, UsageError) as error:
            self._answer(wish, {"error": error.message, "fix": error.fix})
        else:
            names = [node.host for node in added]
            self._answer(wish, {"added": names, "drained": list(wish.drain)})

    def _check(self, wish: NodeChangeRequest) -> None:
        known = {node.host: node for node in self.nodes}
        for node in self._filled(wish.add):
            if known.get(node.host) == node:
                raise UsageError(f"{node.host} is a host of this run already")
        for name in wish.drain:
            if name not in known:
                fix = did_you_mean(name, known) or f"its hosts are {', '.join(known)}"
                raise UsageError(f"{name} is no host of this run", fix=fix)

    def _read(self, file: Watched, core: Informed, backend: Backend) -> None:
        """What a host file says now; where it cannot be read, all stays as it was."""
        file.read = file.found
        try:
            fresh = {node.host: node for node in self._filled(read_hostfile(file.path))}
            before, own = file.nodes, {node.host for node in self.nodes}
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
