"""The driver: a process of its own in which dispy's client lives, and may die without harm.

It is told of hosts and tasks and tells what became of them, over the socket that its parent made.
Every task it was given is answered once: by its outcome, or as lost. What comes later still is
passed on too, as late.
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

# A node that so many looks in a row did not find cannot be reached, whatever its host says.
_LOOK, _DEAF = 2.0, 3
_UNREACHED = "its dispynode cannot be reached from here: does a firewall let TCP through?"
_LOST = "dispy lost its node"


@dataclass
class HostNode:
    """A host's node, as the driver knows it.

    Attributes:
        name: of the host.
        place: where its node listens.
        jobs: that it takes at a time.
        up: it has accepted us.
        lost: dispy has given it up. It still holds what it had of us, and turns us away.
        waiting: tasks that it has not been sent yet.
        out: ids of tasks that it was sent and has not answered.
    """

    name: str
    place: Place
    jobs: int
    up: bool = False
    lost: bool = False
    waiting: deque[Sequence[Any]] = field(default_factory=deque)
    out: set[int] = field(default_factory=set)


class DispyDriver(Carrier):
    """What carries tasks over dispy; see :class:`cluster.backends.kit.carry.Carrier`.

    Args:
        setup: ``secret``, of the run.
    """

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self._seal = Seal(str(setup["secret"]))
        self._client = Client(self._seal)
        self._seats: dict[str, HostNode] = {}
        self._news: list[Mapping[str, Any]] = []
        self._on: dict[str, Callable[[Event], None]] = {
            "up": self._on_up,
            "down": self._on_down,
            "useless": self._on_useless,
            "answer": self._on_answer,
            "lost": self._on_lost,
        }
        self.wake = self._client.events.bell

    # -- what the parent says ---------------------------------------------------------------------

    def join(self, told: Mapping[str, Any]) -> None:
        """A host's node is ready: ``name``, ``address``, ``port``, ``jobs`` and ``here``."""
        name, address = str(told["name"]), str(told["address"])
        twin = self._seats.get(address)
        if twin is not None and twin.name != name:
            reason = f"dispy tells nodes apart by their address, and {twin.name} has that of {name}"
            self._say({"down": name, "reason": reason})
            return
        if twin is not None:
            self._lose(twin, "its node was started anew")
        place = Place(address, int(told["port"]), self._seal)
        self._seats[address] = HostNode(name, place, int(told["jobs"]))
        try:
            self._client.add(address, place.port, int(told["jobs"]), str(told["here"]))
        except OSError as error:
            self._say({"down": name, "reason": f"nothing can listen at {told['here']}: {error}"})
        else:
            self._watch(self._seats[address])

    def leave(self, name: str, reason: str) -> None:
        """See Carrier."""
        seat = self._named(name)
        if seat is not None:
            self._lose(seat, reason)
            del self._seats[seat.place.address]
            self._client.remove(seat.place.address)

    def send(self, task: Sequence[Any], name: str | None) -> None:
        """A task is to be sent to a host."""
        seat = self._named(name or "")
        if seat is None or not seat.up:
            self._say({"lost": task[0], "reason": "its node is not there"})
        else:
            seat.waiting.append(task)
            self._send(seat)

    def revoke(self, ids: Sequence[int]) -> None:
        """See Carrier."""
        for seat in self._seats.values():
            for task in [task for task in seat.waiting if task[0] in ids]:
                seat.waiting.remove(task)
                self._say({"lost": task[0], "reason": "revoked before it was begun"})

    # -- what dispy says --------------------------------------------------------------------------

    def tend(self) -> list[Mapping[str, Any]]:
        """What happened."""
        for event in self._client.events.take():
            self._on[event.kind](event)
        news, self._news = self._news, []
        return news

    def _on_up(self, event: Event) -> None:
        seat = self._seats.get(event.address)
        if seat is not None:
            seat.up, seat.lost = True, False
            self._say({"up": seat.name, "slots": seat.jobs, "reason": "ready"})

    def _on_down(self, event: Event) -> None:
        seat = self._seats.get(event.address)
        if seat is not None and seat.up:
            seat.lost = True
            self._lose(seat, _LOST)
            self._say({"down": seat.name, "reason": _LOST})

    def _on_answer(self, event: Event) -> None:
        self._settle(event)
        self._say({"outcome": json.loads(event.text)})

    def _on_lost(self, event: Event) -> None:
        if self._settle(event):
            self._say({"lost": int(event.name), "reason": event.text})

    def _settle(self, event: Event) -> bool:
        """The task is out no more; whether it was, and its host may be sent another."""
        number = int(event.name)
        for seat in self._seats.values():
            if number in seat.out:
                seat.out.discard(number)
                self._send(seat)
                return True
        return False

    # -- inside -----------------------------------------------------------------------------------

    def _send(self, seat: HostNode) -> None:
        """As many as the node takes; more would be turned away."""
        while seat.waiting and seat.up and len(seat.out) < seat.jobs:
            task = seat.waiting.popleft()
            if self._client.submit(str(task[0]), seat.place.address, json.dumps(task)):
                seat.out.add(task[0])
            else:
                self._say({"lost": task[0], "reason": _LOST})

    def _lose(self, seat: HostNode, reason: str) -> None:
        seat.up = False
        for number in (*seat.out, *(task[0] for task in seat.waiting)):
            self._say({"lost": number, "reason": reason})
        seat.out.clear()
        seat.waiting.clear()

    def _watch(self, seat: HostNode) -> None:
        """Have a node replaced that is of no use, whatever its host says: dispy never says so."""

        def look() -> None:
            failures = 0
            while self._seats.get(seat.place.address) is seat:
                time.sleep(_LOOK)
                try:
                    seat.place.info()
                    failures = 0
                except EngineError:
                    failures += 1
                if seat.lost or failures >= _DEAF:
                    words = _LOST if seat.lost else _UNREACHED
                    self._client.events.put(Event("useless", seat.place.address, text=words))

        threading.Thread(target=look, daemon=True).start()

    def _on_useless(self, event: Event) -> None:
        seat = self._seats.get(event.address)
        if seat is not None:
            self._say({"useless": seat.name, "reason": event.text})

    def _named(self, name: str) -> HostNode | None:
        return next((seat for seat in self._seats.values() if seat.name == name), None)

    def _say(self, message: Mapping[str, Any]) -> None:
        self._news.append(message)


def main() -> None:
    """Serve until the parent ends. Started by the dispatcher, never by hand."""
    carry(DispyDriver)


if __name__ == "__main__":
    main()
