"""SCOOP's own broker in a thread, behind a gate that only the run's own messages pass."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any

import zmq
from scoop.broker import brokerzmq

from cluster.backends.scoop.seal import Forged, Stamps

_TICK = 100
#: Stands in the place of a future's id where a host was shut; all sent before stands before it.
SHUT = b"shut"
_FRAMES = {
    brokerzmq.TASK: 4,
    brokerzmq.REQUEST: 2,
    brokerzmq.STATUS_DONE: 3,
    brokerzmq.REPLY: 4,
    brokerzmq.INIT: 3,
}


class Gate:
    """Stands for the broker's task socket.

    What is forged, malformed or of a kind that no worker of ours sends is dropped; what cannot be
    delivered goes to another worker instead of ending the broker.

    Attributes:
        sent: (id of a future as its pickle, name of a worker) of each task that left; for others.
    """

    def __init__(self, broker: Any, key: str) -> None:
        self._broker, self._socket = broker, broker.task_socket
        self._stamps = Stamps(key)
        self._ids: dict[bytes, bytes] = {}
        self._orders: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self.sent: SimpleQueue[tuple[bytes, bytes]] = SimpleQueue()
        self._message: list[bytes] = []
        self._closed: set[bytes] = set()
        self._parked: list[bytes] = []
        self._asking: list[bytes] = []

    def order(self, word: str, what: Any) -> None:
        """Have something done in the broker's thread, where its sockets live."""
        self._orders.put((word, what))

    def poll(self, _timeout: int) -> bool:
        """Until a message of ours is there."""
        while True:
            self._obey()
            if self._asking:
                self._message = [self._asking.pop(), brokerzmq.REQUEST]
                return True
            if self._socket.poll(_TICK) and self._take():
                return True

    def recv_multipart(self) -> list[bytes]:
        """The message that was polled."""
        return self._message

    def send_multipart(self, frames: Sequence[bytes]) -> None:
        """Deliver it, to another worker if need be."""
        try:
            self._socket.send_multipart(frames)
        except zmq.ZMQError:
            if frames[1] == brokerzmq.TASK:
                self._again(frames[2])
            return
        if frames[1] == brokerzmq.TASK:
            self.sent.put((self._ids.pop(frames[2], b""), frames[0]))

    def _take(self) -> bool:
        try:
            message = self._stamps.open(self._socket.recv_multipart())
        except Forged:
            return False
        if len(message) < 2 or len(message) != _FRAMES.get(message[1], 0):
            return False
        if message[1] == brokerzmq.TASK:
            self._ids[message[3]] = message[2]
        if message[1] == brokerzmq.REQUEST and message[0].startswith(tuple(self._closed)):
            self._parked.append(message[0])  # it asks once, and waits
            return False
        self._message = message
        return True

    def _again(self, task: bytes) -> None:
        """The worker is dead."""
        number = self._ids.get(task, b"")
        if self._broker.available_workers:
            self.send_multipart([self._broker.available_workers.popleft(), brokerzmq.TASK, task])
        else:
            self._broker.unassigned_tasks.appendleft((number, task))

    def _obey(self) -> None:
        while True:
            try:
                word, what = self._orders.get_nowait()
            except Empty:
                return
            getattr(self, f"_{word}")(what)

    def _forget(self, prefix: bytes) -> None:
        """Give nothing more to workers whose names begin so."""
        self._parked = [each for each in self._parked if not each.startswith(prefix)]
        for worker in self._idle(prefix):
            self._broker.available_workers.remove(worker)

    def _shut(self, prefix: bytes) -> None:
        """Let the workers whose names begin so wait."""
        self._closed.add(prefix)
        for worker in self._idle(prefix):
            self._broker.available_workers.remove(worker)
            self._parked.append(worker)
        self.sent.put((SHUT, prefix))

    def _open(self, prefix: bytes) -> None:
        """Let them have tasks again."""
        self._closed.discard(prefix)
        self._asking += [each for each in self._parked if each.startswith(prefix)]
        self._parked = [each for each in self._parked if not each.startswith(prefix)]

    def _idle(self, prefix: bytes) -> list[bytes]:
        return [each for each in self._broker.available_workers if each.startswith(prefix)]


class Broker:
    """A broker of SCOOP that listens at one address.

    Args:
        address: this machine's, as the hosts see it.
        key: of the run.
    """

    def __init__(self, address: str, key: str) -> None:
        place = f"tcp://{address}:*"
        self._broker = brokerzmq.Broker(place, place, hostname=address)
        self.gate = self._broker.task_socket = Gate(self._broker, key)
        self.ports: tuple[int, int] = self._broker.getPorts()
        self._thread = threading.Thread(target=self._broker.run, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it still passes messages on."""
        return self._thread.is_alive()
