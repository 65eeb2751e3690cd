"""The driver: a process of its own with SCOOP's broker, and an origin that never works itself.

To the origin a host is a SCOOP worker, ``{"name": text, "shut": whether it gets nothing now}``, or,
before there are any, a place where the broker is to listen for some, ``{"listen": address}``.
Beside what every driver tells, it tells ``{"listens": address, "ports": [...]}``, ``{"deaf":
address, "reason": text}``, ``{"sent": [ids], "worker": name}``, ``{"barred": worker}`` once that
gets nothing any more, and ``{"kept": [ids], "worker": name}`` of tasks whose outcomes the host's
agent will tell by itself.
"""

from __future__ import annotations

import json
import select
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import greenlet
import zmq
from scoop import _control, futures
from scoop._comm import scoopzmq

from cluster.backends.kit.carry import Carrier, carry
from cluster.backends.scoop import shim
from cluster.backends.scoop.broker import Broker
from cluster.backends.scoop.job import draw

# An idle worker and a task that waits for one come together within a moment, or never will; a
# worker that is stopped is noticed earlier, by whoever started it.
_STUCK = 15.0
_ORIGIN = "origin"
# Tasks wait here only where they are short; then so many at most travel together.
_MOST_TOGETHER = 128


@dataclass
class Batch:
    """Tasks that travel together, as one future of SCOOP.

    Attributes:
        ids: of the tasks.
        worker: which the broker gave it to; empty before.
    """

    ids: list[int]
    future: Any
    worker: str = ""


