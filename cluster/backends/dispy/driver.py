"""The driver: the process with dispy's client, which may die without harm.

Every task that it is given is answered once, by an outcome or as lost. An outcome that arrives
after that is passed on too, as a late copy.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.backends.dispy.client import Client, Event
from cluster.backends.dispy.probe import Place
from cluster.backends.dispy.seal import Seal
from cluster.backends.kit.carry import Carrier, carry
from cluster.common.errors import EngineError

# Seconds between checks of a node, and how many in a row must fail before it counts as unreachable:
# its host may be well, and a firewall between its port and this machine.
_LOOK, _DEAF = 2.0, 3
_UNREACHED = "its dispynode cannot be reached from here: does a firewall let TCP through?"
_LOST = "dispy lost its node"


@dataclass
class HostNode:
    """The driver's view of a host's node.

    Attributes:
        name: of the host.
        place: where its node listens.
        jobs: the most jobs that it takes at a time.
        up: it has accepted this client.
        lost: dispy has given it up. It is useless then: it still holds the computation that it had
            of us, and refuses another.
        waiting: tasks that were not sent to it yet.
        out: ids of tasks that were sent to it, without an answer so far.
    """

    name: str
    place: Place
    jobs: int
    up: bool = False
    lost: bool = False
    waiting: deque[Sequence[Any]] = field(default_factory=deque)
    out: set[int] = field(default_factory=set)


class DispyDriver(Carrier):
    """The carrier of tasks over dispy.

    Args:
        setup: the ``secret`` of the run.
    """

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self._seal = Seal(str(setup["secret"]))
        self._client = Client(self._seal)
        # By address, which is how dispy identifies nodes.
        self._nodes: dict[str, HostNode] = {}
        self._news: list[Mapping[str, Any]] = []
        self._on: dict[str, Callable[[Event], None]] = {
            "up": self._on_up,
            "down": self._on_down,
            "useless": self._on_useless,
            "answer": self._on_answer,
            "lost": self._on_lost,
        }
        self.wake = self._client.events.bell

    # -- messages of the dispatcher ---------------------------------------------------------------

    def join(self, told: Mapping[str, Any]) -> None:
        """Use a host's node, replacing any of the same name.

        Args:
            told: ``name``, ``address``, ``port``, ``jobs`` (the most at a time), and ``here``, our
                own address as the node sees it.
        """
        name, address = str(told["name"]), str(told["address"])
        twin = self._nodes.get(address)
        if twin is not None and twin.name != name:
            reason = f"dispy tells nodes apart by their address, and {twin.name} has that of {name}"
            self._say({"down": name, "reason": reason})
            return
        if twin is not None:
            self._lose(twin, "its node was started anew")
        place = Place(address, int(told["port"]), self._seal)
        self._nodes[address] = HostNode(name, place, int(told["jobs"]))
        try:
            self._client.add(address, place.port, int(told["jobs"]), str(told["here"]))
        except OSError as error:
            self._say({"down": name, "reason": f"nothing can listen at {told['here']}: {error}"})
        else:
            self._watch(self._nodes[address])

    def leave(self, name: str, reason: str) -> None:
        """Forget a host's node; its tasks are lost."""
        node = self._named(name)
        if node is not None:
            self._lose(node, reason)
            del self._nodes[node.place.address]
            self._client.remove(node.place.address)

    def send(self, task: Sequence[Any], name: str | None) -> None:
        """Send a task to a host's node, or keep it until the node can take another job."""
        node = self._named(name or "")
        if node is None or not node.up:
            self._say({"lost": task[0], "reason": "its node is not there"})
        else:
            node.waiting.append(task)
            self._send(node)

    def revoke(self, ids: Sequence[int]) -> None:
        """Drop those of the tasks that were not sent; the others are the agents' to revoke."""
        for node in self._nodes.values():
            for task in [task for task in node.waiting if task[0] in ids]:
                node.waiting.remove(task)
                self._say({"lost": task[0], "reason": "revoked before it was begun"})

    # -- reports of dispy -------------------------------------------------------------------------

    def tend(self) -> list[Mapping[str, Any]]:
        """Process dispy's events, and return the messages that follow from them."""
        for event in self._client.events.take():
            self._on[event.kind](event)
        news, self._news = self._news, []
        return news

    def _on_up(self, event: Event) -> None:
        node = self._nodes.get(event.address)
        if node is not None:
            node.up, node.lost = True, False
            self._say({"up": node.name, "slots": node.jobs, "reason": "ready"})

    def _on_down(self, event: Event) -> None:
        node = self._nodes.get(event.address)
        if node is not None and node.up:
            node.lost = True
            self._lose(node, _LOST)
            self._say({"down": node.name, "reason": _LOST})

    def _on_answer(self, event: Event) -> None:
        self._settle(event)
        self._say({"outcome": json.loads(event.text)})

    def _on_lost(self, event: Event) -> None:
        if self._settle(event):
            self._say({"lost": int(event.name), "reason": event.text})

    def _settle(self, event: Event) -> bool:
        """Mark a task as answered, and send its node the next one; whether it was still out."""
        number = int(event.name)
        for node in self._nodes.values():
            if number in node.out:
                node.out.discard(number)
                self._send(node)
                return True
        return False

    # -- inside -----------------------------------------------------------------------------------

    def _send(self, node: HostNode) -> None:
        """Send as many tasks as the node takes at a time; it would refuse more."""
        while node.waiting and node.up and len(node.out) < node.jobs:
            task = node.waiting.popleft()
            if self._client.submit(str(task[0]), node.place.address, json.dumps(task)):
                node.out.add(task[0])
            else:
                self._say({"lost": task[0], "reason": _LOST})

    def _lose(self, node: HostNode, reason: str) -> None:
        node.up = False
        for number in (*node.out, *(task[0] for task in node.waiting)):
            self._say({"lost": number, "reason": reason})
        node.out.clear()
        node.waiting.clear()

    def _watch(self, node: HostNode) -> None:
        """Watch a node from a thread, and report if it is unusable; dispy never notices that."""

        def look() -> None:
            failures = 0
            while self._nodes.get(node.place.address) is node:
                time.sleep(_LOOK)
                try:
                    node.place.info()
                    failures = 0
                except EngineError:
                    failures += 1
                if node.lost or failures >= _DEAF:
                    words = _LOST if node.lost else _UNREACHED
                    self._client.events.put(Event("useless", node.place.address, text=words))

        threading.Thread(target=look, daemon=True).start()

    def _on_useless(self, event: Event) -> None:
        node = self._nodes.get(event.address)
        if node is not None:
            self._say({"useless": node.name, "reason": event.text})

    def _named(self, name: str) -> HostNode | None:
        return next((node for node in self._nodes.values() if node.name == name), None)

    def _say(self, message: Mapping[str, Any]) -> None:
        self._news.append(message)


def main() -> None:
    """Serve until the parent ends. Started by the dispatcher, never by hand."""
    carry(DispyDriver)


if __name__ == "__main__":
    main()
