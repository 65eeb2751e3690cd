"""The driver: a process of its own with SCOOP's broker, and an origin that never works itself.

Beside what every driver is told, it is told ``{"listen": address}``, ``{"admit": worker}``,
``{"left": worker, "reason": text}`` and ``{"revoke": [ids]}``, and tells ``{"listens": address,
"ports": [...]}``, ``{"deaf": address, "reason": text}``, ``{"sent": [ids], "worker": name}``, and
``{"kept": [ids], "worker": name}`` of tasks whose outcomes the host's agent will tell by itself.
"""

from __future__ import annotations

import json
import os
import selectors
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import zmq
from scoop import _control, futures

from cluster.backends.driver import connect
from cluster.backends.scoop import shim
from cluster.backends.scoop.broker import Broker
from cluster.backends.scoop.job import draw
from cluster.backends.scoop.seal import SealedPickle
from cluster.hosts.jsonlines import Connection
from cluster.hosts.process_tree import die_with_parent

_BEAT = 1.0
_TICK = 200
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


class Origin:
    """What is told and what is answered.

    Args:
        setup: ``key``.
        wire: to the parent.
        selector: watches it.
    """

    def __init__(
        self, setup: Mapping[str, Any], wire: Connection, selector: selectors.BaseSelector
    ) -> None:
        shim.patch(setup["key"], _ORIGIN)
        self._sealed = SealedPickle(setup["key"])
        self._wire, self._selector = wire, selector
        self._broker = Broker(setup["key"])
        self._gate = self._broker.gate
        self._waiting: dict[int, list[Any]] = {}
        self._open: dict[bytes, Batch] = {}
        self._workers: set[str] = set()
        self._left: dict[str, str] = {}
        self._beat = 0.0
        self._flowed = time.monotonic()
        shim.bootstrap_origin(self._broker.place)

    def serve(self) -> None:
        """Until the parent ends or says so, or the broker is of no use."""
        queue = _control.execQueue
        # Never ask for tasks: an origin that works is deaf meanwhile.
        queue.lowwatermark = queue.highwatermark = -1.0
        poller = zmq.Poller()
        for source in (queue.socket.socket.socket, self._selector, self._gate.news.bell):
            poller.register(source, zmq.POLLIN)
        while not self._wire.ended and not self._wire.wrong:
            for message in self._wire.messages():
                if "end" in message:
                    return
                self._hear(message)
            queue.updateQueue()
            self._hear_gate()
            self._take_in()
            self._hand_out()
            queue.flush()
            self._beat_or_end()
            self._wire.send()
            poller.poll(_TICK)
            for key, mask in self._selector.select(0):
                key.data(mask)

    def _hear(self, message: Mapping[str, Any]) -> None:
        if "task" in message:
            self._waiting[int(message["task"][0])] = message["task"]
        elif "listen" in message:
            self._gate.orders.put(("listen", message["listen"]))
        elif "admit" in message:
            self._workers.add(message["admit"])
            self._gate.orders.put(("admit", message["admit"].encode()))
        elif "bar" in message:
            self._workers.discard(message["bar"])
            self._gate.orders.put(("bar", message["bar"].encode()))
        elif "left" in message:
            self._lose_worker(message["left"], message["reason"])
        elif "revoke" in message:
            for number in self._waiting.keys() & set(message["revoke"]):
                del self._waiting[number]
                self._lose(number, "revoked before it was begun")

    def _hear_gate(self) -> None:
        for word, what, more in self._gate.news.take():
            if word == "sent":
                self._on_sent(what, more.decode())
            elif word == "barred":
                self._wire.queue({"barred": what.decode()})
            elif word == "listens":
                self._wire.queue({"listens": what, "ports": more})
            else:
                self._wire.queue({"deaf": what, "reason": more})

    def _on_sent(self, name: bytes, worker: str) -> None:
        batch = self._open.get(name)
        if batch is None:
            return
        batch.worker = worker
        if worker in self._left:
            self._drop(name, self._left[worker])
        else:
            self._wire.queue({"sent": batch.ids, "worker": worker})

    def _take_in(self) -> None:
        """Pass on what came back."""
        for name, batch in tuple(self._open.items()):
            if not batch.future.isDone:
                continue
            answer = _answer(batch.future)
            for outcome in answer.get("outcomes", ()):
                self._wire.queue({"outcome": outcome})
            if answer.get("left"):
                self._wire.queue({"kept": answer["left"], "worker": batch.worker})
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
            self._open[self._sealed.dumps(future.id)] = Batch(ids, future)

    def _lose_worker(self, worker: str, reason: str) -> None:
        """It is gone, with what it had."""
        self._left[worker] = reason
        self._workers.discard(worker)
        self._gate.orders.put(("forget", worker.encode()))
        for name, batch in tuple(self._open.items()):
            if batch.worker == worker:
                self._drop(name, reason)

    def _drop(self, name: bytes, reason: str | None) -> None:
        """Have no more to do with a batch; with a reason, its tasks are lost."""
        batch = self._open.pop(name)
        for number in batch.ids if reason is not None else ():
            self._lose(number, reason or "")
        batch.future._delete()

    def _lose(self, number: int, reason: str) -> None:
        self._wire.queue({"lost": number, "reason": reason})

    def _beat_or_end(self) -> None:
        """Say that all is well; a broker that is of no use ends this process."""
        now = time.monotonic()
        if self._flows():
            self._flowed = now
        if now - self._flowed > _STUCK or not self._broker.works(_STUCK):
            sys.stderr.write(f"SCOOP's broker has passed nothing on for {_STUCK:g} s\n")
            sys.stderr.flush()
            os._exit(1)
        if now - self._beat >= _BEAT:
            self._beat = now
            self._wire.queue({"beat": now})

    def _flows(self) -> bool:
        """Whether no batch waits for a worker while a worker waits for a batch."""
        busy = {batch.worker for batch in self._open.values()}
        return "" not in busy or not self._workers - busy


def _answer(future: Any) -> dict[str, Any]:
    if future.exceptionValue is not None:
        return {"lost": f"SCOOP: {future.exceptionValue!r}"}
    answer: dict[str, Any] = json.loads(future.resultValue)
    return answer


def main() -> None:
    """Serve until the parent ends, or says so. Started by the dispatcher, never by hand."""
    die_with_parent()
    with selectors.DefaultSelector() as selector:
        wire = connect(selector)
        while not wire.ended and not wire.has_messages:
            for key, mask in selector.select(_BEAT):
                key.data(mask)
        if wire.has_messages:
            futures._startup(Origin(wire.next()["setup"], wire, selector).serve)
        wire.send()
    # SCOOP's exit handlers wait without end.
    os._exit(0)


if __name__ == "__main__":
    main()
