"""The driver: SCOOP's broker, and an origin that submits futures but never draws itself.

A ``host`` message to it names a SCOOP worker, ``{"name": text, "shut": whether it gets no tasks
now}``; or an address at which the broker has to listen for workers, ``{"listen": address}``. Beside
the messages of every driver, it sends ``{"listens": address, "ports": [...]}``, ``{"deaf": address,
"reason": text}``, ``{"sent": [ids], "worker": name}``, ``{"barred": worker}`` once that worker gets
no more tasks, and ``{"kept": [ids], "worker": name}`` for tasks whose outcomes the host's agent
will send to the dispatcher itself.
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

# Seconds that a batch and an idle worker may both wait before the broker counts as stuck: it brings
# them together within milliseconds, or not at all. A worker that hangs is noticed sooner.
_STUCK = 15.0
_ORIGIN = "origin"
# The most tasks in one future. Only short tasks ever wait here in such numbers.
_MOST_TOGETHER = 128


@dataclass
class Batch:
    """Tasks that travel together, as one future of SCOOP.

    Attributes:
        ids: of the tasks.
        future: SCOOP's.
        worker: the one that the broker gave it to; empty: none so far.
    """

    ids: list[int]
    future: Any
    worker: str = ""


class Origin(Carrier):
    """The carrier of tasks over SCOOP, which takes this process for its origin.

    Args:
        setup: the ``secret`` of the run.
    """

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self._broker = Broker(setup["secret"])
        shim.patch(setup["secret"], _ORIGIN, self._broker.context)
        self._gate = self._broker.gate
        # Tasks that no worker is free for: kept here, where a revoked one can still be dropped.
        self._waiting: dict[int, Sequence[Any]] = {}
        # Batches without an answer, by the pickled ids of their futures.
        self._open: dict[bytes, Batch] = {}
        self._workers: set[str] = set()
        # Workers that have left, and why. A batch may yet be reported as sent to one of them.
        self._left: dict[str, str] = {}
        self._news: list[Mapping[str, Any]] = []
        # When no batch and idle worker were last seen to wait for each other.
        self._flowed = time.monotonic()
        self._on: dict[str, Callable[[Any, Any], None]] = {
            "sent": self._on_sent,
            "barred": lambda worker, _: self._say({"barred": worker.decode()}),
            "listens": lambda address, ports: self._say({"listens": address, "ports": ports}),
            "deaf": lambda address, reason: self._say({"deaf": address, "reason": reason}),
        }
        shim.bootstrap_origin(self._broker.place)
        # SCOOP starts normally; its root task switches back here at once, and never ends.
        futures._startup(greenlet.getcurrent().switch)
        self._queue = _control.execQueue
        # Never fetch tasks: SCOOP is single-threaded, and an origin that draws reads no answers.
        self._queue.lowwatermark = self._queue.highwatermark = -1.0
        self._socket = self._queue.socket.socket
        self._bells = select.epoll()
        for bell in (self._gate.news.bell, self._socket.getsockopt(zmq.FD)):
            self._bells.register(bell, select.EPOLLIN)
        self.wake = self._bells.fileno()

    # -- messages of the dispatcher ---------------------------------------------------------------

    def join(self, host: Mapping[str, Any]) -> None:
        """Listen at an address, or use, or stop using, a worker.

        Args:
            host: either form of the ``host`` message, see the module.
        """
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
        """Forget a worker; its batches are lost."""
        self._left[name] = reason
        self._workers.discard(name)
        self._gate.orders.put(("forget", name.encode()))
        for batch_name, batch in tuple(self._open.items()):
            if batch.worker == name:
                self._drop(batch_name, reason)

    def send(self, task: Sequence[Any], name: str | None) -> None:
        """Keep a task until a worker is free; which one, SCOOP's broker decides."""
        self._waiting[int(task[0])] = task

    def revoke(self, ids: Sequence[int]) -> None:
        """Drop those of the tasks that wait here; the others are the agents' to revoke."""
        for number in self._waiting.keys() & set(ids):
            del self._waiting[number]
            self._lose(number, "revoked before it was begun")

    # -- SCOOP's answers --------------------------------------------------------------------------

    def tend(self) -> list[Mapping[str, Any]]:
        """Read SCOOP's answers and the broker's news, submit what waits, and report all of it.

        Raises:
            RuntimeError: the broker is stuck.
        """
        self._queue.updateQueue()
        for word, what, more in self._gate.news.take():
            self._on[word](what, more)
        self._take_in()
        self._hand_out()
        self._queue.flush()
        if self._socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            # ZeroMQ's descriptor is edge-triggered, and sending may have consumed the edge of a
            # message that has arrived meanwhile: wake this loop again.
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
        """Report the outcomes in finished futures."""
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
        """Submit one future for each idle worker, with an equal share of the tasks that wait."""
        # A batch that the broker has not placed yet will take one of the idle workers.
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
        """Forget a batch; if there is a reason, its tasks are lost."""
        batch = self._open.pop(name)
        for number in batch.ids if reason is not None else ():
            self._lose(number, reason or "")
        batch.future._delete()  # SCOOP keeps every future until it is deleted

    def _lose(self, number: int, reason: str) -> None:
        self._say({"lost": number, "reason": reason})

    def _say(self, message: Mapping[str, Any]) -> None:
        self._news.append(message)

    def _end_if_stuck(self) -> None:
        """End this process, by an exception, if its broker is stuck; the engine starts another.

        Raises:
            RuntimeError: it is.
        """
        now = time.monotonic()
        if self._flows():
            self._flowed = now
        if now - self._flowed > _STUCK or not self._broker.works(_STUCK):
            raise RuntimeError(f"SCOOP's broker has passed nothing on for {_STUCK:g} s")

    def _flows(self) -> bool:
        """Whether the broker has nothing to do: no batch waits, or no worker is idle."""
        busy = {batch.worker for batch in self._open.values()}
        return "" not in busy or not self._workers - busy


def _name(future: Any) -> bytes:
    """The id of a future as SCOOP sends it to the broker: the same bytes, so they can be a key."""
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
