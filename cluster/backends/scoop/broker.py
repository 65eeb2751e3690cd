"""SCOOP's own broker in a thread, behind a gate that only the run's own messages pass."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import zmq
from scoop.broker import brokerzmq

from cluster.backends.kit import curve
from cluster.backends.kit.calls import url
from cluster.backends.kit.mailbox import Mailbox
from cluster.backends.scoop.shim import BEAT, DEAD

_TICK = 100
_FRAMES = {
    brokerzmq.TASK: 4,
    brokerzmq.REQUEST: 2,
    brokerzmq.STATUS_DONE: 3,
    brokerzmq.REPLY: 4,
    brokerzmq.INIT: 3,
}


class BrokerGate:
    """Stands for the broker's task socket.

    What is malformed or of a kind that no worker of ours sends is dropped; a worker is
    given tasks only once it was admitted; and what cannot be delivered goes to another worker
    instead of ending the broker.

    Attributes:
        orders: pairs of a word and a value, for the broker's thread, where its sockets live:
            ``listen`` at an address, ``admit``, ``bar`` and ``forget`` a worker.
        news: what came of it: ``("sent", id of a future as its pickle, worker)``, ``("listens",
            address, ports)``, ``("deaf", address, reason)`` and ``("barred", worker, b"")``, after
            all that was sent to it.
        turned: when the broker's thread was last seen at work, on the monotonic clock.
    """

    def __init__(self, broker: Any) -> None:
        self._broker, self._socket = broker, broker.task_socket
        self._ids: dict[bytes, bytes] = {}
        self._admitted: set[bytes] = set()
        self._early: set[bytes] = set()
        self._due: deque[list[bytes]] = deque()
        self._message: list[bytes] = []
        self.orders: Mailbox[tuple[str, Any]] = Mailbox()
        self.news: Mailbox[tuple[str, Any, Any]] = Mailbox()
        self._obey: dict[str, Callable[[Any], None]] = {
            "listen": self._listen,
            "admit": self._admit,
            "bar": self._bar,
            "forget": self._forget,
        }
        self.turned = time.monotonic()
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self.orders.bell, zmq.POLLIN)

    def poll(self, _timeout: int) -> bool:
        """Until a message of ours is there."""
        while True:
            self.turned = time.monotonic()
            if self._due:
                self._message = self._due.popleft()
                return True
            ready = dict(self._poller.poll(_TICK))
            if self.orders.bell in ready:
                for word, what in self.orders.take():
                    self._obey[word](what)
            elif self._socket in ready and self._take():
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
            self.news.put(("sent", self._ids.pop(frames[2], b""), frames[0]))

    def _take(self) -> bool:
        message = self._socket.recv_multipart()
        if len(message) < 2 or len(message) != _FRAMES.get(message[1], 0):
            return False
        if message[1] == brokerzmq.TASK:
            self._ids[message[3]] = message[2]
        if message[1] == brokerzmq.REQUEST and message[0] not in self._admitted:
            self._early.add(message[0])
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

    def _admit(self, worker: bytes) -> None:
        """It may be given tasks from now on."""
        self._admitted.add(worker)
        if worker in self._early:
            self._early.discard(worker)
            self._due.append([worker, brokerzmq.REQUEST])

    def _bar(self, worker: bytes) -> None:
        """Let it wait, until it is admitted again."""
        if worker in self._broker.available_workers:
            self._early.add(worker)  # it asks once, and waits
        self._forget(worker)
        self.news.put(("barred", worker, b""))

    def _forget(self, worker: bytes) -> None:
        """Give it nothing any more."""
        self._admitted.discard(worker)
        while worker in self._broker.available_workers:
            self._broker.available_workers.remove(worker)

    def _listen(self, address: str) -> None:
        sockets = (self._socket, self._broker.info_socket)
        try:
            ports = [socket.bind_to_random_port(url("tcp", address)) for socket in sockets]
        except zmq.ZMQError as error:
            self.news.put(("deaf", address, str(error)))
        else:
            self.news.put(("listens", address, ports))


class Broker:
    """A broker of SCOOP; hosts reach it where it was ordered to listen, the origin by ``place``.

    Args:
        secret: of the run.

    Attributes:
        context: of ZeroMQ, outside of which nobody finds ``place``.
    """

    place = "inproc://scoop"

    def __init__(self, secret: str) -> None:
        self._broker = brokerzmq.Broker(f"{self.place}-task", f"{self.place}-info")
        self.context = self._broker.context
        curve.keep(self.context, secret)
        for socket in (self._broker.task_socket, self._broker.info_socket):
            curve.serve(socket, secret, BEAT, DEAD)
        self.gate = self._broker.task_socket = BrokerGate(self._broker)
        self._thread = threading.Thread(target=self._broker.run, daemon=True)
        self._thread.start()

    def works(self, patience: float) -> bool:
        """Whether it was at work within so many seconds."""
        return self._thread.is_alive() and time.monotonic() - self.gate.turned < patience
