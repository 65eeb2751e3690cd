"""The driver: a process of its own with SCOOP's broker, and an origin that never works itself."""

from __future__ import annotations

import json
import os
import selectors
import time
from collections.abc import Mapping
from queue import Empty
from typing import Any

import zmq
from scoop import _control, futures

from cluster.backends.driver import connect
from cluster.backends.scoop import shim
from cluster.backends.scoop.broker import SHUT, Broker
from cluster.backends.scoop.job import draw
from cluster.backends.scoop.seal import SealedPickle
from cluster.family import die_with_parent
from cluster.wire import Wire

_BEAT = 1.0
_TICK = 200
_ORIGIN = "origin"


class Origin:
    """What is told and what is answered.

    Args:
        setup: ``key`` and ``address``.
        wire: to the parent.
        selector: watches it.
    """

    def __init__(
        self, setup: Mapping[str, Any], wire: Wire, selector: selectors.BaseSelector
    ) -> None:
        shim.patch(setup["key"], _ORIGIN)
        self._sealed = SealedPickle(setup["key"])
        self._wire, self._selector = wire, selector
        self._broker = Broker(setup["address"], setup["key"])
        self._open: dict[bytes, tuple[int, Any]] = {}
        self._at: dict[bytes, bytes] = {}
        self._beat = 0.0
        wire.queue({"broker": [setup["address"], *self._broker.ports]})
        shim.bootstrap(setup["address"], self._broker.ports, origin=True)

    def serve(self) -> None:
        """Until the parent ends or says so, or the broker is of no use."""
        queue = _control.execQueue
        # Never ask for tasks: an origin that works is deaf meanwhile.
        queue.lowwatermark = queue.highwatermark = -1.0
        poller = zmq.Poller()
        poller.register(queue.socket.socket.socket, zmq.POLLIN)
        poller.register(self._selector, zmq.POLLIN)
        while not self._wire.ended and not self._wire.wrong and self._broker.alive:
            for message in self._wire.messages():
                if "end" in message:
                    return
                self._hear(message)
            queue.flush()
            queue.updateQueue()
            self._tell()
            self._wire.send()
            poller.poll(_TICK)
            for key, mask in self._selector.select(0):
                key.data(mask)

    def _hear(self, message: Mapping[str, Any]) -> None:
        if "task" in message:
            future = futures.submit(draw, json.dumps(message["task"], separators=(",", ":")))
            name = self._sealed.dumps(future.id)
            self._open[name] = int(message["task"][0]), future
        elif "left" in message:
            self._lose(message["left"].encode(), "its SCOOP worker ended")
        elif "gone" in message:
            self._lose(f"{message['gone']}:".encode(), "its host is gone")
        for word in {"shut", "open"} & message.keys():
            self._broker.gate.order(word, f"{message[word]}:".encode())

    def _tell(self) -> None:
        if time.monotonic() - self._beat >= _BEAT:
            self._beat = time.monotonic()
            self._wire.queue({"beat": self._beat})
        self._tell_sent()
        for name, (number, future) in tuple(self._open.items()):
            if future.isDone:
                self._forget(name)
                self._wire.queue(self._answer(number, future))

    def _tell_sent(self) -> None:
        while True:
            try:
                name, worker = self._broker.gate.sent.get_nowait()
            except Empty:
                return
            if name == SHUT:
                self._wire.queue({"shut": worker.decode().rpartition(":")[0]})
            elif name in self._open:
                self._at[name] = worker
                host = worker.decode().rpartition(":")[0]
                self._wire.queue({"sent": self._open[name][0], "node": host})

    def _answer(self, number: int, future: Any) -> dict[str, Any]:
        if future.exceptionValue is not None:
            return {"lost": number, "reason": f"SCOOP: {future.exceptionValue!r}"}
        answer: dict[str, Any] = json.loads(future.resultValue)
        if "outcome" in answer:
            return answer
        return {"lost": number, "reason": answer["lost"]}

    def _lose(self, prefix: bytes, reason: str) -> None:
        """Workers whose names begin so are gone, with what they had."""
        self._broker.gate.order("forget", prefix)
        self._tell_sent()
        for name in [each for each, worker in self._at.items() if worker.startswith(prefix)]:
            number, _ = self._open[name]
            self._forget(name)
            self._wire.queue({"lost": number, "reason": reason})

    def _forget(self, name: bytes) -> None:
        self._at.pop(name, None)
        _, future = self._open.pop(name)
        future._delete()


def main() -> None:
    """Serve until the parent ends, or says so. Started by the dispatcher, never by hand."""
    die_with_parent()
    with selectors.DefaultSelector() as selector:
        wire = connect(selector)
        while not wire.ended and not wire.has_messages:
            for key, mask in selector.select(_BEAT):
                key.data(mask)
        if wire.has_messages:
            try:
                origin = Origin(wire.next()["setup"], wire, selector)
            except zmq.ZMQError as error:
                wire.queue({"wrong": f"SCOOP's broker cannot listen: {error}", "fix": ""})
            else:
                futures._startup(origin.serve)
        wire.send()
    # SCOOP's exit handlers wait without end.
    os._exit(0)


if __name__ == "__main__":
    main()