class Origin(Carrier):
    """What carries tasks over SCOOP.

    Args:
        setup: ``secret``, of the run.
    """

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self._broker = Broker(setup["secret"])
        shim.patch(setup["secret"], _ORIGIN, self._broker.context)
        self._gate = self._broker.gate
        self._waiting: dict[int, Sequence[Any]] = {}
        self._open: dict[bytes, Batch] = {}
        self._workers: set[str] = set()
        self._left: dict[str, str] = {}
        self._news: list[Mapping[str, Any]] = []
        self._flowed = time.monotonic()
        self._on: dict[str, Callable[[Any, Any], None]] = {
            "sent": self._on_sent,
            "barred": lambda worker, _: self._say({"barred": worker.decode()}),
            "listens": lambda address, ports: self._say({"listens": address, "ports": ports}),
            "deaf": lambda address, reason: self._say({"deaf": address, "reason": reason}),
        }
        shim.bootstrap_origin(self._broker.place)
        # SCOOP starts as ever; its first task comes back here at once, and never ends.
        futures._startup(greenlet.getcurrent().switch)
        self._queue = _control.execQueue
        # Never ask for tasks: an origin that works is deaf meanwhile.
        self._queue.lowwatermark = self._queue.highwatermark = -1.0
        self._socket = self._queue.socket.socket
        self._bells = select.epoll()
        for bell in (self._gate.news.bell, self._socket.getsockopt(zmq.FD)):
            self._bells.register(bell, select.EPOLLIN)
        self.wake = self._bells.fileno()

    # -- what the dispatcher says -----------------------------------------------------------------

    def join(self, host: Mapping[str, Any]) -> None:
        """See the module."""
        if "listen" in host:
            self._gate.orders.put(("listen", host["listen"]))
            return
        worker = str(host["name"])
        if host["shut"]:
            self._workers.discard(worker)
        else:
            self._workers.add(worker)
        self._gate.orders.put(("bar" if host["shut"] else "admit", worker.encode()))
        self._say({"up": worker, "slots": 1, "reason": "ready"})

    def leave(self, name: str, reason: str) -> None:
        """See Carrier."""
        self._left[name] = reason
        self._workers.discard(name)
        self._gate.orders.put(("forget", name.encode()))
        for batch_name, batch in tuple(self._open.items()):
            if batch.worker == name:
                self._drop(batch_name, reason)

    def send(self, task: Sequence[Any], name: str | None) -> None:
        """See Carrier."""
        self._waiting[int(task[0])] = task

    def revoke(self, ids: Sequence[int]) -> None:
        """See Carrier."""
        for number in self._waiting.keys() & set(ids):
            del self._waiting[number]
            self._lose(number, "revoked before it was begun")

    # -- what SCOOP says --------------------------------------------------------------------------

    def tend(self) -> list[Mapping[str, Any]]:
        """See Carrier."""
        self._queue.updateQueue()
        for word, what, more in self._gate.news.take():
            self._on[word](what, more)
        self._take_in()
        self._hand_out()
        self._queue.flush()
        if self._socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            # To send takes in what has come, too, and its descriptor then says no more of that.
            self._gate.news.ring()
        self._end_if_stuck()
        news, self._news = self._news, []
        return news

    def _on_sent(self, name: bytes, by: bytes) -> None:
        batch, worker = self._open.get(name), by.decode()
        if batch is None:
            return
        batch.worker = worker
        if worker in self._left:
            self._drop(name, self._left[worker])
        else:
            self._say({"sent": batch.ids, "worker": worker})

    def _take_in(self) -> None:
        """Pass on what came back."""
        for name, batch in tuple(self._open.items()):
            if not batch.future.isDone:
                continue
            answer = _answer(batch.future)
            for outcome in answer.get("outcomes", ()):
                self._say({"outcome": outcome})
            if answer.get("left"):
                self._say({"kept": answer["left"], "worker": batch.worker})
            self._drop(name, answer.get("lost"))

    def _hand_out(self) -> None:
        """Give every idle worker its share of what waits, as one future."""
        idle = len(self._workers) - sum(
            batch.worker in self._workers or not batch.worker for batch in self._open.values()
        )
        while self._waiting and idle > 0:
            idle -= 1
            share = -(-len(self._waiting) // len(self._workers))
            ids = list(self._waiting)[: min(share, _MOST_TOGETHER)]
            tasks = [self._waiting.pop(number) for number in ids]
            future = futures.submit(draw, json.dumps(tasks, separators=(",", ":")))
            self._open[_name(future)] = Batch(ids, future)

    # -- inside -----------------------------------------------------------------------------------

    def _drop(self, name: bytes, reason: str | None) -> None:
        """Have no more to do with a batch; with a reason, its tasks are lost."""
        batch = self._open.pop(name)
        for number in batch.ids if reason is not None else ():
            self._lose(number, reason or "")
        batch.future._delete()

    def _lose(self, number: int, reason: str) -> None:
        self._say({"lost": number, "reason": reason})

    def _say(self, message: Mapping[str, Any]) -> None:
        self._news.append(message)

    def _end_if_stuck(self) -> None:
        """A broker that is of no use ends this process; another one is started."""
        now = time.monotonic()
        if self._flows():
            self._flowed = now
        if now - self._flowed > _STUCK or not self._broker.works(_STUCK):
            raise RuntimeError(f"SCOOP's broker has passed nothing on for {_STUCK:g} s")

    def _flows(self) -> bool:
        """Whether no batch waits for a worker while a worker waits for a batch."""
        busy = {batch.worker for batch in self._open.values()}
        return "" not in busy or not self._workers - busy


def _name(future: Any) -> bytes:
    """As SCOOP tells its broker of a future."""
    name: bytes = scoopzmq.pickle.dumps(future.id, scoopzmq.pickle.HIGHEST_PROTOCOL)
    return name


def _answer(future: Any) -> dict[str, Any]:
    if future.exceptionValue is not None:
        return {"lost": f"SCOOP: {future.exceptionValue!r}"}
    answer: dict[str, Any] = json.loads(future.resultValue)
    return answer


def main() -> None:
    """Serve until the parent ends. Started by the dispatcher, never by hand."""
    carry(Origin)


if __name__ == "__main__":
    main()
